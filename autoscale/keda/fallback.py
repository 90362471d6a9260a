"""What a metric is replaced by when it cannot be read: failures are counted read by read, whoever reads.

Source: kedacore/keda v2.20.2 pkg/fallback/fallback.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from autoscale.keda.hpa_made import COMPOSITE
from autoscale.keda.prometheus_trigger import QueryFailed, TriggerValue
from autoscale.keda.scaled_object import Fallback, ScaledObject
from autoscale.keda.targets import VALUE, int64
from autoscale.kube import quantity

NIL_MILLI = -1000  # stands for nil in a formula


class Health(NamedTuple):
    """How many reads of a metric failed in a row; `failing` False after one that did not."""

    failures: int = 0
    failing: bool = False


class TargetPods(NamedTuple):
    """The scale target as a fallback sees it: replicas in its spec, and pods that run and are ready."""

    replicas: int
    ready: int


class Target(NamedTuple):
    """The target of a metric in the HPA: its type, and the quantity's text."""

    type: str
    quantity: str


class Replaced(NamedTuple):
    """A read after the fallback: a value in milli-units under a name, or an error."""

    name: str
    milli: int | None
    error: str | None = None
    active: bool = False  # the value is the fallback's
    nil: bool = False  # the formula sees nil


def has_valid_fallback(scaled: ScaledObject) -> bool:
    """Whether failures are counted at all: with a formula only where its target is a positive whole number."""
    fallback = scaled.fallback
    if fallback is None or fallback.failure_threshold < 0 or fallback.replicas < 0:
        return False
    if scaled.modifiers is None:
        return True
    target = scaled.modifiers.target
    return re.fullmatch(r"[+-]?[0-9]+", target) is not None and int(target) > 0


def exceeded(scaled: ScaledObject, health: Mapping[str, Health]) -> bool:
    """Whether any metric has failed more often than the threshold: the condition Fallback."""
    fallback = scaled.fallback
    return fallback is not None and any(
        entry.failing and entry.failures > fallback.failure_threshold for entry in health.values()
    )


def with_fallback(
    scaled: ScaledObject,
    health: Mapping[str, Health],
    name: str,
    target: Target,
    read: TriggerValue | QueryFailed,
    pods: TargetPods,
) -> tuple[Replaced, Mapping[str, Health]]:
    """What a read of the metric `name` is worth, and the failures counted with it."""
    counted = has_valid_fallback(scaled)
    if isinstance(read, TriggerValue):
        health = {**health, name: Health()} if counted else health
        return Replaced(name, read.milli), health
    fallback = scaled.fallback
    if fallback is None or not counted:
        return Replaced(name, None, read.message), health
    failures = health.get(name, Health()).failures + 1
    health = {**health, name: Health(failures, True)}
    if failures <= fallback.failure_threshold:
        return Replaced(name, None, read.message), health
    if fallback.behavior == "scalingModifiers":
        return Replaced(name, NIL_MILLI, nil=True), health
    replicas = fallback_replicas(fallback, pods.replicas)
    milli = fallback_milli(scaled, target, replicas, pods.ready)
    if milli is None:
        return Replaced(name, None, "error performing fallback"), health
    return Replaced(COMPOSITE if scaled.modifiers else name, milli, active=True), health


def fallback_replicas(fallback: Fallback, current: int) -> int:
    """How many replicas a fallback asks for with `current` ones there."""
    match fallback.behavior:
        case "currentReplicas":
            return current
        case "currentReplicasIfHigher":
            return max(current, fallback.replicas)
        case "currentReplicasIfLower":
            return min(current, fallback.replicas)
    return fallback.replicas


def fallback_milli(scaled: ScaledObject, target: Target, replicas: int, ready: int) -> int | None:
    """The value, cut to milli-units, at which the HPA wants `replicas`; None for a Value target without a ready pod."""
    modifiers = scaled.modifiers
    share = float(replicas)
    if (modifiers.metric_type if modifiers else target.type) == VALUE:
        if ready == 0:
            return None
        share /= ready
    per_replica = float(modifiers.target) if modifiers else quantity.parse(target.quantity).approximate
    return int64(per_replica * 1000 * share)
