"""Figures that set things side by side: settings by cost and attainment, bars, curves, panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

from analysis.plots.style import BLACK, GREY, HATCHES, SERIES, SLO, cycle, legend, log_seconds, stacked


def pareto(
    candidates: pd.DataFrame,
    chosen: str | None = None,
    asked: float | None = None,
    attainment_label: str = "requests within the SLO (%)",
    annotate: Sequence[str] = (),
    title: str = "Cost against SLO attainment",
) -> Figure:
    """Cost against SLO attainment. Columns of `candidates`: name, kind, cost, attainment (0-1) and, where known,
    attainment_low, attainment_high; points of one kind share a marker, those not beaten by another are joined. The
    names of `annotate` are written beside their points. What lies further below `asked` than it may lie above stands at
    the lower edge, hollow, with its attainment beside its name."""
    figure, (axis,) = stacked(1, title, height=4.4)
    candidates, far = _raised(candidates, asked)
    _points(axis, candidates)
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
        axis.axhline(100 * asked, **SLO, label=f"asked: {100 * asked:g} %")
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
    if len(far):
        axis.plot(
            far["cost"],
            100 * far["attainment"],
            "v",
            color=GREY,
            markerfacecolor="none",
            markersize=9,
            label="far below",
        )
    axis.set_xlabel("cost (accelerator-hours)")
    axis.set_ylabel(attainment_label)
    legend(axis)
    _names(axis, candidates, [name for name in candidates["name"] if str(name).split(" (")[0] in annotate])
    return figure


def _points(axis: Axes, candidates: pd.DataFrame) -> None:
    for (kind, part), style in zip(candidates.groupby("kind", sort=False), cycle(SERIES), strict=False):
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


def _raised(candidates: pd.DataFrame, asked: float | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The candidates with those far below what is asked raised to the lower edge, which they would else stretch; and those."""
    if not asked:
        return candidates, candidates.iloc[:0]
    edge = asked - 2 * (1 - asked)
    far = candidates["attainment"] < edge
    told = [
        f"{name} ({share:.0%})"
        for name, share in zip(candidates["name"], candidates["attainment"], strict=True)
    ]
    raised = candidates.assign(
        name=candidates["name"].where(~far, pd.Series(told, candidates.index)),
        attainment=candidates["attainment"].clip(lower=edge),
    )
    for side in {"attainment_low", "attainment_high"} & set(candidates):
        raised[side] = candidates[side].where(~far, edge)
    return raised, raised[far]


def bars(
    table: pd.DataFrame, value_label: str, title: str, line: float | None = None, line_label: str = ""
) -> Figure:
    """Grouped horizontal bars, for regret or a comparison. `table`: index = rows, columns = series; NaN = not known."""
    figure, (axis,) = stacked(1, title, height=1.2 + 0.24 * len(table) * (len(table.columns) + 1))
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
        axis.axvline(line, **SLO, label=line_label)
    axis.set_yticks(range(len(table)), [str(name) for name in table.index])
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel(value_label)
    axis.grid(axis="y", visible=False)
    legend(axis)
    return figure


def curves(
    series: Mapping[str, tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    x_label: str,
    y_label: str,
    title: str,
) -> Figure:
    """Lines with intervals as bands: name -> (x, y) or (x, y, low, high)."""
    figure, (axis,) = stacked(1, title, height=3.8)
    for (name, values), style in zip(series.items(), cycle(SERIES), strict=False):
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
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    legend(axis)
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
    figure, axes = stacked(len(quantities), title, height=1.9)
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
            log_seconds(axis)
        else:
            axis.set_ylim(bottom=0)
    axes[-1].set_xlabel(x_label)
    legend(*axes)
    return figure


SHIFTS = (0, 13, -13, 26, -26, 39, -39, 52, -52)  # points up or down, a line each


def _names(axis: Axes, candidates: pd.DataFrame, names: Sequence[str]) -> None:
    """Names beside their points, towards the middle first, moved up or down by lines to where they cover least: another
    name never if that can be, a marker as seldom as can be. Points that nearly coincide share one text."""
    figure = axis.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # settles the layout, so that extents can be compared
    renderer = FigureCanvasAgg(figure).get_renderer()
    half_px = 5 * figure.dpi / 72  # of a marker
    at = axis.transData.transform(np.column_stack([candidates["cost"], 100 * candidates["attainment"]]))
    markers = [Bbox.from_extents(x - half_px, y - half_px, x + half_px, y + half_px) for x, y in at]
    middle = (candidates["cost"].min() + candidates["cost"].max()) / 2
    written: list[Bbox] = []
    for x, y, here in _shared_places(candidates, names):
        text = axis.annotate(
            ",\n".join(here),
            (x, 100 * y),
            xytext=(0, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 6},
        )
        inwards = -1 if x > middle else 1
        tried: list[tuple[int, int, int, int, Bbox]] = []
        for side in (inwards, -inwards):
            for shift in SHIFTS:
                _move(text, side, shift)
                text.update_positions(renderer)
                extent = Text.get_window_extent(text, renderer)  # of the words, without the line to the point
                inside = axis.bbox.fully_containsx(extent.x0) and axis.bbox.fully_containsx(extent.x1)
                inside &= axis.bbox.fully_containsy(extent.y0) and axis.bbox.fully_containsy(extent.y1)
                covered = 100 * extent.count_overlaps(written) + extent.count_overlaps(markers)
                tried.append((covered + 1000 * (not inside), len(tried), side, shift, extent))
        _, _, side, shift, extent = min(tried)
        _move(text, side, shift)
        written.append(extent)


def _move(text: Annotation, side: int, shift: int) -> None:
    text.set_position((13 * side, shift))
    text.set_horizontalalignment("right" if side < 0 else "left")


def _shared_places(candidates: pd.DataFrame, names: Sequence[str]) -> list[tuple[float, float, list[str]]]:
    """(cost, attainment, names) of the points with a name; those within a twelfth of both ranges are one."""
    cost, attainment = candidates["cost"], candidates["attainment"]
    near = [max(float(np.ptp(column)) / 12, 1e-9) for column in (cost, attainment)]
    places: list[tuple[float, float, list[str]]] = []
    for name in names:
        chosen = candidates["name"] == name
        for x, y in zip(cost[chosen], attainment[chosen], strict=True):
            beside = [p for p in places if abs(p[0] - x) < near[0] and abs(p[1] - y) < near[1]]
            if beside:
                beside[0][2].append(name)
            else:
                places.append((x, y, [name]))
    return places


def _bars_of_error(axis: Axes, part: pd.DataFrame, colour: str) -> None:
    low = (part["attainment"] - part["attainment_low"]).clip(lower=0)
    high = (part["attainment_high"] - part["attainment"]).clip(lower=0)
    axis.errorbar(
        part["cost"],
        100 * part["attainment"],
        yerr=100 * np.array([low, high]),
        fmt="none",
        ecolor=colour,
        alpha=0.5,
        elinewidth=1,
    )
