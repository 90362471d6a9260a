"""What simulations will take, before they begin: an estimate, and a refusal of what nobody would wait for. Pure.

    seconds = simulations * (requests * REQUEST_S + thinned * DRAW_S + ticks * (TICK_S + replicas * REPLICA_S))

with a tick per scrape and per sync of the HPA; `thinned` are requests of a trace that are drawn and left out. The constants are of one core of a laptop and on the high side: an HPA that
changes its size all the time takes longer than one that stays.
"""

from __future__ import annotations

from analysis.errors import BadInput
from autoscale.recommend.choice.scenario import Scenario

REQUEST_S, DRAW_S, TICK_S, REPLICA_S = 10e-6, 0.6e-6, 4e-6, 0.1e-6
MOST_S = 1800.0  # of everything that one command simulates in a row
MOST_EACH_S = 200.0  # of one simulation of a search, which makes hundreds: 20 million requests
WORTH_SAYING_S = 30.0


def seconds_each(scenario: Scenario, replicas: int) -> float:
    """Estimated seconds of one simulation with about so many replicas."""
    plan, path = scenario.plan, scenario.profile.metric_path
    ticks = plan.duration_s * (1 / path.scrape_interval_s + 1 / path.sync_period_s)
    thinned = plan.drawn_requests - plan.expected_requests
    return plan.expected_requests * REQUEST_S + thinned * DRAW_S + ticks * (TICK_S + replicas * REPLICA_S)


def check_cost(scenario: Scenario, replicas: int, simulations: int) -> str | None:
    """What so many simulations will take, as a sentence when it is worth saying. Raises BadInput when it is too much."""
    each = seconds_each(scenario, replicas)
    total = each * simulations
    if total > MOST_S:
        raise _too_much(scenario, f"{simulations:,} simulation{_s(simulations)}", total, MOST_S)
    if total < WORTH_SAYING_S:
        return None
    return f"{simulations:,} simulation{_s(simulations)} of {scenario.plan.expected_requests:,.0f} requests: about {_time(total)}"


def check_search(scenario: Scenario) -> None:
    """Raises BadInput when a search over settings would take too long."""
    each = seconds_each(scenario, 1)
    if each > MOST_EACH_S:
        raise _too_much(scenario, "each of some hundred simulations", each, MOST_EACH_S)


def _too_much(scenario: Scenario, what: str, seconds: float, most_s: float) -> BadInput:
    plan, share = scenario.plan, most_s / seconds
    fits = f"about {plan.expected_requests * share:,.3g} requests, or {plan.duration_s * share:,.3g} s of this traffic"
    return BadInput(
        f"{what} of {plan.expected_requests:,.0f} requests over {plan.duration_s:,.0f} s would take about "
        f"{_time(seconds)}",
        expected=f"at most {_time(most_s)}, which is {fits}",
        next_step="offer less (--peak, duration_s, rate_scale, a window of the trace) or simulate fewer --seeds",
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.0f} h"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
