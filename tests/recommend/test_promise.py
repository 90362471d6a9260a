"""What is promised of days: how many may fail, which days are kept, and how long a stretch over the SLO may last."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis.errors import BadInput
from analysis.slo import parse_slo
from autoscale.cli.inputs import promise_of
from autoscale.recommend.choice.circumstances import at_slow_starts, at_start, at_traffic
from autoscale.recommend.choice.promise import Promise
from autoscale.recommend.choice.seeds import own_seeds, trial_s
from autoscale.recommend.choice.settings import Standing
from autoscale.sim.engine.replicas import FINISHED
from autoscale.sim.fleet.tally import Tally
from loadgen.plan.traces import Trace

DAY_S = 86_400.0


@pytest.mark.parametrize("of", [59, 64, 93, 153, 400])
@pytest.mark.parametrize("share", [0.9, 0.95])
def test_as_many_may_fail_as_a_share_below_the_promised_one_would_hardly_show(share: float, of: int) -> None:
    """At a true share of exactly what is promised, so few failures come in at most 5 %; one more in more than 5 %."""
    allowed = Promise(share).failures(of)
    assert stats.binom.cdf(allowed, of, 1 - share) <= 0.05
    assert stats.binom.cdf(allowed + 1, of, 1 - share) > 0.05


def test_the_own_seeds_are_enough_to_show_the_promise(small) -> None:
    for share in (0.5, 0.95, 0.99):
        promise = Promise(share)
        assert len(own_seeds(small("1:600").plan, promise)) >= promise.needed
    assert 0.99**298 > 0.05 >= 0.99**299
    assert Promise(0.99).needed == 299


def finished(day: int, ttft_s: float, count: int) -> np.ndarray:
    """Requests of one day, an answer of two tokens each, due a minute apart."""
    rows = np.zeros(count, FINISHED)
    rows["due_s"] = day * DAY_S + 60.0 * np.arange(count)
    rows["first_token_s"] = rows["due_s"] + ttft_s
    rows["last_token_s"] = rows["first_token_s"] + 0.01
    rows["output_tokens"] = 2
    return rows


def test_every_day_is_judged_by_itself_and_the_rest_belongs_to_the_last_one() -> None:
    tally = Tally(parse_slo("ttft_p95=1s"), 2.5 * DAY_S)
    for day, late in ((0, 0), (1, 10), (2, 3)):
        tally.add(finished(day, 0.5, 90))
        tally.add(finished(day, 2.0, late))
    first, second = tally.periods(unserved=7)
    assert first.shares == ((1.0, 0.95),)
    assert second.shares == ((180 / 200, 0.95),)  # 90 + 90 kept, 10 + 3 late, 7 never served
    assert (first.longest_breach_s, second.longest_breach_s) == (0.0, 600.0)


@pytest.mark.parametrize(("longest_s", "kept"), [(None, 1), (3600.0, 1), (0.0, 0)])
def test_a_stretch_over_the_slo_breaks_a_day_when_it_is_longer_than_promised(small, longest_s, kept) -> None:
    """One replica for 1.9 req/s: TTFT passes the bound now and then, in few of the requests."""
    scenario = small("1.9:1800", "ttft_p50=1s", promise=Promise(0.95, longest_s))
    trial = scenario(Standing(1), 1, None)
    assert trial.longest_breach_s > 0
    assert (trial.kept, trial.periods) == (kept, 1)
    assert trial.holds is bool(kept)


@pytest.mark.parametrize(
    ("days", "longest", "said"),
    [
        ("half", None, "--days-kept: 'half'"),
        ("100%", None, "days kept: 1"),
        (None, "soon", "--longest-breach"),
    ],
)
def test_what_cannot_be_promised_is_refused(days, longest, said) -> None:
    with pytest.raises(BadInput, match=said):
        promise_of(days, longest)
    assert promise_of("90%", "10m") == Promise(0.9, 600.0)
    assert promise_of(None, None) == Promise()


def test_circumstances_change_one_thing_each(small) -> None:
    scenario = small("2:600", cold_s=100)
    assert at_start(scenario, 0.5).cold_start_s == pytest.approx(150)
    assert at_slow_starts(scenario).cold_start_s == pytest.approx(100)  # this profile's phases do not vary
    busier = at_traffic(scenario, 0.05).plan
    assert busier.expected_requests == pytest.approx(1.05 * scenario.plan.expected_requests)
    drawn, more = (next(iter(plan.arrivals())) for plan in (scenario.plan, busier))
    assert math.isclose(drawn.due_s[0], 1.05 * more.due_s[0])  # the same gaps: common random numbers


def test_a_thinned_trace_is_estimated_by_what_is_drawn(small, tmp_path) -> None:
    path = tmp_path / "trace.csv"
    rows = "".join(f"{k},10,10\n" for k in range(10_000))
    path.write_text("Timestamp,Request tokens,Response tokens\n" + rows)
    trace = Trace.open(path, rate_scale=0.01)
    plan = replace(small("1:600").plan, trace=trace, programme=trace.rate)
    assert (plan.expected_requests, plan.drawn_requests) == (pytest.approx(100), pytest.approx(10_000))
    assert trial_s(plan) > trial_s(replace(plan, trace=None))
