"""What pipeline parallelism does: Llama 3.1 405B on 2 x 8 H100, Poisson arrivals of its profile's lengths.

    python -m benchmarks.pipeline

1. One replica: TTFT and TPOT p95 against the rate, with vLLM's queue of two batches and with three (asynchronous scheduling),
   over 20,000 requests of each of three seeds.
2. Simulated requests per second of processor time, 8 replicas.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoscale.profiles import profile
from autoscale.sim.engine.replicas import EngineParams, Replicas, replay
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.traffic import Arrivals

NAME, RATES_RPS, REQUESTS, SEEDS = "llama-3.1-405b-2x8h100", (0.5, 1.0, 1.6, 2.2), 20_000, 3


def drawn(rate_rps: float, n: int, seed: int) -> Arrivals:
    """`n` requests of the profile's lengths."""
    work, rng = profile.load(NAME).workload, np.random.default_rng(seed)
    due_s = np.cumsum(rng.exponential(1 / rate_rps, n))
    prompt, output = (parse_lengths(text).draw(rng, n) for text in (work.prompt_tokens, work.output_tokens))
    return Arrivals(due_s, prompt, output, np.zeros(n, np.int32), np.arange(n))


def latencies(params: EngineParams, rate_rps: float) -> NDArray[Any]:
    """TTFT p95 in s and TPOT p95 in ms: means over the seeds."""
    rows = []
    for seed in range(SEEDS):
        done, _ = replay(params, drawn(rate_rps, REQUESTS, seed))
        several = done[done["output_tokens"] > 1]
        tpot_s = (several["last_token_s"] - several["first_token_s"]) / (several["output_tokens"] - 1)
        ttft_s = done["first_token_s"] - done["due_s"]
        rows.append((np.percentile(ttft_s, 95), 1e3 * np.percentile(tpot_s, 95)))
    return np.mean(rows, axis=0)


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
        (ttft_s, tpot_ms), (late_s, late_ms) = (latencies(p, rate_rps) for p in (params, late))
        print(
            f"{rate_rps:10.1f} {ttft_s:21.2f} s {tpot_ms:7.0f} ms {late_s:18.2f} s {late_ms:7.0f} ms "
            f"{requests_per_cpu_s(params, rate_rps):18,.0f}"
        )


if __name__ == "__main__":
    main()
