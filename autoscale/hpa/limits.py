"""From the largest proposal to a size: stabilisation windows, rate policies, min and max, and what they remember.

Times are kept in whole microseconds, so that "exactly as old as its window" means what it says.
Source: kubernetes pkg/controller/podautoscaler/horizontal.go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from autoscale.hpa.calculator import int32
from autoscale.hpa.spec import HpaSpec, ScalingRules

US = 1_000_000


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

    recommendations: tuple[tuple[int, int], ...] = ()  # (time_us, replicas), oldest first
    scaled_up: tuple[ScaleEvent, ...] = ()
    scaled_down: tuple[ScaleEvent, ...] = ()
    able: Condition | None = None
    active: Condition | None = None
    limited: Condition | None = None
    desired_replicas: int = 0
    last_scale_s: float | None = None


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


def stabilise(
    spec: HpaSpec, memory: Memory, current: int, wanted: int, now_us: int
) -> tuple[int, tuple[tuple[int, int], ...], Condition]:
    """The recommendation inside its windows, the recommendations to remember, and the AbleToScale condition.

    A record exactly as old as its window is outside it with a behavior block and inside without.
    """
    recent = memory.recommendations
    if spec.behavior is None:
        cutoff = now_us - spec.downscale_stabilization_s * US
        keep = next((i for i, (time_us, _) in enumerate(recent) if time_us >= cutoff), len(recent))
        recent = recent[keep:]
        stable = max([wanted, *[replicas for _, replicas in recent]])
        able = _READY if stable == wanted else _DOWN_STABILISED
        return stable, (*recent, (now_us, wanted)), able
    up_cutoff = now_us - (spec.behavior.scale_up.window_s or 0) * US
    down_window_s = spec.behavior.scale_down.window_s
    down_cutoff = now_us - (spec.downscale_stabilization_s if down_window_s is None else down_window_s) * US
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


def rate_limit(spec: HpaSpec, memory: Memory, current: int, stable: int, now_us: int) -> tuple[int, str]:
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
        cutoff = now_us - policy.period_s * US
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
            limits.append(int32(math.ceil(start * (1 + policy.value / 100))))
        else:
            limits.append(int32(start * (1 - policy.value / 100)))
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
