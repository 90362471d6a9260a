"""A synthetic replica of known step time is measured by a sweep; the fit must find it again."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from analysis import run as runs
from autoscale.profiles import load
from autoscale.recommend.model import step_time
from autoscale.recommend.model.calibrate import calibrate
from autoscale.recommend.model.learning import learn
from autoscale.recommend.model.replaying import full_batch, source_of
from autoscale.sim.engine.replicas import EngineParams
from loadgen.plan import lengths, rates
from loadgen.plan.traffic import LoadPlan
from tests.recommend.conftest import TRUTH, swept


def test_the_regression_finds_what_a_step_costs(measured) -> None:
    """Base, batch and cache move together in one shape of load; the whole step at the mean of the sweep does not."""
    seen = step_time.exposure(measured.requests)
    truth = np.array([getattr(TRUTH, name) for name in step_time.COEFFICIENTS])
    found = step_time.fit(seen, 2 * truth)  # a prior that is twice too slow
    typical = seen.design().mean(axis=0)
    assert found @ typical == pytest.approx(truth @ typical, rel=0.05)
    assert (found >= 0).all()


def test_a_run_of_the_model_itself_is_reproduced(measured) -> None:
    """The prior's step time is half the truth; after the fit, replayed medians lie within a few per cent."""
    prior = replace(TRUTH, base_s=0.01, per_sequence_s=2e-4, per_kv_token_s=1e-6, per_prefill_token_s=1e-4)
    found = calibrate([measured], prior)
    errors = found.median_error()
    assert errors["tpot_p50_s"] < 0.03
    assert errors["running"] < 0.05
    assert errors["throughput_rps"] < 0.03
    assert found.untrusted() == []
    for load_ in ((1, 300, 0), (8, 2400, 100)):
        steps = [
            np.dot([1, *load_], [getattr(e, n) for n in step_time.COEFFICIENTS])
            for e in (found.engine, TRUTH)
        ]
        assert steps[0] == pytest.approx(steps[1], rel=0.1)
    low, high = found.intervals["base_s"]
    assert low <= high
    low, high = found.spread_at(*found.shape)
    assert 0 < (high - low) / 2 < 0.1


def test_two_runs_are_fitted_together(measured) -> None:
    found = calibrate([measured, measured], TRUTH)
    assert sorted(found.replay["run"].unique()) == [0, 1]
    assert found.median_error()["tpot_p50_s"] < 0.03


def test_stages_of_seconds_do_not_pass_for_a_full_batch(tmp_path) -> None:
    """The first two stages that queue end while a batch of 128 still fills: their throughput is not the replica's."""
    engine = EngineParams.from_profile(load("llama-3.1-8b-1xl4"))
    prompt, output = lengths.parse_lengths("uniform:100,400"), lengths.parse_lengths("uniform:16,48")
    plan = LoadPlan(rates.parse_stages("4:6,8:6,12:6,16:6,20:6"), prompt=prompt, output=output)
    run = runs.read(swept(tmp_path / "run", plan, engine=engine))
    rng = np.random.default_rng(0)
    truth = full_batch(engine, prompt.draw(rng, 4000), output.draw(rng, 4000))[0]
    profile = load("llama-3.1-8b-1xl4")
    learned = learn([run], profile, profile.workload.slo)
    saturated = learned.capacities[0].saturated
    assert not learned.capacities[0].settled
    assert saturated.low <= truth <= saturated.high
    low, high = learned.spread_at(prompt.mean(), output.mean())
    assert (
        high - low
    ) / 2 < 0.12  # the engine's fit knows of the filling: what the stages gave does not widen it
    assert (
        low <= truth / full_batch(learned.engine, prompt.draw(rng, 4000), output.draw(rng, 4000))[0] <= high
    )


def test_requests_of_no_stage_are_replayed_but_belong_to_no_window(measured, tmp_path) -> None:
    shutil.copytree(measured.path, tmp_path / "run")
    rows = measured.requests.assign(stage=measured.requests["stage"].astype("Int32"))
    rows.loc[rows.index[::7], "stage"] = None
    rows.to_parquet(tmp_path / "run" / "requests.parquet")
    spoilt = runs.read(tmp_path / "run")
    source = source_of(spoilt, set(), None)
    assert len(source.sent.stage) == len(rows)
    assert -1 not in source.windows
    found = calibrate([spoilt], TRUTH)
    assert found.stages_used == calibrate([measured], TRUTH).stages_used
    assert found.median_error()["tpot_p50_s"] < 0.03
