"""Llama 3.1 405B under an open load: dstack's on 8 x H100 (vLLM 0.6.3, FP8), DataCrunch's on 8 x H200 (SGLang)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autoscale.profiles import prior, profile
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.replicas import EngineParams
from benchmarks.league.entries import Entry, Figures, poisson, served
from benchmarks.prior_fit import OLDER, OLDER_RANKS_S
from benchmarks.published import CHIPS

DSTACK, DATACRUNCH = "dstackai/benchmarks @06c957ab", "datacrunch-research/h200-benchmarks @c091ef53"


def entries(shared: Path) -> Iterator[Entry]:
    """dstack's three rates of ShareGPT, and DataCrunch's rates of random lengths that its replica held."""
    for file in sorted((shared / "calibration").glob("dstack_405b_fp8_8xh100_*qps_requests.json.gz")):
        with gzip.open(file) as content:
            run = json.load(content)
        measured = {
            "tpot_s": _tpot_s(run["itls"]),
            "ttft_p50_s": run["median_ttft_ms"] / 1e3,
            "rate_rps": run["request_throughput"],
        }
        name = f"405B FP8 8xH100 vLLM 0.6.3 ShareGPT {run['request_rate']:g}/s"
        yield Entry(name, "open loop, 405B", DSTACK, True, measured, partial(sharegpt, run))
    lines = (
        (shared / "calibration" / "datacrunch_h200_llama405b_sglang_online.jsonl").read_text().splitlines()
    )
    for run in map(json.loads, lines):
        if run["dataset_name"] == "random" and run["request_rate"] <= 2:
            tokens = run["total_output_tokens"] / run["completed"] - 1
            measured = {
                "tpot_s": (run["mean_e2e_latency_ms"] - run["median_ttft_ms"]) / 1e3 / tokens,
                "e2e_mean_s": run["mean_e2e_latency_ms"] / 1e3,
                "ttft_p50_s": run["median_ttft_ms"] / 1e3,
            }
            name = f"405B BF16 8xH200 SGLang 1 to 1024 tokens {run['request_rate']:g}/s"
            yield Entry(name, "open loop, 405B", DATACRUNCH, True, measured, partial(random_lengths, run))


def _tpot_s(gaps: list[list[float]]) -> float:
    """Mean over all tokens but the first, in s."""
    return float(np.mean(np.concatenate([np.array(one) for one in gaps])))


def _system(chip: str, weight_bytes: float, dtype: str, engine: dict[str, Any]) -> Profile:
    return profile.overlay(
        profile.load("llama-3.1-405b-2x8h100"),
        {
            "model": {"weight_bytes": weight_bytes, "weight_dtype": dtype},
            "accelerator": CHIPS[chip],
            "replica": {"nodes": 1, "pipeline_parallel": 1},
            "engine": engine,
        },
    )


def sharegpt(run: dict[str, Any]) -> Figures:
    """dstack's requests with the lengths that it recorded; 512 seats and batched tokens, as it served.

    vLLM 0.6.3 is the older engine, whose constants are fitted on Argonne's runs.
    """
    system = _system("h100_sxm", 487.6e9, "fp8", {"max_num_seqs": 512, "max_num_batched_tokens": 512})
    lengths = [np.maximum(np.array(run[name]), 1) for name in ("input_lens", "output_lens")]
    load = poisson(run["request_rate"], *lengths, np.zeros(len(lengths[0])))
    step = prior.step_time(system, OLDER).model_dump()
    step["base_s"] += OLDER_RANKS_S
    done = served(replace(EngineParams.from_profile(system), **step, async_scheduling=False), load)
    tokens = (done["output_tokens"] - 1).sum()
    return {
        "tpot_s": float((done["e2e_s"] - done["ttft_s"]).sum() / tokens),
        "ttft_p50_s": float(done["ttft_s"].median()),
        "rate_rps": len(done) / float((done["due_s"] + done["e2e_s"]).max()),
    }


def random_lengths(run: dict[str, Any]) -> Figures:
    """DataCrunch's requests; its precision is not stated: BF16, which the intervals between tokens suggest."""
    system = _system("h200_sxm", 811.7e9, "bf16", {})
    rng, count = np.random.default_rng(2), run["completed"]
    lengths = [rng.integers(1, run[name] + 1, count) for name in ("random_input_len", "random_output_len")]
    load = poisson(run["request_rate"], *lengths, np.zeros(count))
    done = served(EngineParams.from_profile(system), load)
    tokens = (done["output_tokens"] - 1).sum()
    return {
        "tpot_s": float((done["e2e_s"] - done["ttft_s"]).sum() / tokens),
        "e2e_mean_s": float(done["e2e_s"].mean()),
        "ttft_p50_s": float(done["ttft_s"].median()),
    }
