"""Two runs side by side: their figures, the settings that differ, and curves on shared axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis import plots
from analysis.opened import OpenedRun
from analysis.run import SIGNALS
from autoscale.show.over_time import gauges_of, rates, thinned
from autoscale.show.pages.page import Picture, picture
from autoscale.show.pages.run_facts import METRICS, PERCENTILES, sent
from autoscale.show.words import DASH, change, number, share, span

CURVE_CELLS = 60  # of a comparison over time
Written = tuple[float, Callable[[float], str]]  # a figure, and how it is written
ABSENT: Written = (math.nan, number)
Curves = dict[
    str, dict[str, tuple[ArrayLike, ...]]
]  # axis label -> run -> x, y and, where known, low and high


@dataclass(frozen=True)
class RunsCompared:
    """Two runs as the page's template takes them: rows of figures and of settings that differ, and curves."""

    names: tuple[str, str]
    rows: list[tuple[str, str, str, str]]
    settings: list[tuple[str, str, str]]
    figures: list[Picture]


def comparison(a: OpenedRun, b: OpenedRun) -> RunsCompared:
    """The two runs side by side."""
    first, second = _figures(a), _figures(b)
    rows = []
    for name in dict.fromkeys([*first, *second]):
        x, y = first.get(name), second.get(name)
        form = (x or y or ABSENT)[1]
        before, after = (x or ABSENT)[0], (y or ABSENT)[0]
        if math.isfinite(before) or math.isfinite(after):
            rows.append((name, form(before), form(after), change(before, after)))
    settings_a, settings_b = dict(sent(a)), dict(sent(b))
    settings = [
        (name, settings_a.get(name, DASH), settings_b.get(name, DASH))
        for name in dict.fromkeys([*settings_a, *settings_b])
        if settings_a.get(name) != settings_b.get(name)
    ]
    figures = [made for made in (_against_load(a, b), _side_by_side(a, b)) if made is not None]
    return RunsCompared((a.name, b.name), rows, settings, figures)


def _figures(seen: OpenedRun) -> dict[str, Written]:
    """The figures of a run that two runs are compared by: name -> (value, how it is written)."""
    found: dict[str, Written] = {}
    table = seen.table
    if table is not None:
        length_s = max(end for _, _, end, _ in seen.stages) - min(start for _, start, _, _ in seen.stages)
        found["requests that were due"] = (float(len(table)), lambda v: number(v, ",.0f"))
        found["completed"] = (float(table["ok"].mean()), lambda v: share(v, 2))
        found["offered rate (requests/s)"] = (len(table) / length_s, lambda v: number(v, ",.2f"))
        found["completed rate (requests/s)"] = (table["ok"].sum() / length_s, lambda v: number(v, ",.2f"))
        tokens = table.loc[table["ok"], "output_tokens"].sum()
        found["output tokens/s"] = (float(tokens) / length_s, lambda v: number(v, ",.0f"))
        for metric in METRICS:
            for p in PERCENTILES:
                found[f"{metric.upper()} p{p:g}"] = (seen.percentile(metric, p).value, span)
    replicas = seen.run.replicas["ready"].max() if seen.run.has("replicas") and len(seen.run.replicas) else 1
    if seen.capacity is not None and replicas <= 1:
        found["knee (requests/s per replica)"] = (seen.capacity.knee.value, number)
    gauges = gauges_of(seen.run)
    for signal in SIGNALS if gauges is not None else ():
        assert gauges is not None
        found[f"mean {plots.LABELS[signal]}"] = (float(gauges[signal].mean()), number)
    if seen.run.has("replicas"):
        found["replicas at most"] = (float(replicas), lambda v: number(v, "g"))
    return found


def _against_load(a: OpenedRun, b: OpenedRun) -> Picture | None:
    """Latency against the offered rate of both, on shared axes; None unless both have two stages."""
    curves: Curves = {}
    for metric, label in {"ttft": "TTFT p50 (s)", "e2e": "E2E p50 (s)", "tpot": "TPOT p50 (s)"}.items():
        series: dict[str, tuple[ArrayLike, ...]] = {}
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


def _side_by_side(a: OpenedRun, b: OpenedRun) -> Picture | None:
    """Rates, latencies and signals of both over time, on shared axes."""
    quantities: Curves = {}
    for seen in (a, b):
        table = seen.table
        if table is not None:
            load = rates(seen.run, CURVE_CELLS)
            _put(quantities, "offered\n(requests/s)", seen, load["time_s"], load["offered_rps"])
            for metric in ("ttft", "e2e"):
                known = table[table[f"{metric}_s"].notna()]
                if len(known):
                    width = max(float(table["due_s"].max()), 1e-9) / CURVE_CELLS
                    medians = known.groupby((known["due_s"] // width + 0.5) * width)[f"{metric}_s"].median()
                    _put(quantities, f"{metric.upper()} p50 (s)", seen, medians.index, medians)
        gauges = gauges_of(seen.run)
        if gauges is not None:
            gauges = thinned(gauges, CURVE_CELLS)
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


def _put(quantities: Curves, label: str, seen: OpenedRun, x: ArrayLike, y: ArrayLike) -> None:
    quantities.setdefault(label, {})[seen.name] = (np.asarray(x, dtype=float), np.asarray(y, dtype=float))
