"""How good recommendations are: against the tutorial's HPA, against the best of a grid, and on bursts.

    python -m benchmarks.recommend scenarios       24 scenarios: 4 profiles x 3 traffics x 2 cold starts, two tables
    python -m benchmarks.recommend bursts          start {2, 20, 90 min} x burst {5, 15, 30 min}: wasted scale-outs
    python -m benchmarks.recommend speed           a day at 5 requests/s, up to 16 replicas

`--rows FILE` keeps finished rows, so that an interrupted benchmark goes on where it was; `--part I/N` takes every N-th
scenario from the I-th on, so that several processes share the work. Every scenario lasts a few hours. All figures are
over seeds that neither the recommendation nor the grid has seen. The grid is that of `benchmarks.recommend_grid`.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis.slo import parse_slo
from autoscale.profiles import load, overlay
from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.judging import Judged, confirm
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.seeds import panel_size
from autoscale.recommend.choice.settings import Setting
from autoscale.recommend.model.one_replica import capacity
from autoscale.sim.engine.replicas import EngineParams
from benchmarks.recommend_grid import FEW, FINAL, best_of, cheapest_at
from loadgen.plan import lengths, rates
from loadgen.plan.programme import Rate
from loadgen.plan.traffic import LoadPlan, parse_arrivals

PROFILES = (  # the ones that take least to simulate first
    "llama-3.1-8b-1xl4",
    "llama-3.1-405b-2x8h100-hdml",
    "deepseek-r1-2x8h100-hdml",
    "llama-3.1-70b-v6e8",
)
COLD_MIN = (2, 20)
HOURS = 3.0
PEAK = 3.0  # in multiples of one replica's capacity
SPEED_RPS = 5.0
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One scenario with its name and one replica's capacity in requests/s."""

    name: str
    scenario: Scenario


def scenario_of(
    profile: str, cold_min: float, traffic: str, burst_min: float = 15, hours: float = HOURS
) -> Scenario:
    """A profile that starts in `cold_min` minutes under a traffic of TRAFFICS whose peak is PEAK replicas' capacity."""
    system = load(profile)
    phases = dict.fromkeys(("node", "image", "group_join", "compile"), 0)
    system = overlay(
        system,
        {
            "cold_start": {
                **phases,
                "compile_cached": None,
                "engine_init": 12 * cold_min,
                "weights_rate_bytes_s": system.model.weight_bytes / (48 * cold_min),
                "weights_shared": False,
            }
        },
    )
    work = system.workload
    plan = LoadPlan(
        rates.constant(1.0, 3600),
        parse_arrivals("gamma:2" if traffic == "day" else "poisson"),
        lengths.parse_lengths(work.prompt_tokens),
        lengths.parse_lengths(work.output_tokens),
    )
    scenario = Scenario(system, EngineParams.from_profile(system), plan, parse_slo(work.slo), work.attainment)
    top = PEAK * capacity(scenario).rate_rps
    return replace(scenario, plan=replace(plan, programme=programme(traffic, top, burst_min, hours)))


def programme(traffic: str, top: float, burst_min: float, hours: float) -> Rate:
    """day: the default day, faster; bursts: of `burst_min` every 100 minutes over a fifth; ramps: up, hold, down."""
    span = hours * 3600
    if traffic == "day":
        return rates.diurnal(top, span, day_s=span)
    if traffic == "bursts":
        count, burst = round(hours * 60 / 100) or 1, burst_min * 60
        rest = (span - count * burst) / (count + 1)
        return rates.steps([*([(0.2 * top, rest), (top, burst)] * count), (0.2 * top, rest)])
    share = np.array([0, 0.2, 0.45, 0.65, 0.85, 1])
    return rates.points(span * share, top * np.array([0.25, 0.25, 1, 1, 0.25, 0.25]))


def cases() -> Iterator[Case]:
    """The 24 scenarios."""
    for profile, cold_min, traffic in product(PROFILES, COLD_MIN, ("day", "bursts", "ramps")):
        yield Case(f"{profile}, {traffic}, start {cold_min} min", scenario_of(profile, cold_min, traffic))


@dataclass(frozen=True)
class Rows:
    """Finished rows by name; in a file, one JSON object a line, from which an interrupted benchmark goes on."""

    path: Path | None
    known: dict[str, Row]

    @classmethod
    def open(cls, path: Path | None) -> Rows:
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        return cls(path, {entry["name"]: entry["row"] for entry in map(json.loads, lines)})

    def add(self, name: str, row: Row) -> None:
        self.known[name] = row
        print(f"{name}: {json.dumps(row)}", file=sys.stderr, flush=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"name": name, "row": row}) + "\n")


def line(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(*cells: str) -> None:
    line(*cells)
    line(*("---" for _ in cells))


def label(judged: Judged[Setting] | None) -> str:
    """The setting in words."""
    return "none" if judged is None else judged.setting.label


def judge(case: Case) -> Row:
    """One scenario: the recommendation, the tutorial's HPA, and the grid's best over seeds that neither has seen."""
    started = time.process_time()
    found = choose_setting(case.scenario, jobs=1)
    searched = time.process_time() - started
    chosen, static, tutorial = found.chosen, found.static, found.tutorial
    if chosen is None or static is None or tutorial is None or found.capacity is None:
        return {"scenario": case.name, "answer": found.answer}
    scenario = case.scenario.keeping()
    cap = static.setting.replicas + max(1, math.ceil(static.setting.replicas / 4))
    best = best_of(
        scenario,
        found.capacity,
        static.setting,
        cap,
        chosen.setting,
        tutorial.setting,
    )
    ours, other = best.again[chosen.setting], best.again[tutorial.setting]
    equal = None
    if ours.cost > other.cost:
        equal = at_attainment(scenario, other, cap)
    return {
        "scenario": case.name,
        "answer": found.answer,
        "recommended": figures(ours),
        "tutorial": figures(other),
        "as good as the tutorial": None if equal is None else figures(equal),
        "grid": figures(best.best),
        "standing": figures(best.again[static.setting]),
        "settings of the grid": best.tried,
        "settings of the search": len(found.tried),
        "search CPU s": round(searched, 1),
        "CPU s": round(time.process_time() - started, 1),
    }


def at_attainment(scenario: Scenario, other: Judged[Setting], cap: int) -> Judged[Setting] | None:
    """The cheapest found that keeps as many requests within every bound as the other does; None: nothing cheaper."""
    kept = min(max(other.mean("attainment"), 0.01), 0.999)
    easier = replace(scenario, attainment=kept)
    found = choose_setting(easier, jobs=1, max_replicas=cap, seeds=2)
    settings: list[Setting] = [
        j.setting for j in (found.chosen, found.best_hpa, found.static) if j is not None
    ]
    options = [j for j in confirm(easier, dict.fromkeys(settings), FINAL[:FEW]) if j.mean("margin") >= 0]
    cheaper = [j for j in options if j.cost <= other.cost]
    if not cheaper:
        cheaper = cheapest_at(easier, capacity(easier), cap, other.cost, panel_size(scenario.plan))
    return min(cheaper, key=lambda j: j.cost, default=None)


def figures(judged: Judged[Setting]) -> Row:
    """What tables show of a setting."""
    return {
        "setting": label(judged),
        "margin": round(judged.mean("margin"), 5),
        "in bounds": round(judged.mean("attainment"), 5),
        "kept": judged.periods - judged.broken,
        "periods": judged.periods,
        "acc-h": round(judged.cost, 3),
        "wasted": judged.wasted,
    }


def scenarios(part: slice, rows: Rows) -> None:
    """The 24 scenarios; a table of regret and one against the tutorial's HPA."""
    for case in islice(cases(), part.start, None, part.step):
        if case.name not in rows.known:
            rows.add(case.name, judge(case))
    done = [row for row in rows.known.values() if "recommended" in row]
    head(
        "scenario",
        "recommended",
        "days kept",
        "acc-h",
        "best of the grid",
        "days kept",
        "acc-h",
        "regret",
        "CPU s",
    )
    for row in done:
        ours, best = row["recommended"], row["grid"]
        line(
            row["scenario"], ours["setting"], f"{ours['kept']} of {ours['periods']}", f"{ours['acc-h']:.1f}", best["setting"],
            f"{best['kept']} of {best['periods']}", f"{best['acc-h']:.1f}", f"{ours['acc-h'] / best['acc-h'] - 1:+.1%}",
            f"{row['search CPU s']:.0f}",
        )  # fmt: skip
    print()
    head(
        "scenario", "recommended", "in bounds", "acc-h", "tutorial: in bounds", "acc-h", "as good as the tutorial",
        "acc-h",
    )  # fmt: skip
    for row in done:
        ours, other, equal = row["recommended"], row["tutorial"], row["as good as the tutorial"]
        same = ("the recommended", f"{ours['acc-h']:.1f} ({ours['acc-h'] / other['acc-h'] - 1:+.0%})")
        if ours["acc-h"] > other["acc-h"]:
            same = ("none found", "")
        if equal:
            same = (
                f"{equal['setting']}: {equal['in bounds']:.1%}",
                f"{equal['acc-h']:.1f} ({equal['acc-h'] / other['acc-h'] - 1:+.0%})",
            )
        line(
            row["scenario"], ours["setting"], f"{ours['in bounds']:.1%}", f"{ours['acc-h']:.1f}",
            f"{other['in bounds']:.1%}", f"{other['acc-h']:.1f}", *same,
        )  # fmt: skip


def bursts(part: slice, rows: Rows) -> None:
    """Wasted scale-outs of what is recommended."""
    grid = product((2, 20, 90), (5, 15, 30))
    for cold_min, burst_min in islice(grid, part.start, None, part.step):
        name = f"start {cold_min} min, burst {burst_min} min"
        if name in rows.known:
            continue
        scenario = scenario_of("llama-3.1-405b-2x8h100-hdml", cold_min, "bursts", burst_min, hours=5)
        found = choose_setting(scenario, jobs=1)
        assert found.chosen is not None
        assert found.static is not None
        assert found.best_hpa is not None
        again = confirm(scenario, [found.chosen.setting], FINAL[:FEW])[0]
        rows.add(
            name,
            {
                "answer": found.answer,
                "recommended": figures(again),
                "standing": figures(found.static),
                "best HPA": figures(found.best_hpa),
            },
        )
    head("start, burst", "answer", "setting", "in bounds", "acc-h", "wasted", "standing acc-h", "best HPA", "acc-h", "wasted")  # fmt: skip
    for name, row in rows.known.items():
        ours, standing, hpa = row["recommended"], row["standing"], row["best HPA"]
        line(
            name, row["answer"], ours["setting"], f"{ours['in bounds']:.1%}", f"{ours['acc-h']:.0f}", ours["wasted"],
            f"{standing['acc-h']:.0f}", hpa["setting"], f"{hpa['acc-h']:.0f}", hpa["wasted"],
        )  # fmt: skip


def speed(_part: slice, _rows: Rows) -> None:
    """A whole recommendation on a day of traffic, on two processes, in s of the clock and of the processors."""
    system = load("llama-3.1-8b-1xl4")
    work = system.workload
    plan = LoadPlan.default_traffic(SPEED_RPS, work.prompt_tokens, work.output_tokens)
    scenario = Scenario(system, EngineParams.from_profile(system), plan, parse_slo(work.slo))
    texts: list[str] = []
    started = time.perf_counter()
    found = choose_setting(
        scenario, max_replicas=20, jobs=2, progress=lambda _fraction, text: texts.append(text)
    )
    wall = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    head("day", "requests", "answer", "setting", "settings tried", "progress reports", "s", "CPU s")
    line(
        f"{SPEED_RPS} req/s at its peak", f"{plan.expected_requests:,.0f}", found.answer, label(found.chosen),
        len(found.tried), len(texts), f"{wall:.0f}", f"{sum(u.ru_utime + u.ru_stime for u in used):.0f}",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("scenarios", "bursts", "speed"))
    parser.add_argument("--part", default="0/1", help="I/N: every N-th scenario from the I-th on")
    parser.add_argument("--rows", type=Path, help="file of finished rows: those in it are not run again")
    options = parser.parse_args()
    first, of = map(int, options.part.split("/"))
    {"scenarios": scenarios, "bursts": bursts, "speed": speed}[options.what](
        slice(first, None, of), Rows.open(options.rows)
    )


if __name__ == "__main__":
    main()
