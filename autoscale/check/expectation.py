"""What a recommendation predicted, as a check holds a cluster to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    def from_recommendation(cls, recommendation: Mapping[str, Any]) -> Expectation:
        """Read from recommendation.json; keys that it lacks stay None."""
        predicted = recommendation.get("predicted") or {}
        names = [
            name
            for name in cls.__dataclass_fields__
            if not name.endswith("_replicas") or name == "peak_replicas"
        ]
        return cls(
            min_replicas=recommendation.get("minReplicas"),
            max_replicas=recommendation.get("maxReplicas"),
            **{name: _interval(predicted.get(name)) for name in names},
        )


def _interval(value: Any) -> tuple[float, float] | None:
    """(low, high) of a number, a pair, or a mapping with low and high; None when there is no number."""
    if isinstance(value, Mapping):
        low, high = value.get("low", value.get("value")), value.get("high", value.get("value"))
        return None if low is None or high is None else (float(low), float(high))
    if isinstance(value, list | tuple) and len(value) == 2 and None not in value:
        return float(value[0]), float(value[1])
    return (float(value), float(value)) if isinstance(value, int | float) else None
