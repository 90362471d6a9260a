"""The choice: of settings that cost about the same the one on a plateau, held to the promise over seeds of its own.

The cheapest of many that held is the luckiest of them, in part, and may lie on an edge: a target a little looser, a
little more traffic, a slower start, and it breaks. So among those within 3 % of the cheapest the one goes first whose
neighbours hold, too; and it is judged over seeds that nothing was chosen on, all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from autoscale.recommend.choice.judging import Each, Judge, Judged, Trial, confirm, shown_over
from autoscale.recommend.choice.panel import Rivals
from autoscale.recommend.choice.search import Tried, around
from autoscale.recommend.choice.settings import Candidate
from autoscale.recommend.choice.space import Space
from autoscale.recommend.effort import CHOOSING


@dataclass(frozen=True)
class Trials:
    """On what the choice is made.

    judge       the scenario
    around      what it should hold under, too: the scenario itself first, more traffic, slower starts
    also        the replica as fitted, where the scenario's is slower; `fitted`: the first of `own`, on which it is looked at
    seeds       what competes was judged over these
    near, own   seeds of neighbours, and of the choice alone, the hardest first
    further     seeds with which, together with `own`, the choice must hold, too: where another one stands already, its
                successor is the luckier of two
    worth_h     accelerator-hours from which on nothing is worth being confirmed: it would not be chosen
    """

    judge: Judge
    around: Sequence[Judge]
    seeds: Sequence[int]
    near: Sequence[int]
    own: Sequence[int]
    each: Each = map
    also: Judge | None = None
    further: Sequence[int] = ()
    fitted: Sequence[int] = ()
    worth_h: float = math.inf


@dataclass
class Confirming:
    """What waits to be confirmed, what was, and how steady each is: the share of its neighbours' trials that held."""

    space: Space
    trials: Trials
    waiting: dict[Candidate, Judged[Candidate]] = field(default_factory=dict, init=False)
    failed: list[Judged[Candidate]] = field(default_factory=list, init=False)
    steady: dict[Candidate, float] = field(default_factory=dict, init=False)
    alike: list[Candidate] = field(default_factory=list, init=False)  # as cheap, around the choice
    _hard: list[int] = field(default_factory=list, init=False)  # own seeds that broke what failed
    _seen: int = field(default=0, init=False)  # trials over own seeds
    _broke: Counter[int] = field(default_factory=Counter, init=False)  # and how much of it
    _latest: dict[Candidate, int] = field(default_factory=dict, init=False)  # failed: steps to the next
    _looked: dict[Candidate, Judged[Candidate]] = field(
        default_factory=dict, init=False
    )  # over the first seeds
    _known: set[Candidate] = field(default_factory=set, init=False)  # over all
    _dear: set[Candidate] = field(default_factory=set, init=False)  # looked at, and not cheaper

    def over(self, seeds: Sequence[int]) -> None:
        """What competes was judged over these seeds from now on."""
        self.trials = replace(self.trials, seeds=seeds)
        self._looked.clear()

    def best(self, judged: Sequence[Judged[Candidate]]) -> Judged[Candidate] | None:
        """The setting that holds over its own seeds, of those judged over `seeds`; None when none does.

        What fails makes room for a tighter target of its line, the further the more of the line have failed; at most
        `confirmed_at_most` are looked at.
        """
        self.waiting |= {j.setting: j for j in judged if j.holds and j.cost < self.trials.worth_h}
        self._known |= {j.setting for j in judged}
        for _ in range(CHOOSING.confirmed_at_most):
            if not self.waiting:
                return None
            first = self._steadiest()
            if first is not None and (sure := self.sure(first.setting)) is not None:
                return sure
            afters = [self.space.tighter(setting, steps) for setting, steps in self._latest.items()]
            self._judge([after for after in afters if after is not None], self.trials.worth_h)
            self._latest.clear()
        return None

    def sure(self, setting: Candidate) -> Judged[Candidate] | None:
        """The setting over its own seeds; None, and no longer waiting, when it does not hold."""
        trials = self.trials
        own = shown_over(trials.judge, [setting], trials.own, trials.each, hardest=True)[0]
        whole = self._further(own) if own.holds else own
        self._seen += len(whole.trials)
        if whole.holds and self._as_fitted(setting):
            return own
        self._failed(whole, whole.steps_short)
        broke = [seed for seed, made in zip(trials.own, own.trials, strict=False) if not made.holds]
        self._broke.update(broke)
        self._hard += [seed for seed in broke if seed not in self._hard]
        return None

    def cheaper(
        self, best: Judged[Candidate] | None, instead: Judged[Candidate] | None
    ) -> Judged[Candidate] | None:
        """The choice, or what holds around it and is cheaper by more than `gain`, and around that while it is by much.

        Without a choice it looks around what failed least, or stands `instead`, for what is worth it. A search sees few
        seeds; here what a setting costs and breaks is seen beside the choice, on the seeds that decide (Rivals).
        """
        origin = best or self._nearest(instead)
        while origin is not None:
            limit_h = (1 - CHOOSING.gain) * best.cost if best else self.trials.worth_h
            near_h = (1 + CHOOSING.alike) * best.cost if best else self.trials.worth_h
            rivals = self._rivals(origin)
            found = around(rivals, self.space, origin.setting, near_h, self.trials.each)
            origin = self._first_sure(found, rivals, limit_h)
            if origin is not None and best is not None and origin.cost > (1 - CHOOSING.alike) * best.cost:
                near_h = (1 + CHOOSING.alike) * origin.cost
                found = around(rivals, self.space, origin.setting, near_h, self.trials.each)
                best, origin = origin, None
            best = origin or best
            failed = {j.setting for j in self.failed}
            self.alike = [s for s, t in found if t.accelerator_hours <= near_h and s not in failed]
        return best

    def _nearest(self, instead: Judged[Candidate] | None) -> Judged[Candidate] | None:
        """What failed with the fewest of its periods broken, or stands instead of a choice; over all own seeds."""
        trials = self.trials
        least = min(self.failed, key=lambda j: j.broken / j.periods, default=instead)
        return least and confirm(trials.judge, [least.setting], trials.own, trials.each)[0]

    def _rivals(self, origin: Judged[Candidate]) -> Rivals:
        """What sees settings beside it, and lets them break a seed more: all seeds then tell. The hardest come first from now on."""
        seen = dict(zip(self.trials.own, origin.trials, strict=True))
        order = sorted(seen, key=lambda seed: (seen[seed].margin, seed))
        by_cost = sorted(seen, key=lambda seed: (seen[seed].accelerator_hours, seed))
        self.trials = replace(self.trials, own=order)
        one, count = origin.trials[0], CHOOSING.rival_seeds
        may_break = one.promise.failures(len(order) * one.periods) // one.periods
        first = max(0, may_break + 1 - count // 2)
        return Rivals(
            self.trials.judge,
            {seed: seen[seed].accelerator_hours for seed in order[first : first + count]},
            may_break - first + 1,
            {seed: seen[seed].accelerator_hours for seed in by_cost[:: math.ceil(len(order) / (2 * count))]},
            origin.cost,
            self._hard[-count:],
            min(may_break, count // 2),
        )

    def _first_sure(self, found: Sequence[Tried], rivals: Rivals, limit_h: float) -> Judged[Candidate] | None:
        """The first that holds over all own seeds for less than the limit, of what holds beside another.

        What should be cheapest comes first; of those that do the same to the second (a queue's alarm that never rings), one. One
        that fails is followed by a tighter target of its line, the further the more have failed. The seeds that broke the
        others show most of what fails, and a few what it costs: all then see the rest.
        """
        apart = {trial.accelerator_hours: setting for setting, trial in reversed(found)}
        left = {setting: (hours, 1) for hours, setting in sorted(apart.items()) if hours < limit_h}
        until = self._seen + CHOOSING.around_at_most * len(self.trials.own)
        while left and self._seen < until:
            setting = min(left, key=left.__getitem__)
            cost_h, nth = left.pop(setting)
            new = setting not in self._dear and all(setting != j.setting for j in self.failed)
            if new and (sure := self._looked_at(setting, rivals, limit_h)) is not None:
                return sure
            after = self.space.tighter(setting, (nth + 1) // 2)
            if after is not None and setting not in self._dear:
                left.setdefault(after, (CHOOSING.dearer * cost_h, nth + 1))
        return None

    def _looked_at(self, setting: Candidate, rivals: Rivals, limit_h: float) -> Judged[Candidate] | None:
        """The setting over all own seeds, where it holds for less than the limit; else it has failed, or is dear."""
        trials, latest = self.trials, self._hard[: -CHOOSING.rival_seeds - 1 : -1]
        self.trials = replace(trials, own=sorted(trials.own, key=lambda seed: -self._broke[seed]))
        first = confirm(trials.judge, [setting], latest, trials.each, math.inf)[0]
        self._seen += len(latest)
        if first.broken > rivals.hard_may_break:
            self._failed(first, 1)
            return None
        dear = rivals.cost(setting, trials.each) >= limit_h
        sure = None if dear else self.sure(setting)
        if dear or (sure is not None and sure.cost >= limit_h):
            self._dear.add(setting)
            return None
        return sure

    def _screen(self, judged: Sequence[Judged[Candidate]]) -> None:
        """Those that break so many of the own seeds that broke others that they cannot hold over all have failed.

        The seed that broke the latest comes first and alone: it breaks most of what is alike, and the others are not needed then.
        """
        trials, hard = self.trials, self._hard[-CHOOSING.seeds_at_once :][::-1]
        left = [Judged(j.setting, ()) for j in judged]
        for seeds in filter(None, (hard[:1], hard[1:])):
            more = confirm(trials.judge, [j.setting for j in left], seeds, trials.each, math.inf)
            seen = [one.and_over(added.trials) for one, added in zip(left, more, strict=True)]
            left = [one for one in seen if one.may_hold(len(trials.own))]
            for one in seen:
                if one not in left:
                    self._failed(one, 1)  # hard seeds tell nothing of how far it is on average

    def _failed(self, judged: Judged[Candidate], steps: int) -> None:
        """It waits no longer; what is so many steps tighter is tried next, more where much of its line has failed."""
        setting = judged.setting
        before = sum(replace(j.setting, targets=setting.targets) == setting for j in self.failed)
        self.waiting.pop(setting, None)
        self.failed.append(judged)
        self._latest[setting] = steps + max(0, before - 1) // 2

    def _as_fitted(self, setting: Candidate) -> bool:
        trials = self.trials
        if trials.also is None:
            return True
        made = shown_over(trials.also, [setting], trials.fitted, trials.each, hardest=True)[0]
        return made.holds if len(trials.fitted) == len(trials.own) else made.may_hold(len(trials.own))

    def _further(self, own: Judged[Candidate]) -> Judged[Candidate]:
        trials = self.trials
        return own.and_over(confirm(trials.judge, [own.setting], trials.further, trials.each)[0].trials)

    def _steadiest(self) -> Judged[Candidate] | None:
        """Of the settings that cost about as much as the cheapest, the one with the steadiest neighbours.

        Those that break themselves on the neighbours' seeds, or on own seeds that broke others, wait no longer; None
        when all do. Where one is left, its neighbours are not asked.
        """
        cheapest = min(self.waiting.values(), key=lambda j: j.cost)
        limit_h = min(self.trials.worth_h, (1 + CHOOSING.alike) * cheapest.cost)
        self._judge(self.space.safer(cheapest.setting), limit_h)
        alike = sorted((j for j in self.waiting.values() if j.cost <= limit_h), key=lambda j: j.cost)
        some = alike[:: max(1, math.ceil(len(alike) / CHOOSING.plateau))]
        self._screen(some)
        some = [j for j in some if j.setting in self.waiting]
        if len(some) == 1:
            return some[0]
        self._mark([j.setting for j in some if j.setting not in self.steady])
        left = [j for j in some if j.setting in self.waiting]
        return max(left, key=lambda j: (self.steady[j.setting], -j.cost), default=None)

    def _judge(self, settings: Sequence[Candidate], limit_h: float) -> None:
        """Let those wait that hold over the seeds and cost no more; two seeds show what is dearer."""
        trials, first = self.trials, CHOOSING.first_look
        new = self._past_the_latest([s for s in settings if s not in self._known])
        unseen = [s for s in new if s not in self._looked]
        looked = confirm(trials.judge, unseen, trials.seeds[:first], trials.each, math.inf)
        self._looked |= {j.setting: j for j in looked}
        good = [j for j in (self._looked[s] for s in new) if j.holds and j.cost <= limit_h]
        self._known |= {j.setting for j in good}
        rest = confirm(trials.judge, [j.setting for j in good], trials.seeds[first:], trials.each, math.inf)
        for one, more in zip(good, rest, strict=True):
            if (full := one.and_over(more.trials)).holds:
                self.waiting[full.setting] = full

    def _past_the_latest(self, settings: list[Candidate]) -> list[Candidate]:
        """Where a trial takes long: those that the own seed that broke the latest leaves a chance; the others are known then."""
        trials, unseen = self.trials, [s for s in settings if s not in self._looked]
        if self.space.wide or not self._hard or not unseen:
            return settings
        seen = confirm(trials.judge, unseen, self._hard[-1:], trials.each, math.inf)
        lost = {one.setting for one in seen if not one.may_hold(len(trials.own))}
        self._known |= lost
        return [s for s in settings if s not in lost]

    def _mark(self, settings: Sequence[Candidate]) -> None:
        """How many trials of a setting's neighbours hold, as a share; what breaks by itself has failed."""
        trials = self.trials
        asked = [
            (setting, judge, neighbour, seed)
            for setting in settings
            for judge, neighbour in self._neighbours(setting)
            for seed in trials.near
        ]
        found = list(trials.each(_trial, [(judge, n, seed) for _, judge, n, seed in asked]))
        for setting in settings:
            near = [made for (of, *_), made in zip(asked, found, strict=True) if of == setting]
            self.steady[setting] = sum(made.holds for made in near) / len(near)
            itself = Judged(setting, tuple(near[: len(trials.near)]))  # the first of `around`
            if itself.failing:
                self._failed(itself, itself.steps_short)

    def _neighbours(self, setting: Candidate) -> list[tuple[Judge, Candidate]]:
        """The setting under other circumstances, and riskier settings beside it."""
        return [
            *((judge, setting) for judge in self.trials.around),
            *((self.trials.judge, riskier) for riskier in self.space.riskier(setting)),
        ]


def _trial(task: tuple[Judge, Candidate, int]) -> Trial:
    judge, setting, seed = task
    return judge(setting, seed, math.inf)
