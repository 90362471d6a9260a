"""KEDA's two ways of reading triggers, as pure steps over a status: a poll of its scale loop, and a query of the HPA.

    poll:   triggers -> fallback -> formula -> active? -> 0 to min, to zero or idle, below min; conditions, events
    query:  triggers, or the last poll's with useCachedMetrics -> fallback -> formula -> the HPA's value

Everything between min and max is the HPA's. Times are seconds in which whole seconds are the clock's (epoch seconds, or
seconds since one): the last active time is cut to them. Source: kedacore/keda v2.20.2 pkg/scaling/scale_handler.go,
pkg/scaling/executor/scale_scaledobjects.go, pkg/scaling/modifiers/formula.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from autoscale.keda.executor import Execution
from autoscale.keda.fallback import (
    Replaced,
    Target,
    TargetPods,
    exceeded,
    fallback_milli,
    has_valid_fallback,
    with_fallback,
)
from autoscale.keda.formula import FormulaError
from autoscale.keda.hpa_made import COMPOSITE
from autoscale.keda.loop_status import FALLS_BACK, NO_FALLBACK, LoopStatus, Step
from autoscale.keda.prometheus_trigger import Answer, PrometheusTrigger, QueryFailed, TriggerValue
from autoscale.keda.scaled_object import ScaledObject, Trigger
from autoscale.keda.targets import int64

Read = TriggerValue | QueryFailed


class _Trigger(NamedTuple):
    """One trigger's part of a step."""

    trigger: Trigger
    value: Replaced
    active: bool


def read_triggers(scaled: ScaledObject, answers: Mapping[str, Answer], now_s: float) -> dict[str, Read]:
    """What every trigger reads at `now_s` (epoch seconds, for cron); `answers` of Prometheus by metric name."""
    return {
        trigger.metric_name: trigger.read(answers[trigger.metric_name])
        if isinstance(trigger, PrometheusTrigger)
        else trigger.value(now_s)
        for trigger in scaled.triggers
    }


def poll(
    scaled: ScaledObject,
    status: LoopStatus,
    reads: Mapping[str, Read],
    pods: TargetPods,
    now_s: float,
    created_s: float,
    *,
    scale_fails: bool,
) -> Step:
    """One pass of the scale loop; `created_s` is the object's creation, `scale_fails` a refused write of the scale."""
    events = list(_built(scaled, status))
    found, status = _read(scaled, status, reads, pods)
    was_fallback = status.fallback.status == "True"
    status = _counted(scaled, status)
    failed = "KEDAMetricSourceFailed" if scaled.modifiers else "KEDAScalerFailed"
    events += [f"Warning {failed} {each.value.error}" for each in found if each.value.error is not None]
    is_error = any(each.value.error is not None for each in found)
    falls_back = any(each.value.active for each in found)
    if falls_back != was_fallback:
        events.append(_fallback_event(falls_back))
    active = [each.trigger.metric_name for each in found if each.active]
    if scaled.modifiers is not None:
        composite = {} if is_error else _composite(scaled, found, pods)
        above = any(_approximate(milli) > scaled.modifiers.activation_target for milli in composite.values())
        active = [COMPOSITE] if above else []
    cached = {
        each.trigger.metric_name: each.value
        for each in found
        if isinstance(each.trigger, PrometheusTrigger) and each.trigger.cached
    }
    status = replace(
        status,
        built=not is_error,
        cached=cached,
        triggers_activity={name: name in active for name in scaled.metric_names},
    )
    execution = Execution(scaled, status, pods.replicas, active, is_error, now_s, created_s, scale_fails)
    return execution.made(events)


def hpa_query(
    scaled: ScaledObject, status: LoopStatus, metric: str, reads: Mapping[str, Read], pods: TargetPods
) -> Step:
    """What the HPA gets for a metric: value and name, nothing where the formula cannot run, or an error."""
    events = tuple(_built(scaled, status))
    wanted = scaled.triggers if scaled.modifiers else [t for t in scaled.triggers if t.metric_name == metric]
    found, status = _read(scaled, status, reads, pods, wanted, from_cache=True)
    status = _counted(scaled, status)
    is_error = any(each.value.error is not None for each in found)
    # an error clears KEDA's caches: scalers are built anew, and the next query asks Prometheus
    status = replace(status, built=not is_error, cached={} if is_error else status.cached)
    if is_error and not any(each.value.active for each in found):
        return Step(status, events, error=f"metric:{metric} encountered error")
    if scaled.modifiers is not None:
        return Step(status, events, metrics=_composite(scaled, found, pods))
    metrics = {each.value.name: each.value.milli for each in found if each.value.milli is not None}
    if not metrics:
        return Step(status, events, error=f"no matching metrics found for {metric}")
    return Step(status, events, metrics=metrics)


def _built(scaled: ScaledObject, status: LoopStatus) -> Iterator[str]:
    """Scalers are built before the first read, and again after an error."""
    if not status.built:
        for trigger in scaled.triggers:
            kind = "prometheus" if isinstance(trigger, PrometheusTrigger) else "cron"
            yield f"Normal KEDAScalersStarted Scaler {kind} is built"


def _read(
    scaled: ScaledObject,
    status: LoopStatus,
    reads: Mapping[str, Read],
    pods: TargetPods,
    wanted: tuple[Trigger, ...] | list[Trigger] | None = None,
    from_cache: bool = False,
) -> tuple[list[_Trigger], LoopStatus]:
    """The triggers' values after the fallback, in their order, and the failures counted."""
    health, found = status.health, []
    for trigger in scaled.triggers if wanted is None else wanted:
        name = trigger.metric_name
        read: Read = reads[name] if name in reads else QueryFailed("no answer")
        record = status.cached.get(name) if from_cache else None
        if record is not None:
            read = (
                QueryFailed(record.error or "")
                if record.milli is None
                else TriggerValue(record.milli, "", False)
            )
        target = Target(trigger.metric_type, trigger.target)
        value, health = with_fallback(scaled, health, name, target, read, pods)
        active = value.active or (isinstance(read, TriggerValue) and read.active)
        found.append(_Trigger(trigger, value, active))
    return found, replace(status, health=health)


def _counted(scaled: ScaledObject, status: LoopStatus) -> LoopStatus:
    """The condition Fallback, which is looked at only with a valid fallback."""
    if not has_valid_fallback(scaled):
        return status
    there = exceeded(scaled, status.health)
    condition = FALLS_BACK if there else NO_FALLBACK
    return replace(status, fallback=condition)


def _fallback_event(falls_back: bool) -> str:
    if falls_back:
        return "Normal ScaledObjectFallbackActivated ScaledObject fallback is active"
    return "Normal ScaledObjectFallbackDeactivated ScaledObject fallback is no longer active"


def _composite(scaled: ScaledObject, found: list[_Trigger], pods: TargetPods) -> dict[str, int]:
    """The composite metric: the first fallback's value, or the formula's, cut to milli-units; none where it cannot run."""
    modifiers = scaled.modifiers
    assert modifiers is not None
    replaced = next((each.value.milli for each in found if each.value.active), None)
    if replaced is not None:
        return {COMPOSITE: replaced}
    values = {
        each.trigger.name: None if each.value.nil else _approximate(each.value.milli or 0) for each in found
    }
    try:
        result = modifiers.formula.result(values)
    except FormulaError:
        return {}
    if result is None:
        if scaled.fallback is None:
            return {}
        target = Target(modifiers.metric_type, modifiers.target)
        milli = fallback_milli(scaled, target, scaled.fallback.replicas, pods.ready)
        return {} if milli is None else {COMPOSITE: milli}
    return {COMPOSITE: int64(result * 1000)}


def _approximate(milli: int) -> float:
    """The float64 that KEDA reads from a value in milli-units."""
    return float(milli // 1000) if milli % 1000 == 0 else milli * 0.001
