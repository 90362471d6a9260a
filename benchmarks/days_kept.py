"""Whether recommendations keep what they promise: the answer of each scenario, then days that nothing has seen.

    python -m benchmarks.days_kept                      36 scenarios, 200 fresh seeds each
    python -m benchmarks.days_kept --only r1 --seeds 40  those whose name holds the text, over fewer

Beside each stands the tutorial's HPA with the maximum that the answer may use, over the first 40 of the same seeds.

The first 24 are those of `benchmarks.recommend`; 12 follow recorded traffic (AUTOSCALE_SHARED/traces: ServeGen, Azure,
Mooncake), starts of 2 to 90 minutes, SLOs of p95 and p99. `--rows FILE` keeps finished rows, so that an interrupted
benchmark goes on where it was; `--part I/N` takes every N-th scenario from the I-th on.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis.slo import parse_slo
from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.judging import confirm
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.settings import Setting
from autoscale.recommend.choice.space import tutorial_setting, with_spare
from autoscale.recommend.model.one_replica import capacity
from autoscale.sim.fleet.outcome import Outcome
from benchmarks.recommend import Case, Row, Rows, cases, head, label, line, scenario_of
from benchmarks.recommend_grid import standing_hours
from loadgen.plan import rates
from loadgen.plan.traces import Trace

FRESH = 100_001  # first of the seeds that no recommendation has seen
BESIDE = 40  # of them, for the tutorial's HPA: where it fails it fails on most
SHARED = Path(os.environ.get("AUTOSCALE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "traces"
DAY_H = 24.0


@dataclass(frozen=True)
class Recorded:
    """A scenario under recorded traffic: its rates from an hour on, or a trace's own requests (`hours` 0).

    The rates are scaled so that the busiest hour offers `peak` replicas' capacity.
    """

    name: str
    profile: str
    cold_min: float
    file: str
    from_h: float
    hours: float
    peak: float
    slo: str | None = None

    def case(self) -> Case:
        base = scenario_of(self.profile, self.cold_min, "day")
        if self.slo:
            base = replace(base, slo=parse_slo(self.slo), attainment=None)
        top = self.peak * capacity(base).rate_rps
        return Case(
            self.name, _traced(base, self.file, top) if self.hours == 0 else self._programmed(base, top)
        )

    def _programmed(self, base: Scenario, top: float) -> Scenario:
        at_s, rate = _rates(SHARED / self.file)
        inside = (at_s >= 3600 * self.from_h) & (at_s <= 3600 * (self.from_h + self.hours))
        at_s, rate = at_s[inside] - at_s[inside][0], rate[inside]
        hour = max(1, round(3600 / float(np.diff(at_s)[0])))
        busiest = float(np.convolve(rate, np.ones(hour) / hour, "valid").max())
        return replace(base, plan=replace(base.plan, programme=rates.points(at_s, rate * top / busiest)))


def _traced(base: Scenario, file: str, top: float) -> Scenario:
    """The requests of the trace at a rate whose mean is two thirds of the top, with the profile's lengths."""
    trace = Trace.open(SHARED / file)
    trace = trace.times(top / 1.5 / (trace.requests / trace.rate.duration_s))
    return replace(base, plan=replace(base.plan, programme=trace.rate, trace=trace))


def _rates(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times in s and requests/s of a rate file: windows of ServeGen, minutes of Azure, or hours of a published day."""
    if path.suffix == ".json":
        day = json.loads(path.read_text())["deepseek-r1"]["hour_of_day_profile"]
        return np.linspace(0, 86_400, 25), np.array([*day, day[0]])
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    time_, unit_s, rate = (
        ("window_start_s", 1, "rate_rps") if "rate_rps" in rows[0] else ("start_min", 60, "req_per_s")
    )
    return (
        np.array([unit_s * float(row[time_]) for row in rows]),
        np.array([max(float(row[rate]), 0.0) for row in rows]),
    )


SERVEGEN, CONV, CODE = (
    "servegen_m-large_rate_10min.csv.gz",
    "azure2024_conv_rate_digitised_15min.csv.gz",
    "azure2024_code_rate_digitised_15min.csv.gz",
)
R1, B405, B70, L4, H100 = (
    "deepseek-r1-2x8h100-hdml",
    "llama-3.1-405b-2x8h100-hdml",
    "llama-3.1-70b-v6e8",
    "llama-3.1-8b-1xl4",
    "llama-3.1-8b-1xh100",
)
TIGHT = "ttft_p95=5s,tpot_p95=60ms"
RECORDED = (
    Recorded("r1, deepseek-r1's day, start 45 min", R1, 45, "SERVEGEN_STATS.json", 0, DAY_H, 5, TIGHT),
    Recorded("r1, servegen, start 90 min", R1, 90, SERVEGEN, 72, 12, 4),
    Recorded("r1, azure conv, p99, start 30 min", R1, 30, CONV, 24, 12, 4, "ttft_p99=5s,tpot_p99=150ms"),
    Recorded("405b, servegen day, start 20 min", B405, 20, SERVEGEN, 120, DAY_H, 4),
    Recorded("405b, azure code, start 60 min", B405, 60, CODE, 72, 12, 5),
    Recorded("405b, azure 2023 code, start 5 min", B405, 5, "azure2023_code.csv.gz", 0, 0, 3),
    Recorded("70b, azure conv day, start 10 min", B70, 10, CONV, 24, DAY_H, 3),
    Recorded("70b, servegen, p99, start 15 min", B70, 15, SERVEGEN, 200, 8, 3, "ttft_p99=3s,tpot_p99=100ms"),
    Recorded("8b-l4, azure code day, start 2 min", L4, 2, CODE, 72, DAY_H, 4),
    Recorded("8b-l4, azure 2023 conv, start 3 min", L4, 3, "azure2023_conv.csv.gz", 0, 0, 4),
    Recorded("8b-l4, mooncake, p99, start 5 min", L4, 5, "mooncake_fast25_conversation_trace.jsonl.gz", 0, 0, 4, "ttft_p99=4s"),
    Recorded("8b-h100, servegen, start 8 min", H100, 8, SERVEGEN, 260, 4, 3),
)  # fmt: skip


@dataclass(frozen=True)
class Reseeded(Scenario):
    """The scenario with other chance: every seed stands for another one."""

    beyond: int = 0

    def outcome(
        self, setting: Setting, seed: int, *, keep: bool = False, cost_limit_h: float | None = None
    ) -> Outcome:
        return super().outcome(setting, seed + self.beyond, keep=keep, cost_limit_h=cost_limit_h)


def reseeded(scenario: Scenario, beyond: int) -> Reseeded:
    """The same scenario, its seeds so far beyond."""
    fields = {name: getattr(scenario, name) for name in Scenario.__dataclass_fields__}
    return Reseeded(**fields, beyond=beyond)


def all_cases(only: str) -> Iterator[Case]:
    """The scenarios whose name holds the text; recorded ones are made when their turn comes."""
    yield from (case for case in cases() if only in case.name)
    yield from (recorded.case() for recorded in RECORDED if only in recorded.name)


def judge(case: Case, seeds: int, jobs: int | None) -> Row:
    """The answer, and what it does in fresh repetitions of its traffic."""
    started = time.perf_counter()
    found = choose_setting(case.scenario, jobs=jobs)
    took_s = time.perf_counter() - started
    if found.chosen is None:
        return {"answer": found.answer}
    again = confirm(case.scenario.keeping(), [found.chosen.setting], range(FRESH, FRESH + seeds))[0]
    return {
        "answer": found.answer,
        "setting": label(found.chosen),
        "kept": again.periods - again.broken,
        "periods": again.periods,
        "asked": case.scenario.promise.days_kept,
        "worst breaches": round(again.worst, 2),
        "worst stretch min": round(max(t.longest_breach_s for t in again.trials) / 60),
        "in vain": again.in_vain,
        "in bounds": round(again.mean("attainment"), 5),
        "acc-h": round(again.cost, 2),
        "standing acc-h": None if found.static is None else round(found.static.cost, 2),
        "printed days kept": round(found.chosen.shown, 4),
        "s": round(took_s),
    }


def default_row(case: Case, standing_h: float) -> Row:
    """What the tutorial's HPA does on the first fresh repetitions, with the most replicas that the answer may use."""
    scenario = case.scenario.keeping()
    cap = with_spare(round(standing_h / standing_hours(scenario)))
    judged = confirm(scenario, [tutorial_setting(scenario, cap)], range(FRESH, FRESH + BESIDE))[0]
    return {
        "setting": label(judged),
        "kept": judged.periods - judged.broken,
        "periods": judged.periods,
        "in bounds": round(judged.mean("attainment"), 5),
        "acc-h": round(judged.cost, 2),
    }


def table(rows: Rows) -> None:
    """A row per scenario, and how many kept what was promised."""
    head(
        "scenario", "answer", "setting", "days kept", "worst 5%: breaches", "worst stretch", "in vain", "in bounds",
        "acc-h", "standing", "default: days kept", "in bounds", "acc-h", "s",
    )  # fmt: skip
    judged = {name: row for name, row in rows.known.items() if "kept" in row}
    for name, row in judged.items():
        line(
            name, row["answer"], row["setting"], f"{row['kept']} of {row['periods']}", f"{row['worst breaches']:g} times",
            f"{row['worst stretch min']} min", row["in vain"], f"{row['in bounds']:.1%}", f"{row['acc-h']:.1f}",
            "none" if row["standing acc-h"] is None else f"{row['standing acc-h']:.1f}", *_beside(row), row["s"],
        )  # fmt: skip
    kept = sum(row["kept"] >= row["asked"] * row["periods"] for row in judged.values())
    failed = sum(
        row["periods"] - row["kept"] > 2 * (1 - row["asked"]) * row["periods"] for row in judged.values()
    )
    print(f"\nkept as promised in {kept} of {len(judged)}; more than twice the allowed failures in {failed}")


def _beside(row: Row) -> tuple[str, str, str]:
    default = row.get("default")
    if default is None:
        return ("", "", "")
    return (
        f"{default['kept']} of {default['periods']}",
        f"{default['in bounds']:.1%}",
        f"{default['acc-h']:.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="scenarios whose name holds this text")
    parser.add_argument("--seeds", type=int, default=200, help="fresh seeds for each answer")
    parser.add_argument("--jobs", type=int, help="processes of a search; default one per core")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th scenario from the I-th on")
    parser.add_argument("--rows", type=Path, help="file of finished rows: those in it are not run again")
    options = parser.parse_args()
    first, of = map(int, options.part.split("/"))
    rows = Rows.open(options.rows)
    for case in islice(all_cases(options.only), first, None, of):
        if case.name not in rows.known:
            rows.add(case.name, judge(case, options.seeds, options.jobs))
        row = rows.known[case.name]
        if row.get("standing acc-h") and "default" not in row:
            rows.add(case.name, row | {"default": default_row(case, row["standing acc-h"])})
    table(rows)


if __name__ == "__main__":
    main()
