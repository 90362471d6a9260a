"""Every recorded failure is named with its cause; small snapshots for what was not recorded."""

import copy

import pytest

from autoscale.check.preflight import diagnose, diagnose_observations
from autoscale.check.snapshot import MetricAnswer, Snapshot, fold, take
from autoscale.kube.cluster import ClusterError, read_observations, timestamp_s

METRIC = "prometheus.googleapis.com|vllm:num_requests_waiting|gauge"
FIRST_LOOK, EMPTY, DOWN, GONE = "17:39:17", "17:39:45", "17:41:10", "17:42:15"


@pytest.fixture(scope="module")
def failures(fixtures_dir):
    return list(read_observations(fixtures_dir / "kubernetes" / "failures.jsonl.gz"))


def until(rows, clock: str):
    """What was recorded until then."""
    end_s = timestamp_s(f"2026-11-20T{clock}Z")
    assert end_s
    return [seen for seen in rows if seen.time_s <= end_s]


@pytest.mark.parametrize(
    ("hpa", "clock", "code", "severity", "words"),
    [
        ("miss", FIRST_LOOK, "metric-not-found", "error", "does not know the metric"),
        ("miss", EMPTY, "metric-empty", "error", "no value for the target's pods"),
        (
            "notarget",
            FIRST_LOOK,
            "target-missing",
            "error",
            "Deployment/nothing-here, which does not exist",
        ),
        ("nokind", FIRST_LOOK, "target-kind-unknown", "error", "Thing/x of example.com/v1"),
        ("amb-a", FIRST_LOOK, "two-scalers-one-target", "error", "amb-b scales the same pods"),
        ("amb-b", FIRST_LOOK, "two-scalers-one-target", "error", "amb-a scales the same pods"),
        ("late", FIRST_LOOK, "pods-unschedulable", "error", "Insufficient nvidia.com/gpu"),
        ("slow", FIRST_LOOK, "pods-not-ready", "warning", "counts them fully"),
        ("zero", FIRST_LOOK, "target-at-zero", "error", "0 replicas"),
        ("nosel", FIRST_LOOK, "selector-missing", "error", "hpaPodSelector is empty"),
        ("half", FIRST_LOOK, "group-incomplete", "error", "half-1-1"),
        ("tol", FIRST_LOOK, "tolerance-set", "note", "5.0%"),
        ("twin", FIRST_LOOK, "inside-tolerance", "note", "ratio of 1.06"),
        ("maxed", FIRST_LOOK, "at-max-replicas", "warning", "maxReplicas 2"),
        ("part", FIRST_LOOK, "metric-partial", "error", "never scales down"),
        ("part", EMPTY, "metric-partial", "error", "vllm:does_not_exist"),
    ],
    ids=[
        "miss: the metrics API answers 404",
        "miss: then an empty list",
        "notarget: the target does not exist",
        "nokind: a kind without CRD",
        "amb-a: two HPAs on one target, seen from the first",
        "amb-b: and from the second",
        "late: pods without a node",
        "slow: running, never ready, counted all the same",
        "zero: the target was scaled to 0",
        "nosel: a LeaderWorkerSet without selector",
        "half: a leader without its worker",
        "tol: behavior.scaleUp.tolerance",
        "twin: inside the default tolerance",
        "maxed: more is wanted than maxReplicas",
        "part: the second metric is missing, scale-down is blocked",
        "part: still so with an empty list",
    ],
)
def test_a_recorded_case_is_named_with_its_cause(failures, hpa, clock, code, severity, words):
    found = {f.code: f for f in diagnose_observations(until(failures, clock), hpa)}
    assert code in found, f"found only {sorted(found)}"
    assert found[code].severity == severity
    assert words in found[code].cause
    assert found[code].fix
    own = {"late": {"pods-unschedulable"}, "half": {"pods-unschedulable", "group-incomplete"}}
    errors = {c for c, f in found.items() if f.severity == "error"}
    assert errors <= own.get(hpa, set()) | {code, "metric-not-found", "metric-empty"}, (
        "nothing else is blamed"
    )


WITH_METRICS = ["miss", "late", "slow", "half", "tol", "twin", "maxed", "part"]


@pytest.mark.parametrize("hpa", WITH_METRICS)
def test_a_stopped_metrics_server_and_a_deleted_api_are_told_apart(failures, hpa):
    down = {f.code for f in diagnose_observations(until(failures, DOWN), hpa)}
    gone = {f.code for f in diagnose_observations(until(failures, GONE), hpa)}
    assert "metrics-api-down" in down
    assert "metrics-api-absent" not in down
    assert "metrics-api-absent" in gone
    assert "metrics-api-down" not in gone
    assert "metric-partial" not in down | gone, "when the API itself fails, no single metric is to blame"


@pytest.mark.parametrize("name", ["deployment", "lws"])
def test_a_working_hpa_has_no_error(fixtures_dir, name):
    rows = list(read_observations(fixtures_dir / "kubernetes" / f"{name}.jsonl.gz"))
    hpa = {"deployment": "vllm-dep-hpa", "lws": "vllm-lws-hpa"}[name]
    found = diagnose_observations(rows, hpa)
    assert [f for f in found if f.severity == "error"] == []
    renamed = [f for f in found if f.code == "metric-not-exported" and f.severity == "warning"]
    assert len(renamed) == (1 if name == "lws" else 0), "the recording uses vllm:gpu_cache_usage_perc"


@pytest.fixture
def healthy(fixtures_dir) -> Snapshot:
    rows = read_observations(fixtures_dir / "kubernetes" / "deployment.jsonl.gz")
    return copy.deepcopy(fold(until(rows, "17:32:10")))


HPA = "vllm-dep-hpa"


def codes(now: Snapshot, name: str = HPA) -> dict[str, str]:
    return {f.code: f.cause for f in diagnose(now, name)}


def test_a_wrong_name_suggests_the_near_one(healthy):
    assert "hpa-not-found" in codes(healthy, "vllm-hpa")
    assert f"use --hpa {HPA}" in diagnose(healthy, "vllm-hpa")[0].fix


@pytest.mark.parametrize(
    ("metric", "target", "words"),
    [
        ("prometheus.googleapis.com|vllm:kv_cache_usage_perc|gauge", "70", "is a percentage"),
        ("prometheus.googleapis.com|vllm:kv_cache_usage_perc|gauge", "1", "usage ends at 1"),
        ("prometheus.googleapis.com|vllm:num_requests_running|gauge", "128", "--max-num-seqs 128"),
    ],
    ids=["a KV target of 70", "a KV target of 1", "a running target at the number of seats"],
)
def test_a_target_that_can_never_fire_is_an_error(healthy, metric, target, words):
    hpa, workload = healthy.hpa(HPA), healthy.all("deployments")[0]
    hpa.spec["metrics"][0]["pods"] |= {"metric": {"name": metric}, "target": {"averageValue": target}}
    workload["spec"]["template"]["spec"]["containers"][0]["args"] = ["--max-num-seqs=128"]
    told = [f for f in diagnose(healthy, HPA) if f.code in ("target-never-fires", "target-percentage")]
    assert [(f.severity, f.field) for f in told] == [("error", "spec.metrics[0].pods.target.averageValue")]
    assert words in told[0].problem


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (MetricAnswer(None, status=503), "metrics-api-down"),
        (MetricAnswer(None, status=404, absent=True), "metrics-api-absent"),
        (MetricAnswer(None, status=404), "metric-not-found"),
        (MetricAnswer({}), "metric-empty"),
        (MetricAnswer({"other-pod": 1000}), "metric-for-other-pods"),
    ],
    ids=["503", "no such API", "no such metric", "an empty list", "values of other pods only"],
)
def test_what_the_metrics_api_answers_directly_is_told(healthy, answer, code):
    healthy.answers[METRIC, "app=vllm-dep"] = answer
    assert code in codes(healthy)


def test_missing_rights_degrade_or_stop(healthy):
    healthy.hidden = {
        name: ClusterError("forbidden", status=403)
        for name in ("nodes", "events", "pods", "leaderworkersets")
    }
    found = [(f.severity, f.evidence["resource"]) for f in diagnose(healthy, HPA) if f.code == "rbac-missing"]
    assert sorted(found) == [("error", "pods"), ("warning", "events"), ("warning", "nodes")]


def test_too_few_nodes_for_max_replicas_is_a_warning_with_the_number_that_fits(healthy):
    for node in healthy.all("nodes"):
        node["status"]["allocatable"]["nvidia.com/gpu"] = "2"
    found = next(f for f in diagnose(healthy, HPA) if f.code == "node-supply")
    assert found.severity == "warning"
    assert found.evidence == {"needed": 4, "have": 2}


def test_chips_are_quantities(healthy):
    for node, given in zip(healthy.all("nodes"), ("1k", "two", "500m", None), strict=False):
        node["status"]["allocatable"]["nvidia.com/gpu"] = given
    assert [f for f in diagnose(healthy, HPA) if f.code == "node-supply"] == []  # a thousand fit


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("status", "conditions"), [{"type": "Ready", "status": "False", "lastTransitionTime": "9999-99-99T00:00:00Z"}]),
        (("status", "conditions"), [{"type": "Ready", "status": "False", "lastTransitionTime": 7}]),
        (("metadata", "labels", "leaderworkerset.sigs.k8s.io/group-index"), [1]),
        (("spec", "containers"), [{"resources": {"limits": {"nvidia.com/gpu": "x"}}}]),
    ],
    ids=["a time that is none", "a number for a time", "a list for a label", "no quantity of chips"],
)  # fmt: skip
def test_one_odd_object_does_not_cost_the_verdict(healthy, place, value):
    before = {f.code for f in diagnose(healthy, HPA)}
    for pod in healthy.all("pods"):
        inner = pod
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
    found = codes(healthy)
    assert "object-misshapen" not in found
    assert before <= set(found)


def test_what_hangs_on_an_object_of_no_known_shape_is_said_to_be_open(healthy):
    target = healthy.target(healthy.hpa(HPA))
    target.spec["selector"] = {"matchLabels": {"app": {"a": 1}}}
    found = next(f for f in diagnose(healthy, HPA) if f.code == "object-misshapen")
    assert found.severity == "warning"
    assert "was not looked at" in found.cause


def test_an_hpa_on_the_stateful_set_of_a_group_set_points_to_the_group_set(healthy):
    hpa = healthy.hpa(HPA)
    hpa.spec["scaleTargetRef"] = {"kind": "StatefulSet", "name": "vllm", "apiVersion": "apps/v1"}
    labels = {"leaderworkerset.sigs.k8s.io/name": "vllm"}
    spec = {"selector": {"matchLabels": labels}}
    healthy.objects["statefulsets"] = {
        "vllm": {
            "kind": "StatefulSet",
            "apiVersion": "apps/v1",
            "metadata": {"name": "vllm", "namespace": "deployment", "labels": labels},
            "spec": spec,
        }
    }
    assert "scales-leader-statefulset" in codes(healthy)


def test_a_monitoring_that_selects_nobody_or_the_wrong_port_is_named(healthy):
    monitoring = {
        "apiVersion": "monitoring.googleapis.com/v1",
        "kind": "PodMonitoring",
        "metadata": {"name": "m", "namespace": "deployment"},
        "spec": {"selector": {"matchLabels": {"app": "else"}}, "endpoints": [{"port": 9}]},
    }
    healthy.answers.clear()
    healthy.objects |= {"podmonitorings": {"m": monitoring}, "podmonitors": {}}
    assert "scrape-selector" in codes(healthy)
    monitoring["spec"]["selector"]["matchLabels"]["app"] = "vllm-dep"
    assert "scrape-port" in codes(healthy)
    monitoring["spec"]["endpoints"][0]["port"] = 8000
    assert not {"scrape-missing", "scrape-selector", "scrape-port"} & set(codes(healthy))


def test_a_value_that_arrives_outweighs_what_the_objects_suggest(healthy):
    healthy.objects |= {"podmonitorings": {}, "podmonitors": {}}
    severities = {f.code: f.severity for f in diagnose(healthy, HPA)}
    assert severities["scrape-missing"] == "note"
    healthy.answers.clear()
    severities = {f.code: f.severity for f in diagnose(healthy, HPA)}
    assert severities["scrape-missing"] == "error"


class Door:
    """A cluster of one snapshot."""

    tells_queries = False
    simulated = False

    def __init__(self, now: Snapshot, forbidden=(), values=None):
        self.now, self.forbidden, self.values = now, forbidden, values

    def now_s(self):
        return self.now.at_s

    def list(self, resource, namespace=None, selector=""):
        if resource in self.forbidden:
            raise ClusterError(f"{resource} is forbidden", status=403)
        if resource not in self.now.objects:
            raise ClusterError("not found", status=404)
        return self.now.all(resource)

    def custom_metric(self, namespace, metric, selector):
        if self.values is None:
            raise ClusterError("down", status=503)
        return self.values


def test_preflight_asks_the_cluster_and_diagnoses_what_it_may_see(healthy):
    values = {p["metadata"]["name"]: 4500 for p in healthy.all("pods")}
    works = diagnose(take(Door(healthy, values=values), "deployment", HPA), HPA)
    assert {f.code for f in works if f.severity == "error"} == set()
    of_objects = {f.code for f in works}
    found = diagnose(take(Door(healthy, forbidden=("nodes",)), "deployment", HPA), HPA)
    assert {f.code for f in found} - of_objects == {"metrics-api-down", "rbac-missing", "nodes-not-known"}


def test_kinds_that_only_the_object_rules_read_are_named_in_one_note(healthy):
    found = diagnose(take(Door(healthy, forbidden=("services", "configmaps")), "deployment", HPA), HPA)
    [note] = [f for f in found if f.code == "rbac-missing"]
    assert (note.severity, note.evidence) == ("note", {"resources": ["services", "configmaps"]})
