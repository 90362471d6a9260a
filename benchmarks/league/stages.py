"""Ten open-loop stages of vLLM on H100, from the public results that BLIS was trained on; nothing of ours was fitted on them."""

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
STAGE_S = 600
PROMPTS = 100  # that repeat: the first stage finds none of them in the prefix cache
CACHED = 0.97  # of a prompt that came before


def entries(shared: Path) -> Iterator[Entry]:
    """One per stage."""
    table = pd.read_csv(shared / "calibration" / "h100_vllm_stages.csv", comment="#")
    for row in table.itertuples():
        measured = {
            "tpot_s": row.tpot_ms / 1e3,
            "e2e_mean_s": row.e2e_mean_s,
            "ttft_mean_s": row.ttft_mean_ms / 1e3,
            "ttft_p99_s": row.ttft_p99_ms / 1e3,
        }
        name = f"{row.configuration} {row.rate_rps:g}/s"
        yield Entry(name, "open loop, cached prompts", SOURCE, True, measured, partial(predict, row))


def predict(row: Any) -> Figures:
    """The stage, simulated."""
    model, _, rest = row.configuration.partition("-tp")
    ranks = int(rest[0])
    system = profile.overlay(
        profile.load("llama-3.1-8b-1xh100"),
        {
            "model": {"id": model, **MODELS[model]},
            "replica": {"chips_per_node": ranks, "tensor_parallel": ranks},
            "engine": {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "async_scheduling": False},
        },
    )
    count = int(row.rate_rps * STAGE_S)
    seen = np.arange(count) >= (PROMPTS if row.stage == 0 else 0)
    prompt = np.full(count, row.prompt_tokens)
    load = poisson(
        row.rate_rps, prompt, np.full(count, row.output_tokens), (CACHED * prompt * seen).astype(int)
    )
    done = served(EngineParams.from_profile(system), load)
    return {
        "tpot_s": float((done["e2e_s"].mean() - done["ttft_s"].mean()) / (row.output_tokens - 1)),
        "e2e_mean_s": float(done["e2e_s"].mean()),
        "ttft_mean_s": float(done["ttft_s"].mean()),
        "ttft_p99_s": float(done["ttft_s"].quantile(0.99)),
    }
