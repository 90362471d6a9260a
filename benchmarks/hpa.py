"""Cost of one HPA decision: a week is 40,320 of them, and they should cost about a second in total.

Run: python -m benchmarks.hpa
"""

import random
import time

from autoscale.hpa import HpaBehavior, HpaSpec, Memory, MetricTarget, PodMetric, Policy, ScalingRules, decide

SYNCS_PER_WEEK = 7 * 24 * 3600 // 15
SYNCS = 10_000
BEHAVIOR = HpaBehavior(
    ScalingRules(0, "Max", (Policy("Pods", 4, 15), Policy("Percent", 100, 15))),
    ScalingRules(300, "Max", (Policy("Percent", 100, 15),)),
)


def decision_us(pods: int, metrics: int, behavior: HpaBehavior | None) -> float:
    """CPU time of one decision in microseconds, building the PodMetric rows not included."""
    targets = tuple(MetricTarget(f"m{i}", "Pods", 5000) for i in range(metrics))
    spec = HpaSpec("h", "default", "apps/v1", "Deployment", "d", 1, pods, targets, behavior)
    draw = random.Random(0)
    readings = [
        {
            t.name: [PodMetric(f"p-{i}", value_milli=draw.randrange(10_000)) for i in range(pods)]
            for t in targets
        }
        for _ in range(500)
    ]
    memory: Memory | None = None
    replicas = pods
    start = time.process_time()
    for i in range(SYNCS):
        decision = decide(spec, memory, replicas, readings[i % 500], 15.0 * i)
        memory, replicas = decision.memory, decision.replicas
    return (time.process_time() - start) / SYNCS * 1e6


def main() -> None:
    print(f"{'pods':>4} {'metrics':>7} {'behavior':>8} {'us/decision':>11} {'s/week':>7}")
    for pods in (1, 8, 16):
        for metrics in (1, 2):
            for behavior in (None, BEHAVIOR):
                cost_us = decision_us(pods, metrics, behavior)
                named = "yes" if behavior else "no"
                print(
                    f"{pods:>4} {metrics:>7} {named:>8} {cost_us:>11.1f} {cost_us * SYNCS_PER_WEEK / 1e6:>7.2f}"
                )


if __name__ == "__main__":
    main()
