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

from autoscale.profiles import profile
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.replicas import EngineParams, Replicas

MODELS: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.1-70B": {
        "params": 70.554e9,
        "layers": 80,
        "hidden": 8192,
        "weight_bytes": 70.6e9,
        "weight_dtype": "fp8",
        "kv_bytes_per_token": 327680,
        "kv_heads": 8,
    },
    "deepseek-ai/DeepSeek-R1": {
        "params": 671e9,
        "active_params": 37e9,
        "layers": 61,
        "hidden": 7168,
        "weight_bytes": 671e9,
        "weight_dtype": "fp8",
        "kv_bytes_per_token": 70272,
        "kv_heads": None,
    },
}
MODELS["deepseek-ai/DeepSeek-V3"] = MODELS["deepseek-ai/DeepSeek-R1"]
CHIPS: dict[str, dict[str, Any]] = {
    "h100_sxm": {"bandwidth_bytes_s": 3.35e12, "visible_gib": 79.19},
    "h200_sxm": {"bandwidth_bytes_s": 4.8e12, "visible_gib": 139.8},
}


def rows(shared: Path) -> pd.DataFrame:
    """The measured rows whose concurrency is known: model_path, system, tp_size, isl, osl, clients, tpot_s, ttft_s."""
    table = pd.read_csv(shared / "calibration" / "aic_silicon_h100_h200.csv.gz")
    table = table[table["batch_size"].notna()]
    return table.assign(
        clients=table["batch_size"].astype(int),
        tpot_s=table["silicon_tpot_ms"] / 1e3,
        ttft_s=table["silicon_ttft_ms"] / 1e3,
    )


def described(model: str, system: str, ranks: int) -> Profile:
    """A profile of the measured configuration, with the engine's defaults for its chips."""
    return profile.overlay(
        profile.load("llama-3.1-8b-1xh100"),
        {
            "model": {"id": model, **MODELS[model]},
            "accelerator": CHIPS[system],
            "replica": {"chips_per_node": ranks, "tensor_parallel": ranks},
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


def load_of(params: EngineParams, row: Any) -> Any:
    """(1, sequences, KV tokens, prefill tokens) of a mean step of the row: what the step time's terms multiply."""
    tokens = row.isl + row.osl / 2
    sequences = min(row.clients, params.kv_tokens / tokens)
    return np.array([1.0, sequences, sequences * tokens, sequences * row.isl / row.osl])


def fitted(params: EngineParams, group: pd.DataFrame) -> EngineParams:
    """The parameters with a non-negative least-squares step time, in relative error, over the rows of a configuration."""
    tpot = group["tpot_s"].to_numpy()
    loads = np.array([load_of(params, row) for row in group.itertuples()])
    base, sequence, kv, prefill = map(float, nnls(loads / tpot[:, None], np.ones(len(tpot)))[0])
    return replace(
        params, base_s=base, per_sequence_s=sequence, per_kv_token_s=kv, per_prefill_token_s=prefill
    )


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
    shared = Path(os.environ.get("AUTOSCALE_SHARED", Path(__file__).parents[2] / "shared"))
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
    for clients, tpot_s, ttft_s in ((64, 0.02535, 0.251), (128, 0.03512, 0.512)):
        tpot, ttft = closed_loop(v6e, clients, 1000, 1000)
        print(
            f"v6e-8 70B C={clients}: TPOT {tpot * 1e3:.1f} ms ({tpot / tpot_s - 1:+.1%}), TTFT {ttft:.2f} s (measured {ttft_s})"
        )


if __name__ == "__main__":
    main()
