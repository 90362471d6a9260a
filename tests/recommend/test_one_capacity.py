"""A run's one answer to how much a replica takes: from servers of known step time, and from a real one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import run as runs
from analysis.slo import parse_slo
from autoscale.profiles import load, overlay
from autoscale.recommend.model import calibrate
from autoscale.recommend.model.coefficients import full_batch_shares
from autoscale.recommend.model.learning import learn
from autoscale.recommend.model.limits import seats_seen
from autoscale.recommend.model.one_replica import weights_at
from autoscale.recommend.model.replaying import Offered
from autoscale.sim.engine.replicas import EngineParams, replay
from benchmarks import capacity_coverage
from benchmarks.target_coverage import server
from tests.recorded_sweeps import ENGINE, sweep_to_run

STAGE_S = 20.0
PROFILE = load("llama-3.1-8b-1xl4")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """k -> (truth in req/s, model, capacity): an undisturbed server, and one with a neighbour for a third of the run."""
    found = {}
    for k in (0, 9):
        truth = server(k)
        slo = capacity_coverage.slo_of(truth, k)
        run = capacity_coverage.measured(truth, k, STAGE_S, slo, tmp_path_factory.mktemp("run") / str(k))
        model = learn([run], PROFILE, slo)
        found[k] = capacity_coverage.truth_rps(truth, slo), model, model.capacities[0]
    return found


@pytest.mark.parametrize("k", [pytest.param(0, id="undisturbed"), pytest.param(9, id="with a neighbour")])
def test_the_interval_holds_the_undisturbed_servers_capacity(answers, k):
    truth, _, said = answers[k]
    assert said.capacity.low <= truth <= said.capacity.high
    assert said.capacity.value == pytest.approx(truth, rel=0.05)
    assert (said.capacity.high - said.capacity.low) / 2 < 0.15 * truth


def test_a_neighbour_is_found_and_named_with_its_stages(answers):
    _, model, said = answers[9]
    slowed = [s for s in model.usual.merged() if s.factor > 1.1]
    assert slowed
    assert sum(s.to_s - s.from_s for s in slowed) == pytest.approx(STAGE_S * 8 / 3, rel=0.4)
    assert any("something else used the server" in note and "stage" in note for note in said.notes)


def test_a_server_that_nothing_disturbed_has_no_neighbour(answers):
    _, model, said = answers[0]
    assert not [s for s in model.usual.merged() if s.factor > 1.05]
    assert not any("something else" in note for note in said.notes)


def test_what_a_run_cannot_part_opens_no_interval(answers):
    """One shape of requests parts no sequence from its KV tokens: either may be off by half. Both weigh in the SLO's figure as
    they do in every batch of such requests, so that their errors cancel there."""
    truth, model, said = answers[0]
    slo = parse_slo(capacity_coverage.slo_of(server(0), 0))
    fitted = capacity_coverage.scenario(replace(server(0), engine=model.engine), str(slo))
    weights = weights_at(fitted, said.capacity.value)
    full = full_batch_shares(model.engine, *model.shape)
    assert weights[1] / weights[2] == pytest.approx(full[1] / full[2], rel=0.02)
    moves = model.usual.draw(np.random.default_rng(0), 2000)
    assert moves[:, 1:3].std(axis=0).max() > 0.15  # neither is known by itself
    assert (moves @ weights).std() < 0.02
    assert (
        said.capacity.high - said.capacity.low
    ) / 2 < 0.06 * truth  # TTFT alone, 20 s a stage, nothing disturbed


def test_the_wander_of_stages_is_no_error_of_the_model():
    """Stages that miss by what the server wanders are no evidence against the engine; a bias beyond that is."""
    rng = np.random.default_rng(1)

    def replay_of(bias):
        misses = bias + 0.03 * rng.standard_normal(40)
        rows = [
            ("run", k, figure, 1.0, 1.0, miss) for k, miss in enumerate(misses) for figure in ("tpot_p50_s",)
        ]
        return pd.DataFrame(rows, columns=["run", "stage", "figure", "measured", "modelled", "error"])

    wandering = replay_of(0.0)
    assert calibrate.model_error(wandering, 0.03) < calibrate.model_error(wandering, 0.0)
    assert calibrate.model_error(replay_of(0.05), 0.03) == pytest.approx(0.05, rel=0.2)


def test_the_capacity_is_one_on_saturation_knee_and_slo(answers):
    """What holds the SLO is never more than what is completed; the three rest on the same engine."""
    for _, _, said in answers.values():
        assert said.capacity.value <= said.saturated.value * 1.001
        assert said.knee.value <= said.saturated.value


def test_a_queue_that_grows_holds_no_bound_on_tpot_alone(tmp_path):
    """What waits has no TPOT yet: the stage at 6.2 req/s keeps it at a server that completes 5."""
    truth, slo = server(73), capacity_coverage.slo_of(server(73), 73)
    assert slo.startswith("tpot")
    run = capacity_coverage.measured(truth, 73, 60.0, slo, tmp_path / "run")
    said = learn([run], PROFILE, slo).capacities[0]
    rate_rps = capacity_coverage.truth_rps(truth, slo)
    assert said.capacity.low <= rate_rps <= said.capacity.high < 1.05 * rate_rps
    assert not any("held the SLO at" in note for note in said.notes)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_seats_are_where_the_running_requests_of_a_real_server_level_off(tmp_path):
    """The recorded server has 16 seats; the header of a run in which nobody read them does not say so."""
    run = runs.read(sweep_to_run("sweep_D", tmp_path / "D"))
    assert seats_seen([run.metrics]) == 16


def test_a_full_kv_cache_tells_no_seats():
    engine = EngineParams(
        0.02, 4e-4, 2e-6, 2e-4, num_blocks=120, max_num_seqs=256, max_num_batched_tokens=512
    )
    rng = np.random.default_rng(0)
    due_s = np.sort(rng.uniform(0, 100, 600))
    sizes = rng.integers(50, 150, 600), rng.integers(50, 150, 600)
    times = np.arange(1.0, 100.0)
    _, series = replay(engine, Offered.at(due_s, *sizes), times)
    gauges = pd.DataFrame({name: series[name] for name in ("running", "waiting", "kv_usage")})
    assert (gauges["waiting"] > 1).sum() > 50
    assert seats_seen([gauges]) is None


@pytest.mark.parametrize("stated", [True, False])
def test_how_the_engine_schedules_is_kept_where_the_profile_says_it(tmp_path, stated):
    path = sweep_to_run("sweep_D", tmp_path / "D")
    runs.update(path, engine={name: ENGINE[name] for name in ("block_size", "num_blocks", "kv_tokens")})
    model = learn(
        [runs.read(path)], overlay(PROFILE, {"engine": {"async_scheduling": stated}}), "ttft_p95=1s"
    )
    assert model.engine.async_scheduling is stated
    assert model.engine.max_num_seqs == 16
    assert any(
        note.startswith("never more than 16 requests ran at once") for note in model.capacities[0].notes
    )
    assert any("token budget (max_num_batched_tokens)" in note for note in model.capacities[0].notes)


def test_a_term_of_the_slo_binds(answers):
    for k, (_, _, said) in answers.items():
        terms = {term.name for term in parse_slo(capacity_coverage.slo_of(server(k), k)).terms}
        assert said.binds in terms
