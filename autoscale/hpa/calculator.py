"""What each metric alone asks for: values per pod -> replicas, before stabilisation, policies, min and max.

Arithmetic follows the controller: integers in milli-units with truncated division, the ratio as float64, ceil of a float
product. Source: kubernetes pkg/controller/podautoscaler/replica_calculator.go.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from autoscale.hpa.spec import HpaSpec, MetricTarget

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


class Proposal(NamedTuple):
    """What one metric alone asks for: replicas, the usage shown in the status, or why there is none."""

    replicas: int
    usage_milli: int | None
    error: str | None = None


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
        return Proposal(int32(math.ceil(ratio * counted)), usage)
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
    replicas = int32(math.ceil(filled * valued))
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


def propose(
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


def _truncated(total: int, count: int) -> int:
    """Integer division towards zero."""
    return total // count if total >= 0 else -(-total // count)


def int32(value: float) -> int:
    """The controller's conversion to a 32-bit size; what does not fit becomes the smallest number (amd64)."""
    return int(value) if -2147483649.0 < value < 2147483648.0 else _MIN_INT32
