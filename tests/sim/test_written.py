"""A simulated run on disk is what a load generator and a collector would have left."""

import numpy as np
import pytest

from analysis import run as runs
from analysis.steady import observe, windows
from autoscale.profiles import load
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.run_writer import write_run
from autoscale.sim.fleet.simulate import simulate
from loadgen.plan import lengths, rates
from loadgen.plan.traffic import LoadPlan

ENGINE = EngineParams(0.025, 0, 0, 0, num_blocks=400, max_num_seqs=8, max_num_batched_tokens=256)
PLAN = LoadPlan(
    rates.parse_stages("1:30,2:60"),
    prompt=lengths.parse_lengths("uniform:20,40"),
    output=lengths.parse_lengths("fixed:30"),
    seed=3,
)


@pytest.fixture
def outcome():
    return simulate(
        load("llama-3.1-8b-1xl4"), None, PLAN.arrivals(), seed=1, duration_s=PLAN.duration_s, engine=ENGINE,
        static_replicas=1, keep=True,
    )  # fmt: skip


def test_with_its_plan_a_run_has_the_stages_and_lengths_of_the_load(outcome, tmp_path) -> None:
    run = runs.read(write_run(outcome, tmp_path / "run", plan=PLAN))
    rows = run.requests
    assert (rows["stage"].to_numpy(int) == np.where(rows["due_s"] < 30, 0, 1)).all()
    assert set(rows["stage"]) == {0, 1}
    assert [(s["start_s"], s["end_s"], s["rate"]) for s in run.header["load"]["stages"]] == [
        (0, 30, 1),
        (30, 90, 2),
    ]
    assert run.header["lengths"] == {"prompt_tokens": "uniform:20,40", "output_tokens": "fixed:30"}
    assert [w.planned_rps for w in windows(observe(run))] == [1, 2]


def test_without_a_plan_a_run_is_one_stage(outcome, tmp_path) -> None:
    run = runs.read(write_run(outcome, tmp_path / "run"))
    assert set(run.requests["stage"]) == {0}
    assert "load" not in run.header


def test_replica_counts_last_until_the_end_of_the_run(outcome, tmp_path) -> None:
    replicas = runs.read(write_run(outcome, tmp_path / "run")).replicas
    assert replicas["time_s"].tolist() == [0, 90]
    assert replicas["ready"].tolist() == [1, 1]
