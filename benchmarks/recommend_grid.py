"""The cheapest HPA of a grid wider and finer than the search's own, for the regret of a recommendation.

Lines (settings that differ in one target) of every family of signals, window, minimum and maximum are bisected over
targets 6 % apart; around the best of them, and around the recommendation, all windows, scale-up windows and policies are
tried. Each is held to what a recommendation promises over as many seeds as that, and what is cheapest once more over as many
others, beside the recommendation. Many thousand simulations per scenario.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from autoscale.recommend.answer import Point
from autoscale.recommend.choice.judging import Judge, Judged, Trial, confirm, shown_over
from autoscale.recommend.choice.panel import Panel, hardest_first
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.search import loosest
from autoscale.recommend.choice.seeds import own_seeds
from autoscale.recommend.choice.settings import MAX_WINDOW_S, Behavior, Candidate, Choice, Setting, Standing
from autoscale.recommend.choice.space import Family, Line, family_of

STEP = 1.06
WINDOWS_S = (None, 600, 1800)
MORE_WINDOWS_S = (None, 60, 120, 240, 300, 600, 900, 1200, 1800, MAX_WINDOW_S)
UPS = ({}, {"up_window_s": 60}, {"up_window_s": 180}, {"up_pods": 1})
QUEUE = (
    0.1,
    0.2,
    0.3,
    0.5,
    0.7,
    1,
    1.5,
    2,
    2.5,
    3,
    4,
    5,
    6,
    7,
    8,
    10,
    12,
    14,
    17,
    20,
    25,
    30,
    40,
    50,
    70,
    100,
    150,
)
BESIDE = (1, 5, 20)  # queue targets of pairs
SLACK = 1.03  # a line goes on while it may be as cheap as this times the best so far
MOST = 32  # settings judged
GUARD = 0.003  # of all requests beyond the SLO, that lines are bisected at where nothing is promised: what just holds is only lucky
LEADERS = 4  # settings whose surroundings are searched
SEED, JUDGING, FINAL = 500, range(501, 1000), range(7001, 7500)  # as many of them as confirm a choice
FEW = 8  # of them, where nothing is promised


@dataclass(frozen=True)
class Promised:
    """The scenario as a judge of what a recommendation promises: a trial stands for all of `seeds`, the hardest first.

    The first two seeds tell the cost; what costs more than the limit is not looked at further.
    """

    scenario: Scenario
    seeds: Sequence[int]

    def __call__(self, setting: Setting, _seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        first = confirm(self.scenario, [setting], self.seeds[:2])[0]
        trial = replace(first.trials[0], accelerator_hours=first.cost, wasted_scale_outs=0, margin=0.0)
        if not first.may_hold(len(self.seeds)):
            return replace(trial, stopped="breaches")
        if first.cost > (cost_limit_h or math.inf):
            return replace(trial, stopped="cost")
        whole = shown_over(self.scenario, [setting], self.seeds, hardest=True)[0]
        return replace(trial, accelerator_hours=whole.cost, stopped="" if whole.holds else "breaches")


@dataclass(frozen=True)
class KeepsMore:
    """The scenario as a judge that asks for GUARD more and does not mind starts in vain."""

    scenario: Scenario

    def __call__(self, setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        trial = self.scenario(setting, seed, cost_limit_h)
        return replace(trial, wasted_scale_outs=0, margin=trial.margin - GUARD)


@dataclass(frozen=True)
class Best:
    """Over seeds of FINAL: the cheapest of the grid that keeps the promise, the rows that it is compared with, and how
    many settings were tried."""

    best: Judged[Setting]
    again: dict[Setting, Judged[Setting]]
    tried: int


def best_of(
    scenario: Scenario, point: Point, standing: Standing, cap: int, ours: Choice, tutorial: Candidate
) -> Best:
    """The grid's best under the promise that the recommendation gives, beside it, the tutorial's HPA and the standing fleet."""
    count = len(own_seeds(scenario.plan, scenario.promise))
    judging, final = JUDGING[:count], FINAL[:count]
    fleet = confirm(scenario, [standing], judging)[0]
    judge = Promised(scenario, hardest_first(fleet, judging))
    limit = standing.replicas * standing_hours(scenario)
    beside = [ours] if isinstance(ours, Candidate) else []
    found = _explore(scenario, judge, point, standing.replicas, cap, limit, beside)
    costs = {setting: t.accelerator_hours for setting, t in found.items() if t.holds}
    again: dict[Setting, Judged[Setting]] = {
        j.setting: j for j in confirm(scenario, [ours, standing, tutorial], final)
    }
    best = again[standing]
    for setting in sorted(costs, key=costs.__getitem__)[:MOST]:
        if costs[setting] < best.cost and (sure := shown_over(scenario, [setting], final)[0]).holds:
            best = sure
            break
    return Best(
        min([best, *(again[s] for s in (ours, standing) if again[s].holds)], key=lambda j: j.cost),
        again,
        len(found),
    )


def cheapest_at(
    scenario: Scenario, point: Point, cap: int, limit_h: float, panel: int
) -> list[Judged[Candidate]]:
    """Settings of the grid that hold on average for less than the limit, whatever they waste, over the first of FINAL."""
    found = _explore(scenario, Panel(KeepsMore(scenario), panel), point, cap - 1, cap, limit_h)
    judged = _judge(scenario, point, {s: t.accelerator_hours for s, t in found.items() if t.holds})
    again = confirm(scenario, [j.setting for j in judged], FINAL[:FEW])
    return [j for j in again if j.mean("margin") >= 0 and j.cost <= limit_h]


def standing_hours(scenario: Scenario) -> float:
    """Accelerator-hours of one standing replica."""
    replica = scenario.profile.replica
    return scenario.plan.duration_s / 3600 * replica.nodes * replica.chips_per_node


def _explore(
    scenario: Scenario,
    judge: Judge,
    point: Point,
    standing: int,
    cap: int,
    limit_h: float,
    beside: Sequence[Candidate] = (),
) -> dict[Candidate, Trial]:
    """Every setting that was tried, with its trial."""
    found: dict[Candidate, Trial] = {}

    def run(lines: Iterator[Line]) -> None:
        for line in lines:
            first = line.settings[0]
            costs = [t.accelerator_hours for t in found.values() if t.holds]
            limit = min([limit_h, *costs]) * SLACK
            if first.min_replicas * standing_hours(scenario) > limit:
                continue
            ends = [s for s, t in found.items() if t.holds and s.family == first.family]
            start = None
            if ends:
                start = line.nearest(min(ends, key=lambda s: found[s].accelerator_hours).targets[-1][1])
            found.update(dict(loosest(judge, line, limit, SEED, start)[1]))

    minima = sorted({*range(1, min(standing, 4) + 1), max(1, standing // 2), max(1, 3 * standing // 4)})
    run(
        _line(scenario, point, family, Behavior(window), low, high)
        for high, low, window, family in product((cap, standing), minima, WINDOWS_S, _families())
        if low <= high
    )
    run(
        _line(scenario, point, family_of(s), behavior, s.min_replicas, high)
        for s in [*beside, *_leaders(found)]
        for behavior, high in _around(s, standing, cap)
    )
    return found


def _judge(scenario: Scenario, point: Point, expected: dict[Candidate, float]) -> list[Judged[Candidate]]:
    """The four cheapest that hold on average over the first of JUDGING; one that does not is followed by a tighter target."""
    good: list[Judged[Candidate]] = []
    seen: set[Candidate] = set()
    while expected and len(seen) < MOST and len(good) < 4:
        setting = min(expected, key=expected.__getitem__)
        cost = expected.pop(setting)
        seen.add(setting)
        judged = confirm(scenario, [setting], JUDGING[:FEW])[0]
        margin = judged.mean("margin")
        if margin >= 0:
            good.append(judged)
            continue
        line = _line(
            scenario, point, family_of(setting), setting.behavior, setting.min_replicas, setting.max_replicas
        ).settings
        at = line.index(setting) - min(1 + int(-margin / 0.005), 5)
        if margin < 0 <= at and line[at] not in seen:
            expected[line[at]] = max(cost, judged.cost) * 1.01
    return good


def _families() -> Iterator[Family]:
    for signal in ("running", "kv_usage", "waiting"):
        yield (), signal
    for signal, queue in product(("running", "kv_usage"), BESIDE):
        yield (("waiting", queue),), signal


def _line(
    scenario: Scenario,
    point: Point,
    family: Family,
    behavior: Behavior,
    low: int,
    high: int,
) -> Line:
    fixed, signal = family
    if signal == "waiting":
        values: list[float] = list(QUEUE)
    else:
        engine = scenario.engine
        most = engine.data_parallel * (engine.max_num_seqs if signal == "running" else 1.0) / 1.1
        middle = getattr(point, signal)
        raw = (middle * STEP**k for k in range(-34, 16))
        values = sorted({max(round(v, 3), 0.001) for v in raw if v < most})
    return Line(tuple(Candidate((*fixed, (signal, v)), behavior, low, high) for v in values))


def _around(setting: Candidate, standing: int, cap: int) -> Iterator[tuple[Behavior, int]]:
    own = setting.behavior
    for window in MORE_WINDOWS_S:
        yield Behavior(window), setting.max_replicas
    for up in UPS:
        yield replace(own, down_window_s=own.down_window_s or 300, **up), setting.max_replicas
    for high in {standing - 1, standing, cap, 2 * cap} - {setting.max_replicas}:
        if high >= setting.min_replicas:
            yield own, high


def _leaders(found: dict[Candidate, Trial]) -> list[Candidate]:
    holding = [s for s, t in found.items() if t.holds]
    return sorted(holding, key=lambda s: found[s].accelerator_hours)[:LEADERS]
