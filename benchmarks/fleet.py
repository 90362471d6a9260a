"""Speed and memory of the fleet in virtual time, and of the fleet over HTTP.

    python benchmarks/fleet.py            everything (about half a minute of processor time)
    python benchmarks/fleet.py simulate   a day and a week of traffic with the HPA loop
    python benchmarks/fleet.py serve      200 streams through the gateway

Processor time is measured, not wall time. The first run in a fresh clone compiles the engine (about 20 s, not counted).
"""

import asyncio
import contextlib
import resource
import subprocess
import sys
import time
from pathlib import Path

from autoscale.kube.vllm_names import hpa_metric_name
from autoscale.profiles.profile import load
from autoscale.sim.fleet.simulate import simulate
from loadgen.plan import lengths, rates
from loadgen.plan.programme import Rate
from loadgen.plan.traffic import LoadPlan, Process

ROOT = Path(__file__).parent.parent
DAY_S = 86_400.0
STREAMS, TOKENS_S, TOKENS = 200, 30, 300


def manifest(profile, targets: dict[str, str], most: int) -> dict:
    """An HPA for the profile with these averageValues by signal."""
    deploy = profile.deploy
    api = "apps/v1" if deploy.kind == "Deployment" else "leaderworkerset.x-k8s.io/v1"
    metrics = [
        {
            "type": "Pods",
            "pods": {
                "metric": {"name": hpa_metric_name(signal, profile.engine.vllm_version, deploy.metrics)},
                "target": {"type": "AverageValue", "averageValue": value},
            },
        }
        for signal, value in targets.items()
    ]
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": deploy.hpa_name},
        "spec": {
            "scaleTargetRef": {"apiVersion": api, "kind": deploy.kind, "name": deploy.name},
            "minReplicas": 1,
            "maxReplicas": most,
            "metrics": metrics,
        },
    }


def plan(rate: Rate) -> LoadPlan:
    """Poisson arrivals of 512/128 tokens on average."""
    return LoadPlan(
        programme=rate,
        process=Process("poisson", 1.0),
        prompt=lengths.parse_lengths("lognormal:512,0.5"),
        output=lengths.parse_lengths("lognormal:128,0.5"),
        seed=1,
    )


CASES = {
    # name: profile, targets, most replicas, rate, days
    "70B v6e-8, 5 req/s constant, queue": ("llama-3.1-70b-v6e8", {"waiting": "5"}, 4, 5.0, None),
    "70B v6e-8, 5 req/s by day and night, queue + running": (
        "llama-3.1-70b-v6e8",
        {"waiting": "5", "running": "48"},
        4,
        5.0,
        0.6,
    ),
    "8B L4, 5 req/s by day and night, running": ("llama-3.1-8b-1xl4", {"running": "24"}, 8, 5.0, 0.6),
}


def measure(case: str, days: float) -> None:
    """One simulation in this process; prints a row."""
    name, targets, most, mean_rps, swing = CASES[case]
    profile = load(name)
    hpa = manifest(profile, targets, most)
    duration_s = days * DAY_S
    steady = rates.constant(mean_rps, duration_s)
    rate = steady if swing is None else rates.sine(mean_rps, swing * mean_rps, DAY_S, duration_s)
    simulate(profile, hpa, plan(rates.constant(5.0, 600.0)).arrivals(), seed=1, duration_s=600.0)
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start_s = time.process_time()
    outcome = simulate(profile, hpa, plan(rate).arrivals(), seed=1, duration_s=duration_s)
    spent_s = time.process_time() - start_s
    after_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{case:54s} {days:3.0f} d {outcome.offered:9,d} req {len(outcome.decisions):5d} rescales "
        f"{spent_s:6.2f} s {duration_s / spent_s:9,.0f} x real time  {1e6 * spent_s / outcome.offered:5.2f} us/req  "
        f"+{after_mib - before_mib:4.0f} MiB",
        flush=True,
    )


def simulations() -> None:
    """Every case for a day and a week, each in a process of its own, so that memory can be told apart."""
    for case in CASES:
        for days in (1, 7):
            code = f"from benchmarks.fleet import measure; measure({case!r}, {days})"
            subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- over HTTP -------------------------------------------------------------------------------------------------------


def serve_fleet() -> None:
    """The server side, in a process of its own: a token takes 1/TOKENS_S, all streams fit on one replica."""
    from autoscale.sim.engine.replicas import EngineParams
    from autoscale.sim.http.hosting import serve_fleet
    from autoscale.sim.http.server import FleetServer

    engine = EngineParams(
        base_s=1 / TOKENS_S,
        per_sequence_s=0.0,
        per_kv_token_s=0.0,
        per_prefill_token_s=0.0,
        num_blocks=100_000,
        max_num_seqs=1024,
        max_num_batched_tokens=8192,
    )
    serve_fleet(
        FleetServer(load("llama-3.1-8b-1xl4"), port=0, engine=engine),
        on_started=lambda s: print(s.url, flush=True),
    )


async def stream_all(url: str) -> tuple[int, list[float]]:
    """Open all streams at once; tokens received, and the gaps between events in s."""
    import aiohttp

    gaps: list[float] = []
    received = 0

    async def one(client: aiohttp.ClientSession) -> None:
        nonlocal received
        body = {"prompt": "benchmark", "max_tokens": TOKENS, "stream": True}
        async with client.post(f"{url}/v1/completions", json=body) as answer:
            last = None
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    now_s = time.perf_counter()
                    received += 1
                    if last is not None:
                        gaps.append(now_s - last)
                    last = now_s

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        await asyncio.gather(*[one(client) for _ in range(STREAMS)])
    return received, gaps


def streams() -> None:
    """Load from this process, processor time of the server's."""
    import psutil

    code = "from benchmarks.fleet import serve_fleet; serve_fleet()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            process = psutil.Process(server.pid)
            before, start_s = process.cpu_times(), time.perf_counter()
            received, gaps = asyncio.run(stream_all(url))
            after, wall_s = process.cpu_times(), time.perf_counter() - start_s
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.terminate()
    spent_s = after.user + after.system - before.user - before.system
    gaps.sort()
    print(
        f"{STREAMS} streams x {TOKENS_S} tokens/s: {received:,d} events in {wall_s:.1f} s, server {spent_s:.2f} s of "
        f"processor time ({spent_s / wall_s:.0%} of a core, {1e6 * spent_s / received:.0f} us/event), gaps "
        f"p50 {1e3 * gaps[len(gaps) // 2]:.1f} p99 {1e3 * gaps[int(len(gaps) * 0.99)]:.1f} ms (true {1e3 / TOKENS_S:.1f})"
    )


if __name__ == "__main__":
    asked = sys.argv[1:] or ["simulate", "serve"]
    if "simulate" in asked:
        simulations()
    if "serve" in asked:
        streams()
