"""Traffic of several days judged by its days."""

from dataclasses import replace

import numpy as np
import pytest

from autoscale.profiles import load
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.settings import Behavior, Candidate
from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.days import by_days, days_in_words
from autoscale.recommend.effort import CHOOSING
from loadgen.plan import rates
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.parts import busiest_hour, cut_into_days
from loadgen.plan.traffic import LoadPlan, Process

DAY_S, HOUR_S = 86_400.0, 3600.0
PEAKS = (1.0, 0.7, 1.3, 0.9, 1.1)


def plan_of(peaks: tuple[float, ...], hours_more: float = 0.0, begins_s: float = 0.0) -> LoadPlan:
    """Days of the default shape with these peaks in requests/s, and some hours more of the last one's shape."""
    parts = [rates.diurnal(peak, DAY_S) for peak in peaks]
    if hours_more:
        parts.append(rates.diurnal(peaks[-1], hours_more * HOUR_S))
    return LoadPlan(rates.joined(parts), Process("poisson", 1.0), begins_s=begins_s)


def scenario_under(plan: LoadPlan) -> Scenario:
    return scenario_of(load("llama-3.1-8b-1xl4"), peak_rps=1.0, plan=plan)


def test_days_begin_when_the_least_comes_and_hold_all_that_came():
    plan = plan_of(PEAKS, begins_s=15 * HOUR_S)
    days = cut_into_days(plan)
    assert len(days) == 5, "what is left at both ends is the fifth"
    quietest = int(np.argmin(rates.DAY_SHAPE))
    for day in days:
        assert (day.begins_s - plan.begins_s) % DAY_S == quietest * HOUR_S
        assert day.rate(0.0) < 0.55 * busiest_hour(day) / HOUR_S
    assert sum(day.expected_requests for day in days) == pytest.approx(plan.expected_requests, rel=1e-6)


def test_what_is_left_is_no_day_where_it_is_shorter():
    days = cut_into_days(plan_of(PEAKS[:3], hours_more=12.0))
    assert len(days) == 3
    assert all(day.duration_s == pytest.approx(DAY_S) for day in days)


def test_every_day_comes_up_equally_often_and_the_worst_where_it_is_looked_for():
    plan = by_days(scenario_under(plan_of(PEAKS))).plan
    seen = [plan.of_seed(CHOOSING.own_seeds + k) for k in range(2 * len(PEAKS))]
    assert {round(busiest_hour(day) / HOUR_S, 2) for day in seen} == {
        round(busiest_hour(day) / HOUR_S, 2) for day in cut_into_days(plan_of(PEAKS))
    }
    assert np.mean([day.expected_requests for day in seen]) == pytest.approx(plan.expected_requests)
    hardest = plan.of_seed(CHOOSING.near_seeds)
    assert busiest_hour(hardest) == max(busiest_hour(day) for day in seen) == busiest_hour(plan)
    assert [len(chunk.due_s) for chunk in hardest.arrivals()], "days are drawn"
    assert plan.times(2).of_seed(3).expected_requests == pytest.approx(2 * plan.of_seed(3).expected_requests)


def test_the_hours_of_the_days_are_those_of_the_whole_traffic():
    """A setting over every day by itself, against the same traffic simulated in one piece."""
    whole = scenario_under(plan_of(PEAKS))
    days = by_days(whole)
    setting = Candidate((("running", 10.0),), Behavior(), 1, 8)
    hours = [days(setting, seed, None).accelerator_hours for seed in range(2 * len(PEAKS))]
    asked = whole(setting, 1, None)
    assert np.mean(hours) * len(PEAKS) == pytest.approx(asked.accelerator_hours, rel=0.02)
    kept = [days(setting, seed, None).kept for seed in range(len(PEAKS))]
    assert asked.periods == len(PEAKS)
    assert set(kept) <= {0, 1}, "a period is a day"


def test_a_day_goes_on_from_what_ran_before():
    days = by_days(scenario_under(replace(plan_of((4.0, 4.0)), output=parse_lengths("fixed:400"))))
    assert days.options.start_replicas > 1
    outcome = days.outcome(Candidate((("running", 10.0),), Behavior(), 1, 12), 1)
    assert outcome.replicas[0][1] == days.options.start_replicas
    assert days.outcome(Candidate((("running", 10.0),), Behavior(), 1, 2), 1).replicas[0][1] == 2


def test_one_day_stays_as_it_is_and_days_are_told():
    one = scenario_under(plan_of(PEAKS[:1]))
    assert by_days(one) is one
    assert days_in_words(one.plan) == []
    days = by_days(scenario_under(plan_of(PEAKS)))
    assert "one of the traffic's 5 days" in days_in_words(days.plan)[0]
    assert days.plan.describe()["days"] == 5
    assert replace(days, kept=None).plan is days.plan
