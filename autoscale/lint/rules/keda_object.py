"""Rules on a ScaledObject as a whole: its way to zero and back, what pauses it."""

from __future__ import annotations

from collections.abc import Iterator

from autoscale.keda.metadata import boolean
from autoscale.keda.scaled_object import FORCED
from autoscale.kube.gateway_names import NEW, REPLICA_COUNTS, gateway_metric
from autoscale.kube.objects import Object, items, mapping
from autoscale.kube.quantity import milli_or_none
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding
from autoscale.lint.parts import whole_number
from autoscale.lint.query import Selector
from autoscale.lint.scalers import Metric, Scaler, formula_of

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
GIVEN_UP_S = 60  # a gateway's defaultRequestTTL and noEndpointRequestTTL


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every ScaledObject."""
    for scaler in facts.scalers:
        if scaler.source.kind == "ScaledObject":
            yield from _bounds(scaler)
            yield from _zero(scaler)
            yield from _paused(scaler)


def _bounds(scaler: Scaler) -> Iterator[Finding]:
    source, low = scaler.source, max(1, scaler.low)
    if scaler.high < low:
        yield source.finding(
            "error",
            "api-refused",
            ("spec", "maxReplicaCount"),
            f"maxReplicaCount {scaler.high} is below minReplicaCount {scaler.low}.",
            "KEDA refuses the object: nothing scales.",
            "Write maxReplicaCount of at least minReplicaCount.",
        )
    idle = whole_number(source.spec.get("idleReplicaCount"))
    if idle is not None and 0 < idle < scaler.low:
        yield source.finding(
            "warning",
            "keda-idle-count",
            ("spec", "idleReplicaCount"),
            f"idleReplicaCount is {idle}; KEDA supports no other than 0.",
            f"The HPA lifts the workload to {scaler.low} at every sync and KEDA puts it back to {idle} at every quiet "
            "poll: replicas start and stop as long as no load comes.",
            f"Leave it out and write minReplicaCount: {idle}, or write idleReplicaCount: 0 with a trigger on a gateway's "
            "or router's queue.",
        )


# --- zero ------------------------------------------------------------------------------------------------------------


def _zero(scaler: Scaler) -> Iterator[Finding]:
    """Zero replicas need a trigger whose series is there without any pod, and is quiet without any request."""
    spec = scaler.source.spec
    idle = whole_number(spec.get("idleReplicaCount"))
    if (scaler.low if idle is None else idle) != 0:
        return
    if scaler.metrics and all(metric.route == "resource" for metric in scaler.metrics) and scaler.low == 0:
        yield scaler.source.finding(
            "error",
            "api-refused",
            ("spec", "minReplicaCount"),
            "minReplicaCount is 0, which is also KEDA's default, and all triggers are on cpu or memory.",
            "KEDA refuses the object, since such triggers are always active: nothing scales.",
            "Write minReplicaCount: 1, or add a trigger on a gateway's or router's queue.",
        )
        return
    if restless := next(_restless(scaler), None):
        yield restless
        return
    plain = formula_of(spec) is None
    wakes = [
        metric
        for metric in scaler.metrics
        if _wakes(metric, scaler.name) and not (plain and _saturation(metric) is not None)
    ]
    if not wakes:
        yield _asleep(scaler, "minReplicaCount" if idle is None else "idleReplicaCount")
    elif plain and all(_needs_two(spec, metric) for metric in wakes):
        yield scaler.source.finding(
            "warning",
            "keda-activation",
            (*wakes[0].path[:-1], "activationThreshold"),
            "activationThreshold is 1 or more for a number of requests, and KEDA wakes the workload above it.",
            "At 0 replicas a lone request waits until another comes, or is given up.",
            "Write activationThreshold: '0', or leave it out.",
        )
    every_s = whole_number(spec.get("pollingInterval"))
    if every_s is not None and every_s > GIVEN_UP_S and any(metric.query for metric in wakes):
        yield scaler.source.finding(
            "warning",
            "keda-polling",
            ("spec", "pollingInterval"),
            f"pollingInterval is {every_s} s, and only a poll wakes the workload at 0 replicas.",
            f"The first request waits up to {every_s} s before a replica is even started; a gateway gives it up after "
            f"{GIVEN_UP_S} s unless its TTL is set.",
            "Write pollingInterval: 15.",
        )


def _restless(scaler: Scaler) -> Iterator[Finding]:
    """Why KEDA takes the workload for active at 0 replicas, whatever the load."""
    source, spec = scaler.source, scaler.source.spec
    forced = mapping(source.metadata.get("annotations")).get(FORCED)
    if forced is not None and boolean(str(forced)) is not False:
        yield source.finding(
            "warning",
            "zero-never-stays",
            ("metadata", "annotations", FORCED),
            f"Annotation {FORCED} is {forced!r}.",
            "KEDA takes the workload for active at every poll: it never stays at 0 replicas.",
            "Delete the annotation, or write minReplicaCount: 1.",
        )
    if scaler.metrics and all(metric.route == "resource" for metric in scaler.metrics):
        yield source.finding(
            "error",
            "zero-never-stays",
            ("spec", "idleReplicaCount"),
            "idleReplicaCount is 0, and all triggers are on cpu or memory.",
            "Such triggers are always active: the workload never goes to 0 replicas.",
            "Leave idleReplicaCount out, or add a trigger on a gateway's or router's queue.",
        )
    for metric in scaler.metrics if formula_of(spec) is None else ():
        empty = _saturation(metric)
        if empty is not None and _activation(spec, metric) < empty:
            yield source.finding(
                "error",
                "zero-never-stays",
                metric.path,
                "The pool's saturation is a trigger of a workload that goes to 0 replicas.",
                "A pool without pods has saturation 1: KEDA takes it for active and starts a replica at the "
                "next poll, for ever.",
                "Write minReplicaCount: 1, or leave the trigger out.",
            )


def _asleep(scaler: Scaler, field: str) -> Finding:
    """No trigger wakes the workload: the finding says what its triggers read, and why that is silent."""
    read = [s for metric in scaler.metrics if metric.query for s in metric.query.selectors]
    foreign = bool(read) and all(s.name.startswith(OTHER_ENGINES) for s in read)
    silent = next((s.name for s in read if not s.of_engine), "")
    return scaler.source.finding(
        "warning" if foreign else "error",
        "min-replicas-zero",
        ("spec", field),
        "minReplicaCount is 0, which is also KEDA's default."
        if field == "minReplicaCount"
        else "idleReplicaCount is 0: KEDA takes the workload to no replica when it is idle.",
        (f"At 0 replicas {silent} is 0 or absent" if silent else "At 0 replicas no pod exports the metric")
        + ": nothing wakes the model up, and a start takes long.",
        ("Write minReplicaCount: 1" if field == "minReplicaCount" else "Leave idleReplicaCount out")
        + ", or add a trigger on a gateway's or router's queue.",
    )


def _wakes(metric: Metric, workload: str) -> bool:
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


def _saturation(metric: Metric) -> float | None:
    """What a trigger on the pool's saturation alone reads of a pool without pods, which is full; None for others."""
    return metric.query.factor if metric.query and _reads(metric, SATURATION) else None


def _reads(metric: Metric, *names: str) -> bool:
    """Whether a trigger's query reads these gateway metrics and no other series."""
    read = [gateway_metric(selector.name) for selector in metric.query.selectors] if metric.query else []
    return bool(read) and all(one is not None and one.new in names for one in read)


def _activation(spec: Object, metric: Metric) -> float:
    """The activationThreshold of a trigger."""
    trigger = mapping(items(spec.get("triggers"))[int(metric.path[2])])
    return (milli_or_none(mapping(trigger.get("metadata")).get("activationThreshold")) or 0) / 1000


def _needs_two(spec: Object, metric: Metric) -> bool:
    """Whether a trigger counts requests at a gateway and is not active at one."""
    counts = metric.query is not None and metric.query.factor == 1 and _reads(metric, QUEUE)
    return counts and _activation(spec, metric) >= 1


# --- paused ----------------------------------------------------------------------------------------------------------


def _paused(scaler: Scaler) -> Iterator[Finding]:
    annotations = mapping(scaler.source.metadata.get("annotations"))
    for name in ("paused", "paused-replicas", "paused-scale-out"):
        key = f"autoscaling.keda.sh/{name}"
        if key in annotations and str(annotations[key]).lower() != "false":
            yield scaler.source.finding(
                "warning",
                "keda-paused",
                ("metadata", "annotations", key),
                f"Annotation {key} is {annotations[key]!r}.",
                "No replica is added, whatever the load.",
                "Delete the annotation when the work that needed it is done.",
            )
