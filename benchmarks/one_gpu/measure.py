"""Load on the real server with the project's own tools, and what the run says per stage."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import run as runs
from analysis.errors import SourceUnavailable
from analysis.opened import OpenedRun, open_run
from autoscale.observe.collect import collect
from autoscale.recommend.model.coefficients import scaled
from autoscale.recommend.model.replaying import replayed, source_of, stage_figures
from autoscale.sim.engine.replicas import EngineParams

ROOT = Path(__file__).parent.parent.parent
PIECE_S = 20  # stages alternate in pieces, so that a machine's wander is none of a rate
FIGURES = ("ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s", "running", "waiting")


def sweep(
    out: Path,
    url: str,
    prometheus: str,
    lengths: tuple[str, str],
    slo: str,
    rates_rps: list[float],
    each_s: float,
) -> Path:
    """A run directory of open-loop stages at these rates, each `each_s` long, several in pieces, with the server's metrics."""
    stages = ",".join(f"{rate:.3g}:{each_s:.0f}" for rate in rates_rps)
    turns = ["--interleave", f"{PIECE_S}s"] if len(rates_rps) > 1 else []
    return _load(out, url, prometheus, lengths, slo, ["--stages", stages, *turns])


def closed(
    out: Path, url: str, prometheus: str, lengths: tuple[str, str], slo: str, users: int, each_s: float
) -> Path:
    """A run directory of `users` that each send the next request when the last has ended, with the server's metrics."""
    return _load(out, url, prometheus, lengths, slo, closed_loop(users, each_s))


def closed_loop(users: int, each_s: float) -> list[str]:
    """Options of a load by so many users, all there from the start."""
    return ["--users", str(users), "--spawn-rate", str(users), "--run-time", f"{each_s:.0f}s"]


def _load(
    out: Path, url: str, prometheus: str, lengths: tuple[str, str], slo: str, options: list[str]
) -> Path:
    offered(out, url, lengths, slo, options)
    collect(out, prometheus=prometheus)
    return out


def offered(out: Path, url: str, lengths: tuple[str, str], slo: str, options: list[str]) -> Path:
    """A run directory of what the load client saw. Raises SourceUnavailable when it ended early."""
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadgen" / "completions.py"), "--headless"]
    command += ["--only-summary", "--host", url, "--prompt-tokens", lengths[0], "--output-tokens", lengths[1]]
    command += ["--slo", slo, "--run-dir", str(out), *options]
    with out.with_suffix(".log").open("wb") as log:
        ended = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if ended.returncode not in (0, 1):  # 1: some requests failed, which the run tells
        raise SourceUnavailable(
            "the load test ended early", value=ended.returncode, next_step=f"see {log.name}"
        )
    return out


def throughput_rps(run: Path) -> float:
    """Requests completed per second, from the first second's completions on, past the first third of the run."""
    table = open_run(run).table
    if table is None or not table["ok"].any():
        raise SourceUnavailable("the server answered nothing", value=str(run), next_step="see vllm.log")
    done_s = np.sort(table.loc[table["ok"], "last_token_s"].to_numpy())
    late = done_s[done_s >= done_s[-1] / 3]
    return float((len(late) - 1) / (late[-1] - late[0]))


def slowness(run: Path, engine: EngineParams) -> float:
    """How many times as long the engine's steps must take for its replay of the run to have the run's median TPOT."""
    source = source_of(runs.read(run), set(), None)
    tpot_s = _median_tpot_s(stage_figures(source.rows, None, source.windows))
    low, high = 0.05, 20.0
    for _ in range(12):
        factor = math.sqrt(low * high)
        modelled = _median_tpot_s(replayed(scaled(engine, factor), source).figures)
        low, high = (factor, high) if modelled < tpot_s else (low, factor)
    return math.sqrt(low * high)


def _median_tpot_s(figures: pd.DataFrame) -> float:
    return float(figures["tpot_p50_s"].mean())


def per_rate(run: Path) -> pd.DataFrame:
    """What was measured, a row per rate: rate_rps, the FIGURES, how late the client sent (p95, s) and the requests."""
    opened = open_run(run)
    rows: dict[float, list[int]] = {}
    for stage in opened.run.header["stages"]:
        rows.setdefault(round(float(stage["rate"]), 3), []).append(int(stage["stage"]))
    return pd.DataFrame(
        [{"rate_rps": rate, **_figures(opened, stages)} for rate, stages in sorted(rows.items())]
    )


def _figures(opened: OpenedRun, stages: list[int]) -> Mapping[str, float]:
    assert opened.table is not None
    table = opened.table[opened.table["stage"].isin(stages) & opened.table["ok"]]
    found = {
        f"{metric}_p{at}_s": float(table[f"{metric}_s"].quantile(at / 100))
        for metric in ("ttft", "tpot")
        for at in (50, 95)
    }
    spans = [(start_s, end_s) for stage, start_s, end_s, _ in opened.stages if stage in stages]
    if opened.gauges is not None:
        at_s = opened.gauges["time_s"].to_numpy()
        within = np.zeros(len(at_s), bool)
        for start_s, end_s in spans:
            within |= (at_s >= start_s) & (at_s < end_s)
        found |= {
            signal: float(opened.gauges.loc[within, signal].mean()) for signal in ("running", "waiting")
        }
    late_s = float((table["sent_s"] - table["due_s"]).quantile(0.95))
    return found | {"late_p95_s": late_s, "requests": float(len(table))}
