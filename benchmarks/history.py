"""How well a service is learned from a Prometheus: simulated fleets, their past in a real one, against what was offered and served.

    python -m benchmarks.history ROWS [--fleets 50] [--hours 24] [--targets] [--only K,...] [--traces TRACES]     measure, one JSON line per fleet in ROWS
    python -m benchmarks.history ROWS --summary                                                                    the table

Four profiles by arrivals of known burstiness by lengths, over days of the default shape or, two fleets in five with TRACES (a folder with
servegen_m-large_client_windows.csv.gz), of the clients of ServeGen, scaled by an HPA, scraped every
15 s; the fewest requests first. In each past one replica restarts and nothing is scraped for ten minutes. Every server's step times are
off its data sheet's by 0.8 to 1.4, each coefficient by itself. A fleet that is in ROWS already is not measured again.

    rates, lengths     requests in all and of the worst hour, quantiles p10 to p99, against those of the simulation
    burstiness         whether its interval holds that of the process
    capacity           of the replica that is learned against the true one's; whether its interval holds it. `as served` has the
                       true lengths: what is left is the replica's part
    decisions          past syncs of the HPA reproduced, and rescales at their sync, and within one
    target             with --targets: whether the target lies in the interval of the answer that the true engine and the
                       true traffic give, known as well as after a ten-minute sweep, and the accelerator-hours beside its

Needs prometheus and promtool.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis import run
from autoscale.history.learned import LearnedTraffic
from autoscale.history.past_hpa import reproduced
from autoscale.history.pod_moments import pod_moments
from autoscale.history.production import Production, learn_production
from autoscale.history.service import Service, find_service
from autoscale.history.told_hpa import past_hpa
from autoscale.profiles import Profile, load
from autoscale.recommend.answer import Decision
from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.settings import Behavior, Candidate
from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.from_production import learn_replica_from, recommend_from
from autoscale.recommend.model.coefficients import drawn
from autoscale.recommend.model.one_replica import capacity
from autoscale.recommend.open_speed import capacity_between, speed_at_the_slo
from autoscale.sim.fleet.outcome import Outcome
from autoscale.sim.fleet.run_writer import write_run
from autoscale.sim.fleet.simulate import simulate
from autoscale.sim.past.kube_state import hpa_series, pod_series
from autoscale.sim.past.vllm_series import with_pods
from benchmarks import backfill
from benchmarks.schedules import SERVICES, WINDOW_S, windows_of
from loadgen.plan import rates
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.traffic import LoadPlan, Process

ZERO = 1_790_000_000.0 // 86_400 * 86_400
PROFILES = ("llama-3.1-8b-1xl4", "llama-3.1-70b-v6e8", "llama-3.1-405b-2x8h100", "deepseek-r1-2x8h100")
CVS = (0.7, 1.0, 2.0, 3.0)
LENGTHS = (None, ("uniform:100,900", "normal:120,30"), ("lognormal:600,1.2,16000", "lognormal:90,0.8,2000"))
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
MOST_RPS = 8.0  # on average: the past is written as text
SWEEP = 0.036  # half width of a capacity after a ten-minute sweep (benchmarks.target_coverage)
HOLD_S = 600.0
OF_SERVEGEN = (1, 3)  # of five
DAYS = 13  # of ServeGen's fortnight, in which a day may begin


def silent(_share: float, _text: str) -> None:
    """No progress is shown."""


@dataclass(frozen=True, eq=False)
class Fleet:
    """One fleet: its truth, and what scales it."""

    number: int
    scenario: Scenario
    setting: Candidate

    @property
    def profile(self) -> Profile:
        """What it serves."""
        return self.scenario.profile

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Its HPA."""
        return self.setting.manifest(self.profile)


def fleet(number: int, hours: float, traces: Path | None) -> Fleet:
    """The fleet of that number."""
    profile = load(PROFILES[number % 4])
    lengths = LENGTHS[number // 2 % 3] or (profile.workload.prompt_tokens, profile.workload.output_tokens)
    plain = scenario_of(profile, peak_rps=1.0, lengths=lengths)
    off = np.random.default_rng([number, 7]).uniform(0.8, 1.4, 5)
    true = replace(plain, engine=drawn(plain.engine, off))
    peak = min((2.0 + number % 3) * capacity(true).rate_rps, MOST_RPS)
    plan = LoadPlan(
        programme=programme(number, peak, hours, traces),
        process=Process("gamma", CVS[number // 4 % 4]),
        prompt=parse_lengths(lengths[0]),
        output=parse_lengths(lengths[1]),
        seed=number,
    )
    return Fleet(number, replace(true, plan=plan), Candidate((("running", 12.0),), Behavior(), 1, 6))


def programme(number: int, peak_rps: float, hours: float, traces: Path | None) -> rates.Rate:
    """A day of the default shape around noon, or one that ServeGen's clients had."""
    first_h = max(0.0, 12 - hours / 2)
    if traces is None or number % 5 not in OF_SERVEGEN:
        return rates.diurnal(peak_rps, hours * 3600, start_hour=first_h)
    services = list(SERVICES)
    rate = windows_of(traces, services[number // 5 % len(services)])
    first = round((number % DAYS * 24 + first_h) * 3600 / WINDOW_S)
    rate = rate[first : first + round(hours * 3600 / WINDOW_S) + 1]
    return rates.points(WINDOW_S * np.arange(len(rate)), peak_rps * rate / rate.max())


def written(of: Fleet, outcome: Outcome, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Its past as OpenMetrics in `folder`, with a restart and a silence; all requests, and those that were answered."""
    engine, half_s = of.scenario.engine, outcome.duration_s / 2
    recorded = run.read(write_run(outcome, folder / "run", plan=of.scenario.plan))
    requests, metrics = recorded.requests, recorded.metrics.copy()
    longest = metrics["pod"].value_counts().index[0]
    mine = (metrics["pod"] == longest) & (metrics["time_s"] > half_s)
    metrics.loc[mine, "requests_total"] -= metrics.loc[mine, "requests_total"].min()
    metrics = metrics[~metrics["time_s"].between(half_s + 3600, half_s + 3600 + HOLD_S)]
    done = requests[requests["status"] == "ok"]
    told = pod_series(outcome, ZERO) | hpa_series(outcome, of.manifest, outcome.duration_s)
    backfill.open_metrics(
        folder / "text",
        metrics,
        with_pods(outcome, done),
        ZERO,
        of.profile.model.id,
        more=told,
        kv_blocks=(engine.num_blocks, engine.block_size),
    )
    return requests, done


def row_of(of: Fleet, folder: Path, targets: bool) -> dict[str, Any]:
    """One fleet's figures."""
    began_s, scenario, seconds = time.monotonic(), of.scenario, of.scenario.plan.duration_s
    outcome = simulate(
        of.profile, of.manifest, scenario.plan.arrivals(), seed=of.number, duration_s=seconds, engine=scenario.engine, keep=True
    )  # fmt: skip
    requests, done = written(of, outcome, folder)
    with backfill.prometheus(folder / "text", folder) as url:
        service = find_service(url, seconds, until=ZERO + seconds)
        learnt = learn_production(service, None, silent)
        row = {
            "number": of.number,
            "profile": of.profile.name,
            **of_traffic(learnt.traffic, requests, done),
            "cv": scenario.plan.process.cv,
            **of_decisions(service),
            **of_replica(learnt, scenario),
            **(of_target(learnt, scenario, folder) if targets else {}),
        }
    return row | {"seconds": time.monotonic() - began_s}


def of_traffic(learned: LearnedTraffic, requests: pd.DataFrame, done: pd.DataFrame) -> dict[str, Any]:
    """Rates, lengths and burstiness."""
    begin_s, hours = learned.window[0] - ZERO, int((learned.window[1] - learned.window[0]) // 3600)
    taken = requests[requests["http_status"] != 400]  # the others were too long, and no pod counts them
    sent, _ = np.histogram(taken["due_s"], begin_s + 3600.0 * np.arange(hours + 1))
    came = learned.came.counts[: 60 * hours].reshape(-1, 60).sum(axis=1)
    off = {}
    for tokens, column in ((learned.prompt, "prompt_tokens"), (learned.output, "output_tokens")):
        assert tokens is not None
        true = np.quantile(done[column].to_numpy(float), QUANTILES)
        found = np.quantile(tokens.lengths.draw(np.random.default_rng(1), 200_000), QUANTILES)
        off[f"worst_{column}_off"] = float(np.abs(found / true - 1).max())
    bursty = learned.burstiness
    return {
        "requests": len(taken),
        "total_off": float(came.sum() / sent.sum() - 1),
        "worst_hour_off": float(np.abs(came / np.maximum(sent, 1) - 1).max()),
        **off,
        "cv_found": None if bursty is None else [bursty.cv, bursty.low, bursty.high],
    }


def of_decisions(service: Service) -> dict[str, Any]:
    """Past syncs and rescales of the HPA that are reproduced."""
    past, _ = past_hpa(service)
    repeated = None if past is None else reproduced(service, past, past.manifest, pod_moments(service))
    if repeated is None:
        return {"syncs": 0}
    return {
        "syncs": repeated.syncs,
        "same": repeated.same,
        "rescales": repeated.rescales,
        "same_rescales": repeated.same_rescales,
        "near_rescales": repeated.near_rescales,
        "known": repeated.known,
        "same_known": repeated.same_known,
    }


def of_replica(learnt: Production, true: Scenario) -> dict[str, Any]:
    """The capacity that was learned, relative to the true one: median and interval; with the true lengths, too."""
    traffic, plan = learnt.traffic, true.plan
    assert traffic.prompt is not None
    assert traffic.output is not None
    lengths = traffic.prompt.lengths, traffic.output.lengths
    model = learn_replica_from(learnt.points, lengths, true.profile, traffic, silent)
    offered = capacity(true).rate_rps
    asked = offered * (1 - true.too_long())
    learned = replace(true, engine=model.engine, plan=replace(plan, prompt=lengths[0], output=lengths[1]))
    speed = speed_at_the_slo(model, learned, model.spread_at(*model.shape))
    low, high = capacity_between(learned, speed)
    found = capacity(learned)
    return {
        "capacity": asked,
        "found": found.rate_rps / asked,
        "low": low * found.rate_rps / asked,
        "high": high * found.rate_rps / asked,
        "as_served": capacity(replace(true, engine=model.engine)).rate_rps / offered,
        "speed": speed,
        "busiest": max(one.running for one in learnt.points.stretches),
        "stretches": len(learnt.points.stretches),
    }


def of_target(learnt: Production, true: Scenario, folder: Path) -> dict[str, Any]:
    """The target from Prometheus beside that of the true engine and traffic."""
    ours = recommend_from(learnt, profile=true.profile.name, out=folder / "answer").decision
    theirs = choose_setting(true, step_scale=SWEEP)
    row = {"answers": [ours.answer, theirs.answer], "hours": [hours_of(ours), hours_of(theirs)]}
    return row | {"targets": [target_of(ours), target_of(theirs)], "ends": theirs.interval.ends}


def hours_of(decision: Decision) -> float | None:
    """Accelerator-hours of an answer."""
    return decision.chosen.cost if decision.chosen else None


def target_of(decision: Decision) -> list[Any] | None:
    """The signal and value of an answer's last target."""
    if decision.answer != "autoscale" or decision.best_hpa is None:
        return None
    return list(decision.best_hpa.setting.targets[-1])


def told(row: dict[str, Any]) -> str:
    """A row in a line."""
    cv = "too few" if row["cv_found"] is None else "{:.2f} ({:.2f} to {:.2f})".format(*row["cv_found"])
    decisions = "no HPA"
    if row["syncs"]:
        decisions = f"{row['same'] / row['syncs']:.2%} of {row['syncs']:,} syncs, {row['near_rescales']} of {row['rescales']} rescales within a sync"
    return (
        f"{row['number']:2d} {row['profile']:24s} {row['requests']:7,d} requests: total {row['total_off']:+.2%}, worst hour "
        f"{row['worst_hour_off']:.1%}; lengths {row['worst_prompt_tokens_off']:.1%}, {row['worst_output_tokens_off']:.1%}; "
        f"cv {row['cv']:g}: {cv}; capacity {row['found']:.3f} ({row['low']:.3f} to {row['high']:.3f}), as served "
        f"{row['as_served']:.3f}, busiest {row['busiest']:.0f}; {decisions}"
        + (
            f"; answers {row['answers']}, hours {row['hours']}, targets {row.get('targets')}"
            if "answers" in row
            else ""
        )
    )


def summary(rows: list[dict[str, Any]]) -> str:
    """How many of them meet what is asked."""
    bursty = [row for row in rows if row["cv_found"] is not None]
    decided = [row for row in rows if row["syncs"]]
    counts = {
        "requests of the worst hour within 2 %": [row["worst_hour_off"] <= 0.02 for row in rows],
        "requests of the whole within 2 %": [abs(row["total_off"]) <= 0.02 for row in rows],
        "prompt quantiles within 5 %": [row["worst_prompt_tokens_off"] <= 0.05 for row in rows],
        "output quantiles within 5 %": [row["worst_output_tokens_off"] <= 0.05 for row in rows],
        "burstiness in its interval": [
            row["cv_found"][1] <= row["cv"] <= row["cv_found"][2] for row in bursty
        ],
        "capacity in its interval": [row["low"] <= 1 <= row["high"] for row in rows],
        "syncs reproduced >= 99 %": [row["same"] >= 0.99 * row["syncs"] for row in decided],
        "of those with all metrics": [row["same_known"] >= 0.99 * row["known"] for row in decided],
        "rescales within a sync >= 90 %": [row["near_rescales"] >= 0.9 * row["rescales"] for row in decided],
    }
    hours = [row["hours"] for row in rows if None not in row.get("hours", [None])]
    if hours:
        targets = [row for row in rows if row.get("targets", [None])[0] and row["targets"][1]]
        counts["target in the interval of its signal"] = [
            signal in row["ends"] and row["ends"][signal][0] <= value <= row["ends"][signal][1]
            for row in targets
            for signal, value in [row["targets"][0]]
        ]
        counts["accelerator-hours within 5 %"] = [abs(a / b - 1) <= 0.05 for a, b in hours]
    return "\n".join(f"{what}: {sum(held)} of {len(held)}" for what, held in counts.items())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("--fleets", type=int, default=50)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--targets", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    rows = (
        [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    )
    known = {row["number"] for row in rows}
    wanted = [int(one) for one in options.only.split(",") if one] or range(options.fleets)
    fleets = (
        []
        if options.summary
        else [fleet(number, options.hours, options.traces) for number in wanted if number not in known]
    )
    for of in sorted(fleets, key=lambda one: one.scenario.plan.expected_requests):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row_of(of, Path(folder), options.targets))
        with options.rows.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(told(rows[-1]), flush=True)
    print(summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
