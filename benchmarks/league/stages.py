"""Ten open-loop stages of vLLM on H100, from the public results that BLIS was trained on; nothing of ours was fitted on them.

Their client counts an answer's tokens in its text, where special tokens are missing: 194 of 247 for Llama 2 7B, none at all
for some answers. The server generated what was asked (`ignore_eos`, `output_len` of the runs' config.yaml): the
simulated answers are as long, and the time per token is (mean E2E - mean TTFT) / (asked - 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autoscale.profiles import profile
from autoscale.sim.engine.replicas import EngineParams
from benchmarks.league.entries import Entry, Figures, poisson, served

SOURCE = "inference-sim/training, default_args"
MODELS: dict[str, dict[str, Any]] = {
    "llama-2-7b": {
        "params": 6.738e9,
        "layers": 32,
        "hidden": 4096,
        "embedding_rows": 32000,
        "weight_bytes": 13.48e9,
        "kv_bytes_per_token": 524288,
        "kv_heads": 32,
    },
    "mixtral-8x7b-v0-1": {
        "params": 46.703e9,
        "active_params": 12.88e9,
        "expert_share": 2 / 8,
        "layers": 32,
        "hidden": 4096,
        "embedding_rows": 32000,
        "weight_bytes": 93.41e9,
        "kv_bytes_per_token": 131072,
        "kv_heads": 8,
    },
}
ASKED = {"codegen": 247, "general": 248, "roleplay": 251}  # tokens of an answer, by the workload
STAGE_S = 600
PROMPTS = 100  # that repeat: the first stage finds none of them in the prefix cache
CACHED = 0.97  # of a prompt that came before


def entries(shared: Path) -> Iterator[Entry]:
    """One per stage."""
    table = pd.read_csv(shared / "calibration" / "h100_vllm_stages.csv", comment="#")
    for row in table.itertuples():
        decoding_s = row.e2e_mean_s - row.ttft_mean_ms / 1e3
        measured = {
            "tpot_s": decoding_s / (asked(row) - 1),
            "e2e_mean_s": row.e2e_mean_s,
            "ttft_mean_s": row.ttft_mean_ms / 1e3,
            "ttft_p99_s": row.ttft_p99_ms / 1e3,
        }
        name = f"{row.configuration} {row.rate_rps:g}/s"
        yield Entry(name, "open loop, cached prompts", SOURCE, True, measured, partial(predict, row))


def asked(row: Any) -> int:
    """Tokens of each answer, as the server generated them."""
    return ASKED[row.configuration.rpartition("-")[2]]


def predict(row: Any) -> Figures:
    """The stage, simulated. Asynchronous scheduling is vLLM's default since 0.14 (January 2026); these ran a month later."""
    model, _, rest = row.configuration.partition("-tp")
    ranks = int(rest[0])
    system = profile.overlay(
        profile.load("llama-3.1-8b-1xh100"),
        {
            "model": {"id": model, **MODELS[model]},
            "replica": {"chips_per_node": ranks, "tensor_parallel": ranks},
            "engine": {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "async_scheduling": True},
        },
    )
    count = int(row.rate_rps * STAGE_S)
    seen = np.arange(count) >= (PROMPTS if row.stage == 0 else 0)
    prompt = np.full(count, row.prompt_tokens)
    load = poisson(row.rate_rps, prompt, np.full(count, asked(row)), (CACHED * prompt * seen).astype(int))
    done = served(EngineParams.from_profile(system), load)
    return {
        "tpot_s": float((done["e2e_s"].mean() - done["ttft_s"].mean()) / (asked(row) - 1)),
        "e2e_mean_s": float(done["e2e_s"].mean()),
        "ttft_mean_s": float(done["ttft_s"].mean()),
        "ttft_p99_s": float(done["ttft_s"].quantile(0.99)),
    }
