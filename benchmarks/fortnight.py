"""A fortnight of 16 pods, scraped every 15 s, in a real Prometheus: how long reading it takes, how much memory, and the answer.

    python -m benchmarks.fortnight FOLDER [--make] [--rps 5.5] [--days 14] [--answer]

`--make` simulates the fortnight and puts it into FOLDER first (some minutes, 1 GB): 16 standing replicas of 8B on an L4, the default
shape of a day with a peak of its own every day, weekends at half. Then `autoscale traffic`, and with `--answer` `autoscale
recommend --from-prometheus`, run as a user runs them: seconds, and the most memory that the process ever held (its children's by itself).
Needs prometheus and promtool.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

from autoscale.profiles import load
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.simulate import simulate
from autoscale.sim.past.database import past_server, write_past
from loadgen.plan import rates
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.programme import Rate
from loadgen.plan.traffic import LoadPlan, Process

DAY_S, DAYS, PODS = 86_400.0, 14, 16
ZERO = (1_790_000_000.0 // (7 * DAY_S)) * 7 * DAY_S + 4 * DAY_S  # a Monday
PROFILE = "llama-3.1-8b-1xl4"


def programme(rps: float) -> Rate:
    """The fortnight's rate: days of the default shape, each with a peak of its own."""
    peaks = (
        rps * np.random.default_rng(3).uniform(0.85, 1.0, DAYS) * np.where(np.arange(DAYS) % 7 < 5, 1.0, 0.5)
    )
    return rates.joined(rates.diurnal(float(peak), DAY_S) for peak in peaks)


def make(folder: Path, rps: float) -> None:
    """Simulate the fortnight and put it into the folder's database."""
    profile = load(PROFILE)
    lengths = profile.workload.prompt_tokens, profile.workload.output_tokens
    plan = LoadPlan(programme(rps), Process("gamma", 1.5), *map(parse_lengths, lengths), seed=1)
    engine = EngineParams.from_profile(profile)
    outcome = simulate(
        profile,
        None,
        plan.arrivals(),
        seed=1,
        duration_s=DAYS * DAY_S,
        engine=engine,
        static_replicas=PODS,
        keep=True,
    )
    print(f"{len(outcome.requests):,} requests, {len(outcome.samples):,} scrapes", flush=True)
    write_past(outcome, folder, ZERO, engine, None)


def measured(arguments: Sequence[str]) -> None:
    """A verb as a user runs it, with its seconds and its memory."""
    began_s, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "autoscale", *arguments], text=True, capture_output=True, check=False
    )
    took_s = time.monotonic() - began_s
    print(done.stdout[-3000:], done.stderr[-1500:] if done.returncode else "")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    own_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"autoscale {arguments[0]}: exit {done.returncode}, {took_s:.1f} s, of a processor {own_s:.1f} s, {used.ru_maxrss / 1024:.0f} MB",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--rps", type=float, default=5.5, help="of the busiest hour")
    parser.add_argument("--days", type=float, default=DAYS, help="of it, from its begin on")
    parser.add_argument("--answer", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.make:
        make(options.folder, options.rps)
    until = pd.Timestamp(ZERO + options.days * DAY_S, unit="s").isoformat()
    with past_server(options.folder) as url:
        same = ["--last", f"{24 * options.days:g}h", "--until", until]
        measured(["traffic", "--prometheus", url, *same, "--out", str(options.folder / "traffic.yaml")])
        if options.answer:
            out = str(options.folder / "answer")
            measured(["recommend", "--from-prometheus", url, *same, "--profile", PROFILE, "--out", out])
    return 0


if __name__ == "__main__":
    sys.exit(main())
