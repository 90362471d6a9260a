"""What the HPA controller finds at a sync: the status of its scale target; and the gateway's gauges."""

from __future__ import annotations

import math
from typing import Any

from analysis.numbers import known
from autoscale.hpa import Seen
from autoscale.sim.engine import flow_control
from autoscale.sim.engine.replicas import Replicas
from autoscale.sim.fleet.pods import Pods


def seen(pods: Pods) -> Seen:
    """The workload's status: a LeaderWorkerSet counts groups until they are gone, a Deployment only those that stay."""
    groups = pods.cold.kind == "LeaderWorkerSet"
    replicas = sum(groups or not known(r.deleting_s) for r in pods.replicas)
    return Seen(replicas, sum(r.ready for r in pods.replicas) if pods.replicas else None)


def gateway_gauges(engine: Any) -> tuple[float, float, float]:
    """Requests that an inference gateway holds, those that it has sent on, and its pool's saturation; NaN without one."""
    if not isinstance(engine, Replicas) or not engine.state.gate[0]["on"]:
        return math.nan, math.nan, math.nan
    held = engine.pending
    return float(held), float(engine.in_flight - held), float(flow_control.saturation(engine.state))
