"""Speed and size of the engine model.

    python -m benchmarks.engine

1. Simulated requests per second of processor time: Llama 3.1 70B on v6e-8, 512/128 tokens, 8 replicas, near capacity.
2. Cost per request against the number of sequences in the batch: tokens are never counted one by one, so the cost per
   request falls or grows like the heap's logarithm while the tokens per request stay the same.
3. Tables and memory against the length of the trace.
"""

import math
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from autoscale.profiles import profile
from autoscale.sim.engine.replicas import EngineParams, Replicas, replay
from loadgen.plan.traffic import Arrivals

PROMPT, OUTPUT, REPLICAS = 512, 128, 8


def poisson(rate_rps: float, n: int, seed: int = 1, size: int = 65_536) -> Iterator[Arrivals]:
    """`n` requests of fixed lengths in chunks."""
    rng, now_s = np.random.default_rng(seed), 0.0
    for first in range(0, n, size):
        count = min(size, n - first)
        due_s = now_s + np.cumsum(rng.exponential(1 / rate_rps, count))
        now_s = due_s[-1]
        same = [np.full(count, tokens, np.int32) for tokens in (PROMPT, OUTPUT, 0)]
        yield Arrivals(due_s, *same, np.arange(first, first + count))


def serve(
    params: EngineParams, rate_rps: float, n: int, slots: int = REPLICAS, routing: str = "random"
) -> dict[str, float]:
    """Serve `n` streamed requests; processor seconds inside the engine and what was served."""
    replicas = Replicas(params, slots, routing=routing)
    for slot in range(slots):
        replicas.open(slot, 0.0)
    spent_s, served, ttft_s, running = 0.0, 0, 0.0, []
    for chunk in poisson(rate_rps, n):
        started = time.process_time()
        replicas.offer(chunk)
        replicas.advance(float(chunk.due_s[-1]))
        done = replicas.finished()
        spent_s += time.process_time() - started
        served += len(done)
        ttft_s += float(np.sum(done["first_token_s"] - done["due_s"]))
        running.append(replicas.gauges()["running"].mean())
    return {
        "requests_per_cpu_s": served / spent_s,
        "times_real_time": replicas.now_s / spent_s,
        "ttft_s": ttft_s / served,
        "running": float(np.mean(running)),
        "table_rows": float(len(replicas._state.requests)),
    }


def capacity_rps(params: EngineParams) -> float:
    """Requests per second that one replica serves with a queue that never ends."""
    n = 40 * params.max_num_seqs
    same = [np.full(n, tokens, np.int32) for tokens in (PROMPT, OUTPUT, 0)]
    done, _ = replay(params, Arrivals(np.zeros(n), *same, np.arange(n)))
    ends = np.sort(done["end_s"])
    return (n // 2) / float(ends[3 * n // 4] - ends[n // 4])


def main() -> None:
    params = EngineParams.from_profile(profile.load("llama-3.1-70b-v6e8"))
    started = time.perf_counter()
    serve(params, 10.0, 1000)
    print(f"first use, compiled or from the cache: {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    for _ in range(200):
        Replicas(params, REPLICAS)
    print(f"making {REPLICAS} replicas: {(time.perf_counter() - started) * 5:.3f} ms")

    print("\n1. load of capacity  routing          requests/CPU s   x real time  TTFT mean  batch")
    limit_rps = REPLICAS * capacity_rps(params)
    for share, routing in (
        (0.5, "random"),
        (0.9, "random"),
        (0.97, "random"),
        (0.97, "round_robin"),
        (0.97, "least_requests"),
    ):
        row = serve(params, share * limit_rps, 600_000, routing=routing)
        print(
            f"   {share:4.0%} of {limit_rps:.0f} rps   {routing:15s} {row['requests_per_cpu_s']:14,.0f} "
            f"{row['times_real_time']:12,.0f} {row['ttft_s']:9.3f} {row['running']:7.1f}"
        )

    print("\n2. one replica, always full   batch   us per request   us per request / log2(batch)")
    for seats in (8, 32, 128, 512, 2048, 8192):
        wide = replace(
            params,
            max_num_seqs=seats,
            max_num_batched_tokens=seats * PROMPT,
            num_blocks=64 * seats,
            per_prefill_token_s=0.0,
        )
        row = serve(wide, 1.1 * capacity_rps(wide), max(300_000, 40 * seats), slots=1)
        cost_us = 1e6 / row["requests_per_cpu_s"]
        print(f"{row['running']:34.0f} {cost_us:14.2f} {cost_us / math.log2(row['running']):20.3f}")

    print("\n3. requests in the trace   rows in the table of requests   peak memory beyond the start")
    for n in (100_000, 400_000, 1_600_000):
        tracemalloc.start()
        row = serve(params, 0.9 * limit_rps, n)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"{n:22,d} {row['table_rows']:26,.0f} {peak / 2**20:24.1f} MB")

    week_s = 7 * 86_400
    replicas, spent_s, now_s = Replicas(params, REPLICAS), 0.0, 0.0
    for slot in range(REPLICAS):
        replicas.open(slot, 0.0)
    for chunk in poisson(5.0, 5 * week_s):
        started = time.process_time()
        replicas.offer(chunk)
        while now_s + 15 <= chunk.due_s[-1]:
            now_s += 15
            replicas.advance(now_s)
            replicas.gauges()
        replicas.finished()
        spent_s += time.process_time() - started
    print(
        f"\n4. a week at 5 requests/s, gauges read every 15 s: {spent_s:.1f} CPU s, {week_s / spent_s:,.0f} x real time"
    )


if __name__ == "__main__":
    main()
