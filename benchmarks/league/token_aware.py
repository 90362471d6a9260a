"""KEDA on tokens in flight: llm-d's token-aware guide (September 2026), from its text and its load's files.

Qwen3-32B, two H100 per replica, vLLM 0.30, one to four replicas by the seconds of prompts that are not computed yet (1.5 per
replica, at 15,470 tokens/s: what they measured) and the KV usage (0.8 per replica), one more per 180 s; beside it one standing
replica. Open loop, 1,200 s (random_*.yaml of llm-d-benchmark; the two lower rates follow from the requests sent). A KV cache of
350,208 tokens and steps of 8,192 are in the text. Not in it: the time of a start (that of their sibling runs is taken, 98 s) and
most sequences at once (256). The guide's scorer by tokens is not simulated; the usual scorers route instead.
Its second topology, prefill apart from decode, is not simulated either.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autoscale.profiles import profile
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.gateway import InferenceGateway
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.fleet.simulate import simulate
from benchmarks.league import autoscaled
from benchmarks.league.entries import Entry, Figures
from loadgen.plan.traffic import Arrivals

SOURCE = "llm-d, keda-epp-token-aware @560d420e"
DURATION_S, TIMEOUT_S = 1200.0, 600.0
TOKENS_S = 15_470  # of prompts that one replica computes, as they calibrated it (15,375 to 15,569)
RUNS = (  # prompt, output, requests, autoscaled, TTFT p50 and p99 in s, most replicas
    (8192, 256, 2316, True, 0.62, 43.8, 3),
    (8192, 256, 2316, False, 225.0, 470.0, 1),
    (2048, 2048, 1248, True, 0.20, 0.43, 1),
    (2048, 2048, 1248, False, 0.21, 0.41, 1),
    (256, 4096, 624, True, 0.09, 0.13, 1),
    (256, 4096, 624, False, 0.09, 0.13, 1),
)
TRIGGERS = (
    (
        f'(sum(llm_d_epp_inflight_tokens{{producer_name="inflight-load-producer"}}) / {TOKENS_S}) or vector(0)',
        "1.5",
    ),
    ("sum(vllm:kv_cache_usage_perc) or vector(0)", "0.8"),
)
BEHAVIOR = {
    "scaleUp": {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 180}],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}],
    },
}


def entries(shared: Path) -> Iterator[Entry]:
    """One per shape, scaled and standing; nothing of the public data is needed."""
    del shared
    for prompt, output, requests, scaled, p50_s, p99_s, replicas in RUNS:
        name = f"Qwen3-32B {prompt}/{output} {requests / DURATION_S:.2f}/s, {'by tokens in flight' if scaled else 'one replica'}"
        measured = {"ttft_p50_s": p50_s, "ttft_p99_s": p99_s}
        if scaled:
            measured["most_replicas"] = float(replicas)
        family = "autoscaled, KEDA on tokens" if scaled else "open loop, Qwen3-32B"
        yield Entry(
            name, family, SOURCE, True, measured, partial(predict, prompt, output, requests, scaled=scaled)
        )


def system() -> Profile:
    """One replica, as the sibling runs' but for what this text says."""
    engine = {"kv_tokens": 350_208, "max_num_batched_tokens": 8192}
    return profile.overlay(autoscaled.system(), {"engine": engine})


def scaled_object(served: Profile) -> dict[str, Any]:
    """The guide's ScaledObject, at most four replicas."""
    found = autoscaled.scaled_object(served, TRIGGERS)
    found["spec"] |= {
        "maxReplicaCount": 4,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": BEHAVIOR}},
    }
    return found


def predict(prompt: int, output: int, requests: int, *, scaled: bool) -> Figures:
    """The run, simulated."""
    served, due_s = system(), np.random.default_rng(0).uniform(0, DURATION_S, requests)
    lengths = (np.full(requests, tokens, np.int32) for tokens in (prompt, output, 0))
    outcome = simulate(
        served,
        scaled_object(served) if scaled else None,
        [Arrivals(np.sort(due_s), *lengths, np.arange(requests))],
        seed=1,
        duration_s=DURATION_S,
        static_replicas=None if scaled else 1,
        options=FleetOptions(
            gateway=InferenceGateway(flow_control=False, lru_weight=2),
            patience_s=TIMEOUT_S,
            tail_s=TIMEOUT_S,
        ),
        keep=True,
    )
    return {
        "ttft_p50_s": outcome.percentile("ttft", 50),
        "ttft_p99_s": outcome.percentile("ttft", 99),
        "most_replicas": float(max(row[2] for row in outcome.replicas)),
    }
