"""What the HPA controller decides at one sync, as a pure function.

    metrics -> proposal per metric -> the largest -> stabilised -> rate-limited -> within min and max -> replicas
               pods_proposal          decide         _stabilise    _rate_limit

The memory between syncs is a value: recommendations and scale events with their times, the last status. Times are kept
in whole microseconds, so that "exactly as old as its window" means what it says. Arithmetic follows the controller:
integers in milli-units with truncated division, ratios as float64, ceil of a float product.

Source: kubernetes pkg/controller/podautoscaler (horizontal.go, replica_calculator.go), checked against recorded decisions
of the real controller, v1.36.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from autoscale.hpa.spec import HpaSpec, MetricTarget, ScalingRules

_US = 1_000_000
_MAX_INT32 = 2**31 - 1
_MIN_INT32 = -(2**31)


class PodMetric(NamedTuple):
    """One pod of the scale target and its value of one metric.

    phase        Pending, Running, Succeeded, Failed, Unknown as in the pod's status; "" = the pod lister does not know
                 the pod although the metrics API has a value for it
    ready        not looked at for Pods metrics; kept because it is what people expect to matter
    value_milli  value in milli-units, None = the metrics API has none for this pod
    """

    name: str
    phase: str = "Running"
    deleting: bool = False
    ready: bool = True
    value_milli: int | None = None


class MetricError(NamedTuple):
    """The metrics API gave no answer; `message` is what it said."""

    message: str = "no metrics returned from custom metrics API"


Reading = Sequence[PodMetric] | MetricError | int  # int: the total of an External metric in milli-units


class Condition(NamedTuple):
    """One status condition of the HPA object."""

    type: str
    status: bool
    reason: str
    message: str


class Event(NamedTuple):
    """One Kubernetes event on the HPA object."""

    type: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.type} {self.reason} {self.message}"


class Proposal(NamedTuple):
    """What one metric alone asks for: replicas, the usage shown in the status, or why there is none."""

    replicas: int
    usage_milli: int | None
    error: str | None = None


class ScaleEvent(NamedTuple):
    """A change of size (always positive) and when it was made."""

    time_us: int
    change: int
    outdated: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What the controller remembers from one sync to the next."""

    recommendations: tuple[tuple[int, int], ...] = ()  # (time_us, replicas), oldest first
    scaled_up: tuple[ScaleEvent, ...] = ()
    scaled_down: tuple[ScaleEvent, ...] = ()
    able: Condition | None = None
    active: Condition | None = None
    limited: Condition | None = None
    desired_replicas: int = 0
    last_scale_s: float | None = None


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
_READY = Condition("AbleToScale", True, "ReadyForNewScale", "recommended size matches current size")
_UP_STABILISED = Condition(
    "AbleToScale",
    True,
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
)
_DOWN_STABILISED = Condition(
    "AbleToScale",
    True,
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
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
    now_us = round(now_s * _US)
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
        proposal = _propose(spec, target, metrics.get(target.name), current_replicas, observed)
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
    stable, recommendations, able = _stabilise(spec, memory, current_replicas, above_zero, now_us)
    size, limit = _rate_limit(spec, memory, current_replicas, stable, now_us)
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


def pods_proposal(
    pods: Sequence[PodMetric],
    target_milli: int,
    current_replicas: int,
    tolerance_up: float,
    tolerance_down: float,
) -> Proposal:
    """What a Pods metric with an AverageValue target asks for, before stabilisation, policies, min and max.

    Pods that are being deleted or Failed are ignored, Pending ones are unready, Running ones without a value are missing;
    the rest counts. Source: replica_calculator.go, calcPlainMetricReplicas.
    """
    known = total = valued = counted = unready = missing = 0
    any_value = False
    for _, phase, deleting, _, value in pods:
        if value is not None:
            any_value = True
        if not phase:  # not in the lister: its value counts, the pod does not
            if value is not None:
                total += value
                valued += 1
            continue
        known += 1
        if deleting or phase == "Failed":
            continue
        if phase == "Pending":
            unready += 1
        elif value is None:
            missing += 1
        else:
            counted += 1
            total += value
            valued += 1
    if not any_value:
        return Proposal(0, None, MetricError().message)
    if not known:
        return Proposal(0, None, "no pods returned by selector while calculating replica count")
    if not valued:
        return Proposal(0, None, "did not receive metrics for targeted pods (pods might be unready)")

    usage = _truncated(total, valued)
    ratio = usage / target_milli
    fill_unready = unready > 0 and ratio > 1.0
    low, high = 1.0 - tolerance_down, 1.0 + tolerance_up
    if not fill_unready and not missing:
        if low <= ratio <= high:
            return Proposal(current_replicas, usage)
        return Proposal(_int32(math.ceil(ratio * counted)), usage)
    if missing and ratio != 1.0:
        valued += missing
        if ratio < 1.0:
            total += missing * target_milli
    if fill_unready:
        valued += unready
    filled = _truncated(total, valued) / target_milli
    flipped = (ratio < 1.0 < filled) or (filled < 1.0 < ratio)
    if flipped or low <= filled <= high:
        return Proposal(current_replicas, usage)
    replicas = _int32(math.ceil(filled * valued))
    contradicts = (filled < 1.0 and replicas > current_replicas) or (
        filled > 1.0 and replicas < current_replicas
    )
    return Proposal(current_replicas if contradicts else replicas, usage)


def external_proposal(
    total_milli: int, target_milli: int, status_replicas: int, tolerance_up: float, tolerance_down: float
) -> Proposal:
    """What an External metric with an AverageValue target asks for: ceil(total/target), unless inside the tolerance.

    Source: replica_calculator.go, GetExternalPerPodMetricReplicas.
    """
    if status_replicas:
        ratio = total_milli / (target_milli * status_replicas)
        usage = math.ceil(total_milli / status_replicas)
        if 1.0 - tolerance_down <= ratio <= 1.0 + tolerance_up:
            return Proposal(status_replicas, usage)
    else:
        usage = 0
    return Proposal(min(math.ceil(total_milli / target_milli), _MAX_INT32), usage)


def _propose(
    spec: HpaSpec, target: MetricTarget, reading: Reading | None, current_replicas: int, status_replicas: int
) -> Proposal:
    """The proposal of one metric; an error carries the controller's whole sentence."""
    up, down = spec.tolerance_up, spec.tolerance_down
    if isinstance(reading, MetricError):
        return Proposal(0, None, target.unreadable(reading.message, spec.namespace))
    if reading is None:
        return Proposal(0, None, target.unreadable(target.not_found, spec.namespace))
    if target.kind == "External":
        if not isinstance(reading, int):
            values = [pod.value_milli for pod in reading if pod.value_milli is not None]
            if not values:
                message = "no metrics returned from external metrics API"
                return Proposal(0, None, target.unreadable(message, spec.namespace))
            reading = sum(values)
        return external_proposal(reading, target.target_milli, status_replicas, up, down)
    if isinstance(reading, int):
        raise TypeError(
            f"metric {target.name} is a Pods metric: one PodMetric per pod is needed, not a total"
        )
    proposal = pods_proposal(reading, target.target_milli, current_replicas, up, down)
    if proposal.error == MetricError().message:
        return Proposal(0, None, target.unreadable(proposal.error, spec.namespace))
    return proposal


def _stabilise(
    spec: HpaSpec, memory: Memory, current: int, wanted: int, now_us: int
) -> tuple[int, tuple[tuple[int, int], ...], Condition]:
    """The recommendation inside its windows, the recommendations to remember, and the AbleToScale condition.

    A record exactly as old as its window is outside it with a behavior block and inside without.
    """
    recent = memory.recommendations
    if spec.behavior is None:
        cutoff = now_us - spec.downscale_stabilization_s * _US
        keep = next((i for i, (time_us, _) in enumerate(recent) if time_us >= cutoff), len(recent))
        recent = recent[keep:]
        stable = max([wanted, *[replicas for _, replicas in recent]])
        able = _READY if stable == wanted else _DOWN_STABILISED
        return stable, (*recent, (now_us, wanted)), able
    up_cutoff = now_us - (spec.behavior.scale_up.window_s or 0) * _US
    down_window_s = spec.behavior.scale_down.window_s
    down_cutoff = now_us - (spec.downscale_stabilization_s if down_window_s is None else down_window_s) * _US
    cutoff = min(up_cutoff, down_cutoff)
    keep = next((i for i, (time_us, _) in enumerate(recent) if time_us >= cutoff), len(recent))
    recent = recent[keep:]
    lowest = highest = wanted
    for time_us, replicas in recent:
        if time_us > up_cutoff and replicas < lowest:
            lowest = replicas
        if time_us > down_cutoff and replicas > highest:
            highest = replicas
    stable = min(max(current, lowest), highest)
    kept = _UP_STABILISED if wanted >= current else _DOWN_STABILISED
    able = _READY if stable == wanted else kept
    return stable, (*recent, (now_us, wanted)), able


def _rate_limit(spec: HpaSpec, memory: Memory, current: int, stable: int, now_us: int) -> tuple[int, str]:
    """Replicas after policies, min and max, and the reason of the ScalingLimited condition."""
    if spec.behavior is None:
        ceiling, reason = spec.max_replicas, "TooManyReplicas"
        if ceiling > max(2 * current, 4):
            ceiling, reason = max(2 * current, 4), "ScaleUpLimit"
        if stable < spec.min_replicas:
            return spec.min_replicas, "TooFewReplicas"
        if stable > ceiling:
            return ceiling, reason
    elif stable > current:
        limit = max(_policy_limit(spec.behavior.scale_up, memory, current, now_us, +1), current)
        if stable > min(spec.max_replicas, limit):
            return (
                (limit, "ScaleUpLimit")
                if spec.max_replicas > limit
                else (spec.max_replicas, "TooManyReplicas")
            )
    elif stable < current:
        limit = min(_policy_limit(spec.behavior.scale_down, memory, current, now_us, -1), current)
        if stable < max(spec.min_replicas, limit):
            return (
                (limit, "ScaleDownLimit")
                if spec.min_replicas < limit
                else (spec.min_replicas, "TooFewReplicas")
            )
    return stable, "DesiredWithinRange"


def _policy_limit(rules: ScalingRules, memory: Memory, current: int, now_us: int, direction: int) -> int:
    """The furthest size that the policies of one direction allow; each counts from the size at its period's start."""
    if rules.select == "Disabled":
        return current
    limits = []
    for policy in rules.policies:
        cutoff = now_us - policy.period_s * _US
        start = current
        for event in memory.scaled_up:
            if event.time_us > cutoff:
                start -= event.change
        for event in memory.scaled_down:
            if event.time_us > cutoff:
                start += event.change
        if policy.kind == "Pods":
            limits.append(start + direction * policy.value)
        elif direction > 0:  # rounded up, or a small target could never grow
            limits.append(_int32(math.ceil(start * (1 + policy.value / 100))))
        else:
            limits.append(_int32(start * (1 - policy.value / 100)))
    furthest = max if direction > 0 else min
    nearest = min if direction > 0 else max
    return furthest(limits) if rules.select == "Max" else nearest(limits)


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
        up = _recorded(up, size - current, spec.behavior.scale_up, now_us)
    elif spec.behavior is not None:
        down = _recorded(down, current - size, spec.behavior.scale_down, now_us)
    memory = replace(
        memory, able=able, scaled_up=up, scaled_down=down, desired_replicas=size, last_scale_s=now_s
    )
    events = (*events, Event("Normal", "SuccessfulRescale", message))
    return Decision(
        size, memory, "SuccessfulRescale", message, usage, current, metric, proposals, events, error
    )


def _recorded(
    events: tuple[ScaleEvent, ...], change: int, rules: ScalingRules, now_us: int
) -> tuple[ScaleEvent, ...]:
    """The events with one more; it takes the place of the last one older than the longest period of its own direction.

    The others stay, since a longer period of the other direction may still count them.
    """
    cutoff = now_us - max(policy.period_s for policy in rules.policies) * _US
    marked = [e if e.outdated or e.time_us >= cutoff else e._replace(outdated=True) for e in events]
    place = next((i for i in range(len(marked) - 1, -1, -1) if marked[i].outdated), len(marked))
    marked[place : place + 1] = [ScaleEvent(now_us, change)]
    return tuple(marked)


def _no_values(spec: HpaSpec) -> dict[str, int | None]:
    return {target.name: None for target in spec.metrics}


def _truncated(total: int, count: int) -> int:
    """Integer division towards zero."""
    return total // count if total >= 0 else -(-total // count)


def _int32(value: float) -> int:
    """The controller's conversion to a 32-bit size; what does not fit becomes the smallest number (amd64)."""
    return int(value) if -2147483649.0 < value < 2147483648.0 else _MIN_INT32
