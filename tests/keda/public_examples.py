"""ScaledObjects and HPAs that guides hand out: where they are, and a small object anew with what decides of each.

Written from what the sources say (query, target, bounds, times), not copied; names of places are left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from analysis.errors import BadInput
from autoscale.hpa import HpaSpec
from autoscale.keda import KedaRefusal, ScaledObject, parse_query
from autoscale.keda.hpa_made import hpa_spec
from autoscale.keda.prometheus_trigger import PrometheusTrigger
from autoscale.keda.queries import one_element
from autoscale.profiles import load
from autoscale.sim.fleet.scalers import read_scaler

Object = dict[str, Any]
WAITING, RUNNING = "vllm:num_requests_waiting", "vllm:num_requests_running"
QUEUE, IN_FLIGHT = "llm_d_epp_flow_control_queue_size", "llm_d_epp_request_running"
SATURATION = 'max(llm_d_epp_flow_control_pool_saturation{inference_pool="pool"})'
TOKENS = 'llm_d_epp_inflight_tokens{namespace="llm",producer_name="inflight-load-producer"}'
KV = 'sum(vllm:kv_cache_usage_perc{namespace="llm"}) or vector(0)'
WVA = 'wva_desired_replicas{variant_name="v",exported_namespace="llm"}'
AV = {"metricType": "AverageValue"}
GUARD = (
    "let queue_per_replica = 1;\nlet running_per_replica = 16;\n"
    "let demand = max(queue / queue_per_replica, running / running_per_replica);\n"
    "demand <= replicas ? demand : max(demand - (pending ?? 0), replicas)"
)
LAW = (
    "saturation > 0.55 ? replicas + ceil(replicas * (saturation * (ready > 0 && ready < replicas ? ready / replicas : 1)"
    " / 0.55 - 1)) : saturation < 0.40 ? replicas - floor(replicas * (1 - saturation / 0.40)) : replicas"
)


class Example(NamedTuple):
    """One example: its project and place, what it reads, and the object."""

    project: str
    place: str
    reads: str
    object: Object


def trigger(
    query: str, threshold: str, /, name: str = "", metadata: Object | None = None, **more: Any
) -> Object:
    given = {
        "serverAddress": "http://prometheus:9090",
        "query": query,
        "threshold": threshold,
        **(metadata or {}),
    }
    return {"type": "prometheus", **({"name": name} if name else {}), "metadata": given, **more}


def rules(window_s: int, value: int, period_s: int, kind: str = "Percent") -> Object:
    policy = {"type": kind, "value": value, "periodSeconds": period_s}
    return {"stabilizationWindowSeconds": window_s, "policies": [policy]}


def scaled(
    low: int,
    high: int,
    *triggers: Object,
    up: Object | None = None,
    down: Object | None = None,
    modifiers: Object | None = None,
    **spec: Any,
) -> Object:
    advanced: Object = {}
    if up or down:
        behavior = {k: v for k, v in (("scaleUp", up), ("scaleDown", down)) if v}
        advanced["horizontalPodAutoscalerConfig"] = {"behavior": behavior}
    if modifiers:
        advanced["scalingModifiers"] = modifiers
    whole = {
        "scaleTargetRef": {"name": "decode"},
        "minReplicaCount": low,
        "maxReplicaCount": high,
        "triggers": list(triggers),
        **({"advanced": advanced} if advanced else {}),
        **spec,
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "so"},
        "spec": whole,
    }


def hpa(low: int, high: int, *metrics: Object, **spec: Any) -> Object:
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "decode"}
    whole = {
        "scaleTargetRef": reference,
        "minReplicas": low,
        "maxReplicas": high,
        "metrics": list(metrics),
        **spec,
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "hpa"},
        "spec": whole,
    }


def metric(kind: str, name: str, target: str, value: str, **more: Any) -> Object:
    key = "averageValue" if target == "AverageValue" else "value"
    return {
        "type": kind,
        kind.lower(): {"metric": {"name": name}, "target": {"type": target, key: value}, **more},
    }


FAST = {"up": rules(0, 100, 15), "down": rules(300, 100, 15)}
SLOW = {"up": rules(300, 100, 15), "down": rules(300, 100, 15)}
BY_POD = {"up": rules(0, 1, 180, "Pods"), "down": rules(300, 1, 300, "Pods")}
QUEUES = (trigger(f"sum({QUEUE})", "1", "queue", **AV), trigger(f"sum({IN_FLIGHT})", "16", "running", **AV))
OLD_QUEUES = (QUEUES[0], trigger("sum(inference_objective_running_requests)", "16", **AV))
BOUND = {"authenticationRef": {"name": "prometheus-auth"}, **AV}
SATURATED = (
    trigger(SATURATION, "0.7", metadata={"authModes": "bearer"}, **BOUND),
    trigger(f"sum({IN_FLIGHT})", "16", metadata={"authModes": "bearer"}, **BOUND),
)
PLAIN = (trigger(SATURATION, "0.7", **AV), trigger(f"sum({IN_FLIGHT})", "16", **AV))
REPLICAS = "max(kube_deployment_status_replicas{deployment='decode'})"
UNAVAILABLE = "max(kube_deployment_status_replicas_unavailable{deployment='decode'})"
READY = "max(kube_deployment_status_replicas_ready{deployment='decode'})"
BEFORE_PRUNING = (
    f"sum(label_replace({TOKENS}, 'target_pod', '$1', 'endpoint_name', '(.+)') and on (target_pod) "
    "label_replace(llm_d_epp_per_endpoint_queue_size, 'target_pod', '$1', 'model_server_endpoint', '(.+)'))"
)
WVA_TRIGGER = trigger(WVA, "1", "wva-desired-replicas", metadata={"metricType": "AverageValue"})
WVA_FALLBACK = {"failureThreshold": 3, "replicas": 2, "behavior": "currentReplicasIfHigher"}
COMPOSITE = {"target": "1", **AV}

LLM_D = (
    Example("llm-d", "guides/workload-autoscaling/keda-epp, overlays k8s and ocp queue @057abb4a", "queue at the gateway, requests in flight", scaled(1, 8, *QUEUES, pollingInterval=15, cooldownPeriod=300, **SLOW)),
    Example("llm-d", "keda-epp-queue @903da90e", "queue at the gateway, requests in flight", scaled(1, 8, *QUEUES, pollingInterval=15, cooldownPeriod=300, **FAST)),
    Example("llm-d", "keda-epp/scaledobject.yaml @54e446b2", "queue, requests in flight by its older name", scaled(1, 3, *OLD_QUEUES, pollingInterval=15, cooldownPeriod=300, **FAST)),
    Example("llm-d", "keda-epp, overlays k8s and ocp saturation @057abb4a", "saturation of the pool, requests in flight", scaled(1, 10, *SATURATED, pollingInterval=15, cooldownPeriod=300, **SLOW)),
    Example("llm-d", "keda-epp-saturation @903da90e", "saturation of the pool, requests in flight", scaled(1, 10, *PLAIN, pollingInterval=15)),
    Example("llm-d", "saturation before that @3ed269cc", "the same, authenticationRef inside metadata", scaled(1, 10, trigger(SATURATION, "0.7", metadata={"authenticationRef": {"name": "auth"}}))),
    Example("llm-d", "keda-epp, overlays queue-guard @b06ec635", "a formula of queue, in flight, unavailable, replicas", scaled(1, 8, *QUEUES, trigger(UNAVAILABLE, "1", "pending", **AV), trigger(REPLICAS, "1", "replicas", **AV), pollingInterval=15, cooldownPeriod=300, fallback={"failureThreshold": 3, "replicas": 1, "behavior": "static"}, modifiers={"formula": GUARD, **COMPOSITE}, **FAST)),
    Example("llm-d", "keda-epp-token-aware, optimized-baseline @04c0115b", "tokens in flight by the rate of prefill; KV", scaled(1, 10, trigger(f"(\n  sum({TOKENS}) / 15928\n) or vector(0)\n", "1.5", metadata={"activationThreshold": "0", "unsafeSsl": "false"}, **BOUND), trigger(KV, "0.8", **BOUND), pollingInterval=15, **BY_POD)),
    Example("llm-d", "keda-epp-token-aware, prefill @04c0115b", "tokens in flight of prefill pods", scaled(1, 10, trigger(f"(sum({TOKENS[:-1]},endpoint_name=~\".*prefill.*\"}}) / 33821) or vector(0)", "1.5", **BOUND), pollingInterval=15, **BY_POD)),
    Example("llm-d", "keda-epp-token-aware, decode @56cb1218", "KV of decode pods", scaled(1, 10, trigger('sum(vllm:kv_cache_usage_perc{pod=~".*decode.*"}) or vector(0)', "0.8", **BOUND), pollingInterval=15, **BY_POD)),
    Example("llm-d", "keda-epp-token-aware/README.md, pickers up to v0.10.0", "tokens in flight of endpoints that are there", scaled(1, 10, trigger(BEFORE_PRUNING, "1.5", **AV), pollingInterval=15, **BY_POD)),
    Example("llm-d", "README.slo-aware.md @d38c9f0c", "a formula of a share of the latency SLO, by a recording rule (its name is ours)", scaled(3, 8, trigger("recorded_saturation", "1", "saturation"), trigger(REPLICAS, "1", "replicas"), trigger(READY, "1", "ready"), modifiers={"formula": LAW, **COMPOSITE}, up={"stabilizationWindowSeconds": 30}, down=rules(180, 1, 120, "Pods"))),
    Example("llm-d", "fast-model-actuation @53c0e080", "saturation, in flight; metricType inside metadata", scaled(1, 2, trigger(SATURATION, "0.7", metadata={"metricType": "AverageValue"}), trigger(f"sum({IN_FLIGHT})", "16", metadata={"metricType": "AverageValue"}), pollingInterval=15, **FAST)),
    Example("llm-d", "WVA ScaledObject @9b2e98ea", "the replicas that WVA wants", scaled(1, 10, trigger(WVA, "1", **AV), pollingInterval=5, cooldownPeriod=30, initialCooldownPeriod=30, fallback=WVA_FALLBACK)),
    Example("llm-d", "WVA HPA @739e6a61", "the replicas that WVA wants", hpa(1, 2, metric("External", "wva_desired_replicas", "AverageValue", "1"), behavior={"scaleUp": {"stabilizationWindowSeconds": 120}, "scaleDown": rules(120, 100, 15)})),
    Example("llm-d", "README.hpa-epp.md @1b624fae", "queue by Value, in flight by AverageValue", hpa(1, 3, metric("External", "epp_queue_size", "Value", "250"), metric("External", "epp_running_requests", "AverageValue", "250"), behavior={"scaleUp": {"stabilizationWindowSeconds": 0}, "scaleDown": rules(300, 100, 15)})),
    Example("llm-d-benchmark", "eppKedaSaturation @8bc9f1dd", "saturation of the pool, requests in flight", scaled(1, 10, *PLAIN, pollingInterval=15, **BY_POD)),
    Example("llm-d WVA", "samples, ScaledObject @b08b1c7", "the replicas that WVA wants; metricType inside metadata", scaled(0, 10, WVA_TRIGGER, pollingInterval=5, cooldownPeriod=30, initialCooldownPeriod=30, fallback=WVA_FALLBACK)),
    Example("llm-d WVA", "samples, HPA @b08b1c7", "the replicas that WVA wants", hpa(1, 10, metric("External", "wva_desired_replicas", "AverageValue", "1"), behavior={"scaleUp": rules(0, 10, 15, "Pods"), "scaleDown": rules(0, 10, 15, "Pods")})),
)  # fmt: skip
OTHERS = (
    Example("production-stack", "tutorial 20 @a6c01db0", "waiting, without an aggregation", scaled(1, 2, trigger(WAITING, "5", metadata={"metricName": "vllm:num_requests_waiting"}), pollingInterval=15, cooldownPeriod=360)),
    Example("production-stack", "tutorial 20, to zero", "waiting; requests that come in at the router", scaled(0, 2, trigger(WAITING, "5"), trigger("sum(rate(vllm:num_incoming_requests_total[1m]) > bool 0)", "1"), pollingInterval=15, cooldownPeriod=360)),
    Example("production-stack", "Helm chart's own trigger", "waiting of a model", scaled(1, 5, trigger('vllm:num_requests_waiting{model="m"}', "5"), pollingInterval=15, cooldownPeriod=360, idleReplicaCount=0, initialCooldownPeriod=60, fallback={"failureThreshold": 3, "replicas": 2})),
    Example("production-stack", "tutorials/assets/hpa-10.yaml", "waiting as an Object metric of the namespace", hpa(1, 2, metric("Object", "vllm_num_requests_waiting", "Value", "1", describedObject={"apiVersion": "v1", "kind": "Namespace", "name": "default"}))),
    Example("KServe", "LLMInferenceService with wva and keda @aaac4e29", "the replicas that WVA wants", scaled(1, 4, trigger(WVA, "1", **AV))),
    Example("KServe", "LLMInferenceService with wva and hpa @aaac4e29", "the same as External Value", hpa(1, 4, metric("External", "wva_desired_replicas", "Value", "1"))),
    Example("KServe", "website, autoscaling by Prometheus @c01377df", "running, without an aggregation", scaled(1, 5, trigger(RUNNING, "2"))),
    Example("KServe", "InferenceService with target.averageValue (keda_reconciler.go)", "the threshold becomes 0", scaled(1, 5, trigger(f"sum({RUNNING})", "0"))),
    Example("KServe", "website, autoscaling by OpenTelemetry", "running, through an external scaler", scaled(1, 5, {"type": "external", "metadata": {"metricQuery": f"sum({RUNNING})", "targetValue": "4"}})),
    Example("OpenShift AI", "ai-on-openshift.io, KEDA autoscaling", "waiting of a namespace, by Thanos", scaled(1, 4, trigger(f'sum({WAITING}{{namespace="llm"}})', "5", metadata={"authModes": "bearer", "namespace": "llm"}, **BOUND))),
    Example("EKS", "user guide, ml-inference-autoscaling-hpa-keda", "waiting; p95 of the end-to-end latency", scaled(1, 5, trigger(f"sum({WAITING}) or vector(0)", "25", metadata={"activationThreshold": "1"}, **AV), trigger("histogram_quantile(0.95, sum(rate(vllm:e2e_request_latency_seconds_bucket[1m])) by (le)) or vector(0)", "5", **AV), up=rules(30, 2, 60, "Pods"), down=rules(300, 1, 120, "Pods"))),
    Example("KAITO", "keda-kaito-scaler README @01e84d39", "waiting, through its own external scaler", scaled(1, 5, {"type": "external", "name": "keda-kaito-scaler", "metadata": {"threshold": "10"}}, scaleTargetRef={"apiVersion": "kaito.sh/v1alpha1", "kind": "InferenceSet", "name": "phi-4"})),
    Example("Dynamo", "docs, autoscaling by TTFT", "p95 of the frontend's TTFT", scaled(1, 10, trigger("histogram_quantile(0.95, sum(rate(dynamo_frontend_time_to_first_token_seconds_bucket[5m])) by (le))", "0.5", metadata={"activationThreshold": "0.1"}), pollingInterval=15, cooldownPeriod=60)),
    Example("Dynamo", "docs, autoscaling by queue", "the frontend's queue", scaled(1, 10, trigger("sum(dynamo_frontend_queued_requests)", "10"), pollingInterval=15, cooldownPeriod=60)),
    Example("Dynamo", "docs, HPA by TTFT", "p95 of the frontend's TTFT", hpa(1, 10, metric("External", "dynamo_ttft_p95", "Value", "500m"), behavior={"scaleUp": rules(0, 2, 30, "Pods"), "scaleDown": rules(60, 1, 30, "Pods")})),
    Example("Dynamo", "docs, KEDA for prefill workers", "waiting of the prefill workers, with an underscore", scaled(1, 12, trigger('sum(vllm_num_requests_waiting{service="prefill"})', "10"))),
    Example("NIM", "developer blog, horizontal autoscaling of NIM", "KV of the pods, by its name without a prefix", hpa(1, 4, metric("Pods", "gpu_cache_usage_perc", "AverageValue", "100m"))),
    Example("GKE", "docs, serve-vllm-tpu", "waiting of the pods, by Cloud Monitoring", hpa(1, 2, metric("Pods", "prometheus.googleapis.com|vllm:num_requests_waiting|gauge", "AverageValue", "10"))),
    Example("AKS", "docs, autoscale GPU workloads with KEDA", "utilisation of the accelerators", scaled(1, 20, trigger('avg(DCGM_FI_DEV_GPU_UTIL{deployment="w"})', "5", metadata={"activationThreshold": "2"}))),
    Example("seans3/k8s-ai", "vllm-gpu/hpa", "running of the pods, by Cloud Monitoring", hpa(1, 5, metric("Pods", "prometheus.googleapis.com|vllm:num_requests_running|gauge", "AverageValue", "4"), behavior={"scaleUp": {"stabilizationWindowSeconds": 0}, "scaleDown": rules(30, 100, 15)})),
    Example("Deka GPU", "docs.cloudeka.ai, KEDA configuration example", "KV by its old name, without an aggregation", scaled(1, 2, trigger('vllm:gpu_cache_usage_perc{model_name="m"}', "0.5"), pollingInterval=30, cooldownPeriod=120)),
    Example("kubernetes/examples", "AI/vllm-deployment/hpa/horizontal-pod-autoscaler.yaml", "running of the pods", hpa(1, 5, metric("Pods", "num_requests_running", "AverageValue", "4"), behavior={"scaleDown": rules(30, 100, 15)})),
    Example("kubernetes/examples", "AI/vllm-deployment/hpa/gpu-horizontal-pod-autoscaler.yaml", "utilisation of the accelerators", hpa(1, 5, metric("Pods", "gpu_utilization_percent", "AverageValue", "20"), behavior={"scaleUp": {"stabilizationWindowSeconds": 0}, "scaleDown": {"stabilizationWindowSeconds": 30}})),
    Example("accelerated-platforms", "inference-ref-arch, online @9320f3b2", "waiting and running of the pods", hpa(1, 5, metric("Pods", "vllm-num-requests-waiting", "AverageValue", "10"), metric("Pods", "vllm-num-requests-running", "AverageValue", "10"))),
    Example("accelerated-platforms", "inference-ref-arch, async", "messages that Pub/Sub holds", hpa(1, 16, metric("External", "pubsub.googleapis.com|subscription|num_undelivered_messages", "AverageValue", "100"))),
    Example("accelerated-platforms", "use-cases/inferencing/serving/vllm/autoscaling", "running of the pods, by Cloud Monitoring", hpa(1, 5, metric("Pods", "prometheus.googleapis.com|vllm:num_requests_running|gauge", "AverageValue", "10"))),
    Example("AIBrix", "samples, PodAutoscaler @e3e10f9e", "KV of the pods, by its own controller", {"apiVersion": "autoscaling.aibrix.ai/v1alpha1", "kind": "PodAutoscaler", "metadata": {"name": "pa"}, "spec": {}}),
)  # fmt: skip
UTILIZATION = "DCGM_FI_DEV_GPU_UTIL"
IN_NAMESPACE = '{namespace="llm",pod=~"llama-predictor.*"}'
TRITON = (
    'sum by (release) (rate(nv_inference_queue_duration_us{release=~"s"}[15s]))\n/\n'
    'sum by (release) ((rate(nv_inference_exec_count{release=~"s"}[15s]) * 1000) + 0.001)'
)
INTERCEPTED = {"hosts": ["m"], "replicas": {"min": 0, "max": 1}, "scaleTargetRef": {"name": "decode"}}


def by_clock(start: str, end: str, replicas: str, timezone: str = "UTC") -> Object:
    given = {"timezone": timezone, "start": start, "end": end, "desiredReplicas": replicas}
    return {"type": "cron", "metadata": given}


def other(kind: str, group: str, spec: Object | None = None) -> Object:
    return {"apiVersion": group, "kind": kind, "metadata": {"name": "o"}, "spec": spec or {}}


FOUND = (
    Example("rcarrata/dynamic-model-autoscaling", "helm/llama3.2-3b @9443ce3e", "waiting of a predictor's pods, to zero", scaled(0, 5, trigger(f"sum({WAITING}{IN_NAMESPACE})\n", "3", metadata={"authModes": "bearer", "metricName": "w"}, authenticationRef={"name": "a"}), pollingInterval=15, cooldownPeriod=300, down=rules(300, 50, 60))),
    Example("rcarrata/dynamic-model-autoscaling", "the same chart, its other trigger", "the rate of requests that ended", scaled(0, 5, trigger(f"sum(rate(vllm:request_success_total{IN_NAMESPACE}[2m]))\n", "2"))),
    Example("SuperSONIC", "helm/supersonic/templates/keda/so.yaml @0323a5ab", "the queue's time for each execution, of Triton", scaled(1, 10, trigger(TRITON, "100", metadata={"ignoreNullValues": "true"}, **AV), idleReplicaCount=0, up=rules(120, 1, 30, "Pods"), down=rules(120, 1, 30, "Pods"))),
    Example("llmariner", "inference-manager, deployments/engine @cfbcf001", "utilisation of the accelerators; metricType inside metadata", scaled(1, 10, trigger(f'sum(avg_over_time({UTILIZATION}{{pod=~"engine.*"}}[1m]))', "50", metadata={"metricType": "Value"}), pollingInterval=15, cooldownPeriod=30)),
    Example("AKS", "blog, autoscale KAITO workloads @2467e423", "two schedules, of an InferenceSet", scaled(1, 5, by_clock("0 6 * * 1-5", "0 20 * * 1-5", "5", "America/New_York"), by_clock("0 20 * * 1-5", "0 6 * * 1-5", "1", "America/New_York"), scaleTargetRef={"apiVersion": "kaito.sh/v1alpha1", "kind": "InferenceSet", "name": "phi"})),
    Example("inferno-autoscaler", "config/samples/hpa-integration.yaml @037368a7", "the replicas that its controller wants, to zero", hpa(0, 10, metric("External", "inferno_desired_replicas", "AverageValue", "1"), behavior={"scaleUp": rules(0, 10, 15, "Pods"), "scaleDown": rules(0, 10, 15, "Pods")})),
    Example("ai-on-gke", "jetstream/maxtext, HPA by Cloud Monitoring @112280f5", "JetStream's backlog of prefills", hpa(1, 2, metric("Pods", "prometheus.googleapis.com|jetstream_prefill_backlog_size|gauge", "AverageValue", "1"))),
    Example("GKE", "docs, autoscale LLM workloads on GPUs", "TGI's queue, by Cloud Monitoring", hpa(1, 5, metric("Pods", "prometheus.googleapis.com|tgi_queue_size|gauge", "AverageValue", "10"))),
    Example("GKE", "docs, scale to zero using KEDA", "what KEDA's HTTP add-on intercepts", other("HTTPScaledObject", "http.keda.sh/v1alpha1", INTERCEPTED)),
    Example("seans3/k8s-ai", "vllm-gpu/hpa, by the accelerators", "utilisation, by Cloud Monitoring", hpa(1, 5, metric("Pods", "prometheus.googleapis.com|dcgm_fi_dev_gpu_util|gauge", "AverageValue", "20"))),
    Example("OME", "docs, scale to zero with KEDA @7f641a34", "a schedule, to zero", scaled(0, 2, by_clock("0 9 * * *", "0 17 * * *", "1"))),
    Example("OME", "the same page, keep a minimum", "a schedule from an idle count of 0", scaled(2, 4, by_clock("0 9 * * *", "0 17 * * *", "3"), idleReplicaCount=0)),
    Example("Ori", "docs, KEDA autoscaling for Ollama", "utilisation by an API of its own", scaled(1, 5, {"type": "metrics-api", "metadata": {"url": "http://m", "valueLocation": "gpu", "targetValue": "50"}})),
    Example("Kthena", "release notes of v1.0.0", "waiting of prefill, KV of decode, by its own controller", other("AutoscalingPolicy", "workload.serving.volcano.sh/v1alpha1")),
    Example("power capping operator", "its design document, KEDA ScaledObject for vLLM", "a window outside a function; fields of its own", scaled(1, 10, trigger("average_token_throughput_per_second[1m]", "100"), rackConstraints=[{"rackId": "r"}])),
    Example("VNG Cloud", "VKS docs, GPU node groups", "mean utilisation as a sum by a count", scaled(1, 3, trigger(f"sum({UTILIZATION}) / count({UTILIZATION}) / 100", "0.5"))),
    Example("no known source", "tutorial in Chinese after the EKS guide", "waiting for each pod, as a sum by a count", scaled(1, 10, trigger(f"sum({WAITING})\n/\ncount({WAITING})\n", "25"), up=rules(30, 2, 60, "Pods"), down=rules(300, 1, 120, "Pods"))),
    Example("no known source", "scaling strategies of a vLLM deployment", "the rate of a gauge; CPU", scaled(2, 20, trigger(f"sum(rate({RUNNING}[1m]))", "100"), {"type": "cpu", "metadata": {"value": "70"}})),
    Example("no known source", "Terraform of a small model", "waiting; KV in percent by its old name", scaled(1, 2, trigger(f'sum({WAITING}{{namespace="d",model_name="m"}})', "5"), trigger('avg(vllm:gpu_cache_usage_perc{namespace="d",model_name="m"}) * 100', "80"))),
    Example("no known source", "chapter on autoscaling, 11 to 18 replicas", "waiting, mean KV; a static fallback", scaled(11, 18, trigger(f'sum({WAITING}{{job="chat"}})', "8"), trigger('avg(vllm:kv_cache_usage_perc{job="chat"})', "0.85"), fallback={"failureThreshold": 3, "replicas": 15}, up=rules(0, 4, 60, "Pods"), down=rules(900, 1, 300, "Pods"))),
    Example("no known source", "design of a platform, to zero", "a series that vLLM has not", scaled(0, 4, trigger('avg(vllm:request_queue_depth{model="d"})\n', "50"))),
    Example("KServe", "InferenceService in a German guide, by KEDA", "running in all by Value", scaled(1, 3, trigger(f'sum({RUNNING}{{namespace="team"}})', "16", metricType="Value"))),
    Example("prokube", "examples, serving/kserve-keda-autoscaling (PR 41)", "p95 of TTFT, KV (written from the description)", scaled(1, 5, trigger('histogram_quantile(0.95, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket{namespace="llm"}[1m])))', "1", metricType="Value"), trigger('avg(vllm:kv_cache_usage_perc{namespace="llm"})', "0.8", metricType="Value"))),
    Example("ai.wmx.dev", "KEDA autoscaling", "waiting, KV; paused", {**scaled(1, 4, trigger(f"sum({WAITING})", "5"), trigger("avg(vllm:kv_cache_usage_perc)", "0.8")), "metadata": {"name": "so", "annotations": {"autoscaling.keda.sh/paused": "true"}}}),
)  # fmt: skip
EXAMPLES = (*LLM_D, *OTHERS, *FOUND)
PROFILE = load("llama-3.1-8b-1xl4")


def result_of(given: Object) -> str:
    """loads, or refused with the field; of what loads what KEDA or the simulation cannot do with it."""
    loaded = loading(given)
    if loaded.startswith("refused"):
        return loaded
    try:
        read_scaler(PROFILE, given)
    except BadInput as problem:
        field, said = problem.what.split(": ", 1)
        return f"{loaded}; not simulated: `{field}`: {said}"
    return loaded


def loading(given: Object) -> str:
    """loads, or refused with the field; what KEDA makes of an answer of several elements is told."""
    if given["kind"] == "HorizontalPodAutoscaler":
        try:
            HpaSpec.from_manifest(given, scale_to_zero=True)
        except BadInput as problem:
            return f"refused: {problem.what}"
        return "loads" if given["spec"]["minReplicas"] else "loads from Kubernetes 1.37 on: minReplicas is 0"
    try:
        found = ScaledObject.from_manifest(given)
        hpa_spec(found)
        several = False
        for index, one in enumerate(found.triggers):
            if isinstance(one, PrometheusTrigger):
                query = parse_query(one.query, f"spec.triggers[{index}].metadata.query")
                several = several or not one_element(query)
    except KedaRefusal as problem:
        return f"refused: `{problem.field}`: {problem.problem}"
    return "loads; KEDA fails with the second pod: the query has an element for each" if several else "loads"


def table() -> str:
    """The examples as the page shows them."""
    head = "| project | place | reads | result |\n|---|---|---|---|\n"
    rows = (f"| {e.project} | {e.place} | {e.reads} | {result_of(e.object)} |" for e in EXAMPLES)
    return head + "\n".join(rows)
