"""Kinds of scalers that stand in public repositories, written anew and small: what is wrong is said, and nothing that is not."""

import pytest

from autoscale.lint.linter import lint_objects
from autoscale.lint.query import read_query

KV = "vllm:kv_cache_usage_perc"


def scaled(query, threshold="5", kind="Value", **spec):
    """A ScaledObject with one trigger; nothing of it is a defect but what the row brings."""
    metadata = {
        "serverAddress": "http://p:9090",
        "query": query,
        "threshold": threshold,
        "ignoreNullValues": "false",
    }
    trigger = {"type": "prometheus", "metricType": kind, "metadata": metadata}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "scaler"},
        "spec": {
            "scaleTargetRef": {"name": "llm"},
            "minReplicaCount": 1,
            "maxReplicaCount": 8,
            "triggers": [trigger],
            **spec,
        },
    }


def found(*objects):
    return [f for f in lint_objects(objects).findings if f.code != "target-not-in-set"]


def codes(*objects):
    return [finding.code for finding in found(*objects)]


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        pytest.param(f"avg({KV})", 1, id="a gauge"),
        pytest.param(f"avg({KV}) * 100", 100, id="a fraction as a percentage"),
        pytest.param(f"100 * (max({KV}))", 100, id="the number first"),
        pytest.param(f"max({KV} * 100)", 100, id="inside the aggregation"),
        pytest.param("sum(vllm:num_requests_running) / scalar(vector(32))", 1 / 32, id="a constant made a scalar"),
        pytest.param("clamp_max(sum by (model_name) (avg_over_time(vllm:num_requests_waiting[1m])), 50)", 1, id="functions that keep the unit"),
        pytest.param("sum(vllm:num_requests_waiting) or vector(0)", 1, id="0 where there is none"),
        pytest.param(f"avg({KV}) or avg(vllm:gpu_cache_usage_perc)", 1, id="the newer name or the older"),
        pytest.param(f"avg({KV}) > 0.1", 1, id="a comparison that filters"),
        pytest.param(f"avg({KV}) > bool 0.1", None, id="a comparison that answers 0 or 1"),
        pytest.param("sum(vllm:num_requests_waiting) / count(vllm:num_requests_waiting)", None, id="a quotient of two"),
        pytest.param("sum(vllm:num_requests_waiting) + sum(vllm:num_requests_running)", None, id="a sum of two"),
        pytest.param("sum(rate(vllm:num_requests_running[1m]))", None, id="a rate"),
        pytest.param("32 / sum(vllm:num_requests_running)", None, id="one over a gauge"),
        pytest.param("sum(vllm:num_requests_running) / 0", None, id="divided by nothing"),
        pytest.param("vector(1)", None, id="a number"),
        pytest.param("(((", None, id="no query"),
        pytest.param("", None, id="nothing"),
    ],
)  # fmt: skip
def test_a_query_answers_its_gauge_so_many_times_over(text, factor):
    assert read_query(text).factor == pytest.approx(factor)


@pytest.mark.parametrize(
    ("query", "threshold", "expected"),
    [
        pytest.param(f"avg({KV}) * 100", "80", [], id="a percentage against a percentage"),
        pytest.param(f"100 * max({KV})", "95", ["target-never-fires"], id="a percentage that 10 % tolerance lifts over 100"),
        pytest.param(f"avg({KV})", "80", ["target-percentage"], id="a fraction against a percentage"),
        pytest.param("avg(vllm_kv_cache_usage_perc)", "80", ["target-percentage", "query-underscore-name"], id="under a relabelled name too"),
        pytest.param("sum(vllm:num_requests_waiting) / sum(vllm:num_requests_running)", "0.1", [], id="a quotient is no queue"),
        pytest.param("avg(vllm:num_requests_waiting)", "1", ["target-inside-one-request"], id="a queue within one request"),
        pytest.param("max(vllm:num_requests_running) / 32", "0.7", [], id="a share of 32 seats"),
        pytest.param("max(vllm:num_requests_running) / 4", "300", ["target-never-fires"], id="a share of more than all seats"),
        pytest.param("avg(rate(vllm:num_requests_running[1m]))", "100", ["gauge-with-rate"], id="the rate of a gauge"),
        pytest.param("avg(increase(vllm_num_requests_waiting[1m]))", "5", ["gauge-with-rate", "query-underscore-name"], id="the increase of a relabelled gauge"),
    ],
)  # fmt: skip
def test_a_threshold_is_judged_in_the_unit_of_its_query(query, threshold, expected):
    assert codes(scaled(query, threshold)) == expected


@pytest.mark.parametrize(
    ("query", "threshold", "fix"),
    [
        (f"avg({KV})", "80", "Write 0.8."),  # 80 % as a fraction; KEDA refuses 800m
        (
            f"avg({KV}) * 100",
            "95",
            "Write less than 90.9, such as 70.",
        ),  # 100 / 1.1, to three decimals of a fraction
    ],
)
def test_a_threshold_is_advised_as_keda_reads_it(query, threshold, fix):
    assert [finding.fix for finding in found(scaled(query, threshold))] == [fix]


def test_a_percentage_that_is_divided_can_ask_for_two_replicas():
    [finding] = found(scaled(f"avg({KV}) * 100", "80", "AverageValue"))
    assert finding.code == "mean-divided"
    assert "ceil(100 / 80) = 2 replicas" in finding.consequence  # 100 / 80 = 1.25


@pytest.mark.parametrize(
    ("change", "problem", "fix"),
    [
        pytest.param({"minReplicas": 1}, "spec.minReplicas is no field of a ScaledObject.", "Did you mean minReplicaCount?", id="an HPA's field"),
        pytest.param({"fallback": {"replicas": 3}}, "spec.fallback.failureThreshold: Required value.", "Correct the field.", id="a fallback without its threshold"),
        pytest.param({"pollingInterval": "15s"}, "spec.pollingInterval: is no 32-bit integer: '15s'.", "Write a whole number, without quotes.", id="a duration for seconds"),
        pytest.param({"triggers": []}, "spec.triggers: spec.triggers in body should have at least 1 items.", "Correct the field.", id="no trigger"),
        pytest.param({"scaleTargetRef": {"deploymentName": "llm"}}, "spec.scaleTargetRef.deploymentName is no field of a ScaledObject.", None, id="the target by KEDA 1's name"),
    ],
)  # fmt: skip
def test_a_scaled_object_is_read_by_kedas_schema(change, problem, fix):
    [finding] = [
        f
        for f in found(scaled("sum(vllm:num_requests_waiting)", kind="AverageValue", **change))
        if f.code == "api-refused"
    ]
    assert finding.problem == problem
    assert fix is None or finding.fix == fix


def test_a_scaled_object_of_another_api_group_is_refused():
    old = scaled("sum(vllm:num_requests_waiting)", kind="AverageValue") | {
        "apiVersion": "keda.k8s.io/v1alpha1"
    }
    [finding] = found(old)
    assert (finding.code, finding.fix) == ("api-refused", "Write keda.sh/v1alpha1.")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"maxReplicaCount": "${MAX}"}, id="a variable that is put in later"),
        pytest.param({"advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}}}}}, id="a behavior block"),
    ],
)  # fmt: skip
def test_what_the_schema_allows_is_not_refused(change):
    assert "api-refused" not in codes(scaled("sum(vllm:num_requests_waiting)", kind="AverageValue", **change))


def test_a_field_that_a_cluster_took_is_of_a_newer_keda():
    held = scaled("sum(vllm:num_requests_waiting)", kind="AverageValue", novelty=1)
    held["metadata"] |= {"uid": "8a0c", "resourceVersion": "42"}
    assert codes(held) == []


def test_a_scaled_object_without_a_name_hides_no_other_scaler():
    nameless = scaled("sum(vllm:num_requests_waiting)", kind="AverageValue")
    del nameless["metadata"]
    other = scaled(f"avg({KV})", "80")
    assert sorted(codes(nameless, other)) == ["api-refused", "target-percentage", "two-scalers-one-target"]


@pytest.mark.parametrize(
    ("query", "fix"),
    [
        pytest.param("vllm:num_requests_waiting", "Write sum(vllm:num_requests_waiting{...}).", id="a gauge"),
        pytest.param("rate(vllm:request_success_total[1m])", "Write sum(rate(vllm:request_success_total{...}[2m])).", id="a counter"),
        pytest.param(
            "histogram_quantile(0.9, rate(vllm:e2e_request_latency_seconds_bucket[5m]))",
            "Write histogram_quantile(0.95, sum by (le) (rate(vllm:e2e_request_latency_seconds_bucket{...}[5m]))).",
            id="a histogram, whose quantile needs le",
        ),
    ],
)  # fmt: skip
def test_one_series_is_advised_by_what_the_series_is(query, fix):
    [finding] = found(scaled(query, kind="AverageValue"))
    assert (finding.code, finding.fix) == ("keda-many-series", fix)


@pytest.mark.parametrize(("pattern", "many"), [("one", False), ("one|two", True), ("one.*", True)])
def test_a_label_that_is_matched_by_plain_text_has_one_value(pattern, many):
    query = f'sum by (release) (vllm:num_requests_waiting{{release=~"{pattern}"}})'
    told = codes(scaled(query, kind="AverageValue"))
    assert ("keda-many-series" in told) == many


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("max(vllm:gpu_cache_usage_perc)", ["metric-not-exported"], id="the KV gauge's older name alone"),
        pytest.param(f"max({KV}) or max(vllm:gpu_cache_usage_perc)", [], id="beside the newer one"),
        pytest.param("max(vllm:num_requests_waiting{model='m'})", ["query-selects-nothing"], id="a label of other servers"),
        pytest.param("max(vllm:num_requests_waiting{model_name='m', model='m'})", [], id="a label that somebody adds"),
        pytest.param("max(vllm:num_requests_waiting{model!='m'})", [], id="without a label's value"),
        pytest.param("avg(rate(vllm:admission_rejections_total[1m]))", [], id="what an admission control turns away, since 0.32"),
        pytest.param("max(sglang:num_queue_reqs{model='m'})", [], id="another server's label"),
    ],
)  # fmt: skip
def test_names_and_labels_are_those_of_vllm(query, expected):
    assert codes(scaled(query, "0.7" if "usage" in query else "5")) == expected


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"podTargetLabels": ["model"]}, id="a pod's label"),
        pytest.param({"podMetricsEndpoints": [{"relabelings": [{"targetLabel": "model", "replacement": "m"}]}]}, id="a relabelling"),
    ],
)  # fmt: skip
def test_a_label_that_the_set_adds_is_right(spec):
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "m"}}
    found_codes = codes(scaled("max(vllm:num_requests_waiting{model='m'})"), monitor | {"spec": spec})
    assert "query-selects-nothing" not in found_codes


def test_a_name_that_is_like_an_older_one_is_the_newest():
    [finding] = found(scaled("max(vllm:gpu_cache_usage_factor)", "0.7"))
    assert finding.fix == f"Did you mean {KV}?"
    assert "for 0" in finding.consequence


def hpa(*metrics):
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "hpa"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "llm"},
            "minReplicas": 1,
            "maxReplicas": 8,
            "metrics": list(metrics),
        },
    }


def resource(name):
    target = {"type": "Utilization", "averageUtilization": 75}
    return {"type": "Resource", "resource": {"name": name, "target": target}}


def pods_metric(name):
    target = {"type": "AverageValue", "averageValue": "700m"}
    return {"type": "Pods", "pods": {"metric": {"name": name}, "target": target}}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        pytest.param(resource("nvidia.com/gpu"), ["resource-unknown"], id="a metrics server measures no accelerator"),
        pytest.param(resource("memory"), [], id="memory"),
        pytest.param(pods_metric("gpu_cache_usage_perc"), [], id="NIM's name, by an adapter"),
        pytest.param(pods_metric("vllm_gpu_cache_usage_perc"), ["metric-not-exported"], id="vLLM's older name, by an adapter"),
    ],
)  # fmt: skip
def test_an_hpa_reads_what_its_metrics_api_can_serve(metric, expected):
    assert codes(hpa(metric)) == expected


QUEUE = "sum(llm_d_epp_flow_control_queue_size) or vector(0)"


@pytest.mark.parametrize(
    ("query", "activation", "low", "expected"),
    [
        pytest.param(QUEUE, "1", 0, ["keda-activation"], id="one request is not above 1"),
        pytest.param(QUEUE, "0.5", 0, [], id="one request is above a half"),
        pytest.param(QUEUE, "1", 1, [], id="nothing sleeps"),
        pytest.param("sum(rate(vllm:num_incoming_requests_total[1m]))", "1", 0, [], id="a rate is no number of requests"),
    ],
)  # fmt: skip
def test_a_lone_request_wakes_a_workload_only_above_the_activation(query, activation, low, expected):
    given = scaled(query, kind="AverageValue", minReplicaCount=low)
    given["spec"]["triggers"][0]["metadata"]["activationThreshold"] = activation
    assert codes(given) == expected


def test_another_trigger_that_wakes_at_one_request_is_enough():
    given = scaled(QUEUE, kind="AverageValue", minReplicaCount=0)
    second = scaled("sum(rate(envoy_cluster_upstream_rq_total[1m]))", kind="AverageValue")["spec"]["triggers"]
    given["spec"]["triggers"][0]["metadata"]["activationThreshold"] = "1"
    given["spec"]["triggers"] += second
    assert codes(given) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("avg(vllm:num_requests_waiting[30s])", ["query-mistyped"], id="a window in an aggregation"),
        pytest.param("avg(rate(vllm:request_success_total))", ["query-mistyped"], id="a rate without a window"),
        pytest.param("avg(vllm:num_requests_waiting", ["query-mistyped"], id="a parenthesis that never closes"),
        pytest.param("avg_over_time((sum(a) / sum(b))[5m:1m])", [], id="a window of an expression"),
        pytest.param("max(rate((vllm:request_success_total[1m])))", [], id="parentheses around a window"),
        pytest.param("max(increase(vllm:request_success_total[5m] offset 1m))", [], id="an offset"),
        pytest.param("avg by (model_name) (sum_over_time(vllm:num_requests_waiting{model_name='m'}[5m]))", [], id="a group before its argument"),
    ],
)  # fmt: skip
def test_what_prometheus_does_not_parse_is_said(query, expected):
    assert codes(scaled(query)) == expected


RUNNING = "sum(vllm:num_requests_running)"
AT_ZERO = {"minReplicaCount": 0}
IDLE = {"minReplicaCount": 2, "idleReplicaCount": 0}
SATURATED = "max(llm_d_epp_flow_control_pool_saturation)"
FORMULA = {"advanced": {"scalingModifiers": {"formula": "first", "target": "1"}}}


def at_zero(query, spec, annotations=None, **metadata):
    """A ScaledObject that leaves no replica, or as many as `spec` says."""
    given = scaled(query, kind="AverageValue", **{**AT_ZERO, **spec})
    given["spec"]["triggers"][0] |= {"name": "first"}
    given["spec"]["triggers"][0]["metadata"] |= metadata
    given["metadata"]["annotations"] = annotations or {}
    return given


@pytest.mark.parametrize(
    ("query", "spec", "severity", "field"),
    [
        pytest.param(RUNNING, AT_ZERO, "error", "spec.minReplicaCount", id="what the pods export"),
        pytest.param(RUNNING, IDLE, "error", "spec.idleReplicaCount", id="an idle count of 0"),
        pytest.param(QUEUE, IDLE, None, "", id="an idle count of 0 and a gateway's queue"),
        pytest.param(RUNNING, {"minReplicaCount": 2}, None, "", id="never below two"),
        pytest.param("sum(llm_d_epp_request_running)", AT_ZERO, "error", "spec.minReplicaCount", id="counted once a pod has the request"),
        pytest.param("sum(inference_objective_running_requests)", AT_ZERO, "error", "spec.minReplicaCount", id="the same by its older name"),
        pytest.param("sum(llm_d_epp_inflight_tokens)", AT_ZERO, "error", "spec.minReplicaCount", id="tokens that pods work on"),
        pytest.param("max(inference_pool_average_queue_size)", AT_ZERO, "error", "spec.minReplicaCount", id="a mean over no pod"),
        pytest.param("max(llm_d_epp_ready_endpoints)", AT_ZERO, "error", "spec.minReplicaCount", id="a number of pods"),
        pytest.param("sum(kube_deployment_status_replicas{deployment='llm'})", AT_ZERO, "error", "spec.minReplicaCount", id="its own replicas"),
        pytest.param("sum(kube_deployment_status_replicas{deployment='batch'})", AT_ZERO, None, "", id="the replicas of those who ask"),
        pytest.param(QUEUE + " + sum(llm_d_epp_request_running)", AT_ZERO, None, "", id="demand: the queue and what runs"),
        pytest.param("sum(sglang:num_queue_reqs)", AT_ZERO, "warning", "spec.minReplicaCount", id="SGLang's queue"),
        pytest.param("sum(tgi_queue_size)", AT_ZERO, "warning", "spec.minReplicaCount", id="TGI's queue"),
        pytest.param("sum(nv_inference_pending_request_count)", AT_ZERO, "warning", "spec.minReplicaCount", id="Triton's queue"),
        pytest.param("sum(trtllm_num_requests_waiting)", AT_ZERO, "warning", "spec.minReplicaCount", id="TensorRT-LLM's queue"),
        pytest.param("sum(sgl_router_pending_requests)", AT_ZERO, None, "", id="the queue of SGLang's router"),
        pytest.param("sum(tgi_queue_size)", {"minReplicaCount": 1}, None, "", id="TGI's queue above zero"),
    ],
)  # fmt: skip
def test_what_is_silent_without_pods_wakes_nothing(query, spec, severity, field):
    told = [f for f in found(at_zero(query, spec)) if f.code == "min-replicas-zero"]
    assert [(f.severity, f.field) for f in told] == ([(severity, field)] if severity else [])


@pytest.mark.parametrize(
    ("given", "severity", "field"),
    [
        pytest.param(at_zero(SATURATED, AT_ZERO), "error", "spec.triggers[0].metadata.query", id="an empty pool is full"),
        pytest.param(at_zero(SATURATED, IDLE), "error", "spec.triggers[0].metadata.query", id="with an idle count of 0"),
        pytest.param(at_zero(SATURATED + " * 100", AT_ZERO, activationThreshold="80"), "error", "spec.triggers[0].metadata.query", id="in percent"),
        pytest.param(at_zero(SATURATED + " * 100", AT_ZERO, activationThreshold="100"), None, "", id="active above full"),
        pytest.param(at_zero(SATURATED + " * sum(llm_d_epp_ready_endpoints)", AT_ZERO), None, "", id="times no pods"),
        pytest.param(at_zero(SATURATED, {"minReplicaCount": 1}), None, "", id="never at zero"),
        pytest.param(at_zero(SATURATED, FORMULA), None, "", id="a formula decides"),
        pytest.param(at_zero(RUNNING, AT_ZERO, {"autoscaling.keda.sh/force-activation": "true"}), "warning", "metadata.annotations[autoscaling.keda.sh/force-activation]", id="forced"),
        pytest.param(at_zero(QUEUE, AT_ZERO, {"autoscaling.keda.sh/force-activation": "F"}), None, "", id="not forced"),
    ],
)  # fmt: skip
def test_what_is_active_without_load_never_stays_at_zero(given, severity, field):
    told = [f for f in found(given) if f.code == "zero-never-stays"]
    assert [(f.severity, f.field) for f in told] == ([(severity, field)] if severity else [])
    assert not told or "min-replicas-zero" not in codes(given)


@pytest.mark.parametrize(
    ("spec", "code", "field"),
    [
        pytest.param({}, "api-refused", "spec.minReplicaCount", id="KEDA's default minimum"),
        pytest.param({"minReplicaCount": 0}, "api-refused", "spec.minReplicaCount", id="a minimum of 0"),
        pytest.param({"minReplicaCount": 1}, None, "", id="a minimum of 1"),
        pytest.param({"minReplicaCount": 1, "idleReplicaCount": 0}, "zero-never-stays", "spec.idleReplicaCount", id="an idle count of 0"),
    ],
)  # fmt: skip
def test_cpu_and_memory_alone_take_nothing_to_zero(spec, code, field):
    given = scaled(RUNNING, kind="AverageValue")
    given["spec"] |= {"triggers": [{"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}}]}
    del given["spec"]["minReplicaCount"]
    given["spec"] |= spec
    told = [(f.code, f.field) for f in found(given) if f.severity == "error" and f.code != "cpu-metric"]
    assert told == ([(code, field)] if code else [])


@pytest.mark.parametrize(
    ("query", "spec", "expected"),
    [
        pytest.param(RUNNING, {"minReplicaCount": 3, "idleReplicaCount": 1}, ["keda-idle-count"], id="an idle count that the HPA lifts"),
        pytest.param(QUEUE, {"minReplicaCount": 3, "idleReplicaCount": 0}, [], id="an idle count of 0"),
        pytest.param(QUEUE, {"pollingInterval": 3600}, ["keda-polling"], id="a poll in an hour"),
        pytest.param(QUEUE, {"pollingInterval": 60}, [], id="a poll before the gateway gives up"),
        pytest.param(QUEUE, {"pollingInterval": 3600, "minReplicaCount": 1}, [], id="nothing to wake"),
    ],
)  # fmt: skip
def test_idle_counts_and_polls_that_come_too_late_are_told(query, spec, expected):
    assert codes(at_zero(query, spec)) == expected


def cron(**given):
    """A trigger on the hours of a working day."""
    metadata = {
        "timezone": "Europe/Berlin",
        "start": "0 8 * * *",
        "end": "0 20 * * *",
        "desiredReplicas": "4",
    }
    return {"type": "cron", "metadata": metadata | given}


def beside(*triggers, annotations=None, name="scaler", **spec):
    """A ScaledObject with these triggers beside its own, which is called first."""
    given = scaled(RUNNING, kind="AverageValue", **spec)
    given["spec"]["triggers"][0]["name"] = "first"
    given["spec"]["triggers"] += triggers
    given["metadata"] = {"name": name, "annotations": annotations or {}}
    return given


def formula(text, target="1"):
    return {"advanced": {"scalingModifiers": {"formula": text, "target": target}}}


KAFKA = {"type": "kafka", "name": "topic", "metadata": {"topic": "t", "lagThreshold": "5"}}
CPU = {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        pytest.param(beside(idleReplicaCount=1), "spec.idleReplicaCount", id="an idle count that is the minimum"),
        pytest.param(beside(**formula("first + second")), "spec.advanced.scalingModifiers.formula", id="a formula with an unknown name"),
        pytest.param(beside(advanced={"scalingModifiers": {"target": "1"}}), "spec.advanced.scalingModifiers.formula", id="a target without a formula"),
        pytest.param(beside(**formula("first", "0")), "spec.advanced.scalingModifiers.target", id="a formula's target of 0"),
        pytest.param(beside(cron(end="0 8 * * *")), "spec.triggers[1].metadata", id="a window that ends as it begins"),
        pytest.param(beside(cron(desiredReplicas="0")), "spec.triggers[1].metadata", id="a window of no replicas"),
        pytest.param(beside(cron(start="8:00")), "spec.triggers[1].metadata", id="a schedule that is none"),
        pytest.param(beside({**cron(), "metricType": "Utilization"}), "spec.triggers[1].metricType", id="a metric type of CPU"),
        pytest.param(beside({**cron(), "name": "first"}), "spec.triggers[1].name", id="two triggers of one name"),
        pytest.param(beside({**KAFKA, "name": "first"}), "spec.triggers[1].name", id="one name also of a queue"),
        pytest.param(beside({**CPU, "useCachedMetrics": True}), "spec.triggers[1].useCachedMetrics", id="cached CPU"),
        pytest.param(beside(CPU, idleReplicaCount=1), "spec.idleReplicaCount", id="an idle count beside CPU"),
        pytest.param(beside(fallback={"failureThreshold": -1, "replicas": 2}), "spec.fallback", id="a threshold below 0"),
        pytest.param(beside(annotations={"autoscaling.keda.sh/paused-replicas": "two"}), "metadata.annotations[autoscaling.keda.sh/paused-replicas]", id="paused at a word"),
        pytest.param(beside(name="a" * 64), "metadata.name", id="a name of 64 letters"),
        pytest.param(beside(name="So_Upper"), "spec", id="a name that makes an HPA without one"),
    ],
)  # fmt: skip
def test_what_keda_refuses_is_refused(given, field):
    told = [f for f in found(given) if f.severity == "error"]
    assert [(f.code, f.field) for f in told] == [("api-refused", field)]
    assert "there is no HPA" in told[0].consequence


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(beside(cron()), id="a schedule"),
        pytest.param(beside(KAFKA), id="a queue that is not simulated"),
        pytest.param(beside(CPU), id="CPU"),
        pytest.param(beside(KAFKA, **formula("max(first, topic)")), id="a formula over a queue"),
        pytest.param(beside(**formula("sum([first, 1])")), id="a formula that is not simulated"),
        pytest.param(beside(cron(desiredReplicas="${DAY}")), id="a variable that is put in later"),
        pytest.param(beside(annotations={"autoscaling.keda.sh/paused": "false"}), id="not paused"),
    ],
)
def test_what_keda_takes_is_not_refused(given):
    assert "api-refused" not in codes(given)


def test_a_generated_name_is_completed_by_the_api_server():
    given = beside()
    given["metadata"] = {"generateName": "scaler-"}
    assert codes(given) == []


@pytest.mark.parametrize(
    ("zone", "expected"),
    [("Europe/Berlin", []), ("UTC", []), ("Etc/GMT-2", []), ("CEST", ["keda-time-zone"]), ("Berlin", ["keda-time-zone"])],
)  # fmt: skip
def test_a_time_zone_that_does_not_exist_is_told(zone, expected):
    assert codes(beside(cron(timezone=zone))) == expected


def authentication(kind="TriggerAuthentication", namespace="default", **spec):
    metadata = {"name": "prometheus"} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "keda.sh/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def secret(*names):
    return {"secretTargetRef": [{"parameter": name, "name": "s", "key": name} for name in names]}


NAMED = {"name": "prometheus"}


@pytest.mark.parametrize(
    ("modes", "reference", "others", "told"),
    [
        pytest.param("bearer", None, [], "bearerToken, and the trigger has no authenticationRef", id="a token from nowhere"),
        pytest.param("tls, basic", None, [], "cert and key", id="the first of two ways"),
        pytest.param("bearer", NAMED, [], None, id="from what is not in the set"),
        pytest.param("bearer", NAMED, [authentication(**secret("bearerToken"))], None, id="from a Secret"),
        pytest.param("bearer", NAMED, [authentication(hashiCorpVault={"secrets": [{"parameter": "bearerToken", "key": "k", "path": "p"}]})], None, id="from a vault"),
        pytest.param("bearer", NAMED, [authentication(podIdentity={"provider": "azure-workload"})], "bearerToken, which TriggerAuthentication prometheus does not give", id="a pod identity is no token"),
        pytest.param("bearer", NAMED, [authentication(namespace="other", podIdentity={})], None, id="of another namespace"),
        pytest.param("tls", NAMED | {"kind": "ClusterTriggerAuthentication"}, [authentication("ClusterTriggerAuthentication", None, **secret("cert"))], "needs key, which", id="a certificate without its key"),
        pytest.param("custom", NAMED, [authentication(**secret("customAuthHeader", "customAuthValue"))], None, id="a header"),
        pytest.param("somebody", None, [], None, id="a way that is not known here"),
    ],
)  # fmt: skip
def test_a_way_of_authentication_has_what_it_needs(modes, reference, others, told):
    given = beside()
    trigger = given["spec"]["triggers"][0]
    trigger["metadata"]["authModes"] = modes
    trigger |= {"authenticationRef": reference} if reference else {}
    said = [f.problem for f in found(given, *others) if f.code == "keda-authentication"]
    assert not said if told is None else any(told in each for each in said)


STATIC, AS_NIL = (
    {"failureThreshold": 3, "replicas": 2},
    {"failureThreshold": 3, "replicas": 2, "behavior": "scalingModifiers"},
)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        pytest.param(beside(fallback=STATIC, **formula("first", "1.5")), "target", id="a target of one and a half"),
        pytest.param(beside(fallback=STATIC, **formula("first", "2.0")), "target", id="a whole number with a point"),
        pytest.param(beside(fallback=STATIC, **formula("first", "2")), None, id="a whole number"),
        pytest.param(beside(**formula("first", "1.5")), None, id="no fallback"),
        pytest.param(beside(fallback=STATIC, **formula("(first ?? 0)")), "formula", id="a nil that a static fallback hides"),
        pytest.param(beside(**formula("(first ?? 0)")), "formula", id="a nil without a fallback"),
        pytest.param(beside(fallback=AS_NIL, **formula("(first ?? 0)")), None, id="a nil that comes"),
        pytest.param(beside(fallback=STATIC), None, id="no formula"),
    ],
)  # fmt: skip
def test_a_fallback_that_keda_never_uses_is_told(given, field):
    told = [f.field for f in found(given) if f.code == "keda-fallback-off"]
    assert told == ([f"spec.advanced.scalingModifiers.{field}"] if field else [])


@pytest.mark.parametrize(
    ("annotation", "value", "consequence"),
    [
        ("paused", "true", "added"),
        ("paused", "yes", "added"),  # no boolean of Go: counts as true
        ("paused", "0", None),
        ("paused", "False", None),
        ("paused-scale-out", "1", "added"),
        ("paused-scale-out", "F", None),
        ("paused-scale-in", "t", "removed"),
        ("paused-scale-in", "f", None),
        ("paused-replicas", "0", "added"),
    ],
)
def test_an_annotation_pauses_by_gos_booleans(annotation, value, consequence):
    given = beside(annotations={f"autoscaling.keda.sh/{annotation}": value})
    told = [f.consequence for f in found(given) if f.code == "keda-paused"]
    assert len(told) == (consequence is not None)
    assert not told or f"No replica is {consequence}" in told[0]


@pytest.mark.parametrize(
    ("version", "spec", "told"),
    [
        pytest.param("networking.k8s.io/v1", {"targetPorts": [{"number": 8000}], "endpointPickerRef": {"name": "p"}}, [], id="as v1 has it"),
        pytest.param("networking.k8s.io/v1", {"targetPortNumber": 8000, "extensionRef": {"name": "p"}}, ["extensionRef", "targetPortNumber"], id="v1alpha2's fields"),
        pytest.param("networking.k8s.io/v1", {"targetPorts": [{"number": 8000}]}, ["endpointPickerRef"], id="no picker"),
        pytest.param("networking.x-k8s.io/v1alpha2", {"targetPortNumber": 8000, "extensionRef": {"name": "p"}}, [], id="as v1alpha2 has it"),
    ],
)  # fmt: skip
def test_a_pool_has_what_its_version_requires(version, spec, told):
    pool = {
        "apiVersion": f"inference.{version}",
        "kind": "InferencePool",
        "metadata": {"name": "p"},
        "spec": spec,
    }
    refusals = [f for f in found(pool) if f.code == "api-refused"]
    assert sorted(f.field for f in refusals) == [f"spec.{field}" for field in told]


def test_a_pickers_configuration_that_nothing_looks_at_is_said():
    config = {"apiVersion": "inference.networking.x-k8s.io/v1alpha1", "kind": "EndpointPickerConfig"}
    assert any("EndpointPickerConfig" in note for note in lint_objects([config]).notes)
