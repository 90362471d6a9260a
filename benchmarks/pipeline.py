"""What pipeline parallelism does: Llama 3.1 405B on 2 x 8 H100, Poisson arrivals of its profile's lengths.

    python -m benchmarks.pipeline

1. One replica: TTFT and TPOT p95 against the rate, with vLLM's queue of two batches and with three (asynchronous scheduling),
   over 20,000 requests of each of three seeds.
2. Simulated requests per second of processor time, 8 replicas.
3. The first with the step times of the version that had lockstep (LOCKSTEPS), beside an independent simulation of vLLM's queue
   with the same ones (INDEPENDENT; its number of requests is not known), and where runs of SHORT requests lie.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoscale.profiles import profile
from autoscale.sim.engine.params import SHAPE
from autoscale.sim.engine.replicas import EngineParams, Replicas, replay
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.traffic import Arrivals

NAME, RATES_RPS, REQUESTS, SEEDS = "llama-3.1-405b-2x8h100", (0.5, 1.0, 1.6, 2.2), 20_000, 3

SHORT, RUNS = 1000, 20
LOCKSTEPS = {  # data sheet's bandwidth, 70 us per layer, 50 us per sequence, 0.72 of the FLOP/s, all-reduces at 350 GB/s
    **dict.fromkeys(SHAPE, 0.0),
    "base_s": 811.7e9 / 16 / 3.35e12 + 63 * 70e-6,
    "per_sequence_s": 25e-6,
    "per_kv_token_s": 516096 / 16 / 3.35e12,
    "per_prefill_token_s": 2 * 405.85e9 / 16 / 989e12 / 0.72 + 2 * 63 * 16384 * 2 * 2 * 7 / 8 / 350e9,
    "request_overhead_s": 0.015,
}
INDEPENDENT = {
    0.5: (1.28, 63),
    1.0: (2.61, 105),
    1.6: (2.25, 141),
    2.2: (3.02, 210),
}  # TTFT p95 in s, TPOT p95 in ms


def drawn(rate_rps: float, n: int, seed: int) -> Arrivals:
    """`n` requests of the profile's lengths."""
    work, rng = profile.load(NAME).workload, np.random.default_rng(seed)
    due_s = np.cumsum(rng.exponential(1 / rate_rps, n))
    prompt, output = (parse_lengths(text).draw(rng, n) for text in (work.prompt_tokens, work.output_tokens))
    return Arrivals(due_s, prompt, output, np.zeros(n, np.int32), np.arange(n))


def latencies(params: EngineParams, rate_rps: float, requests: int, seeds: int) -> NDArray[Any]:
    """TTFT p95 in s and TPOT p95 in ms, one row per seed."""
    rows = []
    for seed in range(seeds):
        done, _ = replay(params, drawn(rate_rps, requests, seed))
        several = done[done["output_tokens"] > 1]
        tpot_s = (several["last_token_s"] - several["first_token_s"]) / (several["output_tokens"] - 1)
        ttft_s = done["first_token_s"] - done["due_s"]
        rows.append((np.percentile(ttft_s, 95), 1e3 * np.percentile(tpot_s, 95)))
    return np.array(rows)


def as_independent(params: EngineParams) -> None:
    """Print the third table."""
    print("requests/s   TTFT p95: long runs, independent, short runs   TPOT p95: the same")
    for rate_rps, independent in INDEPENDENT.items():
        long = latencies(params, rate_rps, REQUESTS, SEEDS).mean(axis=0)
        low, high = np.percentile(latencies(params, rate_rps, SHORT, RUNS), [2.5, 97.5], axis=0)
        cells = (
            f"{long[k]:8.3g} {independent[k]:8.3g} ({long[k] / independent[k] - 1:+.0%}) {low[k]:8.3g} to {high[k]:.3g}"
            for k in (0, 1)
        )
        print(f"{rate_rps:10.1f}", *cells)


def requests_per_cpu_s(params: EngineParams, rate_rps: float, slots: int = 8) -> float:
    """Served over the processor time of the engine; the best of three runs."""
    best = 0.0
    arrivals = drawn(slots * rate_rps, 100_000, 0)
    for _ in range(3):
        replicas = Replicas(params, slots)
        for slot in range(slots):
            replicas.open(slot, 0.0)
        replicas.offer(arrivals)
        started = time.process_time()
        replicas.advance(float(arrivals.due_s[-1]))
        best = max(best, len(replicas.finished()) / (time.process_time() - started))
    return best


def main() -> None:
    params = EngineParams.from_profile(profile.load(NAME))
    late = replace(params, async_scheduling=True)
    print(f"one token alone: {1e3 * params.step_s(1, 1000):.1f} ms")
    print("requests/s   two batches: TTFT p95, TPOT p95     three: TTFT p95, TPOT p95     requests/CPU s")
    for rate_rps in RATES_RPS:
        (ttft_s, tpot_ms), (late_s, late_ms) = (
            latencies(p, rate_rps, REQUESTS, SEEDS).mean(axis=0) for p in (params, late)
        )
        print(
            f"{rate_rps:10.1f} {ttft_s:21.2f} s {tpot_ms:7.0f} ms {late_s:18.2f} s {late_ms:7.0f} ms "
            f"{requests_per_cpu_s(params, rate_rps):18,.0f}"
        )
    as_independent(replace(params, **LOCKSTEPS))


if __name__ == "__main__":
    main()
