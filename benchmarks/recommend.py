"""How good recommendations are: against the tutorial's HPA, against an exhaustive search, and on bursts.

    python -m benchmarks.recommend tutorial        24 scenarios: 4 profiles x 3 traffics x 2 cold starts, a Markdown table
    python -m benchmarks.recommend regret          the same against every line of the space, bisected on other seeds
    python -m benchmarks.recommend bursts          start {2, 20, 90 min} x burst {5, 15, 30 min}: wasted scale-outs
    python -m benchmarks.recommend speed           a day at 5 requests/s, up to 16 replicas

`--part I/N` takes every N-th scenario from the I-th on, so that several processes share the work. Every scenario lasts a
few hours. The recommendation is judged over its confirming seeds, settings of the exhaustive search over others.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, product

import numpy as np

from analysis.slo import parse_slo
from autoscale.profiles import load, overlay
from autoscale.recommend.candidates import Candidate
from autoscale.recommend.decide import build_space, capacity, decide
from autoscale.recommend.scenario import Scenario
from autoscale.recommend.search import Judged, choose, confirm, loosest
from autoscale.sim.engine import EngineParams
from loadgen import lengths, rates
from loadgen.traffic import LoadPlan, parse_arrivals

PROFILES = (
    "llama-3.1-8b-1xl4",
    "llama-3.1-70b-v6e8",
    "llama-3.1-405b-2x8h100-hdml",
    "deepseek-r1-2x8h100-hdml",
)
COLD_MIN = (2, 20)
HOURS = 3.0
PEAK = 3.0  # in multiples of one replica's capacity
FRESH = range(101, 109)  # seeds of the exhaustive search


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
        lengths.parse(work.prompt_tokens),
        lengths.parse(work.output_tokens),
    )
    scenario = Scenario(system, EngineParams.from_profile(system), plan, parse_slo(work.slo), work.attainment)
    top = PEAK * capacity(scenario).rate_rps
    return replace(scenario, plan=replace(plan, programme=programme(traffic, top, burst_min, hours)))


def programme(traffic: str, top: float, burst_min: float, hours: float) -> rates.Rate:
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
    for profile, traffic, cold_min in product(PROFILES, ("day", "bursts", "ramps"), COLD_MIN):
        yield Case(f"{profile}, {traffic}, start {cold_min} min", scenario_of(profile, cold_min, traffic))


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(*cells: str) -> None:
    row(*cells)
    row(*("---" for _ in cells))


def label(judged: Judged | None) -> str:
    """The setting in words."""
    if judged is None:
        return "none"
    return judged.setting.label if isinstance(judged.setting, Candidate) else f"{judged.setting} standing"


def tutorial(part: slice) -> None:
    """Recommended against the tutorial's HPA with the same bounds; where that is cheaper, at its own attainment."""
    head(
        "scenario", "recommended", "in bounds", "acc-h", "tutorial: in bounds", "acc-h", "at the tutorial's attainment",
        "CPU s",
    )  # fmt: skip
    for case in islice(cases(), part.start, None, part.step):
        started = time.process_time()
        found = decide(case.scenario, jobs=1)
        other, chosen = found.tutorial, found.chosen
        spent = time.process_time() - started
        if chosen is None or other is None:
            row(case.name, found.answer, *("",) * 5, f"{spent:.0f}")
            continue
        equal = "better and no dearer"
        if chosen.cost > other.cost:
            equal = at_attainment(case.scenario, other)
        row(
            case.name, label(chosen), f"{chosen.mean('attainment'):.1%}", f"{chosen.cost:.1f}",
            f"{other.mean('attainment'):.1%}", f"{other.cost:.1f}", equal, f"{spent:.0f}",
        )  # fmt: skip


def at_attainment(scenario: Scenario, other: Judged) -> str:
    """What a recommendation costs when only the other's share of requests must be kept."""
    share = min(max(other.mean("attainment"), 0.01), 0.999)
    limit = other.setting.max_replicas if isinstance(other.setting, Candidate) else None
    easier = replace(scenario, attainment=share)
    found = decide(easier, jobs=1, max_replicas=limit, seeds=2)
    options = [
        j for j in (found.chosen, found.best_hpa, found.static) if j is not None and j.mean("margin") >= 0
    ]
    best = min(options, key=lambda j: j.cost, default=None)
    if best is None:
        return "none found"
    return f"{best.cost:.1f} ({best.cost / other.cost - 1:+.0%}) with {best.mean('attainment'):.1%}: {label(best)}"


def regret(part: slice) -> None:
    """Accelerator-hours against the best of all lines, each bisected on another seed, judged over FRESH seeds."""
    head("scenario", "recommended", "acc-h", "exhaustive", "acc-h", "regret", "trials", "of search")
    for case in islice(cases(), part.start, None, part.step):
        found = decide(case.scenario, jobs=1)
        if found.chosen is None or found.static is None or found.capacity is None:
            row(case.name, found.answer, *("",) * 6)
            continue
        standing = found.static.setting
        assert isinstance(standing, int)
        cap = standing + max(1, math.ceil(standing / 4))
        space = build_space(case.scenario, found.capacity, standing, cap)
        families = [((), s) for s in space.targets]
        families += [
            ((("waiting", w),), s) for w in space.waiting_in_pairs for s in space.targets if s != "waiting"
        ]
        tried = {}
        minima = range(1, standing + 1) if standing <= 4 else space.min_replicas
        for family, behavior, low, high in product(
            families, space.behaviors, minima, {*space.lower_max, space.max_replicas}
        ):
            if low <= high:
                line = space.line(family, behavior, low, high)
                tried.update(dict(loosest(case.scenario, line, found.static.cost, seed=FRESH[0])[1]))
        ordered = sorted(tried.items(), key=lambda item: item[1].accelerator_hours)
        best = [j for j in choose(case.scenario, ordered, space, FRESH, most=40) if j.holds]
        again = confirm(case.scenario, [found.chosen.setting], FRESH)[0]  # type: ignore[list-item]
        least = min([*best, *confirm(case.scenario, [standing], FRESH)], key=lambda j: j.cost)
        row(
            case.name, label(found.chosen), f"{again.cost:.1f}", label(least), f"{least.cost:.1f}",
            f"{again.cost / least.cost - 1:+.1%}", len(tried), len(found.tried),
        )  # fmt: skip


def bursts(part: slice) -> None:
    """Wasted scale-outs of what is recommended."""
    head(
        "start, burst",
        "answer",
        "setting",
        "acc-h",
        "wasted",
        "standing acc-h",
        "best HPA",
        "acc-h",
        "wasted",
    )
    grid = product((2, 20, 90), (5, 15, 30))
    for cold_min, burst_min in islice(grid, part.start, None, part.step):
        scenario = scenario_of("llama-3.1-405b-2x8h100-hdml", cold_min, "bursts", burst_min, hours=5)
        found = decide(scenario, jobs=1)
        chosen, static, hpa = found.chosen, found.static, found.best_hpa
        assert chosen is not None
        assert static is not None
        assert hpa is not None
        row(
            f"{cold_min} min, {burst_min} min", found.answer, label(chosen), f"{chosen.cost:.0f}", chosen.wasted,
            f"{static.cost:.0f}", label(hpa), f"{hpa.cost:.0f}", hpa.wasted,
        )  # fmt: skip


def speed(_: slice) -> None:
    """A whole recommendation on a day of traffic, on two processes."""
    system = load("llama-3.1-8b-1xl4")
    work = system.workload
    plan = LoadPlan.default_traffic(5.0, work.prompt_tokens, work.output_tokens)
    scenario = Scenario(system, EngineParams.from_profile(system), plan, parse_slo(work.slo))
    started = time.perf_counter()
    found = decide(scenario, max_replicas=20, jobs=2)
    wall = time.perf_counter() - started
    head("day", "requests", "answer", "setting", "settings tried", "s")
    row(
        "5 req/s",
        f"{plan.expected_requests:,.0f}",
        found.answer,
        label(found.chosen),
        len(found.tried),
        f"{wall:.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("tutorial", "regret", "bursts", "speed"))
    parser.add_argument("--part", default="0/1", help="I/N: every N-th scenario from the I-th on")
    options = parser.parse_args()
    first, of = map(int, options.part.split("/"))
    {"tutorial": tutorial, "regret": regret, "bursts": bursts, "speed": speed}[options.what](
        slice(first, None, of)
    )


if __name__ == "__main__":
    main()
