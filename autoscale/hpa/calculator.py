"""What each metric alone asks for: values per pod -> replicas, before stabilisation, policies, min and max.

The numbers come from `hpa.arithmetic`; here they get the controller's sentences. Source: kubernetes
pkg/controller/podautoscaler/replica_calculator.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from autoscale.hpa import arithmetic
from autoscale.hpa.arithmetic import NO_METRICS, NO_PODS, NO_VALUE, NO_VALUES, Band
from autoscale.hpa.spec import HpaSpec, MetricTarget


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


Reading = (
    Sequence[PodMetric] | MetricError | int
)  # int: the total of an External or Object metric in milli-units


class Seen(NamedTuple):
    """The scale target beside its spec.

    replicas  status.replicas, by which AverageValue targets divide
    ready     Running pods that are Ready, by which Value targets multiply; None = the pod lister has no pod at all
    """

    replicas: int
    ready: int | None


class Proposal(NamedTuple):
    """What one metric alone asks for: replicas, the usage shown in the status, or why there is none."""

    replicas: int
    usage_milli: int | None
    error: str | None = None


_NO_PODS = "no pods returned by selector while calculating replica count"
_PROBLEMS = {
    NO_METRICS: MetricError().message,
    NO_PODS: _NO_PODS,
    NO_VALUES: "did not receive metrics for targeted pods (pods might be unready)",
}


def band(spec: HpaSpec) -> Band:
    """The ratios at which nothing changes."""
    return Band(1.0 - spec.tolerance_down, 1.0 + spec.tolerance_up)


def _pods_proposal(
    pods: Sequence[PodMetric], target_milli: int, current_replicas: int, unchanged: Band
) -> Proposal:
    """What a Pods metric with an AverageValue target asks for (arithmetic.pods_size)."""
    kinds = [arithmetic.kind_of(phase, deleting) for _, phase, deleting, _, _ in pods]
    values = [NO_VALUE if pod.value_milli is None else pod.value_milli for pod in pods]
    size, usage_milli, problem = arithmetic.pods_size(
        kinds, values, len(pods), target_milli, current_replicas, unchanged
    )
    return Proposal(0, None, _PROBLEMS[problem]) if problem else Proposal(size, usage_milli)


def _total_proposal(
    total_milli: int, target: MetricTarget, current: int, seen: Seen, unchanged: Band
) -> Proposal:
    """What an External or Object metric asks for, whose value is one number."""
    if target.average:
        return Proposal(*arithmetic.external_size(total_milli, target.target_milli, seen.replicas, unchanged))
    ratio = total_milli / target.target_milli
    if seen.ready is None and current and not unchanged.low <= ratio <= unchanged.high:
        return Proposal(0, None, f"unable to calculate ready pods: {_NO_PODS}")
    size = arithmetic.value_size(total_milli, target.target_milli, current, seen.ready or 0, unchanged)
    return Proposal(size, total_milli)


def propose(
    spec: HpaSpec, target: MetricTarget, reading: Reading | None, current_replicas: int, seen: Seen
) -> Proposal:
    """The proposal of one metric; an error carries the controller's whole sentence."""
    unchanged = band(spec)
    if isinstance(reading, MetricError):
        return Proposal(0, None, target.unreadable(reading.message, spec.namespace))
    if reading is None:
        return Proposal(0, None, target.unreadable(target.not_found, spec.namespace))
    if target.kind != "Pods":
        if not isinstance(reading, int):
            values = [pod.value_milli for pod in reading if pod.value_milli is not None]
            if not values:
                return Proposal(0, None, target.unreadable(target.nothing, spec.namespace))
            reading = sum(values)
        return _total_proposal(reading, target, current_replicas, seen, unchanged)
    if isinstance(reading, int):
        raise TypeError(
            f"metric {target.name} is a Pods metric: one PodMetric per pod is needed, not a total"
        )
    proposal = _pods_proposal(reading, target.target_milli, current_replicas, unchanged)
    if proposal.error == MetricError().message:
        return Proposal(0, None, target.unreadable(proposal.error, spec.namespace))
    return proposal
