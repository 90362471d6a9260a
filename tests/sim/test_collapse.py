"""A collapse that was measured on real accelerators comes out of the simulation, and is named.

llm-d/llm-d-autoscaling issue 1421 (July 2026): Qwen3-32B, prompts of 4,000 tokens, answers of 1,000, 20 requests/s for 600 s,
one to ten replicas by KEDA on the pool's saturation and the running requests, starts of 98 s. With flow control P99 TTFT
561 s at a mean KV usage of 11 %: one pod was full and the others idle; without it the pods were used (67 %).
"""

import math
from typing import Any

import numpy as np
import pytest

from autoscale.profiles.profile import load, overlay
from autoscale.sim.engine.gateway import InferenceGateway
from autoscale.sim.engine.params import EngineParams
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.fleet.outcome import Outcome
from autoscale.sim.fleet.simulate import simulate
from loadgen.plan.traffic import Arrivals

# two H100 per replica: weights of 65 GB read in 12 ms, 15,928 prompt tokens/s (llm-d's own figure), 300,000 tokens of KV
QWEN = EngineParams(
    0.012,
    1e-5,
    5e-8,
    1 / 15928,
    num_blocks=18751,
    max_num_seqs=256,
    max_num_batched_tokens=8192,
    async_scheduling=True,
)
# starts of 98 s: image 10, weights 60, engine 28
SYSTEM = overlay(
    load("llama-3.1-8b-1xh100"),
    {
        "cold_start": {
            "node": 0,
            "image": 10,
            "weights_rate_bytes_s": 16.06e9 / 60,
            "engine_init": 28,
            "compile": 0,
        }
    },
)
DURATION_S, CHAT_TEMPLATE = 600.0, 128  # tokens that all prompts begin with


def scaled_object() -> dict[str, Any]:
    triggers = [
        ("max(llm_d_epp_flow_control_pool_saturation)", "0.7"),
        ("sum(llm_d_epp_request_running)", "16"),
    ]
    deploy = SYSTEM.deploy
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "qwen"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": deploy.kind, "name": deploy.name},
            "minReplicaCount": 1,
            "maxReplicaCount": 10,
            "pollingInterval": 15,
            "triggers": [
                {
                    "type": "prometheus",
                    "metadata": {
                        "serverAddress": "http://prometheus",
                        "query": query,
                        "threshold": threshold,
                    },
                }
                for query, threshold in triggers
            ],
        },
    }


def measured(*, flow_control: bool, prefix: int = CHAT_TEMPLATE) -> tuple[Outcome, float, float]:
    """The outcome, and the mean and the largest KV usage over the pods once eight or more of them serve."""
    rng = np.random.default_rng(0)
    count = int(20 * DURATION_S)
    arrivals = Arrivals(
        np.sort(rng.uniform(0, DURATION_S, count)),
        np.full(count, 4000, np.int32),
        np.full(count, 1000, np.int32),
        np.full(count, prefix, np.int32),
        np.arange(count),
    )
    # the issue tells of no time to live and no full queue
    gateway = InferenceGateway(flow_control, lru_weight=2, ttl_s=math.inf, band_requests=20_000)
    outcome = simulate(
        SYSTEM,
        scaled_object(),
        [arrivals],
        seed=1,
        duration_s=DURATION_S,
        engine=QWEN,
        options=FleetOptions(gateway=gateway, tail_s=60),
        keep=True,
    )
    usage = [rows["kv_usage"] for at_s, rows, _ in outcome.samples if at_s < DURATION_S and len(rows) >= 8]
    return outcome, float(np.mean([u.mean() for u in usage])), float(np.mean([u.max() for u in usage]))


def test_flow_control_idles_a_pool_behind_one_full_pod_and_simulate_says_why():
    held, mean, largest = measured(flow_control=True)
    free, mean_free, _ = measured(flow_control=False)
    assert held.percentile("ttft", 99) > 500
    assert mean < 0.2  # 11 % measured
    assert largest > 0.7  # 95 % measured
    assert mean_free > 0.6  # 67 % measured
    assert held.peak_replicas == free.peak_replicas == 10
    assert held.ok < free.ok / 2
    account = held.held
    assert account is not None
    assert account.with_room > 0.6
    assert "one pod with up to" in account.cause
    assert "detector=concurrency" in account.cause
    assert free.held is not None
    assert free.held.cause == ""


def test_without_a_shared_beginning_the_pods_share_what_was_held():
    """The herd needs a tie-break: with prompts that have nothing in common, ties are drawn and the pool fills evenly."""
    apart, mean, _ = measured(flow_control=True, prefix=0)
    together, mean_together, _ = measured(flow_control=True)
    assert mean > 2 * mean_together
    assert apart.ok > 2 * together.ok


@pytest.mark.parametrize("flow_control", [True, False])
def test_every_request_is_accounted_for(flow_control: bool):
    outcome, _, _ = measured(flow_control=flow_control)
    assert outcome.offered == outcome.finished + outcome.unserved == 12_000
