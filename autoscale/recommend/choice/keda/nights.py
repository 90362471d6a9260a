"""On which seeds nights at zero are searched: the hard ones, where a setting that is cheap by luck breaks.

A standing fleet is simulated twenty times as fast as a ScaledObject, and what is hard for it is hard for what starts from zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from autoscale.recommend.choice.judging import Each, Judge, Judged, confirm
from autoscale.recommend.choice.panel import hardest_first
from autoscale.recommend.choice.settings import Candidate, Standing
from autoscale.recommend.effort import CHOOSING


def hard_nights(judge: Judge, standing: int, pool: int, size: int, each: Each = map) -> tuple[int, ...]:
    """The seeds of a pool that are hardest for the fewest replicas that hold and for one fewer, in turn.

    So many as `size`, and two of each at least: a setting that fails is known by the first of them. What peaks at one
    replica fewer breaks where that fleet does, and is much cheaper where it does not: seeds that are hard for the fleet that
    holds do not tell the two apart. The pool is as large as what the choice is confirmed on: what holds on its hardest
    seeds has a chance there.
    """
    seeds = range(CHOOSING.night_seeds, CHOOSING.night_seeds + pool)
    fleets = [Standing(count) for count in (standing, standing - 1) if count > 0]
    orders = [hardest_first(judged, seeds) for judged in confirm(judge, fleets, seeds, each)]
    return tuple(dict.fromkeys(chain.from_iterable(zip(*orders, strict=True))))[: max(size, 2 * len(fleets))]


def next_days(
    panel: Sequence[int], judged: Sequence[Judged[Candidate]], seeds: Sequence[int]
) -> tuple[int, ...]:
    """The panel with the seed before it that broke most of what the search led to, as it is when none did.

    Without its harder half when the search led to nothing: the promise gives up some days, and these may be such.
    """
    if not judged:
        return tuple(panel[len(panel) // 2 :])
    broke = Counter(
        seed for one in judged for seed, made in zip(seeds, one.trials, strict=False) if not made.holds
    )
    new = [(times, -seed) for seed, times in broke.items() if seed not in panel]
    return (-max(new)[1], *panel) if new else tuple(panel)
