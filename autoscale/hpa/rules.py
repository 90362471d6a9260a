"""What the HPA controller decides at one sync, as a pure function.

    metrics -> proposal per metric -> the largest -> stabilised -> rate-limited, within min and max -> replicas
               calculator.py          decide         limits.py      limits.py

The memory between syncs is a value: recommendations and scale events with their times, the last status.
Source: kubernetes pkg/controller/podautoscaler/horizontal.go, checked against recorded decisions of the real controller,
v1.36.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from autoscale.hpa.calculator import Proposal, Reading, propose
from autoscale.hpa.limits import US, Condition, Memory, rate_limit, recorded, stabilise
from autoscale.hpa.spec import HpaSpec, MetricTarget


class Event(NamedTuple):
    """One Kubernetes event on the HPA object."""

    type: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.type} {self.reason} {self.message}"


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of one sync.

    replicas is what the scale target has afterwards; reason and message name what decided it: the rescale, the failure,
    the limit, the stabilisation, or nothing (ReadyForNewScale). proposals and metric_usage_milli hold one entry per
    metric of the spec, None = unreadable or not read. events are those of this sync, error what the controller logs.
    """

    replicas: int
    memory: Memory
    reason: str
    message: str
    metric_usage_milli: Mapping[str, int | None]
    current_replicas: int
    metric: str  # "pods metric NAME", the largest proposal's; empty when no metric decided
    proposals: Mapping[str, int | None]
    events: tuple[Event, ...] = ()
    error: str | None = None

    @property
    def rescaled(self) -> bool:
        """Whether the target's size was changed."""
        return self.replicas != self.current_replicas

    @property
    def conditions(self) -> dict[str, Condition]:
        """The status conditions after this sync, by type; a condition may be stale, as on a real cluster."""
        kept = (self.memory.able, self.memory.active, self.memory.limited)
        return {condition.type: condition for condition in kept if condition is not None}


_GOT_SCALE = Condition(
    "AbleToScale", True, "SucceededGetScale", "the HPA controller was able to get the target's current scale"
)
_DISABLED = Condition(
    "ScalingActive",
    False,
    "ScalingDisabled",
    "scaling is disabled since the replica count of the target is zero",
)
_LIMITS = {
    "TooFewReplicas": "the desired replica count is less than the minimum replica count",
    "TooManyReplicas": "the desired replica count is more than the maximum replica count",
    "ScaleUpLimit": "the desired replica count is increasing faster than the maximum scale rate",
    "ScaleDownLimit": "the desired replica count is decreasing faster than the maximum scale rate",
    "DesiredWithinRange": "the desired count is within the acceptable range",
}
_LIMITED = {
    (reason, status): Condition("ScalingLimited", status, reason, message)
    for reason, message in _LIMITS.items()
    for status in (True, False)
}


def decide(
    spec: HpaSpec,
    memory: Memory | None,
    current_replicas: int,
    metrics: Mapping[str, Reading],
    now_s: float,
    *,
    status_replicas: int | None = None,
) -> Decision:
    """What the controller does at one sync at `now_s` with the scale target at `current_replicas` (its spec).

    `memory` is the previous decision's, None at the first sync. `metrics[name]` is one PodMetric per pod of the target,
    a MetricError, or for an External metric its total in milli-units; a name that is absent was not found.
    `status_replicas` is the target's observed size, which External metrics use; the same as its spec when not given.
    """
    now_us = round(now_s * US)
    memory = memory or Memory()
    if not memory.recommendations:
        memory = replace(memory, recommendations=((now_us, current_replicas),))
    if current_replicas == 0:
        memory = replace(memory, able=_GOT_SCALE, active=_DISABLED, desired_replicas=0)
        none = _no_values(spec)
        return Decision(0, memory, _DISABLED.reason, _DISABLED.message, none, 0, "", none)
    if not spec.min_replicas <= current_replicas <= spec.max_replicas:
        above = current_replicas > spec.max_replicas
        cause = (
            f"Current number of replicas {'above Spec.MaxReplicas' if above else 'below Spec.MinReplicas'}"
        )
        size = spec.max_replicas if above else spec.min_replicas
        none = _no_values(spec)
        return _settled(spec, memory, current_replicas, size, cause, now_us, now_s, none, "", none, (), None)

    observed = current_replicas if status_replicas is None else status_replicas
    found: dict[str, Proposal] = {}
    failures: list[tuple[MetricTarget, str]] = []
    wanted, metric = 0, ""
    for target in spec.metrics:
        proposal = propose(spec, target, metrics.get(target.name), current_replicas, observed)
        found[target.name] = proposal
        if proposal.error is not None:
            failures.append((target, proposal.error))
        elif wanted == 0 or proposal.replicas > wanted:
            wanted, metric = proposal.replicas, target.label
    usage = {name: proposal.usage_milli for name, proposal in found.items()}
    proposals = {name: None if p.error is not None else p.replicas for name, p in found.items()}
    events: tuple[Event, ...] = ()
    error = None
    if failures:
        events = tuple(Event("Warning", target.failed_reason, text) for target, text in failures)
        first, text = failures[0]
        error = (
            f"invalid metrics ({len(failures)} invalid out of {len(spec.metrics)}), "
            f"first error is: {first.wrapped(text)}"
        )
        if len(failures) == len(spec.metrics) or wanted < current_replicas:
            sentence = f"the HPA was unable to compute the replica count: {text}"
            active = Condition("ScalingActive", False, first.failed_reason, sentence)
            events += (Event("Warning", "FailedComputeMetricsReplicas", error),)
            error = f"failed to compute desired number of replicas based on listed metrics for {spec.reference}: {error}"
            memory = replace(memory, able=_GOT_SCALE, active=active)
            return Decision(
                current_replicas,
                memory,
                active.reason,
                sentence,
                usage,
                current_replicas,
                "",
                proposals,
                events,
                error,
            )

    active = Condition(
        "ScalingActive",
        True,
        "ValidMetricFound",
        f"the HPA was able to successfully calculate a replica count from {metric}",
    )
    cause = ""
    above_zero = max(wanted, 0)
    if above_zero > current_replicas:
        cause = f"{metric} above target"
    elif above_zero < current_replicas:
        cause = "All metrics below target"
    stable, recommendations, able = stabilise(spec, memory, current_replicas, above_zero, now_us)
    size, limit = rate_limit(spec, memory, current_replicas, stable, now_us)
    memory = Memory(
        recommendations,
        memory.scaled_up,
        memory.scaled_down,
        able,
        active,
        _LIMITED[limit, size != stable],
        memory.desired_replicas,
        memory.last_scale_s,
    )
    return _settled(
        spec, memory, current_replicas, size, cause, now_us, now_s, usage, metric, proposals, events, error
    )


def _settled(
    spec: HpaSpec,
    memory: Memory,
    current: int,
    size: int,
    cause: str,
    now_us: int,
    now_s: float,
    usage: Mapping[str, int | None],
    metric: str,
    proposals: Mapping[str, int | None],
    events: tuple[Event, ...],
    error: str | None,
) -> Decision:
    """The decision once the size is known: record the rescale, or say what kept the size."""
    if size == current:
        explains = memory.limited if memory.limited and memory.limited.status else memory.able
        assert explains is not None
        reason, message = explains.reason, explains.message
        if memory.desired_replicas != size:
            memory = replace(memory, desired_replicas=size)
        return Decision(size, memory, reason, message, usage, current, metric, proposals, events, error)
    message = f"New size: {size}; reason: {cause}"
    able = Condition(
        "AbleToScale",
        True,
        "SucceededRescale",
        f"the HPA controller was able to update the target scale to {size}",
    )
    up, down = memory.scaled_up, memory.scaled_down
    if spec.behavior is not None and size > current:
        up = recorded(up, size - current, spec.behavior.scale_up, now_us)
    elif spec.behavior is not None:
        down = recorded(down, current - size, spec.behavior.scale_down, now_us)
    memory = replace(
        memory, able=able, scaled_up=up, scaled_down=down, desired_replicas=size, last_scale_s=now_s
    )
    events = (*events, Event("Normal", "SuccessfulRescale", message))
    return Decision(
        size, memory, "SuccessfulRescale", message, usage, current, metric, proposals, events, error
    )


def _no_values(spec: HpaSpec) -> dict[str, int | None]:
    return {target.name: None for target in spec.metrics}
