"""What a simulation refuses: requests longer than the model, fleets and queues larger than it holds."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.errors import BadInput
from analysis.run import read, validate
from autoscale.hpa import HpaSpec
from autoscale.profiles.profile import load, overlay
from autoscale.recommend.choice.settings import Behavior, Candidate
from autoscale.sim.engine.replicas import EngineParams, replay
from autoscale.sim.engine.state import REFUSED
from autoscale.sim.fleet import simulate as fleet
from autoscale.sim.fleet.run_writer import write_run
from autoscale.sim.fleet.scalers import foreign_name, read_scaler
from autoscale.sim.fleet.simulate import simulate, slots_for
from autoscale.sim.http.server import FleetServer
from loadgen.plan.arrivals import Arrivals

L4 = load("llama-3.1-8b-1xl4")
SHORT = overlay(L4, {"engine": {"max_model_len": 100}})
# 25 ms a token whatever runs beside it, 64 at a time
ENGINE = EngineParams(0.025, 0, 0, 0, num_blocks=4001, max_num_seqs=64, max_num_batched_tokens=2048)


def hpa(target="5", most=4, **reference):
    manifest = Candidate((("waiting", 5),), Behavior(), 1, 4).manifest(L4)
    manifest["spec"]["metrics"][0]["pods"]["target"]["averageValue"] = target
    manifest["spec"]["maxReplicas"] = most
    manifest["spec"]["scaleTargetRef"] |= reference
    return manifest


def requests(prompt, output, gap_s=1.0) -> Arrivals:
    prompt, output = np.broadcast_arrays(np.asarray(prompt, np.int32), np.asarray(output, np.int32))
    n = len(prompt)
    return Arrivals(gap_s * np.arange(n), prompt, output, np.zeros(n, np.int32), np.arange(n))


# --- longer than the model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "output", "answer"),
    [
        pytest.param(60, 40, 40, id="prompt and answer fill the length"),
        pytest.param(60, 90, 40, id="the answer is cut off where the length ends"),
        pytest.param(99, 5, 1, id="one token is left"),
        pytest.param(100, 1, None, id="the prompt alone fills it: 400"),
        pytest.param(10, 101, None, id="more tokens are asked for than there are: 400"),
    ],
)
def test_the_models_length_bounds_a_request_as_in_vllm(prompt, output, answer) -> None:
    done, _ = replay(replace(ENGINE, max_model_len=100), requests([prompt], [output]))
    if answer is None:
        assert (done["status"][0], done["slot"][0], done["output_tokens"][0]) == (1, REFUSED, 0)
    else:
        assert (done["status"][0], done["slot"][0], done["output_tokens"][0]) == (0, 0, answer)


def test_a_request_beyond_the_cache_is_refused_alike() -> None:
    done, _ = replay(replace(ENGINE, num_blocks=11), requests([200, 20], [5, 5]))
    assert done["slot"].tolist() == [REFUSED, 0]


def test_rejected_requests_are_counted_and_judged_by_nothing(tmp_path) -> None:
    arrivals = requests([50, 50, 150, 50, 150] * 20, [10])
    outcome = simulate(
        SHORT, None, [arrivals], seed=0, duration_s=100.0, engine=ENGINE, static_replicas=1, keep=True
    )
    assert (outcome.offered, outcome.ok, outcome.rejected) == (100, 60, 40)
    assert (outcome.lost, outcome.unserved) == (0, 0)
    assert outcome.attainment == 1
    assert {v.count for v in outcome.verdicts} == {60}
    run = read(write_run(outcome, tmp_path / "run"))
    assert validate(run) == []
    assert run.requests["http_status"].value_counts().to_dict() == {200: 60, 400: 40}


def test_when_everything_is_rejected_nothing_is_said_of_the_slo() -> None:
    profile = overlay(L4, {"engine": {"max_model_len": 10}})
    outcome = simulate(profile, hpa(), [requests([50] * 9, [1])], seed=0, duration_s=60.0, engine=ENGINE)
    assert (outcome.rejected, outcome.finished) == (9, 0)
    assert np.isnan(outcome.attainment)
    assert not outcome.holds


# --- larger than is simulated ----------------------------------------------------------------------------------------


def burst() -> Arrivals:
    return requests([20] * 3000, [200], 0.05)


def test_a_max_of_a_thousand_million_changes_nothing_and_takes_no_memory() -> None:
    slots = slots_for(HpaSpec.from_manifest(hpa(most=1_000_000_000)), 1)
    assert slots == 2 * 2000 + 2
    few, many = (
        simulate(L4, hpa(most=most), [burst()], seed=0, duration_s=300.0, engine=ENGINE)
        for most in (400, 1_000_000_000)
    )
    assert few.decisions == many.decisions
    assert few.latency["ttft"].quantile(0.9) == many.latency["ttft"].quantile(0.9)


def test_more_replicas_than_are_simulated_are_refused_when_they_are_asked_for() -> None:
    with pytest.raises(BadInput, match=r"the HPA asks for \d,\d+ replicas at .* expected at most 2,000"):
        simulate(L4, hpa("1m", 2**31 - 1), [burst()], seed=0, duration_s=3600.0, engine=ENGINE)
    with pytest.raises(BadInput, match="replicas of a simulated fleet: 100000; expected at most 2,000"):
        simulate(L4, None, [burst()], seed=0, duration_s=300.0, static_replicas=100_000)
    with pytest.raises(BadInput, match=r"a fleet over HTTP of up to 2,000 replicas; expected at most 255"):
        FleetServer(L4, hpa(most=1_000_000_000))


@pytest.mark.parametrize("target", ["9999999999999999999999E", "1e400", "10000000000000"])
def test_a_target_that_nothing_reaches_keeps_the_fleet_small(target) -> None:
    outcome = simulate(L4, hpa(target), [burst()], seed=0, duration_s=300.0, engine=ENGINE)
    assert outcome.peak_replicas == 1


def test_a_queue_that_no_memory_holds_ends_the_simulation(monkeypatch) -> None:
    monkeypatch.setattr(fleet, "MOST_IN_FLIGHT", 1000)
    monkeypatch.setattr(fleet, "LOT", 100)
    arrivals = requests([20] * 9000, [200], 0.05)  # of 20 requests/s 12.8 are served: 64 at a time, 5 s each
    chunks = [arrivals.take(slice(at, at + 100)) for at in range(0, 9000, 100)]
    setting = {"seed": 0, "duration_s": 1e4, "static_replicas": 1, "engine": ENGINE}
    with pytest.raises(BadInput, match=r"requests are in flight at .* on 1 replicas; expected at most 1,000"):
        simulate(L4, None, chunks, **setting)
    assert simulate(L4, None, chunks, **setting, stop=lambda _tally: "").stopped == "breaches"


def test_requests_offered_in_lots_come_out_as_those_offered_at_once(monkeypatch) -> None:
    arrivals = burst()
    chunks = [arrivals.take(slice(at, at + 100)) for at in range(0, 3000, 100)]

    def outcome():
        return simulate(L4, hpa(), chunks, seed=0, duration_s=300.0, engine=ENGINE, keep=True)

    whole = outcome()
    monkeypatch.setattr(fleet, "LOT", 150)
    assert outcome().requests.tobytes() == whole.requests.tobytes()
    assert outcome().decisions == whole.decisions


# --- somebody else's HPA ---------------------------------------------------------------------------------------------


def test_an_hpa_of_a_workload_with_another_name_is_simulated_with_a_note() -> None:
    other = hpa(name="chat-server")
    note = foreign_name(L4, read_scaler(L4, other))
    assert note is not None
    assert "scales Deployment/chat-server, and profile llama-3.1-8b-1xl4 is of Deployment/vllm" in note
    assert "deploy.name" in note
    assert FleetServer(L4, other).note == note
    assert foreign_name(L4, read_scaler(L4, hpa())) is None
    own, foreign = (
        simulate(L4, manifest, [burst()], seed=0, duration_s=300.0, engine=ENGINE)
        for manifest in (hpa(), other)
    )
    assert [row[:3] for row in own.decisions] == [row[:3] for row in foreign.decisions]


def test_true_is_no_number_of_a_profile() -> None:
    with pytest.raises(BadInput, match=r"cannot set replica.nodes: true and false are no numbers: True"):
        overlay(L4, {"replica": {"nodes": True}})


FIELDS = {
    "an unknown field": ("hf_token: pl4nted-key", "hf_token: no such field; expected fields as in docs/profiles.md"),
    "one of a section": ("deploy: {hf_token: pl4nted-key}", "deploy.hf_token: no such field"),
    "a number under a name of a secret": ("accelerator: {flops_s: {hf_token: pl4nted-key}}", "flops_s.hf_token: .*'...'$"),
    "no block of the cache": ("engine: {kv_tokens: 1}", "engine: kv_tokens 1 is less than one block, block_size 16"),
    "fewer tokens than sequences": ("engine: {max_num_batched_tokens: 16}", "engine: max_num_batched_tokens 16 is below max_num_seqs"),
    "an SLO that is none": ("workload: {slo: ttft_p95=-2s}", "workload.slo: cannot read the time '-2s' in: 'ttft_p95=-2s'"),
    "lengths that are none": ("workload: {prompt_tokens: few}", "workload.prompt_tokens: unknown length distribution: 'few'"),
    "a title that writes to the terminal": (r'title: "\e[31mred\e]0;x\a"', "title: a text in it has the character U.001B"),
    "a sentence that turns round": (r'predictions: ["a\u202Eb"]', "predictions: a text in it has the character U.202E"),
    "a label that writes to the terminal": (r'deploy: {labels: {"a\e": b}}', "deploy.labels: a text in it has the character"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), FIELDS.values(), ids=FIELDS)
def test_a_field_of_a_profile_that_cannot_be_is_told_with_the_file_and_no_secret(
    tmp_path, text, said
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"extends: llama-3.1-8b-1xl4\n{text}\n")
    with pytest.raises(BadInput, match=f"^profile {file}, field .*{said}") as raised:
        load(str(file))
    assert "pl4nted" not in str(raised.value)


@pytest.mark.parametrize("phase", ["node", "image", "engine_init"])
def test_a_cold_start_without_end_is_refused_in_the_profile(phase) -> None:
    with pytest.raises(BadInput, match=f"cannot set cold_start.{phase}.*finite"):
        overlay(L4, {"cold_start": {phase: {"median_s": float("inf"), "p95_s": float("inf")}}})
