"""What a recommendation, a metrics path and the options change in a set."""

import json
import re
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from analysis.errors import BadInput, NotAchieved
from autoscale.check.feeding import RESOURCES
from autoscale.check.snapshot import HELPFUL, NEEDED
from autoscale.deploy import Options, objects, options, sizing, write_set
from autoscale.deploy.pod import DRAIN_SCRIPT
from autoscale.hpa import HpaSpec
from autoscale.kube.kinds import SCALED, plural_of
from autoscale.kube.vllm_names import PATHS
from autoscale.profiles import load, names, overlay
from autoscale.recommend.choice.settings import Behavior, Candidate, quantity
from autoscale.recommendation import parse_recommendation

GPU, SMALL, TPU = "llama-3.1-405b-2x8h100", "llama-3.1-8b-1xh100", "llama-3.1-70b-v6e8"
BEHAVIOR = {
    "scaleDown": {
        "stabilizationWindowSeconds": 3600,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 1800}],
    }
}


def answer(*metrics, **more):
    entries = [{"name": name, "averageValue": value} for name, value in metrics]
    return {"answer": "autoscale", "metrics": entries, "minReplicas": 2, "maxReplicas": 6} | more


def kinds(found):
    return {document["kind"]: document for document in found}


def pod(found):
    by_kind = kinds(found)
    if "Deployment" in by_kind:
        return by_kind["Deployment"]["spec"]["template"]["spec"]
    return by_kind["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]


def server(found):
    return pod(found)["containers"][0]


def named(found):
    return [
        metric["pods"]["metric"]["name"]
        for metric in kinds(found)["HorizontalPodAutoscaler"]["spec"]["metrics"]
    ]


# --- recommendation --------------------------------------------------------------------------------------------------


def test_a_recommendation_becomes_the_hpa_and_the_first_size_of_the_workload():
    found = objects(
        load(GPU), parse_recommendation(answer(("waiting", "3"), ("kv_usage", "0.504"), behavior=BEHAVIOR))
    )
    spec = kinds(found)["HorizontalPodAutoscaler"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 6)
    assert spec["behavior"] == BEHAVIOR
    assert [m["pods"]["target"]["averageValue"] for m in spec["metrics"]] == ["3", "504m"]
    assert kinds(found)["LeaderWorkerSet"]["spec"]["replicas"] == 2
    assert HpaSpec.from_manifest(kinds(found)["HorizontalPodAutoscaler"]).max_replicas == 6


@pytest.mark.parametrize("name", names())
def test_the_hpa_that_is_written_is_the_one_that_was_simulated(name):
    setting = Candidate((("waiting", 5.5), ("kv_usage", 0.504)), Behavior(3600), 1, 3)
    simulated = setting.manifest(load(name))
    entries = [{"name": signal, "averageValue": quantity(value)} for signal, value in setting.targets]
    recommended = {
        "answer": "autoscale",
        "metrics": entries,
        "minReplicas": 1,
        "maxReplicas": 3,
        "behavior": setting.behavior.block,
    }
    written = kinds(objects(load(name), parse_recommendation(recommended)))["HorizontalPodAutoscaler"]
    assert HpaSpec.from_manifest(written) == HpaSpec.from_manifest(simulated)


def test_node_pool_arithmetic_follows_the_recommended_maximum():
    readme = dict(write_set(load(GPU), parse_recommendation(answer(("waiting", "3")))))["README.md"]
    assert "--total-min-nodes=4 --total-max-nodes=12" in readme  # 2 and 6 replicas of 2 nodes
    assert "12 x 8 = 96" in readme


def test_when_autoscaling_does_not_pay_there_is_no_hpa():
    found = objects(
        load(GPU),
        parse_recommendation(
            {"answer": "do_not_autoscale", "minReplicas": 3, "maxReplicas": None, "metrics": []}
        ),
    )
    assert "HorizontalPodAutoscaler" not in kinds(found)
    assert kinds(found)["LeaderWorkerSet"]["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    ("recommendation", "error", "said"),
    [
        ({"answer": "infeasible"}, NotAchieved, "cannot be met"),
        ({"answer": "need_more_data"}, NotAchieved, "more data"),
        ({"answer": "yes"}, BadInput, "'yes'"),
        (answer(), BadInput, "at least one metric"),
        (answer(("queue", "5")), BadInput, "waiting, running, kv_usage"),
        (answer(("waiting", "0")), BadInput, "at least 1m"),
        (answer(("waiting", "-5")), BadInput, "at least 1m"),
        (answer(("waiting", "5 apples")), BadInput, "5 apples"),
        (answer(("waiting", None)), BadInput, "quantity"),
        (answer(("waiting", True)), BadInput, "quantity"),
        (answer(("waiting", "5"), ("waiting", "6")), BadInput, "twice"),
        (answer(("waiting", "5"), minReplicas=7), BadInput, "at least 7"),
        (answer(("waiting", "5"), minReplicas=0), BadInput, "at least 1"),
        (answer(("waiting", "5"), maxReplicas="6"), BadInput, "whole number"),
        (
            answer(("waiting", "5"), behavior={"scaleDown": {"stabilizationWindowSeconds": 5400}}),
            BadInput,
            "3600",
        ),
        (
            {"answer": "autoscale", "metrics": [{"name": "waiting", "averageValue": "5", "interval": ["1"]}]},
            BadInput,
            "low and high",
        ),
        (
            answer(("waiting", "5"), behavior="x"),
            BadInput,
            "recommendation behavior: 'x'; expected an object",
        ),
        (answer(("waiting", "5"), behavior={"scaleDown": "x"}), BadInput, "spec.behavior.scaleDown: 'x'"),
        (answer(metrics=7), BadInput, "recommendation metrics: 7; expected a list"),
        (
            answer(("waiting", "5"), profile="llama-3.1-8b-1xl4"),
            BadInput,
            "the recommendation is of another profile: 'llama-3.1-8b-1xl4'; expected ",
        ),
    ],
    ids=lambda value: None if isinstance(value, type) else str(value)[:60],
)
@pytest.mark.parametrize("path", ["stackdriver", "keda"])
def test_a_recommendation_that_cannot_be_written_is_refused_with_its_reason(
    recommendation, error, said, path
):
    with pytest.raises(error, match=re.escape(said)):
        objects(load(GPU), parse_recommendation(recommendation), path)


def test_without_a_recommendation_the_target_is_called_the_tutorials():
    files = dict(write_set(load(GPU)))
    assert "tutorial's number" in files["hpa.yaml"]
    assert "autoscale recommend" in files["hpa.yaml"]
    assert "tutorial's number" in files["README.md"]


# --- metrics paths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "stackdriver",
            [
                "prometheus.googleapis.com|vllm:num_requests_waiting|gauge",
                "prometheus.googleapis.com|vllm:kv_cache_usage_perc|gauge",
            ],
        ),
        (
            "autoscalingmetric",
            ["autoscaling.gke.io|vllm|num-requests-waiting", "autoscaling.gke.io|vllm|kv-cache-usage-perc"],
        ),
        ("prometheus-adapter", ["vllm_num_requests_waiting", "vllm_kv_cache_usage_perc"]),
    ],
)
def test_the_hpa_asks_for_the_name_that_its_path_serves(path, expected):
    found = objects(load(GPU), parse_recommendation(answer(("waiting", "5"), ("kv_usage", "700m"))), path)
    assert named(found) == expected
    rules = next(o["rules"] for o in found if o["kind"] == "Role")
    allowed = [
        resource
        for rule in rules
        for resource in rule["resources"]
        if rule["apiGroups"] == ["custom.metrics.k8s.io"]
    ]
    assert allowed == [f"pods/{name}" for name in expected]


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("0.8.5", "gpu_cache_usage_perc"),
        ("0.9.1", "gpu_cache_usage_perc"),
        ("0.9.2", "kv_cache_usage_perc"),
        ("0.32.0", "kv_cache_usage_perc"),
    ],
    ids=["V0 era", "last before the rename", "renamed", "current"],
)
def test_the_cache_metric_follows_the_vllm_version(version, name):
    profile = overlay(load(GPU), {"engine": {"vllm_version": version}})
    assert named(objects(profile, parse_recommendation(answer(("kv_usage", "700m"))))) == [
        f"prometheus.googleapis.com|vllm:{name}|gauge"
    ]


def test_the_autoscaling_metric_serves_exactly_what_the_hpa_asks_for():
    found = kinds(
        objects(
            load(GPU),
            parse_recommendation(answer(("waiting", "5"), ("kv_usage", "700m"))),
            "autoscalingmetric",
        )
    )
    metric = found["AutoscalingMetric"]
    [entry] = metric["spec"]["metrics"]
    [container] = entry["pod"]["containers"]
    served = [
        f"autoscaling.gke.io|{metric['metadata']['name']}|{m['gauge']['name']}" for m in container["metrics"]
    ]
    assert served == named(found.values())
    labels = entry["pod"]["selector"]["matchLabels"]
    assert (
        labels.items()
        <= found["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["metadata"][
            "labels"
        ].items()
    )
    worker = found["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]["workerTemplate"]["metadata"]["labels"]
    assert not labels.items() <= worker.items()
    assert container["endpoint"] == {"port": 8080, "path": "/metrics"}


def test_keda_reads_one_series_and_takes_no_data_for_an_error():
    found = kinds(
        objects(
            load(GPU),
            parse_recommendation(answer(("waiting", "5500m"), ("kv_usage", "504m"), behavior=BEHAVIOR)),
            "keda",
        )
    )
    assert "HorizontalPodAutoscaler" not in found, "KEDA creates the HPA; a second one would freeze both"
    spec = found["ScaledObject"]["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "name": "vllm",
    }
    assert spec["advanced"]["horizontalPodAutoscalerConfig"] == {"name": "lws-hpa", "behavior": BEHAVIOR}
    waiting, cache = [trigger["metadata"] for trigger in spec["triggers"]]
    assert waiting["query"] == 'sum(vllm:num_requests_waiting{namespace="default",pod=~"vllm-[0-9]+"})'
    assert cache["query"].startswith("sum(vllm:kv_cache_usage_perc{")  # one engine per pod
    assert (waiting["threshold"], cache["threshold"]) == ("5.5", "0.504")
    assert waiting["ignoreNullValues"] == "false"
    assert all(trigger["metricType"] == "AverageValue" for trigger in spec["triggers"])


def test_the_stackdriver_adapter_adds_engines_so_a_cache_target_grows_with_them():
    profile = overlay(load(SMALL), {"replica": {"data_parallel": 4}})
    found = kinds(objects(profile, parse_recommendation(answer(("kv_usage", "504m"), ("waiting", "5")))))
    targets = [
        m["pods"]["target"]["averageValue"] for m in found["HorizontalPodAutoscaler"]["spec"]["metrics"]
    ]
    assert targets == ["2016m", "5"]  # 4 x 504m; a queue adds up by itself


@pytest.mark.parametrize("path", ["stackdriver", "autoscalingmetric"])
def test_bare_metal_has_no_managed_prometheus(path):
    with pytest.raises(BadInput, match="prometheus-adapter or keda"):
        objects(load("llama-3.1-405b-2x8h100-baremetal"), None, path)


def test_an_unknown_path_names_the_known_ones():
    with pytest.raises(BadInput, match="stackdriver, autoscalingmetric, prometheus-adapter, keda"):
        objects(load(GPU), None, "datadog")


# --- improvements, each with its switch ------------------------------------------------------------------------------


def test_with_every_improvement_off_the_tutorials_leader_is_left():
    off = options(
        f"{name}=false"
        for name in ("health_probes", "drain", "ray_timeout", "requests", "rollout", "served_model_name")
    )
    found = server(objects(load(GPU), options=off))
    assert found["readinessProbe"] == {
        "tcpSocket": {"port": 8080},
        "initialDelaySeconds": 15,
        "periodSeconds": 10,
    }
    assert not {"startupProbe", "livenessProbe", "lifecycle"} & set(found)
    assert "ray_init_timeout" not in found["command"][-1]
    assert "requests" not in found["resources"]
    assert "terminationGracePeriodSeconds" not in pod(objects(load(GPU), options=off))


@pytest.mark.parametrize("name", names())
def test_probes_ask_for_health_and_give_the_cold_start_its_time(name):
    profile, found = load(name), server(objects(load(name)))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert found[probe]["httpGet"] == {"path": "/health", "port": profile.deploy.port}
    budget_s = found["startupProbe"]["periodSeconds"] * found["startupProbe"]["failureThreshold"]
    cold = profile.cold_start
    after_start_s = (
        profile.model.weight_bytes / cold.weights_rate_bytes_s + cold.engine_init.p95_s + cold.compile.p95_s
    )
    assert budget_s >= 1.5 * after_start_s


@pytest.mark.parametrize("name", names())
def test_the_grace_period_holds_endpoint_removal_and_the_longest_generation(name):
    found = pod(objects(load(name)))
    *_, endpoint_s, drain_s = found["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert found["terminationGracePeriodSeconds"] > int(endpoint_s) + int(drain_s)


def test_a_measured_longest_generation_replaces_the_profiles():
    found = pod(objects(load(SMALL), options=Options(longest_output_s=412)))
    assert found["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1] == "420"  # in steps of 10 s
    assert found["terminationGracePeriodSeconds"] == 15 + 420 + 15


@pytest.mark.parametrize(
    ("version", "has"), [("0.11.0", False), ("0.18.1", False), ("0.19.0", True), ("0.32.0", True)], ids=str
)
def test_shutdown_timeout_is_given_to_versions_that_know_it(version, has):
    profile = overlay(load(SMALL), {"engine": {"vllm_version": version}})
    found = server(objects(profile))
    drain = sizing.drain(profile).value
    assert (f"--shutdown-timeout={drain}" in found["args"]) == has
    assert (found["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "15"]) == has


@pytest.mark.parametrize("name", [n for n in names() if load(n).replica.nodes > 1])
def test_members_of_a_group_wait_longer_than_nodes_arrive_apart(name):
    cold = load(name).cold_start
    [timeout] = re.findall(r"ray_init_timeout=(\d+)", server(objects(load(name)))["command"][-1])
    assert int(timeout) >= max(300, cold.node.p95_s + cold.image.p95_s)


@pytest.mark.parametrize("name", [n for n in names() if n.endswith("-hdml")])
def test_a_model_served_from_a_path_keeps_its_hub_id(name):
    line = server(objects(load(name)))["command"][-1]
    assert f"--served-model-name {load(name).model.id}" in line
    assert (
        "--served-model-name"
        not in server(objects(load(name), options=Options(served_model_name=False)))["command"][-1]
    )


def test_values_from_a_users_profile_are_quoted_in_the_leaders_script():
    profile = overlay(load(GPU), {"model": {"id": "x/y; rm -rf /"}})
    assert "--model 'x/y; rm -rf /'" in server(objects(profile))["command"][-1]


@pytest.mark.parametrize(
    "assignment",
    [
        "health_probe=false",
        "health_probes=no",
        "zone=a b",
        "zone=$(reboot)",
        "zone",
        "longest_output_s=soon",
        "longest_output_s=-1",
        "xla_cache=maybe",
        "stage=2",
        "prometheus_url=file:///etc/passwd",
    ],
)
def test_an_option_that_does_not_fit_is_refused(assignment):
    with pytest.raises(BadInput):
        objects(load(GPU), options=options([assignment]))


def test_places_are_written_where_the_yaml_needs_them():
    places = options(["project=my-project", "zone=us-central1-a", "disk=pvc-1", "bucket=weights"])
    found = objects(load("llama-3.1-405b-2x8h100-hdml"), options=places)
    assert "projects/my-project/zones/us-central1-a/disks/pvc-1" in str(found)
    assert "'bucketName': 'weights'" in str(objects(load(TPU), options=places))
    assert not re.search(r"\b(PROJECT_ID|ZONE|DISK_NAME|BUCKET_NAME)\b", str(found))


def test_a_set_moves_to_another_namespace_and_image_as_a_whole():
    places = options(["namespace=serving", "image=eu.example.com/vllm:v1@sha256", "create_namespace=true"])
    for name in names():
        found = objects(load(name), options=places)
        assert found[0]["kind"] == "Namespace"
        assert {o["metadata"].get("namespace", "serving") for o in found} == {"serving"}
        assert server(found)["image"] == "eu.example.com/vllm:v1@sha256"
        assert "default" not in {subject["namespace"] for o in found for subject in o.get("subjects", [])}


def test_quantities_are_written_as_the_api_server_stores_them():
    profile = overlay(
        load(SMALL),
        {"deploy": {"requests": {"cpu": "8000m", "memory": "65536Mi"}, "shared_memory": "1024Mi"}},
    )
    assert server(objects(profile))["resources"]["requests"] | {"ephemeral-storage": 0} == {
        "cpu": "8",
        "memory": "64Gi",
        "ephemeral-storage": 0,
    }
    assert {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in pod(objects(profile))[
        "volumes"
    ]


@pytest.mark.parametrize(
    "change", [{"name": "vLLM"}, {"namespace": "a b"}, {"hpa_name": "x" * 64}, {"service": "-x"}]
)
def test_a_name_that_the_api_server_refuses_is_refused_at_once(change):
    with pytest.raises(BadInput, match="lower-case"):
        objects(overlay(load(GPU), {"deploy": change}))


def test_a_profiles_text_stays_one_word_in_the_readmes_commands():
    profile = overlay(load(GPU), {"model": {"id": "x'; reboot; '"}, "deploy": {"node_pool": "a b; reboot"}})
    readme = dict(write_set(profile))["README.md"]
    assert "node-pools create 'a b; reboot'" in readme
    assert "-d {" not in readme
    blocks = re.findall(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    words = shlex.split(next(block for block in blocks if "/v1/completions" in block), comments=True)
    assert json.loads(words[words.index("-d") + 1])["model"] == "x'; reboot; '"


# --- security --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [GPU, SMALL])
@pytest.mark.parametrize("path", PATHS)
def test_the_checker_reads_and_nothing_more(name, path):
    found = objects(load(name), None, path)
    rules = [rule for o in found if o["kind"] in ("Role", "ClusterRole") for rule in o["rules"]]
    for rule in rules:
        assert set(rule["verbs"]) <= {"get", "list", "watch"}
        assert not {"*", "secrets", "configmaps"} & {*rule["resources"], *rule["apiGroups"]}


def test_the_checker_sees_what_it_lists_and_watches():
    found = objects(load(SMALL))
    granted = {
        (verb, resource)
        for o in found
        if o["kind"] in ("Role", "ClusterRole")
        for r in o["rules"]
        for resource in r["resources"]
        for verb in r["verbs"]
    }
    assert {("watch", resource) for resource in RESOURCES} <= granted
    assert {("list", resource) for resource in (*NEEDED, *map(plural_of, SCALED), *HELPFUL)} <= granted
    assert ("get", "pods/log") in granted
    quiet = objects(load(SMALL), options=Options(checker_reads_logs=False))
    assert "pods/log" not in str(quiet)


def test_the_checker_of_a_set_for_keda_reads_its_triggers_and_its_object_and_no_other_metrics():
    found = objects(load(SMALL), None, "keda")
    rules = [rule for o in found if o["kind"] in ("Role", "ClusterRole") for rule in o["rules"]]
    granted = {
        (group, name): r["verbs"] for r in rules for group in r["apiGroups"] for name in r["resources"]
    }
    assert granted["external.metrics.k8s.io", "s0-prometheus"] == ["get", "list"]
    assert granted["keda.sh", "scaledobjects"] == ["list"]
    assert not [group for group, _ in granted if group == "custom.metrics.k8s.io"]
    [services] = [r["resourceNames"] for r in rules if r["resources"] == ["apiservices"]]
    assert services == ["v1beta1.external.metrics.k8s.io"]


def test_the_checker_may_scale_one_workload_when_asked():
    found = objects(load(GPU), options=Options(checker_may_scale=True))
    [write] = [r for o in found if o["kind"] == "Role" for r in o["rules"] if "patch" in r["verbs"]]
    assert write["resources"] == ["leaderworkersets/scale"]
    assert write["resourceNames"] == ["vllm"]


@pytest.mark.parametrize("name", names())
def test_no_secret_is_in_a_set_only_its_name(name):
    assert not [o for o in objects(load(name)) if o["kind"] == "Secret"]
    for path, text in write_set(load(name)):
        assert not re.search(r"hf_[A-Za-z]{20,}", text), path


# --- draining, for real ----------------------------------------------------------------------------------------------


class Metrics(BaseHTTPRequestHandler):
    """A server that is busy for its first two scrapes."""

    scrapes = 0

    def do_GET(self):
        type(self).scrapes += 1
        running = 2 if self.scrapes <= 2 else 0
        text = f'vllm:num_requests_running{{engine="0"}} {running}\nvllm:num_requests_waiting_by_reason{{reason="x"}} 9\n'
        text += 'vllm:num_requests_waiting{engine="0"} 0.0\n'
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("drain_s", "scrapes"), [(60, 3), (0, 0)], ids=["waits until idle", "gives up when its time is over"]
)
def test_the_pre_stop_hook_waits_for_running_requests(drain_s, scrapes):
    handler = type("Busy", (Metrics,), {"scrapes": 0})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    quick = DRAIN_SCRIPT.replace("time.sleep(1)", "time.sleep(0.01)")
    words = [sys.executable, "-c", quick, str(server.server_port), "0", str(drain_s)]
    subprocess.run(words, check=True, timeout=30)
    server.shutdown()
    thread.join()
    server.server_close()
    assert handler.scrapes == scrapes
