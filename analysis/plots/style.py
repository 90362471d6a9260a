"""The one visual language of all figures: colours, line styles, panels, legends, axes.

Colours are those of Okabe and Ito, which the colour-blind can tell apart; every series also has its own line style,
marker or hatch, so that a figure reads in grey. SLO lines are vermilion and dashed, intervals are bands of their line's
colour, breaches are hatched. Axes carry units. Figures belong to nobody's global state: `save` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

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
SLO: dict[str, Any] = {"color": VERMILION, "linestyle": (0, (6, 2)), "linewidth": 1.6}
WIDTH_IN = 6.0  # at 390 px, a phone, text is still 9 px high
FONT = {"size": 10.5}
LEGEND_LETTERS = 80  # in a line of a legend, its handles (6 each) included


def save(figure: Figure, path: Path | str) -> Path:
    """Write the figure as PNG (1200 pixels wide) or SVG, by the path's suffix; returns the path."""
    path = Path(path)
    dpi = 1200 / float(figure.get_figwidth())
    with rc_context({"svg.hashsalt": "llm-autoscale"}):  # the same data give the same bytes
        figure.savefig(path, dpi=dpi, metadata={"Date": None} if path.suffix == ".svg" else {})
    return path


def stacked(count: int, title: str, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels under each other that share the x axis; `height` in inches each."""
    figure = Figure(figsize=(WIDTH_IN, 0.9 + height * count), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    axes = list(figure.subplots(count, 1, sharex=True, squeeze=False).ravel())
    for axis in axes:
        dress(axis)
    return figure, axes


def dress(axis: Axes) -> None:
    axis.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=FONT["size"] - 1)
    axis.xaxis.label.set_fontsize(FONT["size"])
    axis.yaxis.label.set_fontsize(FONT["size"])


def legend(axis: Axes, *others: Axes) -> None:
    """The legend above the panel, where it covers no data; with what only the `others` show, too. Nothing when there is
    nothing to name."""
    unique: dict[str, Any] = {}
    for panel in (axis, *others):
        handles, labels = panel.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True)) | unique
    if not unique:
        return
    longest = max(map(len, unique))
    axis.legend(
        list(unique.values()),
        list(unique),
        frameon=False,
        fontsize=9,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncol=max(
            1, min(3, LEGEND_LETTERS // (longest + 6))
        ),  # wider than the figure, and the panel has no room left
        columnspacing=1.2,
        handlelength=2.4,
    )


def log_seconds(axis: Axes) -> None:
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


def line(axis: Axes, x: ArrayLike, y: ArrayLike, style: Mapping[str, Any], label: str, **more: Any) -> None:
    axis.plot(x, y, color=style["color"], linestyle=style["linestyle"], linewidth=1.5, label=label, **more)


def time_unit(longest_s: float) -> tuple[float, str]:
    if longest_s > 3 * 86400:
        return 86400.0, "days"
    if longest_s > 3 * 3600:
        return 3600.0, "h"
    return (60.0, "min") if longest_s > 300 else (1.0, "s")


def cycle(styles: list[dict[str, Any]]) -> Any:
    while True:
        yield from styles
