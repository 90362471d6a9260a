"""The recommendation.json of a decision: what was decided, the figures behind it, and the model that they rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import analysis.capacity
from analysis.numbers import known, mean_interval
from autoscale.kube.scaling_signals import SCALING_SIGNALS
from autoscale.kube.vllm_names import hpa_metric_name
from autoscale.profiles import Profile
from autoscale.profiles.trigger_queries import trigger_query
from autoscale.recommend.answer import Alternative, Decision
from autoscale.recommend.choice.judging import Judged, Trial
from autoscale.recommend.choice.promise import lower_share
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.seeds import period_s
from autoscale.recommend.choice.settings import Candidate, Choice, Setting, quantity
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommendation import (
    AskedSlo,
    BestOfSignal,
    EngineModel,
    Estimated,
    EstimatedRate,
    Forecast,
    MeasuredCapacity,
    ModelledCapacity,
    Provenance,
    Recommendation,
    ReplayedFigure,
    ReplicaCapacity,
    Robustness,
    System,
    Tried,
)
from autoscale.signal_target import SignalTarget
from autoscale.version import own_version


def document(
    scenario: Scenario,
    decision: Decision,
    model: ReplicaModel,
    *,
    spread: tuple[float, float] | None = None,
    notes: Sequence[str] = (),
    provenance: Provenance | None = None,
) -> Recommendation:
    """The whole recommendation.

    `spread` is the interval of the model's capacity relative to its value, `notes` what was set aside or disagrees in
    its runs.
    """
    setting = decision.chosen.setting if decision.chosen else None
    binding = decision.capacity.binding if decision.capacity else None
    return Recommendation(
        answer=decision.answer,
        profile=scenario.profile.name,
        system=_system(scenario, step_scale(spread) if spread else 0.0),
        provenance=provenance or Provenance(),
        slo=_asked(scenario, binding),
        metrics=_metrics(scenario, decision),
        min_replicas=setting.min_replicas if setting else None,
        max_replicas=setting.max_replicas if setting else None,
        behavior=setting.behavior.block if setting else None,
        **_scaler(scenario, setting),
        gateway=scenario.options.gateway.text if scenario.options.gateway else None,
        predicted=_forecast(scenario, decision.chosen),
        slower_than_fitted=decision.slower,
        predicted_as_fitted=_forecast(scenario, decision.expected),
        robust=_robust(decision),
        static_fleet=_forecast(scenario, decision.static),
        tutorial_default=_forecast(scenario, decision.tutorial),
        guides={
            name: made for name, judged in decision.guides.items() if (made := _forecast(scenario, judged))
        },
        current=_forecast(scenario, decision.current),
        best_hpa=_forecast(scenario, decision.best_hpa),
        alternatives={a.signal: _best(a) for a in decision.alternatives},
        capacity_rps=ReplicaCapacity(_measured(model), _modelled(decision, model, spread)),
        model_error=_engine_model(scenario, model),
        reasons=decision.reasons,
        notes=tuple(notes),
        candidates=tuple(
            _tried(candidate, trial, decision.why_not.get(candidate)) for candidate, trial in decision.tried
        ),
        traffic=scenario.plan.describe(),
    )


def step_scale(spread: tuple[float, float]) -> float:
    """The relative half width of the step time's interval, from that of the capacity."""
    return (spread[1] - spread[0]) / 2


def _system(scenario: Scenario, slower: float) -> System:
    profile = scenario.profile
    return System(
        profile.name,
        profile.model.id,
        profile.accelerator.name,
        profile.model_dump(mode="json"),
        slower,
        own_version(),
    )


def _asked(scenario: Scenario, binding: str | None) -> AskedSlo:
    promise = scenario.promise
    return AskedSlo(
        str(scenario.slo),
        scenario.attainment,
        binding,
        promise.days_kept,
        promise.longest_breach_s,
        period_s(scenario.plan),
        scenario.slo_cold_start_s,
    )


def _scaler(scenario: Scenario, setting: Choice | None) -> dict[str, Any]:
    """What is applied, under the name of its kind."""
    manifest = setting.manifest(scenario.profile) if setting else None
    keda = isinstance(setting, Candidate) and setting.keda is not None
    return {"scaled_object" if keda else "hpa": manifest}


def _robust(decision: Decision) -> Robustness | None:
    robust = decision.robust
    if robust is None:
        return None
    return Robustness(robust.traffic, robust.start, robust.start_s, robust.seeds)


def _measured(model: ReplicaModel) -> MeasuredCapacity | None:
    if not model.capacities:
        return None
    capacity = model.capacities[0]

    def of(estimate: analysis.capacity.Estimate) -> EstimatedRate:
        return EstimatedRate(estimate.value, estimate.low, estimate.high, estimate.how)

    return MeasuredCapacity(
        knee=of(capacity.knee),
        saturated=of(capacity.saturated),
        slo=of(capacity.capacity),
        binds=capacity.binds,
        per_term={name: of(estimate) for name, estimate in capacity.per_term.items()},
        notes=tuple(capacity.notes),
        stages=tuple(str(window) for window in capacity.windows),
        next_command=capacity.next_command,
    )


def _metrics(scenario: Scenario, decision: Decision) -> tuple[SignalTarget, ...]:
    setting = decision.chosen.setting if decision.chosen else None
    if not isinstance(setting, Candidate):
        return ()
    found = []
    for place, (signal, value) in enumerate(setting.targets):
        low, high = decision.interval.ends.get(signal, (value, value))
        target = SignalTarget(signal, quantity(value), (quantity(low), quantity(high)))
        found.append(_sourced(target, scenario.profile, place, setting.keda is not None))
    return tuple(found)


def _sourced(target: SignalTarget, profile: Profile, place: int, keda: bool) -> SignalTarget:
    """The target with the HPA's name of its metric; of a ScaledObject with its query, too."""
    signal, version = target.signal, profile.engine.vllm_version
    if not keda:
        return replace(target, metric=hpa_metric_name(signal, version, profile.deploy.metrics))
    return replace(
        target,
        metric=f"s{place}-prometheus",
        metric_type="Value" if SCALING_SIGNALS[signal].metric_type == "Value" else None,
        query=trigger_query(profile, signal),
    )


def _forecast(scenario: Scenario, judged: Judged[Setting] | None) -> Forecast | None:
    if judged is None:
        return None

    def of(figure: str, factor: float = 1.0) -> Estimated:
        low, high = judged.interval(figure)
        return Estimated(judged.mean(figure) * factor, low * factor, high * factor)

    price = scenario.profile.accelerator.price_per_chip_hour
    return Forecast(
        judged.setting.label,
        judged.holds,
        len(judged.trials),
        slo_attainment=of("attainment"),
        days_kept=Estimated(
            1 - judged.broken / judged.periods,
            lower_share(judged.periods - judged.broken, judged.periods),
            1 - lower_share(judged.broken, judged.periods),
        ),
        periods=judged.periods,
        worst_stretch_s=judged.longest_breach_s,
        replica_hours=of("replica_hours"),
        accelerator_hours=of("accelerator_hours"),
        latencies={
            name: Estimated(sum(values) / len(values), *mean_interval(values, least=0.0))
            for name, values in judged.latencies().items()
        },
        wasted_scale_outs=of("wasted_scale_outs"),
        flaps=of("flaps"),
        longest_breach_s=of("longest_breach_s"),
        cost=None if price is None else of("accelerator_hours", price),
        peak_replicas=Estimated(*judged.spread("peak_replicas")),
        ready_s=Estimated(*judged.spread("longest_start_s")),
        recovery_s=Estimated(*judged.spread("longest_breach_s")),
        **_nights(judged, of("from_zero")),
    )


def _nights(judged: Judged[Setting], from_zero: Estimated) -> dict[str, Any]:
    waited = [trial.longest_from_zero_s for trial in judged.trials if trial.from_zero]
    return {"from_zero": from_zero, "longest_from_zero_s": max(waited)} if waited else {}


def _modelled(
    decision: Decision, model: ReplicaModel, spread: tuple[float, float] | None
) -> ModelledCapacity | None:
    """The replica at its capacity, with the interval of its runs where there are some: one figure has one."""
    point, measured = decision.capacity, _measured(model)
    if point is None:
        return None
    low, high = (point.rate_rps * end for end in spread or (math.nan, math.nan))
    if measured is not None and known(measured.slo.value):
        low, high = measured.slo.low, measured.slo.high
    return ModelledCapacity(
        point.rate_rps,
        low,
        high,
        waiting=point.waiting,
        running=point.running,
        kv_usage=point.kv_usage,
    )


def _engine_model(scenario: Scenario, model: ReplicaModel) -> EngineModel:
    engine = scenario.engine
    parameters = {name: getattr(engine, name) for name in engine.__dataclass_fields__}
    if not model.fitted:
        return EngineModel("profile prior (no run)", parameters)
    return EngineModel(
        f"calibrated on {model.basis}",
        parameters,
        replay_median_error=model.median_error(),
        intervals=model.intervals,
        confounded=model.confounded,
        stages_used=model.stages_used,
        replay=_replayed(model),
    )


def _replayed(model: ReplicaModel) -> tuple[ReplayedFigure, ...]:
    rows = model.replay.astype(object)[[field.name for field in fields(ReplayedFigure)]]
    return tuple(ReplayedFigure(*row) for row in rows.itertuples(index=False))


def _best(alternative: Alternative) -> BestOfSignal:
    judged = alternative.judged
    if judged is None:
        return BestOfSignal(sentence=alternative.sentence)
    attainment, hours = judged.mean("attainment"), judged.cost
    return BestOfSignal(
        quantity(judged.setting.targets[-1][1]),
        judged.setting.label,
        judged.holds,
        attainment if known(attainment) else None,
        hours if known(hours) else None,
        alternative.sentence,
    )


def _tried(candidate: Candidate, trial: Trial, why_not: str | None) -> Tried:
    return Tried(
        candidate.label,
        candidate.family,
        trial.holds,
        trial.stopped or None,
        trial.margin,
        trial.accelerator_hours,
        trial.wasted_scale_outs,
        why_not,
    )
