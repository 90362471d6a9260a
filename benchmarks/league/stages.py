"""Ten open-loop stages of vLLM on H100, from the public results that BLIS was trained on; nothing of ours was fitted on them.

    python -m benchmarks.league.stages      errors by the tokens that were generated, and by those that the table counts

Their client counts an answer's tokens in its text, where special tokens are missing: 194 of 247 for Llama 2 7B, none at all
for some answers. The server generated what was asked (`ignore_eos`, `output_len` of the runs' config.yaml), which its own
stream shows: (mean E2E - mean TTFT) / mean gap between two events of a stream is 495 to 497 in the results of 7B at 5 and
20/s and of Mixtral at 5/s, two events for each of 247 or 248 tokens and one at the end. So simulated answers are as long as
asked, and the time per token is (mean E2E - mean TTFT) / (asked - 1).
"""

from __future__ import annotations

import os
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
    for row in rows(shared):
        name = f"{row.configuration} {row.rate_rps:g}/s"
        yield Entry(
            name, "open loop, cached prompts", SOURCE, True, measured(row, asked(row)), partial(predict, row)
        )


def rows(shared: Path) -> list[Any]:
    """The table's."""
    return list(pd.read_csv(shared / "calibration" / "h100_vllm_stages.csv", comment="#").itertuples())


def measured(row: Any, tokens: int) -> Figures:
    """What the stage's client saw, of answers of so many tokens."""
    ttft_s = row.ttft_mean_ms / 1e3
    return {
        "tpot_s": (row.e2e_mean_s - ttft_s) / (tokens - 1),
        "e2e_mean_s": row.e2e_mean_s,
        "ttft_mean_s": ttft_s,
        "ttft_p99_s": row.ttft_p99_ms / 1e3,
    }


def asked(row: Any) -> int:
    """Tokens of each answer, as the server generated them."""
    return ASKED[row.configuration.rpartition("-")[2]]


def predict(row: Any, tokens: int | None = None) -> Figures:
    """The stage, simulated, with answers of so many tokens (None: as asked).

    Asynchronous scheduling is vLLM's default since 0.14 (January 2026); these ran a month later. The client's `constant`
    load draws exponential gaps and scales them to the stage's length (inference-perf, loadgen/load_timer.py).
    """
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
    tokens = asked(row) if tokens is None else tokens
    load = poisson(row.rate_rps, prompt, np.full(count, tokens), (CACHED * prompt * seen).astype(int))
    load = load._replace(due_s=load.due_s * STAGE_S / load.due_s[-1])
    done = served(EngineParams.from_profile(system), load)
    return {
        "tpot_s": float((done["e2e_s"].mean() - done["ttft_s"].mean()) / (tokens - 1)),
        "e2e_mean_s": float(done["e2e_s"].mean()),
        "ttft_mean_s": float(done["ttft_s"].mean()),
        "ttft_p99_s": float(done["ttft_s"].quantile(0.99)),
    }


def errors(shared: Path, counted: bool) -> pd.DataFrame:
    """Relative errors, one line per stage; `counted`: with answers as long as the table counts them."""
    lines = {}
    for row in rows(shared):
        tokens = int(row.output_tokens) if counted else asked(row)
        seen, said = measured(row, tokens), predict(row, tokens)
        lines[f"{row.configuration} {row.rate_rps:g}/s"] = {k: said[k] / seen[k] - 1 for k in seen}
    return pd.DataFrame(lines).T


def main() -> None:
    shared = Path(os.environ.get("AUTOSCALE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    for counted, title in ((False, "answers as generated"), (True, "answers as the table counts them")):
        table = errors(shared, counted)
        print(f"\n{title}", table.round(3).to_string(), sep="\n")
        print("median |error|", table.abs().median().round(3).to_dict())


if __name__ == "__main__":
    main()
