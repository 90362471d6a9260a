"""A check as one page: the verdict, each criterion, what was predicted, the phases, and what came back to the load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from analysis import plots
from analysis.opened import OpenedRun, open_run
from autoscale.check import CheckResult
from autoscale.check.criteria.criterion import QUESTIONS, Criterion
from autoscale.kube.scaler import Hpa
from autoscale.show.check_words import MARKS, clock_words, seen_and_predicted, told_in, verdict_sentences
from autoscale.show.over_time import check_over_time
from autoscale.show.pages.page import Picture, picture, write_page
from autoscale.show.pages.run_facts import (
    EventsShown,
    LatencyTable,
    events_shown,
    latency_tables,
    sent,
    slo_rows,
    stage_heads,
    stage_rows,
    when,
)
from autoscale.show.words import lasted

TONES = {"pass": "good", "fail": "bad"}


def check_page(result: CheckResult, load_run: Path | None, out: Path) -> Path:
    """Write the page of a judged check to `out`; returns the path. Raises BadInput when it cannot be written."""
    return write_page("check.html.j2", out, title=f"Check: {result.verdict}", shown=_shown(result, load_run))


@dataclass(frozen=True)
class CriterionShown:
    """One row of the verdict."""

    question: str
    mark: str
    tone: str
    sentence: str


@dataclass(frozen=True)
class LoadShown:
    """What was sent and what came back, from the load's own run directory."""

    sent: list[tuple[str, str]]
    slo: list[tuple[str, str, str, str]]
    stage_heads: tuple[str, ...]
    stages: list[tuple[str, ...]]
    told: bool  # whether the last column says what a stage tells
    latencies: list[LatencyTable]


@dataclass(frozen=True)
class CheckShown:
    """A check as the page's template takes it; rows are texts already."""

    what: str
    verdict: str
    tone: str
    when: str
    ended: str
    why: list[str]
    proofs: list[str]
    findings: list[tuple[str, str, str]]
    criteria: list[CriterionShown]
    figures: list[tuple[str, str, str]]
    basis: str
    over_time: Picture | None
    latency: Picture | None
    phases: list[tuple[str, str, str, str]]
    clock: str
    load: LoadShown | None
    unseen: list[str]
    events: EventsShown


def _shown(result: CheckResult, load_run: Path | None) -> CheckShown:
    seen = open_run(result.run_dir)
    judgement = result.judgement
    load = open_run(load_run) if load_run is not None else None
    load = None if load is None or load.table is None else load
    hpa = Hpa(result.timeline.hpa)
    return CheckShown(
        what=f"HPA {result.timeline.hpa_name} of {hpa.target_kind} {hpa.target_name}",
        verdict=result.verdict,
        tone={"PASSED": "yes", "NOT PASSED": "no"}.get(result.verdict, ""),
        when=when(seen.run),
        ended=result.ended,
        why=verdict_sentences(result),
        proofs=list(dict.fromkeys(c.proof for c in judgement.of("not_judged") if c.proof)),
        findings=list(dict.fromkeys((found.severity, found.cause, found.fix) for found in result.findings)),
        criteria=[_criterion(each) for each in judgement.criteria],
        figures=seen_and_predicted(judgement.figures, judgement.expect),
        basis=judgement.expect.basis if judgement.expect else "",
        over_time=_over_time(result, load_run),
        latency=None if load is None else _latency(result, seen, load),
        phases=list(_phases(result)),
        clock=told_in(result.rate),
        load=None if load is None else _load(load),
        unseen=list(judgement.history.unseen),
        events=events_shown(seen.run, result.rate),
    )


def _criterion(each: Criterion) -> CriterionShown:
    mark = MARKS[each.outcome]
    return CriterionShown(QUESTIONS[each.code], mark, TONES.get(each.outcome, "soft"), each.sentence)


def _over_time(result: CheckResult, load_run: Path | None) -> Picture | None:
    made = check_over_time(result, load_run)
    if made is None:
        return None
    notes = ["Signals are means over the replicas that reported; the dotted line is the HPA's target."]
    if result.judgement.history.breach_s:
        notes.append("Shaded: from when the SLO broke to when it held again.")
    return picture(made, "Load, signals and replicas while the check watched", " ".join(notes))


def _latency(result: CheckResult, seen: OpenedRun, load: OpenedRun) -> Picture | None:
    """Latencies in true seconds by when the request was due, on the clock of the other picture."""
    table = load.table
    if table is None or not table["ok"].any():
        return None
    due_s = (table["due_s"] + load.run.started_at - seen.run.started_at) * result.rate
    bounds = load.slo.bounds_s() if load.slo else None
    figure = plots.latency_over_time(table.assign(due_s=due_s), bounds, clock_words(result.rate))
    simulated = "" if result.rate == 1 else " on the simulated clock; latencies are true seconds"
    caption = f"Median and the band from the 5th to the 95th percentile, by the time the request was due{simulated}."
    return picture(figure, "Latency of the load over time", caption)


def _phases(result: CheckResult) -> Iterator[tuple[str, str, str, str]]:
    for out in result.judgement.history.scale_outs:
        for phase in out.phases:
            name = phase.name.replace("_", " ")
            yield f"{out.before} to {out.after} replicas", name, lasted(phase), phase.note


def _load(load: OpenedRun) -> LoadShown:
    return LoadShown(
        list(sent(load)),
        list(slo_rows(load)),
        stage_heads(load),
        list(stage_rows(load)),
        load.capacity is not None,
        list(latency_tables(load)),
    )
