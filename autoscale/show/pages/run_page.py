"""A run as one page, or two runs side by side: what was sent, what came back, what the server said, what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import plots
from analysis.capacity import Capacity, analyse
from analysis.errors import AutoscaleError
from analysis.latency import Percentile, gaps_within, latencies, percentile, percentile_of_gaps
from analysis.run import Run, read, validate
from analysis.signals import SIGNALS
from analysis.slo import Slo, Verdict, evaluate, parse_slo
from analysis.steady import client_limited
from autoscale.show.pages import page
from autoscale.show.pages.page import Picture, picture, plain, span

METRICS = ("ttft", "tpot", "itl", "e2e")
MEANING = {
    "ttft": "first token after the request was due",
    "tpot": "time per output token after the first",
    "itl": "gap between streamed events",
    "e2e": "last token after the request was due",
}
PERCENTILES = (50.0, 95.0, 99.0)
SHOWN_EVENTS = 40
SCALED = ("SuccessfulRescale", "decision")  # kinds of events of the simulator and of a check
CURVE_CELLS = 60  # of a comparison over time


@dataclass(frozen=True)
class Seen:
    """A run as the page reads it; whatever is absent or unusable is None, and `missing` says why."""

    run: Run
    name: str

    @cached_property
    def table(self) -> pd.DataFrame | None:
        """Latencies per request (`analysis.latency.latencies`); None without any request."""
        return latencies(self.run.requests) if self.run.has("requests") and len(self.run.requests) else None

    @cached_property
    def gauges(self) -> pd.DataFrame | None:
        """The fleet's gauges over time."""
        return page.gauges_of(self.run)

    @cached_property
    def itl(self) -> pd.DataFrame | None:
        """Gaps between events per stage; None when nothing was streamed."""
        return self.run.itl if self.run.has("itl") and len(self.run.itl) else None

    @cached_property
    def slo(self) -> Slo | None:
        """The SLO of the header; None when there is none or it cannot be read."""
        try:
            return parse_slo(str(self.run.header["slo"])) if self.run.header.get("slo") else None
        except AutoscaleError:
            return None

    @cached_property
    def analysed(self) -> Capacity | str:
        """What the run says about one replica, or the sentence why it says nothing."""
        if self.table is None:
            return "no request was recorded"
        try:
            return analyse(self.run, self.slo)
        except AutoscaleError as error:
            return str(error)

    @cached_property
    def capacity(self) -> Capacity | None:
        """The capacity, when it could be analysed."""
        return self.analysed if isinstance(self.analysed, Capacity) else None

    @cached_property
    def stages(self) -> list[tuple[int, float, float, str]]:
        """(stage, start_s, end_s, plan) of the plan; of the requests themselves when the header has none."""
        planned = self.run.header.get("stages") or (self.run.header.get("load") or {}).get("stages") or []
        found = [
            (int(s.get("stage", k)), float(s["start_s"]), float(s["end_s"]), _plan(s))
            for k, s in enumerate(planned)
            if s.get("start_s") is not None and s.get("end_s") is not None and s["end_s"] > s["start_s"]
        ]
        if found or self.table is None:
            return found
        found = []
        for stage in sorted(self.table["stage"].unique().tolist()):
            due_s = self.table.loc[self.table["stage"] == stage, "due_s"]
            start_s, end_s = float(due_s.min()), float(due_s.max())
            found.append((int(stage), start_s, max(end_s, start_s + 1e-3), page.DASH))
        return found


def run_page(run_dir: Path, compare: Path | None, out: Path) -> Path:
    """Write the page of a run to `out`, beside it the run `compare` when given; returns the path.

    A run that lacks tables still gives a page, which says what is missing. Raises BadRun when there is no run header,
    BadInput when the page cannot be written.
    """
    seen = Seen(read(run_dir), Path(run_dir).resolve().name)
    other = None
    if compare is not None:
        second = Path(compare).resolve().name
        other = Seen(read(compare), second if second != seen.name else f"{second} (2)")
    return page.write(
        "run.html.j2",
        out,
        title=f"Run {seen.name}" + (f" against {other.name}" if other else ""),
        runs=[_content(s) for s in (seen, other) if s is not None],
        comparison=_comparison(seen, other) if other else None,
    )


def _content(seen: Seen) -> dict[str, Any]:
    run = seen.run
    capacity = seen.capacity
    return {
        "name": seen.name,
        "when": _when(run),
        "problems": [*validate(run), *_unreadable(seen)],
        "sent": list(_sent(seen)),
        "command": run.header.get("command"),
        "client": _client(seen),
        "slo": list(_slo(seen)),
        "stages": list(_stages(seen)),
        "latencies": list(_latencies(seen)),
        "failures": _failures(seen),
        "server": list(_server(seen)),
        "timeline": _timeline(seen),
        "over_time": _over_time(seen),
        "capacity": _capacity(capacity) if capacity else None,
        "no_capacity": None if capacity or run.header.get("kind") == "simulated" else seen.analysed,
        "events": _events(run),
    }


def _unreadable(seen: Seen) -> Iterator[str]:
    if seen.run.header.get("slo") and seen.slo is None:
        yield f"the SLO of the header cannot be read: {seen.run.header['slo']!r}"


# --- what was sent ---------------------------------------------------------------------------------------------------


def _when(run: Run) -> str:
    started = datetime.fromtimestamp(run.started_at, UTC)
    ended = run.header.get("ended_at")
    length = f", {span(float(ended) - run.started_at)}" if ended else ", not ended"
    return f"{run.header.get('kind', 'run')}, {started:%Y-%m-%d %H:%M:%S} UTC{length}"


def _sent(seen: Seen) -> Iterator[tuple[str, str]]:
    """What the header says about the load and its target, in words; absent keys are left out."""
    header = seen.run.header
    load, lengths, engine = (header.get(key) or {} for key in ("load", "lengths", "engine"))
    facts = {
        "target": header.get("target"),
        "endpoint": header.get("endpoint"),
        "model": header.get("model"),
        "profile": header.get("profile"),
        "load": {
            "open": "open loop: requests leave when they are due",
            "closed": "closed loop: users wait for answers",
        }.get(load.get("loop", ""), load.get("loop")),
        "arrivals": load.get("arrivals"),
        "planned requests": None
        if load.get("expected_requests") is None
        else f"{load['expected_requests']:,.0f}",
        "in flight at most": load.get("max_in_flight"),
        "prompt tokens": lengths.get("prompt_tokens"),
        "output tokens": lengths.get("output_tokens"),
        "shared prefix": f"{lengths['shared_prefix_tokens']} tokens"
        if lengths.get("shared_prefix_tokens")
        else None,
        "SLO": header.get("slo"),
        "seed": header.get("seed"),
        "engine": ", ".join(f"{name} {value}" for name, value in engine.items()),
        "load generator": ", ".join(
            f"{name} {value}" for name, value in (header.get("versions") or {}).items()
        ),
        "HPA watched": (header.get("check") or {}).get("hpa"),
    }
    for name, value in facts.items():
        if value is not None and value != "":
            yield name, str(value)


def _plan(stage: Mapping[str, Any]) -> str:
    if stage.get("rate") is not None:
        return f"{stage['rate']:g}/s"
    return f"{stage['users']} users" if stage.get("users") is not None else page.DASH


def _client(seen: Seen) -> dict[str, Any] | None:
    """The load generator's verdict on itself, or what the requests alone say; None without requests or client."""
    if seen.table is None or seen.run.header.get("kind") == "simulated":
        return None
    verdict = seen.run.header.get("client")
    if isinstance(verdict, dict) and verdict.get("verdict"):
        reasons = [
            f"stage {stage.get('stage')}: {reason['sentence']}"
            for stage in verdict.get("stages") or []
            for reason in stage.get("reasons") or []
        ]
        return {"limited": verdict["verdict"] == "limited", "reasons": reasons, "by": "the load generator"}
    reasons = [
        f"stage {stage}: {sentence}"
        for stage, rows in seen.table.groupby("stage")
        for sentence in client_limited(rows)
    ]
    return {"limited": bool(reasons), "reasons": reasons, "by": "the requests alone"}


# --- what came back --------------------------------------------------------------------------------------------------


def _stages(seen: Seen) -> Iterator[tuple[str, ...]]:
    """Per stage: planned and offered rate, completed per s, and how the requests ended."""
    if seen.table is None:
        return
    for stage, start_s, end_s, plan in seen.stages:
        rows = seen.table[seen.table["stage"] == stage]
        if rows.empty:
            continue
        length_s = end_s - start_s
        status = rows["status"].value_counts()
        ok, dropped = int(status.get("ok", 0)), int(status.get("dropped", 0))
        done = int((seen.table["ok"] & seen.table["last_token_s"].between(start_s, end_s)).sum())
        yield (
            str(stage),
            plan,
            f"{len(rows) / length_s:.2f}",
            f"{done / length_s:.2f}",
            f"{ok:,}",
            f"{len(rows) - ok - dropped:,}",
            f"{dropped:,}",
        )


def _latencies(seen: Seen) -> Iterator[dict[str, Any]]:
    """Per metric a table of percentiles by stage, with the number of samples; a metric without any is left out."""
    if seen.table is None:
        return
    for metric in METRICS:
        rows = []
        for stage in [*sorted(seen.table["stage"].unique().tolist()), None]:
            known = [_percentile(seen, metric, stage, p) for p in PERCENTILES]
            if known[0].count:
                label = "all" if stage is None else str(stage)
                rows.append((label, *(_known(p) for p in known), f"{known[0].count:,}"))
        if len(rows) == 2:  # one stage: "all" would say it twice
            rows = rows[:1]
        if rows:
            yield {
                "title": metric.upper(),
                "meaning": MEANING[metric],
                "rows": rows,
            }


def _percentile(seen: Seen, metric: str, stage: int | None, at: float) -> Percentile:
    if metric == "itl":
        gaps = seen.itl
        if gaps is None:
            return Percentile(at, math.nan, -math.inf, math.inf, 0)
        return percentile_of_gaps(gaps if stage is None else gaps[gaps["stage"] == stage], at)
    assert seen.table is not None
    rows = seen.table if stage is None else seen.table[seen.table["stage"] == stage]
    return percentile(rows[f"{metric}_s"], at)


def _known(known: Percentile) -> str:
    return "too few" if math.isnan(known.value) else span(known.value)


def _slo(seen: Seen) -> Iterator[tuple[str, str, str, str]]:
    """Per term of the SLO how the whole run stands to it: name, value, share within, verdict."""
    for verdict in _verdicts(seen):
        value = page.share(verdict.value, 2) if verdict.name == "goodput" else span(verdict.value)
        asked = f"{page.share(verdict.share_within, 2)} of {page.share(verdict.asked, 0)}"
        yield verdict.name, value, asked, "kept" if verdict.holds else "broken"


def _verdicts(seen: Seen) -> Sequence[Verdict]:
    if seen.slo is None or seen.table is None:
        return ()
    table, gaps = seen.table, seen.itl
    return evaluate(
        seen.slo,
        table["ok"],
        table["ttft_s"],
        table["tpot_s"],
        table["e2e_s"],
        None if gaps is None else lambda bound_s: gaps_within(gaps, bound_s),
        None if gaps is None else lambda at: percentile_of_gaps(gaps, at).value,
    )


def _failures(seen: Seen) -> list[tuple[str, str, str]]:
    """How requests failed: status, count, the most frequent error."""
    if seen.table is None:
        return []
    rows = seen.run.requests
    found = []
    for status, count in rows["status"].value_counts().items():
        if status != "ok":
            errors = rows.loc[rows["status"] == status, "error"].dropna().value_counts()
            found.append((str(status), f"{count:,}", str(errors.index[0]) if len(errors) else page.DASH))
    return found


# --- what the server said --------------------------------------------------------------------------------------------


def _server(seen: Seen) -> Iterator[tuple[str, str, str]]:
    """Signals as mean and maximum over the run, and what its counters counted."""
    gauges = seen.gauges
    if gauges is None:
        return
    for signal in SIGNALS:
        if gauges[signal].notna().any():
            yield plots.LABELS[signal], plain(gauges[signal].mean()), plain(gauges[signal].max())
    yield "replicas that reported", plain(gauges["pods"].mean()), plain(gauges["pods"].max(), "g")
    for label, column in {
        "preemptions": "preemptions_total",
        "prompt tokens": "prompt_tokens_total",
        "generated tokens": "generation_tokens_total",
        "finished requests": "requests_total",
    }.items():
        if math.isfinite(counted := _counted(seen.run.metrics, column)):
            yield f"{label} (counted)", f"{counted:,.0f}", ""


def _counted(metrics: pd.DataFrame, column: str) -> float:
    """What a counter counted over all pods; a fall is a restart. NaN when it was not reported."""
    known = metrics.dropna(subset=[column]).sort_values("time_s")
    if known.empty:
        return math.nan
    steps = known.groupby(["pod", "engine"])[column].diff()
    return float(steps.clip(lower=0).sum())


def _events(run: Run) -> dict[str, Any]:
    """What happened, at most SHOWN_EVENTS rows: of a longer log the changes of the number of replicas first."""
    events = [e for e in run.events if "message" in e]
    scaled = [e for e in events if e.get("kind") in SCALED] if len(events) > SHOWN_EVENTS else []
    rows = [
        (page.clock(float(e.get("time_s") or 0.0)), str(e.get("kind", "")), str(e["message"]))
        for e in (scaled or events)[:SHOWN_EVENTS]
    ]
    return {"rows": rows, "more": len(events) - len(rows)}


# --- figures ---------------------------------------------------------------------------------------------------------


def _timeline(seen: Seen) -> Picture | None:
    made = page.timeline(seen.run, slo=seen.slo, table=seen.table)
    if made is None:
        return None
    notes = ["Signals are means over the replicas that reported."] if seen.gauges is not None else []
    if seen.slo is not None and seen.table is not None:
        notes.append("Shaded: windows in which the SLO was broken.")
    return picture(
        made,
        f"Load, signals and replicas of {seen.name} over time",
        " ".join(notes),
    )


def _over_time(seen: Seen) -> Picture | None:
    if seen.table is None or not seen.table["ok"].any():
        return None
    bounds = seen.slo.bounds_s() if seen.slo else None
    return picture(
        plots.latency_over_time(seen.table, bounds),
        f"Latency of {seen.name} over time",
        "Median and the band from the 5th to the 95th percentile, by the time the request was due.",
    )


def _capacity(capacity: Capacity) -> dict[str, Any]:
    """Knee and capacity, the use of every stage, and the curves when there are two stages to join."""
    figures = []
    if capacity.points["ttft_p50_s"].notna().sum() >= 2 or capacity.points["e2e_p50_s"].notna().sum() >= 2:
        figures.append(
            picture(
                plots.capacity_curve(capacity),
                f"Latency against load: knee {capacity.knee}",
                "One dot per stage, with 95% intervals as bands.",
            )
        )
        if capacity.points[list(SIGNALS)].notna().any().any():
            figures.append(
                picture(
                    plots.signal_against_load(capacity.points, capacity),
                    "Server signals against the offered rate",
                )
            )
    return {
        "facts": [
            ("knee", str(capacity.knee)),
            ("saturated throughput", str(capacity.saturated)),
            *([("holds the SLO up to", str(capacity.capacity))] if capacity.slo else []),
        ],
        "lines": [*(str(w) for w in capacity.windows), *capacity.notes],
        "figures": figures,
        "next_command": capacity.next_command,
    }


# --- two runs --------------------------------------------------------------------------------------------------------


def _comparison(a: Seen, b: Seen) -> dict[str, Any]:
    first, second = _figures(a), _figures(b)
    rows = []
    for name in dict.fromkeys([*first, *second]):
        (x, form), (y, _) = first.get(name, (math.nan, None)), second.get(name, (math.nan, None))
        form = form or second[name][1]
        if math.isfinite(x) or math.isfinite(y):
            rows.append((name, form(x), form(y), page.change(x, y)))
    settings_a, settings_b = dict(_sent(a)), dict(_sent(b))
    settings = [
        (name, settings_a.get(name, page.DASH), settings_b.get(name, page.DASH))
        for name in dict.fromkeys([*settings_a, *settings_b])
        if settings_a.get(name) != settings_b.get(name)
    ]
    return {
        "names": (a.name, b.name),
        "rows": rows,
        "settings": settings,
        "figures": [made for made in (_against_load(a, b), _side_by_side(a, b)) if made is not None],
    }


def _figures(seen: Seen) -> dict[str, tuple[float, Any]]:
    """The figures of a run that two runs are compared by: name -> (value, how it is written)."""
    found: dict[str, tuple[float, Any]] = {}
    table = seen.table
    if table is not None:
        length_s = max(end for _, _, end, _ in seen.stages) - min(start for _, start, _, _ in seen.stages)
        found["planned requests"] = (float(len(table)), lambda v: plain(v, ",.0f"))
        found["completed"] = (float(table["ok"].mean()), lambda v: page.share(v, 2))
        found["offered rate (requests/s)"] = (len(table) / length_s, lambda v: plain(v, ",.2f"))
        found["completed rate (requests/s)"] = (table["ok"].sum() / length_s, lambda v: plain(v, ",.2f"))
        tokens = table.loc[table["ok"], "output_tokens"].sum()
        found["output tokens/s"] = (float(tokens) / length_s, lambda v: plain(v, ",.0f"))
        for metric in METRICS:
            for p in PERCENTILES:
                found[f"{metric.upper()} p{p:g}"] = (_percentile(seen, metric, None, p).value, span)
    if seen.capacity is not None:
        found["knee (requests/s per replica)"] = (seen.capacity.knee.value, plain)
    for signal in SIGNALS if seen.gauges is not None else ():
        assert seen.gauges is not None
        found[f"mean {plots.LABELS[signal]}"] = (float(seen.gauges[signal].mean()), plain)
    if seen.run.has("replicas") and len(seen.run.replicas):
        found["replicas at most"] = (float(seen.run.replicas["ready"].max()), lambda v: plain(v, "g"))
    return found


def _against_load(a: Seen, b: Seen) -> Picture | None:
    """Latency against the offered rate of both, on shared axes; None unless both have two stages."""
    curves: dict[str, dict[str, Any]] = {}
    for metric, label in {"ttft": "TTFT p50 (s)", "e2e": "E2E p50 (s)", "tpot": "TPOT p50 (s)"}.items():
        series = {}
        for seen in (a, b):
            if seen.capacity is None:
                return None
            points = seen.capacity.points.dropna(subset=["rate_rps", f"{metric}_p50_s"]).sort_values(
                "rate_rps"
            )
            columns = (f"{metric}_p50_s", f"{metric}_p50_low", f"{metric}_p50_high")
            if len(points) >= 2:
                series[seen.name] = (points["rate_rps"], *(points[c] for c in columns))
        if len(series) == 2:
            curves[label] = series
    if not curves:
        return None
    return picture(
        plots.panels(
            curves, "offered rate (requests/s per replica)", "Latency against load", logarithmic=list(curves)
        ),
        f"Latency against load of {a.name} and {b.name}",
        "Medians per stage with 95% intervals as bands.",
    )


def _side_by_side(a: Seen, b: Seen) -> Picture | None:
    """Rates, latencies and signals of both over time, on shared axes."""
    quantities: dict[str, dict[str, Any]] = {}
    for seen in (a, b):
        table = seen.table
        if table is not None:
            load = page.rates(seen.run, CURVE_CELLS)
            _put(quantities, "offered\n(requests/s)", seen, load["time_s"], load["offered_rps"])
            for metric in ("ttft", "e2e"):
                known = table[table[f"{metric}_s"].notna()]
                if len(known):
                    width = max(float(table["due_s"].max()), 1e-9) / CURVE_CELLS
                    medians = known.groupby((known["due_s"] // width + 0.5) * width)[f"{metric}_s"].median()
                    _put(quantities, f"{metric.upper()} p50 (s)", seen, medians.index, medians)
        gauges = seen.gauges
        if gauges is not None:
            gauges = page.thinned(gauges, CURVE_CELLS)
            for signal in SIGNALS:
                if gauges[signal].notna().any():
                    _put(
                        quantities,
                        plots.LABELS[signal]
                        .replace(" per replica", "\nper replica")
                        .replace(" (share)", "\n(share)"),
                        seen,
                        gauges["time_s"],
                        gauges[signal],
                    )
    if not quantities:
        return None
    return picture(
        plots.panels(
            quantities,
            "time since the start (s)",
            "Both runs over time",
            logarithmic=[label for label in quantities if label.endswith("p50 (s)")],
        ),
        f"Load, latency and signals of {a.name} and {b.name} over time",
        "Both on the time since their own start.",
    )


def _put(quantities: dict[str, dict[str, Any]], label: str, seen: Seen, x: Any, y: Any) -> None:
    quantities.setdefault(label, {})[seen.name] = (np.asarray(x, dtype=float), np.asarray(y, dtype=float))
