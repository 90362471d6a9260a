"""The picture of what was learned."""

from __future__ import annotations

from pathlib import Path

from analysis.plots.history import days
from analysis.plots.style import save
from autoscale.history.learned import LearnedTraffic
from autoscale.history.traffic_file import curve


def days_picture(learned: LearnedTraffic, path: Path) -> Path:
    """Write the days as a PNG; returns its path."""
    came = learned.came
    cv = 1.0 if learned.burstiness is None else learned.burstiness.cv
    figure = days(
        learned.window[0],
        came.step_s,
        came.rate_rps,
        came.replicas,
        came.gap,
        curve(came, cv),
        f"{learned.model}: requests and replicas",
    )
    return save(figure, path)
