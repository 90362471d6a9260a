"""Fits the prior's constants to published runs of vLLM, and prints what they miss where they were not fitted.

    python -m benchmarks.prior_fit          needs the public data (AUTOSCALE_SHARED)

Rows are closed loops (aiconfigurator, v6e-8) and batches that start together (Argonne). One set of constants serves all
models and chips, each near what is physically expected (EXPECTED); a configuration counts as FIVE rows however many it
has. Argonne's engine is older (vLLM 0.6 or before: the host schedules while the chip waits, attention is FlashAttention 2):
how fast it reads the cache, and what it takes per step, per sequence and to send a batch to several ranks, is fitted apart and
part of no profile. Loops whose KV cache is too small for all their clients are simulated like the others, but not fitted: what they
wait for is blocks. Leave one out: the constants are fitted without a
model (or a chip), and every row of it is then simulated. Mixtures of experts are in no vLLM row that gives a concurrency;
their curve has no constant, and the latent's layer is fitted to DeepSeek-R1 under SGLang with all else held.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from autoscale.profiles import prior
from autoscale.profiles.prior import Constants
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.replicas import EngineParams, Replicas
from benchmarks import published

EXPECTED: dict[str, tuple[float, float]] = {  # value and spread
    "weight_bandwidth": (0.85, 0.04),  # aiconfigurator takes 0.8, microbenchmarks of copies reach 0.9
    "cache_bandwidth": (0.85, 0.08),
    "bf16_compute": (0.65, 0.1),  # large matrix products reach 0.6 to 0.75
    "fp8_compute": (0.55, 0.1),
    "link_bandwidth": (0.67, 0.18),  # NCCL's ring reaches 0.5 to 0.85
    # 0.5 to 4 MiB on 2, 4 and 8 H100 in a CUDA graph take 7.9, 11.6 and 10.2 us more per MiB: 0.30, 0.30, 0.40
    # (aiconfigurator @67f90e72, custom_allreduce_perf of vLLM 0.20)
    "batch_link_bandwidth": (0.33, 0.05),
    "step_s": (0.5e-3, 0.4e-3),  # sampling and copies; the host's work is hidden by asynchronous scheduling
    "sequence_s": (5e-6, 5e-6),  # logits and sampling; the rest is hidden
    "layer_s": (28e-6, 6e-6),  # ten kernels of at least 3 us (aiconfigurator's constant latency)
    "quantized_layer_s": (12e-6, 6e-6),  # four more: the inputs of four products turned into FP8
    "hop_s": (5e-6, 1.5e-6),
    "long_reduce_s": (5e-6, 3e-6),  # one more round
    "activation_passes": (
        12.0,
        4.0,
    ),  # two norms with residuals, four products and attention read and write it
    "request_s": (10e-3, 5e-3),  # HTTP and tokens in and out, outside the step
    "older_step_s": (1.5e-3, 0.8e-3),
    "older_ranks_s": (1.5e-3, 1e-3),  # to send the batch to the other processes
    "older_sequence_s": (40e-6, 20e-6),
    "older_cache_bandwidth": (0.7, 0.1),
}
# the older engine's, as `fitted` finds them
OLDER = replace(prior.FITTED, step_s=1223e-6, sequence_s=56.45e-6, cache_bandwidth=0.5817)
OLDER_RANKS_S = 1702e-6
ERROR, TTFT_ERROR = 0.04, 0.08  # of one row
QUIET = 8  # clients that do not queue
FIVE = 5


@dataclass(frozen=True)
class Fit:
    """Constants of today's engine and of the older one, which takes `older_ranks_s` more per step with several ranks.

    `request_s` is what stands in a profile as request_overhead_s.
    """

    constants: Constants
    request_s: float
    older: Constants
    older_ranks_s: float


def engine_of(row: Any, served: Profile, fit: Fit) -> EngineParams:
    """The row's engine by these constants."""
    params = EngineParams.from_profile(served)
    older = row.source == "argonne"
    step = prior.step_time(served, fit.older if older else fit.constants).model_dump()
    if older and row.tp_size > 1:
        step["base_s"] += fit.older_ranks_s
    return replace(params, **step, request_overhead_s=fit.request_s)


def mean_tpot_s(params: EngineParams, row: Any) -> float:
    """Seconds per output token, from mean batches: what the fit compares; the report simulates instead."""
    budget, held = params.max_num_batched_tokens, row.prompt + row.output / 2
    if row.source == "argonne":
        clients = row.clients
        steps = -(-clients * row.prompt // budget)
        one_s = params.step_s(clients / steps, clients * row.prompt / steps / 2, clients * row.prompt / steps)
        # step_s takes the prompt tokens of a step for one prompt; here they are of several short ones
        one_s -= (
            params.per_prefill_pair_s * clients * row.prompt / steps * (clients / steps - 1) * row.prompt / 2
        )
        return float(
            (steps * one_s + (row.output - 1) * params.step_s(clients, clients * 1.5 * row.prompt))
            / row.output
        )
    sequences = min(row.clients, params.kv_tokens / held)
    quiet_s = params.step_s(sequences, sequences * held)
    return float(
        quiet_s + sequences / row.output * (params.step_s(sequences, sequences * held, row.prompt) - quiet_s)
    )


def mean_ttft_s(params: EngineParams, row: Any) -> float:
    """Seconds to the first token where nobody queues: the steps that are under way, then the prompt's own."""
    sequences = row.clients
    kv = sequences * (row.prompt + row.output / 2)
    quiet_s = params.step_s(sequences - 1, kv)
    chunk = min(row.prompt, params.max_num_batched_tokens - sequences + 1)
    under_way = 1.5 if params.async_scheduling else 0.5
    rest = 1 if chunk < row.prompt else 0
    prompt_s = params.step_s(sequences, kv, row.prompt) + rest * quiet_s
    return float(params.request_overhead_s + under_way * quiet_s + prompt_s)


def fitted(table: pd.DataFrame, served: Sequence[Profile]) -> Fit:
    """The constants nearest to the rows and to what is expected of them; of rows that do not wait for blocks."""
    held = [
        not published.waits_for_blocks(row, prior.kv_tokens(p))
        for row, p in zip(table.itertuples(), served, strict=True)
    ]
    table, served = table[held], [p for p, one in zip(served, held, strict=True) if one]
    expected, spread = np.array(list(EXPECTED.values())).T
    shape = ["source", "model_path", "system", "tp_size"]
    weight = np.sqrt(FIVE / table.groupby(shape)["tpot_s"].transform("size").to_numpy())
    rows = list(table.itertuples())
    later = [_later(row, profile, _fit(expected)) for row, profile in zip(rows, served, strict=True)]

    def misses(z: NDArray[np.float64]) -> NDArray[np.float64]:
        fit = _fit(expected + spread * z)
        tpot, ttft = [], []
        for row, profile, heavy, factor in zip(rows, served, weight, later, strict=True):
            params = engine_of(row, profile, fit)
            tpot.append(heavy / ERROR * np.log(mean_tpot_s(params, row) / row.tpot_s))
            if np.isfinite(factor):
                ttft.append(heavy / TTFT_ERROR * np.log(factor * mean_ttft_s(params, row) / row.ttft_s))
        far = np.array([*tpot, *ttft])
        return np.concatenate([np.sqrt(2 * (np.sqrt(1 + far**2) - 1)), z])  # absolute beyond one error

    least = (0.02 * expected - expected) / spread
    found = least_squares(
        misses, np.zeros(len(expected)), bounds=(least, np.full(len(expected), 6.0)), ftol=1e-5
    )
    return _fit(expected + spread * found.x)


def _later(row: Any, served: Profile, fit: Fit) -> float:
    """By which factor the loop's mean TTFT is above that where nobody queues, as its clients start at once; NaN with many."""
    if row.clients > QUIET or not np.isfinite(row.ttft_s):
        return math.nan
    params = engine_of(row, served, fit)
    return published.measured_as(params, row)[1] / mean_ttft_s(params, row)


def _fit(values: NDArray[np.float64]) -> Fit:
    named = dict(zip(EXPECTED, map(float, values), strict=True))
    ranks_s, request_s = named.pop("older_ranks_s"), named.pop("request_s")
    older = {name: named.pop(f"older_{name}") for name in ("step_s", "sequence_s", "cache_bandwidth")}
    constants = Constants(**named, latent_layer_s=prior.FITTED.latent_layer_s)
    return Fit(constants, request_s, replace(constants, **older), ranks_s)


def simulated(params: EngineParams, row: Any) -> tuple[float, float]:
    """(TPOT, TTFT) of the row in s, simulated as it was measured; a batch has no TTFT."""
    if row.source != "argonne":
        return published.measured_as(params, row)
    replica = Replicas(replace(params, request_overhead_s=0.0), 1)
    replica.open(0, 0.0)
    for _ in range(row.clients):
        replica.submit(row.isl, row.osl, at_s=0.0)
    replica.advance(1e9)
    return float(replica.finished()["last_token_s"].max() / row.osl), np.nan


def left_out(table: pd.DataFrame, served: Sequence[Profile], column: str) -> pd.DataFrame:
    """The table with `tpot_error` and `ttft_error` by constants that were fitted without the row's `column`."""
    parts = []
    for value in sorted(table[column].unique()):
        out = (table[column] == value).to_numpy()
        fit = fitted(table[~out], [p for p, gone in zip(served, out, strict=True) if not gone])
        parts.append(missed(table[out], [p for p, gone in zip(served, out, strict=True) if gone], fit))
    return pd.concat(parts)


def missed(table: pd.DataFrame, served: Sequence[Profile], fit: Fit) -> pd.DataFrame:
    """The table with the relative errors `tpot_error` and `ttft_error` of its simulation."""
    answers = np.array(
        [simulated(engine_of(r, p, fit), r) for r, p in zip(table.itertuples(), served, strict=True)]
    )
    return table.assign(
        tpot_error=answers[:, 0] / table["tpot_s"] - 1, ttft_error=answers[:, 1] / table["ttft_s"] - 1
    )


def latent_layer_s(shared: Path, constants: Constants) -> float:
    """What a layer with a latent takes more, in s: the median over DeepSeek-R1's rows under SGLang."""
    table = published.rows(shared)
    table = table[table["backend"] == "sglang"].drop_duplicates(["isl", "osl", "clients"])
    bare = replace(constants, latent_layer_s=0.0)
    without = Fit(bare, 0.0, bare, 0.0)
    left = []
    for row in table.itertuples():
        served = published.described(row.model_path, row.system, row.tp_size)
        left.append((row.tpot_s - mean_tpot_s(engine_of(row, served, without), row)) / served.model.layers)
    return float(np.median(left))


def _line(name: str, errors: pd.Series[float]) -> str:
    size = errors.abs().dropna()
    return f"{name:<44}{len(size):>5}{size.median():>9.1%}{size.quantile(0.9):>9.1%}{size.max():>9.1%}{errors.mean():>+9.1%}"


def _report(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title:<44} rows   median      p90    worst     bias")
    shape = ["model_path", "system", "tp_size"]
    for names, group in table.groupby(shape):
        print(_line(f"{names[0].split('/')[1]} {names[1]} TP{names[2]}", group["tpot_error"]))
    print(_line("TPOT, all", table["tpot_error"]))
    print(_line("  engines of today", table.loc[table["source"] != "argonne", "tpot_error"]))
    print(_line("TTFT, at most 8 clients", table.loc[table["clients"] <= QUIET, "ttft_error"]))
    print(_line("TTFT, more, from burst to burst", table.loc[table["clients"] > QUIET, "ttft_error"]))
    worst = table.loc[table["tpot_error"].abs().idxmax()]
    print(
        f"worst: {worst['model_path']} {worst['system']} TP{worst['tp_size']}, {worst['isl']}/{worst['osl']} tokens,"
        f" {worst['clients']} clients: {worst['tpot_error']:+.1%}"
    )


def main() -> None:
    shared = Path(os.environ.get("AUTOSCALE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    table = published.vllm_rows(shared)
    served = [published.described(r.model_path, r.system, r.tp_size) for r in table.itertuples()]
    fit = fitted(table, served)
    for name, value in asdict(fit.constants).items():
        print(f"{name:<22}{value:.4g}")
    print(f"{'request_s':<22}{fit.request_s:.4g}")
    print(f"latent_layer_s, fitted {latent_layer_s(shared, fit.constants):.4g}")
    older = (fit.older.step_s, fit.older_ranks_s, fit.older.sequence_s, fit.older.cache_bandwidth)
    print("the older engine's step, with ranks, sequence, cache:", *(f"{value:.4g}" for value in older))
    _report("fitted on all", missed(table, served, fit))
    _report("without the model", left_out(table, served, "model_path"))
    _report("without the chip", left_out(table, served, "system"))


if __name__ == "__main__":
    main()
