"""What a recommendation predicted, as a check holds a cluster to it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from autoscale.recommendation import Recommendation


@dataclass(frozen=True)
class Expectation:
    """What a recommendation predicted; an interval is (low, high), None = it does not say."""

    min_replicas: int | None = None
    max_replicas: int | None = None
    peak_replicas: tuple[float, float] | None = None
    recovery_s: tuple[float, float] | None = None
    ready_s: tuple[float, float] | None = None  # decision to ready
    slo_attainment: tuple[float, float] | None = None
    wasted_scale_outs: tuple[float, float] | None = None
    flaps: tuple[float, float] | None = None

    @classmethod
    def from_recommendation(cls, recommendation: Recommendation) -> Expectation:
        """What it says of the cluster; nothing is expected where it is silent."""
        names = [one.name for one in fields(cls) if one.name not in ("min_replicas", "max_replicas")]
        figures = {name: getattr(recommendation.predicted, name, None) for name in names}
        return cls(
            min_replicas=recommendation.min_replicas,
            max_replicas=recommendation.max_replicas,
            **{name: figure.interval for name, figure in figures.items() if figure is not None},
        )
