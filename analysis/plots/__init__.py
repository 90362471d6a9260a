"""Every figure of the project, in one visual language: functions from data to a matplotlib Figure."""

from analysis.plots.compare import bars, curves, panels, pareto
from analysis.plots.load import capacity_curve, replay_error, signal_against_load
from analysis.plots.over_time import latency_over_time, phases, timeline
from analysis.plots.style import LABELS, SERIES, save

__all__ = [
    "LABELS",
    "SERIES",
    "bars",
    "capacity_curve",
    "curves",
    "latency_over_time",
    "panels",
    "pareto",
    "phases",
    "replay_error",
    "save",
    "signal_against_load",
    "timeline",
]
