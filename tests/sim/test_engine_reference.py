"""The closed-form engine against a step-by-step one written apart from it (reference_engine.py)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from autoscale.sim.engine.replicas import EngineParams, replay

_spec = importlib.util.spec_from_file_location(
    "reference_engine", Path(__file__).parent / "reference_engine.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


def random_shape(rng):
    """Half of the cases are linear; the others have a ridge among their batch sizes, experts and attention of prompts."""
    if rng.integers(2):
        return {}
    return {
        "compute_share": float(rng.choice([0, 0.7, 1])),
        "ridge_tokens": float(rng.uniform(0, 20)),
        "experts_s": float(rng.choice([0, 0.02])),
        "expert_share": float(rng.uniform(0, 0.5)),
        "per_prefill_pair_s": float(rng.choice([0, 1e-5])),
        "long_reduce_s": float(rng.choice([0, 0.01])),
        "long_reduce_tokens": float(rng.integers(0, 12)),
    }


def random_case(seed, chunk):
    """Small limits, so that seats, budget and blocks all run short; a third of the cases preempt."""
    rng = np.random.default_rng(seed)
    n, block_size, seats = (
        int(rng.integers(1, 40)),
        int(rng.choice([1, 2, 3, 8, 16])),
        int(rng.integers(1, 9)),
    )
    longest_prompt, longest_output = int(rng.integers(1, 40)), int(rng.integers(1, 30))
    params = EngineParams(
        base_s=float(rng.uniform(0.001, 0.1)),
        per_sequence_s=float(rng.uniform(0, 0.01)),
        per_kv_token_s=float(rng.choice([0, 1e-4])),
        per_prefill_token_s=float(rng.choice([0, 1e-3])),
        **random_shape(rng),
        num_blocks=-(-(longest_prompt + longest_output) // block_size) + 1 + int(rng.integers(0, 20)),
        max_num_seqs=seats,
        max_num_batched_tokens=seats + int(rng.integers(0, 30)),
        block_size=block_size,
        request_overhead_s=float(rng.choice([0, 0.013])),
        async_scheduling=bool(rng.integers(2)),
    )
    prompt = rng.integers(1, longest_prompt + 1, n)
    arrivals = chunk(
        due_s=np.cumsum(rng.exponential(rng.choice([0.01, 0.1, 1.0]), n)),
        prompt=prompt,
        output=rng.integers(1, longest_output + 1, n),
        prefix=rng.integers(0, prompt + 1) * rng.integers(0, 2),
    )
    return params, arrivals, rng


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_every_time_and_every_gauge_agrees_with_the_step_by_step_engine(first, chunk):
    preemptions = 0
    for seed in range(first, first + 100):
        params, a, rng = random_case(seed, chunk)
        columns = zip(a.due_s, a.prompt_tokens, a.output_tokens, a.prefix_tokens, strict=True)
        jobs = [reference.Job(i, due, int(p), int(o), int(c)) for i, (due, p, o, c) in enumerate(columns)]
        slow = reference.Engine(params)
        slow.run(jobs)
        preemptions += slow.preemptions
        shown = np.array([(0, 0, 0, 0), *slow.shown])

        instants = np.sort(rng.uniform(0, shown[-1, 0] * 1.1, 20))
        done, series = replay(params, a, instants)
        np.testing.assert_allclose(
            done["first_token_s"], [j.first_s for j in jobs], rtol=1e-9, err_msg=str(seed)
        )
        np.testing.assert_allclose(
            done["last_token_s"], [j.last_s for j in jobs], rtol=1e-9, err_msg=str(seed)
        )
        then = shown[np.searchsorted(shown[:, 0], instants, side="left") - 1]
        np.testing.assert_array_equal(series["waiting"], then[:, 1], err_msg=str(seed))
        np.testing.assert_array_equal(series["running"], then[:, 2], err_msg=str(seed))
        np.testing.assert_allclose(series["kv_usage"], then[:, 3] / (params.num_blocks - 1), atol=1e-12)
        if series["time_s"][-1] > shown[-1, 0]:
            assert series["preemptions_total"][-1] == slow.preemptions
    assert preemptions > 50


@pytest.mark.parametrize("seed", range(40))
def test_looking_more_often_changes_no_bit(seed, chunk):
    params, arrivals, rng = random_case(seed, chunk)
    once, _ = replay(params, arrivals)
    often, _ = replay(params, arrivals, np.sort(rng.uniform(0, np.nanmax(once["end_s"]), 200)))
    assert once.tobytes() == often.tobytes()
