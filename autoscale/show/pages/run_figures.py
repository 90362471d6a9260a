"""The pictures of one run's page: latency and signals against load, load and signals over time."""

from __future__ import annotations

from analysis import plots
from analysis.capacity import Capacity
from analysis.opened import OpenedRun
from analysis.run import SIGNALS
from autoscale.show.over_time import drawn_over_time, run_over_time
from autoscale.show.pages.page import Picture, picture


def timeline_figure(seen: OpenedRun) -> Picture | None:
    clock = "time" if seen.run.clock_rate == 1 else "true time"
    made = run_over_time(seen.run, slo=seen.slo, table=seen.table, clock=clock)
    if made is None:
        return None
    notes = ["Signals are means over the replicas that reported."] if seen.gauges is not None else []
    if seen.slo is not None and seen.table is not None:
        notes.append("Shaded: windows in which the SLO was broken.")
    return picture(
        made,
        f"Load, signals and replicas of {seen.name} over time",
        " ".join(notes),
    )


def latency_figure(seen: OpenedRun) -> Picture | None:
    """Latency over time where the timeline has none: of a run whose SLO bounds no percentile of a request."""
    if seen.table is None or not seen.table["ok"].any():
        return None
    if seen.slo is not None and drawn_over_time(seen.slo, seen.table):
        return None
    return picture(
        plots.latency_over_time(seen.table, seen.slo.bounds_s() if seen.slo else None),
        f"Latency of {seen.name} over time",
        "Median and the band from the 5th to the 95th percentile, by the time the request was due.",
    )


def load_figure(capacity: Capacity) -> Picture | None:
    """Latency against load, when there are two stages to join."""
    if capacity.points["ttft_p50_s"].notna().sum() < 2 and capacity.points["e2e_p50_s"].notna().sum() < 2:
        return None
    return picture(
        plots.capacity_curve(capacity),
        f"Latency against load: knee {capacity.knee}",
        "One dot per stage, with 95% intervals as bands.",
    )


def signal_figure(capacity: Capacity) -> Picture | None:
    """The server's signals against load, when two stages hold any."""
    if (capacity.points[list(SIGNALS)].notna().sum() < 2).all():
        return None
    return picture(
        plots.signal_against_load(capacity.points, capacity),
        "Server signals against the offered rate",
        "Filled: without a lasting queue.",
    )
