"""What competes for the choice, of what a search found on its own seeds.

What was found is judged again over fresh seeds, cheapest first and the same seeds for all (common random numbers); one
that fails is followed by its next tighter target. Which of them is chosen, and that it holds, is for confirming.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoscale.recommend.choice.judging import Each, Judge, Judged, confirm
from autoscale.recommend.choice.search import Tried
from autoscale.recommend.choice.settings import Candidate
from autoscale.recommend.choice.space import Space
from autoscale.recommend.effort import CHOOSING


def choose(
    judge: Judge,
    found: Sequence[Tried],
    space: Space,
    seeds: Sequence[int],
    each: Each = map,
    most: int = CHOOSING.judged_at_most,
    widen: bool = True,
) -> list[Judged[Candidate]]:
    """Settings judged over the seeds, cheapest first, until none that is left could be cheaper than one that holds.

    A setting that breaks the SLO makes room for its next tighter target (several steps on when it is far off), one that
    starts replicas in vain for the next longer scale-down window, and, to `widen` the search, one that holds for what
    should cost a little less (Space.cheaper). Each is judged over two seeds first; those that break the SLO in one of
    them, and those that cost more than the best did over these two, go no further. Settings that did the same in the
    search are one, the simplest. At most `most` settings are judged in full. Those that hold come first, the cheapest
    first.
    """
    queue = _Queue.of(found, space, widen)
    judged: dict[Candidate, Judged[Candidate]] = {}
    in_full = 0
    first, rest = seeds[: CHOOSING.first_look], seeds[CHOOSING.first_look :]
    while queue.waiting and in_full < most and len(judged) < CHOOSING.looks * most:
        best = min((j for j in judged.values() if j.holds), key=lambda j: j.cost, default=None)
        limit = best.cost if best else math.inf
        batch = queue.next(limit)
        if not batch:
            break
        looked = confirm(judge, batch, first, each, math.inf)
        usual = Judged(best.setting, best.trials[: len(first)]).cost if best else math.inf
        hopeful = [j for j in looked if j.holds and j.cost < usual]
        more = confirm(judge, [j.setting for j in hopeful], rest, each) if rest else []
        in_full += len(hopeful)
        whole = {j.setting: j.and_over(m.trials) for j, m in zip(hopeful, more, strict=bool(rest))}
        for one in looked:
            judged[one.setting] = full = whole.get(one.setting, one)
            queue.follow(full, limit, usual, judged)
    return sorted(judged.values(), key=lambda j: (not j.holds, j.cost))


@dataclass
class _Queue:
    """Settings that wait to be judged, with what each is expected to cost; and what follows on one that was."""

    space: Space
    widen: bool
    costs: dict[Candidate, float]  # as the search saw them
    lost: set[Candidate]  # broke the SLO by far in the search
    waiting: dict[Candidate, float]
    guesses: set[Candidate] = field(
        default_factory=set
    )  # no more of their lines when they break the SLO by far

    @classmethod
    def of(cls, found: Sequence[Tried], space: Space, widen: bool) -> _Queue:
        costs = {setting: trial.accelerator_hours for setting, trial in found if not trial.stopped}
        lost = {s for s, t in found if t.stopped or t.margin < -CHOOSING.by_far}
        alike: dict[tuple[float, float], Candidate] = {}
        for setting, trial in sorted(found, key=lambda item: len(item[0].targets)):
            if trial.holds:
                alike.setdefault((trial.accelerator_hours, trial.margin), setting)
        return cls(space, widen, costs, lost, {setting: costs[setting] for setting in alike.values()})

    def next(self, limit_h: float) -> list[Candidate]:
        """The cheapest below the limit that differ in more than a target: neighbours on a line tell little of each
        other's chances."""
        kinds: dict[Any, Candidate] = {}
        for s in sorted(self.waiting, key=self.waiting.__getitem__):
            if self.waiting[s] < limit_h:
                kinds.setdefault((s.targets[-1][0], s.behavior, s.min_replicas, s.max_replicas), s)
            if len(kinds) == CHOOSING.finalists:
                break
        return list(kinds.values())

    def follow(
        self, full: Judged[Candidate], limit_h: float, usual_h: float, judged: Iterable[Candidate]
    ) -> None:
        """Take a setting out, and put in what follows from what became of it."""
        setting = full.setting
        expected = self.waiting.pop(setting)
        further: dict[Candidate, float] = {}
        if full.holds and full.cost < limit_h and self.widen:
            cheaper = [s for s in self.space.cheaper(setting) if s not in self.lost]
            further = {s: self.costs.get(s, CHOOSING.cheaper * full.cost) for s in cheaper}
            self.guesses.update(further)
        elif not (
            full.holds
            or (not full.given_up and full.cost >= usual_h)
            or (full.given_up and setting in self.guesses)
        ):
            after = _instead(full, self.space)
            seen = expected if full.given_up else max(expected, full.cost)
            if after is not None:
                further = {after: max(self.costs.get(after, 0.0), CHOOSING.dearer * seen)}
        self.waiting.update({s: cost for s, cost in further.items() if s not in judged})


def _instead(judged: Judged[Candidate], space: Space) -> Candidate | None:
    """What to try where a setting failed; None at the end of the line or of the windows."""
    worst = min(t.margin for t in judged.trials)
    if judged.wasted and worst >= 0:
        return space.calmer(judged.setting)
    return space.tighter(judged.setting, judged.steps_short)
