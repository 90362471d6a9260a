"""What the HPA controller decides at one sync, as a pure function.

    metrics -> proposal per metric -> the largest -> stabilised -> rate-limited, within min and max -> replicas
               calculator.py          here           limits.py      limits.py

The numbers of all four are in arithmetic.py; here is the order, and what the status and the events say. The memory between syncs is a value: recommendations and scale events with their times, the last status.
Source: kubernetes pkg/controller/podautoscaler/horizontal.go, checked against recorded decisions of the real controller,
v1.36.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from autoscale.hpa.arithmetic import US, SizeRecord
from autoscale.hpa.calculator import Proposal, Reading, Seen, propose
from autoscale.hpa.limits import SCALING_DISABLED, Condition, Memory, rate_limit, recorded, stabilise
from autoscale.hpa.spec import HpaSpec, MetricTarget


class Event(NamedTuple):
    """One Kubernetes event on the HPA object."""

    type: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.type} {self.reason} {self.message}"


@dataclass(frozen=True, slots=True)
class HpaDecision:
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
        kept = (self.memory.able, self.memory.active, self.memory.limited, self.memory.zero)
        return {condition.type: condition for condition in kept if condition is not None}


_GOT_SCALE = Condition(
    "AbleToScale", True, "SucceededGetScale", "the HPA controller was able to get the target's current scale"
)
_DISABLED = Condition(
    "ScalingActive",
    False,
    SCALING_DISABLED,
    "scaling is disabled since the replica count of the target is zero",
)
_TO_ZERO = Condition("ScaledToZero", True, "ScaledToZero", "the HPA controller scaled the workload to zero")
_NOT_TO_ZERO = Condition(
    "ScaledToZero", False, "NotScaledToZero", "the HPA controller did not scale the workload to zero"
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
    seen: Seen | None = None,
) -> HpaDecision:
    """What the controller does at one sync at `now_s` with the scale target at `current_replicas` (its spec).

    `memory` is the previous decision's, None at the first sync. `metrics[name]` is one PodMetric per pod of the target,
    a MetricError, or for an External or Object metric its total in milli-units; a name that is absent was not found.
    `seen` is the target's status; without it all replicas of the spec are there and ready.

    At zero replicas nothing is read, unless minReplicas is 0 and the controller itself came to zero (condition
    ScaledToZero, Kubernetes 1.36 on).
    """
    now_us = round(now_s * US)
    memory = memory or Memory()
    if not memory.recommendations:
        memory = replace(memory, recommendations=(SizeRecord(now_us, current_replicas),))
    if current_replicas == 0 and not (spec.min_replicas == 0 and memory.zero and memory.zero.status):
        memory = replace(memory, able=_GOT_SCALE, active=_DISABLED, desired_replicas=0)
        unread = _Asked.nothing(spec)
        return _kept(memory, 0, _DISABLED.reason, _DISABLED.message, unread)
    if not spec.min_replicas <= current_replicas <= spec.max_replicas:
        above = current_replicas > spec.max_replicas
        bound = "above Spec.MaxReplicas" if above else "below Spec.MinReplicas"
        size = spec.max_replicas if above else spec.min_replicas
        cause = f"Current number of replicas {bound}"
        return _settled(spec, memory, current_replicas, size, cause, now_s, _Asked.nothing(spec))
    asked = _asked(spec, current_replicas, metrics, seen or Seen(current_replicas, current_replicas or None))
    if asked.blocks(current_replicas):
        return _failed(spec, memory, current_replicas, asked)
    wanted = max(asked.replicas, 0)
    stable, recommendations, able = stabilise(spec, memory, current_replicas, wanted, now_us)
    size, limit = rate_limit(spec, memory, current_replicas, stable, now_us)
    memory = Memory(
        recommendations,
        memory.scaled_up,
        memory.scaled_down,
        able,
        Condition(
            "ScalingActive",
            True,
            "ValidMetricFound",
            f"the HPA was able to successfully calculate a replica count from {asked.metric}",
        ),
        _LIMITED[limit, size != stable],
        memory.zero,
        memory.desired_replicas,
        memory.last_scale_s,
    )
    cause = ""
    if wanted > current_replicas:
        cause = f"{asked.metric} above target"
    elif wanted < current_replicas:
        cause = "All metrics below target"
    return _settled(spec, memory, current_replicas, size, cause, now_s, asked)


class _Asked(NamedTuple):
    """What the metrics of one sync ask for together: the largest proposal, and what could not be read."""

    replicas: int
    metric: str  # the largest proposal's; empty when no metric asked
    usage_milli: Mapping[str, int | None]
    proposals: Mapping[str, int | None]
    failures: tuple[tuple[MetricTarget, str], ...] = ()
    events: tuple[Event, ...] = ()
    error: str | None = None

    @classmethod
    def nothing(cls, spec: HpaSpec) -> _Asked:
        """No metric was read."""
        none = {target.name: None for target in spec.metrics}
        return cls(0, "", none, none)

    def blocks(self, current: int) -> bool:
        """Whether failures leave the size as it is: all metrics failed, or those that did not ask for fewer replicas."""
        return bool(self.failures) and (len(self.failures) == len(self.proposals) or self.replicas < current)


def _asked(spec: HpaSpec, current: int, metrics: Mapping[str, Reading], seen: Seen) -> _Asked:
    """Every metric's proposal; the largest counts."""
    found: dict[str, Proposal] = {}
    failures: list[tuple[MetricTarget, str]] = []
    wanted, metric = 0, ""
    for target in spec.metrics:
        proposal = found[target.name] = propose(spec, target, metrics.get(target.name), current, seen)
        if proposal.error is not None:
            failures.append((target, proposal.error))
        elif wanted == 0 or proposal.replicas > wanted:
            wanted, metric = proposal.replicas, target.label
    usage = {name: proposal.usage_milli for name, proposal in found.items()}
    proposals = {name: None if p.error is not None else p.replicas for name, p in found.items()}
    if not failures:
        return _Asked(wanted, metric, usage, proposals)
    events = tuple(Event("Warning", target.failed_reason, text) for target, text in failures)
    first, text = failures[0]
    error = f"invalid metrics ({len(failures)} invalid out of {len(spec.metrics)}), first error is: {first.wrapped(text)}"
    return _Asked(wanted, metric, usage, proposals, tuple(failures), events, error)


def _failed(spec: HpaSpec, memory: Memory, current: int, asked: _Asked) -> HpaDecision:
    """The size stays because metrics could not be read."""
    first, text = asked.failures[0]
    sentence = f"the HPA was unable to compute the replica count: {text}"
    active = Condition("ScalingActive", False, first.failed_reason, sentence)
    events = (*asked.events, Event("Warning", "FailedComputeMetricsReplicas", str(asked.error)))
    error = f"failed to compute desired number of replicas based on listed metrics for {spec.reference}: {asked.error}"
    asked = asked._replace(metric="", events=events, error=error)
    return _kept(replace(memory, able=_GOT_SCALE, active=active), current, active.reason, sentence, asked)


def _kept(memory: Memory, size: int, reason: str, message: str, asked: _Asked) -> HpaDecision:
    """The size stays."""
    return HpaDecision(
        size,
        memory,
        reason,
        message,
        asked.usage_milli,
        size,
        asked.metric,
        asked.proposals,
        asked.events,
        asked.error,
    )


def _settled(
    spec: HpaSpec, memory: Memory, current: int, size: int, cause: str, now_s: float, asked: _Asked
) -> HpaDecision:
    """The decision once the size is known: record the rescale, or say what kept the size."""
    if size == current:
        explains = memory.limited if memory.limited and memory.limited.status else memory.able
        assert explains is not None
        if memory.desired_replicas != size:
            memory = replace(memory, desired_replicas=size)
        return _kept(memory, size, explains.reason, explains.message, asked)
    message = f"New size: {size}; reason: {cause}"
    able = Condition(
        "AbleToScale",
        True,
        "SucceededRescale",
        f"the HPA controller was able to update the target scale to {size}",
    )
    up, down = memory.scaled_up, memory.scaled_down
    if spec.behavior is not None and size > current:
        up = recorded(up, size - current, spec.behavior.scale_up, round(now_s * US))
    elif spec.behavior is not None:
        down = recorded(down, current - size, spec.behavior.scale_down, round(now_s * US))
    zero = memory.zero
    if spec.min_replicas == 0:
        zero = _NOT_TO_ZERO if size else _TO_ZERO
    memory = replace(
        memory,
        able=able,
        zero=zero,
        scaled_up=up,
        scaled_down=down,
        desired_replicas=size,
        last_scale_s=now_s,
    )
    return HpaDecision(
        size,
        memory,
        "SuccessfulRescale",
        message,
        asked.usage_milli,
        current,
        asked.metric,
        asked.proposals,
        (*asked.events, Event("Normal", "SuccessfulRescale", message)),
        asked.error,
    )
