"""What the server's gauges say: as the HPA sees them, in step with the client's clock, against load, ahead of the SLO.

A pod's waiting and running are summed over its engines and its KV usage is their mean; the fleet's value is the mean
over the pods that report, which is what an HPA compares with averageValue. A pod that does not report is missing,
never zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.latency import in_flight
from analysis.run import SIGNALS

_STALE_STEPS = 2  # a scrape stands in for at most this many missing ones after it
_LARGEST_OFFSET_S = 1800.0
_BELIEVED = 0.9  # correlation of requests in flight at both ends: these are the same requests
_APART = 0.1  # of the run's length: offsets further away are other explanations
_GRID = 4000  # points of the clock search: 1 s up to an hour, coarser beyond


@dataclass(frozen=True)
class ClockOffset:
    """How far the metrics' clock runs ahead of the client's.

    `offset_s` is what has been found (0 when nothing speaks for an offset), `correlation` between requests in flight
    at the client and in the server at that offset, `correlation_at_zero` without correction; NaN = could not be tested.
    """

    offset_s: float
    correlation: float
    correlation_at_zero: float

    def __str__(self) -> str:
        if np.isnan(self.correlation):
            return "clocks of client and metrics could not be compared: no metrics, or they do not vary with the load"
        if self.offset_s:
            return (
                f"metrics are stamped {abs(self.offset_s):.0f} s {'ahead of' if self.offset_s > 0 else 'behind'} the"
                f" client's clock; corrected (correlation {self.correlation_at_zero:.2f} -> {self.correlation:.2f})"
            )
        return f"clocks of client and metrics agree (correlation {self.correlation:.2f})"


def per_pod(metrics: pd.DataFrame) -> pd.DataFrame:
    """Gauges per pod on a common time grid: time_s, pod, waiting, running, kv_usage.

    The grid's step is the usual time between scrapes of a pod. A pod of several engines counts only when all of them
    reported; a gap is bridged for at most two steps and is NaN (left out) beyond.
    """
    columns = ["time_s", "pod", *SIGNALS]
    frame = metrics.dropna(subset=list(SIGNALS), how="all")
    frame = frame.dropna(subset=["time_s", "pod", "engine"])
    if frame.empty:
        return pd.DataFrame({c: pd.Series(dtype="float64") for c in columns})
    step_s = scrape_interval_s(frame)
    slot = np.floor(frame["time_s"].to_numpy() / step_s + 1e-9).astype("int64")
    cells = frame.assign(slot=slot).groupby(["pod", "engine", "slot"])[list(SIGNALS)].last()
    near = np.unique(slot[:, None] + np.arange(_STALE_STEPS + 1))  # not the time in which nobody reported
    filled = []
    for (pod, engine), part in cells.groupby(level=["pod", "engine"]):
        series = part.droplevel([0, 1])
        slots = near[(near >= series.index.min()) & (near <= series.index.max() + _STALE_STEPS)]
        series = series.reindex(slots).ffill(limit=_STALE_STEPS)
        filled.append(series[series.index <= slot.max()].assign(pod=pod, engine=engine))
    engines = pd.concat(filled).rename_axis("slot").reset_index()
    grouped = engines.groupby(["slot", "pod"])[list(SIGNALS)]
    whole = grouped.sum().where(
        grouped.count().eq(grouped.size(), axis=0)
    )  # NaN unless every engine reported
    whole["kv_usage"] /= grouped.size()
    table = whole.dropna(how="all").reset_index()
    table["time_s"] = table.pop("slot") * step_s
    return table[columns].sort_values(["time_s", "pod"], ignore_index=True)


def fleet(metrics: pd.DataFrame) -> pd.DataFrame:
    """The HPA's view over time: time_s, pods (that reported), waiting, running, kv_usage (means over pods),
    full (share of pods with a queue) and in_system (waiting + running over all pods)."""
    pods = per_pod(metrics)
    pods["full"] = (pods["waiting"] >= 1).astype(float).where(pods["waiting"].notna())
    pods["in_system"] = pods["waiting"] + pods["running"]
    grouped = pods.groupby("time_s")
    series = grouped[[*SIGNALS, "full"]].mean()
    series["pods"] = grouped["pod"].nunique()
    series["in_system"] = grouped["in_system"].sum(min_count=1)
    return series.reset_index()


def scrape_interval_s(metrics: pd.DataFrame) -> float:
    """The usual time in s between scrapes of one engine; 1 when there are too few to tell."""
    gaps = metrics.sort_values("time_s").groupby(["pod", "engine"])["time_s"].diff().dropna()
    gaps = gaps[gaps > 0]
    return max(1e-3, float(round(gaps.median(), 3))) if len(gaps) else 1.0


def clock_offset(table: pd.DataFrame, metrics: pd.DataFrame) -> ClockOffset:
    """Offset of the metrics' clock from the client's, by cross-correlation of requests in flight and in the server.

    `table` holds the client's latencies (`analysis.latency.latencies`). Offsets of up to 30 minutes are tried. One is
    believed when it is larger than the scrapes can blur, explains the server clearly better than none does and than any
    other offset does (the unexplained variance at least halved), and correlates at 0.9 or more; otherwise the clocks
    are taken to agree.
    """
    series = fleet(metrics)
    sent = table.dropna(subset=["sent_s"])
    if len(series) < 10 or len(sent) < 10:
        return ClockOffset(0.0, np.nan, np.nan)
    blur_s = scrape_interval_s(metrics)
    client_span = (sent["sent_s"].min(), np.nanmax(sent[["sent_s", "left_s"]].to_numpy()))
    span_s = max(client_span[1], series["time_s"].max()) - min(client_span[0], series["time_s"].min())
    step_s = max(1.0, blur_s, span_s / _GRID)
    times = np.arange(client_span[0], client_span[1] + step_s, step_s)
    client = in_flight(sent["sent_s"], sent["left_s"], times)
    offsets = np.arange(-_LARGEST_OFFSET_S, _LARGEST_OFFSET_S + step_s, step_s)
    offsets -= offsets[np.argmin(np.abs(offsets))]
    scores = np.array([_agreement(times + offset, client, series) for offset in offsets])
    zero = float(scores[np.argmin(np.abs(offsets))])
    if np.all(np.isnan(scores)):
        return ClockOffset(0.0, np.nan, np.nan)
    best = int(np.nanargmax(scores))
    correlation, offset_s = float(scores[best]), float(offsets[best])
    apart = np.abs(offsets - offset_s) > max(
        _APART * span_s, 4 * step_s
    )  # another peak, not the same one's flank
    second = float(np.nanmax(scores[apart], initial=-1.0))
    rivals = [score for score in (zero, second) if np.isfinite(score)]
    unexplained = min((1 - max(score, 0.0) ** 2 for score in rivals), default=1.0)
    clear = correlation >= _BELIEVED and 1 - correlation**2 <= 0.5 * unexplained
    if not clear or abs(offset_s) <= 2 * max(blur_s, step_s):
        return ClockOffset(0.0, zero, zero)
    return ClockOffset(offset_s, correlation, zero)


def _agreement(at_s: NDArray[np.float64], client: NDArray[np.float64], series: pd.DataFrame) -> float:
    """Correlation over the common time, if that is at least a third of the shorter record and both vary."""
    times, values = series["time_s"].to_numpy(), series["in_system"].to_numpy(dtype=float)
    inside = (at_s >= times[0]) & (at_s <= times[-1])
    shorter = min(at_s[-1] - at_s[0], times[-1] - times[0])
    if inside.sum() < 10 or (at_s[inside][-1] - at_s[inside][0]) < shorter / 3:
        return np.nan
    server = values[np.searchsorted(times, at_s[inside], side="right") - 1]
    known = np.isfinite(server)
    x, y = client[inside][known], server[known]
    if x.size < 10 or x.std() == 0 or y.std() == 0:
        return np.nan
    return float(((x - x.mean()) * (y - y.mean())).mean() / (x.std() * y.std()))
