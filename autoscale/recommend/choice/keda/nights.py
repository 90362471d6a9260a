"""On which days nights at zero are searched: the hard ones, where a setting that is cheap by luck breaks.

hard_nights   the first of them: hard for standing fleets, which are simulated in a fraction of a ScaledObject's time
searched      search -> what competes -> a pool of days; the day that breaks the best of it joins them -> search again
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from autoscale.recommend.choice.choice import choose
from autoscale.recommend.choice.judging import Each, Judge, Judged, confirm
from autoscale.recommend.choice.panel import Panel, hardest_first
from autoscale.recommend.choice.search import Tried, search
from autoscale.recommend.choice.settings import Candidate, Standing
from autoscale.recommend.choice.space import Space
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.progress import Progress, part


def hard_nights(
    judge: Judge, standing: int, whole: Candidate, pool: int, size: int, each: Each = map
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The seeds of a pool that are hardest for the fewest replicas that hold and for one fewer, in turn; and the pool, as hard.

    So many as `size`, and two of each at least: a setting that fails is known by the first of them. What peaks at one
    replica fewer breaks where that fleet does, and is much cheaper where it does not: seeds that are hard for the fleet that
    holds do not tell the two apart. The pool is as large as what the choice is confirmed on: what holds on it has a chance
    there. Days that the `whole` fleet breaks when it starts at once are among those that the promise gives up.
    """
    seeds = range(CHOOSING.night_seeds, CHOOSING.night_seeds + pool)
    fleets = confirm(judge, [Standing(count) for count in (standing, standing - 1) if count > 0], seeds, each)
    orders = [hardest_first(judged, seeds) for judged in fleets]
    order = tuple(dict.fromkeys(chain.from_iterable(zip(*orders, strict=True))))
    started = confirm(judge, [whole], order, each, math.inf)[0].trials
    kept = tuple(seed for seed, made in zip(order, started, strict=True) if made.holds) or order
    return kept[: max(size, 2 * len(fleets))], kept


@dataclass(frozen=True)
class Nights:
    """A search of what goes to zero: the days of a pool, those that competitors are judged over beside the panel's, a limit."""

    space: Space
    pool: tuple[int, ...]
    seeds: Sequence[int]
    static_cost_h: float
    each: Each = map

    def searched(self, panel: Panel, report: Progress) -> tuple[Panel, list[Tried], list[Judged[Candidate]]]:
        """What was found and what competes, once the best of it holds on the pool; and the days that it took."""
        found: list[Tried] = []
        looked: list[Judged[Candidate]] = []
        before = panel
        rounds = CHOOSING.night_rounds
        for k in range(rounds):
            known = panel.broken_before(dict(found), before)
            told = part(report, k / rounds, 1 / rounds)
            found = search(panel, self.space, self.static_cost_h, self.each, told, known=known)
            seeds = self.of(panel)
            looked = choose(panel.judge, found, self.space, seeds, self.each, widen=self.space.wide)
            before, panel = panel, replace(panel, hard=self.next_days(panel, looked))
            if panel.hard == before.hard:
                break
        return before, found, looked

    def of(self, panel: Panel) -> tuple[int, ...]:
        """The days that what competes is judged over."""
        return tuple(dict.fromkeys((*panel.hard, *self.seeds)))

    def next_days(self, panel: Panel, judged: Sequence[Judged[Candidate]]) -> tuple[int, ...]:
        """The panel with a day before it that broke the best, or most where nothing held; as it is when none did.

        Without its harder half when the search led to nothing: the promise gives up some days, and these may be such.
        """
        if not judged:
            return panel.hard[len(panel.hard) // 2 :]
        days = len(self.of(panel))
        whole = (one for one in judged if one.holds and len(one.trials) == days)
        best = min(whole, key=lambda one: one.cost, default=None)
        new = self._breaking_most(panel, judged) if best is None else self._breaking(panel, best)
        return panel.hard if new is None else (new, *panel.hard)

    def _breaking_most(self, panel: Panel, judged: Sequence[Judged[Candidate]]) -> int | None:
        """The new day that broke most of the settings."""
        seen = [zip(self.of(panel), one.trials, strict=False) for one in judged]
        broke = Counter(seed for pairs in seen for seed, made in pairs if not made.holds)
        return max(set(broke) - set(panel.hard), key=lambda seed: (broke[seed], -seed), default=None)

    def _breaking(self, panel: Panel, best: Judged[Candidate]) -> int | None:
        """A day of the pool that breaks a setting; of several the hardest that the promise does not give up."""
        left = [seed for seed in self.pool if seed not in panel.hard]
        judged = Judged(best.setting, ())
        for first in range(0, len(left), CHOOSING.seeds_at_once):
            some = left[first : first + CHOOSING.seeds_at_once]
            more = confirm(panel.judge, [best.setting], some, self.each, math.inf)[0]
            judged = judged.and_over(more.trials)
            if not judged.may_hold(len(self.pool)):
                seen = zip(left, judged.trials, strict=False)
                broke = sorted((made.margin, seed) for seed, made in seen if not made.holds)
                given_up = judged.trials[0].promise.failures(len(self.pool))
                return broke[min(given_up, len(broke) - 1)][1]
        return None
