"""The traffic that settings are judged under, and the scenario that it makes with a profile and an SLO."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.errors import BadInput
from analysis.slo import parse_slo
from autoscale.profiles import Profile
from autoscale.recommend.choice.promise import Promise
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.model.one_replica import capacity, idle_verdict
from autoscale.recommend.progress import Tell, unheard
from autoscale.sim.engine.replicas import EngineParams
from loadgen.plan import rates
from loadgen.plan.traffic import LoadPlan

DEFAULT_PEAK = 4.0  # peak of the default traffic, in multiples of one replica's capacity
DEFAULT_REQUESTS = 120_000  # more than this of the default day is not simulated
PEAK_HOUR = 14.5  # of rates.DAY_SHAPE
PEAK_POINTS = 2000  # instants at which the rate is looked at


def scenario_of(
    profile: Profile,
    *,
    traffic: Path | None = None,
    peak_rps: float | None = None,
    slo: str | None = None,
    attainment: float | None = None,
    promise: Promise | None = None,
    engine: EngineParams | None = None,
    lengths: tuple[str, str] | None = None,
    hours: float | None = None,
    time_unit: str | None = None,
    plan: LoadPlan | None = None,
    tell: Tell = unheard,
) -> Scenario:
    """What settings of this profile are judged under; engine, SLO and lengths are the profile's where not given.

    Without traffic it is the default day in bursts, its peak `peak_rps` or four times what one replica can serve, and
    `hours` of it. `plan` is what `offered` read of the same arguments; `tell` hears what was read.
    """
    checked_share(attainment)
    prompt, output = lengths or (profile.workload.prompt_tokens, profile.workload.output_tokens)
    if plan is None:
        plan = offered(traffic, peak_rps, (prompt, output), hours, time_unit)
    if plan.trace is not None:
        tell(plan.trace.sentence)
    scenario = Scenario(
        profile=profile,
        engine=engine or EngineParams.from_profile(profile),
        plan=plan,
        slo=parse_slo(slo or profile.workload.slo),
        attainment=attainment if attainment is not None else profile.workload.attainment,
        promise=promise or Promise(),
    )
    if traffic is not None or peak_rps is not None or idle_verdict(scenario) is not None:
        return scenario
    peak = DEFAULT_PEAK * capacity(scenario).rate_rps
    return replace(scenario, plan=default_traffic(peak, prompt, output, hours))


def checked_share(attainment: float | None) -> float | None:
    """The same. Raises BadInput for an attainment that is no share."""
    if attainment is not None and not 0 < attainment < 1:
        raise BadInput("attainment", value=attainment, expected="a share between 0 and 1, for example 0.99")
    return attainment


def offered(
    traffic: Path | None,
    peak_rps: float | None,
    lengths: tuple[str, str],
    hours: float | None = None,
    time_unit: str | None = None,
) -> LoadPlan:
    """The traffic that was asked for; of the default one without a peak that of 1 request/s. Raises BadInput."""
    if traffic is None:
        if time_unit is not None:
            raise BadInput("--trace-time-unit without --traffic", value=time_unit, next_step="leave it out")
        return default_traffic(1.0 if peak_rps is None else peak_rps, *lengths, hours)
    if peak_rps is not None:
        raise BadInput("traffic and peak exclude each other", value=peak_rps, expected="one of the two")
    if hours is not None:
        raise BadInput("traffic and hours exclude each other", value=hours, expected="one of the two")
    return _plan(traffic, time_unit)


def traffic_in_words(plan: LoadPlan, traffic: Path | None) -> str:
    """What is offered: where it comes from, its hours, its highest rate, its requests and their lengths."""
    source = "assumed: a day in bursts," if traffic is None else f"{traffic},"
    highest = float(plan.rate(np.linspace(0.0, plan.duration_s, PEAK_POINTS)).max())
    return (
        f"{source} {plan.duration_s / 3600:.3g} h, {plan.expected_requests:,.0f} requests, up to {highest:.3g} requests/s, "
        f"prompts {plan.prompt.in_words}, answers {plan.output.in_words} tokens"
    )


def default_traffic(peak_rps: float, prompt: str, output: str, hours: float | None = None) -> LoadPlan:
    """The default day in bursts; of a busy service the hours around its peak, about 120,000 requests of it."""
    plan = LoadPlan.default_traffic(peak_rps, prompt, output)
    if hours is None:
        share = DEFAULT_REQUESTS / plan.expected_requests
        if share >= 1:
            return plan
        hours = 24 * max(share, 1 / 8)
    elif not 0 < hours < math.inf:
        raise BadInput("--hours", value=hours, expected="hours of traffic above 0, for example 24")
    start_hour = max(0.0, PEAK_HOUR - 0.6 * hours)
    programme = rates.diurnal(peak_rps, hours * 3600, start_hour=start_hour)
    return replace(plan, programme=programme, begins_s=start_hour * 3600)


def _plan(path: Path, time_unit: str | None) -> LoadPlan:
    if not path.exists():
        raise BadInput(
            "no such traffic file", value=str(path), expected="a load file (.yaml) or a recorded trace"
        )
    if path.suffix in (".yaml", ".yml"):
        return LoadPlan.from_options(load_file=path, time_unit=time_unit)
    return LoadPlan.from_options(trace=path, time_unit=time_unit)
