"""From the largest proposal to a size: stabilisation windows, rate policies, min and max, and what they remember.

The numbers come from `hpa.arithmetic`; here they get the controller's conditions, and are remembered. Source: kubernetes pkg/controller/podautoscaler/horizontal.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from autoscale.hpa import arithmetic
from autoscale.hpa.arithmetic import US, SizeRecord, Windows
from autoscale.hpa.spec import HpaSpec, ScalingRules

SCALING_DISABLED = "ScalingDisabled"


class Condition(NamedTuple):
    """One status condition of the HPA object."""

    type: str
    status: bool
    reason: str
    message: str


class ScaleEvent(NamedTuple):
    """A change of size (always positive) and when it was made."""

    time_us: int
    change: int
    outdated: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What the controller remembers from one sync to the next."""

    recommendations: tuple[SizeRecord, ...] = ()  # oldest first
    scaled_up: tuple[ScaleEvent, ...] = ()
    scaled_down: tuple[ScaleEvent, ...] = ()
    able: Condition | None = None
    active: Condition | None = None
    limited: Condition | None = None
    zero: Condition | None = None  # only with the gate HPAScaleToZero: who brought the target to zero
    desired_replicas: int = 0
    last_scale_s: float | None = None

    @property
    def disabled(self) -> bool:
        """Whether the last sync found the target at zero and read nothing."""
        there = self.active is not None and self.active.reason == SCALING_DISABLED
        return there and self.desired_replicas == 0


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


# Reasons of the ScalingLimited condition by what held the size
LIMIT_REASONS = {
    arithmetic.WITHIN_RANGE: "DesiredWithinRange",
    arithmetic.TOO_FEW: "TooFewReplicas",
    arithmetic.TOO_MANY: "TooManyReplicas",
    arithmetic.UP_LIMIT: "ScaleUpLimit",
    arithmetic.DOWN_LIMIT: "ScaleDownLimit",
}


def stabilisation_windows(spec: HpaSpec) -> Windows:
    """The stabilisation windows of both directions; downwards the controller's flag where the HPA says nothing."""
    if spec.behavior is None:
        return Windows(False, 0, spec.downscale_stabilization_s * US)
    up_s, down_s = spec.behavior.scale_up.window_s or 0, spec.behavior.scale_down.window_s
    return Windows(True, up_s * US, (spec.downscale_stabilization_s if down_s is None else down_s) * US)


def stabilise(
    spec: HpaSpec, memory: Memory, current: int, wanted: int, now_us: int
) -> tuple[int, tuple[SizeRecord, ...], Condition]:
    """The recommendation inside its windows, the recommendations to remember, and the AbleToScale condition."""
    recent = memory.recommendations
    stable, first = arithmetic.stable_size(
        recent, 0, len(recent), stabilisation_windows(spec), current, wanted, now_us
    )
    kept = _UP_STABILISED if spec.behavior is not None and wanted >= current else _DOWN_STABILISED
    able = _READY if stable == wanted else kept
    return stable, (*recent[first:], SizeRecord(now_us, wanted)), able


def rate_limit(spec: HpaSpec, memory: Memory, current: int, stable: int, now_us: int) -> tuple[int, str]:
    """Replicas after policies, min and max, and the reason of the ScalingLimited condition."""
    if spec.behavior is None:
        limit = arithmetic.default_limit(stable, current, spec.min_replicas)
    elif stable > current:
        limit = max(_policy_limit(spec.behavior.scale_up, memory, current, now_us, +1), current)
    else:
        limit = min(_policy_limit(spec.behavior.scale_down, memory, current, now_us, -1), current)
    size, held_by = arithmetic.limited_size(stable, current, limit, spec.min_replicas, spec.max_replicas)
    return size, LIMIT_REASONS[held_by]


def _policy_limit(rules: ScalingRules, memory: Memory, current: int, now_us: int, direction: int) -> int:
    """The furthest size that the policies of one direction allow; each counts from the size at its period's start."""
    if rules.select == "Disabled":
        return current
    limits = []
    for policy in rules.policies:
        cutoff = now_us - policy.period_s * US
        start = current
        for event in memory.scaled_up:
            if event.time_us > cutoff:
                start -= event.change
        for event in memory.scaled_down:
            if event.time_us > cutoff:
                start += event.change
        limits.append(arithmetic.policy_limit(start, policy.value, policy.kind == "Percent", direction))
    furthest = max if direction > 0 else min
    nearest = min if direction > 0 else max
    return furthest(limits) if rules.select == "Max" else nearest(limits)


def recorded(
    events: tuple[ScaleEvent, ...], change: int, rules: ScalingRules, now_us: int
) -> tuple[ScaleEvent, ...]:
    """The events with one more; it takes the place of the last one older than the longest period of its own direction.

    The others stay, since a longer period of the other direction may still count them.
    """
    cutoff = now_us - max(policy.period_s for policy in rules.policies) * US
    marked = [e if e.outdated or e.time_us >= cutoff else e._replace(outdated=True) for e in events]
    place = next((i for i in range(len(marked) - 1, -1, -1) if marked[i].outdated), len(marked))
    marked[place : place + 1] = [ScaleEvent(now_us, change)]
    return tuple(marked)
