"""A run over time as a picture: load, signals and replicas on one clock, thinned to what can be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis import plots, signals
from analysis.run import Run, read
from analysis.slo import Slo, breaches
from autoscale.check import CheckResult
from autoscale.kube.scaler import Hpa

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELLS = 240  # points of a line over time: finer ones cannot be seen, and a page stays small


def run_over_time(
    run: Run,
    *,
    slo: Slo | None = None,
    table: pd.DataFrame | None = None,
    target: Mapping[str, float] | None = None,
    title: str = "Load, signals and replicas",
    show: Sequence[str] = signals.SIGNALS,
) -> Figure | None:
    """Load, signals and replicas of a run over time; None when it holds none of them.

    `table` holds the latencies of the run's requests (`analysis.latency.latencies`): with an SLO the times in which it
    was broken are marked.
    """
    load = rates(run) if run.has("requests") and len(run.requests) else None
    gauges = gauges_of(run)
    replicas = run.replicas if run.has("replicas") and len(run.replicas) else None
    if load is None and gauges is None and replicas is None:
        return None
    spans: list[tuple[float, float]] = []
    if slo is not None and table is not None and len(table):
        length_s = float(table["due_s"].max())
        spans = breaches(slo, table, window_s=max(3.0, min(15.0, length_s / 40), length_s / 480))
    return plots.timeline(
        load=load,
        signals=gauges,
        replicas=None if replicas is None else held_until(replicas, _end_s(load, gauges, replicas)),
        target=target,
        breaches=spans,
        title=title,
        show=show,
    )


def check_over_time(result: CheckResult, load_run: Path) -> Figure:
    """Load, signals and replicas while a check watched, on the load's clock."""
    load, watched = read(load_run), read(result.run_dir)
    shift = watched.started_at - load.started_at
    replicas = watched.replicas.assign(time_s=watched.replicas["time_s"] + shift)
    seen = watched.metrics if watched.has("metrics") and len(watched.metrics) else None
    return plots.timeline(
        load=rates(load),
        signals=None if seen is None else signals.fleet(seen.assign(time_s=seen["time_s"] + shift)),
        replicas=replicas,
        target=Hpa(result.timeline.hpa or {}).signal_targets(),
        title="The scale-out as it was watched",
    )


def rates(run: Run, cells: int = CELLS) -> pd.DataFrame:
    """Offered and served requests/s over time: columns time_s, offered_rps, served_rps."""
    rows = run.requests
    due = rows["due_s"].to_numpy(float)
    done = rows.loc[rows["status"] == "ok", "last_token_s"].dropna().to_numpy(float)
    end = max(float(due.max(initial=1.0)), float(done.max(initial=1.0)))
    edges = np.linspace(0, end, min(cells, max(10, int(end))) + 1)
    width = edges[1] - edges[0]
    return pd.DataFrame(
        {
            "time_s": edges[:-1] + width / 2,
            "offered_rps": np.histogram(due, edges)[0] / width,
            "served_rps": np.histogram(done, edges)[0] / width,
        }
    )


def gauges_of(run: Run) -> pd.DataFrame | None:
    """The fleet's gauges over time in at most CELLS rows (means over each cell); None without metrics."""
    if not run.has("metrics") or not len(run.metrics):
        return None
    series = signals.fleet(run.metrics)
    return thinned(series) if len(series) else None


def thinned(series: pd.DataFrame, cells: int = CELLS) -> pd.DataFrame:
    """Means over equal cells of `time_s`, when there are more rows than cells; an empty cell stays out."""
    if len(series) <= cells:
        return series
    times = series["time_s"].to_numpy(float)
    width = (times[-1] - times[0]) / cells
    cell = np.minimum(((times - times[0]) / width).astype(int), cells - 1)
    return series.groupby(cell).mean(numeric_only=True)


def held_until(replicas: pd.DataFrame, end_s: float) -> pd.DataFrame:
    """Replica counts, which are written at changes only, with a last row that holds them to the end."""
    last = replicas.tail(1).assign(time_s=max(end_s, float(replicas["time_s"].iloc[-1])))
    return pd.concat([replicas, last], ignore_index=True)


def _end_s(*tables: pd.DataFrame | None) -> float:
    return max(float(table["time_s"].max()) for table in tables if table is not None)
