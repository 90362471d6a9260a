"""The committed sets are what the tool writes, their rules fire when they should, and their READMEs are complete."""

import argparse
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from autoscale.deploy import alerts, load_set, reference_files, targets, write_set
from autoscale.deploy.yaml_out import plain_yaml
from autoscale.profiles import load, names
from autoscale.recommendation import parse_recommendation
from loadgen.run.option_table import add_arguments

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")


def groups(name, recommendation=None):
    profile = load(name)
    return plain_yaml(alerts.groups(profile, targets.plan(profile, recommendation)))


# --- committed sets --------------------------------------------------------------------------------------------------


def test_the_committed_sets_are_what_the_tool_writes():
    written = reference_files()
    committed = {str(file.relative_to(MANIFESTS)): file for file in MANIFESTS.rglob("*") if file.is_file()}
    assert sorted(committed) == sorted(written), "run `make generated`"
    stale = [path for path, text in written.items() if committed[path].read_text(encoding="utf-8") != text]
    assert not stale, "run `make generated`"


def test_writing_twice_gives_the_same_bytes():
    assert reference_files() == reference_files()


def test_a_kustomization_lists_every_manifest_beside_it():
    for file in MANIFESTS.rglob("kustomization.yaml"):
        listed = set(yaml.safe_load(file.read_text())["resources"])
        beside = {path.name for path in file.parent.glob("*.yaml")} - {file.name}
        assert beside - listed <= {"prometheus-adapter-values.yaml", "results.yaml"}
        assert listed <= beside


def test_every_yaml_file_parses_and_says_why():
    for file in MANIFESTS.rglob("*.yaml"):
        text = file.read_text()
        assert all(isinstance(document, dict) for document in yaml.safe_load_all(text))
        assert text.startswith("# ")


# --- READMEs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_a_readme_gives_the_steps_in_order(name):
    profile, readme = load(name), dict(write_set(load(name)))["README.md"]
    bare, grouped = profile.deploy.platform == "bare-metal", profile.deploy.kind == "LeaderWorkerSet"
    steps = [
        None if bare else "gcloud services enable",
        None if bare else "gcloud container clusters create",
        None if bare else "gcloud container node-pools create",
        "docker push" if bare else None,
        "/resolve/main/config.json",  # the token is tried before it becomes a Secret
        'printf %s "$HF_TOKEN"',
        "lws/releases" if grouped else None,
        "add-iam-policy-binding" if profile.deploy.storage == "gcsfuse" else None,
        "apply --server-side -k weights" if profile.deploy.storage == "hyperdisk-ml" else None,
        "READ_ONLY_MANY" if profile.deploy.storage == "hyperdisk-ml" else None,
        "prometheus-adapter-values.yaml" if bare else "custom-metrics-stackdriver-adapter/deploy",
        None if bare else "roles/monitoring.viewer",
        "apply --server-side -k .",
        "--follow",
        "/v1/completions",
        "get --raw",
        "manifests/locust",
        f"get hpa {profile.deploy.hpa_name} --watch",
        "sed -i '/^  replicas: /d' workload.yaml",
        "delete -k .",
    ]
    places = [readme.index(step) for step in steps if step]
    assert places == sorted(places)
    numbers = [int(number) for number in re.findall(r"^## (\d+)\.", readme, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("name", names())
def test_a_readme_shows_the_arithmetic_of_nodes_and_chips(name):
    profile, readme = load(name), dict(write_set(load(name)))["README.md"]
    nodes = profile.deploy.max_replicas * profile.replica.nodes
    chips = nodes * profile.replica.chips_per_node
    assert f"{profile.deploy.max_replicas} x {profile.replica.nodes} = {nodes}" in readme
    assert f"{nodes} x {profile.replica.chips_per_node} = {chips}" in readme
    if profile.deploy.platform != "bare-metal":
        assert f"--total-max-nodes={nodes}" in readme
        assert "--enable-autoscaling" in readme


@pytest.mark.parametrize("file", sorted(MANIFESTS.rglob("README.md")), ids=lambda file: file.parent.name)
def test_the_commands_of_a_readme_are_valid_shell(file):
    blocks = re.findall(r"^```sh\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks or file.parent == MANIFESTS
    for block in blocks:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


# --- rules -----------------------------------------------------------------------------------------------------------


@needs_promtool
@pytest.mark.parametrize("name", names())
def test_prometheus_accepts_the_rules(name, tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": groups(name)}))
    subprocess.run(["promtool", "check", "rules", str(file)], check=True, capture_output=True)


SCENARIOS = """
# name | series ... | alert that fires at 90 min, or none
at max and the queue grows | desired 2 | max 2 | serving 2 | waiting 0+10x240 | ttft 0 | AutoscaleAtMaxWhileWaitingGrows
at max and the queue shrinks | desired 2 | max 2 | serving 2 | waiting 2400-10x240 | ttft 0 | none
below max and the queue grows | desired 1 | max 2 | serving 1 | waiting 0+10x240 | ttft 0 | none
the metric is unreadable | desired 1 | max 2 | serving 1 | waiting 0x240 | ttft 0 | inactive | AutoscaleMetricUnreadable
a replica never comes up | desired 2 | max 4 | serving 1 | waiting 0x240 | ttft 0 | AutoscaleReplicaLoadingTooLong
no replica ever comes up | desired 1 | max 4 | serving 0 | waiting 0x240 | ttft 0 | AutoscaleReplicaLoadingTooLong
slow while the queue is below its target | desired 1 | max 4 | serving 1 | waiting 2x240 | ttft 8 | AutoscaleTargetDrifted
slow while the queue is above its target | desired 1 | max 4 | serving 1 | waiting 9x240 | ttft 8 | none
all is well | desired 2 | max 4 | serving 2 | waiting 1x240 | ttft 0 | none
"""
ROWS = [
    [word.strip() for word in line.split("|")]
    for line in SCENARIOS.splitlines()
    if line and not line.startswith("#")
]


def series(row):
    """Input series of a scenario, one sample a minute, as promtool reads them."""
    said = dict(word.split(" ", 1) for word in row[1:-1] if " " in word)
    hpa = 'namespace="default",horizontalpodautoscaler="vllm-hpa"'
    active = '"false"' if "inactive" in row else '"true"'
    found = [
        (f"kube_horizontalpodautoscaler_status_desired_replicas{{{hpa}}}", f"{said['desired']}x240"),
        (f"kube_horizontalpodautoscaler_spec_max_replicas{{{hpa}}}", f"{said['max']}x240"),
        (
            f'kube_horizontalpodautoscaler_status_condition{{{hpa},condition="ScalingActive",status={active}}}',
            "1x240",
        ),
        (
            f'kube_horizontalpodautoscaler_status_condition{{{hpa},condition="ScalingActive",status="unknown"}}',
            "0x240",
        ),
    ]
    for number in range(int(said["serving"])):
        pod = f'namespace="default",pod="vllm-6f7d8-abc{number}",engine="0"'
        found += [
            (f"vllm:num_requests_running{{{pod}}}", "3x240"),
            (f"vllm:num_requests_waiting{{{pod}}}", said["waiting"]),
            (f"vllm:kv_cache_usage_perc{{{pod}}}", "0.4x240"),
        ]
        slow = float(said["ttft"]) > 1  # every request in the bucket of 5 to 10 s, or all below 0.5 s
        for bound, values in (
            ("0.5", "0x240" if slow else "0+60x240"),
            ("10", "0+60x240"),
            ("+Inf", "0+60x240"),
        ):
            found.append((f'vllm:time_to_first_token_seconds_bucket{{{pod},le="{bound}"}}', values))
    return [{"series": name, "values": values} for name, values in found]


@needs_promtool
def test_each_alert_fires_when_it_should_and_only_then(tmp_path):
    written = groups("llama-3.1-8b-1xh100")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": written}))
    known = {rule["alert"]: rule for group in written for rule in group["rules"] if "alert" in rule}
    tests = []
    for row in ROWS:
        expected = []
        for name, rule in known.items():
            alert = {
                "exp_labels": {**rule["labels"], "namespace": "default"},
                "exp_annotations": rule["annotations"],
            }
            expected.append(
                {"eval_time": "90m", "alertname": name, "exp_alerts": [alert] if name == row[-1] else []}
            )
        tests.append(
            {"name": row[0], "interval": "1m", "input_series": series(row), "alert_rule_test": expected}
        )
    assert {row[-1] for row in ROWS} == {*known, "none"}, "every alert has a scenario"
    file = tmp_path / "test.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests})
    )
    result = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_without_an_hpa_there_are_no_alerts_on_one():
    standing = groups(
        "llama-3.1-8b-1xh100", parse_recommendation({"answer": "do_not_autoscale", "minReplicas": 2})
    )
    assert "horizontalpodautoscaler" not in str(standing)
    assert "AutoscaleTargetDrifted" in str(standing)


# --- dashboard -------------------------------------------------------------------------------------------------------


def test_the_dashboard_is_importable_and_every_panel_asks_something():
    dashboard = json.loads(reference_files()["observability/dashboard.json"])
    identities = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identities)) == len(identities) >= 8
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == [
        "datasource",
        "namespace",
        "hpa",
    ]


@needs_promtool
def test_prometheus_can_parse_every_query_of_the_dashboard(tmp_path):
    dashboard = json.loads(reference_files()["observability/dashboard.json"])
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = [
        {
            "record": f"q{number}",
            "expr": query.replace("$__rate_interval", "5m").replace("$namespace", "n").replace("$hpa", "h"),
        }
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    subprocess.run(["promtool", "check", "rules", str(file)], check=True, capture_output=True)


# --- load generator --------------------------------------------------------------------------------------------------


def test_the_master_waits_for_as_many_workers_as_there_are():
    _, service, master, workers = map(plain_yaml, load_set.load_objects())
    command = master["spec"]["template"]["spec"]["containers"][0]["command"]
    assert (
        int(command[command.index("--expect-workers") + 1])
        == workers["spec"]["parallelism"]
        == workers["spec"]["completions"]
    )
    assert service["spec"]["selector"] == master["spec"]["template"]["metadata"]["labels"]
    worker = workers["spec"]["template"]["spec"]["containers"][0]
    assert worker["command"][-2:] == ["--master-host", service["metadata"]["name"]]
    assert worker["resources"] == {
        "requests": {"cpu": "1", "memory": "1Gi"},
        "limits": {"cpu": "1", "memory": "1Gi"},
    }


def test_the_load_generator_knows_every_option_that_it_is_given():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = [word for pair in load_set.TARGET for word in pair]
    _, unknown = parser.parse_known_args(given)
    assert unknown == ["--host", "http://vllm-leader:8080"]  # Locust's own


def test_the_load_generator_runs_without_root():
    for document in map(plain_yaml, [*load_set.load_objects()[2:], load_set.reader()]):
        spec = document["spec"].get("template", document)["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert all(
            container["securityContext"]["allowPrivilegeEscalation"] is False
            for container in spec["containers"]
        )


def test_the_load_goes_to_a_service_and_model_that_a_set_creates():
    profile = load("llama-3.1-405b-2x8h100")
    target = dict(load_set.TARGET)
    assert target["--host"] == f"http://{profile.deploy.service}:{profile.deploy.port}"
    assert target["--model"] == profile.model.id
    assert not target["--prompt-tokens"].startswith("fixed"), (
        "one fixed prompt would measure the prefix cache"
    )
