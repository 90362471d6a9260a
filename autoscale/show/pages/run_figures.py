"""The pictures of one run's page: load and signals over time, latency over time, capacity."""

from __future__ import annotations

from analysis import plots
from analysis.capacity import Capacity
from analysis.opened import OpenedRun
from analysis.signals import SIGNALS
from autoscale.show.over_time import run_over_time
from autoscale.show.pages.page import Picture, picture


def timeline_figure(seen: OpenedRun) -> Picture | None:
    made = run_over_time(seen.run, slo=seen.slo, table=seen.table)
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
    if seen.table is None or not seen.table["ok"].any():
        return None
    bounds = seen.slo.bounds_s() if seen.slo else None
    return picture(
        plots.latency_over_time(seen.table, bounds),
        f"Latency of {seen.name} over time",
        "Median and the band from the 5th to the 95th percentile, by the time the request was due.",
    )


def run_capacity_figures(capacity: Capacity) -> list[Picture]:
    """The curves of latency and signals against load, when there are two stages to join."""
    if capacity.points["ttft_p50_s"].notna().sum() < 2 and capacity.points["e2e_p50_s"].notna().sum() < 2:
        return []
    figures = [
        picture(
            plots.capacity_curve(capacity),
            f"Latency against load: knee {capacity.knee}",
            "One dot per stage, with 95% intervals as bands.",
        )
    ]
    if capacity.points[list(SIGNALS)].notna().any().any():
        figures.append(
            picture(
                plots.signal_against_load(capacity.points, capacity),
                "Server signals against the offered rate",
            )
        )
    return figures
