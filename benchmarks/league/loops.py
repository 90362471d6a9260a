"""Closed loops of aiconfigurator's silicon samples, and vLLM's on a TPU v6e-8."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from autoscale.sim.engine.replicas import EngineParams
from benchmarks import published
from benchmarks.league.entries import Entry, Figures


def entries(shared: Path) -> Iterator[Entry]:
    """One per configuration, lengths and clients. DeepSeek-R1's were used for one constant, what a latent's layer takes."""
    columns = ["model_path", "system", "tp_size", "isl", "osl", "clients"]
    loops = published.rows(shared)
    tpu = published.vllm_rows(shared).query("source == 'v6e'")
    for table in (loops[loops["model_path"] != "deepseek-ai/DeepSeek-V3"], tpu):
        for row in table.drop_duplicates(columns).itertuples():
            name = f"{row.model_path.split('/')[1]} {row.system} TP{int(row.tp_size)} {row.isl}/{row.osl} x{row.clients}"
            measured = {"tpot_s": row.tpot_s}
            if (
                row.backend == "vllm" and row.source == "aiconfigurator"
            ):  # of the v6e no number of requests is known
                measured["ttft_mean_s"] = row.ttft_s
            family = f"closed loop, {row.backend} {row.model_path.split('/')[1]}"
            yield Entry(name, family, row.source, False, measured, partial(predict, row))


def predict(row: Any) -> Figures:
    """The loop, simulated."""
    params = EngineParams.from_profile(published.described(row.model_path, row.system, row.tp_size))
    tpot_s, ttft_s = published.measured_as(params, row)
    figures = {"tpot_s": tpot_s, "ttft_mean_s": ttft_s}
    return {name: value for name, value in figures.items() if math.isfinite(value)}
