"""How often the interval of "holds the SLO up to" holds the truth: servers of known step time that wander and have neighbours.

    python -m benchmarks.capacity_coverage FILE [--servers 20] [--stages 6,20,60]   one JSON line per server and length
    python -m benchmarks.capacity_coverage FILE --summary                           the table (asked: 92 to 98 %)

Each server (benchmarks.target_coverage.server) is measured by eight Poisson stages, from a fifth to 1.4 times a guess of its
capacity. Meanwhile its speed wanders (0, 3 or 10 %, a new value every 5, 15 or 60 s), and every second group of nine has a
neighbour that slows it by a fifth to three fifths for a third of the run. The SLO bounds TTFT, TPOT or both. From that run
alone `learn` says how much a replica takes; the truth is the undisturbed engine, simulated. What is in FILE already is not
measured again, so the work can be stopped and taken up.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis import run as runs
from analysis.slo import parse_slo
from autoscale.profiles import load
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.model.coefficients import scaled
from autoscale.recommend.model.learning import learn
from autoscale.recommend.model.limits import LIMITS
from autoscale.recommend.model.one_replica import capacity, roughly_holding_rps
from autoscale.recommend.model.replaying import Offered
from autoscale.sim.engine.replicas import replay
from benchmarks.target_coverage import SHARES, Server, rows_of, saturated, scrapes_of, server
from loadgen.plan import rates
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.traffic import LoadPlan, parse_arrivals

WANDERS = (0.0, 0.03, 0.10)
KEEPS_S = (5.0, 15.0, 60.0)  # a speed
PROFILE = load("llama-3.1-8b-1xl4")


def conditions(k: int) -> tuple[float, bool]:
    """The k-th server's wander, and whether it has a neighbour."""
    return WANDERS[(k // 3) % 3], (k // 9) % 2 == 1


def slo_of(truth: Server, k: int) -> str:
    """TTFT, TPOT or both in turn; the TPOT bound between that of one request and that of a crowded batch."""
    rng, engine = np.random.default_rng([k, 3]), truth.engine
    prompt, output = (parse_lengths(text).mean() for text in (truth.prompt, truth.output))
    tokens = min(engine.kv_tokens, engine.max_num_seqs * (prompt + output / 2))
    full_s, alone_s = engine.step_s(engine.max_num_seqs, tokens), engine.step_s(1, prompt)
    bound_s = alone_s + (full_s - alone_s) * rng.uniform(0.4, 1.3)
    bound_s += engine.per_prefill_token_s * prompt * rng.uniform(0.2, 0.6)
    tpot = f"tpot_p95={bound_s * 1000:.1f}ms"
    return (truth.slo, tpot, f"{truth.slo},{tpot}")[k % 3]


def paces(k: int, length_s: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """(s, how many times as long a step takes from then on) of the k-th server."""
    wander, neighbour = conditions(k)
    at_s = np.arange(0.0, length_s, float(rng.choice(KEEPS_S)))
    factors: NDArray[np.float64] = np.exp(wander * rng.standard_normal(len(at_s)))
    if not neighbour:
        return list(zip(at_s.tolist(), factors.tolist(), strict=True))
    from_s, slower = rng.uniform(0, 2 / 3) * length_s, rng.uniform(1.2, 1.6)
    edges = np.unique([*at_s, from_s, from_s + length_s / 3])
    own = factors[np.searchsorted(at_s, edges, side="right") - 1]
    there = (edges >= from_s) & (edges < from_s + length_s / 3)
    return list(zip(edges.tolist(), np.where(there, own * slower, own).tolist(), strict=True))


def measured(truth: Server, k: int, stage_s: float, slo: str, path: Path) -> runs.Run:
    """The run directory of the sweep."""
    rng = np.random.default_rng([k, 2, int(stage_s)])
    guess = saturated(truth.engine, truth.prompt, truth.output) * rng.uniform(0.85, 1.2)
    counts = [int(rng.poisson(share * guess * stage_s)) for share in SHARES]
    starts = np.repeat(stage_s * np.arange(len(SHARES)), counts)
    due_s = np.sort(starts + rng.uniform(0, stage_s, len(starts)))
    prompt, output = (parse_lengths(text).draw(rng, len(due_s)) for text in (truth.prompt, truth.output))
    length_s = stage_s * len(SHARES)
    times = np.arange(0.5, length_s + 30, 1.0)
    done, series = replay(
        truth.engine, Offered.at(due_s, prompt, output), times, pace=paces(k, length_s, rng)
    )
    stages = [
        {"stage": j, "start_s": j * stage_s, "end_s": (j + 1) * stage_s, "rate": share * guess}
        for j, share in enumerate(SHARES)
    ]
    runs.create(
        path,
        {
            "started_at": 1e9,
            "ended_at": 1e9 + float(done["last_token_s"].max()),
            "stages": stages,
            "slo": slo,
            "engine": {name: getattr(truth.engine, name) for name in LIMITS},
            "lengths": {"prompt_tokens": truth.prompt, "output_tokens": truth.output},
        },
    )
    rows = rows_of(done, due_s, (due_s // stage_s).astype(np.int64), 0.0)
    runs.write_table(path, "requests", rows.assign(request_id=np.arange(len(rows))))
    runs.write_table(path, "metrics", scrapes_of(series, times))
    return runs.read(path)


def truth_rps(truth: Server, slo: str) -> float:
    """The highest rate that the undisturbed server holds."""
    return capacity(scenario(truth, slo)).rate_rps


def steepness(truth: Server, slo: str) -> float:
    """By how many per cent that rate moves when every step takes 1 % longer or less."""
    asked = scenario(truth, slo)
    ends = [
        roughly_holding_rps(replace(asked, engine=scaled(truth.engine, factor))) for factor in (0.98, 1.02)
    ]
    return float(np.log(ends[0] / ends[1]) / np.log(1.02 / 0.98))


def scenario(truth: Server, slo: str) -> Scenario:
    """Its steady requests under the SLO."""
    plan = LoadPlan(
        rates.constant(1.0, 600.0),
        parse_arrivals("poisson"),
        parse_lengths(truth.prompt),
        parse_lengths(truth.output),
    )
    return Scenario(PROFILE, truth.engine, plan, parse_slo(slo))


def one(k: int, stage_s: float) -> dict[str, Any]:
    """What is said of one server, and the truth."""
    truth, began = server(k), time.process_time()
    slo, (wander, neighbour) = slo_of(truth, k), conditions(k)
    with tempfile.TemporaryDirectory() as folder:
        model = learn([measured(truth, k, stage_s, slo, Path(folder) / "run")], PROFILE, slo)
    said = model.capacities[0].capacity
    return {
        "k": k,
        "stage_s": stage_s,
        "wander": wander,
        "neighbour": neighbour,
        "slo": slo,
        "truth": truth_rps(truth, slo),
        "steepness": steepness(truth, slo),
        "value": said.value,
        "low": said.low,
        "high": said.high,
        "slowed": [[round(s.from_s), round(s.to_s), round(s.factor, 2)] for s in model.usual.merged()],
        "untrusted": bool(model.untrusted()),
        "cpu_s": round(time.process_time() - began, 1),
    }


def summary(path: Path) -> None:
    """Coverage, error and half width by length of a stage, and by what disturbed the server."""
    table = pd.read_json(path, lines=True)
    table["holds"] = (table["low"] <= table["truth"] * 1.002) & (table["high"] >= table["truth"] * 0.998)
    table["error"] = (table["value"] / table["truth"] - 1).abs()
    table["half_width"] = (table["high"] - table["low"]) / 2 / table["truth"]
    table["asks"] = np.where(table["slo"].str.contains("tpot"), "TPOT", "TTFT alone")
    for by in (["stage_s"], ["asks", "stage_s"], ["wander", "neighbour", "stage_s"]):
        print(
            table.groupby(by)
            .agg(
                servers=("k", "size"),
                holds=("holds", "mean"),
                median_error=("error", "median"),
                median_half_width=("half_width", "median"),
                median_steepness=("steepness", "median"),
            )
            .round(3)
            .to_string(),
            end="\n\n",
        )


def main() -> None:
    """Measure, or show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("--servers", type=int, default=20)
    parser.add_argument("--stages", default="6,20,60")
    parser.add_argument("--summary", action="store_true")
    asked = parser.parse_args()
    known = set()
    if asked.file.exists() and asked.file.stat().st_size:
        rows = pd.read_json(asked.file, lines=True)
        known = set(zip(rows["k"], rows["stage_s"].astype(float), strict=True))
    if not asked.summary:
        with asked.file.open("a") as out:
            for k in range(asked.servers):
                for stage_s in map(float, asked.stages.split(",")):
                    if (k, stage_s) not in known:
                        out.write(json.dumps(one(k, stage_s)) + "\n")
                        out.flush()
    summary(asked.file)


if __name__ == "__main__":
    main()
