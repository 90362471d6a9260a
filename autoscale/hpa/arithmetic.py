"""The controller's arithmetic at one sync, on plain numbers and rows: from pods and their values to a size.

    pods_size / external_size / value_size  ->  the largest  ->  stable_size (windows)  ->  limited_size (policies, min and max)

Integers are in milli-units and divided with truncation, ratios are float64, sizes the ceiling of a float product. Times are
whole microseconds, so that "exactly as old as its window" means what it says. Nothing here knows a metric's name or a
sentence: the rules (`hpa.rules`) run these functions in Python, the simulated fleet compiles the very same ones
(`sim.fleet.ticks`), so they use what both know: indexed rows with fields, numbers, tuples.

Source: kubernetes pkg/controller/podautoscaler/{replica_calculator.go,horizontal.go}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

US = 1_000_000
NO_VALUE = -(2**63)  # the metrics API has none for this pod

# What a pod is to a Pods metric: `kind_of`
RUNNING, PENDING, LEAVING, UNLISTED = range(4)
# Why a Pods metric asks for nothing
NO_PROBLEM, NO_METRICS, NO_PODS, NO_VALUES = range(4)
# What held a size: reasons of the ScalingLimited condition
WITHIN_RANGE, TOO_FEW, TOO_MANY, UP_LIMIT, DOWN_LIMIT = range(5)

_MAX_INT32 = 2**31 - 1
_MIN_INT32 = -(2**31)


class SizeRecord(NamedTuple):
    """What one sync asked for before any limit."""

    time_us: int
    replicas: int


class Band(NamedTuple):
    """Ratios of usage to target that change nothing: 1 - tolerance to 1 + tolerance."""

    low: float
    high: float


class Windows(NamedTuple):
    """Stabilisation; without a behavior block only `down_us` counts."""

    behavior: bool
    up_us: int
    down_us: int


def kind_of(phase: str, deleting: bool) -> int:
    """What a pod in this phase is to a Pods metric; "" = the pod lister does not know it."""
    if not phase:
        return UNLISTED
    if deleting or phase == "Failed":
        return LEAVING
    return PENDING if phase == "Pending" else RUNNING


def truncated(total: int, count: int) -> int:
    """Integer division towards zero."""
    return total // count if total >= 0 else -(-total // count)


def int32(value: float) -> int:
    """The controller's conversion to a 32-bit size; what does not fit becomes the smallest number (amd64)."""
    return int(value) if -2147483649.0 < value < 2147483648.0 else _MIN_INT32


def ceiled(value: float) -> int:
    """A size rounded up, as the controller converts it."""
    return int32(math.ceil(value)) if abs(value) < 4294967296.0 else _MIN_INT32


def pods_size(
    kinds: Sequence[int],
    values_milli: Sequence[int],
    pods: int,
    target_milli: int,
    current: int,
    band: Band,
) -> tuple[int, int, int]:
    """(size, usage in milli-units, problem): what a Pods metric with an AverageValue target asks for, before any limit.

    The first `pods` rows count. Pods that leave are ignored, Pending ones are unready, Running ones without a value are
    missing; the value of an unlisted pod counts, the pod does not. Source: replica_calculator.go,
    calcPlainMetricReplicas.
    """
    values = listed = total = counted = unlisted = unready = missing = 0
    for j in range(pods):
        kind, value = kinds[j], values_milli[j]
        if value != NO_VALUE:
            values += 1
        if kind == RUNNING:
            listed += 1
            if value == NO_VALUE:
                missing += 1
            else:
                counted += 1
                total += value
        elif kind != UNLISTED:
            listed += 1
            if kind == PENDING:
                unready += 1
        elif value != NO_VALUE:
            unlisted += 1
            total += value
    valued = counted + unlisted
    if values == 0:
        return 0, 0, NO_METRICS
    if listed == 0:
        return 0, 0, NO_PODS
    if valued == 0:
        return 0, 0, NO_VALUES
    usage = truncated(total, valued)
    ratio = usage / target_milli
    fill_unready = unready > 0 and ratio > 1.0
    if not fill_unready and missing == 0:
        return (current if band.low <= ratio <= band.high else ceiled(ratio * counted)), usage, NO_PROBLEM
    if missing > 0 and ratio != 1.0:
        valued += missing
        if ratio < 1.0:
            total += missing * target_milli
    if fill_unready:
        valued += unready
    filled = truncated(total, valued) / target_milli
    flipped = (ratio < 1.0 < filled) or (filled < 1.0 < ratio)
    if flipped or band.low <= filled <= band.high:
        return current, usage, NO_PROBLEM
    size = ceiled(filled * valued)
    contradicts = (filled < 1.0 and size > current) or (filled > 1.0 and size < current)
    return (current if contradicts else size), usage, NO_PROBLEM


def external_size(total_milli: int, target_milli: int, observed: int, band: Band) -> tuple[int, int]:
    """(size, usage in milli-units): what an External or Object metric with an AverageValue target asks for.

    That is ceil(total/target), inside the tolerance the `observed` size (status.replicas); readiness plays no part.
    Source: replica_calculator.go, GetExternalPerPodMetricReplicas.
    """
    usage = 0
    if observed:
        ratio = total_milli / (target_milli * observed)
        usage = math.ceil(total_milli / observed)
        if band.low <= ratio <= band.high:
            return observed, usage
    return min(math.ceil(total_milli / target_milli), _MAX_INT32), usage


def value_size(total_milli: int, target_milli: int, current: int, ready: int, band: Band) -> int:
    """What an External or Object metric with a Value target asks for: ceil(total/target x `ready`).

    `ready` counts Running pods that are Ready, so what still starts is left out of the product; inside the tolerance it is
    the `current` size (spec.replicas), and from zero ceil(total/target). Source: getUsageRatioReplicaCount.
    """
    ratio = total_milli / target_milli
    if current == 0:
        return ceiled(ratio)
    if band.low <= ratio <= band.high:
        return current
    size = ratio * ready
    return _MAX_INT32 if size > _MAX_INT32 else ceiled(size)


def stable_size(
    recent: Sequence[SizeRecord],
    first: int,
    end: int,
    windows: Windows,
    current: int,
    wanted: int,
    now_us: int,
) -> tuple[int, int]:
    """(size, first): `wanted` held by the recommendations first..end that are inside their windows, and the new first.

    A record exactly as old as its window is outside it with a behavior block and inside without.
    """
    behavior, up_us, down_us = windows
    up_cutoff, down_cutoff = now_us - up_us, now_us - down_us
    cutoff = min(up_cutoff, down_cutoff) if behavior else down_cutoff
    while first < end and recent[first].time_us < cutoff:
        first += 1
    lowest = highest = wanted
    for k in range(first, end):
        record = recent[k]
        replicas = record.replicas
        if replicas > highest:
            if not behavior or record.time_us > down_cutoff:
                highest = replicas
        elif replicas < lowest and behavior and record.time_us > up_cutoff:
            lowest = replicas
    return (min(max(current, lowest), highest) if behavior else highest), first


def default_limit(stable: int, current: int, low: int) -> int:
    """How far a size may move at one sync without a behavior block: doubled, or 4, upwards; downwards all the way."""
    return max(2 * current, 4) if stable > current else low


def policy_limit(start: int, value: int, percent: bool, direction: int) -> int:
    """How far one policy lets a size move from `start`, where it was at the begin of its period; direction is 1 or -1."""
    if not percent:
        return start + direction * value
    if direction > 0:  # rounded up, or a small target could never grow
        return ceiled(start * (1 + value / 100))
    return int32(start * (1 - value / 100))


def limited_size(stable: int, current: int, limit: int, low: int, high: int) -> tuple[int, int]:
    """(size, what held it): at most to `limit` in the direction of the move, within min and max."""
    if stable > current and stable > min(high, limit):
        return (limit, UP_LIMIT) if high > limit else (high, TOO_MANY)
    if stable < current and stable < max(low, limit):
        return (limit, DOWN_LIMIT) if low < limit else (low, TOO_FEW)
    return stable, WITHIN_RANGE
