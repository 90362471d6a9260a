"""What a recommendation predicts of the load that a check runs, as the check holds a cluster to it."""

from __future__ import annotations

from dataclasses import dataclass

from autoscale.kube.objects import Object
from autoscale.recommendation import Recommendation

Interval = tuple[float, float]


@dataclass(frozen=True)
class Expectation:
    """Intervals are (low, high): a further simulation of the same load lies in them with 95 %; None = it does not say.

    hpa      the recommended HPA; None: any will do
    basis    what the intervals come from
    why_not  why the load was not simulated, "" when it was; `proof` what would let it be
    """

    hpa: Object | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    peak_replicas: Interval | None = None
    decision_s: Interval | None = None
    ready_s: Interval | None = None
    recovery_s: Interval | None = None
    slo_attainment: Interval | None = None
    tpot_s: Interval | None = None
    wasted_scale_outs: Interval | None = None
    flaps: Interval | None = None
    basis: str = ""
    why_not: str = ""
    proof: str = ""


def of_any_load(recommendation: Recommendation, why_not: str, proof: str) -> Expectation:
    """What a recommendation says whatever the load is: the HPA, its bounds, and how long a start takes."""
    predicted = recommendation.predicted
    ready = predicted.ready_s.interval if predicted and predicted.ready_s else None
    return Expectation(
        hpa=None if recommendation.hpa is None else dict(recommendation.hpa),
        min_replicas=recommendation.min_replicas,
        max_replicas=recommendation.max_replicas,
        ready_s=ready,
        basis="starts on the recommendation's own traffic",
        why_not=why_not,
        proof=proof,
    )
