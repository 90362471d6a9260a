"""The traffic that settings are judged under, and the scenario that it makes with a profile and an SLO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
    time_unit: str | None = None,
    tell: Tell = unheard,
) -> Scenario:
    """What settings of this profile are judged under; engine, SLO and lengths are the profile's where not given.

    Without traffic it is the default day in bursts, its peak `peak_rps` or four times what one replica can serve.
    `time_unit` is that of a trace's timestamps; `tell` hears what was read from it.
    """
    if traffic is not None and peak_rps is not None:
        raise BadInput("traffic and peak exclude each other", value=peak_rps, expected="one of the two")
    if attainment is not None and not 0 < attainment < 1:
        raise BadInput("attainment", value=attainment, expected="a share between 0 and 1, for example 0.99")
    prompt, output = lengths or (profile.workload.prompt_tokens, profile.workload.output_tokens)
    if traffic is None and time_unit is not None:
        raise BadInput("--trace-time-unit without --traffic", value=time_unit, next_step="leave it out")
    plan = (
        default_traffic(1.0 if peak_rps is None else peak_rps, prompt, output)
        if traffic is None
        else _plan(traffic, time_unit)
    )
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
    return replace(scenario, plan=default_traffic(peak, prompt, output))


def default_traffic(peak_rps: float, prompt: str, output: str) -> LoadPlan:
    """The default day in bursts; of a busy service the hours around its peak, about 120,000 requests of it."""
    plan = LoadPlan.default_traffic(peak_rps, prompt, output)
    share = DEFAULT_REQUESTS / plan.expected_requests
    if share >= 1:
        return plan
    hours = 24 * max(share, 1 / 8)
    programme = rates.diurnal(peak_rps, hours * 3600, start_hour=PEAK_HOUR - 0.6 * hours)
    return replace(plan, programme=programme)


def _plan(path: Path, time_unit: str | None) -> LoadPlan:
    if not path.exists():
        raise BadInput(
            "no such traffic file", value=str(path), expected="a load file (.yaml) or a recorded trace"
        )
    if path.suffix in (".yaml", ".yml"):
        return LoadPlan.from_options(load_file=path, time_unit=time_unit)
    return LoadPlan.from_options(trace=path, time_unit=time_unit)
