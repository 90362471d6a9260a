"""A check on the terminal: while it runs, and its verdict."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from autoscale.check import CheckResult, WatchState
from autoscale.check.criteria.criterion import QUESTIONS
from autoscale.show.check_words import MARKS, verdict_sentences
from autoscale.show.terminal.findings import SEVERITIES
from autoscale.show.terminal.layout import bullet, plain_table
from autoscale.show.words import lasted, seconds

COLOURS = {
    "pass": "green",
    "fail": "red",
    "not_judged": "yellow",
    "PASSED": "green",
    "NOT PASSED": "red",
    "NOT PROVEN": "yellow",
}


def check_lines(result: CheckResult) -> Iterator[RenderableType]:
    """Preflight findings, phases of each scale-out, the verdict per criterion."""
    said = {(each.severity, each.code, each.cause, each.fix): each for each in result.findings}
    for finding in said.values():  # of several fields in the same words: once
        yield Text.assemble(
            (f"{finding.severity:<8}", f"bold {SEVERITIES.get(finding.severity, 'cyan')}"),
            (finding.code, "bold"),
            f"  {finding.cause}",
        )
        if finding.fix:
            yield Padding(Text(f"fix: {finding.fix}", style="green"), (0, 0, 0, 8))
    past = result.judgement.history
    for k, out in enumerate(past.scale_outs, 1):
        told = "lasted" if result.rate == 1 else "lasted (simulated)"
        made = plain_table(f"scale-out {k}: {out.before} to {out.after} replicas", told, "")
        made.columns[2].justify = "left"  # bars
        longest = max((p.so_far_s for p in out.phases), default=0.0) or 1.0
        for phase in out.phases:
            bar = "▇" * max(0, round(30 * phase.so_far_s / longest))
            made.add_row(phase.name.replace("_", " "), lasted(phase), Text(bar, "cyan"))
        yield made
    for sentence in past.unseen:
        yield bullet(sentence, "yellow")
    verdict = plain_table("criterion", "", "evidence")
    verdict.columns[2].justify = "left"
    for criterion in result.judgement.criteria:
        if criterion.outcome != "not_asked":
            mark = Text(MARKS[criterion.outcome], f"bold {COLOURS[criterion.outcome]}")
            verdict.add_row(QUESTIONS[criterion.code], mark, criterion.sentence)
    yield verdict
    if result.judgement.expect and result.judgement.expect.basis:
        yield Text(f"predicted: {result.judgement.expect.basis}", style="dim")
    yield Text(f"\n{result.verdict}: {result.ended}", style=f"bold {COLOURS[result.verdict]}")
    for sentence in verdict_sentences(result):
        yield bullet(sentence, COLOURS[result.verdict])
    for proof in dict.fromkeys(c.proof for c in result.judgement.of("not_judged") if c.proof):
        yield bullet(f"to prove it: {proof}", "yellow")


def state_line(state: WatchState) -> str:
    """The state of a running check in one line that changes only when something does."""
    metrics = ", ".join(
        f"{name.split('|')[-2] if '|' in name else name} {usage:g} of {target:g}"
        for name, (usage, target) in state.metrics.items()
    )
    said = state.hindered or metrics or "no metric yet"
    return f"  desired {state.desired}, ready {state.ready}; {said}"


def live_view(state: WatchState) -> Group:
    """The live view of a running check."""
    made = plain_table("", "")
    made.add_row("elapsed", seconds(state.elapsed_s))
    made.add_row("replicas", f"{state.ready} ready, {state.desired} desired")
    for name, (usage, target) in state.metrics.items():
        made.add_row(name, f"{usage:g} of {target:g}")
    if state.hindered:
        made.add_row("HPA", state.hindered)
    made.add_row("next HPA sync", seconds(max(0.0, state.next_sync_s - state.time_s)))
    for out in state.past.scale_outs[-1:]:
        for phase in out.phases:
            made.add_row(f"  {phase.name}", lasted(phase))
    return Group(made)
