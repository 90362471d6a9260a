"""How often the intervals hold the truth: servers of known step time, measured by a noisy 10-minute sweep.

    python -m benchmarks.target_coverage FILE [--servers 200] [--part I/N]     measure, one JSON line per server in FILE
    python -m benchmarks.target_coverage FILE --summary                        the table (asked: 92 to 98 %)

Each server is an engine with drawn step times, seats, KV cache and lengths. Eight Poisson stages of 75 s, from a fifth to
1.4 times a guess of its capacity, are served by it while its speed wanders (3 % from stage to stage). From that run alone
the engine is fitted and a setting recommended for an hour of a day in bursts; then the true engine is asked, over fresh
seeds: does the setting hold, and which target of its line is the cheapest that does?

    target             the interval holds the best target of the true engine, or one that costs no more than 2 % above it
    target, strictly   the interval holds the best target itself
    capacity           the model's interval holds the saturated throughput of the true engine
    other lengths      the same for requests of three times the prompt and half the output tokens

The search is the one that answers users, and the truth is held to the same promise over as many days that nothing was
chosen on. A server that is in FILE already is not measured again, so the work can be stopped and taken up.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis import run as runs
from analysis.errors import AutoscaleError
from analysis.slo import parse_slo
from autoscale.profiles import Profile, load, overlay
from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.judging import shown_over
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.settings import Candidate
from autoscale.recommend.choice.space import build_space
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.model.coefficients import scaled
from autoscale.recommend.model.learning import learn
from autoscale.recommend.model.limits import LIMITS
from autoscale.recommend.model.one_replica import capacity
from autoscale.recommend.model.replaying import Offered, full_batch
from autoscale.sim.engine.replicas import EngineParams, replay
from benchmarks.recommend import programme
from loadgen.plan import lengths
from loadgen.plan.traffic import LoadPlan, parse_arrivals

STAGE_S, PAUSE_S = 75.0, 5.0
SHARES = (0.2, 0.4, 0.6, 0.75, 0.9, 1.0, 1.15, 1.4)  # of the guessed capacity
WANDER = 0.03
HOURS, PEAK = 1.0, 3.0
FRESH = range(20_001, 20_001 + CHOOSING.own_at_least)


@dataclass(frozen=True)
class Server:
    """The truth: an engine, and what is asked of it."""

    engine: EngineParams
    prompt: str
    output: str
    slo: str
    cold_s: float


def server(k: int) -> Server:
    """The k-th synthetic server."""
    rng = np.random.default_rng([k, 1])
    base_s = float(rng.uniform(0.01, 0.04))
    prompt, output = int(rng.integers(50, 400)), int(rng.integers(40, 160))
    seats = int(rng.integers(8, 40))
    room = rng.uniform(0.7, 1.5)  # KV cache in multiples of what a full batch holds
    engine = EngineParams(
        base_s=base_s,
        per_sequence_s=float(base_s * rng.uniform(0.1, 0.6) / seats),
        per_kv_token_s=float(base_s * rng.uniform(0.05, 0.4) / (seats * (prompt + output / 2))),
        per_prefill_token_s=float(rng.uniform(0.3, 1.5) * 1e-4),
        num_blocks=int(room * seats * (prompt + output) / 16) + 40,
        max_num_seqs=seats,
        max_num_batched_tokens=1024,
        request_overhead_s=float(rng.uniform(0.002, 0.02)),
    )
    alone_s = engine.request_overhead_s + 1.5 * base_s + prompt * engine.per_prefill_token_s
    slo = f"ttft_p95={(alone_s + rng.uniform(0.5, 3)) * 1000:.0f}ms"

    def spread(mean: int) -> str:
        return f"uniform:{round(0.6 * mean)},{round(1.4 * mean)}"

    return Server(engine, spread(prompt), spread(output), slo, float(rng.uniform(60, 300)))


def measured(truth: Server, k: int, path: Path) -> runs.Run:
    """The run directory of the sweep."""
    rng = np.random.default_rng([k, 2])
    guess = saturated(truth.engine, truth.prompt, truth.output) * rng.uniform(0.85, 1.2)
    tables, scrapes, stages, start_s = [], [], [], 0.0
    for stage, share in enumerate(SHARES):
        count = rng.poisson(share * guess * STAGE_S)
        due_s = np.sort(rng.uniform(0, STAGE_S, count))
        slower = math.exp(WANDER * rng.standard_normal())
        engine = scaled(truth.engine, slower)
        sizes = (
            lengths.parse_lengths(truth.prompt).draw(rng, count),
            lengths.parse_lengths(truth.output).draw(rng, count),
        )
        done, _ = replay(engine, Offered.at(due_s, *sizes))
        end_s = max(STAGE_S, float(done["last_token_s"].max())) + PAUSE_S
        times = np.arange(0.5, end_s, 1.0)
        series = replay(engine, Offered.at(due_s, *sizes), times)[1]
        tables.append(rows_of(done, due_s, stage, start_s))
        scrapes.append(scrapes_of(series, times + start_s))
        stages.append({"stage": stage, "start_s": start_s, "end_s": start_s + STAGE_S, "rate": share * guess})
        start_s += end_s
    runs.create(
        path,
        {
            "started_at": 1e9,
            "ended_at": 1e9 + start_s,
            "stages": stages,
            "engine": {name: getattr(truth.engine, name) for name in LIMITS},
            "lengths": {"prompt_tokens": truth.prompt, "output_tokens": truth.output},
        },
    )
    rows = pd.concat(tables, ignore_index=True)
    runs.write_table(path, "requests", rows.assign(request_id=np.arange(len(rows))))
    runs.write_table(path, "metrics", pd.concat(scrapes, ignore_index=True))
    return runs.read(path)


def rows_of(
    done: NDArray[Any], due_s: NDArray[np.float64], stage: int | NDArray[np.int64], start_s: float
) -> pd.DataFrame:
    """Requests that were all answered, due `start_s` later than their engine was offered them."""
    return pd.DataFrame(
        {
            "stage": stage,
            "due_s": due_s + start_s,
            "sent_s": due_s + start_s,
            "first_token_s": done["first_token_s"] + start_s,
            "last_token_s": done["last_token_s"] + start_s,
            "prompt_tokens": done["prompt_tokens"],
            "output_tokens": done["output_tokens"],
            "status": "ok",
        }
    )


def scrapes_of(series: NDArray[Any], times: NDArray[np.float64]) -> pd.DataFrame:
    """An engine's gauges as a run holds them."""
    names = ("waiting", "running", "kv_usage", "preemptions_total")
    return pd.DataFrame({"time_s": times, "pod": "a", "engine": "0", **{n: series[n] for n in names}})


def saturated(engine: EngineParams, prompt: str, output: str) -> float:
    """Requests/s of a full batch of these lengths."""
    rng = np.random.default_rng(5)
    return full_batch(engine, *(lengths.parse_lengths(text).draw(rng, 4000) for text in (prompt, output)))[0]


def scenario(truth: Server, profile: Profile, engine: EngineParams, top_rps: float) -> Scenario:
    """Two hours of a day in bursts with this peak, served by this engine."""
    plan = LoadPlan(
        programme("day", top_rps, 15, HOURS),
        parse_arrivals("gamma:2"),
        lengths.parse_lengths(truth.prompt),
        lengths.parse_lengths(truth.output),
    )
    return Scenario(profile, engine, plan, parse_slo(truth.slo))


def judge(k: int) -> dict[str, Any]:
    """One server: measured, recommended for, and held against the truth."""
    truth = server(k)
    profile = load("llama-3.1-8b-1xl4")
    phases = dict.fromkeys(("node", "image", "group_join", "compile"), 0)
    weights = profile.model.weight_bytes / (0.5 * truth.cold_s)
    cold = {**phases, "engine_init": 0.5 * truth.cold_s, "weights_rate_bytes_s": weights}
    profile = overlay(profile, {"cold_start": cold})
    top_rps = PEAK * saturated(truth.engine, truth.prompt, truth.output)
    with tempfile.TemporaryDirectory() as folder:
        learned = learn([measured(truth, k, Path(folder) / "run")], profile, truth.slo)
    row: dict[str, Any] = {
        "server": k,
        "error": learned.median_error(),
        **_capacities(truth, learned),
    }
    prompt, output = (lengths.parse_lengths(text).mean() for text in (truth.prompt, truth.output))
    low, high = learned.spread_at(prompt, output)
    fitted = scenario(truth, profile, learned.engine, top_rps)
    found = choose_setting(fitted, step_scale=(high - low) / 2, jobs=1)
    row |= {"answer": found.answer, "scale": (high - low) / 2}
    if found.answer != "autoscale" or found.best_hpa is None:
        return row
    setting = found.best_hpa.setting  # which is what was chosen
    signal, value = setting.targets[-1]
    row |= {
        "signal": signal,
        "target": value,
        "interval": found.interval.ends[signal],
        "setting": setting.label,
    }
    return row | _best(
        scenario(truth, profile, truth.engine, top_rps), setting, found.static, row["interval"]
    )


def _capacities(truth: Server, learned: Any) -> dict[str, Any]:
    other = tuple(
        f"uniform:{round(a * factor)},{round(b * factor)}"
        for text, factor in ((truth.prompt, 3), (truth.output, 0.5))
        for a, b in [map(int, text.split(":")[1].split(","))]
    )
    row = {}
    for name, shape in (("capacity", (truth.prompt, truth.output)), ("other lengths", other)):
        low, high = learned.spread_at(*(lengths.parse_lengths(text).mean() for text in shape))
        row[name] = {
            "truth": saturated(truth.engine, *shape),
            "value": (value := saturated(learned.engine, *shape)),
            "low": value * low,
            "high": value * high,
        }
    return row


def _best(true: Scenario, setting: Candidate, static: Any, interval: tuple[float, float]) -> dict[str, Any]:
    """The cheapest target of the setting's line that holds under the truth over fresh seeds, and those as good."""
    point = capacity(true)
    standing = static.setting.replicas if static else setting.max_replicas
    space = build_space(true, point, standing, setting.max_replicas)
    signal, value = setting.targets[-1]
    known = {v for v in space.targets[signal] if 0.6 * interval[0] <= v <= 1.6 * interval[1]} | {value}
    ladder = [replace(setting, targets=(*setting.targets[:-1], (signal, v))) for v in sorted(known)]
    judged = dict(zip(sorted(known), shown_over(true.keeping(), ladder, FRESH), strict=True))
    holding = {v: j.cost for v, j in judged.items() if len(j.trials) == len(FRESH) and j.holds}
    mean = judged[value].mean("margin")
    row = {
        "holds": value in holding,
        "margin": None if math.isnan(mean) else mean,
        "best": None,
        "as_good": [],
    }
    if not holding:
        return row
    least = min(holding.values())
    return row | {
        "best": min(v for v, cost in holding.items() if cost <= CHOOSING.flat * least),
        "as_good": [v for v, cost in holding.items() if cost <= CHOOSING.same * least],
    }


def summary(rows: list[dict[str, Any]]) -> None:
    """The table of what was measured."""
    print(
        f"{len(rows)} servers; answers:",
        pd.Series([r.get("answer", "error") for r in rows]).value_counts().to_dict(),
    )
    print("| 95 % interval of | servers | holds the truth | half width (median) |\n|---|---|---|---|")

    def row(name: str, inside: list[bool], widths: list[float]) -> None:
        print(f"| {name} | {len(inside)} | {np.mean(inside):.1%} | {np.median(widths):.1%} |")

    for name in ("capacity", "other lengths"):
        of = [r[name] for r in rows if name in r]
        row(
            name,
            [o["low"] <= o["truth"] <= o["high"] for o in of],
            [(o["high"] - o["low"]) / 2 / o["value"] for o in of],
        )
    of = [r for r in rows if r.get("best") is not None]
    widths = [(r["interval"][1] - r["interval"][0]) / 2 / r["target"] for r in of]
    row("target", [any(_inside(v, r) for v in r["as_good"]) for r in of], widths)
    row("target, strictly", [_inside(r["best"], r) for r in of], widths)
    held = [r["holds"] for r in rows if "holds" in r]
    print(f"the recommended setting holds under the truth: {np.mean(held):.1%} of {len(held)} servers")
    lost = [r["server"] for r in rows if "interval" in r and r.get("best") is None]
    print(f"no target of the recommended line holds under the truth: {len(lost)} servers {lost}")
    print("errors:", [(r["server"], r["failed"]) for r in rows if "failed" in r])


def _inside(value: float, row: dict[str, Any]) -> bool:
    low, high = row["interval"]
    return bool(low * (1 - 1e-9) <= value <= high * (1 + 1e-9))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--servers", type=int, default=200)
    parser.add_argument("--part", default="1/1", help="every N-th server from the I-th on: I/N")
    parser.add_argument("--summary", action="store_true")
    asked = parser.parse_args()
    lines = asked.file.read_text().splitlines() if asked.file.exists() else []
    rows = [json.loads(line) for line in lines]
    if asked.summary:
        summary(rows)
        return
    first, step = map(int, asked.part.split("/"))
    done = {row["server"] for row in rows}
    for k in range(first - 1, asked.servers, step):
        if k in done:
            continue
        started = time.process_time()
        try:
            row = judge(k)
        except AutoscaleError as error:
            row = {"server": k, "failed": str(error)}
        row["cpu_s"] = time.process_time() - started
        with asked.file.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
