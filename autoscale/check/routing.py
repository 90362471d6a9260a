"""How the load is spread over the replicas: first traffic and fair share of the new ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from autoscale.check.records import NAN
from autoscale.check.replicas import SeenReplica, replicas
from autoscale.check.timeline import Timeline
from autoscale.kube.vllm_names import signal_of

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("waiting", "running")
FAIR_SHARE = 0.5  # a new replica "has its share" at half of what an equal split would give


class ReplicaGauges:
    """The replicas' own metrics (rows of metrics.parquet, times in unix s), asked per pod."""

    def __init__(self, metrics: pd.DataFrame) -> None:
        self._by_pod = {str(pod): rows.sort_values("time_s") for pod, rows in metrics.groupby("pod")}

    def __contains__(self, pod: str) -> bool:
        return pod in self._by_pod

    def busy(self, pod: str) -> list[tuple[float, float]]:
        """(time_s, waiting + running) of one pod, engines added."""
        return self._of(pod, ["waiting", "running"])

    def running(self, pod: str) -> list[tuple[float, float]]:
        """(time_s, running) of one pod: how much it serves, whatever waits behind it."""
        return self._of(pod, ["running"])

    def _of(self, pod: str, gauges: list[str]) -> list[tuple[float, float]]:
        rows = self._by_pod[pod]
        total = rows[gauges].sum(axis=1, min_count=1)
        summed = total.groupby(rows["time_s"]).sum(min_count=1).dropna()
        return list(zip(summed.index.to_numpy(float).tolist(), summed.to_numpy(float).tolist(), strict=True))


def _of_requests(timeline: Timeline) -> str:
    """The HPA's first metric that counts requests at a replica, "" for none: the KV cache tells no traffic."""
    return next((name for name in timeline.targets_milli() if signal_of(name) in COUNTS), "")


def _series(timeline: Timeline, gauges: ReplicaGauges | None, pod: str) -> list[tuple[float, float]]:
    if gauges and pod in gauges:
        return gauges.busy(pod)
    metric = _of_requests(timeline)
    return [
        (s.time_s, s.values_milli[pod] / 1000)
        for s in timeline.samples
        if s.metric == metric and s.values_milli and pod in s.values_milli
    ]


def first_traffic(
    timeline: Timeline, gauges: ReplicaGauges | None, fresh: tuple[SeenReplica, ...], ready_s: float
) -> float | None:
    """When the last new replica had its first request; None when that cannot be seen."""
    firsts: list[float] = []
    for unit in fresh:
        rows = _series(timeline, gauges, unit.leader.name)
        busy = next((t for t, v in rows if v > 0 and t >= unit.leader.ready_s), None)
        if busy is None:
            return None if not gauges or unit.leader.name not in gauges else NAN
        firsts.append(busy)
    return max(firsts, default=None) if not math.isnan(ready_s) else None


def fair_share(
    timeline: Timeline, gauges: ReplicaGauges | None, fresh: tuple[SeenReplica, ...], ready_s: float
) -> float | None:
    """When the last new replica carried at least half of an equal split; None when that cannot be seen."""
    if not fresh or math.isnan(ready_s):
        return None
    waiting = {unit.leader.name: unit.leader.ready_s for unit in fresh}
    reached: list[float] = []
    for time_s, values in rounds(timeline, gauges, [unit.leader.name for unit in replicas(timeline)]):
        fair = sum(values.values()) / len(values)
        for name in [n for n, since_s in waiting.items() if since_s <= time_s and len(values) > 1]:
            if values.get(name, 0.0) > 0 and values[name] >= FAIR_SHARE * fair:
                del waiting[name]
                reached.append(time_s)
        if not waiting:
            return max(reached)
    return None


def rounds(
    timeline: Timeline, gauges: ReplicaGauges | None, pods: Sequence[str]
) -> Iterable[tuple[float, dict[str, float]]]:
    """(time_s, pod -> load) at every reading: requests that run on the replicas when they were scraped (each pod's last
    value, unless it fell silent; a backlog of the older ones is not their share), otherwise the HPA's first metric that
    counts requests."""
    if gauges is None:
        metric = _of_requests(timeline)
        for sample in timeline.samples:
            if sample.metric == metric and sample.values_milli:
                yield sample.time_s, {pod: value / 1000 for pod, value in sample.values_milli.items()}
        return
    rows = sorted((t, pod, v) for pod in pods if pod in gauges for t, v in gauges.running(pod))
    silent_s = 3 * max((b[0] - a[0] for a, b in pairwise(rows)), default=0.0) + 1.0
    last: dict[str, tuple[float, float]] = {}
    for time_s, pod, value in rows:
        last[pod] = (time_s, value)
        yield time_s, {name: v for name, (t, v) in last.items() if time_s - t <= silent_s}
