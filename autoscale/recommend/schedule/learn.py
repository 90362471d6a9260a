"""Which minima to keep by the hour, beside which target: searched on the days that a schedule is learned from.

needs       per hour of the kinds of days, the replicas that the rate of most such hours takes (one_replica's capacity)
families    the setting without a schedule, also a little tighter: over all seeds it may just not hold on these days; needs, more or
            less of them, joined to few windows, beside targets that are as tight or looser, and beside the tighter ones where no hour
            has more than without a schedule
neighbours  of the cheapest that holds: a window with one replica more or fewer, an hour longer or shorter, a quarter of the day
            with one replica fewer, a looser target
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from autoscale.recommend.choice.judging import Each, Judged, Trial
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.seeds import trial_s
from autoscale.recommend.choice.settings import Candidate
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.schedule.week import DAY_S, HOUR_S, HOURS, WEEK_DAYS, Week, joined_hours
from autoscale.sim.fleet.outcome import Outcome
from loadgen.plan.time_units import WEEKDAYS

USUAL = 0.9  # share of the five-minute rates of such hours that a need covers
RATE_S = 300.0
FACTORS = (1.0, 0.75, 0.5, 1.25)  # of the needs
WINDOWS = (2, 3, 4)  # changes a day
LOOSER = (1.0, 1.3, 1.7, 2.5)  # targets, relative to that of the setting without a schedule
TIGHTER = (1.0, 0.94, 0.88)  # the same where no hour has more replicas than without a schedule
SEARCH_S = 240.0  # of a processor
FEWEST = 8  # settings of the families that are tried however long a simulation takes
ROUNDS = 4
FINALISTS = 16
APART = 1.01  # at least, of their accelerator-hours
DEARER = 1.25  # times the cheapest that holds, from which on a setting is given up
AT_A_TIME = 4  # seeds of a finalist, which is given up once the others cannot show the promise any more
LEAD = 1.2  # of the median start


@dataclass(frozen=True)
class Timed:
    """A setting and the week of its minimum."""

    candidate: Candidate
    week: Week

    def trial(self, part: Scenario, seed: int, cost_limit_h: float | None) -> Trial:
        """One simulation under a part of the traffic."""
        return self.under(part)(self.at_begin(part), seed, cost_limit_h)

    def outcome(self, whole: Scenario, seed: int) -> Outcome:
        """One simulation of the day, or the traffic, of a seed to its end."""
        part = replace(whole, plan=whole.plan.of_seed(seed), kept=None)
        return self.under(part).outcome(self.at_begin(part), seed)

    def under(self, part: Scenario) -> Scenario:
        """The part with somebody who patches the minimum."""
        changes = self.week.changes(part.plan.begins_s, part.plan.duration_s)
        return replace(part, options=replace(part.options, minima=changes))

    def at_begin(self, part: Scenario) -> Candidate:
        """The setting with the minimum that it begins with."""
        least = self.week.changes(part.plan.begins_s, part.plan.duration_s)[0][1]
        return replace(self.candidate, min_replicas=least)

    @property
    def label(self) -> str:
        """The reactive setting and the minima beside it."""
        return f"{self.targets}, {self.week.in_words()}"

    @property
    def targets(self) -> str:
        """The reactive setting, without bounds."""
        return ", ".join(self.candidate.label.split(", ")[: len(self.candidate.targets)])


def learned(
    part: Scenario, base: Candidate, rate_rps: float, seeds: Sequence[int], each: Each
) -> Judged[Timed] | None:  # type: ignore[type-var]
    """The cheapest week with its target that keeps the promise on these days, over the seeds; None when none does.

    `rate_rps` is the capacity of one replica.
    """
    tried: dict[Timed, Trial] = {}
    search = partial(_search, part, seeds[0] + 1_000_000, each, tried)
    budget = max(FEWEST, int(SEARCH_S / trial_s(part.plan)))
    search(list(_families(part, base, rate_rps))[:budget], math.inf)
    for _ in range(ROUNDS):
        best = _cheapest(tried)
        if best is None or len(tried) >= budget:
            break
        near = [one for one in _neighbours(best, base) if one not in tried][: budget - len(tried)]
        search(near, tried[best].accelerator_hours)
        if _cheapest(tried) == best:
            break
    holding = sorted(
        (t for t, trial in tried.items() if trial.holds), key=lambda t: tried[t].accelerator_hours
    )
    for timed in finalists({timed: tried[timed].accelerator_hours for timed in holding}):
        judged = confirmed(part, timed, seeds, each)
        if judged.holds:
            return judged
    return None


def finalists(hours: Mapping[Timed, float]) -> list[Timed]:
    """Of what holds on one seed, the cheapest first, those to be confirmed: each a little dearer than the one before, for what costs the
    same as one that broke the promise is like it; at last those without windows."""
    apart: list[Timed] = []
    for timed, own_h in hours.items():
        if len(apart) < FINALISTS and (not apart or own_h >= APART * hours[apart[-1]]):
            apart.append(timed)
    return list(dict.fromkeys([*apart, *(timed for timed in hours if not timed.week.windows()[1])]))


def confirmed(part: Scenario, timed: Timed, seeds: Sequence[int], each: Each) -> Judged[Timed]:  # type: ignore[type-var]
    """A finalist over the seeds, some at a time, as long as it may hold over all of them."""
    judged = Judged(timed, ())  # type: ignore[type-var]
    for first in range(0, len(seeds), AT_A_TIME):
        some = [(timed, seed) for seed in seeds[first : first + AT_A_TIME]]
        judged = judged.and_over(tuple(each(partial(_trial, part, None), some)))
        if not judged.may_hold(len(seeds)):
            break
    return judged


def _search(
    part: Scenario,
    seed: int,
    each: Each,
    tried: dict[Timed, Trial],
    settings: Iterable[Timed],
    limit_h: float,
) -> None:
    """Try them; what gets much dearer than the cheapest that held before its batch is stopped."""
    settings = list(settings)
    for first in range(0, len(settings), CHOOSING.at_once):
        some = settings[first : first + CHOOSING.at_once]
        best = _cheapest(tried)
        most_h = limit_h if best is None else min(limit_h, DEARER * tried[best].accelerator_hours)
        trials = each(partial(_trial, part, most_h), [(timed, seed) for timed in some])
        tried.update(zip(some, trials, strict=True))


def _trial(part: Scenario, limit_h: float | None, pair: tuple[Timed, int]) -> Trial:
    return pair[0].trial(part, pair[1], limit_h)


def _cheapest(tried: dict[Timed, Trial]) -> Timed | None:
    holding = [timed for timed, trial in tried.items() if trial.holds]
    return min(holding, key=lambda t: tried[t].accelerator_hours) if holding else None


def rates_by_hour(part: Scenario) -> NDArray[np.float64]:
    """The usual rate of each hour, (kinds of days, 24): one kind where less than a week is known."""
    plan = part.plan
    at_s = np.arange(RATE_S / 2, plan.duration_s, RATE_S)
    hour = ((plan.begins_s + at_s) // HOUR_S).astype(int)
    weekly = plan.duration_s >= WEEK_DAYS * DAY_S
    kind = (
        np.where(np.isin(hour // HOURS % WEEK_DAYS, WEEKDAYS), 0, 1) if weekly else np.zeros(len(hour), int)
    )
    rate = plan.rate(at_s)
    return np.array(
        [
            [
                np.quantile(own, USUAL) if len(own := rate[(kind == k) & (hour % HOURS == h)]) else 0.0
                for h in range(HOURS)
            ]
            for k in range(2 if weekly else 1)
        ]
    )


def _families(part: Scenario, base: Candidate, rate_rps: float) -> Iterator[Timed]:
    rates, lead = rates_by_hour(part), lead_minutes(part)
    same = Week(((base.min_replicas,) * HOURS,) * len(rates), lead)
    seen = dict.fromkeys(Timed(loosened(base, factor), same) for factor in TIGHTER)
    yield from seen
    for windows, looser, factor in sorted(product(WINDOWS, LOOSER, FACTORS), key=_from_the_middle):
        needs = np.clip(np.ceil(factor * rates / rate_rps), 1, base.max_replicas).astype(int).tolist()
        week = Week(tuple(joined_hours(row, windows) for row in needs), lead)
        made = [Timed(loosened(base, looser), week)]
        if looser == LOOSER[0]:
            least = week.at_most(base.min_replicas)
            made = [*(Timed(loosened(base, tighter), least) for tighter in TIGHTER), *made]
        for timed in made:
            if timed not in seen:
                seen[timed] = None
                yield timed


def _from_the_middle(choice: tuple[int, float, float]) -> tuple[float, ...]:
    """The order in which families are tried where not all can be: what differs most, first."""
    windows, looser, factor = choice
    return (WINDOWS.index(windows) + LOOSER.index(looser) + FACTORS.index(factor), *choice)


def lead_minutes(part: Scenario) -> int:
    """How long before its hour a minimum rises, so that replicas are ready."""
    return min(55, 5 * math.ceil(LEAD * part.cold_start_s / 300))


def loosened(base: Candidate, factor: float) -> Candidate:
    """The setting with its last target so many times as loose; a KV cache can be no fuller than full."""
    *fixed, (signal, value) = base.targets
    loose = min(value * factor, 0.95) if signal == "kv_usage" else value * factor
    return replace(base, targets=(*fixed, (signal, round(loose, 3))))


def _neighbours(timed: Timed, base: Candidate) -> Iterator[Timed]:
    for factor in (1.12, 1.3):
        yield replace(timed, candidate=loosened(timed.candidate, factor))
    for change in (_fewer, _quarters, _shorter, _more):
        yield from (replace(timed, week=week) for week in change(timed.week, base.max_replicas))


def _windows_of(row: Sequence[int]) -> Iterator[tuple[int, int]]:
    edges = [0, *(h for h in range(1, HOURS) if row[h] != row[h - 1]), HOURS]
    yield from pairwise(edges)


def _with(week: Week, kind: int, begin: int, end: int, make: Callable[[int], int]) -> Week:
    row = list(week.rows[kind])
    row[begin:end] = [make(least) for least in row[begin:end]]
    return replace(week, rows=(*week.rows[:kind], tuple(row), *week.rows[kind + 1 :]))


def _fewer(week: Week, _: int) -> Iterator[Week]:
    for kind, row in enumerate(week.rows):
        for begin, end in _windows_of(row):
            if row[begin] > 1:
                yield _with(week, kind, begin, end, lambda least: least - 1)


def _quarters(week: Week, _: int) -> Iterator[Week]:
    for kind, row in enumerate(week.rows):
        for begin in range(0, HOURS, HOURS // 4):
            if max(row[begin : begin + HOURS // 4]) > 1:
                yield _with(week, kind, begin, begin + HOURS // 4, lambda least: max(least - 1, 1))


def _more(week: Week, most: int) -> Iterator[Week]:
    for kind, row in enumerate(week.rows):
        for begin, end in _windows_of(row):
            if row[begin] < most:
                yield _with(week, kind, begin, end, lambda least: least + 1)


def _shorter(week: Week, _: int) -> Iterator[Week]:
    """An hour at either end of a window goes to the lower neighbour."""
    for kind, row in enumerate(week.rows):
        for begin, end in _windows_of(row):
            before, after = row[begin - 1], row[end % HOURS]
            if before < row[begin]:
                yield _with(week, kind, begin, begin + 1, lambda _, low=before: low)  # type: ignore[misc]
            if after < row[begin]:
                yield _with(week, kind, end - 1, end, lambda _, low=after: low)  # type: ignore[misc]
