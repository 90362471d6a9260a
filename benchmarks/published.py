"""TPOT that others measured on real accelerators, against the prior alone and against a step time fitted per configuration.

    python -m benchmarks.published         one line per configuration; needs the public data (AUTOSCALE_SHARED)

Each row is a closed loop of C clients, and is simulated as its client ran it: aiconfigurator's are InferenceMAX's, whose
client starts C requests at once, ten per client, with lengths of 0.8 to 1 times the stated ones. Rows of disaggregated
serving give no concurrency, so there is nothing to simulate for them.
"""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls

from autoscale.profiles import prior, profile
from autoscale.profiles.prior_error import ERRORS
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
ROW_ERROR, MOST_OFF = 0.02, 0.3  # of one measured TPOT; of a coefficient that a data sheet gives
SHORTEST, ROUNDS = 0.8, 10  # InferenceMAX: of the stated lengths, and requests per client
MEAN_LENGTH = (1 + SHORTEST) / 2
COLUMNS = [
    "source",
    "backend",
    "model_path",
    "system",
    "tp_size",
    "isl",
    "osl",
    "prompt",
    "output",
    "clients",
    "tpot_s",
    "ttft_s",
]


def rows(shared: Path) -> pd.DataFrame:
    """The measured closed loops whose concurrency is known: COLUMNS, times in s, `prompt` and `output` mean tokens."""
    table = pd.read_csv(shared / "calibration" / "aic_silicon_h100_h200.csv.gz")
    table = table[table["batch_size"].notna()]
    return table.assign(
        source="aiconfigurator",
        prompt=MEAN_LENGTH * table["isl"],
        output=MEAN_LENGTH * table["osl"],
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
            "prompt": table["Input Output Length"],
            "output": table["Input Output Length"],
            "clients": table["Batch Size"],
            "tpot_s": table["Latency"] / table["Input Output Length"],
            "ttft_s": math.nan,
        }
    )
    older = {"engine": {"memory_overhead_gib": OLDER_OVERHEAD_GIB}}
    held = [
        not waits_for_blocks(
            r, prior.kv_tokens(profile.overlay(described(r.model_path, r.system, r.tp_size), older))
        )
        for r in table.itertuples()
    ]
    return table[held].reset_index(drop=True)


def waits_for_blocks(row: Any, kv_tokens: int) -> bool:
    """Whether a KV cache of so many tokens cannot hold the row's requests all at once, at their mean lengths."""
    return bool(row.clients * (row.prompt + row.output) > kv_tokens)


def vllm_rows(shared: Path) -> pd.DataFrame:
    """All closed loops and batches that vLLM served: COLUMNS."""
    loops = rows(shared)
    tpu = pd.DataFrame(
        [
            ("v6e", "vllm", "meta-llama/Meta-Llama-3-70B", "v6e", 8, *[1000] * 4, clients, tpot_s, ttft_s)
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


def measured_as(params: EngineParams, row: Any) -> tuple[float, float]:
    """(mean TPOT, mean TTFT) in s of the row's closed loop, run as its source ran it."""
    if row.source != "aiconfigurator":
        return closed_loop(params, row.clients, row.isl, row.osl)
    rng, count = np.random.default_rng(0), ROUNDS * row.clients
    prompt, output = (rng.integers(int(SHORTEST * n), n + 1, count) for n in (row.isl, row.osl))
    return _means(_served(params, prompt, output, np.zeros(row.clients)))


def closed_loop(params: EngineParams, clients: int, prompt: int, output: int) -> tuple[float, float]:
    """(mean TPOT, mean TTFT) in s of `clients` that send the next request as one ends, in the middle of three rounds.

    They start one after the other over the length of a request, as clients drift apart in a long run.
    """
    whole_s = output * params.step_s(clients, clients * (prompt + output / 2), clients * prompt / output)
    prompts, outputs = np.full(3 * clients, prompt), np.full(3 * clients, output)
    table = _served(params, prompts, outputs, np.arange(clients) * whole_s / clients)
    return _means(table[(table["request_id"] >= clients) & (table["request_id"] < 2 * clients)])


def _served(params: EngineParams, prompt: Any, output: Any, starts_s: Any) -> NDArray[Any]:
    """The finished requests of as many clients as there are starts: each sends the next request as one ends."""
    replica, clients = Replicas(params, 1), len(starts_s)
    replica.open(0, 0.0)
    longest = params.step_s(clients, clients * float(prompt.mean() + output.mean() / 2))
    look_s = float(output.mean()) * longest / clients / 20  # a client is that late at most
    for at_s, tokens, answer in zip(starts_s, prompt, output, strict=False):
        replica.submit(int(tokens), int(answer), at_s=float(at_s))
    sent, done = clients, []
    while math.isfinite(event_s := replica.next_event_s()):
        replica.advance(max(float(np.nextafter(event_s, math.inf)), replica.now_s + look_s))
        ended = replica.finished()
        done.append(ended)
        for k in range(sent, min(sent + len(ended), len(prompt))):
            replica.submit(int(prompt[k]), int(output[k]))
        sent += len(ended)
    return np.concatenate(done)


def _means(table: NDArray[Any]) -> tuple[float, float]:
    span = (table["last_token_s"] - table["first_token_s"]) / (table["output_tokens"] - 1)
    return float(span.mean()), float((table["first_token_s"] - table["due_s"]).mean())


def load_of(params: EngineParams, row: Any) -> tuple[Any, float]:
    """What COEFFICIENTS multiply in a mean step of the row, and the seconds of it that none of them moves."""
    tokens = row.prompt + row.output / 2
    sequences = min(row.clients, params.kv_tokens / tokens)
    prompts = sequences / row.output  # that begin in a step

    def computed(batch: float, prefill: float) -> float:
        share = params.compute_share
        return (1 - share) * prefill + share * max(batch - params.ridge_tokens, 0.0)

    quiet = computed(sequences, 0)
    prefill = quiet + prompts * (computed(sequences + row.prompt, row.prompt) - quiet)
    woken = [1 - (1 - params.expert_share) ** batch for batch in (sequences, sequences + row.prompt)]
    fixed_s = params.experts_s * (woken[0] + prompts * (woken[1] - woken[0]))
    long = [batch >= params.long_reduce_tokens for batch in (sequences, sequences + row.prompt)]
    fixed_s += params.long_reduce_s * (long[0] + prompts * (long[1] - long[0]))
    fixed_s += params.per_prefill_pair_s * prompts * row.prompt * (row.prompt + 1) / 2
    return np.array([1.0, sequences, sequences * tokens, prefill]), fixed_s


def fitted(params: EngineParams, group: pd.DataFrame) -> EngineParams:
    """The parameters with the COEFFICIENTS that fit the rows of a configuration best that do not wait for blocks, in
    relative error.

    Each is also held near the prior's, as far as it alone would explain the prior's error on models it was not fitted on:
    rows of few lengths leave open what is a sequence's and what its tokens'.
    """
    held = [not waits_for_blocks(row, params.kv_tokens) for row in group.itertuples()]
    group = group[held]
    tpot, known = group["tpot_s"].to_numpy(), np.array([getattr(params, name) for name in COEFFICIENTS])
    loads, fixed_s = map(np.array, zip(*(load_of(params, row) for row in group.itertuples()), strict=True))
    off = ERRORS["experts" if params.experts_s > 0 else "dense"].step.half_width_95 / 1.960
    spread = np.minimum(off / (loads * known / tpot[:, None]).mean(axis=0), MOST_OFF)
    rows = np.vstack([loads / tpot[:, None] / ROW_ERROR, np.diag(1 / known / spread)])
    aims = np.concatenate([np.maximum(1 - fixed_s / tpot, 0.0) / ROW_ERROR, 1 / spread])
    return replace(params, **dict(zip(COEFFICIENTS, map(float, nnls(rows, aims)[0]), strict=True)))


def errors(shared: Path) -> pd.DataFrame:
    """Every row with `prior`, `calibrated`, `left_out`: relative errors of the simulated TPOT.

    `left_out`: calibrated on the rows of the configuration's other lengths.
    """
    parts = []
    for (model, system, ranks), group in rows(shared).groupby(["model_path", "system", "tp_size"]):
        if model == "deepseek-ai/DeepSeek-V3":
            continue  # the rows of R1 again
        prior = EngineParams.from_profile(described(model, system, int(ranks)))
        known = group.drop_duplicates(["isl", "osl", "clients"])
        calibrated = fitted(prior, known)
        for row in known.itertuples():
            others = known[(known["isl"] != row.isl) | (known["osl"] != row.osl)]
            engines = {"prior": prior, "calibrated": calibrated, "left_out": fitted(prior, others)}
            simulated = {name: measured_as(p, row)[0] / row.tpot_s - 1 for name, p in engines.items()}
            parts.append(pd.DataFrame([row]).assign(**simulated))
    return pd.concat(parts)


def main() -> None:
    shared = Path(os.environ.get("AUTOSCALE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    table = errors(shared)
    columns = ["prior", "calibrated", "left_out"]
    names = table["model_path"] + " " + table["system"] + " TP" + table["tp_size"].astype(int).astype(str)
    size = table[columns].abs().assign(configuration=names)
    print(size.groupby("configuration").agg(["count", "median", "max"]).round(3).to_string())
    medians = ", ".join(f"{name} {size[name].median():.1%}" for name in columns)
    print(f"all {len(size)} rows: median |error| {medians}")
    v6e = EngineParams.from_profile(profile.load("llama-3.1-70b-v6e8"))
    for clients, tpot_s, ttft_s in V6E:
        tpot, ttft = closed_loop(v6e, clients, 1000, 1000)
        print(
            f"v6e-8 70B C={clients}: TPOT {tpot * 1e3:.1f} ms ({tpot / tpot_s - 1:+.1%}), TTFT {ttft:.2f} s (measured {ttft_s})"
        )


if __name__ == "__main__":
    main()
