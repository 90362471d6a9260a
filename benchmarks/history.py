"""How well traffic is learned from a Prometheus: simulated fleets, their past in a real one, against what was offered.

    python -m benchmarks.history [--fleets 50] [--hours 24] [--json FILE]

Four profiles by arrivals of known burstiness by lengths, over a day of the default shape, scaled by an HPA, scraped every
15 s. In each past one replica restarts and nothing is scraped for ten minutes. A row
per fleet: error of the requests of every hour, of length quantiles, whether the burstiness' interval holds (for arrivals of
which it is known), and the seconds that learning took. Needs prometheus and promtool.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis import run
from autoscale.history.learned import learn_traffic
from autoscale.history.service import find_service
from autoscale.profiles import load
from autoscale.recommend.choice.settings import Behavior, Candidate
from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.model.one_replica import capacity
from autoscale.sim.fleet.run_writer import write_run
from autoscale.sim.fleet.simulate import simulate
from benchmarks import backfill
from loadgen.plan import rates
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.traffic import LoadPlan, Process

ZERO = 1_790_000_000.0 // 86_400 * 86_400
PROFILES = ("llama-3.1-8b-1xl4", "llama-3.1-70b-v6e8", "llama-3.1-405b-2x8h100", "deepseek-r1-2x8h100")
CVS = (0.7, 1.0, 2.0, 3.0)
LENGTHS = (None, ("uniform:100,900", "normal:120,30"), ("lognormal:600,1.2,16000", "lognormal:90,0.8,2000"))
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
MOST_RPS = 8.0  # on average: the past is written as text


def fleet(number: int, hours: float, folder: Path) -> dict[str, Any]:
    """One fleet's figures."""
    profile = load(PROFILES[number % 4])
    cv = CVS[number // 4 % 4]
    lengths = LENGTHS[number // 2 % 3] or (profile.workload.prompt_tokens, profile.workload.output_tokens)
    one = capacity(scenario_of(profile, peak_rps=1.0, lengths=lengths)).rate_rps
    peak = min((2.0 + number % 3) * one, MOST_RPS)
    plan = LoadPlan(
        programme=rates.diurnal(peak, hours * 3600),
        process=Process("gamma", cv),
        prompt=parse_lengths(lengths[0]),
        output=parse_lengths(lengths[1]),
        seed=number,
    )
    scenario = scenario_of(profile, peak_rps=peak, lengths=lengths)
    setting = Candidate((("running", 12.0),), Behavior(), 1, 6)
    outcome = simulate(
        profile,
        setting.manifest(profile),
        plan.arrivals(),
        seed=number,
        duration_s=hours * 3600,
        engine=scenario.engine,
        keep=True,
    )
    recorded = run.read(write_run(outcome, folder / "run", plan=plan))
    requests, metrics = recorded.requests, recorded.metrics.copy()
    longest = metrics["pod"].value_counts().index[0]
    half_s = hours * 1800
    mine = (metrics["pod"] == longest) & (metrics["time_s"] > half_s)
    metrics.loc[mine, "requests_total"] -= metrics.loc[mine, "requests_total"].min()
    metrics = metrics[~metrics["time_s"].between(half_s + 3600, half_s + 4200)]
    done = requests[requests["status"] == "ok"]
    served = backfill.with_pods(outcome, done)
    backfill.open_metrics(folder / "text", metrics, served, ZERO, profile.model.id)
    with backfill.prometheus(folder / "text", folder) as url:
        began_s = time.monotonic()
        learned = learn_traffic(find_service(url, hours * 3600, until=ZERO + hours * 3600))
        took_s = time.monotonic() - began_s
    edges = (
        learned.window[0]
        - ZERO
        + 3600.0 * np.arange(int((learned.window[1] - learned.window[0]) // 3600) + 1)
    )
    taken = requests[
        requests["http_status"] != 400
    ]  # the others were refused at once, as too long: no pod counts them
    sent, _ = np.histogram(taken["due_s"], edges)
    came = learned.came.counts[: 60 * len(sent)].reshape(-1, 60).sum(axis=1)
    off = []
    for tokens, column in ((learned.prompt, "prompt_tokens"), (learned.output, "output_tokens")):
        assert tokens is not None
        drawn = tokens.lengths.draw(np.random.default_rng(1), 200_000)
        true = done[column].to_numpy(float)
        off.append(np.quantile(drawn, QUANTILES) / np.quantile(true, QUANTILES) - 1)
    bursty = learned.burstiness
    return {
        "profile": profile.name,
        "cv": cv,
        "requests": len(taken),
        "pods": int(metrics["pod"].nunique()),
        "total_off": float(came.sum() / sent.sum() - 1),
        "worst_hour_off": float(np.abs(came / np.maximum(sent, 1) - 1).max()),
        "worst_prompt_quantile_off": float(np.abs(off[0]).max()),
        "worst_output_quantile_off": float(np.abs(off[1]).max()),
        "cv_found": None if bursty is None else [bursty.cv, bursty.low, bursty.high],
        "cv_held": None if bursty is None else bool(bursty.low <= cv <= bursty.high),
        "seconds": took_s,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fleets", type=int, default=50)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for number in range(options.fleets):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(fleet(number, options.hours, Path(folder)))
        row = rows[-1]
        found = (
            "too few requests"
            if row["cv_found"] is None
            else "{:.2f} ({:.2f} to {:.2f})".format(*row["cv_found"])
        )
        print(
            f"{row['profile']:24s} {row['requests']:7,d} requests, {row['pods']:2d} pods: total {row['total_off']:+.2%}, worst "
            f"hour {row['worst_hour_off']:.1%}; quantiles off by up to {row['worst_prompt_quantile_off']:.1%} and "
            f"{row['worst_output_quantile_off']:.1%}; cv {row['cv']:g}: {found}; {row['seconds']:.1f} s",
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    told = [row for row in rows if row["cv_held"] is not None]
    print(
        f"{len(rows)} fleets: total off by up to {max(abs(r['total_off']) for r in rows):.2%}; burstiness in its interval in "
        f"{sum(r['cv_held'] for r in told)} of {len(told)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
