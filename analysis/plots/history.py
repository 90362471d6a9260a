"""A service over days: what came, and on how many replicas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from analysis.plots.style import BLUE, GREY, SKY, legend, stacked

DAY_S = 86_400.0


def days(
    start: float,
    step_s: float,
    rate_rps: ArrayLike,
    replicas: ArrayLike,
    gap: NDArray[np.bool_],
    curve: Sequence[tuple[float, float]],
    title: str,
) -> Figure:
    """Requests per second and replicas per bin of `step_s` from `start` (unix s, shown in UTC), gaps in grey.

    `curve` are the [seconds, requests/s] of a load file; rate_rps, replicas and gap float or bool[n].
    """
    rate = np.asarray(rate_rps, np.float64)
    figure, axes = stacked(2, title, height=2.0)

    def at(seconds: ArrayLike) -> NDArray[np.float64]:
        return (start + np.asarray(seconds, np.float64)) / DAY_S  # matplotlib counts days since 1970

    times = at(np.arange(len(rate) + 1) * step_s)
    axes[0].stairs(rate, times, color=SKY, linewidth=0.8, label=f"came, per {step_s:.0f} s")
    seconds, values = zip(*curve, strict=True)
    axes[0].plot(at(seconds), values, color=BLUE, linewidth=1.3, label="load file")
    axes[0].set_ylabel("requests/s")
    axes[1].stairs(np.asarray(replicas, np.float64), times, color=BLUE, linewidth=1.2)
    axes[1].set_ylabel("replicas scraped")
    for axis in axes:
        axis.set_ylim(bottom=0)
        changes = np.flatnonzero(np.diff(np.concatenate([[0], gap.astype(np.int8), [0]])))
        for k, (first, end) in enumerate(zip(changes[::2], changes[1::2], strict=True)):
            axis.axvspan(
                times[first], times[end], color=GREY, alpha=0.3, label="" if k else "nothing was scraped"
            )
    locator = AutoDateLocator()
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes[-1].set_xlabel("time (UTC)")
    legend(axes[0])
    return figure
