"""What a ScaledObject may steer by: each signal with its unit, its target type, and who exports it.

A sum over the fleet has an AverageValue: the HPA divides it by the target, however many replicas are there. A mean, a
ratio or a percentile cannot grow with the fleet: under AverageValue it asks for ceil(most / target) replicas at most,
whatever the load, so it has a Value, by which the HPA multiplies the ready replicas.
Sources: kubernetes pkg/controller/podautoscaler/replica_calculator.go; llm-d-router docs/metrics.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MetricType = Literal["AverageValue", "Value"]


@dataclass(frozen=True)
class ScalingSignal:
    """One signal: its unit per replica (of a Value: as it is), its target type, and whether an inference gateway has it."""

    unit: str
    metric_type: MetricType = "AverageValue"
    of_gateway: bool = False


SCALING_SIGNALS: dict[str, ScalingSignal] = {
    "waiting": ScalingSignal("requests waiting"),
    "running": ScalingSignal("requests running"),
    "kv_usage": ScalingSignal("of the KV cache"),
    "in_flight": ScalingSignal("requests waiting or running"),
    "gateway_queue": ScalingSignal("requests held by the gateway", of_gateway=True),
    "gateway_in_flight": ScalingSignal("requests that the gateway has sent on", of_gateway=True),
    "gateway_saturation": ScalingSignal("saturation of the pool", "Value", of_gateway=True),
    "ttft_p95": ScalingSignal("s of TTFT (95th percentile)", "Value"),
    "itl_p95": ScalingSignal("s between tokens (95th percentile)", "Value"),
}
LATENCY_SIGNALS = ("ttft_p95", "itl_p95")
