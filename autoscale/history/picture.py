"""The picture of what was learned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis.plots.history import days
from analysis.plots.style import save
from autoscale.history.learned import LearnedTraffic
from autoscale.history.traffic_file import curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def days_figure(learned: LearnedTraffic) -> Figure:
    """The days: requests/s and the load file's curve, and the replicas that were scraped."""
    came = learned.came
    cv = 1.0 if learned.burstiness is None else learned.burstiness.cv
    return days(
        learned.window[0],
        came.step_s,
        came.rate_rps,
        came.replicas,
        came.gap,
        curve(came, cv),
        f"{learned.model}: requests and replicas",
    )


def days_picture(learned: LearnedTraffic, path: Path) -> Path:
    """Write the days as a PNG; returns its path."""
    return save(days_figure(learned), path)
