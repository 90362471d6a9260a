"""Closed loops of KEDA on real accelerators: llm-d/llm-d-autoscaling issue 1421 (July 2026), from its text.

Qwen3-32B, 20 requests/s for 600 s, one to ten replicas by the pool's saturation (0.7) and the running requests (16), polled
every 15 s, pods that start in 98 s, the optimized baseline's scorers, with and without flow control. Not in the text: the
accelerators (two H100 per replica are taken, as in the project's guides), vLLM's version, the limit on requests in flight of the
client (in a sibling run, pull request 1230, 511 of 682 requests of 12,000 were in flight at the end; an open load is simulated),
and what the prompts share (128 tokens of a chat template are taken).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autoscale.profiles import profile
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.gateway import InferenceGateway
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.fleet.simulate import simulate
from benchmarks.league.entries import Entry, Figures
from loadgen.plan.traffic import Arrivals

SOURCE = "llm-d-autoscaling 1421"
DURATION_S, RATE_RPS, SHARED_TOKENS = 600.0, 20, 128
RUNS = (  # prompt, output, flow control, and the means of three runs: TTFT p99 in s, replicas, KV usage
    (4000, 1000, True, 561.092, 7.09, 0.113),
    (1000, 4000, False, 450.374, 7.30, 0.334),
    (1000, 4000, True, 448.524, 7.41, 0.77),
)
TRIGGERS = (
    ("max(llm_d_epp_flow_control_pool_saturation)", "0.7"),
    ("sum(llm_d_epp_request_running)", "16"),
)


def entries(shared: Path) -> Iterator[Entry]:
    """One per workload, with and without flow control; nothing of the public data is needed."""
    del shared
    for prompt, output, held, ttft_s, replicas, usage in RUNS:
        name = f"Qwen3-32B {prompt}/{output} {RATE_RPS}/s KEDA, {'with' if held else 'without'} flow control"
        measured = {"ttft_p99_s": ttft_s, "replicas": replicas, "kv_usage": usage}
        yield Entry(
            name,
            "autoscaled, KEDA",
            SOURCE,
            True,
            measured,
            partial(predict, prompt, output, flow_control=held),
        )


def system() -> Profile:
    """One replica, from data sheets and the model's config; a start of 98 s."""
    return profile.overlay(
        profile.load("llama-3.1-8b-1xh100"),
        {
            "model": {
                "id": "Qwen/Qwen3-32B",
                "params": 32.76e9,
                "layers": 64,
                "hidden": 5120,
                "embedding_rows": 151936,
                "attention_width": 8192,
                "weight_bytes": 65.52e9,
                "kv_bytes_per_token": 262144,
                "kv_heads": 8,
            },
            "replica": {"chips_per_node": 2, "tensor_parallel": 2},
            "engine": {"max_num_seqs": 256},
            "cold_start": {
                "node": 0,
                "image": 10,
                "weights_rate_bytes_s": 65.52e9 / 60,
                "engine_init": 28,
                "compile": 0,
            },
        },
    )


def scaled_object(served: Profile, queries: Sequence[tuple[str, str]] = TRIGGERS) -> dict[str, Any]:
    """The ScaledObject that the text describes, or one of other (query, threshold)."""
    triggers = [
        {
            "type": "prometheus",
            "metadata": {"serverAddress": "http://prometheus", "query": query, "threshold": threshold},
        }
        for query, threshold in queries
    ]
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "qwen"},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": served.deploy.kind,
                "name": served.deploy.name,
            },
            "minReplicaCount": 1,
            "maxReplicaCount": 10,
            "pollingInterval": 15,
            "triggers": triggers,
        },
    }


def predict(prompt: int, output: int, *, flow_control: bool) -> Figures:
    """The loop, simulated; replicas and KV usage are means over the 600 s."""
    count, served = int(RATE_RPS * DURATION_S), system()
    arrivals = Arrivals(
        np.sort(np.random.default_rng(0).uniform(0, DURATION_S, count)),
        *(np.full(count, tokens, np.int32) for tokens in (prompt, output, SHARED_TOKENS)),
        np.arange(count),
    )
    gateway = InferenceGateway(flow_control, lru_weight=2, ttl_s=math.inf, band_requests=count)
    outcome = simulate(
        served,
        scaled_object(served),
        [arrivals],
        seed=1,
        duration_s=DURATION_S,
        options=FleetOptions(gateway=gateway, tail_s=60),
        keep=True,
    )
    changes = [row for row in outcome.replicas if row[0] < DURATION_S]
    until_s = [*(row[0] for row in changes[1:]), DURATION_S]
    created = sum((end - row[0]) * row[2] for row, end in zip(changes, until_s, strict=True)) / DURATION_S
    usage = [rows["kv_usage"].mean() for at_s, rows, _ in outcome.samples if at_s < DURATION_S and len(rows)]
    return {
        "ttft_p99_s": outcome.percentile("ttft", 99),
        "replicas": float(created),
        "kv_usage": float(np.mean(usage)),
    }
