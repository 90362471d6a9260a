"""An HPA that KEDA made: its metrics are read where they are served, and what KEDA says of its ScaledObject is told."""

import gzip
import json
from urllib.parse import unquote

import pytest

from autoscale.check.phases import chain
from autoscale.check.preflight import diagnose, object_findings
from autoscale.check.records import NAN
from autoscale.check.snapshot import MetricAnswer, Snapshot, take
from autoscale.check.timeline import Timeline
from autoscale.kube.cluster import ClusterError, Observation
from autoscale.kube.live import LiveCluster, described_path
from autoscale.kube.scaler import Hpa
from autoscale.show.words import lasted
from tests.kubernetes_standin import ApiServer, client

LABELS = {"app": "llm"}


@pytest.fixture(scope="module")
def recorded(request):
    """Scenarios of a real KEDA beside a real HPA controller."""
    file = request.config.rootpath / "tests" / "keda" / "data" / "live.json.gz"
    return {row["id"]: row for row in json.loads(gzip.decompress(file.read_bytes()))}


def conditions(told):
    return [{"type": kind, **condition} for kind, condition in told.items()]


def told(status, kind: str, what: str):
    return status["conditions"].get(kind, {}).get(what)


def moment(row, pick) -> Snapshot:
    """A recorded scenario at the first moment at which `pick` holds of the ScaledObject's conditions."""
    name = row["scaled_object_name"]
    status = next(s for s in row["scaled_object_status"] if pick(s))
    hpa = [s for s in row["hpa_status"] if "conditions" in s and s["t"] <= status["t"] + 15][-1]
    replicas = [seen["spec"] for seen in row["deployment"] if seen["t"] <= status["t"]][-1]
    owner = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": name, "controller": True}
    now = Snapshot(status["t"])
    now.objects = {
        "horizontalpodautoscalers": {
            f"keda-hpa-{name}": {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": f"keda-hpa-{name}", "namespace": "default", "ownerReferences": [owner]},
                "spec": row["hpa_spec"],
                "status": {"conditions": conditions(hpa["conditions"]), "desiredReplicas": hpa["desired"]},
            }
        },
        "scaledobjects": {
            name: {
                "apiVersion": "keda.sh/v1alpha1",
                "kind": "ScaledObject",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {**row["spec"], "scaleTargetRef": {"name": name}},
                "status": {"conditions": conditions(status["conditions"]), "health": status["health"]},
            }
        },
        "deployments": {
            name: {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": {"metadata": {"labels": LABELS}}},
            }
        },
        "pods": {},
        "events": {},
        "nodes": {},
    }  # fmt: skip
    return now


def findings(now: Snapshot) -> dict[str, tuple[str, str]]:
    [name] = now.objects["horizontalpodautoscalers"]
    return {each.code: (each.severity, each.cause) for each in diagnose(now, name)}


def test_a_trigger_that_fails_is_told_in_kedas_words(recorded):
    failing = moment(recorded["live-s07"], lambda s: told(s, "Ready", "reason") == "TriggerError")
    found = findings(failing)
    assert found["keda-not-ready"][0] == "error"
    assert "TriggerError of ScaledObject s07" in found["keda-not-ready"][1]


def test_zero_replicas_of_a_scaled_object_are_no_fault(recorded):
    asleep = moment(recorded["live-s01"], lambda s: told(s, "HPAActive", "reason") == "ScalingDisabled")
    found = findings(asleep)
    assert "target-at-zero" not in found
    assert found["keda-at-zero"][0] == "note"
    assert recorded["live-s01"]["spec"]["triggers"][0]["metadata"]["query"] in found["keda-at-zero"][1]
    asleep.objects["scaledobjects"]["s01"]["spec"]["minReplicaCount"] = 1
    assert "target-at-zero" in findings(asleep), "somebody else set it to 0, and KEDA leaves it there"


def test_a_fallback_and_its_failing_trigger_are_named(recorded):
    def fallen(status):
        return told(status, "Fallback", "status") == "True"

    [row, *_] = [r for r in recorded.values() if any(map(fallen, r["scaled_object_status"]))]
    found = findings(moment(row, fallen))
    assert str(row["spec"]["fallback"]["replicas"]) in found["keda-fallback"][1]
    assert "keda-trigger-failing" in found
    assert row["spec"]["triggers"][0]["metadata"]["query"] in found["keda-trigger-failing"][1]


def test_a_pause_that_only_the_condition_tells_is_named(recorded):
    def paused(status):
        return told(status, "Paused", "status") == "True"

    [row, *_] = [r for r in recorded.values() if any(map(paused, r["scaled_object_status"]))]
    assert findings(moment(row, paused))["keda-paused"][0] == "warning"


def test_the_rules_judge_the_scaled_object_and_not_the_hpa_once_more(recorded):
    now = moment(recorded["live-s25"], lambda s: told(s, "Active", "status") == "True")
    [made] = now.all("scaledobjects")
    made["spec"]["triggers"][0]["metadata"]["query"] = "sum(vllm_num_requests_waiting)"
    [name] = now.objects["horizontalpodautoscalers"]
    told_of = {(each.code, each.kind) for each in object_findings(now, now.hpa(name))}
    assert ("query-underscore-name", "ScaledObject") in told_of
    assert "two-scalers-one-target" not in {code for code, _ in told_of}
    assert not [code for code, kind in told_of if kind == "HorizontalPodAutoscaler"]


def test_without_its_object_the_check_says_whether_it_may_not_look_or_it_is_gone(recorded):
    now = moment(recorded["live-s25"], lambda s: told(s, "Active", "status") == "True")
    objects = now.objects.pop("scaledobjects")
    now.hidden["scaledobjects"] = ClusterError("no", status=403)
    assert findings(now)["keda-object-not-seen"][0] == "warning"
    now.objects["scaledobjects"], now.hidden = {}, {}
    assert findings(now)["keda-object-missing"][0] == "error"
    now.objects["scaledobjects"] = objects
    assert "keda-object-missing" not in findings(now)


# --- the external metrics API ------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    made = ApiServer()
    yield made
    made.stop()


def applied(server: ApiServer, now: Snapshot) -> str:
    for resource, found in now.objects.items():
        for one in found.values():
            server.apply(resource, "ADDED", one)
    [name] = now.objects["horizontalpodautoscalers"]
    return name


@pytest.mark.parametrize(
    ("api", "answer", "code", "words"),
    [
        ("up", ["7"], None, ""),
        ("up", 403, "rbac-missing", "external metrics API"),
        ("up", 500, "metric-unreadable", "KEDA cannot answer s0-prometheus"),
        ("up", [], "metric-empty", "external metrics API knows s0-prometheus"),
        ("down", ["7"], "metrics-api-down", "external metrics API is registered"),
        ("absent", ["7"], "metrics-api-absent", "external.metrics.k8s.io"),
    ],
    ids=["a value", "forbidden", "a failing trigger", "no series", "KEDA's server is down", "no KEDA"],
)
def test_an_external_metric_is_asked_of_its_own_api(recorded, server, api, answer, code, words):
    now = moment(recorded["live-s25"], lambda s: told(s, "Active", "status") == "True")
    name = applied(server, now)
    server.metrics_api, server.external["s0-prometheus"] = api, answer
    taken = take(LiveCluster(client(server.url)), "default", name)
    found = {each.code: each for each in diagnose(taken, name)}
    of_metrics = {each for each in found if each.startswith(("metric", "rbac"))}
    assert of_metrics == ({code} if code else set())
    if code:
        assert words in found[code].cause
        assert "custom" not in found[code].cause + found[code].fix
    asked = [path for path in map(unquote, server.requests) if "/external.metrics.k8s.io/v1beta1/" in path]
    assert (api == "up") == any("labelSelector=scaledobject.keda.sh/name=s25" in path for path in asked)
    assert not [path for path in map(unquote, server.requests) if "custom.metrics" in path]


@pytest.mark.parametrize(
    ("about", "path"),
    [
        (("v1", "Namespace", "llm"), "/namespaces/llm/metrics/"),
        (("v1", "Service", "vllm"), "/namespaces/ns/services/vllm/"),
        (("networking.k8s.io/v1", "Ingress", "front"), "/namespaces/ns/ingresses.networking.k8s.io/front/"),
    ],
)
def test_an_object_metric_is_asked_where_the_controller_asks(about, path):
    assert described_path(*about, "ns") == path


def test_an_object_metric_is_read_of_the_object_that_it_describes(server):
    server.metrics["queue_in_namespace"] = {"default": "4500m"}
    metric = {
        "type": "Object",
        "object": {
            "metric": {"name": "queue_in_namespace", "selector": {"matchLabels": {"tier": "a"}}},
            "describedObject": {"apiVersion": "v1", "kind": "Namespace", "name": "default"},
            "target": {"type": "Value", "value": "3"},
        },
    }
    [read] = Hpa({"spec": {"metrics": [metric]}}).served
    assert LiveCluster(client(server.url)).single_metric("default", read) == [4500]
    assert any(
        "namespaces/default/metrics/queue_in_namespace?metricLabelSelector=tier=a" in p
        for p in map(unquote, server.requests)
    )


# --- what nobody saw ---------------------------------------------------------------------------------------------------


def test_a_phase_that_nobody_saw_is_not_seen_and_never_zero():
    [unseen, made] = chain(
        [("load_to_metric", None, ""), ("metric_to_decision", 10.0, ""), ("pods", 12.0, "")], NAN, 60.0
    )
    assert (lasted(unseen), lasted(made)) == ("not seen", "2.0 s")
    assert unseen.seconds != unseen.seconds


@pytest.mark.parametrize(
    ("average", "share"), [(True, 6.0), (False, 12.0)], ids=["over the replicas", "Value: as it is"]
)
def test_an_external_value_is_compared_as_the_hpa_compares_it(average, share):
    target = {"type": "AverageValue", "averageValue": "5"} if average else {"type": "Value", "value": "5"}
    hpa = {
        "metadata": {"name": "h"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "llm"},
            "metrics": [
                {"type": "External", "external": {"metric": {"name": "s0-prometheus"}, "target": target}}
            ],
        },
    }
    seen = Timeline("h").extend(
        [
            Observation(0.0, "horizontalpodautoscalers", "ADDED", hpa),
            Observation(0.0, "deployments", "ADDED", {"metadata": {"name": "llm"}, "spec": {"replicas": 2}}),
            Observation(1.0, "custommetrics", "QUERY", {"metric": "s0-prometheus", "type": "External", "labelSelector": "a=b", "values": {"": "12"}}),
        ]
    )  # fmt: skip
    assert [sample.usage_milli for sample in seen.samples] == [1000 * share]
    assert MetricAnswer({"": 12000}).values_milli == {"": 12000}
