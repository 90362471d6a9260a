"""What people see: results as tables and pictures. Nothing here prints; `autoscale.cli` does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.run import Run
    from analysis.saturation import Estimate
    from autoscale.check import CheckResult, WatchState
    from autoscale.recommend import Recommendation
    from autoscale.recommend.choice.scenario import Scenario
    from autoscale.recommend.model.predict import Prediction

HEADLINES = {
    "autoscale": ("green", "Autoscale"),
    "do_not_autoscale": ("yellow", "Do not autoscale"),
    "infeasible": ("red", "This SLO cannot be met"),
    "need_more_data": ("yellow", "More data is needed"),
}
UNITS = {"waiting": "requests waiting", "running": "requests running", "kv_usage": "of the KV cache"}
MARKS = {"pass": ("ok", "green"), "fail": ("FAIL", "red")}
SEVERITIES = {"error": "red", "warning": "yellow", "note": "cyan"}


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table whose first column is text and whose others are numbers."""
    made = Table(
        title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=False
    )
    for k, column in enumerate(columns):
        made.add_column(column, justify="left" if k == 0 else "right", overflow="fold", header_style="bold")
    return made


def seconds(value: float | None) -> str:
    """A duration: 45 ms, 1.23 s, 12 min; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    if value < 1:
        return f"{value * 1e3:.0f} ms"
    return f"{value:.3g} s" if value < 120 else f"{value / 60:.0f} min"


def number(value: float | None, form: str = ",.1f") -> str:
    """A number, or a dash when there is none."""
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def money(value: float | None) -> str:
    """A cost in the unit of the price: two decimals below 100, none above; a dash when there is none."""
    return number(value, ",.2f" if value is not None and value < 100 else ",.0f")


def _bullet(sentence: str, style: str = "") -> Table:
    """A sentence behind a dot; its further lines begin where the first does."""
    made = Table.grid(padding=(0, 1))
    made.add_column()
    made.add_column(overflow="fold")
    made.add_row(Text(" •", style), Text(sentence))
    return made


# --- recommendation --------------------------------------------------------------------------------------------------


def recommendation(result: Recommendation, *, explain: bool = False) -> Iterator[Any]:
    """The answer, the comparison, the reasons; with `explain` the path from data to number."""
    content = result.content
    colour, headline = HEADLINES[content["answer"]]
    yield Text()
    yield Panel(
        Group(*_answer_lines(content)),
        title=Text(headline, style=f"bold {colour}"),
        title_align="left",
        width=100,
    )
    rows = {
        "recommended": content["predicted"],
        "tutorial default": content["tutorial_default"],
        "standing fleet": content["static_fleet"],
        "current HPA": content["current"],
    }
    if any(rows.values()):
        yield _comparison({name: row for name, row in rows.items() if row})
        for name, row in rows.items():
            if row:
                yield Text(f"  {name}: {row['setting']}", style="dim")
    yield Text("\nWhy", style="bold")
    for reason in content["reasons"]:
        yield _bullet(reason["sentence"], colour)
    if drift := content.get("drift"):
        yield Text(f"\nThe old target: {drift['sentence']}", style="bold")
    if explain:
        yield from _path(content)


def _answer_lines(content: Mapping[str, Any]) -> Iterator[Text]:
    for metric in content["metrics"]:
        low, high = metric["interval"]
        yield Text.assemble(
            (f"averageValue {metric['averageValue']}", "bold"),
            f" {UNITS[metric['name']]} per replica   (interval {low} to {high})",
        )
        yield Text(f"  {metric['metric']}", style="dim")
    if content["answer"] == "do_not_autoscale":
        yield Text(f"Keep {content['minReplicas']} replicas standing.", style="bold")
    if content["metrics"]:
        yield Text(
            f"minReplicas {content['minReplicas']}, maxReplicas {content['maxReplicas']}, {_pace(content['behavior'])}"
        )
    yield Text(f"SLO {content['slo']['text']}   profile {content['profile']}", style="dim")
    yield Text(f"traffic {content['provenance'].get('traffic', '')}", style="dim")
    if slower := content.get("slower_than_fitted"):
        yield Text(
            f"figures for replicas {slower:.1%} slower than fitted, as slow as the run allows", style="dim"
        )
    measured = content["capacity_rps"]["measured"]
    if measured:
        knee, slo = measured["knee"], measured["slo"]
        yield Text(
            f"measured: knee {_estimate(knee)}, SLO holds up to {_estimate(slo)} per replica", style="dim"
        )


def _pace(behavior: Mapping[str, Any] | None) -> str:
    if not behavior:
        return "no behavior block"
    up, down = (behavior[key]["stabilizationWindowSeconds"] for key in ("scaleUp", "scaleDown"))
    later = f"scale-up after {up} s, " if up else ""
    return f"{later}scale-down window {down} s, one replica a minute"


def _estimate(estimate: Mapping[str, Any]) -> str:
    value, low, high = (estimate[k] for k in ("value", "low", "high"))
    if value is None:
        return f"at least {number(low, '.3g')} req/s"
    top = number(high, ".3g") if high is not None else "open"
    return f"{value:.3g} req/s ({number(low, '.3g')} to {top})"


def _comparison(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    made = table("", "SLO", "in bounds", "TTFT p99", "TPOT p99", "accelerator-h", "cost", "wasted", "flaps")
    for name, row in rows.items():
        value = {k: v["value"] if isinstance(v, Mapping) else None for k, v in row.items()}
        hours = row["accelerator_hours"]
        spread = (hours["high"] - hours["low"]) / 2 if hours["high"] is not None else 0.0
        made.add_row(
            name,
            Text("kept", "green") if row["holds"] else Text("broken", "red"),
            number(value["slo_attainment"], ".2%"),
            seconds(value["ttft_p99_s"]),
            seconds(value["tpot_p99_s"]),
            number(value["accelerator_hours"]) + (f" ±{spread:,.1f}" if spread else ""),
            money(value.get("cost")),
            number(value["wasted_scale_outs"], ".1f"),
            number(value["flaps"], ".1f"),
        )
    return made


def _path(content: Mapping[str, Any]) -> Iterator[Any]:
    yield Text("\nFrom data to number", style="bold")
    measured = content["capacity_rps"]["measured"]
    if measured:
        for line in (*measured["stages"], *measured["notes"]):
            yield _bullet(line)
    model = content["model_error"]
    yield Text(f"\nEngine model: {model['source']}")
    errors = table("quantity", "replay error (median over stages)")
    for figure, error in (model.get("replay_median_error") or {}).items():
        errors.add_row(figure, number(error, ".1%"))
    if errors.row_count:
        yield errors
    for a, b in model.get("confounded", []):
        yield Text(f"  this run cannot tell {a} from {b}: their split follows the profile's prior")
    tried = table(
        "candidates (first seed)", "margin", "accelerator-h", "wasted", "verdict", title="\nWhat was tried"
    )
    for row in content["candidates"][:25]:
        tried.add_row(
            row["setting"],
            number(row["margin"], "+.2%"),
            number(row["accelerator_hours"]),
            str(row["wasted_scale_outs"]),
            "holds" if row["holds"] else f"stopped: {row['stopped']}" if row["stopped"] else "breaks",
        )
    yield tried


# --- prediction ------------------------------------------------------------------------------------------------------


def prediction(found: Prediction) -> Iterator[Any]:
    """One replica at other lengths: capacity, a table over rates, how far it reaches, how to test it."""
    measured = found.model.shape
    head = f"prompts {found.prompt}, outputs {found.output} tokens"
    if found.model.fitted:
        head += f"; measured at {measured[0]:.0f} and {measured[1]:.0f} on average"
    yield Text("\nPrediction for one replica", style="bold")
    yield Text(head, style="dim")
    yield Text.assemble(
        ("knee       ", "bold"), _rate(found.knee), "  every second request finds the batch full"
    )
    yield Text(f"saturated  {_rate(found.saturated)}  {found.limit[0]}")
    yield Text(f"           {found.limit[1]}", style="dim")
    if found.capacity is None:
        yield Text(f"SLO        {found.slo}: {found.binds}", style="red")
    else:
        yield Text(f"SLO        {_rate(found.capacity)}  holds {found.slo}")
        yield Text(f"           {found.binds} binds first", style="dim")
    made = table(
        "req/s", "TTFT p50 s", "p95 s", "TPOT p50 ms", "p95 ms", "running", "waiting", "KV", title=""
    )
    for row in found.points.to_dict(orient="records"):
        made.add_row(
            f"{row['rate_rps']:.3g}",
            *(_spanned(row, name, 1) for name in ("ttft_p50", "ttft_p95")),
            *(_spanned(row, name, 1000) for name in ("tpot_p50", "tpot_p95")),
            number(row["running"]),
            number(row["waiting"]),
            number(row["kv_usage"], ".0%"),
        )
    yield made
    yield Text("  with 95 % intervals", style="dim")
    yield Text("\nHow far it reaches", style="bold")
    for note in found.notes:
        yield Padding(Text.assemble("• ", note), (0, 0, 0, 1))
    yield Text("\nTo test it", style="bold")
    yield Text(f" {found.verify}")


def _rate(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} req/s (95 %: {estimate.low:.3g} to {estimate.high:.3g})"


def _spanned(row: Mapping[Any, Any], name: str, scale: float) -> str:
    """A latency with its interval: 0.106 (0.092-0.12)."""
    value, low, high = (row[f"{name}_{end}"] * scale for end in ("s", "low", "high"))
    return f"{_short(value)} ({_short(low)}-{_short(high)})"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


# --- simulation ------------------------------------------------------------------------------------------------------


def outcome_table(
    content: Mapping[str, Mapping[str, Any]], scenario: Scenario, *, slo_given: bool = True
) -> Group:
    """Settings side by side: one column each; `slo_given` is false when the SLO is the profile's own."""
    made = table("", *content)
    rows = {
        "SLO": lambda f: "kept" if f["holds"] else "broken",
        "requests in bounds": lambda f: number(f["attainment"], ".2%"),
        "  95 % interval": lambda f: (
            f"{number(f['attainment_low'], '.2%')} to {number(f['attainment_high'], '.2%')}"
            if f["seeds"] > 1
            else "- (one seed)"
        ),
        "TTFT p99": lambda f: seconds(f["ttft_p99_s"]),
        "TPOT p99": lambda f: seconds(f["tpot_p99_s"]),
        "longest time over SLO": lambda f: seconds(f["longest_breach_s"]),
        "replica-hours": lambda f: number(f["replica_hours"]),
        "accelerator-hours": lambda f: number(f["accelerator_hours"]),
        "cost": lambda f: money(f["cost"]),
        "wasted scale-outs": lambda f: number(f["wasted_scale_outs"]),
        "flaps": lambda f: number(f["flaps"]),
        "lost requests": lambda f: number(f["lost_requests"]),
        "rejected (too long)": lambda f: number(f["rejected_requests"]),
    }
    for label, cell in rows.items():
        made.add_row(label, *(cell(figures) for figures in content.values()))
    plan = scenario.plan
    head = (
        f"{scenario.profile.name}, {plan.expected_requests:,.0f} requests over {plan.duration_s / 3600:.1f} h, "
        f"SLO {scenario.slo}"
    )
    if not slo_given:
        head += " (the profile's; --slo sets another)"
    return Group(Text(head, style="dim"), made)


def timeline(path: Path, target: Mapping[str, float] | None = None, title: str | None = None) -> Figure:
    """Load, signals and replicas over time of a run directory."""
    from analysis import plots, signals
    from analysis.run import read

    run = read(path)
    return plots.timeline(
        load=rates(run),
        signals=signals.fleet(run.metrics) if run.has("metrics") and len(run.metrics) else None,
        replicas=run.replicas if run.has("replicas") else None,
        target=target,
        title=title
        or f"{run.header.get('profile') or run.header.get('model') or path.name}: load, signals and replicas",
    )


def rates(run: Run, cells: int = 240) -> pd.DataFrame:
    """Offered and served requests/s over time: columns time_s, offered_rps, served_rps."""
    import numpy as np
    import pandas as pd

    rows = run.requests
    due = rows["due_s"].to_numpy(float)
    done = rows.loc[rows["status"] == "ok", "last_token_s"].dropna().to_numpy(float)
    end = max(float(due.max(initial=1.0)), float(done.max(initial=1.0)))
    edges = np.linspace(0, end, min(cells, max(10, int(end))) + 1)
    width = edges[1] - edges[0]
    return pd.DataFrame(
        {
            "time_s": edges[:-1] + width / 2,
            "offered_rps": np.histogram(due, edges)[0] / width,
            "served_rps": np.histogram(done, edges)[0] / width,
        }
    )


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG."""
    from analysis import plots

    return plots.save(figure, path)


# --- lint ------------------------------------------------------------------------------------------------------------


def findings(result: Any) -> Iterator[Any]:
    """Findings of the linter: what, where, what happens, the fix."""
    for found in result.findings:
        place = f"{found.file}:{found.line}" if found.file else "cluster"
        who = (
            f"{found.kind} {found.namespace}/{found.name}"
            if found.namespace
            else f"{found.kind} {found.name}"
        )
        yield Text.assemble(
            (f"{found.severity:<8}", f"bold {SEVERITIES[found.severity]}"), (found.code, "bold"), f"  {who}"
        )
        yield Padding(Text(f"{place}  {found.field}", style="dim"), (0, 0, 0, 8))
        yield Padding(Text(f"{found.problem} {found.consequence}"), (0, 0, 0, 8))
        yield Padding(Text(f"fix: {found.fix}", style="green"), (0, 0, 1, 8))
    for note in result.notes:
        yield Text(f"note: {note}", style="dim")
    counts = {s: sum(f.severity == s for f in result.findings) for s in SEVERITIES}
    yield Text(", ".join(f"{n} {s}{'s' if n != 1 else ''}" for s, n in counts.items()), style="bold")


# --- check -----------------------------------------------------------------------------------------------------------


def check(result: CheckResult) -> Iterator[Any]:
    """Preflight findings, phases of each scale-out, the verdict per criterion."""
    for finding in result.findings:
        yield Text.assemble(
            (f"{finding.severity:<8}", f"bold {SEVERITIES.get(finding.severity, 'cyan')}"),
            (finding.code, "bold"),
            f"  {finding.cause}",
        )
        if finding.fix:
            yield Padding(Text(f"fix: {finding.fix}", style="green"), (0, 0, 0, 8))
    past = result.judgement.history
    for k, out in enumerate(past.scale_outs, 1):
        made = table(f"scale-out {k}: {out.before} to {out.after} replicas", "seconds", "")
        made.columns[2].justify = "left"  # bars
        longest = max((p.seconds for p in out.phases if math.isfinite(p.seconds)), default=1.0)
        for phase in out.phases:
            share = phase.seconds / longest if math.isfinite(phase.seconds) and longest else 0
            made.add_row(
                phase.name.replace("_", " "),
                number(phase.seconds),
                Text("▇" * max(0, round(30 * share)), "cyan"),
            )
        yield made
    verdict = table("criterion", "", "evidence")
    verdict.columns[2].justify = "left"
    for criterion in result.judgement.criteria:
        mark, colour = MARKS.get(criterion.outcome, ("not judged", "yellow"))
        verdict.add_row(criterion.code, Text(mark, f"bold {colour}"), criterion.sentence)
    yield verdict
    passed = result.passed
    yield Text(
        f"\n{'PASSED' if passed else 'NOT PASSED'}: {result.ended}",
        style="bold green" if passed else "bold red",
    )


def check_line(state: WatchState) -> str:
    """The state of a running check in one line that changes only when something does."""
    metrics = ", ".join(
        f"{name.split('|')[-2] if '|' in name else name} {usage:g} of {target:g}"
        for name, (usage, target) in state.metrics.items()
    )
    return f"  desired {state.desired}, ready {state.ready}; {metrics or 'no metric yet'}"


def check_live(state: WatchState) -> Group:
    """The live view of a running check."""
    made = table("", "")
    made.add_row("elapsed", seconds(state.elapsed_s))
    made.add_row("replicas", f"{state.ready} ready, {state.desired} desired")
    for name, (usage, target) in state.metrics.items():
        made.add_row(name, f"{usage:g} of {target:g}")
    made.add_row("next HPA sync", seconds(max(0.0, state.next_sync_s - state.time_s)))
    for out in state.past.scale_outs[-1:]:
        for phase in out.phases:
            made.add_row(f"  {phase.name}", f"{number(phase.seconds)} s")
    return Group(made)


def check_timeline(result: CheckResult, load_run: Path) -> Figure:
    """Load, signals and replicas while a check watched, on the load's clock."""
    from analysis import plots, signals
    from analysis.run import read

    load, watched = read(load_run), read(result.run_dir)
    shift = watched.started_at - load.started_at
    replicas = watched.replicas.assign(time_s=watched.replicas["time_s"] + shift)
    seen = watched.metrics if watched.has("metrics") and len(watched.metrics) else None
    return plots.timeline(
        load=rates(load),
        signals=None if seen is None else signals.fleet(seen.assign(time_s=seen["time_s"] + shift)),
        replicas=replicas,
        target=targets(result),
        title="The scale-out as it was watched",
    )


def targets(result: CheckResult) -> dict[str, float]:
    """The HPA's averageValue per signal of ours."""
    from autoscale.kube.scaler import Hpa
    from autoscale.kube.vllm_names import signal_of

    milli = Hpa(result.timeline.hpa or {}).targets_milli()
    return {signal: value / 1000 for name, value in milli.items() if (signal := signal_of(name))}


def demo(result: Any) -> Iterator[Any]:
    """The demo's end: the recommendation, the manifest, the verdict."""
    yield from recommendation(result.recommendation)
    yield Text("\nThe manifest, ready for kubectl apply", style="bold")
    yield Text(result.manifest.strip(), style="cyan")
    yield Text(
        f"\nThe scale-out, watched on the simulated fleet (metrics of the load test from {result.collected_from})",
        style="bold",
    )
    yield from check(result.check)
    yield Text("\nFiles", style="bold")
