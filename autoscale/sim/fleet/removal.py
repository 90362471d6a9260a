"""Which replica goes first when a Deployment shrinks."""

from __future__ import annotations

import math

from analysis.numbers import known
from autoscale.sim.fleet.replica import FleetReplica


def removal_rank(replica: FleetReplica, now_s: float) -> tuple[float, ...]:
    """Removal order of a ReplicaSet, first to go first (kubernetes pkg/controller, ActivePodsWithRanks).

    Without a node before with; Pending before Running; not ready before ready; ready for a shorter time first, where
    ages are compared by their logarithm to base 2 only and ties go by the random uid; then the newest.
    """
    ready_for_s = now_s - replica.ready_s if known(replica.ready_s) else 0.0
    return (
        replica.scheduled,
        replica.phase == "Running",
        replica.ready,
        _log_age(ready_for_s) if replica.ready else 0.0,
        replica.uid if replica.ready else _log_age(now_s - replica.created_s),
        replica.uid,
    )


def _log_age(age_s: float) -> float:
    return math.floor(math.log2(age_s * 1e9)) if age_s * 1e9 >= 1 else -1.0
