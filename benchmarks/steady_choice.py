"""Whether an answer depends on chance, or on how fast the replica really is.

    python -m benchmarks.steady_choice chance --only "8b-1xl4"   five sets of seeds, and traffic 2.5 % below and above
    python -m benchmarks.steady_choice prior --only "8b-1xl4"    true speeds drawn from the prediction's published error

`chance`: the answer under each set of seeds and each traffic, held against the first one's: is its target inside the
interval that the first one prints, where it scales by the same signals, and how much do the answers cost under the first
one's traffic (spread: the dearest above the cheapest, over seeds that none of them has seen)? `prior`: one answer without
a run; then each drawn speed serves its own fresh days, and the draw counts as kept when as many of them keep the SLO as was
promised. The scenarios are those of `benchmarks.days_kept`, the cheapest first; `--rows FILE` keeps finished rows.
"""

from __future__ import annotations

import argparse
import math
import sys
from itertools import islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from autoscale.profiles.prior_error import prior_error
from autoscale.recommend.answer import Decision
from autoscale.recommend.choice.circumstances import at_speed, at_traffic
from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.judging import confirm
from autoscale.recommend.choice.settings import Choice
from benchmarks.days_kept import FRESH, all_cases, reseeded
from benchmarks.recommend import Case, Row, Rows, head, label, line

SETS, APART = 5, 1_000_000  # sets of seeds, and how far the seeds of one are from those of the next
TRAFFIC = (-0.025, 0.025)
COSTED = 64  # fresh seeds that answers are costed over
DRAWS = 100
DAYS = 20  # fresh days of each drawn speed: 19 of them are 95 %


def chance(case: Case, jobs: int | None, _draws: int) -> Row:
    """The answers of all sets of seeds and of both traffics, against the first."""
    worlds = {f"seeds {k + 1}": reseeded(case.scenario, k * APART) for k in range(SETS)}
    worlds |= {f"traffic {change:+.1%}": at_traffic(case.scenario, change) for change in TRAFFIC}
    found = {name: choose_setting(world, jobs=jobs) for name, world in worlds.items()}
    first = found["seeds 1"]
    settings = {name: answer.chosen.setting for name, answer in found.items() if answer.chosen}
    if first.chosen is None:
        return {"answers": {name: answer.answer for name, answer in found.items()}}
    again = confirm(
        case.scenario.keeping(),
        dict.fromkeys(settings.values()),
        range(FRESH, FRESH + COSTED),
        cost_limit_h=None,
    )
    hours = {one.setting: one.cost for one in again}
    costs = [hours[setting] for name, setting in settings.items() if name.startswith("seeds")]
    return {
        "answers": {name: label(answer.chosen) for name, answer in found.items()},
        "interval": first.interval.ends,
        "inside": [_inside(first, settings[name]) for name in list(found)[1:] if name in settings],
        "acc-h": [round(hours[setting], 2) for setting in settings.values()],
        "spread": max(costs) / min(costs) - 1,
    }


def _inside(first: Decision, other: Choice) -> bool | None:
    """Whether its targets lie in the interval that the first answer prints; None where they are of other signals."""
    ends = first.interval.ends
    if set(dict(other.targets)) != set(ends):
        return None
    return all(ends[s][0] - 1e-9 <= value <= ends[s][1] + 1e-9 for s, value in other.targets)


def prior(case: Case, jobs: int | None, draws: int) -> Row:
    """The answer without a run, and what becomes of it at speeds that the prediction's error leaves open."""
    scenario = case.scenario
    half = prior_error(scenario.profile).step.half_width_95
    found = choose_setting(scenario, step_scale=half, jobs=jobs)
    if found.chosen is None:
        return {"answer": found.answer}
    rng = np.random.default_rng(1)
    kept, worst = [], 0
    for draw in range(draws):
        truth = at_speed(scenario, max(half / 1.960 * float(rng.standard_normal()), -0.9))
        first = FRESH + DAYS * draw
        days = confirm(truth, [found.chosen.setting], range(first, first + DAYS))[0]
        kept.append(days.periods - days.broken >= math.ceil(scenario.promise.days_kept * days.periods))
        worst = max(worst, days.broken)
    return {
        "answer": found.answer,
        "setting": label(found.chosen),
        "slower": found.slower,
        "thin": found.thin,
        "kept": sum(kept),
        "draws": draws,
        "worst": f"{worst} of {DAYS}",
        "acc-h": round(found.chosen.cost, 2),
    }


def table_of_chance(rows: Rows) -> None:
    """A row per scenario, and the totals of what is asked."""
    head("scenario", "answers", "interval", "inside", "other signals", "cost spread")
    inside: list[bool] = []
    known = {name: row for name, row in rows.known.items() if "spread" in row}
    for name, row in known.items():
        told = [one for one in row["inside"] if one is not None]
        inside += told
        line(
            name, "; ".join(dict.fromkeys(row["answers"].values())), row["interval"], f"{sum(told)} of {len(told)}",
            len(row["inside"]) - len(told), f"{row['spread']:.1%}",
        )  # fmt: skip
    tight = sum(row["spread"] <= 0.03 for row in known.values())
    print(
        f"\ninside in {sum(inside)} of {len(inside)}; a spread of 3 % at most in {tight} of {len(known)} scenarios"
    )


def table_of_prior(rows: Rows) -> None:
    """A row per scenario."""
    head("scenario", "answer", "setting", "draws kept as promised", "worst draw broke", "acc-h")
    for name, row in rows.known.items():
        if "kept" in row:
            line(
                name, row["answer"], row["setting"], f"{row['kept']} of {row['draws']}", row["worst"], row["acc-h"]
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("chance", "prior"))
    parser.add_argument("--only", default="", help="scenarios whose name holds this text")
    parser.add_argument("--draws", type=int, default=DRAWS, help="speeds drawn for each answer")
    parser.add_argument("--jobs", type=int, help="processes of a search; default one per core")
    parser.add_argument("--part", default="0/1", help="I/N: every N-th scenario from the I-th on")
    parser.add_argument("--rows", type=Path, help="file of finished rows: those in it are not run again")
    options = parser.parse_args()
    first, of = map(int, options.part.split("/"))
    rows = Rows.open(options.rows)
    judge, table = {"chance": (chance, table_of_chance), "prior": (prior, table_of_prior)}[options.what]
    for case in islice(all_cases(options.only), first, None, of):
        if case.name not in rows.known:
            rows.add(case.name, judge(case, options.jobs, options.draws))
    table(rows)


if __name__ == "__main__":
    main()
