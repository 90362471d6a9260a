"""Pipeline parallelism: the batch queue against one written apart from it (reference_pipeline.py), and what can be worked out."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from analysis.run import STATUSES
from autoscale.sim.engine.replicas import EngineParams, replay

_spec = importlib.util.spec_from_file_location(
    "reference_pipeline", Path(__file__).parent / "reference_pipeline.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


def random_case(seed, chunk):
    """Small limits, so that seats, budget and blocks all run short; two to four stages."""
    rng = np.random.default_rng(seed)
    n, block_size, seats = (
        int(rng.integers(1, 60)),
        int(rng.choice([1, 2, 3, 8, 16])),
        int(rng.integers(1, 12)),
    )
    longest_prompt, longest_output = int(rng.integers(1, 60)), int(rng.integers(1, 30))
    params = EngineParams(
        base_s=float(rng.uniform(0.001, 0.05)),
        per_sequence_s=float(rng.uniform(0, 0.01)),
        per_kv_token_s=float(rng.choice([0, 1e-4])),
        per_prefill_token_s=float(rng.choice([0, 1e-3])),
        compute_share=float(rng.choice([0, 0.6])),
        ridge_tokens=float(rng.choice([0, 12])),
        experts_s=float(rng.choice([0, 0.02])),
        expert_share=0.2,
        per_prefill_pair_s=float(rng.choice([0, 1e-5])),
        long_reduce_s=float(rng.choice([0, 0.01])),
        long_reduce_tokens=5.0,
        num_blocks=-(-(longest_prompt + longest_output) // block_size) + 1 + int(rng.integers(0, 40)),
        max_num_seqs=seats,
        max_num_batched_tokens=seats + int(rng.integers(0, 30)),
        block_size=block_size,
        pipeline_stages=int(rng.integers(2, 5)),
        data_parallel=int(rng.integers(1, 3)),
        request_overhead_s=float(rng.choice([0, 0.013])),
        request_timeout_s=float(rng.choice([math.inf, math.inf, 1.0])),
        async_scheduling=bool(rng.integers(2)),
    )
    prompt = rng.integers(1, longest_prompt + 1, n)
    arrivals = chunk(
        due_s=np.cumsum(rng.exponential(rng.choice([0.01, 0.1, 1.0]), n)),
        prompt=prompt,
        output=rng.integers(1, longest_output + 1, n),
        prefix=rng.integers(0, prompt + 1) * rng.integers(0, 2),
    )
    gives_up = rng.permutation(n)[: n // 5 * int(rng.integers(0, 2))]
    aborts = [(float(arrivals.due_s[k] + rng.exponential(0.3)), int(k)) for k in gives_up]
    return params, arrivals, aborts, rng


def expected_rows(cores, instants):
    """Sums over engines of what was shown right before each instant, as (instants, columns); the used blocks are summed, too."""
    total = 0
    for core in cores:
        shown = np.array([(-1.0, 0, 0, 0, 0, 0, 0), *core.shown])
        total = total + shown[np.searchsorted(shown[:, 0], instants, side="left") - 1, 1:]
    return total


@pytest.mark.parametrize("first", range(0, 300, 60))
def test_every_time_and_every_gauge_agrees_with_the_naive_engine(first, chunk):
    preemptions, ends, kinds = 0, [], set()
    for seed in range(first, first + 60):
        params, a, aborts, rng = random_case(seed, chunk)
        columns = zip(a.due_s, a.prompt_tokens, a.output_tokens, a.prefix_tokens, strict=True)
        jobs = [reference.Job(i, due, int(p), int(o), int(c)) for i, (due, p, o, c) in enumerate(columns)]
        cores = reference.serve(params, jobs, aborts)
        last_s = max(job.end_s for job in jobs)
        instants = np.sort(rng.uniform(0, last_s * 1.1, 25))
        done, series = replay(params, a, instants, given_up=aborts)

        say = str(seed)
        assert [STATUSES[code] for code in done["status"]] == [j.status for j in jobs], say
        assert done["output_tokens"].tolist() == [j.out for j in jobs], say
        for column, times in (("first_token_s", "first_s"), ("end_s", "end_s")):
            want = [getattr(j, times) for j in jobs]
            np.testing.assert_allclose(done[column], want, rtol=1e-9, err_msg=say)
        waiting, running, used, generation, prompts, completed = expected_rows(cores, instants).T
        np.testing.assert_array_equal(series["waiting"], waiting, err_msg=say)
        np.testing.assert_array_equal(series["running"], running, err_msg=say)
        blocks = params.data_parallel * (params.num_blocks - 1)
        np.testing.assert_allclose(series["kv_usage"], used / blocks, atol=1e-12, err_msg=say)
        np.testing.assert_array_equal(series["generation_tokens_total"], generation, err_msg=say)
        np.testing.assert_array_equal(series["prompt_tokens_total"], prompts, err_msg=say)
        np.testing.assert_array_equal(series["requests_total"], completed, err_msg=say)
        preempted = np.sort(np.concatenate([core.preempted_s for core in cores]))
        np.testing.assert_array_equal(
            series["preemptions_total"], np.searchsorted(preempted, instants, side="left"), err_msg=say
        )
        preemptions += len(preempted)
        ends += [j.status for j in jobs]
        kinds.add((params.pipeline_stages, params.async_scheduling, params.data_parallel))
    assert preemptions > 30
    assert len(kinds) > 10
    assert min(ends.count(status) for status in ("ok", "timeout", "cancelled")) > 10


@pytest.mark.parametrize("seed", range(40))
def test_looking_more_often_changes_no_bit(seed, chunk):
    params, arrivals, _, rng = random_case(seed, chunk)
    once, _ = replay(params, arrivals)
    often, _ = replay(params, arrivals, np.sort(rng.uniform(0, np.nanmax(once["end_s"]), 200)))
    assert once.tobytes() == often.tobytes()


ALIKE = EngineParams(0.02, 0, 0, 0, 1001, max_num_seqs=8, max_num_batched_tokens=64, pipeline_stages=2)


def test_a_request_that_finds_one_lane_joins_it_and_the_lanes_stay_as_they_are(chunk):
    """Both stages are idle half of the time, yet the second request waits for the first one's pass of 2 x 20 ms.

    It enters at 10 ms, joins the pass from 40 ms to 80 ms, and both then have a token every 40 ms.
    """
    done, _ = replay(ALIKE, chunk([0.0, 0.01], 10, [3, 3]))
    assert done["first_token_s"].tolist() == pytest.approx([0.04, 0.08])
    assert done["last_token_s"].tolist() == pytest.approx([0.12, 0.16])


def test_a_prompt_beyond_the_budget_fills_the_second_lane_at_once(chunk):
    """128 tokens, 64 a batch: the second chunk follows the first one stage behind: 20 ms later than one chunk alone, 60 ms."""
    done, _ = replay(ALIKE, chunk([0.0], 128, 1))
    assert done["first_token_s"][0] == pytest.approx(0.06)


def test_a_lane_with_a_prompt_holds_up_the_lane_behind_it(chunk):
    """A prompt of 64 tokens at 1 ms each: its batch takes 84 ms on each stage, and the other lane's next token waits for it."""
    params = EngineParams(
        0.02, 0, 0, 1e-3, 1001, max_num_seqs=8, max_num_batched_tokens=64, pipeline_stages=2
    )
    done, _ = replay(params, chunk([0.0, 0.0], [64, 64], [2, 2]))
    # batch 1: 0 - 84 - 168 ms; batch 2: 84 - 168 - 252; decode 1 enters at 168: 188 on stage 0, stage 1 is free at 252: 272
    assert done["first_token_s"].tolist() == pytest.approx([0.168, 0.252])
    assert done["last_token_s"].tolist() == pytest.approx([0.272, 0.292])
