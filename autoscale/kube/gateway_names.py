"""What an inference gateway's endpoint picker and kube-state-metrics call their metrics, both generations.

Sources: llm-d/llm-d-router and kubernetes-sigs/gateway-api-inference-extension, pkg/epp/metrics/metrics.go (the newer
names carry `llm_d_epp_`, the older `inference_extension_`, `inference_objective_` and `inference_pool_`; today's picker
shows both); kubernetes/kube-state-metrics docs/metrics/workload.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MetricType = Literal["gauge", "counter", "histogram"]
NEW, EXTENSION, OBJECTIVE, POOL = (
    "llm_d_epp_",
    "inference_extension_",
    "inference_objective_",
    "inference_pool_",
)


@dataclass(frozen=True)
class GatewayMetric:
    """One metric of the endpoint picker: what it is, its newer name and its older one ("" where there is none)."""

    type: MetricType
    new: str
    old: str = ""


def _both(kind: MetricType, prefix: str, *names: str) -> tuple[GatewayMetric, ...]:
    """Metrics whose older name differs in the prefix alone."""
    return tuple(GatewayMetric(kind, NEW + name, prefix + name) for name in names)


def _new(kind: MetricType, *names: str) -> tuple[GatewayMetric, ...]:
    return tuple(GatewayMetric(kind, NEW + name) for name in names)


GATEWAY_METRICS: tuple[GatewayMetric, ...] = (
    *_both(
        "gauge",
        EXTENSION,
        "flow_control_queue_size",
        "flow_control_queue_bytes",
        "flow_control_pool_saturation",
    ),
    *_new(
        "gauge",
        "flow_control_stale_endpoints",
        "flow_control_capacity_utilization_requests",
        "flow_control_capacity_utilization_bytes",
        "flow_control_global_capacity_utilization_requests",
        "flow_control_global_capacity_utilization_bytes",
        "inflight_requests",
        "inflight_tokens",
    ),
    *_new("counter", "flow_control_requests_total"),
    *_both("histogram", EXTENSION, "flow_control_request_queue_duration_seconds"),
    GatewayMetric("gauge", NEW + "request_running", OBJECTIVE + "running_requests"),
    *_both("counter", OBJECTIVE, "request_total", "request_error_total"),
    *_both("histogram", OBJECTIVE, "request_duration_seconds"),
    *_new(
        "histogram",
        "request_ttft_seconds",
        "request_streaming_tpot_seconds",
        "request_streaming_itl_seconds",
    ),
    GatewayMetric(
        "histogram", NEW + "request_ntpot_seconds", OBJECTIVE + "normalized_time_per_output_token_seconds"
    ),
    *_both("histogram", OBJECTIVE, "request_predicted_ttft_seconds", "request_predicted_tpot_seconds"),
    *_both("counter", OBJECTIVE, "request_slo_violation_total"),
    GatewayMetric("histogram", NEW + "request_input_tokens", OBJECTIVE + "input_tokens"),
    GatewayMetric("histogram", NEW + "request_output_tokens", OBJECTIVE + "output_tokens"),
    GatewayMetric("histogram", NEW + "request_cached_tokens", OBJECTIVE + "prompt_cached_tokens"),
    *_both("gauge", POOL, "average_kv_cache_utilization", "average_queue_size", "average_running_requests"),
    GatewayMetric("gauge", NEW + "ready_endpoints", POOL + "ready_pods"),
    GatewayMetric("gauge", NEW + "per_endpoint_queue_size", POOL + "per_pod_queue_size"),
    *_both("histogram", EXTENSION, "scheduler_e2e_duration_seconds"),
    *_both("counter", EXTENSION, "scheduler_attempts_total"),
)
_BY_NAME = {name: metric for metric in GATEWAY_METRICS for name in (metric.new, metric.old) if name}
# One element per pool; the others have one per pod, priority, model, stage or bucket
ONE_PER_POOL = {
    NEW + name
    for name in ("average_kv_cache_utilization", "average_queue_size", "average_running_requests", "ready_endpoints")
}  # fmt: skip

# replica counts of kube-state-metrics, by the workload's kind
REPLICA_COUNTS = {
    f"kube_{kind}_{count}"
    for kind, counts in {
        "deployment": (
            "spec_replicas", "status_replicas", "status_replicas_available", "status_replicas_ready",
            "status_replicas_unavailable", "status_replicas_updated",
        ),
        "statefulset": (
            "replicas", "status_replicas", "status_replicas_available", "status_replicas_ready",
            "status_replicas_current", "status_replicas_updated",
        ),
        "replicaset": ("spec_replicas", "status_replicas", "status_ready_replicas"),
    }.items()
    for count in counts
}  # fmt: skip


def gateway_metric(series: str) -> GatewayMetric | None:
    """The endpoint picker's metric that a series is, or a part of (_bucket, _sum, _count); None for another's."""
    whole = re.sub(r"_(bucket|sum|count)$", "", series)
    found = _BY_NAME.get(series) or _BY_NAME.get(whole)
    return found if found is not None and (series in _BY_NAME or found.type == "histogram") else None
