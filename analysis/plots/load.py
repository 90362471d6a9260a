"""Figures over the offered rate: latency, the server's signals, and the model's replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.capacity import Capacity, Estimate
from analysis.plots.style import (
    BLACK,
    GREEN,
    GREY,
    LABELS,
    ORANGE,
    SKY,
    SLO,
    STYLES,
    WIDTH_IN,
    dress,
    legend,
    log_seconds,
    stacked,
)


def capacity_curve(capacity: Capacity) -> Figure:
    """TTFT, TPOT and E2E over the offered rate per replica, each as its median and the percentile that the SLO names (p95
    where it names none), the SLO's bounds, the knee and the SLO's capacity."""
    points = capacity.points.sort_values("rate_rps")
    metrics = [m for m in ("ttft", "e2e", "tpot") if points[[f"{m}_p50_s", f"{m}_p95_s"]].notna().any().any()]
    figure, axes = stacked(len(metrics), "Latency against load", height=2.1)
    bounds: dict[str, list[Any]] = {}
    for term in capacity.slo.terms if capacity.slo else ():
        bounds.setdefault(term.metric, []).append(term)
    for axis, metric in zip(axes, metrics, strict=True):
        named = [term.percentile for term in bounds.get(metric, ()) if term.percentile is not None]
        _latency_lines(axis, points, metric, max(named, default=95.0))
        for term in bounds.get(metric, ()):
            axis.axhline(term.bound_s, **SLO, label="SLO")
        log_seconds(axis)
        axis.set_ylabel(f"{metric.upper()} (s)")
        _estimate(axis, capacity.knee, "knee", GREY)
        if capacity.slo:
            _estimate(axis, capacity.capacity, "holds the SLO", GREEN)
    axes[-1].set_xlabel("offered rate (requests/s per replica)")
    legend(*axes)
    return figure


def signal_against_load(points: pd.DataFrame, capacity: Capacity | None = None) -> Figure:
    """Waiting, running and KV usage over the offered rate, one panel each; filled markers = without a lasting queue."""
    figure, axes = stacked(3, "What each signal says about load", height=1.9)
    ordered = points.dropna(subset=["rate_rps"]).sort_values("rate_rps")
    for axis, (signal, label) in zip(axes, LABELS.items(), strict=True):
        known = ordered.dropna(subset=[signal])
        style = STYLES[signal]
        axis.plot(known["rate_rps"], known[signal], color=style["color"], linestyle=style["linestyle"])
        for state, face in (("steady", style["color"]), ("queued", "white")):
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
    legend(*axes)
    return figure


def replay_error(errors: pd.DataFrame) -> Figure:
    """Measured against predicted, one panel per quantity.

    Columns: quantity (as on the axis, with unit), rate_rps, measured, predicted and, where known, low and high of the
    measurement, and error (relative, when it is not predicted / measured - 1). The title of a panel gives the median
    relative error.
    """
    quantities = list(dict.fromkeys(errors["quantity"]))
    rows = -(-len(quantities) // 2)
    figure = Figure(figsize=(WIDTH_IN, 0.7 + 2.5 * rows), layout="constrained")
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
        dress(axis)
        axis.set_ylabel(quantity)
        highest = np.nanmax(part[["measured", "predicted"]].to_numpy(float), initial=0.0)
        axis.set_ylim(bottom=0.0, top=None if highest > 0 else 1.0)
        axis.set_xlabel("offered rate (requests/s)")
    for axis in grid[len(quantities) :]:
        axis.set_visible(False)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=3, frameon=False, fontsize=9)
    return figure


def _latency_lines(axis: Axes, points: pd.DataFrame, metric: str, percentile: float) -> None:
    colour, marker = STYLES[metric]["color"], STYLES[metric]["marker"]
    lines = [(50.0, "--", "white"), (percentile, "-", colour)]
    for p, line, face in lines[-1:] if percentile == 50 else lines:
        name = f"{metric}_p{p:g}"
        known = points[np.isfinite(points[f"{name}_s"])]
        low, high, value = known[f"{name}_low"], known[f"{name}_high"], known[f"{name}_s"]
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
            label=f"p{p:g}",
        )
    odd = points[points["client_limited"] & np.isfinite(points[f"{metric}_p50_s"])]
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
