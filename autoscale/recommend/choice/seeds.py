"""Over how many seeds traffic is looked at: as many as a time pays for, so that short traffic gets more than long."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoscale.recommend.choice.promise import Promise
from autoscale.recommend.effort import CHOOSING
from loadgen.plan.traffic import LoadPlan

DAY_S = 86_400.0


def period_s(plan: LoadPlan) -> float:
    """What a promise calls a period: a day, or the traffic where that is shorter."""
    return min(DAY_S, plan.duration_s)


def own_seeds(plan: LoadPlan, promise: Promise, least: int = CHOOSING.own_at_least) -> range:
    """Seeds that nothing is chosen on: as many as take `confirm_s`, and what the promise needs to be shown."""
    days = max(1, int(plan.duration_s // DAY_S))
    least = max(least if days == 1 else CHOOSING.own_of_many_days, math.ceil(promise.needed / days))
    count = max(least, min(CHOOSING.own_at_most, int(CHOOSING.confirm_s / trial_s(plan))))
    while count > least and promise.failures(count * days - days) == promise.failures(count * days):
        count -= 1  # more of them would only make failures likelier
    return range(CHOOSING.own_seeds, CHOOSING.own_seeds + count)


def judging_seeds(plan: LoadPlan) -> range:
    """Seeds that what competes for the choice is judged over."""
    short, long = CHOOSING.judging_seeds
    return range(1, (short if is_wide(plan) else long) + 1)


def beside(plan: LoadPlan, own: Sequence[int]) -> Sequence[int]:
    """The seeds of the choice that an HPA beside it sees, and the choice itself for the replica as fitted."""
    return own[: max(CHOOSING.beside_at_least, int(CHOOSING.beside_s / trial_s(plan)))]


def panel_size(plan: LoadPlan) -> int:
    """Over how many seeds the search looks at a setting."""
    return max(1, min(CHOOSING.panel_most, int(CHOOSING.panel_s / trial_s(plan))))


def panel_pool(plan: LoadPlan) -> range:
    """The seeds of which the hardest make the search's panel."""
    first = CHOOSING.panel_seeds
    return range(first, first + CHOOSING.pool * panel_size(plan))


def interval_looks(plan: LoadPlan) -> int:
    """Over how many seeds each panel of the target's interval looks."""
    return max(1, min(CHOOSING.interval_looks, int(CHOOSING.panel_s / trial_s(plan))))


def neighbour_seeds(plan: LoadPlan, neighbours: int) -> int:
    """Over how many seeds each of so many neighbours is judged."""
    least, most = CHOOSING.neighbour_seeds
    return max(least, min(most, int(CHOOSING.neighbours_s / (neighbours * trial_s(plan)))))


def is_wide(plan: LoadPlan) -> bool:
    """Whether a trial is short enough for a search from more beginnings."""
    return trial_s(plan) <= CHOOSING.wide_s


def looks_around(plan: LoadPlan) -> bool:
    """Whether a trial is short enough for a search around the choice."""
    return trial_s(plan) <= CHOOSING.around_s


def trial_s(plan: LoadPlan) -> float:
    """About what one trial takes, in s of a processor."""
    offered, drawn = plan.expected_requests, plan.drawn_requests
    return (
        CHOOSING.setup_s
        + CHOOSING.request_s * offered
        + CHOOSING.draw_s * (drawn - offered)
        + CHOOSING.traffic_s * plan.duration_s
    )
