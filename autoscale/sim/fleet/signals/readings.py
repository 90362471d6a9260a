"""What the HPA controller finds at a sync: the status of its scale target."""

from __future__ import annotations

from analysis.numbers import known
from autoscale.hpa import Seen
from autoscale.sim.fleet.pods import Pods


def seen(pods: Pods) -> Seen:
    """The workload's status: a LeaderWorkerSet counts groups until they are gone, a Deployment only those that stay."""
    groups = pods.cold.kind == "LeaderWorkerSet"
    replicas = sum(groups or not known(r.deleting_s) for r in pods.replicas)
    return Seen(replicas, sum(r.ready for r in pods.replicas) if pods.replicas else None)
