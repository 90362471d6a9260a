"""A candidate becomes the manifest that is applied, and the judge runs exactly that manifest."""

import pytest

from analysis.errors import BadInput
from autoscale.hpa import HpaSpec
from autoscale.profiles import load, names
from autoscale.recommend.choice.settings import Behavior, Candidate, Given, Standing
from autoscale.sim.fleet.scalers import read_scaler


@pytest.mark.parametrize("name", names())
def test_a_candidate_survives_the_manifest(name: str) -> None:
    """Two targets, bounds and window come back from the object as it would be applied."""
    profile = load(name)
    setting = Candidate((("waiting", 2), ("kv_usage", 0.504)), Behavior(1560), 2, 7)
    spec = read_scaler(profile, setting.manifest(profile))
    assert isinstance(spec, HpaSpec)
    assert (spec.min_replicas, spec.max_replicas) == (2, 7)
    assert [m.target_milli for m in spec.metrics] == [2000, 504]
    assert (spec.target_kind, spec.target_name) == (profile.deploy.kind, profile.deploy.name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"kind": "Job"}, "targets another kind of workload: 'Job/vllm'", id="another workload"),
        pytest.param({"metric": "cpu_usage"}, "cpu_usage", id="a metric that vLLM does not export"),
    ],
)
def test_an_hpa_that_does_not_fit_is_refused_in_a_sentence(change: dict[str, str], message: str) -> None:
    profile = load("llama-3.1-8b-1xl4")
    manifest = Candidate((("waiting", 5),), Behavior(), 1, 4).manifest(profile)
    if "kind" in change:
        manifest["spec"]["scaleTargetRef"]["kind"] = change["kind"]
    else:
        manifest["spec"]["metrics"][0]["pods"]["metric"]["name"] = change["metric"]
    with pytest.raises(BadInput, match=message):
        read_scaler(profile, manifest)


def test_the_same_seed_gives_the_same_trial_and_another_one_does_not(small) -> None:
    scenario = small("2:600")
    setting = Candidate((("running", 5),), Behavior(300), 1, 4)
    assert scenario(setting, 1, None) == scenario(setting, 1, None)
    assert scenario(setting, 1, None) != scenario(setting, 2, None)


def test_a_standing_fleet_costs_its_size_times_the_time(small) -> None:
    """Three replicas of one accelerator for ten minutes: half an hour."""
    assert small("2:600")(Standing(3), 1, None).accelerator_hours == pytest.approx(0.5)


def test_an_hpa_that_was_given_is_judged_as_the_candidate_that_wrote_it(small) -> None:
    scenario, setting = small("2:600"), Candidate((("running", 5),), Behavior(300), 1, 4)
    given = Given(setting.manifest(scenario.profile), "mine.yaml")
    assert scenario(given, 1, None) == scenario(setting, 1, None)
    assert (given.label, given.replicas, Standing(1).label) == ("mine.yaml", None, "1 standing replica")
