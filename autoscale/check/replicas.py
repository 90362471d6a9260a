"""Replicas: what the HPA counts. A pod of a Deployment, or a whole group of a LeaderWorkerSet."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from analysis.numbers import known
from autoscale.check.records import NAN, PodRecord
from autoscale.check.timeline import Timeline
from autoscale.kube.kinds import LWS_GROUP_INDEX, LWS_WORKER_INDEX
from autoscale.kube.workload import ScaledWorkload


@dataclass(frozen=True)
class SeenReplica:
    """One replica with its pods, the leader first. A moment of the replica is that of its last pod."""

    name: str
    pods: tuple[PodRecord, ...]
    size: int  # pods that make it whole

    @property
    def leader(self) -> PodRecord:
        """The pod that serves requests and that the HPA counts."""
        return self.pods[0]

    @property
    def created_s(self) -> float:
        """When its last pod was created; NaN while pods are missing."""
        return self._last("created_s")

    @property
    def scheduled_s(self) -> float:
        """When its last pod got a node."""
        return self._last("scheduled_s")

    @property
    def first_started_s(self) -> float:
        """When the containers of its first pod ran."""
        return min((pod.started_s for pod in self.pods if known(pod.started_s)), default=NAN)

    @property
    def started_s(self) -> float:
        """When the containers of its last pod ran."""
        return self._last("started_s")

    @property
    def ready_s(self) -> float:
        """When its last pod got Ready, as the LeaderWorkerSet counts ready groups."""
        return self._last("ready_s")

    @property
    def deleting_s(self) -> float:
        """When its first pod was asked to stop."""
        return min((pod.deleting_s for pod in self.pods if known(pod.deleting_s)), default=NAN)

    @property
    def gone_s(self) -> float:
        """When its last pod was gone: only then are all its accelerators free."""
        return max((pod.gone_s for pod in self.pods), key=lambda s: math.inf if math.isnan(s) else s)

    @property
    def accelerators(self) -> int:
        """Accelerators that it holds."""
        return sum(pod.accelerators for pod in self.pods)

    def _last(self, field: str) -> float:
        moments = [getattr(pod, field) for pod in self.pods]
        return NAN if len(moments) < self.size or any(math.isnan(m) for m in moments) else max(moments)


def replicas(timeline: Timeline) -> list[SeenReplica]:
    """All replicas that the target ever had while it was watched, in order of creation."""
    pods = timeline.own_pods()
    if timeline.kind != "LeaderWorkerSet":
        return [SeenReplica(pod.name, (pod,), 1) for pod in pods]
    size = ScaledWorkload(timeline.target).size
    leaders = [pod for pod in pods if pod.labels.get(LWS_WORKER_INDEX) == "0"]
    return [_group(leader, _following(leader, leaders), pods, size) for leader in leaders]


def _following(leader: PodRecord, leaders: Iterable[PodRecord]) -> float:
    """When the next leader of that group index was created: a recreated group reuses names."""
    own = leader.labels.get(LWS_GROUP_INDEX)
    later = [
        p.created_s
        for p in leaders
        if p.labels.get(LWS_GROUP_INDEX) == own and p.created_s > leader.created_s
    ]
    return min(later, default=math.inf)


def _group(leader: PodRecord, until_s: float, pods: list[PodRecord], size: int) -> SeenReplica:
    """The leader with the newest pod of each worker index that was created in its life."""
    workers: dict[str, PodRecord] = {}
    for pod in pods:
        index = pod.labels.get(LWS_WORKER_INDEX, "0")
        own = pod.labels.get(LWS_GROUP_INDEX) == leader.labels.get(LWS_GROUP_INDEX)
        if own and index != "0" and leader.created_s - 1 <= pod.created_s < until_s:
            workers[index] = pod
    return SeenReplica(leader.name, (leader, *(workers[i] for i in sorted(workers, key=int))), size)


def counts(timeline: Timeline) -> list[tuple[float, float, float, float, float]]:
    """Rows (time_s, desired, created, scheduled, ready) at every change, for replicas.parquet; times in unix s."""
    changes: list[tuple[float, int, int]] = []  # time, column, step
    for replica in replicas(timeline):
        for column, at_s in ((2, replica.created_s), (3, replica.scheduled_s), (4, replica.ready_s)):
            if known(at_s):
                changes.append((at_s, column, +1))
                end_s = replica.gone_s if column == 2 else replica.deleting_s
                if known(end_s):
                    changes.append((max(end_s, at_s), column, -1))
    size = timeline.decisions[0].before if timeline.decisions else timeline.size
    row = [timeline.first_s, NAN if size is None else float(size), 0.0, 0.0, 0.0]
    rows: list[tuple[float, float, float, float, float]] = []
    resized = [(made.time_s, 1, made.after) for made in timeline.decisions]
    for at_s, column, step in sorted([*changes, *resized]):
        row[0] = max(at_s, timeline.first_s)
        row[column] = float(step) if column == 1 else row[column] + step
        if rows and rows[-1][0] == row[0]:
            rows.pop()
        rows.append((row[0], row[1], row[2], row[3], row[4]))
    return rows
