"""What a trigger reads while a workload has no pod: whether it can wake it, and whether it lets it sleep."""

from __future__ import annotations

from autoscale.kube.gateway_names import NEW, REPLICA_COUNTS, gateway_metric
from autoscale.kube.objects import Object, items, mapping
from autoscale.kube.quantity import milli_or_none
from autoscale.lint.query import Selector
from autoscale.lint.scalers import Metric

QUEUE, SATURATION = NEW + "flow_control_queue_size", NEW + "flow_control_pool_saturation"
# What a gateway tells of requests that a pod already has, and of the pods themselves
OF_PODS = {
    NEW + name
    for name in (
        "request_running", "inflight_requests", "inflight_tokens", "average_kv_cache_utilization",
        "average_queue_size", "average_running_requests", "ready_endpoints", "per_endpoint_queue_size",
    )
}  # fmt: skip
# What the pods of other engines export: SGLang, TGI, Triton, TensorRT-LLM, LMDeploy
OTHER_ENGINES = (
    "sglang:",
    "sglang_",
    "tgi_",
    "nv_inference_",
    "nv_trt_llm_",
    "trtllm_",
    "lmdeploy:",
    "lmdeploy_",
)


def wakes_at_zero(metric: Metric, workload: str) -> bool:
    """Whether a trigger can become active while there is no pod."""
    if metric.of_engine or metric.route == "resource":
        return False
    if metric.query is None:
        return True
    named = metric.query.selectors
    return not any(s.name.startswith(OTHER_ENGINES) for s in named) and any(
        not _silent_at_zero(selector, workload) for selector in named
    )


def _silent_at_zero(selector: Selector, workload: str) -> bool:
    """Whether a series is 0 or absent while the workload has no pod, or is no sign of load."""
    if selector.name in REPLICA_COUNTS:
        kinds = ("deployment", "statefulset", "replicaset")
        others = [value for label, operator, value in selector.matchers if label in kinds and operator == "="]
        return all(value == workload for value in others)  # those of another workload say something
    read = gateway_metric(selector.name)
    return read is not None and read.new in OF_PODS


def saturation_of_none(metric: Metric) -> float | None:
    """What a trigger on the pool's saturation alone reads of a pool without pods, which is full; None for others."""
    return metric.query.factor if metric.query and _reads(metric, SATURATION) else None


def _reads(metric: Metric, *names: str) -> bool:
    """Whether a trigger's query reads these gateway metrics and no other series."""
    read = [gateway_metric(selector.name) for selector in metric.query.selectors] if metric.query else []
    return bool(read) and all(one is not None and one.new in names for one in read)


def activation_of(spec: Object, metric: Metric) -> float:
    """The activationThreshold of a trigger."""
    trigger = mapping(items(spec.get("triggers"))[int(metric.path[2])])
    return (milli_or_none(mapping(trigger.get("metadata")).get("activationThreshold")) or 0) / 1000


def needs_two(spec: Object, metric: Metric) -> bool:
    """Whether a trigger counts requests at a gateway and is not active at one."""
    counts = metric.query is not None and metric.query.factor == 1 and _reads(metric, QUEUE)
    return counts and activation_of(spec, metric) >= 1
