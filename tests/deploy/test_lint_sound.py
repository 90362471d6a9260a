"""What is legal although it looks odd: no finding says otherwise. Each row was once, or could be, a false alarm."""

import ast
import gzip
import json
import re
from pathlib import Path

import pytest
import yaml

from autoscale.deploy import Options, objects, write_files, write_set
from autoscale.lint.linter import lint_files, lint_objects
from autoscale.lint.query import read_query
from autoscale.lint.rules.text import left_open
from autoscale.profiles import load, names

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests/fixtures/kubernetes"
SERVER = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: llm, namespace: serving}
spec:
  replicas: 1
  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}
  selector: {matchLabels: {app: llm}}
  template:
    metadata: {labels: {app: llm}}
    spec:
      terminationGracePeriodSeconds: 300
      containers:
      - name: vllm
        image: vllm/vllm-openai:v0.11.0
        command: [vllm, serve, meta-llama/Llama-3.1-8B-Instruct]
        args: ["--port=8000", "--max-num-seqs=64"]
        ports: [{name: http, containerPort: 8000}]
        readinessProbe: {httpGet: {path: /health, port: 8000}}
        lifecycle: {preStop: {exec: {command: [sleep, "120"]}}}
        env: []
        resources: {limits: {nvidia.com/gpu: "1"}}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {name: llm, namespace: serving}
spec:
  selector: {matchLabels: {app: llm}}
  podMetricsEndpoints: [{port: http, interval: 5s}]
"""
SCALED = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: llm, namespace: serving}
spec:
  scaleTargetRef: {name: llm}
  minReplicaCount: 1
  maxReplicaCount: 6
  triggers: []
"""
HPA = """
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: llm, namespace: serving}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: llm}
  minReplicas: 1
  maxReplicas: 4
  metrics: []
"""


def documents(text):
    return list(yaml.safe_load_all(text))


def codes(found, *, least="warning"):
    return [
        f.code for f in found if f.severity == "error" or (least == "warning" and f.severity == "warning")
    ]


def keda(query, threshold="5", kind=None, low=1, **metadata):
    given = {
        "serverAddress": "http://p:9090",
        "query": query,
        "threshold": threshold,
        "ignoreNullValues": "false",
    }
    trigger = {"type": "prometheus", "metadata": given | metadata} | ({"metricType": kind} if kind else {})
    [scaled] = documents(SCALED)
    scaled["spec"] |= {"minReplicaCount": low, "triggers": [trigger]}
    return [*documents(SERVER), scaled]


@pytest.mark.parametrize(
    ("query", "threshold", "kind", "expected"),
    [
        pytest.param("avg(vllm:kv_cache_usage_perc)", "0.7", "Value", [], id="a mean compared as a value"),
        pytest.param("max(vllm:kv_cache_usage_perc)", "0.7", "Value", [], id="a maximum compared as a value"),
        pytest.param("max(vllm:kv_cache_usage_perc)", "0.7", None, ["mean-divided"], id="a maximum divided by the replicas"),
        pytest.param("quantile(0.9, vllm:num_requests_waiting)", "5", None, ["mean-divided"], id="a quantile divided"),
        pytest.param("sum(vllm:num_requests_waiting)", "5", "AverageValue", [], id="a sum divided by the replicas"),
        pytest.param("sum(vllm:num_requests_waiting)", "5", "Value", ["keda-metric-type"], id="a sum compared as a value"),
        pytest.param("sum(vllm:num_requests_waiting) / count(vllm:num_requests_waiting)", "5", None, ["mean-divided"], id="a mean written as a quotient"),
        pytest.param("avg(vllm:num_requests_waiting) * count(vllm:num_requests_waiting)", "5", None, [], id="a mean times the replicas is a sum"),
        pytest.param("sum(max_over_time(vllm:num_requests_waiting[1m]))", "5", None, [], id="a sum of each pod's last minute"),
        pytest.param("sum by (model_name) (vllm:num_requests_waiting{model_name='meta-llama/Llama-3.1-8B-Instruct'})", "5", None, [], id="a group of one model"),
        pytest.param("sum(rate(vllm:request_success_total[2m]))", "5", None, [], id="a counter's rate"),
        pytest.param("sum(vllm:request_success_total)", "5", None, ["counter-without-rate"], id="a counter as it is"),
        pytest.param("sum(llm_d_epp_flow_control_queue_size{namespace='gateway'})", "5", None, [], id="a gateway's queue, scraped elsewhere"),
        pytest.param("max(wva_desired_replicas{variant_name='llm'})", "1", None, [], id="the one of two scrapes of a decision"),
        pytest.param("sum(vllm:num_requests_waiting{namespace='$NAMESPACE'})", "5", None, ["placeholder"], id="a variable that is put in later selects no other namespace"),
        pytest.param("sum(vllm:num_requests_waiting{namespace='other'})", "5", None, ["query-selects-nothing"], id="another namespace's pods"),
    ],
)  # fmt: skip
def test_a_query_goes_with_the_metric_type_that_fits_what_it_aggregates(query, threshold, kind, expected):
    assert codes(lint_objects(keda(query, threshold, kind)).findings) == expected


def test_a_mean_that_is_divided_says_how_many_replicas_it_can_ask_for():
    [finding] = [
        f
        for f in lint_objects(keda("avg(vllm:kv_cache_usage_perc)", "0.7")).findings
        if f.severity == "error"
    ]
    assert "desired = ceil(value / 0.7)" in finding.problem
    assert "ceil(1 / 0.7) = 2 replicas" in finding.consequence  # 1 / 0.7 = 1.43


@pytest.mark.parametrize(
    "relabelled",
    [
        pytest.param(
            {
                "sourceLabels": ["__name__"],
                "regex": "vllm:(.+)",
                "targetLabel": "__name__",
                "replacement": "vllm_$1",
            },
            id="by relabelling",
        ),
        pytest.param(None, id="by a recording rule"),
    ],
)
def test_an_underscore_is_right_where_the_set_renames_the_series(relabelled):
    set_ = keda("sum(vllm_num_requests_waiting)")
    assert codes(lint_objects(set_).findings) == ["query-underscore-name"]
    if relabelled:
        set_[1]["spec"]["podMetricsEndpoints"][0]["metricRelabelings"] = [relabelled]
    else:
        rule = {"record": "vllm_num_requests_waiting", "expr": "vllm:num_requests_waiting"}
        spec = {"groups": [{"name": "g", "rules": [rule]}]}
        kind = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule"}
        set_.append({**kind, "metadata": {"name": "r", "namespace": "serving"}, "spec": spec})
    assert codes(lint_objects(set_).findings) == []


WORKING_HOURS = {"timezone": "UTC", "start": "0 8 * * *", "end": "0 20 * * *", "desiredReplicas": "2"}


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        pytest.param({"type": "cron", "metadata": WORKING_HOURS}, [], id="a schedule"),
        pytest.param({"type": "gcp-pubsub", "metadata": {}}, [], id="a queue of messages"),
        pytest.param(None, ["min-replicas-zero"], id="only what the pods export"),
    ],
)
def test_zero_replicas_need_a_trigger_that_is_there_without_pods(trigger, expected):
    set_ = keda("sum(vllm:num_requests_waiting)", low=0)
    set_[-1]["spec"]["triggers"] += [trigger] if trigger else []
    assert codes(lint_objects(set_).findings) == expected


def test_a_formula_takes_thresholds_and_metric_types_out_of_force():
    set_ = keda("avg(vllm:kv_cache_usage_perc)", "0.7")
    set_[-1]["spec"]["advanced"] = {"scalingModifiers": {"formula": "kv * 8", "target": "1"}}
    set_[-1]["spec"]["triggers"][0]["name"] = "kv"
    assert codes(lint_objects(set_).findings) == []


RULE = {
    "seriesQuery": '{__name__=~"^vllm:num_requests_waiting$"}',
    "resources": {"overrides": {"namespace": {"resource": "namespace"}}},
    "name": {"matches": "", "as": "queue_in_namespace"},
    "metricsQuery": "sum by(namespace) (vllm:num_requests_waiting)",
}


def test_an_adapters_rule_of_a_namespace_needs_no_pod():
    values = {"kind": "AdapterRules", "metadata": {"name": "values"}, "rules": {"custom": [RULE]}}
    assert codes(lint_objects([values]).findings) == []
    dropped = RULE | {"metricsQuery": "sum(vllm:num_requests_waiting)"}
    values = {"kind": "AdapterRules", "metadata": {"name": "values"}, "rules": {"custom": [dropped]}}
    assert codes(lint_objects([values]).findings) == ["adapter-rule-query"]


def namespace_metric(kind="Value", **rule):
    [hpa] = documents(HPA)
    target = {"type": kind, "value" if kind == "Value" else "averageValue": "3"}
    described = {"apiVersion": "v1", "kind": "Namespace", "name": "serving"}
    metric = {"metric": {"name": "queue_in_namespace"}, "describedObject": described, "target": target}
    hpa["spec"]["metrics"] = [{"type": "Object", "object": metric}]
    values = {"kind": "AdapterRules", "metadata": {"name": "values"}, "rules": {"custom": [RULE | rule]}}
    return [*documents(SERVER), hpa, values]


@pytest.mark.parametrize(
    ("kind", "rule", "expected"),
    [
        pytest.param("Value", {}, ["target-value-multiplies"], id="a sum compared as a value"),
        pytest.param("AverageValue", {}, [], id="a sum divided by the replicas"),
        pytest.param("Value", {"metricsQuery": "avg by(namespace) (vllm:num_requests_waiting)"}, [], id="a mean compared as a value"),
        pytest.param("AverageValue", {"metricsQuery": "avg(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)"}, ["mean-divided"], id="a mean divided by the replicas"),
        pytest.param("AverageValue", {"metricsQuery": "sum(vllm:num_requests_waiting)"}, ["adapter-rule-query"], id="a sum that belongs to no namespace"),
        pytest.param("AverageValue", {"resources": {"overrides": {"pod": {"resource": "pod"}}}}, ["adapter-rule-resources"], id="a rule for pods only"),
        pytest.param("AverageValue", {"resources": {"template": "<<.Resource>>"}}, [], id="labels by a pattern"),
    ],
)  # fmt: skip
def test_an_object_metric_on_a_namespace_is_legal_and_its_target_must_fit_its_query(kind, rule, expected):
    assert codes(lint_objects(namespace_metric(kind, **rule)).findings) == expected


def test_claims_of_a_leader_worker_set_are_volumes_of_its_pods():
    set_ = objects(load("llama-3.1-405b-2x8h100"))
    group = next(o for o in set_ if o["kind"] == "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    for role in ("leaderTemplate", "workerTemplate"):
        mounts = group[role]["spec"]["containers"][0]["volumeMounts"]
        mounts.append({"name": "scratch", "mountPath": "/scratch"})
    assert "volume-missing" in codes(lint_objects(set_).findings)
    group["volumeClaimTemplates"] = [{"metadata": {"name": "scratch"}, "spec": {}}]
    assert codes(lint_objects(set_).findings, least="error") == []


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("KVC_PER_TOKEN", "2", False),
        ("COST_PER_TOKEN", "0.002", False),
        ("MAX_TOKEN", "4096", False),
        ("EOS_TOKEN", "<|eot_id|>", False),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/var/run/key.json", False),
        ("DB_PASSWORD_FILE", "secrets/db", False),
        ("HF_TOKEN_PATH", "hub/token", False),
        ("API_KEY_HEADER", "x-api-key", False),
        ("USE_SECRET", "true", False),
        ("HF_TOKEN", "a-real-one", True),
        ("VLLM_API_KEY", "correct-horse", True),
        ("DB_PASSWORD", "31415926", True),
    ],
)
def test_a_variable_is_a_secret_by_its_name_and_by_what_it_may_hold(name, value, secret):
    set_ = documents(SERVER)
    set_[0]["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": name, "value": value}]
    assert ("secret-inline" in codes(lint_objects(set_).findings)) == secret


@pytest.mark.parametrize(
    ("text", "path", "word"),
    [
        ("projects/PROJECT_ID/zones/z/disks/d", (), "PROJECT_ID"),
        ("gs://BUCKET_NAME/x", (), "BUCKET_NAME"),
        ("<your-registry>/vllm:v1", (), "<your-registry>"),
        ("REPLACE_ME", (), "REPLACE_ME"),
        ("YOUR_PROJECT", (), "YOUR_PROJECT"),
        ("your-bucket-name", (), "your-bucket-name"),
        ("CHANGEME", (), "CHANGEME"),
        ("IMAGE_NAME", ("spec", "image"), "IMAGE_NAME"),
        ("KSA_NAME", ("spec", "serviceAccountName"), "KSA_NAME"),
        ("<YOUR HUGGINGFACE TOKEN>", ("data", "t"), "<YOUR HUGGINGFACE TOKEN>"),
        ("--model=<your-model>", ("args", 0), "<your-model>"),
        ("--stop=<end_of_turn>", ("args", 0), None),
        ("<eos>", ("env", 0, "value"), None),
        ("ZONE", ("env", 0, "name"), None),
        ("HF_TOKEN", ("secretKeyRef", "key"), None),
        ("registry/vllm:RC1", ("spec", "image"), None),
        ("$(PROJECT_ID)", ("env", 0, "value"), None),
        ("models/$(POD_NAME)", ("volumeMounts", 0, "subPathExpr"), None),
        ("sum(vllm:num_requests_waiting{namespace='$(NAMESPACE)'})", ("query",), "$(NAMESPACE)"),
        ("${sqs_queue_url}", ("spec", "triggers", 0, "metadata", "queueURL"), "${sqs_queue_url}"),
        ("${host}:9100", ("relabelings", 0, "replacement"), None),
        ("${schema.spec.name}", ("metadata", "name"), None),
        ("$(MY_POD_IP)", ("args", 0), None),
        ("NoSchedule", (), None),
        ("a < b and c > d", (), None),
        ("changeover", (), None),
        ("your model is here", (), None),
        ("${NAMESPACE}", ("metadata", "namespace"), "${NAMESPACE}"),
        ("http://prometheus.$NS.svc:9090", ("spec", "triggers", 0, "metadata", "serverAddress"), "$NS"),
        ('sum(vllm:num_requests_waiting{namespace="${NS:-llm}"})', ("query",), "${NS:-llm}"),
        ("--model=$MODEL", ("args", 0), None),
        ("$1:$2", ("replacement",), None),
        ("${1}", ("replacement",), None),
        ("pod {{ $labels.pod }}", ("annotations", "text"), None),
        ("rate(x[$__rate_interval])", ("expr",), None),
    ],
)
def test_placeholders_are_whole_words_in_places_where_they_mean_nothing_else(text, path, word):
    assert left_open(text, path) == word


@pytest.mark.parametrize(
    ("model", "flags", "fits"),
    [
        (
            "meta-llama/Llama-3.1-70B-Instruct",
            ["--tensor-parallel-size=2"],
            False,
        ),  # 140 GB on 2 x 80 x 0.9 = 144: fits
        ("meta-llama/Llama-3.1-70B-Instruct", ["--tensor-parallel-size=4"], True),
        ("RedHatAI/Meta-Llama-3.1-70B-Instruct-quantized.w4a16", [], True),  # 35 GB
        ("meta-llama/Llama-3.1-70B-Instruct", ["--quantization=bitsandbytes"], True),
        ("meta-llama/Llama-3.1-70B-Instruct", ["--cpu-offload-gb=100"], True),
        ("openai/gpt-oss-120b", [], True),  # 60 GB
        ("acme/mystery", [], True),
    ],
)
def test_a_model_is_too_large_only_where_its_bytes_are_known(model, flags, fits):
    set_ = documents(SERVER)
    spec = set_[0]["spec"]["template"]["spec"]
    spec["nodeSelector"] = {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    flags = [*flags, "--gpu-memory-utilization=0.8"] if "size=2" in str(flags) else flags  # 128 GB
    spec["containers"][0] |= {"command": ["vllm", "serve", model], "args": flags}
    spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "8"
    assert ("model-does-not-fit" not in codes(lint_objects(set_).findings)) == fits


@pytest.mark.parametrize(
    ("spec", "replicas", "blocks"),
    [
        pytest.param({"minAvailable": 1}, 1, True, id="one of one"),
        pytest.param({"minAvailable": 1}, 2, False, id="one of two"),
        pytest.param({"minAvailable": "50%"}, 1, True, id="half of one is one, rounded up"),
        pytest.param({"minAvailable": "50%"}, 2, False, id="half of two"),
        pytest.param({"maxUnavailable": "25%"}, 1, False, id="a quarter of one may go, rounded up"),
        pytest.param({"maxUnavailable": 0}, 3, True, id="none at all"),
    ],
)
def test_a_budget_blocks_where_no_pod_may_go_at_the_minimum_of_replicas(spec, replicas, blocks):
    set_ = documents(SERVER)
    set_[0]["spec"]["replicas"] = replicas
    meta = {"name": "b", "namespace": "serving"}
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta}
    set_.append({**budget, "spec": {"selector": {"matchLabels": {"app": "llm"}}, **spec}})
    assert codes(lint_objects(set_).findings) == (["budget-blocks"] if blocks else [])


def test_a_probe_on_rays_port_passes_too_early_not_never():
    set_ = objects(load("llama-3.1-405b-2x8h100"))
    group = next(o for o in set_ if o["kind"] == "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    container = group["leaderTemplate"]["spec"]["containers"][0]
    for port, consequence in ((6379, "ready too early"), (9999, "never becomes ready")):
        container["readinessProbe"] = {"tcpSocket": {"port": port}}
        [finding] = [f for f in lint_objects(set_).findings if f.code == "probe-port"]
        assert consequence in finding.consequence


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("sum(a)", "total"),
        ("sum(a) / 8", "total"),
        ("sum(a) + sum(b)", "total"),
        ("clamp_max(sum(a), 10)", "total"),
        ("sum(a) or vector(0)", "total"),
        ("avg(a)", "level"),
        ("sum(a) / sum(b)", "level"),
        ("histogram_quantile(0.9, sum by (le) (rate(a_bucket[5m])))", "level"),
        ("histogram_quantile(0.9, rate(a_bucket[5m]))", "many"),
        ("a{b='c'}", "many"),
        ("sum by (pod) (a)", "many"),
        ("sum without (pod) (a)", "many"),
        ("topk(1, a)", "many"),
        ("scalar(sum(a))", "scalar"),
        ("vector(1)", "number"),
        ("max(sum by (pod) (a))", "unknown"),
        ("(((", "unknown"),
        ("", "unknown"),
        ("a{b='}') (", "many"),
    ],
)
def test_the_shape_of_a_query_is_that_of_its_outermost_aggregation(text, shape):
    assert read_query(text).shape == shape


@pytest.mark.parametrize("name", names())
def test_committed_and_filled_in_sets_have_no_error(name, tmp_path):
    committed = lint_files([ROOT / "manifests" / name])
    assert {f.code for f in committed.findings if f.severity == "error"} <= {"placeholder"}
    places = Options(project="p", region="r", zone="z", cluster="c", bucket="b", disk="d")
    write_files(write_set(load(name), options=places), tmp_path)
    assert lint_files([tmp_path]).errors == 0


@pytest.mark.parametrize("name", ["deployment", "lws"])
def test_what_a_real_cluster_held_is_not_refused(name):
    stored = {}
    with gzip.open(RECORDED / f"{name}.jsonl.gz", "rt") as lines:
        for line in lines:
            found = json.loads(line)
            thing = found.get("object", found)
            if isinstance(thing, dict) and thing.get("kind") in (
                "Deployment",
                "LeaderWorkerSet",
                "HorizontalPodAutoscaler",
            ):
                stored[thing["kind"], thing["metadata"]["name"]] = thing
    assert stored
    refused = ("api-refused", "not-a-string", "placeholder", "volume-missing", "selector-template-mismatch")
    assert [c for c in codes(lint_objects(stored.values()).findings) if c in refused] == []


def test_every_rule_stands_on_its_page_and_the_page_names_no_other():
    modules = [ast.parse(file.read_text()) for file in (ROOT / "autoscale/lint").rglob("*.py")]
    nodes = [node for module in modules for node in ast.walk(module)]
    calls = [node for node in nodes if isinstance(node, ast.Call) and len(node.args) > 1]
    named = {
        call.args[1].value
        for call in calls
        if getattr(call.func, "attr", getattr(call.func, "id", "")) in ("finding", "Finding")
        and isinstance(call.args[1], ast.Constant)
    }
    words = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    page = set(
        re.findall(r"`([a-z]+(?:-[a-z]+)*)`", (ROOT / "docs/lint.md").read_text().split("## All rules")[1])
    )
    assert len(named) > 80
    assert named - page == set()
    assert page - words == set()
