"""Nights at zero: what the search finds against brute force over the same seeds, under the same promise.

    python -m benchmarks.nights                 all nights: one to two hours of a processor; a table
    python -m benchmarks.nights --only 405B     those whose name holds the text

Brute force tries every setting of a grid: thresholds, windows, minimum and maximum, cooldowns. The search confirms its answer
over seeds of its own, which it has not searched on; the grid's best is the cheapest that keeps the promise over these very
seeds: it may choose on them, so that it is cheaper by luck, too. How many of the FRESH days, on which nothing was chosen, either
keeps is told beside it. `--rows FILE` keeps finished rows.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from autoscale.recommend.choice import seeds
from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.judging import Judged, confirm
from autoscale.recommend.choice.keda.scaled_object import Keda
from autoscale.recommend.choice.keda.space import KedaAsked, keda_space
from autoscale.recommend.choice.panel import hardest_first
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.settings import Behavior, Candidate
from autoscale.recommend.choice.space import Space, build_space, with_spare
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.progress import Progress, silent
from benchmarks.keda_thresholds import PROFILES, Case, night
from benchmarks.recommend import Row, Rows, head, line

QUEUES = (1, 5)
WINDOWS_S = (None, 300, 1800)
COOLDOWNS_S = (180, 900)
FRESH = range(20_001, 20_201)
EVERY = 2  # of the search's targets in flight, which lie 6 % apart


def cases() -> Iterator[Case]:
    """The night of `keda_thresholds`, a shorter one with longer starts, and one of a large replica under its profile's SLO."""
    small, large = PROFILES
    yield night()
    yield night(small, 1.0, 10, slo_start_s=1500.0)
    yield night(large, 1.0, slo="")


def grid(space: Space, standing: int) -> Iterator[Candidate]:
    """Every setting of the grid; a queue alone counts nothing that runs, what is in flight alone starts nothing: pairs."""
    minima = sorted({1, *(max(1, round(standing * share)) for share in (0.5, 0.75, 1)), space.max_replicas})
    bounds = product(minima, (standing, space.max_replicas))
    sent = space.targets["gateway_in_flight"][::EVERY]
    kedas = [Keda(zero_after_s=seconds) for seconds in COOLDOWNS_S]
    for queue, value, window_s, (low, high), keda in product(QUEUES, sent, WINDOWS_S, bounds, kedas):
        if low <= high:
            targets = (("gateway_queue", queue), ("gateway_in_flight", value))
            yield Candidate(targets, Behavior(window_s), low, high, keda)


def brute_force(
    scenario: Scenario, settings: list[Candidate], order: Sequence[int], limit_h: float
) -> Judged[Candidate] | None:
    """The cheapest of the settings that keeps the promise over the seeds, the hardest of which come first; None: none does.

    As with the choice: the SLO may break, and replicas start in vain, on no more of the seeds than still show the promise.
    All are seen on the first seed, what costs over a tenth more than `limit_h` there is left out; then, the cheapest there
    first, each until it cannot hold any more, on what broke others before. What costs a twentieth more than the best on the
    first seed is dearer on all.
    """
    first, rest = order[0], list(order[1:])
    looked = [Judged(setting, (scenario(setting, first, 1.1 * limit_h),)) for setting in settings]
    hopeful = [one for one in looked if one.may_hold(len(order)) and not one.given_up]
    best: Judged[Candidate] | None = None
    for one in sorted(hopeful, key=lambda one: one.cost):
        if best is not None and one.cost > 1.05 * best.trials[0].accelerator_hours:
            break
        judged = _until_broken(scenario, one, rest, len(order))
        if len(judged.trials) == len(order) and judged.holds and (best is None or judged.cost < best.cost):
            best = judged
    return best


def _until_broken(
    scenario: Scenario, judged: Judged[Candidate], rest: list[int], of: int
) -> Judged[Candidate]:
    """With the rest of the seeds, until it cannot hold over so many any more; the seed that broke it comes first then."""
    for seed in list(rest):
        trial = scenario(judged.setting, seed, math.inf)
        judged = judged.and_over([trial])
        if not trial.holds:
            rest.remove(seed)
            rest.insert(0, seed)
        if judged.given_up or not judged.may_hold(of):
            break
    return judged


def judge(case: Case, report: Progress = silent) -> Row:
    """One night: the search's answer, and brute force."""
    started = time.process_time()
    asked = KedaAsked(case.to_zero, case.scenario.slo_cold_start_s, case.signals)
    found = choose_setting(case.scenario, keda=asked, jobs=1, progress=report)
    searched = time.process_time() - started
    if found.chosen is None or found.static is None or found.capacity is None:
        return {"answer": found.answer}
    scenario, standing = case.scenario.keeping(), found.static.setting.replicas
    cap = with_spare(standing)
    space = keda_space(build_space(scenario, found.capacity, standing, cap), scenario, found.capacity, asked)
    own = seeds.own_seeds(scenario.plan, scenario.promise)
    settings = list(grid(space, standing))
    fleet, ours = confirm(scenario, [found.static.setting, found.chosen.setting], own)
    best = brute_force(scenario, settings, hardest_first(fleet, own), min(ours.cost, fleet.cost))
    cheapest_h = min(fleet.cost, best.cost if best else math.inf)
    named = best.setting if best else fleet.setting
    fresh, again = confirm(scenario, [ours.setting, named], FRESH)
    return {
        "found": ours.setting.label,
        "hours": ours.cost,
        "days": ours.mean("days_kept"),
        "seeds": len(own),
        "fresh": fresh.mean("days_kept"),
        "grid": named.label,
        "grid_fresh": again.mean("days_kept"),
        "grid_hours": cheapest_h,
        "regret": ours.cost / cheapest_h - 1,
        "settings": len(settings),
        "standing_hours": fleet.cost,
        "search_cpu_s": searched,
        "cpu_s": time.process_time() - started,
    }


def main() -> None:
    """The table."""
    seeds.CHOOSING = replace(CHOOSING, panel_most=2, confirm_s=0.0, beside_s=0.0)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    rows = Rows.open(options.rows)
    asked = [case for case in cases() if options.only in case.name]
    for case in asked:
        if case.name not in rows.known:
            rows.add(case.name, judge(case))
    head("night", "found", "days kept", "of fresh days", "acc-h", "brute force", "of fresh days", "acc-h", "dearer by", "standing acc-h", "CPU s of the search")  # fmt: skip
    for case in asked:
        row = rows.known[case.name]
        if "found" not in row:
            line(case.name, row["answer"])
            continue
        line(
            case.name,
            row["found"],
            f"{row['days']:.0%} of {row['seeds']}",
            f"{row['fresh']:.1%} of {len(FRESH)}",
            f"{row['hours']:.2f}",
            f"{row['grid']} (of {row['settings']:,})",
            f"{row['grid_fresh']:.1%}",
            f"{row['grid_hours']:.2f}",
            f"{row['regret']:+.1%}",
            f"{row['standing_hours']:.1f}",
            f"{row['search_cpu_s']:.0f}",
        )


if __name__ == "__main__":
    main()
