"""Figures over time: a run, its latencies, the phases of a scale-out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    HATCHES,
    ORANGE,
    PURPLE,
    SKY,
    SLO,
    STYLES,
    VERMILION,
    YELLOW,
    legend,
    line,
    log_seconds,
    stacked,
    time_unit,
)
from analysis.slo import Term


def timeline(
    *,
    load: pd.DataFrame | None = None,
    signals: pd.DataFrame | None = None,
    replicas: pd.DataFrame | None = None,
    target: Mapping[str, float] | None = None,
    breaches: Sequence[tuple[float, float]] = (),
    title: str = "Load, signals and replicas",
    show: Sequence[str] = ("waiting", "kv_usage"),
    latency: Mapping[Term, pd.DataFrame] = {},
    clock: str = "time",
    rates: str = "requests/s",
) -> Figure:
    """What happened over time, panels from top to bottom: rates, latency, the signals of `show`, replicas.

    `load`: time_s, offered_rps, served_rps; `signals`: time_s and the signals (means over pods, `signals.fleet`);
    `replicas`: time_s, desired, ready and, where known, created; `target`: the HPA's averageValue per signal;
    `latency`: per term of an SLO time_s and value_s, drawn against its bound;
    `breaches`: (from_s, to_s) in which the SLO was broken; `clock` and `rates`: what times and rates
    are labelled with. Panels without data are left out; one table is needed.
    """
    shown = [s for s in show if signals is not None and signals[s].notna().any()]
    count = (load is not None) + len(latency) + len(shown) + (replicas is not None)
    figure, axes = stacked(count, title, height=1.75 if count < 5 else 1.25)
    known = [
        table
        for table in (load, signals if shown else None, replicas, *latency.values())
        if table is not None
    ]
    scale, unit = time_unit(max(float(table["time_s"].max()) for table in known))
    _shade(axes, [(from_s / scale, to_s / scale) for from_s, to_s in breaches])
    if load is not None:
        for name in ("offered", "served"):
            line(axes[0], load["time_s"] / scale, load[f"{name}_rps"], STYLES[name], name)
        axes[0].set_ylabel(rates)
        axes[0].set_ylim(bottom=0)
    first = int(load is not None)
    for axis, (term, series) in zip(axes[first:], latency.items(), strict=False):
        _against_bound(axis, term, series["time_s"] / scale, series["value_s"])
    for axis, signal in zip(axes[first + len(latency) :], shown, strict=False):
        assert signals is not None
        line(axis, signals["time_s"] / scale, signals[signal], STYLES[signal], "mean of the replicas")
        if target and signal in target:
            axis.axhline(
                target[signal],
                color=BLACK,
                linestyle=(0, (1, 1)),
                linewidth=1.4,
                label=f"HPA target {target[signal]:g}",
            )
        axis.set_ylabel("KV used\n(share)" if signal == "kv_usage" else f"{signal}\n(requests)")
        axis.set_ylim(bottom=0)
    if replicas is not None:
        _replicas(axes[-1], replicas.assign(time_s=replicas["time_s"] / scale))
    for axis in axes:
        legend(axis)
    axes[-1].set_xlabel(f"{clock} ({unit})")
    return figure


def _against_bound(axis: Axes, term: Term, time: pd.Series[float], value_s: pd.Series[float]) -> None:
    name = f"{term.metric.upper()} p{term.percentile:g}"
    line(axis, time, value_s, STYLES[term.metric], name)
    axis.axhline(term.bound_s, **SLO, label=f"SLO: {term.bound_s:g} s")
    log_seconds(axis)
    axis.set_ylabel(f"{name}\n(s)")


def _replicas(axis: Axes, replicas: pd.DataFrame) -> None:
    """Desired and ready as steps; what is created and not ready is the hatched area between."""
    if "created" in replicas and (replicas["created"] > replicas["ready"]).any():
        axis.fill_between(
            replicas["time_s"], replicas["ready"], replicas[["created", "ready"]].max(axis=1),
            step="post", facecolor=GREY, alpha=0.3, hatch="....", edgecolor="white", linewidth=0, label="starting",
        )  # fmt: skip
    for name in ("ready", "desired"):
        if replicas[name].notna().any():
            line(axis, replicas["time_s"], replicas[name], STYLES[name], name, drawstyle="steps-post")
    axis.set_ylabel("replicas")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))


def _shade(axes: Sequence[Axes], breaches: Sequence[tuple[float, float]]) -> None:
    """Mark on every panel the spans in which the SLO was broken."""
    for axis in axes:
        for k, (start, end) in enumerate(breaches):
            axis.axvspan(
                start,
                end,
                facecolor=VERMILION,
                alpha=0.16,
                hatch="////",
                edgecolor=VERMILION,
                linewidth=0,
                label="SLO broken" if k == 0 and axis is axes[0] else None,
            )


def latency_over_time(
    table: pd.DataFrame, bounds_s: Mapping[str, float] | None = None, clock: str = "time"
) -> Figure:
    """TTFT, TPOT and E2E of `analysis.latency.latencies` over the due time: median line, band from p5 to p95, SLO bounds."""
    metrics = [m for m in ("ttft", "tpot", "e2e") if table[f"{m}_s"].notna().any()]
    figure, axes = stacked(max(len(metrics), 1), "Latency over time", height=2.0)
    scale, unit = time_unit(float(table["due_s"].max()))
    width = max(float(table["due_s"].max()), 1e-9) / 120
    slot = ((table["due_s"] // width) * width + width / 2) / scale
    for axis, metric in zip(axes, metrics, strict=False):
        groups = table.groupby(slot)[f"{metric}_s"].quantile(np.array([0.05, 0.5, 0.95])).unstack().dropna()
        style = STYLES[metric]
        axis.fill_between(
            groups.index,
            groups[0.05],
            groups[0.95],
            color=style["color"],
            alpha=0.22,
            linewidth=0,
            label="p5 to p95",
        )
        axis.plot(groups.index, groups[0.5], color=style["color"], label="median")
        if bounds_s and metric in bounds_s:
            axis.axhline(bounds_s[metric], **SLO, label="SLO")
        log_seconds(axis)
        axis.set_ylabel(f"{metric.upper()} (s)")
    axes[-1].set_xlabel(f"{clock} at which the request was due ({unit})")
    legend(*axes)
    return figure


def phases(rows: Sequence[tuple[str, Mapping[str, float]]], clock: str = "time") -> Figure:
    """Stacked horizontal bars: one row per scale-out, (label, phase -> seconds); a phase of NaN s did not end."""
    shortest = 0.004 * max((sum(v for v in p.values() if np.isfinite(v)) for _, p in rows), default=1.0)
    seen = (name for _, parts in rows for name, v in parts.items() if not v < shortest)  # NaN: did not end
    names = list(dict.fromkeys(seen))
    longest = max((sum(v for v in parts.values() if np.isfinite(v)) for _, parts in rows), default=1.0)
    scale, unit = time_unit(longest)
    figure, (axis,) = stacked(
        1,
        "Where a scale-out spends its time",
        height=1.2 + 0.42 * max(len(rows), 1) + 0.28 * -(-len(names) // 3),
    )
    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, GREY, VERMILION)
    for k, name in enumerate(names):
        left = [sum(p.get(n, 0.0) for n in names[:k] if np.isfinite(p.get(n, 0.0))) / scale for _, p in rows]
        width = [value / scale if np.isfinite(value := p.get(name, 0.0)) else 0.0 for _, p in rows]
        axis.barh(
            range(len(rows)),
            width,
            left=left,
            color=colours[k % 8],
            hatch=HATCHES[k % 8],
            edgecolor="white",
            height=0.62,
            label=name.replace("_", " "),
        )
    for k, (_, parts) in enumerate(rows):
        total = sum(v for v in parts.values() if np.isfinite(v))
        size = f"{total:.0f} s" if total < 120 else f"{total / scale:.3g} {unit}"
        unfinished = " (not finished)" if any(not np.isfinite(v) for v in parts.values()) else ""
        axis.text(total / scale, k, f" {size}{unfinished}", va="center", fontsize=9.5)
    axis.set_yticks(range(len(rows)), [label for label, _ in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.3 * (longest or 1.0) / scale)  # where nothing was seen: an empty axis
    axis.set_xlabel(f"{clock} since the load rose ({unit})")
    axis.grid(axis="y", visible=False)
    legend(axis)
    return figure
