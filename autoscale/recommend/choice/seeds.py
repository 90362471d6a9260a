"""Over how many seeds traffic is looked at: as many as a time pays for, so that short traffic gets more than long."""

from __future__ import annotations

from autoscale.recommend.effort import CHOOSING
from loadgen.plan.traffic import LoadPlan


def own_seeds(plan: LoadPlan, least: int) -> range:
    """Seeds that nothing is chosen on: as many as take `confirm_s` on one core, at least `least`."""
    count = max(least, min(CHOOSING.own_at_most, int(CHOOSING.confirm_s / _trial_s(plan))))
    return range(CHOOSING.own_seeds, CHOOSING.own_seeds + count)


def panel_size(plan: LoadPlan) -> int:
    """Over how many seeds the search looks at a setting."""
    return max(1, min(CHOOSING.panel_most, int(CHOOSING.panel_s / _trial_s(plan))))


def interval_looks(plan: LoadPlan) -> int:
    """Over how many seeds each panel of the target's interval looks."""
    return max(1, min(CHOOSING.interval_looks, int(CHOOSING.panel_s / _trial_s(plan))))


def is_wide(plan: LoadPlan) -> bool:
    """Whether a trial is short enough for a search from more beginnings."""
    return _trial_s(plan) <= CHOOSING.wide_s


def _trial_s(plan: LoadPlan) -> float:
    """About what one trial takes, in s of a processor."""
    return CHOOSING.request_s * plan.expected_requests + CHOOSING.traffic_s * plan.duration_s
