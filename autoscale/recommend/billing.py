"""The bill: what simulated settings take of accelerators, for a month, per million output tokens, by hour of the day."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from analysis.numbers import known
from autoscale.bill import MONTH_H, Bill, Billed
from autoscale.recommend.answer import Decision
from autoscale.recommend.choice.circumstances import at_speed
from autoscale.recommend.choice.judging import Judged
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.seeds import own_seeds, trial_s
from autoscale.recommend.choice.settings import Setting
from autoscale.recommend.schedule.judge import FoundSchedule
from autoscale.sim.fleet.outcome import Outcome

SPLIT_S = 2.0  # of a processor, for the simulations that split the hours of one setting
SPLIT_AT_MOST = 4
WITH_SCHEDULE = "with the schedule"


def bill(
    scenario: Scenario, decision: Decision, currency: str, schedule: FoundSchedule | None = None
) -> Bill | None:
    """The bill of what is recommended, of the standing fleet, of the current HPA and of a schedule that pays; None without an answer.

    Hours are the means over all simulations that judged a setting; the first of their seeds are simulated again to split
    them. A schedule's are those of the recommendation less what it saved on the days that it was judged on.
    """
    judged = {
        "recommended": decision.chosen,
        "standing fleet": decision.static,
        "current HPA": decision.current,
    }
    if decision.chosen is None:
        return None
    if decision.static is not None and decision.static.setting == decision.chosen.setting:
        del judged["standing fleet"]
    served = at_speed(scenario, decision.slower).keeping()
    count = max(1, min(SPLIT_AT_MOST, int(SPLIT_S / trial_s(scenario.plan))))
    seeds = own_seeds(scenario.plan, scenario.promise)[:count]
    requests = scenario.plan.expected_requests / float(
        np.mean([scenario.plan.of_seed(s).expected_requests for s in seeds])
    )

    def billed(label: str, outcome: Callable[[int], Outcome], hours: float) -> Billed:
        outcomes = [outcome(seed) for seed in seeds]
        return billed_setting(label, outcomes, scenario.plan.begins_s, hours, requests)

    settings = {
        name: billed(of.setting.label, partial(served.outcome, of.setting), _hours(of))
        for name, of in judged.items()
        if of is not None
    }
    if schedule is not None and schedule.told.recommended and (timed := schedule.timed) is not None:
        share = schedule.told.accelerator_hours / schedule.told.plain_accelerator_hours
        hours = share * _hours(decision.chosen)
        settings[WITH_SCHEDULE] = billed(timed.label, partial(timed.outcome, served), hours)
    price = scenario.profile.accelerator.price_per_chip_hour
    return Bill(scenario.plan.duration_s / 3600, count, price, currency, settings)


def _hours(judged: Judged[Setting]) -> float:
    return judged.mean("accelerator_hours")


def billed_setting(
    label: str, outcomes: Sequence[Outcome], begins_s: float, hours: float = math.nan, requests: float = 1.0
) -> Billed:
    """One setting from its simulations, whose traffic begins `begins_s` after a midnight; `hours` where its
    accelerator-hours are known from more of them. Its days have so many times the `requests` of those simulated."""
    spent = [outcome.spending(begins_s) for outcome in outcomes]
    total = float(np.mean([s.total for s in spent]))
    whole = hours if known(hours) else total
    months = MONTH_H / (outcomes[0].duration_s / 3600)
    share = whole / total * months if total else months

    def mean(part: str) -> float:
        return float(np.mean([getattr(s, part) for s in spent])) * share

    made = Billed(
        label,
        whole * months,
        mean("starting"),
        mean("wasted"),
        mean("idle"),
        float(np.mean([outcome.output_tokens for outcome in outcomes])) * requests * months,
        tuple((np.mean([s.by_hour for s in spent], axis=0) * share / months).tolist()),
    )
    price = outcomes[0].profile.accelerator.price_per_chip_hour
    if price is None:
        return made
    tokens = made.output_tokens
    return replace(
        made,
        cost=made.accelerator_hours * price,
        cost_starting=made.starting * price,
        cost_wasted=made.wasted * price,
        cost_idle=made.idle * price,
        cost_per_million_output_tokens=made.accelerator_hours * price / tokens * 1e6 if tokens else math.nan,
        cost_by_hour=tuple(held * price for held in made.by_hour),
    )
