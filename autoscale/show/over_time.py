"""A run over time as a picture: load, signals and replicas on one clock, thinned to what can be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis import plots, signals
from analysis.numbers import known
from analysis.run import SIGNALS, Run, read
from analysis.slo import PER_REQUEST, Slo, Term, breaches
from autoscale.check import CheckResult
from autoscale.kube.scaler import Hpa
from autoscale.show.check_words import clock_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOWS = 160  # in which percentiles are taken and the SLO is judged over time
CELLS = 240  # points of a line over time: finer ones cannot be seen, and a page stays small


def run_over_time(
    run: Run,
    *,
    slo: Slo | None = None,
    table: pd.DataFrame | None = None,
    target: Mapping[str, float] | None = None,
    title: str = "Load, signals and replicas",
    show: Sequence[str] = SIGNALS,
    clock: str = "time",
) -> Figure | None:
    """Load, signals and replicas of a run over time; None when it holds none of them.

    `table` holds the latencies of the run's requests (`analysis.latency.latencies`): with an SLO the times in which it
    was broken are marked, and the percentiles that it asks about are drawn against their bounds.
    """
    load = rates(run) if run.has("requests") and len(run.requests) else None
    gauges = gauges_of(run)
    replicas = run.replicas if run.has("replicas") and len(run.replicas) else None
    if load is None and gauges is None and replicas is None:
        return None
    spans: list[tuple[float, float]] = []
    latency: dict[Term, pd.DataFrame] = {}
    if slo is not None and table is not None and len(table):
        length_s = float(table["due_s"].max())
        window_s = max(3.0, min(15.0, length_s / 40), length_s / WINDOWS)
        spans, latency = breaches(slo, table, window_s), percentiles_over_time(slo, table, window_s)
    return plots.timeline(
        load=load,
        signals=gauges,
        replicas=None if replicas is None else held_until(replicas, _end_s(load, gauges, replicas)),
        target=target,
        breaches=spans,
        title=title,
        show=show,
        latency=latency,
        clock=clock,
    )


def percentiles_over_time(slo: Slo, table: pd.DataFrame, window_s: float) -> dict[Term, pd.DataFrame]:
    """Per percentile that the SLO asks about its value in windows of `window_s` of the due time: time_s, value_s.

    Requests that never finished have no latency: a window whose percentile lies among them has no value.
    """
    found = {}
    windows = table.groupby(table["due_s"] // window_s)
    for term in drawn_over_time(slo, table):
        share = (term.percentile or 0.0) / 100
        value_s = windows[f"{term.metric}_s"].quantile(share, interpolation="higher")
        value_s = value_s.where(windows["ok"].mean() >= share)
        found[term] = pd.DataFrame(
            {"time_s": (value_s.index + 0.5) * window_s, "value_s": value_s.to_numpy()}
        )
    return found


def drawn_over_time(slo: Slo, table: pd.DataFrame) -> list[Term]:
    """The percentiles that the SLO asks about and requests tell."""
    asked = (t for t in slo.percentile_terms() if t.metric in PER_REQUEST and t.percentile)
    return [term for term in asked if table[f"{term.metric}_s"].notna().any()]


def check_over_time(result: CheckResult, load_run: Path | None) -> Figure | None:
    """Load, signals and replicas while a check watched, all on the clock of what was watched; None when it saw nothing.

    Rates stay requests per true second: on a fleet with a compressed control plane only its time is simulated.
    """
    watched = read(result.run_dir)
    if not watched.has("replicas") or watched.replicas.empty:
        return None
    rate, started = result.rate, watched.started_at
    sent = None
    if load_run is not None and (load := read(load_run)).has("requests") and len(load.requests):
        table = rates(load)
        sent = table.assign(time_s=(table["time_s"] + load.started_at - started) * rate)
    seen = gauges_of(watched)
    replicas = watched.replicas.assign(time_s=watched.replicas["time_s"] * rate)
    steered = Hpa(result.timeline.hpa or {}).signal_targets()
    broken = result.judgement.history.breach_s
    zero_s = watched.started_at * rate + result.ahead_s
    end_s = result.timeline.last_s
    return plots.timeline(
        load=sent,
        signals=None if seen is None else seen.assign(time_s=seen["time_s"] * rate),
        replicas=held_until(replicas, max(end_s - zero_s, 0.0)),
        target=steered,
        breaches=[(broken[0] - zero_s, (broken[1] if known(broken[1]) else end_s) - zero_s)]
        if broken
        else [],
        title="The scale-out as it was watched",
        show=[*steered, *(name for name in ("waiting",) if name not in steered)],
        rates="requests/s" if rate == 1 else "requests per\ntrue second",
        clock=clock_words(rate) + ("" if rate == 1 else f", {rate:g} times as fast as the clients'"),
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
