"""What is said of runs of a real vLLM in trouble: a neighbour, a killed server, a client at its limit, an overload."""

import pytest

from analysis import run as runs
from analysis.capacity import analyse
from analysis.errors import TooLittleData
from analysis.slo import parse_slo
from autoscale.profiles import load
from autoscale.recommend.model.learning import learn
from loadgen.run.capacity_answer import capacity_sentence

SLO = "ttft_p95=1s"
PROFILE = load("llama-3.1-8b-1xl4")


@pytest.fixture(scope="module")
def recorded(shared_dir):
    """Name -> run; tests skip where it was not recorded."""
    folder = shared_dir / "recordings" / "vllm"

    def read(name):
        if not (folder / name / "run.json").is_file():
            pytest.skip(f"{folder / name} is not there")
        return runs.read(folder / name)

    return read


def test_a_server_that_was_killed_is_named_and_its_stage_set_aside(recorded):
    with pytest.raises(TooLittleData, match="the server died or was restarted") as raised:
        analyse(recorded("run_kill"), parse_slo(SLO))
    assert "other clients" not in str(raised.value)


def test_what_the_client_limited_is_not_what_broke(recorded):
    header = recorded("run_findcap").header
    said = capacity_sentence(header["find_capacity"], header["client"]["stages"])
    assert "3/s was not decided: the client was the limit" in said
    assert "every rate down to" not in said


def test_a_neighbour_is_named_and_the_interval_holds_both_speeds(recorded):
    """One stage saturated at 5.7 requests/s, later ones were steady at up to 8."""
    run = recorded("run_contradict")
    capacity = learn([run], PROFILE, SLO).capacities[0]
    assert capacity.capacity.low < 5.7
    assert capacity.capacity.high > 7.9
    assert any(
        "stages 0, 1, 2" in note and "something else used the server" in note for note in capacity.notes
    )
    assert any("the interval holds both" in note for note in capacity.notes)


def test_cancelled_requests_are_no_foreign_load_and_no_shifted_clock(recorded):
    capacity = learn([recorded("run_overload")], PROFILE, SLO).capacities[0]
    assert not any("other clients" in note or "clock" in note or "ahead" in note for note in capacity.notes)
    assert capacity.capacity.low < capacity.capacity.high


def test_pieces_that_take_turns_make_one_model(recorded):
    pieces = [recorded(f"paired/PD{k}") for k in (1, 2, 3, 4)]
    model = learn(pieces, PROFILE, SLO)
    assert not model.untrusted()
    assert len({str(capacity.capacity) for capacity in model.capacities}) == 1
    assert model.capacities[0].capacity.low < 8.1  # PD3 held that rate
    assert model.capacities[0].saturated.high > 9.6  # PD4 stood in a queue at that rate
