"""Whether a schedule of minima is as cheap as hour-by-hour minima can make it: on weeks of ServeGen, and where it pays.

    python -m benchmarks.schedules TRACES ROWS [--only NAME,...]     measure, one JSON line per service in ROWS
    python -m benchmarks.schedules TRACES ROWS --summary             the table

TRACES is a folder with servegen_m-large_client_windows.csv.gz (14 days, rates of each client every ten minutes). A service is a few of
its clients, at rates that ask for up to about PEAK replicas of 8B on an L4. "steep mornings" is a service of its own kind: weekdays that go from an
eighth of the peak at 8:00 to the whole ten minutes later, until 18:00, quiet weekends, each day with a peak of its own, and replicas that
need half an hour to start. The first week is what is learned from, the second what is judged, both for the schedule (recommend/schedule) and for brute force: every hour of weekdays and of weekends has a minimum of its own, beside
the best of the targets that the schedule may take; from what serves the busiest moments on, and from the schedule itself, minima are lowered,
those of many hours first, at last every hour's by itself, as far as the first week keeps what is promised, over and over until none can be; over all seeds, as the schedule must. A service that is in ROWS already is not measured again.

    beside brute force       accelerator-hours of the schedule on the second week, over those of brute force (asked: within 3 %)
    beside no schedule       the answer's (the schedule where it is recommended) over those without one (asked: at most 1 % above)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from autoscale.profiles import load, overlay
from autoscale.recommend.choice.circumstances import at_speed
from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.judging import Trial
from autoscale.recommend.choice.scenario import Kept, Scenario
from autoscale.recommend.choice.seeds import own_seeds
from autoscale.recommend.choice.settings import Candidate
from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.days import by_days
from autoscale.recommend.model.one_replica import capacity
from autoscale.recommend.schedule.judge import schedule_of
from autoscale.recommend.schedule.learn import LOOSER, TIGHTER, Timed, confirmed, lead_minutes, loosened
from autoscale.recommend.schedule.week import DAY_S, HOURS, WEEK_DAYS, Week
from loadgen.plan import rates
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.parts import between
from loadgen.plan.time_units import WEEKDAYS
from loadgen.plan.traffic import LoadPlan, Process

FILE = "servegen_m-large_client_windows.csv.gz"
WINDOW_S, WEEK_S = 600.0, WEEK_DAYS * DAY_S
PROFILE, PEAK = "llama-3.1-8b-1xl4", 4.0
SERVICES = {  # clients by their requests, the largest first
    "first": slice(0, 1),
    "second": slice(1, 2),
    "third": slice(2, 3),
    "next ten": slice(3, 13),
    "the rest": slice(13, None),
}
STEEP = "steep mornings"
STARTS = {
    "cold_start": {"node": {"median_s": 1500, "p95_s": 1600}}
}  # of STEEP: half an hour with what follows
JUDGED = 8  # weeks of the schedule's own seeds on which brute force is judged
FACTORS = (1.0, 0.75, 0.5)  # of the needs, from which brute force begins
TARGETS = 3  # beside which brute force begins, the cheapest first
WIDTHS = (24, 8, 3, 1)  # hours whose minima brute force lowers at once
CONFIRM_EVERY = 2  # of the minima that held on one seed, from the cheapest on


def windows_of(traces: Path, name: str) -> NDArray[np.float64]:
    """Requests/s of the clients of that name, in every window of the fortnight."""
    if name == STEEP:
        return steep_mornings()
    rows = pd.read_csv(traces / FILE)
    largest = rows.groupby("client_id")["rate_rps"].sum().sort_values(ascending=False).index[SERVICES[name]]
    rate = rows[rows["client_id"].isin(largest)].groupby("window_start_s")["rate_rps"].sum()
    return rate.reindex(np.arange(0.0, 2 * WEEK_S, WINDOW_S), fill_value=0.0).to_numpy(np.float64)


def steep_mornings() -> NDArray[np.float64]:
    """Relative requests/s of a fortnight of office hours."""
    hour = np.arange(0.0, 2 * WEEK_S, WINDOW_S) / 3600
    weekday = np.isin(hour // HOURS % WEEK_DAYS, WEEKDAYS)
    of_day = hour % HOURS
    at = np.interp(of_day, [8.0, 8 + 1 / 6, 17.5, 18.5, 22.0, 23.0], [0.125, 1.0, 1.0, 0.4, 0.4, 0.125])
    peaks = np.random.default_rng(5).uniform(0.85, 1.0, 2 * WEEK_DAYS)
    return np.where(weekday, at, 0.125) * peaks[(hour // HOURS).astype(int)]


def service(traces: Path, name: str) -> Scenario:
    """A fortnight of some clients, at rates for PEAK replicas in the busiest of a hundred windows."""
    rate = windows_of(traces, name)
    profile = overlay(load(PROFILE), STARTS if name == STEEP else {})
    scenario = scenario_of(profile, peak_rps=1.0)
    rate = rate * PEAK * capacity(scenario).rate_rps / np.quantile(rate, 0.99)
    times_s = np.concatenate([[0.0], (np.arange(len(rate)) + 0.5) * WINDOW_S, [2 * WEEK_S]])
    curve = rates.points(times_s, np.concatenate([rate[:1], rate, rate[-1:]]))
    lengths = profile.workload.prompt_tokens, profile.workload.output_tokens
    return replace(scenario, plan=LoadPlan(curve, Process("gamma", 2.0), *map(parse_lengths, lengths)))


def weeks_of(scenario: Scenario) -> tuple[Scenario, Scenario]:
    """The first and the second week."""
    first, second = (Kept(between(scenario.plan, k * WEEK_S, (k + 1) * WEEK_S)) for k in range(2))
    return replace(scenario, plan=first.plan, kept=first), replace(scenario, plan=second.plan, kept=second)


def needs(part: Scenario, rate_rps: float, most: int) -> list[list[int]]:
    """Replicas for the busiest window of every hour, of weekdays and of weekends."""
    at_s = np.arange(WINDOW_S / 2, part.plan.duration_s, WINDOW_S)
    hour = (at_s // 3600).astype(int)
    weekend = ~np.isin(hour // HOURS % WEEK_DAYS, WEEKDAYS)
    rate = part.plan.rate(at_s)
    busiest = [
        [rate[(weekend == k) & (hour % HOURS == h)].max() for h in range(HOURS)] for k in (False, True)
    ]
    return np.clip(np.ceil(1.5 * np.array(busiest) / rate_rps), 1, most).astype(int).tolist()


def brute_force(part: Scenario, base: Candidate, rate_rps: float, beside: Timed | None) -> Timed | None:
    """The cheapest minima of every hour that keep what is promised on a week, as the schedule must: over the same seeds.

    Searched on one of them, for the three cheapest targets from the needs of the hours, or from what is kept without a schedule, and from
    the schedule `beside` it; what then breaks the promise over all gives way to the minima before it.
    """
    seeds = own_seeds(part.plan, part.promise)
    lead = lead_minutes(part)
    starts = [] if beside is None else [beside]
    for looser in (*TIGHTER, *LOOSER[1:]):
        candidate = loosened(base, looser)
        starts.append(Timed(candidate, Week(((base.min_replicas,) * HOURS,) * 2, lead)))
        for factor in FACTORS:
            week = Week(tuple(map(tuple, needs(part, rate_rps / factor, base.max_replicas))), lead)
            starts += [Timed(candidate, week), Timed(candidate, week.at_most(base.min_replicas))]
    trials = {timed: timed.trial(part, seeds[0], np.inf) for timed in dict.fromkeys(starts)}
    holding = sorted((t for t in trials if trials[t].holds), key=lambda t: trials[t].accelerator_hours)
    cheapest: dict[str, Timed] = {}
    for timed in holding:
        cheapest.setdefault(timed.targets, timed)
    begins = [*list(cheapest.values())[:TARGETS], *(one for one in holding if one == beside)]
    found = [
        one
        for timed in dict.fromkeys(begins)
        for one in lowered(
            timed, trials[timed].accelerator_hours, lambda t, limit: t.trial(part, seeds[0], limit)
        )
    ]
    for _, timed in sorted(found, key=lambda one: one[0])[::CONFIRM_EVERY]:
        if confirmed(part, timed, seeds, map).holds:
            return timed
    return None


def lowered(timed: Timed, hours: float, trial: Callable[[Timed, float], Trial]) -> list[tuple[float, Timed]]:
    """Every minimum as low as the others let it be: first those of many hours at once, at last one at a time, each over and over; all
    that held on the way, with their hours."""
    found = [(hours, timed)]
    for width in WIDTHS:
        going = True
        while going:
            going, rows = False, timed.week.rows
            blocks = [(kind, first) for kind in range(len(rows)) for first in range(0, HOURS, width)]
            for kind, first in sorted(blocks, key=lambda at: -max(rows[at[0]][at[1] : at[1] + width])):
                while (week := one_less(timed.week, kind, first, width)) != timed.week:
                    then = replace(timed, week=week)
                    made = trial(then, found[-1][0])
                    if not made.holds or made.accelerator_hours >= found[-1][0]:
                        break
                    timed, going = then, True
                    found.append((made.accelerator_hours, timed))
    return found


def one_less(week: Week, kind: int, first: int, width: int) -> Week:
    """The week with one replica fewer in these hours, one at least."""
    row = list(week.rows[kind])
    row[first : first + width] = [max(least - 1, 1) for least in row[first : first + width]]
    return replace(week, rows=(*week.rows[:kind], tuple(row), *week.rows[kind + 1 :]))


def row_of(traces: Path, name: str) -> dict[str, Any]:
    """One service's figures."""
    began_s = time.process_time()
    scenario = service(traces, name)
    decision = choose_setting(by_days(scenario), jobs=1)
    row: dict[str, Any] = {
        "name": name,
        "requests": scenario.plan.expected_requests,
        "answer": decision.answer,
    }
    if decision.best_hpa is None or decision.capacity is None or decision.chosen is None:
        return row
    found = schedule_of(scenario, decision, WEEK_S, 1)
    made, took_s = found.told, time.process_time() - began_s
    first, second = weeks_of(at_speed(scenario, decision.slower))
    brute = brute_force(first, decision.best_hpa.setting, decision.capacity.rate_rps, found.timed)
    seeds = own_seeds(second.plan, second.promise)[:JUDGED]
    judged = [] if brute is None else [brute.trial(second, seed, None) for seed in seeds]
    plain_hours, holds = made.plain_accelerator_hours, [made.holds, made.plain_holds]
    if found.timed is None:
        trials = [second(decision.chosen.setting, seed, None) for seed in seeds]
        plain_hours, holds = mean_hours(trials), []
    return row | {
        "schedule": made.sentence,
        "recommended": made.recommended,
        "setting": decision.chosen.setting.label,
        "holds": holds,
        "hours": made.accelerator_hours,
        "plain_hours": plain_hours,
        "brute_hours": mean_hours(judged) if judged else None,
        "brute_kept": sum(trial.kept for trial in judged),
        "brute_days": sum(trial.periods for trial in judged),
        "brute": None if brute is None else [brute.targets, brute.week.rows],
        "schedule_s": took_s,
        "seconds": time.process_time() - began_s,
    }


def mean_hours(trials: list[Trial]) -> float:
    """Accelerator-hours, the mean over the trials."""
    return float(np.mean([trial.accelerator_hours for trial in trials]))


def told(row: dict[str, Any]) -> str:
    """A row in a line."""
    if "hours" not in row:
        return f"{row['name']}: {row['answer']}"
    answer = row["hours"] if row["recommended"] else row["plain_hours"]
    brute = "none"
    if row["brute_hours"] is not None:
        brute = f"{row['brute_hours']:.1f} (the answer {answer / row['brute_hours'] - 1:+.1%}), which keeps {row['brute_kept']} of {row['brute_days']} days"
    kept = [" (keeps the promise)" if one else " (does not keep the promise)" for one in row["holds"]]
    schedule, plain = kept or ["", ""]
    return (
        f"{row['name']}: {row['setting']}; accelerator-hours of the second week: schedule {row['hours']:.1f}{schedule}, without "
        f"{row['plain_hours']:.1f}{plain}, answer {answer / row['plain_hours'] - 1:+.1%} of that; brute force {brute}; {row['schedule']}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("traces", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--only", default=",".join([*SERVICES, STEEP]))
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    rows = (
        [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    )
    known = {row["name"] for row in rows}
    for name in () if options.summary else options.only.split(","):
        if name not in known:
            rows.append(row_of(options.traces, name))
            with options.rows.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(told(rows[-1]), flush=True)
    if options.summary:
        print("\n".join(map(told, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
