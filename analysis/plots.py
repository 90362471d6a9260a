"""Every figure of the project, in one visual language: functions from data to a matplotlib Figure.

Colours are those of Okabe and Ito, which the colour-blind can tell apart; every series also has its own line style,
marker or hatch, so that a figure reads in grey. SLO lines are vermilion and dashed, intervals are bands of their line's
colour, breaches are hatched. Axes carry units. Figures belong to nobody's global state: `save` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from analysis.capacity import Capacity, Estimate

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#222222",
)
GREY = "#777777"
# a name -> how its line looks everywhere
STYLES: dict[str, dict[str, Any]] = {
    "ttft": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "tpot": {"color": GREEN, "linestyle": "--", "marker": "s"},
    "itl": {"color": PURPLE, "linestyle": "-.", "marker": "v"},
    "e2e": {"color": ORANGE, "linestyle": ":", "marker": "D"},
    "waiting": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "running": {"color": ORANGE, "linestyle": "--", "marker": "s"},
    "kv_usage": {"color": GREEN, "linestyle": "-.", "marker": "^"},
    "offered": {"color": BLACK, "linestyle": "-", "marker": "o"},
    "served": {"color": SKY, "linestyle": "--", "marker": "s"},
    "desired": {"color": VERMILION, "linestyle": "--", "marker": ""},
    "ready": {"color": BLUE, "linestyle": "-", "marker": ""},
    "created": {"color": GREY, "linestyle": ":", "marker": ""},
}
SERIES: list[dict[str, Any]] = [
    {"color": colour, "linestyle": line, "marker": marker}
    for colour, line, marker in zip(
        (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK),
        ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1))),
        ("o", "s", "^", "D", "v", "X"),
        strict=True,
    )
]
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")
LABELS = {
    "waiting": "requests waiting per replica",
    "running": "requests running per replica",
    "kv_usage": "KV cache used (share)",
}
_SLO: dict[str, Any] = {"color": VERMILION, "linestyle": (0, (6, 2)), "linewidth": 1.6}
_WIDTH_IN = 6.0  # at 390 px, a phone, text is still 9 px high
_FONT = {"size": 10.5}


def save(figure: Figure, path: Path | str, width_px: int = 1200) -> Path:
    """Write the figure as PNG (`width_px` wide) or SVG, by the path's suffix; returns the path."""
    path = Path(path)
    dpi = width_px / float(figure.get_figwidth())
    with rc_context({"svg.hashsalt": "llm-autoscale"}):  # the same data give the same bytes
        figure.savefig(path, dpi=dpi, metadata={"Date": None} if path.suffix == ".svg" else {})
    return path


def capacity_curve(capacity: Capacity, title: str = "Latency against load") -> Figure:
    """TTFT, TPOT and E2E p95 over the offered rate per replica, the SLO's bounds, the knee and the SLO's capacity."""
    points = capacity.points.sort_values("rate_rps")
    metrics = [m for m in ("ttft", "e2e", "tpot") if points[[f"{m}_p50_s", f"{m}_p95_s"]].notna().any().any()]
    figure, axes = _panels(len(metrics), title, height=2.1)
    bounds: dict[str, list[Any]] = {}
    for term in capacity.slo.terms if capacity.slo else ():
        bounds.setdefault(term.metric, []).append(term)
    for axis, metric in zip(axes, metrics, strict=True):
        _latency_lines(axis, points, metric)
        for term in bounds.get(metric, ()):
            axis.axhline(term.bound_s, **_SLO, label="SLO")
        _log_seconds(axis)
        axis.set_ylabel(f"{metric.upper()} (s)")
        _estimate(axis, capacity.knee, "knee", GREY)
        if capacity.slo:
            _estimate(axis, capacity.capacity, "holds the SLO", GREEN)
    axes[-1].set_xlabel("offered rate (requests/s per replica)")
    _legend(axes[0])
    return figure


def signal_against_load(points: pd.DataFrame, capacity: Capacity | None = None) -> Figure:
    """Waiting, running and KV usage over the offered rate, one panel each; filled markers = below saturation."""
    figure, axes = _panels(3, "What each signal says about load", height=1.9)
    ordered = points.dropna(subset=["rate_rps"]).sort_values("rate_rps")
    for axis, (signal, label) in zip(axes, LABELS.items(), strict=True):
        known = ordered.dropna(subset=[signal])
        style = STYLES[signal]
        axis.plot(known["rate_rps"], known[signal], color=style["color"], linestyle=style["linestyle"])
        for state, face in (("steady", style["color"]), ("saturated", "white")):
            part = known[known["state"] == state]
            axis.plot(
                part["rate_rps"],
                part[signal],
                style["marker"],
                color=style["color"],
                markerfacecolor=face,
                label=state,
            )
        axis.set_ylabel(label.replace(" per replica", "\nper replica").replace(" (share)", "\n(share)"))
        axis.set_ylim(bottom=0)
        if capacity is not None:
            _estimate(axis, capacity.capacity, "capacity", GREY)
    axes[-1].set_xlabel("offered rate (requests/s per replica)")
    _legend(axes[0])
    return figure


def pareto(
    candidates: pd.DataFrame,
    chosen: str | None = None,
    asked: float | None = None,
    cost_label: str = "accelerator-hours",
    attainment_label: str = "requests within the SLO (%)",
    annotate: Sequence[str] = (),
) -> Figure:
    """Cost against SLO attainment. Columns of `candidates`: name, kind, cost, attainment (0-1) and, where known,
    attainment_low, attainment_high; points of one kind share a marker, those not beaten by another are joined. The
    names of `annotate` are written beside their points."""
    figure, (axis,) = _panels(1, "Cost against SLO attainment", height=4.4)
    for (kind, part), style in zip(candidates.groupby("kind", sort=False), _cycle(SERIES), strict=False):
        if {"attainment_low", "attainment_high"} <= set(part):
            _bars_of_error(axis, part, style["color"])
        axis.plot(
            part["cost"],
            100 * part["attainment"],
            style["marker"],
            color=style["color"],
            label=str(kind),
            alpha=0.85,
        )
    ordered = candidates.sort_values(["cost", "attainment"], ascending=[True, False])
    front = ordered[ordered["attainment"] > ordered["attainment"].cummax().shift(fill_value=-np.inf)]
    axis.plot(
        front["cost"],
        100 * front["attainment"],
        color=GREY,
        linewidth=1,
        drawstyle="steps-post",
        zorder=1,
        label="not beaten",
    )
    if asked is not None:
        axis.axhline(100 * asked, **_SLO, label=f"asked: {100 * asked:g} %")
    if chosen is not None and len(best := candidates[candidates["name"] == chosen]):
        axis.plot(
            best["cost"],
            100 * best["attainment"],
            "o",
            markersize=17,
            markerfacecolor="none",
            color=BLACK,
            label=f"chosen: {chosen}",
        )
    _names(axis, candidates, annotate)
    axis.set_xlabel(f"cost ({cost_label})")
    axis.set_ylabel(attainment_label)
    _legend(axis)
    return figure


def timeline(
    *,
    load: pd.DataFrame | None = None,
    signals: pd.DataFrame | None = None,
    replicas: pd.DataFrame | None = None,
    target: Mapping[str, float] | None = None,
    breaches: Sequence[tuple[float, float]] = (),
    title: str = "Load, signals and replicas",
    show: Sequence[str] = ("waiting", "kv_usage"),
) -> Figure:
    """What happened over time, panels from top to bottom: rates, the signals of `show`, replicas.

    `load`: time_s, offered_rps, served_rps; `signals`: time_s and the signals (means over pods, `signals.fleet`);
    `replicas`: time_s, desired, ready and, where known, created; `target`: the HPA's averageValue per signal;
    `breaches`: (from_s, to_s) in which the SLO was broken. Panels without data are left out; one table is needed.
    """
    shown = [s for s in show if signals is not None and signals[s].notna().any()]
    count = (load is not None) + len(shown) + (replicas is not None)
    figure, axes = _panels(count, title, height=1.75)
    known = [table for table in (load, signals if shown else None, replicas) if table is not None]
    scale, unit = _time_unit(max(float(table["time_s"].max()) for table in known))
    for axis in axes:
        for k, (from_s, to_s) in enumerate(breaches):
            label = "SLO broken" if k == 0 and axis is axes[0] else None
            axis.axvspan(
                from_s / scale,
                to_s / scale,
                facecolor=VERMILION,
                alpha=0.16,
                hatch="////",
                edgecolor=VERMILION,
                linewidth=0,
                label=label,
            )
    if load is not None:
        for name in ("offered", "served"):
            _line(axes[0], load["time_s"] / scale, load[f"{name}_rps"], STYLES[name], name)
        axes[0].set_ylabel("requests/s")
        axes[0].set_ylim(bottom=0)
    for axis, signal in zip(axes[load is not None :], shown, strict=False):
        assert signals is not None
        _line(axis, signals["time_s"] / scale, signals[signal], STYLES[signal], "mean over pods")
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
        for name in ("created", "desired", "ready"):
            if name in replicas and replicas[name].notna().any():
                _line(
                    axes[-1],
                    replicas["time_s"] / scale,
                    replicas[name],
                    STYLES[name],
                    name,
                    drawstyle="steps-post",
                )
        axes[-1].set_ylabel("replicas")
        axes[-1].set_ylim(bottom=0)
        axes[-1].yaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes:
        _legend(axis)
    axes[-1].set_xlabel(f"time ({unit})")
    return figure


def latency_over_time(
    table: pd.DataFrame, bounds_s: Mapping[str, float] | None = None, bins: int = 120
) -> Figure:
    """TTFT and E2E of `analysis.latency.latencies` over the due time: median line, band from p5 to p95, SLO bounds."""
    metrics = [m for m in ("ttft", "tpot", "e2e") if table[f"{m}_s"].notna().any()]
    figure, axes = _panels(max(len(metrics), 1), "Latency over time", height=2.0)
    scale, unit = _time_unit(float(table["due_s"].max()))
    width = max(float(table["due_s"].max()), 1e-9) / bins
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
            axis.axhline(bounds_s[metric], **_SLO, label="SLO")
        _log_seconds(axis)
        axis.set_ylabel(f"{metric.upper()} (s)")
    axes[-1].set_xlabel(f"time the request was due ({unit})")
    _legend(axes[0])
    return figure


def replay_error(errors: pd.DataFrame) -> Figure:
    """Measured against predicted, one panel per quantity.

    Columns: quantity (as on the axis, with unit), rate_rps, measured, predicted and, where known, low and high of the
    measurement, and error (relative, when it is not predicted / measured - 1). The title of a panel gives the median
    relative error.
    """
    quantities = list(dict.fromkeys(errors["quantity"]))
    rows = -(-len(quantities) // 2)
    figure = Figure(figsize=(_WIDTH_IN, 0.7 + 2.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("The model replays the run it was fitted to", fontsize=12)
    grid = figure.subplots(rows, 2 if len(quantities) > 1 else 1, squeeze=False).ravel()
    for axis, quantity in zip(grid, quantities, strict=False):
        part = errors[errors["quantity"] == quantity].sort_values("rate_rps")
        if {"low", "high"} <= set(part):
            axis.fill_between(
                part["rate_rps"],
                part["low"],
                part["high"],
                color=SKY,
                alpha=0.3,
                linewidth=0,
                label="95 % interval",
            )
        axis.plot(part["rate_rps"], part["measured"], "o", color=BLACK, label="measured")
        axis.plot(
            part["rate_rps"], part["predicted"], "--s", color=ORANGE, markerfacecolor="white", label="model"
        )
        errors_of = part["error"] if "error" in part else part["predicted"] / part["measured"] - 1
        relative = errors_of.abs().replace(np.inf, np.nan).median()
        axis.set_title("" if np.isnan(relative) else f"median error {relative:.1%}", fontsize=10)
        _dress(axis)
        axis.set_ylabel(quantity)
        axis.set_xlabel("offered rate (requests/s)")
    for axis in grid[len(quantities) :]:
        axis.set_visible(False)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=3, frameon=False, fontsize=9)
    return figure


def phases(
    rows: Sequence[tuple[str, Mapping[str, float]]], title: str = "Where a scale-out spends its time"
) -> Figure:
    """Stacked horizontal bars: one row per scale-out, (label, phase -> seconds); a phase of NaN s did not end."""
    shortest = 0.004 * max((sum(v for v in p.values() if np.isfinite(v)) for _, p in rows), default=1.0)
    seen = (name for _, parts in rows for name, v in parts.items() if not v < shortest)  # NaN: did not end
    names = list(dict.fromkeys(seen))
    longest = max((sum(v for v in parts.values() if np.isfinite(v)) for _, parts in rows), default=1.0)
    scale, unit = _time_unit(longest)
    figure, (axis,) = _panels(1, title, height=1.2 + 0.42 * max(len(rows), 1) + 0.28 * -(-len(names) // 3))
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
            label=name,
        )
    for k, (_, parts) in enumerate(rows):
        total = sum(v for v in parts.values() if np.isfinite(v))
        size = f"{total:.0f} s" if total < 120 else f"{total / scale:.3g} {unit}"
        unfinished = " (not finished)" if any(not np.isfinite(v) for v in parts.values()) else ""
        axis.text(total / scale, k, f" {size}{unfinished}", va="center", fontsize=9.5)
    axis.set_yticks(range(len(rows)), [label for label, _ in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.3 * longest / scale)
    axis.set_xlabel(f"time since the load rose ({unit})")
    axis.grid(axis="y", visible=False)
    _legend(axis)
    return figure


def bars(
    table: pd.DataFrame, value_label: str, title: str, line: float | None = None, line_label: str = ""
) -> Figure:
    """Grouped horizontal bars, for regret or a comparison. `table`: index = rows, columns = series; NaN = not known."""
    figure, (axis,) = _panels(1, title, height=1.2 + 0.24 * len(table) * (len(table.columns) + 1))
    thick = 0.8 / max(len(table.columns), 1)
    for k, column in enumerate(table.columns):
        place = np.arange(len(table)) + (k - (len(table.columns) - 1) / 2) * thick
        style = SERIES[k % len(SERIES)]
        axis.barh(
            place,
            table[column],
            height=thick * 0.92,
            color=style["color"],
            hatch=HATCHES[k % 8],
            edgecolor="white",
            label=str(column),
        )
        for y, value in zip(place, table[column], strict=True):
            text = f" {value:.3g}" if np.isfinite(value) else " not known"
            axis.text(value if np.isfinite(value) else 0, y, text, va="center", fontsize=9)
    if line is not None:
        axis.axvline(line, **_SLO, label=line_label)
    axis.set_yticks(range(len(table)), [str(name) for name in table.index])
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel(value_label)
    axis.grid(axis="y", visible=False)
    _legend(axis)
    return figure


def curves(
    series: Mapping[str, tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    x_label: str,
    y_label: str,
    title: str,
    lines: Mapping[str, float] | None = None,
) -> Figure:
    """Lines with intervals as bands: name -> (x, y) or (x, y, low, high); `lines`: name -> a horizontal bound."""
    figure, (axis,) = _panels(1, title, height=3.8)
    for (name, values), style in zip(series.items(), _cycle(SERIES), strict=False):
        if len(values) == 4:
            axis.fill_between(
                np.asarray(values[0], dtype=float),
                np.asarray(values[2], dtype=float),
                np.asarray(values[3], dtype=float),
                color=style["color"],
                alpha=0.18,
                linewidth=0,
            )
        axis.plot(
            values[0],
            values[1],
            **style,
            markersize=4.5,
            label=name,
            markevery=max(np.size(values[0]) // 10, 1),
        )
    for name, height in (lines or {}).items():
        axis.axhline(height, **_SLO, label=name)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    _legend(axis)
    return figure


def panels(
    quantities: Mapping[str, Mapping[str, Sequence[Any]]],
    x_label: str,
    title: str,
    logarithmic: Sequence[str] = (),
) -> Figure:
    """The same series in several quantities under each other, on one x axis.

    `quantities`: label of the y axis -> name of the series -> (x, y) or (x, y, low, high); a name looks the same in
    every panel. `logarithmic`: labels of the panels whose axis is logarithmic, in s.
    """
    names = list(dict.fromkeys(name for series in quantities.values() for name in series))
    figure, axes = _panels(len(quantities), title, height=1.9)
    for axis, (label, series) in zip(axes, quantities.items(), strict=True):
        for name, columns in series.items():
            style = SERIES[names.index(name) % len(SERIES)]
            x, y, *sides = (np.asarray(column, dtype=float) for column in columns)
            if sides:
                low, high = (np.where(np.isfinite(side), side, y) for side in sides)
                axis.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
            axis.plot(x, y, **style, markersize=4.5, markevery=max(x.size // 10, 1), label=name)
        axis.set_ylabel(label)
        if label in logarithmic:
            _log_seconds(axis)
        else:
            axis.set_ylim(bottom=0)
    axes[-1].set_xlabel(x_label)
    _legend(axes[0])
    return figure


def _latency_lines(axis: Axes, points: pd.DataFrame, metric: str) -> None:
    colour, marker = STYLES[metric]["color"], STYLES[metric]["marker"]
    for p, line, face in ((50, "--", "white"), (95, "-", colour)):
        known = points.dropna(subset=[f"{metric}_p{p}_s"])
        low, high = known[f"{metric}_p{p}_low"], known[f"{metric}_p{p}_high"]
        value = known[f"{metric}_p{p}_s"]
        axis.fill_between(
            known["rate_rps"],
            low.where(np.isfinite(low), value),
            high.where(np.isfinite(high), value),
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
        axis.plot(
            known["rate_rps"],
            value,
            color=colour,
            linestyle=line,
            marker=marker,
            markerfacecolor=face,
            label=f"p{p}",
        )
    odd = points[points["client_limited"] & points[f"{metric}_p50_s"].notna()]
    if len(odd):
        axis.plot(
            odd["rate_rps"],
            odd[f"{metric}_p50_s"],
            "x",
            color=BLACK,
            markersize=10,
            markeredgewidth=2,
            label="client-limited",
        )


def _estimate(axis: Axes, estimate: Estimate, name: str, colour: str) -> None:
    """A rate as a vertical line with its interval as a band; an open side has no edge."""
    low, high = estimate.low, estimate.high
    if np.isfinite(high):
        axis.axvspan(low, high, color=colour, alpha=0.13, linewidth=0)
    if np.isfinite(estimate.value):
        axis.axvline(
            estimate.value,
            color=colour,
            linestyle="-." if colour == GREY else "-",
            linewidth=1.4,
            label=f"{name} {estimate.value:.3g}/s",
        )


def _names(axis: Axes, candidates: pd.DataFrame, names: Sequence[str]) -> None:
    """Names beside their points, towards the middle so that none runs out of the picture; points that nearly coincide
    share one text."""
    cost, attainment = candidates["cost"], candidates["attainment"]
    near = [max(float(np.ptp(column)) / 12, 1e-9) for column in (cost, attainment)]
    places: list[tuple[float, float, list[str]]] = []
    for name in names:
        for x, y in zip(
            cost[candidates["name"] == name], attainment[candidates["name"] == name], strict=True
        ):
            beside = [p for p in places if abs(p[0] - x) < near[0] and abs(p[1] - y) < near[1]]
            if beside:
                beside[0][2].append(name)
            else:
                places.append((x, y, [name]))
    middle = (cost.min() + cost.max()) / 2
    for x, y, here in places:
        side = -1 if x > middle else 1
        axis.annotate(
            ",\n".join(here),
            (x, 100 * y),
            xytext=(13 * side, 0),
            textcoords="offset points",
            ha="right" if side < 0 else "left",
            va="center",
            fontsize=9,
        )


def _bars_of_error(axis: Axes, part: pd.DataFrame, colour: str) -> None:
    low = (part["attainment"] - part["attainment_low"]).clip(lower=0)
    high = (part["attainment_high"] - part["attainment"]).clip(lower=0)
    axis.errorbar(
        part["cost"],
        100 * part["attainment"],
        yerr=[100 * low, 100 * high],
        fmt="none",
        ecolor=colour,
        alpha=0.5,
        elinewidth=1,
    )


def _line(axis: Axes, x: ArrayLike, y: ArrayLike, style: Mapping[str, Any], label: str, **more: Any) -> None:
    axis.plot(x, y, color=style["color"], linestyle=style["linestyle"], linewidth=1.5, label=label, **more)


def _panels(count: int, title: str, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels under each other that share the x axis; `height` in inches each."""
    figure = Figure(figsize=(_WIDTH_IN, 0.9 + height * count), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    axes = list(figure.subplots(count, 1, sharex=True, squeeze=False).ravel())
    for axis in axes:
        _dress(axis)
    return figure, axes


def _dress(axis: Axes) -> None:
    axis.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=_FONT["size"] - 1)
    axis.xaxis.label.set_fontsize(_FONT["size"])
    axis.yaxis.label.set_fontsize(_FONT["size"])


def _legend(axis: Axes) -> None:
    """The legend above the panel, where it covers no data; nothing when there is nothing to name."""
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if not unique:
        return
    axis.legend(
        list(unique.values()),
        list(unique),
        frameon=False,
        fontsize=9,
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.98),
        ncol=3,
        columnspacing=1.2,
        handlelength=2.4,
    )


def _log_seconds(axis: Axes) -> None:
    """A logarithmic y axis with plain numbers, at 1, 2 and 5 of each decade and closer when the data span less than one;
    linear when nothing is above zero."""
    low, high = axis.dataLim.minposy, axis.dataLim.y1
    if not np.isfinite(low):
        return
    axis.set_yscale("log")
    if high < 2 * low:
        axis.yaxis.set_major_locator(MaxNLocator(4))
    else:
        subs = (1.0, 2.0, 5.0) if high > 10 * low else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    axis.yaxis.set_minor_locator(NullLocator())


def _time_unit(longest_s: float) -> tuple[float, str]:
    if longest_s > 3 * 86400:
        return 86400.0, "days"
    if longest_s > 3 * 3600:
        return 3600.0, "h"
    return (60.0, "min") if longest_s > 300 else (1.0, "s")


def _cycle(styles: list[dict[str, Any]]) -> Any:
    while True:
        yield from styles
