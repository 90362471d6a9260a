"""The cheapest setting that holds the SLO, found by simulating the real HPA rules.

The search rests on one fact: along a *line* (signals, behaviour and bounds fixed, the target rising) accelerator time
falls and attainment falls, so the loosest target that holds is the cheapest of its line and bisection finds it. Lines
race: a trial stops as soon as it has more breaches than the SLO allows or costs more than the best setting so far.
What is found here is judged again over fresh seeds before anything is chosen (choice.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from types import MappingProxyType
from typing import TypeVar

from autoscale.recommend.choice.judging import Each, Judge, Trial
from autoscale.recommend.choice.settings import Behavior, Candidate, Setting, Standing
from autoscale.recommend.choice.space import Family, Line, Space, calmed, family_of
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.progress import Progress, silent

K = TypeVar("K")
Tried = tuple[Candidate, Trial]


def static_fleet(judge: Judge, start: int, limit: int) -> tuple[int | None, dict[int, Trial]]:
    """The fewest standing replicas that hold the SLO (None: not even `limit`), and what was tried."""
    tried: dict[int, Trial] = {}

    def holds(count: int) -> bool:
        if count not in tried:
            tried[count] = judge(Standing(count), 0)
        return tried[count].holds

    low, high = 0, max(1, min(start, limit))
    while not holds(high):
        if high >= limit:
            return None, tried
        low, high = high, min(limit, high + max(1, high // 2))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high, tried


def loosest(
    judge: Judge, line: Line, cost_limit_h: float, seed: int = 0, start: int | None = None
) -> tuple[Candidate | None, list[Tried]]:
    """The loosest setting of a line that holds for less than the limit, by bisection, and all that was tried.

    With `start`, an index near which the end is expected, it gallops from there: two or three trials when that is right.

    A trial that was stopped for its cost says nothing about the SLO: the search goes on looser; one that was stopped
    for its breaches goes on tighter; when both meet, the line holds nothing cheaper than the limit.
    """
    tried: list[Tried] = []
    best: Candidate | None = None
    low, high, stride = -1, len(line.settings), 1
    middle = high // 2 if start is None else min(start, high - 1)
    galloping = start is not None
    while high - low > 1:
        setting = line.settings[middle]
        trial = judge(setting, seed, cost_limit_h)
        tried.append((setting, trial))
        looser = trial.stopped == "cost" or trial.holds
        if trial.holds:
            best = setting
        low, high = (middle, high) if looser else (low, middle)
        ahead = middle + stride if looser else middle - stride
        galloping = galloping and low < ahead < high
        middle = ahead if galloping else (low + high) // 2
        stride *= 2
    return best, tried


def search(
    judge: Judge,
    space: Space,
    static_cost_h: float,
    each: Each = map,
    report: Progress = silent,
    known: Mapping[Candidate, Trial] = MappingProxyType({}),
) -> list[Tried]:
    """Everything that was tried, those that hold first and cheapest first, each with its trial.

    Coordinate descent: families of signals, then behaviours for the two best, then all bounds for the best of those, then
    whatever differs from the best in one choice, until nothing gets cheaper. Every round is a set of independent lines,
    run side by side where `each` does. What is `known` of this judge is not tried again.
    """
    race = _Race(judge, static_cost_h, each, report, known)
    leaders: list[Leader] = []
    for begun in space.begun():
        space, leaders = begun, _families(race, begun)
        if race.cheapest() is not None:
            break
    family, behavior = _behaviours(race, space, leaders)
    others = product((space.max_replicas, *reversed(space.lower_max)), space.min_replicas)
    race.run(
        [space.line(family, behavior, low, high) for high, low in others if space.bounded(low, high)],
        (0.7, 0.85),
        "replica bounds",
    )
    _refinements(race, space)
    return ranked(race.found.items())


@dataclass
class _Race:
    """Lines that are run against the cheapest so far; each is run once."""

    judge: Judge
    static_cost_h: float
    each: Each
    report: Progress
    known: Mapping[Candidate, Trial]
    found: dict[Candidate, Trial] = field(default_factory=dict)
    raced: set[Candidate] = field(default_factory=set, init=False)  # the first setting stands for its line

    def run(self, lines: Iterable[Line], share: tuple[float, float], text: str) -> None:
        """The lines that are new, some at a time: those beside each other know the same limit."""
        new = [line for line in lines if line.settings[0] not in self.raced]
        self.raced.update(line.settings[0] for line in new)
        done = 0
        for start in range(0, len(new), CHOOSING.at_once):
            part = new[start : start + CHOOSING.at_once]
            job = partial(_loosest, self.judge, cost_limit_h=self._limit_h(), near=self._ends())
            known = [{s: self.known[s] for s in line.settings if s in self.known} for line in part]
            for tried in self.each(job, part, known):
                self.found.update(dict(tried))
                done += 1
                self.report(share[0] + (share[1] - share[0]) * done / len(new), text)

    def best_of(self, key: Callable[[Candidate], K], among: Iterable[K]) -> list[K]:
        """`among` by the cost of the cheapest holding setting of each; those without one come last, in their order."""
        best: dict[K, float] = {}
        for setting, trial in self.found.items():
            if trial.holds:
                best[key(setting)] = min(best.get(key(setting), math.inf), trial.accelerator_hours)
        return sorted(among, key=lambda one: best.get(one, math.inf))

    def cheapest(self) -> Tried | None:
        """The setting that holds for the least accelerator time, with its trial; None when none holds."""
        holding = [item for item in self.found.items() if item[1].holds]
        return min(holding, key=lambda item: item[1].accelerator_hours, default=None)

    def _limit_h(self) -> float:
        holding = [t.accelerator_hours for t in self.found.values() if t.holds]
        return min([self.static_cost_h, *holding]) * (1 + CHOOSING.cost_slack)

    def _ends(self) -> dict[str, float]:
        """Family -> the last target of its cheapest holding setting so far."""
        best: dict[str, tuple[float, float]] = {}
        for setting, trial in self.found.items():
            if trial.holds:
                end = (trial.accelerator_hours, setting.targets[-1][1])
                best[setting.family] = min(best.get(setting.family, end), end)
        return {family: value for family, (_, value) in best.items()}


Leader = tuple[Family, int, int]  # a family under a minimum and a maximum


def _families(race: _Race, space: Space) -> list[Leader]:
    """Every family from every beginning; the ones that lead."""
    families: list[Family] = [((), s) for s in space.targets]
    if space.waiting_in_pairs and (space.wide or space.keda):
        middle = space.waiting_in_pairs[len(space.waiting_in_pairs) // 2]
        families += [(((space.alarm, middle),), s) for s in space.targets if s != space.alarm]
    beginnings = space.beginnings or ((space.behaviors[-1], space.min_replicas[0], space.max_replicas),)
    race.run(
        [space.line(family, *beginning) for family, beginning in product(families, beginnings)],
        (0.0, 0.35),
        "signals",
    )
    bounds = dict.fromkeys((low, high) for _, low, high in beginnings)
    starts = [(family, *bound) for family, bound in product(families, bounds)]
    ordered = race.best_of(lambda c: (family_of(c), c.min_replicas, c.max_replicas), starts)
    return ordered[: CHOOSING.leaders if space.wide else 1]


def _behaviours(race: _Race, space: Space, leaders: Sequence[Leader]) -> tuple[Family, Behavior]:
    """Every behaviour of the leaders; the best family with its behaviour."""
    race.run(
        [space.line(family, b, low, high) for (family, low, high), b in product(leaders, space.behaviors)],
        (0.35, 0.7),
        "behaviours",
    )
    pairs = product(dict.fromkeys(family for family, _, _ in leaders), space.behaviors)
    return race.best_of(lambda c: (family_of(c), c.behavior), pairs)[0]


def _refinements(race: _Race, space: Space) -> None:
    """What differs from the best in one choice, until that gains no more."""
    for step in range(CHOOSING.refinements):
        before = race.cheapest()
        if before is None:
            return
        share = 0.85 + 0.15 * step / CHOOSING.refinements
        race.run(space.beside(before[0]), (share, share + 0.15 / CHOOSING.refinements), "around the best")
        after = race.cheapest()
        if after is None or after[1].accelerator_hours > (1 - CHOOSING.gain) * before[1].accelerator_hours:
            return


def around(judge: Judge, space: Space, setting: Candidate, limit_h: float, each: Each = map) -> list[Tried]:
    """What differs from a setting in one choice, or in behaviour and the next maximum, and holds for less than the limit.

    The lines do not race: what the judge takes for the cheapest may fail over more seeds, and the next of another line is wanted then.
    """
    (fixed, signal), low, high = family_of(setting), setting.min_replicas, setting.max_replicas
    line = partial(space.line, minimum=low, keda=setting.keda)
    ways = dict.fromkeys([setting.behavior, *space.behaviors, *map(calmed, space.behaviors)])
    maxima = [m for m in (space.max_replicas, *space.lower_max) if m != high and space.bounded(low, m)]
    other = sorted(maxima, key=lambda m: (abs(m - high), m))[: 1 if space.wide else 0]
    lines = [line((fixed, signal), b, maximum=m) for m, b in product([high, *other], ways)]
    lines += [line(((), s), setting.behavior, maximum=high) for s in space.targets if s != signal]
    new = list({one.settings[0]: one for one in [*lines, *space.beside(setting)]}.values())
    near = {setting.family: setting.targets[-1][1]}
    job = partial(_loosest, judge, cost_limit_h=limit_h, near=near)
    found = {s: t for tried in each(job, new, [{}] * len(new)) for s, t in tried if t.holds}
    return ranked(found.items())


def ranked(found: Iterable[Tried]) -> list[Tried]:
    """Those that hold first, the cheapest first."""
    return sorted(found, key=lambda item: (not item[1].holds, item[1].accelerator_hours))


def _loosest(
    judge: Judge,
    line: Line,
    known: Mapping[Candidate, Trial],
    cost_limit_h: float,
    near: dict[str, float],
) -> list[Tried]:
    expected = near.get(line.settings[0].family)
    start = None if expected is None else line.nearest(expected)
    return loosest(_Remembering(judge, known), line, cost_limit_h, start=start)[1]


@dataclass(frozen=True)
class _Remembering:
    """A judge that simulates only what is not known."""

    judge: Judge
    known: Mapping[Candidate, Trial]

    def __call__(self, setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        before = self.known.get(setting) if isinstance(setting, Candidate) else None
        return before or self.judge(setting, seed, cost_limit_h)
