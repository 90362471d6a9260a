"""Settings side by side: what is said of one that its maximum holds back, that sleeps, or that KEDA cannot read."""

from dataclasses import replace

import pytest

from autoscale.profiles import load
from autoscale.recommend import scenario_of
from autoscale.recommend.choice.settings import Behavior, Candidate, Given, Standing
from autoscale.recommend.comparison import compare
from autoscale.sim.engine.gateway import InferenceGateway

LOAD = """
load:
  - stages: 0.3:1200,12:4800
prompt_tokens: fixed:200
output_tokens: fixed:100
"""
HPA = Candidate((("running", 20.0),), Behavior(300), 1, 2)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """An L4 that completes about 9 requests/s, asked for 12 in 80 of 100 minutes."""
    file = tmp_path_factory.mktemp("load") / "load.yaml"
    file.write_text(LOAD)
    profile = load("llama-3.1-8b-1xl4")
    scenario = scenario_of(profile, traffic=file)
    manifest = HPA.manifest(profile)
    enough = manifest | {"spec": manifest["spec"] | {"maxReplicas": 9}}
    settings = {
        "two": HPA,
        "two, as a file": Given(manifest),
        "nine": Given(enough),
        "one stands": Standing(1),
    }
    return compare(scenario, settings, 1)


@pytest.mark.parametrize(
    ("name", "replicas"),
    [
        pytest.param("two", 2, id="a setting of the search"),
        pytest.param("two, as a file", 2, id="a manifest"),
        pytest.param("nine", None, id="its maximum is never reached"),
        pytest.param("one stands", None, id="a fleet that stands has none"),
    ],
)
def test_a_maximum_that_broke_the_slo_is_named(compared, name, replicas):
    said = compared[name].causes()
    if replicas is None:
        assert not said
    else:
        assert len(said) == 1
        assert said[0].startswith(f"all {replicas} replicas that it allows were asked for in ")


def test_the_share_of_the_time_in_which_so_many_were_asked_for(compared):
    """Two from soon after the load has risen, at 20 of 100 minutes."""
    outcome = compared["two"].outcomes[0]
    assert outcome.share_asking(1) == pytest.approx(1.0, abs=0.01)
    assert outcome.share_asking(2) == pytest.approx(0.8, abs=0.05)
    assert outcome.share_asking(3) == 0.0


def scaled(*queries, **spec):
    """A ScaledObject of the fleet of the fixture, with a trigger for each query."""
    metadata = {"serverAddress": "http://prometheus:9090", "threshold": "20"}
    triggers = [{"type": "prometheus", "metadata": metadata | {"query": query}} for query in queries]
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "so", "namespace": "default"},
        "spec": {"scaleTargetRef": {"name": "vllm"}, "maxReplicaCount": 3, "triggers": triggers, **spec},
    }


PAUSE = LOAD.replace("0.3:1200,12:4800", "1:300,0:300,1:600")


def causes_of(tmp_path, manifest, gateway=None):
    """What is said of 1 request/s with a pause of five minutes."""
    (file := tmp_path / "load.yaml").write_text(PAUSE)
    scenario = scenario_of(load("llama-3.1-8b-1xl4"), traffic=file)
    scenario = replace(scenario, options=replace(scenario.options, gateway=gateway))
    return compare(scenario, {"one": Given(manifest)}, 1)["one"].causes()


RUNNING, QUEUE = "sum(vllm:num_requests_running)", "sum(llm_d_epp_flow_control_queue_size)"


@pytest.mark.parametrize(
    ("queries", "spec"),
    [
        pytest.param([RUNNING], {"minReplicaCount": 0, "cooldownPeriod": 30}, id="a minimum of 0"),
        pytest.param([RUNNING], {"minReplicaCount": 1, "idleReplicaCount": 0, "cooldownPeriod": 30}, id="an idle count of 0"),
        pytest.param(["sum(llm_d_epp_request_running)"], {"minReplicaCount": 0, "cooldownPeriod": 30}, id="what a gateway has sent on"),
    ],
)  # fmt: skip
def test_a_fleet_that_nothing_wakes_is_told(queries, spec, tmp_path):
    [said] = causes_of(tmp_path, scaled(*queries, **spec), InferenceGateway())
    assert said.startswith("stood at 0 replicas for the last ")
    assert "nothing woke it: " in said


def test_a_fleet_that_its_gateways_queue_wakes_is_not(tmp_path):
    spec = {"minReplicaCount": 0, "pollingInterval": 5, "cooldownPeriod": 30}
    said = causes_of(tmp_path, scaled(QUEUE, RUNNING, **spec), InferenceGateway())
    assert not [each for each in said if "stood at 0" in each]


@pytest.mark.parametrize(
    ("queries", "spec", "where", "follows"),
    [
        pytest.param(["vllm:num_requests_running"], {}, "triggers[0]", "replicas stood still", id="the only trigger"),
        pytest.param([RUNNING, "vllm:num_requests_running"], {}, "triggers[1]", "no replica was removed", id="one of two"),
        pytest.param(["vllm:num_requests_running"], {"fallback": {"failureThreshold": 3, "replicas": 2}}, "triggers[0]", "the fallback decided", id="a fallback"),
    ],
)  # fmt: skip
def test_a_trigger_that_keda_cannot_read_is_told_with_what_follows(queries, spec, where, follows, tmp_path):
    """Two pods, so that a query without an aggregation has two elements at every read."""
    [said] = causes_of(tmp_path, scaled(*queries, **{"minReplicaCount": 2} | spec))
    assert said.startswith(f"spec.{where}: KEDA's reads failed in ")
    assert "returned multiple elements" in said
    assert said.endswith(f"{follows} meanwhile")


@pytest.mark.parametrize(
    ("zone", "start", "end", "share"),
    [
        pytest.param("UTC", "5 0 * * *", "0 20 * * *", "75%", id="all but the first 5 of 20 minutes"),
        pytest.param("Europe/Berlin", "5 1 * * *", "11 1 * * *", "30%", id="6 of 20 minutes, an hour ahead"),
        pytest.param("UTC", "0 8 * * *", "0 20 * * *", "0%", id="hours after the load"),
    ],
)  # fmt: skip
def test_the_clock_of_a_schedule_is_told(zone, start, end, share, tmp_path):
    """20 minutes from Monday midnight."""
    (file := tmp_path / "load.yaml").write_text(PAUSE)
    scenario = scenario_of(load("llama-3.1-8b-1xl4"), traffic=file)
    given = scaled(RUNNING)
    metadata = {"timezone": zone, "start": start, "end": end, "desiredReplicas": "2"}
    assert scenario.clock_of(Given(given)) == []
    given["spec"]["triggers"].append({"type": "cron", "metadata": metadata})
    [said] = scenario.clock_of(Given(given))
    assert said == (
        f"the load begins on Monday 2026-01-05 00:00 UTC: the window of spec.triggers[1] is open for {share} of it"
    )
    assert scenario.clock_of(Standing(1)) == []
