"""TPOT that others measured on real accelerators, against the prior alone and against a step time fitted per configuration.

    python -m benchmarks.published         one line per configuration; needs the public data (AUTOSCALE_SHARED)

Each row is a closed loop of C clients with fixed lengths, and is simulated as such. Rows of disaggregated serving give
no concurrency, so there is nothing to simulate for them.
"""

import functools
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from autoscale.profiles import prior, profile
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.params import COEFFICIENTS
from autoscale.sim.engine.replicas import EngineParams, Replicas

MODELS: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.1-70B": {
        "params": 70.554e9,
        "layers": 80,
        "hidden": 8192,
        "embedding_rows": 128256,
        "weight_bytes": 70.6e9,
        "weight_dtype": "fp8",
        "kv_bytes_per_token": 327680,
        "kv_heads": 8,
    },
    "deepseek-ai/DeepSeek-R1": {
        "params": 671e9,
        "active_params": 37e9,
        "expert_share": 8 / 256,
        "layers": 61,
        "hidden": 7168,
        "embedding_rows": 129280,
        "attention_width": 20480,  # 128 heads x (192 of queries and keys + 128 of values) / 2
        "weight_bytes": 671e9,
        "weight_dtype": "fp8",
        "kv_bytes_per_token": 70272,
        "kv_heads": None,
    },
    "meta-llama/Meta-Llama-3-8B": {},
}
MODELS["deepseek-ai/DeepSeek-V3"] = MODELS["deepseek-ai/DeepSeek-R1"]
MODELS["meta-llama/Meta-Llama-3-70B"] = MODELS["meta-llama/Llama-3.1-70B"] | {
    "weight_bytes": 141.1e9,
    "weight_dtype": "bf16",
}
MODELS["meta-llama/Llama-2-70b-hf"] = MODELS["meta-llama/Meta-Llama-3-70B"] | {
    "params": 68.98e9,
    "embedding_rows": 32000,
    "weight_bytes": 137.96e9,
}
CHIPS: dict[str, dict[str, Any]] = {
    "h100_sxm": {"bandwidth_bytes_s": 3.35e12, "visible_gib": 79.19},
    "h200_sxm": {"bandwidth_bytes_s": 4.8e12, "visible_gib": 139.8},
    # Argonne's are of Polaris, which has the 40 GB kind: 1,555 GB/s (its rows of 70B run out of KV cache as 40 GB do)
    "a100_40gb": {
        "bandwidth_bytes_s": 1.555e12,
        "flops_s": {"bf16": 312e12},
        "visible_gib": 39.4,
        "link_bytes_s": 300e9,
    },
}
OLDER_OVERHEAD_GIB = (
    2.2  # Argonne's 70B on 4 x 40 GB runs 8,192 tokens at full speed and 16,384 at half of it
)
V6E = (
    (64, 0.02535, 0.251),
    (128, 0.03512, 0.512),
)  # clients, TPOT and TTFT in s: Llama 70B on v6e-8, 1000/1000 tokens
COLUMNS = [
    "source",
    "backend",
    "model_path",
    "system",
    "tp_size",
    "isl",
    "osl",
    "clients",
    "tpot_s",
    "ttft_s",
]


def rows(shared: Path) -> pd.DataFrame:
    """The measured closed loops whose concurrency is known: COLUMNS, with times in s."""
    table = pd.read_csv(shared / "calibration" / "aic_silicon_h100_h200.csv.gz")
    table = table[table["batch_size"].notna()]
    return table.assign(
        source="aiconfigurator",
        clients=table["batch_size"].astype(int),
        tpot_s=table["silicon_tpot_ms"] / 1e3,
        ttft_s=table["silicon_ttft_ms"] / 1e3,
    )[COLUMNS]


def batches(shared: Path) -> pd.DataFrame:
    """Argonne's batches of vLLM 0.6 or before that start together: COLUMNS, `tpot_s` the batch's time per output token.

    Those whose KV cache is too small for the whole batch are left out: they wait for blocks, not for steps.
    """
    table = pd.read_csv(shared / "calibration" / "argonne_h100_a100_llama.csv")
    table = table[table["Framework"] == "vLLM"]
    table = pd.DataFrame(
        {
            "source": "argonne",
            "backend": "vllm",
            "model_path": table["Model"],
            "system": np.where(table["Hardware"].str.contains("H100"), "h100_sxm", "a100_40gb"),
            "tp_size": table["Num of Hardware"],
            "isl": table["Input Output Length"],
            "osl": table["Input Output Length"],
            "clients": table["Batch Size"],
            "tpot_s": table["Latency"] / table["Input Output Length"],
            "ttft_s": math.nan,
        }
    )
    older = {"engine": {"memory_overhead_gib": OLDER_OVERHEAD_GIB}}
    held = [
        r.clients * (r.isl + r.osl)
        <= prior.kv_tokens(profile.overlay(described(r.model_path, r.system, r.tp_size), older))
        for r in table.itertuples()
    ]
    return table[held].reset_index(drop=True)


def vllm_rows(shared: Path) -> pd.DataFrame:
    """All closed loops and batches that vLLM served: COLUMNS."""
    loops = rows(shared)
    tpu = pd.DataFrame(
        [
            ("v6e", "vllm", "meta-llama/Meta-Llama-3-70B", "v6e", 8, 1000, 1000, clients, tpot_s, ttft_s)
            for clients, tpot_s, ttft_s in V6E
        ],
        columns=COLUMNS,
    )
    return pd.concat([loops[loops["backend"] == "vllm"], batches(shared), tpu], ignore_index=True).astype(
        {"tp_size": int}
    )


def described(model: str, system: str, ranks: int) -> Profile:
    """A profile of the measured configuration, with the engine's defaults for its chips."""
    if system == "v6e":
        return profile.load("llama-3.1-70b-v6e8")
    return profile.overlay(
        profile.load("llama-3.1-8b-1xh100"),
        {
            "model": {"id": model, **MODELS[model]},
            "accelerator": CHIPS[system],
            "replica": {"chips_per_node": int(ranks), "tensor_parallel": int(ranks)},
        },
    )


def closed_loop(params: EngineParams, clients: int, prompt: int, output: int) -> tuple[float, float]:
    """(mean TPOT, mean TTFT) in s of `clients` that send the next request as one ends, in the middle of three rounds.

    They start one after the other over the length of a request, as clients drift apart in a long run.
    """
    replica = Replicas(params, 1)
    replica.open(0, 0.0)
    whole_s = output * params.step_s(clients, clients * (prompt + output / 2), clients * prompt / output)
    look_s = whole_s / clients / 20  # a client is that late at most
    for k in range(clients):
        replica.submit(prompt, output, at_s=k * whole_s / clients)
    left, done = 2 * clients, []
    while math.isfinite(event_s := replica.next_event_s()):
        replica.advance(max(float(np.nextafter(event_s, math.inf)), replica.now_s + look_s))
        ended = replica.finished()
        done.append(ended)
        for _ in range(min(len(ended), left)):
            replica.submit(prompt, output)
        left -= min(len(ended), left)
    table = np.concatenate(done)
    table = table[(table["request_id"] >= clients) & (table["request_id"] < 2 * clients)]
    span = table["last_token_s"] - table["first_token_s"]
    return float(span.mean() / (output - 1)), float((table["first_token_s"] - table["due_s"]).mean())


def load_of(params: EngineParams, row: Any) -> tuple[Any, float]:
    """What COEFFICIENTS multiply in a mean step of the row, and the seconds of it that none of them moves."""
    tokens = row.isl + row.osl / 2
    sequences = min(row.clients, params.kv_tokens / tokens)
    prompts = sequences / row.osl  # that begin in a step

    def computed(batch: float, prefill: float) -> float:
        share = params.compute_share
        return (1 - share) * prefill + share * max(batch - params.ridge_tokens, 0.0)

    quiet = computed(sequences, 0)
    prefill = quiet + prompts * (computed(sequences + row.isl, row.isl) - quiet)
    woken = [1 - (1 - params.expert_share) ** batch for batch in (sequences, sequences + row.isl)]
    fixed_s = params.experts_s * (woken[0] + prompts * (woken[1] - woken[0]))
    fixed_s += params.per_prefill_pair_s * prompts * row.isl * (row.isl + 1) / 2
    return np.array([1.0, sequences, sequences * tokens, prefill]), fixed_s


def fitted(params: EngineParams, group: pd.DataFrame) -> EngineParams:
    """The parameters with non-negative least-squares COEFFICIENTS, in relative error, over the rows of a configuration."""
    tpot = group["tpot_s"].to_numpy()
    loads, fixed_s = map(np.array, zip(*(load_of(params, row) for row in group.itertuples()), strict=True))
    found = nnls(loads / tpot[:, None], np.maximum(1 - fixed_s / tpot, 0.0))[0]
    return replace(params, **dict(zip(COEFFICIENTS, map(float, found), strict=True)))


def errors(shared: Path) -> pd.DataFrame:
    """Every row with `prior`, `calibrated`: relative errors of the simulated TPOT."""
    parts = []
    simulated_tpot_s = functools.cache(
        lambda p, *loop: closed_loop(p, *loop)[0]
    )  # models served alike share rows
    for (model, system, ranks), group in rows(shared).groupby(["model_path", "system", "tp_size"]):
        prior = EngineParams.from_profile(described(model, system, int(ranks)))
        known = group.drop_duplicates(["isl", "osl", "clients"])
        calibrated = fitted(prior, known)
        for row in known.itertuples():
            simulated = {
                name: simulated_tpot_s(p, row.clients, row.isl, row.osl) / row.tpot_s - 1
                for name, p in (("prior", prior), ("calibrated", calibrated))
            }
            same = (group["isl"] == row.isl) & (group["osl"] == row.osl) & (group["clients"] == row.clients)
            parts.append(group[same].assign(**simulated))
    return pd.concat(parts)


def main() -> None:
    shared = Path(os.environ.get("AUTOSCALE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    table = errors(shared)
    size = (
        table[["prior", "calibrated"]]
        .abs()
        .assign(
            configuration=table["model_path"]
            + " "
            + table["system"]
            + " TP"
            + table["tp_size"].astype(int).astype(str)
        )
    )
    print(size.groupby("configuration").agg(["count", "median", "max"]).round(3).to_string())
    print(
        f"all {len(size)} rows: median |error| prior {size['prior'].median():.1%}, calibrated {size['calibrated'].median():.1%}"
    )
    v6e = EngineParams.from_profile(profile.load("llama-3.1-70b-v6e8"))
    for clients, tpot_s, ttft_s in V6E:
        tpot, ttft = closed_loop(v6e, clients, 1000, 1000)
        print(
            f"v6e-8 70B C={clients}: TPOT {tpot * 1e3:.1f} ms ({tpot / tpot_s - 1:+.1%}), TTFT {ttft:.2f} s (measured {ttft_s})"
        )


if __name__ == "__main__":
    main()
