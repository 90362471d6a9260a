"""What External signals and the gateway cost, and nights at zero.

    python -m benchmarks.signals          both (a few minutes of processor time)
    python -m benchmarks.signals speed    a day under Pods metrics against the same day under KEDA's External ones
    python -m benchmarks.signals zero     20 seeded days from and to zero behind a gateway: nobody lost, every wait explained

Processor time is measured, the two ways in turns on the same arrivals; the first pair compiles and is not counted.
"""

import math
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np

from autoscale.hpa import HpaSpec
from autoscale.keda import ScaledObject
from autoscale.profiles.profile import Profile, load
from autoscale.sim.engine.gateway import InferenceGateway
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.fleet.outcome import Outcome
from autoscale.sim.fleet.scalers import Scaler
from autoscale.sim.fleet.simulate import simulate
from benchmarks.fleet import manifest, plan
from loadgen.plan import rates
from loadgen.plan.traffic import Arrivals

DAY_S, PAIRS, DAYS = 86_400.0, 5, 20
WAITING, RUNNING = "sum(vllm:num_requests_waiting)", "sum(vllm:num_requests_running)"
QUEUE, SENT = "sum(llm_d_epp_flow_control_queue_size)", "sum(llm_d_epp_request_running)"


def scaled_object(profile: Profile, triggers: dict[str, str], low: int, most: int) -> ScaledObject:
    """KEDA's object on the profile's workload: query -> threshold."""
    deploy = profile.deploy
    metadata = [
        {"serverAddress": "http://prometheus:9090", "query": query, "threshold": threshold}
        for query, threshold in triggers.items()
    ]
    return ScaledObject.from_manifest(
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": "vllm", "namespace": deploy.namespace},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": deploy.kind, "name": deploy.name},
                "minReplicaCount": low,
                "maxReplicaCount": most,
                "pollingInterval": 15,
                "triggers": [{"type": "prometheus", "metadata": each} for each in metadata],
            },
        }
    )


def speed() -> None:
    """The ratio of processor times, pair by pair."""
    profile = load("llama-3.1-8b-1xl4")
    day = plan(rates.diurnal(6.0, DAY_S))
    ways: dict[str, Scaler] = {
        "Pods": HpaSpec.from_manifest(manifest(profile, {"waiting": "5", "running": "40"}, 20)),
        "External": scaled_object(profile, {WAITING: "5", RUNNING: "40"}, 1, 20),
    }
    ratios = []
    for k in range(PAIRS + 1):
        took = {}
        for name, scaler in ways.items():
            start = time.process_time()
            simulate(profile, scaler, day.arrivals(), seed=k, duration_s=DAY_S)
            took[name] = time.process_time() - start
        if k:
            ratios.append(took["External"] / took["Pods"])
            print(f"  Pods {took['Pods']:.2f} s, External {took['External']:.2f} s, ratio {ratios[-1]:.2f}")
    print(f"a day at up to 6 requests/s: External takes {np.median(ratios):.2f} times as long (median)")


def explained(outcome: Outcome) -> float:
    """The largest difference in s between a request's wait at the gateway and what explains it: no pod, or a full pool."""
    rows = [*outcome.replicas, (math.inf, 0, 0, 0, 0)]
    without = [(a[0], b[0]) for a, b in pairwise(rows) if a[4] == 0]
    done: Any = outcome.requests
    sent = done[np.isfinite(done["sent_s"])]
    waited = sent["sent_s"] - sent["due_s"]
    for start_s, end_s in without:
        overlap = np.minimum(sent["sent_s"], end_s) - np.maximum(sent["due_s"], start_s)
        waited = waited - np.maximum(overlap, 0.0)
    return float(np.abs(waited - sent["held_s"]).max(initial=0.0))


def day_with_nights(seed: int) -> Arrivals:
    """Requests in the first and the last third of a day, about one in five seconds, and none between."""
    rng = np.random.default_rng(seed)
    due = np.sort(rng.uniform(0, DAY_S, 17_000))
    due = due[(due < DAY_S / 3) | (due > 2 * DAY_S / 3)]
    n = len(due)
    prompt, output = (rng.integers(low, high, n).astype(np.int32) for low, high in ((64, 1024), (32, 256)))
    return Arrivals(due, prompt, output, np.zeros(n, np.int32), np.arange(n))


def zero() -> None:
    """Seeded days from and to zero."""
    profile = load("llama-3.1-8b-1xl4")
    scaler = scaled_object(profile, {QUEUE: "1", SENT: "16"}, 0, 4)
    options = FleetOptions(gateway=InferenceGateway(no_endpoint_ttl_s=1800.0))
    worst, hours, lost, longest = 0.0, [], 0, []
    for seed in range(DAYS):
        outcome = simulate(
            profile, scaler, [day_with_nights(seed)], seed=seed, duration_s=DAY_S, options=options, keep=True
        )
        assert outcome.offered == outcome.finished + outcome.unserved + outcome.rejected
        worst = max(worst, explained(outcome))
        lost += outcome.lost + outcome.unserved
        hours.append(outcome.accelerator_hours)
        longest.append(outcome.percentile("ttft", 100))
    print(
        f"{DAYS} days with a night at zero: {np.mean(hours):.1f} accelerator-hours of {DAY_S / 3600:.0f} a day, "
        f"{lost} requests lost, longest TTFT {max(longest):.0f} s (median of the days {np.median(longest):.0f} s), "
        f"waits explained to {worst:.1e} s"
    )


def main() -> None:
    """What was asked for, or both."""
    for part in sys.argv[1:] or ["speed", "zero"]:
        {"speed": speed, "zero": zero}[part]()


if __name__ == "__main__":
    main()
