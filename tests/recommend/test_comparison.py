"""Settings side by side: what is said of one that its maximum holds back."""

import pytest

from autoscale.profiles import load
from autoscale.recommend import scenario_of
from autoscale.recommend.choice.settings import Behavior, Candidate, Given, Standing
from autoscale.recommend.comparison import compare

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
