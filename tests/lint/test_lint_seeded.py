"""Defects seeded one at a time into generated sets: each is found, with its code, and nothing else is said."""

import copy
import json
from dataclasses import replace

import pytest

from autoscale.deploy import Options, objects
from autoscale.kube.vllm_names import PATHS
from autoscale.lint.linter import lint_objects
from autoscale.profiles import load, names
from autoscale.recommendation import parse_recommendation

GPU, HDML, TPU, ONE = (
    "llama-3.1-405b-2x8h100",
    "deepseek-r1-2x8h100-hdml",
    "llama-3.1-70b-v6e8",
    "llama-3.1-8b-1xl4",
)
LWS = ("spec", "leaderWorkerTemplate")
LEADER = (*LWS, "leaderTemplate", "spec")
WORKER = (*LWS, "workerTemplate", "spec")
PLACES = Options(
    project="acme", region="us-central1", zone="us-central1-a", cluster="c1", bucket="weights", disk="disk-1"
)
TARGET = ("spec", "metrics", 0, "pods", "target", "averageValue")
NAME = ("spec", "metrics", 0, "pods", "metric", "name")
STACKDRIVER = "prometheus.googleapis.com|vllm:{}|gauge"


def codes(report):
    return {finding.code for finding in report.findings}


def one(objects_, kind):
    return next(document for document in objects_ if document["kind"] == kind)


def put(kind, path, value):
    """A defect: set (or with DELETE remove) the value at a path of the first object of a kind."""

    def mutate(set_):
        place = one(set_, kind)
        for key in path[:-1]:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
        if value is DELETE:
            del place[path[-1]]
        else:
            place[path[-1]] = (
                value(place.get(path[-1]) if isinstance(place, dict) else place[path[-1]])
                if callable(value)
                else value
            )

    return mutate


def replaced(kind, path, old, new):
    """A defect: another word in the text at a path."""

    def change(text):
        assert old in text
        return text.replace(old, new)

    return put(kind, path, change)


def renamed_key(kind, path, old, new):
    def change(mapping):
        return {new if key == old else key: value for key, value in mapping.items()}

    return put(kind, path, change)


def both(*mutations):
    def mutate(set_):
        for mutation in mutations:
            mutation(set_)

    return mutate


def metric(signal, value):
    return both(
        put("HorizontalPodAutoscaler", NAME, STACKDRIVER.format(signal)),
        put("HorizontalPodAutoscaler", TARGET, value),
    )


def add(document):
    return lambda set_: set_.append(copy.deepcopy(document))


def drop(kind):
    return lambda set_: set_.remove(one(set_, kind))


def second_hpa(set_):
    other = copy.deepcopy(one(set_, "HorizontalPodAutoscaler"))
    other["metadata"]["name"] = "second"
    set_.append(other)


def job(script, namespace="default"):
    container = {"name": "load", "image": "curlimages/curl:8.9.1", "command": ["sh", "-c", script]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "load", "namespace": namespace},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }


def curl(address, model="meta-llama/Llama-3.1-405B-Instruct", prompt="$RANDOM", loop="while true; do"):
    body = f'{{"model": "{model}", "prompt": "{prompt}", "max_tokens": 100}}'
    return (
        f"{loop} curl http://{address}/v1/completions -H 'Content-Type: application/json' -d '{body}'; done"
    )


def image(tag):
    return both(
        put("LeaderWorkerSet", (*LEADER, "containers", 0, "image"), f"vllm/vllm-openai:{tag}"),
        put("LeaderWorkerSet", (*WORKER, "containers", 0, "image"), f"vllm/vllm-openai:{tag}"),
    )


def adapter(name, image_):
    template = {"metadata": {"labels": {"a": name}}, "spec": {"containers": [{"name": "a", "image": image_}]}}
    return add(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": "custom-metrics"},
            "spec": {"selector": {"matchLabels": {"a": name}}, "template": template},
        }
    )


def pool(spec):
    config = {"guestAccelerator": [{"type": "nvidia-h100-80gb", "count": 8}]}
    kind = {"apiVersion": "container.cnrm.cloud.google.com/v1beta1", "kind": "ContainerNodePool"}
    return add({**kind, "metadata": {"name": "gpu-pool"}, "spec": {"nodeConfig": config, **spec}})


def relabelling(rule):
    return put("PodMonitoring", ("spec", "endpoints", 0, "metricRelabeling"), [rule])


def trigger(**given):
    """A defect: other values in the first trigger's metadata."""
    return put("ScaledObject", ("spec", "triggers", 0, "metadata"), lambda metadata: metadata | given)


def model(name):
    """A defect: the Deployment serves another model."""

    def mutate(set_):
        container = one(set_, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        container["args"] = [word for word in container["args"] if "Llama" not in word] + [f"--model={name}"]

    return mutate


def adapter_config(overrides, series="vllm:num_requests_waiting"):
    """The adapter's ConfigMap with one rule, which makes the name that generated sets expect."""
    rule = {
        "seriesQuery": series,
        "resources": {"overrides": overrides},
        "name": {"as": series.replace(":", "_")},
        "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
    }
    content = {"config.yaml": json.dumps({"rules": [rule]})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "adapter-config"}, "data": content}


def second_model(set_):
    other = copy.deepcopy(one(set_, "Deployment"))
    other["metadata"]["name"] = "second"
    labels = {"app": "second", **one(set_, "Service")["spec"]["selector"]}
    other["spec"]["template"]["metadata"]["labels"] = labels | {"model": "second"}
    other["spec"]["selector"] = {"matchLabels": {"model": "second"}}
    set_.append(other)
    for document in set_:  # only the Service mixes them
        if document["kind"] == "Deployment" and document is not other:
            document["spec"]["template"]["metadata"]["labels"]["model"] = "first"
            document["spec"]["selector"]["matchLabels"] = {"model": "first"}
    model("acme/other-1B")([other])


DELETE = object()
HPA, SET, POD = "HorizontalPodAutoscaler", "LeaderWorkerSet", "PodMonitoring"
SCRIPT = (*LEADER, "containers", 0, "command", 2)
DEPLOYMENT = ("spec", "template", "spec")

ROWS = [
    # trap, sentence, profile, metrics path, defect, code, severity
    ("1 the load script calls a Service that nothing creates", GPU, None, add(job(curl("vllm-service:8000"))), "load-wrong-service", "error"),
    ("1 the load script calls a port that the Service lacks", GPU, None, add(job(curl("vllm-leader:8000"))), "load-wrong-port", "error"),
    ("1 the load script asks for another model", GPU, None, add(job(curl("vllm-leader:8080", "meta-llama/Llama-3.1-70B"))), "load-wrong-model", "error"),
    ("1 the load job's namespace does not resolve the Service", GPU, None, add(job(curl("vllm-leader:8080"), "load")), "load-wrong-service", "error"),
    ("2 the load is one fixed prompt", GPU, None, add(job(curl("vllm-leader:8080", prompt="Write a story about San Francisco"))), "fixed-prompt", "warning"),
    ("3 the old KV name on an image that dropped it", GPU, None, both(image("v0.12.0"), metric("gpu_cache_usage_perc", "700m")), "metric-not-exported", "error"),
    ("3 the old KV name on an image that hides it", GPU, None, metric("gpu_cache_usage_perc", "700m"), "metric-not-exported", "error"),
    ("3 the old KV name where it is only deprecated", GPU, None, both(image("v0.10.1"), metric("gpu_cache_usage_perc", "700m")), "metric-not-exported", "warning"),
    ("3 the new KV name on an image before the rename", GPU, None, both(image("v0.8.5"), metric("kv_cache_usage_perc", "700m")), "metric-not-exported", "error"),
    ("3 a throughput metric of the V0 engine", GPU, None, metric("avg_generation_throughput_toks_per_s", "500"), "metric-not-exported", "error"),
    ("3 an image without a version", GPU, None, image("latest"), "image-not-pinned", "warning"),
    ("4 a node pool of two nodes without autoscaling", GPU, None, pool({"nodeCount": 2}), "nodes-too-few", "error"),
    ("11 a node pool whose maximum holds one group", GPU, None, pool({"autoscaling": {"totalMinNodeCount": 1, "totalMaxNodeCount": 3}}), "nodes-too-few", "error"),
    ("11 an annotation with the pool's maximum", GPU, None, put(HPA, ("metadata", "annotations"), {"autoscale/max-nodes": "2"}), "nodes-too-few", "error"),
    ("11 a quota below the chips of all replicas", GPU, None, add({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"requests.nvidia.com/gpu": "16"}}}), "nodes-too-few", "error"),
    ("5 a counter's name without its middle", GPU, None, metric("request_total", "5"), "metric-not-exported", "error"),
    ("5 a typing error in the metric", GPU, None, metric("num_request_waiting", "5"), "metric-not-exported", "error"),
    ("5 the name ends with counter although it is a gauge", GPU, None, put(HPA, NAME, "prometheus.googleapis.com|vllm:num_requests_waiting|counter"), "metric-kind-suffix", "error"),
    ("5 the name lacks its kind", GPU, None, put(HPA, NAME, "prometheus.googleapis.com|vllm:num_requests_waiting"), "metric-kind-suffix", "error"),
    ("5 slashes in the name", GPU, None, put(HPA, NAME, "prometheus.googleapis.com/vllm:num_requests_waiting/gauge"), "api-refused", "error"),
    ("5 prometheus-adapter's name with Managed Prometheus", GPU, None, put(HPA, NAME, "vllm_num_requests_waiting"), "metric-path-mismatch", "error"),
    ("5 the Stackdriver name with a PodMonitor", GPU, "prometheus-adapter", put(HPA, NAME, STACKDRIVER.format("num_requests_waiting")), "metric-path-mismatch", "error"),
    ("5 the scraped labels are not the pods'", GPU, None, put(POD, ("spec", "selector", "matchLabels", "role"), "head"), "scrape-selector", "error"),
    ("5 the scraped port is not vLLM's", GPU, None, put(POD, ("spec", "endpoints", 0, "port"), 8000), "scrape-port", "error"),
    ("5 a scraped port name that no container has", GPU, None, put(POD, ("spec", "endpoints", 0, "port"), "metrics"), "scrape-port", "error"),
    ("5 the scraped path is not vLLM's", GPU, None, put(POD, ("spec", "endpoints", 0, "path"), "/prometheus"), "scrape-path", "error"),
    ("5 scraping in another namespace", GPU, None, put(POD, ("metadata", "namespace"), "monitoring"), "scrape-namespace", "error"),
    ("5 nothing scrapes the pods", GPU, None, drop(POD), "scrape-missing", "error"),
    ("5 the pods' label changed", TPU, None, both(put("Deployment", ("spec", "template", "metadata", "labels", "app"), "tpu"), put("Deployment", ("spec", "selector", "matchLabels", "app"), "tpu")), ("scrape-selector", "service-selector", "budget-selects-nothing"), "error"),
    ("5 vLLM listens on another port than everybody thinks", TPU, None, replaced("Deployment", (*DEPLOYMENT, "containers", 0, "args", 0), "8000", "8001"), ("scrape-port", "service-port", "probe-port"), "error"),
    ("5 the HPA is in another namespace", GPU, None, put(HPA, ("metadata", "namespace"), "other"), "target-namespace", "error"),
    ("5 the HPA's target has another name", GPU, None, put(HPA, ("spec", "scaleTargetRef", "name"), "vllm-server"), "target-missing", "error"),
    ("5 the pod label is dropped", GPU, None, relabelling({"action": "labeldrop", "regex": "pod|container"}), "pod-label-dropped", "error"),
    ("5 the pod label is overwritten", GPU, None, relabelling({"action": "replace", "targetLabel": "pod", "replacement": "vllm"}), "pod-label-dropped", "error"),
    ("5 the metric itself is dropped", GPU, None, relabelling({"action": "keep", "sourceLabels": ["__name__"], "regex": "vllm:request.*"}), "metric-dropped", "error"),
    ("5 the PodMonitor names a port that is not there", GPU, "prometheus-adapter", put("PodMonitor", ("spec", "podMetricsEndpoints", 0, "port"), "metrics"), "scrape-port", "error"),
    ("5 the HPA asks the AutoscalingMetric for a gauge it lacks", GPU, "autoscalingmetric", put(HPA, NAME, "autoscaling.gke.io|vllm|num_requests_waiting"), "autoscalingmetric-missing", "error"),
    ("5 the AutoscalingMetric is gone", GPU, "autoscalingmetric", drop("AutoscalingMetric"), "autoscalingmetric-missing", "error"),
    ("5 KEDA's query asks another namespace", GPU, "keda", replaced("ScaledObject", ("spec", "triggers", 0, "metadata", "query"), 'namespace="default"', 'namespace="llm"'), "query-selects-nothing", "error"),
    ("5 KEDA's query returns a series per pod", GPU, "keda", put("ScaledObject", ("spec", "triggers", 0, "metadata", "query"), "vllm:num_requests_waiting"), "keda-many-series", "error"),
    ("5 KEDA's threshold is a quantity", GPU, "keda", put("ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), "5000m"), "keda-threshold", "error"),
    ("5 KEDA compares the sum", GPU, "keda", put("ScaledObject", ("spec", "triggers", 0, "metricType"), "Value"), "keda-metric-type", "error"),
    ("5 workers are scraped", GPU, None, put(POD, ("spec", "selector", "matchLabels", "role"), DELETE), "scrapes-workers", "warning"),
    ("5 requests go to workers", GPU, None, put("Service", ("spec", "selector", "role"), DELETE), "service-selects-workers", "error"),
    ("5 the Service's port is not vLLM's", GPU, None, put("Service", ("spec", "ports", 0, "targetPort"), 8000), "service-port", "error"),
    ("5 the Service selects nothing", GPU, None, put("Service", ("spec", "selector", "role"), "head"), "service-selector", "error"),
    ("6 served from a path without a model id", HDML, None, replaced(SET, SCRIPT, "--served-model-name deepseek-ai/DeepSeek-R1", "--seed 0"), "served-model-name", "warning"),
    ("6 the worker lacks the weights", HDML, None, put(SET, (*WORKER, "containers", 0, "volumeMounts", 1, "mountPath"), "/weights"), "model-path-not-mounted", "error"),
    ("7 two node terms instead of two expressions", HDML, None, lambda s: split_terms(one(s, "Job")), "node-terms-ored", "error"),
    ("8 readiness by an open port", GPU, None, put(SET, (*LEADER, "containers", 0, "readinessProbe"), {"tcpSocket": {"port": 8080}}), "readiness-tcp", "warning"),
    ("8 readiness asks a path that vLLM lacks", GPU, None, put(SET, (*LEADER, "containers", 0, "readinessProbe", "httpGet", "path"), "/healthz"), "probe-path", "error"),
    ("8 readiness asks another port", GPU, None, put(SET, (*LEADER, "containers", 0, "readinessProbe", "httpGet", "port"), 8000), "probe-port", "error"),
    ("8 no readiness probe", GPU, None, put(SET, (*LEADER, "containers", 0, "readinessProbe"), DELETE), "readiness-missing", "warning"),
    ("8 no preStop hook", GPU, None, put(SET, (*LEADER, "containers", 0, "lifecycle"), DELETE), "no-drain", "warning"),
    ("8 the default grace period", GPU, None, put(SET, (*LEADER, "terminationGracePeriodSeconds"), DELETE), "grace-too-short", "warning"),
    ("8 the shutdown flag on a version without it", ONE, None, lambda s: one(s, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"].append("--shutdown-timeout=60"), "flag-unknown", "error"),
    ("9 a KV target written as a percentage", GPU, None, metric("kv_cache_usage_perc", "70"), "target-percentage", "error"),
    ("9 a KV target of one", GPU, None, metric("kv_cache_usage_perc", "1"), "target-never-fires", "error"),
    ("9 a KV target inside the tolerance of full", GPU, None, metric("kv_cache_usage_perc", "950m"), "target-never-fires", "error"),
    ("9 a running target at the limit of seats", TPU, None, metric("num_requests_running", "128"), "target-never-fires", "error"),
    ("9 a queue target of zero", GPU, None, put(HPA, TARGET, "0"), "target-never-fires", "error"),
    ("9 a KEDA threshold of zero", GPU, "keda", put("ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), "0"), "target-never-fires", "error"),
    ("10 a queue target of one", GPU, None, put(HPA, TARGET, "1"), "target-inside-one-request", "warning"),
    ("11 fewer chips than the parallel sizes", GPU, None, put(SET, (*LWS, "size"), DELETE), "parallelism-chips", "error"),
    ("11 a topology of other size than the chips", TPU, None, put("Deployment", (*DEPLOYMENT, "nodeSelector", "cloud.google.com/gke-tpu-topology"), "2x2"), "tpu-topology", "error"),
    ("12 one compile cache for all replicas", TPU, None, lambda s: share_cache(s), "shared-xla-cache", "warning"),
    ("13 a start-up budget of five minutes", GPU, None, put(SET, (*LEADER, "containers", 0, "startupProbe", "failureThreshold"), 30), "startup-budget", "error"),
    ("13 a liveness probe that begins at once", GPU, None, put(SET, (*LEADER, "containers", 0, "startupProbe"), DELETE), "startup-budget", "error"),
    ("13 the group waits a minute for its nodes", GPU, None, replaced(SET, (*WORKER, "containers", 0, "command", 2), "--ray_init_timeout=1620", "--ray_init_timeout=60"), "ray-init-timeout", "error"),
    ("13 a scale-down window of a minute", ONE, None, put(HPA, ("spec", "behavior"), {"scaleDown": {"stabilizationWindowSeconds": 60}}), "window-below-cold-start", "warning"),
    ("13 a window above an hour", GPU, None, put(HPA, ("spec", "behavior"), {"scaleDown": {"stabilizationWindowSeconds": 5400}}), "behavior-limit", "error"),
    ("13 a policy period above half an hour", GPU, None, put(HPA, ("spec", "behavior"), {"scaleDown": {"stabilizationWindowSeconds": 3600, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 1801}]}}), "behavior-limit", "error"),
    ("14 the API group as label prefix", GPU, None, renamed_key(POD, ("spec", "selector", "matchLabels"), "leaderworkerset.sigs.k8s.io/name", "leaderworkerset.x-k8s.io/name"), ("lws-label-prefix", "scrape-selector"), "error"),
    ("14 the label prefix as API group of the target", GPU, None, put(HPA, ("spec", "scaleTargetRef", "apiVersion"), "leaderworkerset.sigs.k8s.io/v1"), "lws-api-group", "error"),
    ("14 the label prefix as API group of the set", GPU, None, put(SET, ("apiVersion",), "leaderworkerset.sigs.k8s.io/v1"), "lws-api-group", "error"),
    ("14 the leaders' StatefulSet as target", GPU, None, put(HPA, ("spec", "scaleTargetRef"), {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "vllm"}), "scales-leader-statefulset", "error"),
    ("15 both adapters in one set", GPU, None, both(adapter("custom-metrics-stackdriver-adapter", "gcr.io/gke-release/custom-metrics-stackdriver-adapter:v0.16"), adapter("prometheus-adapter", "registry.k8s.io/prometheus-adapter/prometheus-adapter:v0.12.0")), "two-adapters", "error"),
    ("15 an External metric with capitals", GPU, None, put(HPA, ("spec", "metrics"), lambda m: [*m, {"type": "External", "external": {"metric": {"name": "vllmQueue", "selector": {"matchLabels": {"model": "m"}}}, "target": {"type": "AverageValue", "averageValue": "5"}}}]), "external-metric-capitals", "error"),
    ("two HPAs on one target", GPU, None, second_hpa, "two-scalers-one-target", "error"),
    ("minReplicas 0 with a Pods metric", GPU, None, put(HPA, ("spec", "minReplicas"), 0), "min-replicas-zero", "error"),
    ("KEDA scales to zero by default", GPU, "keda", put("ScaledObject", ("spec", "minReplicaCount"), DELETE), "min-replicas-zero", "error"),
    ("maxReplicas below minReplicas", GPU, None, put(HPA, ("spec", "minReplicas"), 3), "api-refused", "error"),
    ("a field that the API does not know", GPU, None, put(HPA, ("spec", "maxReplica"), 3), "api-refused", "error"),
    ("no metric at all", GPU, None, put(HPA, ("spec", "metrics"), []), "no-metrics", "error"),
    ("CPU as the metric", GPU, None, put(HPA, ("spec", "metrics"), [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]), "cpu-metric", "warning"),
    ("a removed API version", GPU, None, put(HPA, ("apiVersion",), "autoscaling/v2beta2"), "hpa-api-version", "error"),
    ("the hub's token in plain text", GPU, None, put(SET, (*LEADER, "containers", 0, "env", 0), {"name": "HF_TOKEN", "value": "hf_AbCdEfGhIjKlMnOpQrStUvWx"}), "secret-inline", "error"),
    ("the server's key in its command", ONE, None, lambda s: one(s, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"].append("--api-key=planted-7f3a"), "secret-inline", "error"),
    ("a Secret with its value", GPU, None, add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hf-secret"}, "stringData": {"hf_api_token": "s3cr3t-value"}}), "secret-inline", "error"),
    ("gcsfuse without its annotation", TPU, None, put("Deployment", ("spec", "template", "metadata", "annotations", "gke-gcsfuse/volumes"), DELETE), "gcsfuse-annotation", "error"),
    ("the gcsfuse annotation as a boolean", TPU, None, put("Deployment", ("spec", "template", "metadata", "annotations", "gke-gcsfuse/volumes"), True), "not-a-string", "error"),
    ("the gcsfuse cache under another name", TPU, None, put("Deployment", (*DEPLOYMENT, "volumes", 1, "name"), "gcsfuse-cache"), "gcsfuse-cache-name", "warning"),
    ("a mount without its volume", TPU, None, put("Deployment", (*DEPLOYMENT, "containers", 0, "volumeMounts", 0, "name"), "shm"), "volume-missing", "error"),
    ("the disk attaches to one node only", HDML, None, put(SET, (*LEADER, "volumes", 1, "persistentVolumeClaim", "claimName"), "producer-pvc"), "volume-one-node", "error"),
    ("the volume waits for another claim", HDML, None, put("PersistentVolume", ("spec", "claimRef", "namespace"), "llm"), "volume-claim-mismatch", "error"),
    ("the worker has fewer chips", GPU, None, put(SET, (*WORKER, "containers", 0, "resources", "limits"), {"nvidia.com/gpu": "4"}), "worker-differs", "error"),
    ("the worker may land on any accelerator", GPU, None, put(SET, (*WORKER, "nodeSelector"), DELETE), "worker-differs", "warning"),
    ("one member restarts alone", GPU, None, put(SET, (*LWS, "restartPolicy"), "None"), "group-restart-policy", "warning"),
    ("no shared memory", TPU, None, lambda s: one(s, "Deployment")["spec"]["template"]["spec"]["containers"][0]["volumeMounts"].pop(0), "shared-memory", "warning"),
    ("a selector that misses its own pods", TPU, None, put("Deployment", ("spec", "selector", "matchLabels", "app"), "other"), "selector-template-mismatch", "error"),
    ("a budget that allows no eviction", GPU, None, put("PodDisruptionBudget", ("spec", "maxUnavailable"), 0), "budget-blocks", "warning"),
    ("a budget that protects nothing", GPU, None, put("PodDisruptionBudget", ("spec", "selector", "matchLabels"), {"app": "other"}), "budget-selects-nothing", "warning"),
    ("the leader waits for four pods in a group of two", GPU, None, replaced(SET, SCRIPT, "$(LWS_GROUP_SIZE)", "4"), "ray-cluster-size", "error"),
    ("an alert on a metric that is gone", GPU, None, add({"apiVersion": "monitoring.googleapis.com/v1", "kind": "Rules", "metadata": {"name": "r"}, "spec": {"groups": [{"name": "g", "rules": [{"alert": "A", "expr": "max(vllm:gpu_cache_usage_perc) > 0.9"}]}]}}), "metric-not-exported", "warning"),
    ("a budget that keeps the only replica", ONE, None, put("PodDisruptionBudget", ("spec",), lambda b: {"selector": b["selector"], "minAvailable": 1}), "budget-blocks", "warning"),
    ("a budget of half the pods where the minimum is one", ONE, None, put("PodDisruptionBudget", ("spec",), lambda b: {"selector": b["selector"], "minAvailable": "50%"}), "budget-blocks", "warning"),
    ("KEDA takes a mean for a total", ONE, "keda", trigger(query="avg(vllm:kv_cache_usage_perc)", threshold="0.7"), "mean-divided", "error"),
    ("KEDA takes a percentile for a total", ONE, "keda", trigger(query="histogram_quantile(0.95, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket[5m])))", threshold="0.5"), "mean-divided", "error"),
    ("KEDA takes a counter for a load", ONE, "keda", trigger(query="sum(vllm:request_success_total)"), "counter-without-rate", "error"),
    ("KEDA takes a part of a histogram for a load", ONE, "keda", trigger(query="sum(vllm:e2e_request_latency_seconds_sum)"), "counter-without-rate", "error"),
    ("KEDA asks for an underscore where vLLM has a colon", ONE, "keda", trigger(query="sum(vllm_num_requests_waiting)"), "query-underscore-name", "warning"),
    ("KEDA asks for a scalar", ONE, "keda", trigger(query="scalar(sum(vllm:num_requests_waiting))"), "keda-scalar", "error"),
    ("KEDA's threshold is no JSON number", ONE, "keda", trigger(threshold="5."), "keda-threshold", "error"),
    ("KEDA's threshold is rounded to zero", ONE, "keda", trigger(query="sum(vllm:kv_cache_usage_perc)", threshold="0.0004"), "keda-threshold", "error"),
    ("KEDA's metric type stands in the metadata", ONE, "keda", trigger(metricType="Value"), "keda-metric-type", "warning"),
    ("KEDA's threshold is a number", ONE, "keda", trigger(threshold=5), "not-a-string", "error"),
    ("KEDA is paused", ONE, "keda", put("ScaledObject", ("metadata", "annotations"), {"autoscaling.keda.sh/paused": "true"}), "keda-paused", "warning"),
    ("KEDA's HPA may not scale up", ONE, "keda", put("ScaledObject", ("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior", "scaleUp"), {"selectPolicy": "Disabled"}), "scale-up-disabled", "error"),
    ("scale-out is switched off", ONE, None, put(HPA, ("spec", "behavior", "scaleUp"), {"selectPolicy": "Disabled"}), "scale-up-disabled", "error"),
    ("scale-out waits for half an hour", ONE, None, put(HPA, ("spec", "behavior", "scaleUp"), {"stabilizationWindowSeconds": 1800}), "scale-up-window", "warning"),
    ("clients stay with their replica", ONE, None, put("Service", ("spec", "sessionAffinity"), "ClientIP"), "session-affinity", "warning"),
    ("the statistics are switched off", ONE, None, lambda s: one(s, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"].append("--disable-log-stats"), "stats-disabled", "error"),
    ("an External metric of everybody", ONE, None, put(HPA, ("spec", "metrics"), lambda m: [*m, {"type": "External", "external": {"metric": {"name": STACKDRIVER.format("num_requests_waiting")}, "target": {"type": "AverageValue", "averageValue": "5"}}}]), "external-no-selector", "warning"),
    ("a total of everybody that multiplies", ONE, None, put(HPA, ("spec", "metrics"), lambda m: [*m, {"type": "External", "external": {"metric": {"name": STACKDRIVER.format("num_requests_waiting"), "selector": {"matchLabels": {"metric.labels.model_name": "m"}}}, "target": {"type": "Value", "value": "5"}}}]), "target-value-multiplies", "error"),
    ("the default surge on whole nodes", TPU, None, put("Deployment", ("spec", "strategy"), DELETE), "rollout-needs-node", "warning"),
    ("a written surge on whole nodes", TPU, None, put("Deployment", ("spec", "strategy", "rollingUpdate"), {"maxSurge": "25%"}), "rollout-needs-node", "warning"),
    ("the default surge where the pool is full", ONE, None, both(put("Deployment", ("spec", "strategy"), DELETE), put(HPA, ("metadata", "annotations"), {"autoscale/max-nodes": "2"}), put(HPA, ("spec", "maxReplicas"), 2)), "rollout-needs-node", "warning"),
    ("a variable as a number", ONE, None, lambda s: one(s, "Deployment")["spec"]["template"]["spec"]["containers"][0].setdefault("env", []).append({"name": "N", "value": 1}), "not-a-string", "error"),
    ("an annotation as a number", ONE, None, put(HPA, ("metadata", "annotations"), {"team": 7}), "not-a-string", "error"),
    ("a label as a boolean", ONE, None, put("Service", ("metadata", "labels", "public"), True), "not-a-string", "error"),
    ("a node label as a number", ONE, None, put("Deployment", (*DEPLOYMENT, "nodeSelector", "pool"), 3), "not-a-string", "error"),
    ("an argument as a number", ONE, None, lambda s: one(s, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"].extend(["--seed", 1]), "not-a-string", "error"),
    ("a model that is larger than its chip", ONE, None, model("meta-llama/Llama-3.1-70B-Instruct"), "model-does-not-fit", "error"),
    ("a queue that nobody waits in", ONE, None, both(metric("num_requests_waiting", "5000")), "target-queue-unreached", "warning"),
    ("two workloads under one selector", ONE, None, lambda s: s.append({**copy.deepcopy(one(s, "Deployment")), "metadata": {"name": "canary", "namespace": "default"}}), "overlapping-selectors", "error"),
    ("a readiness probe on Ray's port", GPU, None, put(SET, (*LEADER, "containers", 0, "readinessProbe"), {"tcpSocket": {"port": 6379}}), ("probe-port", "readiness-tcp"), "error"),
    ("a disk that was never named", HDML, None, put("PersistentVolume", ("spec", "csi", "volumeHandle"), "projects/PROJECT_ID/zones/us-central1-a/disks/d"), "placeholder", "error"),
    ("a bucket that was never named", TPU, None, put("Deployment", ("spec", "template", "spec", "serviceAccountName"), "YOUR_KSA"), "placeholder", "error"),
    ("an angle bracket", ONE, None, put("Deployment", (*DEPLOYMENT, "containers", 0, "image"), "<registry>/vllm-openai:v0.11.0"), "placeholder", "error"),
    ("a variable for envsubst", ONE, None, put("Deployment", ("spec", "template", "spec", "serviceAccountName"), "${KSA}"), "placeholder", "error"),
    ("an adapter's configuration that is not YAML", ONE, "prometheus-adapter", add({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "adapter-config"}, "data": {"config.yaml": "rules:\n- seriesQuery: '{a\n  b: ]"}}), "adapter-config-broken", "error"),
    ("an adapter's rule on a label that scraping does not give", ONE, "prometheus-adapter", add(adapter_config({"namespace": {"resource": "namespace"}, "kubernetes_pod_name": {"resource": "pod"}})), "adapter-rule-label", "error"),
    ("an adapter's rule on a counter", ONE, "prometheus-adapter", add(adapter_config({"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}, "vllm:request_success_total")), ("counter-without-rate", "adapter-rule-missing"), "error"),
    ("two models behind one Service", ONE, None, lambda s: second_model(s), "service-mixes-models", "error"),
]  # fmt: skip


def split_terms(document):
    affinity = document["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    required = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    expressions = required["nodeSelectorTerms"][0]["matchExpressions"]
    required["nodeSelectorTerms"] = [{"matchExpressions": [expression]} for expression in expressions]


def share_cache(set_):
    env = one(set_, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"]
    next(entry for entry in env if entry["name"] == "VLLM_XLA_CACHE_PATH")["value"] = "/data"


@pytest.mark.parametrize(
    ("profile", "path", "defect", "code", "severity"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_a_seeded_defect_is_found_with_its_code_and_nothing_else(profile, path, defect, code, severity):
    sound = objects(load(profile), metrics=path, options=PLACES)
    broken = copy.deepcopy(sound)
    defect(broken)
    before, after = lint_objects(sound), lint_objects(broken)
    old = {(finding.code, finding.kind, finding.field) for finding in before.findings}
    new = [f for f in after.findings if (f.code, f.kind, f.field) not in old and f.severity != "note"]
    assert {finding.code for finding in new} == ({code} if isinstance(code, str) else set(code))
    assert severity in {finding.severity for finding in new}
    assert all(f.problem and f.consequence and f.fix and f.object for f in new)


def test_at_least_thirty_different_defects_are_seeded():
    assert len({row[4] for row in ROWS}) >= 30


CHOICES = [
    PLACES,
    replace(PLACES, health_probes=False, drain=False),
    replace(PLACES, ray_timeout=False, served_model_name=False, requests=False),
    replace(
        PLACES, behavior=False, rollout=False, disruption_budget=False, checker=False, checker_may_scale=True
    ),
    replace(PLACES, xla_cache="shared", namespace="llm", create_namespace=True),
    replace(PLACES, xla_cache="off", image="registry.example.com/vllm-openai:v0.19.1"),
]
RECOMMENDED = parse_recommendation(
    {
        "answer": "autoscale",
        "minReplicas": 1,
        "maxReplicas": 3,
        "metrics": [{"name": "waiting", "averageValue": "12"}, {"name": "kv_usage", "averageValue": "700m"}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3600}},
    }
)


@pytest.mark.parametrize("profile", names())
def test_generated_sets_have_no_error_on_any_path_with_any_option(profile):
    system = load(profile)
    bare_metal = system.deploy.platform == "bare-metal"
    own = [path for path in PATHS if path != "llm-d" or system.deploy.platform == "gke"]
    for path in own[2:] if bare_metal else own:
        for choice in CHOICES:
            for recommendation in (None, RECOMMENDED) if path != "llm-d" else (None,):
                report = lint_objects(objects(system, recommendation, path, choice))
                assert [f for f in report.findings if f.severity == "error"] == [], (path, choice)


JUNK = (None, 7, "", "x y", "-1", [], {}, [None], {"a": None}, True, 1.5)


def paths(value, at=()):
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield (*at, key)
        yield from paths(item, (*at, key))


@pytest.mark.parametrize(
    ("profile", "path"), [(HDML, "stackdriver"), (TPU, "keda"), (GPU, "autoscalingmetric")]
)
def test_any_value_may_be_junk_without_a_crash(profile, path):
    sound = objects(load(profile), metrics=path)
    for number, place in enumerate(paths(sound)):
        if len(place) < 2:
            continue
        broken = copy.deepcopy(sound)
        holder = broken
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = JUNK[number % len(JUNK)]
        report = lint_objects(broken)
        json.dumps([report.to_json(), report.sarif()])
