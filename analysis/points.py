"""Operating points: what one replica gave, and how it felt, at each rate that was tried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.latency import percentile
from analysis.run import SIGNALS
from analysis.steady import FULL_SHARE, Observed, StageWindow

PERCENTILES = (50.0, 95.0, 99.0)
_FEWEST_BLOCKS = (
    8  # blocks in time from which the spread of the throughput is read; with fewer, from the requests
)


@dataclass(frozen=True)
class Served:
    """Throughput of all replicas over some time: `rate_rps`, its relative standard error, the degrees of freedom of
    that error, and `busy` = the mean number of requests in service."""

    rate_rps: float
    error: float
    freedom: int
    busy: float


def operating_points(
    observed: Observed, windows: tuple[StageWindow, ...], percentiles: Iterable[float] = ()
) -> pd.DataFrame:
    """One row per stage; rates and counts of requests are per replica, gauges are means over replicas.

    stage, state, usable, client_limited, planned_rps, rate_rps (offered), throughput_rps with _low, _high and _error
    (relative), freedom, busy (requests in service), service_s (mean time in service, at the run's mean output length), service_error, count,
    failed, replicas, duration_s, waiting, running, kv_usage, tokens_per_s (generated), and METRIC_pP_s with _low and
    _high for ttft, tpot, e2e at p50, p95, p99 and `percentiles`. NaN = not known, or too few samples; infinite = so many of the requests
    that were sent were not served.

    Throughput counts every request by the share of its time in service that lies in the window, so that requests cut
    by the window's ends are no noise. In queued stages the window is the time in which requests were queued.
    """
    tokens = observed.table.loc[observed.table["ok"], "output_tokens"].mean()
    asked = sorted({*PERCENTILES, *percentiles})
    return pd.DataFrame([_point(observed, window, tokens, asked) for window in windows])


def served(observed: Observed, edges_s: NDArray[np.float64], inside: NDArray[np.bool_]) -> Served | None:
    """Throughput in the cells of time marked `inside` (edges one longer); None when nothing was served in them.

    The error is that of a ratio over requests (the completion rate of a full batch is seats / mean service time), or
    of blocks of two service times when there are at least six of them.
    """
    counted = np.concatenate([[0.0], np.cumsum(np.diff(edges_s) * inside)])
    ok = observed.table["ok"].to_numpy()
    start, end = observed.service_start_s[ok], observed.table["last_token_s"].to_numpy()[ok]
    overlapping = (end > edges_s[0]) & (start < edges_s[-1]) & (end > start)
    start, end = start[overlapping], end[overlapping]
    total_s = counted[-1]
    overlap_s = np.interp(end, edges_s, counted) - np.interp(start, edges_s, counted)
    share = overlap_s / (end - start)
    if total_s <= 0 or share.sum() <= 0:
        return None
    rate, busy = share.sum() / total_s, overlap_s.sum() / total_s
    residual = share - overlap_s * (share.sum() / overlap_s.sum())
    error, freedom = float(np.sqrt((residual**2).sum()) / share.sum()), max(int(share.sum()) - 1, 1)
    counts = np.interp(start, edges_s, counted), np.interp(end, edges_s, counted)
    for length in (2, 4, 8):  # in service times: a server that wanders slowly shows in long blocks only
        blocks = int(min(total_s / (length * (end - start).mean()), 60))
        if blocks < _FEWEST_BLOCKS:
            break
        rates = _block_rates(*counts, 1 / (end - start), np.linspace(0, total_s, blocks + 1))
        spread = float(rates.std(ddof=1) / np.sqrt(blocks) / rates.mean())
        if spread > error:
            error, freedom = spread, blocks - 1
    return Served(float(rate), error, freedom, float(busy))


def _block_rates(
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    weight: NDArray[np.float64],
    cuts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean over each block between `cuts` of the summed weights of the intervals [start, end) that are open."""

    def begun(moments: NDArray[np.float64]) -> NDArray[np.float64]:
        order = np.argsort(moments)
        sums = np.concatenate([[0.0], np.cumsum(weight[order])])
        moment_sums = np.concatenate([[0.0], np.cumsum((weight * moments)[order])])
        index = np.searchsorted(moments[order], cuts)
        return cuts * sums[index] - moment_sums[index]  # integral up to each cut of the weights begun by then

    return np.diff(begun(start) - begun(end)) / np.diff(cuts)


def _point(
    observed: Observed, window: StageWindow, mean_tokens: float, percentiles: Sequence[float]
) -> dict[str, object]:
    rows = observed.rows(window.stage)
    replicas = window.replicas
    queued = window.state == "queued"
    if queued:
        edges, inside = _queued_time(observed, window)
        sample = rows
    else:
        whole = np.isnan(window.from_s)
        edges = np.array([window.start_s if whole else window.from_s, window.end_s])
        inside = np.array([True])
        sample = rows[rows["due_s"].between(edges[0], edges[1])]
    known = served(observed, edges, inside)
    rate = known.rate_rps / replicas if known else np.nan
    error = known.error if known else np.nan
    margin = stats.t.ppf(0.975, known.freedom) * error if known else np.nan
    service_s, service_error = _service(observed, sample, mean_tokens)
    if queued and known:  # Little's law: requests that were preempted spent part of their time in the queue
        service_s, service_error = known.busy / known.rate_rps, known.error
    point: dict[str, object] = {
        "stage": window.stage,
        "state": window.state,
        "usable": window.usable,
        "client_limited": bool(window.client),
        "planned_rps": window.planned_rps / replicas,
        "rate_rps": (len(sample) / (edges[-1] - edges[0]) if not queued else window.offered_rps) / replicas,
        "throughput_rps": rate,
        "throughput_low": rate * (1 - margin),
        "throughput_high": rate * (1 + margin),
        "throughput_error": error,
        "freedom": known.freedom if known else 0,
        "busy": known.busy / replicas if known else np.nan,
        "service_s": service_s,
        "service_error": service_error,
        "count": int(sample["ok"].sum()),
        "failed": int((~sample["ok"]).sum()),
        "replicas": replicas,
        "duration_s": window.end_s - window.start_s,
    }
    generated = sample["output_tokens"].mean()
    point["tokens_per_s"] = rate * generated
    gauges = observed.series
    if gauges is not None:
        gauges = gauges[gauges["time_s"].between(edges[0], window.end_s)]
    for signal in SIGNALS:
        point[signal] = gauges[signal].mean() if gauges is not None and len(gauges) else np.nan
    return point | _latencies(sample, percentiles)


def _latencies(sample: pd.DataFrame, percentiles: Sequence[float]) -> dict[str, float]:
    """Percentiles of TTFT, TPOT and E2E; requests that were sent and not served are slower than any."""
    unserved = int((~sample["ok"] & sample["sent_s"].notna()).sum())
    found: dict[str, float] = {}
    for metric in ("ttft", "tpot", "e2e"):
        for p in percentiles:
            value = percentile(sample[f"{metric}_s"], p, unserved=unserved)
            name = f"{metric}_p{p:g}"
            found |= {f"{name}_s": value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    return found


def _queued_time(observed: Observed, window: StageWindow) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cells of the stage, and of the pause behind it, and whether requests were queued in them.

    In the pause the queue that is left keeps the batch full. The stage is one cell when the queue is unknown.
    """
    later = observed.stages.loc[observed.stages["start_s"] >= window.end_s - 1e-6, "start_s"]
    until_s = float(later.min()) if len(later) else np.inf
    edges, full = observed.full_edges_s, observed.full
    cells = (edges[:-1] >= window.start_s) & (edges[1:] <= until_s)
    if not (cells & (full >= FULL_SHARE)).any():
        return np.array([window.start_s, window.end_s]), np.array([True])
    first, last = np.flatnonzero(cells)[[0, -1]]
    return edges[first : last + 2], full[first : last + 1] >= FULL_SHARE


def _service(observed: Observed, sample: pd.DataFrame, mean_tokens: float) -> tuple[float, float]:
    """Mean time in service in s, and its relative error; brought to the run's mean output length where it is known."""
    good = sample[sample["ok"]]
    spent = (good["last_token_s"] - observed.service_start_s[good.index]).to_numpy()
    if not spent.size or spent.mean() <= 0:
        return np.nan, np.nan
    tokens = good["output_tokens"].to_numpy()
    if np.isfinite(tokens).all() and mean_tokens > 0:
        mean = spent.sum() / tokens.sum() * mean_tokens
        residual = spent - tokens * (spent.sum() / tokens.sum())
        return float(mean), float(np.sqrt((residual**2).sum()) / spent.sum())
    return float(spent.mean()), float(spent.std() / spent.mean() / np.sqrt(spent.size))
