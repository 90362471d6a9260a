"""Traffic of several days as settings are judged under it: one simulation is one day of them.

Every seed has a day. A day begins in the hour in which the least comes, with the replicas that serve that hour; days stand
in an order in which any stretch of them is a mixture: sorted by their busiest hour and taken as van der Corput's sequence
takes places. So the means over seeds are those of the traffic, the periods that a promise counts are its days, and the
hardest of the seeds that a search looks at are its worst days.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.model.one_replica import capacity, idle_verdict
from loadgen.plan.parts import Days, busiest_hour, cut_into_days, days_plan
from loadgen.plan.traffic import LoadPlan

FEWEST = 2
BEGIN_S = 1800.0  # whose rate the replicas at a day's begin serve


def by_days(scenario: Scenario) -> Scenario:
    """The scenario with a day of its traffic per seed; itself for less than two days, and for a recorded trace."""
    days = [] if scenario.plan.trace else cut_into_days(scenario.plan)
    if len(days) < FEWEST or idle_verdict(scenario) is not None:
        return scenario
    most = max(float(day.rate(np.arange(0.0, BEGIN_S, 60.0)).mean()) for day in days)
    start = math.ceil(most / capacity(scenario).rate_rps)
    return replace(
        scenario, plan=days_plan(_mixed(days)), options=replace(scenario.options, start_replicas=start)
    )


def days_in_words(plan: LoadPlan) -> list[str]:
    """A note on how days are judged, where they are."""
    if not isinstance(plan, Days):
        return []
    return [
        f"judged by days: each simulation is one of the traffic's {len(plan.days)} days, from "
        f"{plan.begins_s % 86_400 / 3600:.0f}:00 UTC on, when the least comes; all of them equally often, the worst first; "
        "figures are of a day, the mean over them"
    ]


def _mixed(days: list[LoadPlan]) -> list[LoadPlan]:
    """The days in their order; the seeds that tell how far things may move begin with the most demanding."""
    by_demand = sorted(days, key=busiest_hour, reverse=True)
    places = sorted(range(len(days)), key=_van_der_corput)  # place of the k-th most demanding
    mixed = [by_demand[rank] for rank in np.argsort(places)]
    turn = CHOOSING.near_seeds % len(days)
    return [mixed[(k - turn) % len(days)] for k in range(len(days))]


def _van_der_corput(index: int) -> float:
    """The radical inverse in base 2."""
    value, step = 0.0, 0.5
    while index:
        value += step * (index & 1)
        index, step = index >> 1, step / 2
    return value
