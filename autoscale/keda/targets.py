"""The metric type of a trigger, and the target that it becomes in the HPA. Source: kedacore/keda pkg/scalers/scaler.go."""

from __future__ import annotations

from typing import Any

from autoscale.keda.metadata import Unreadable
from autoscale.kube import quantity

AVERAGE_VALUE = "AverageValue"
VALUE = "Value"


def metric_type_of(given: str) -> str:
    """The target's type; AverageValue where none is given. Raises Unreadable for Utilization."""
    if given == "Utilization":
        raise Unreadable(
            "error getting scaler metric type: 'Utilization' metric type is unsupported for external metrics, "
            "allowed values are 'Value' or 'AverageValue'"
        )
    return given or AVERAGE_VALUE


def hpa_target(metric_type: str, value: str) -> dict[str, Any]:
    """The target of an External metric with the quantity as an API server stores it."""
    key = "averageValue" if metric_type == AVERAGE_VALUE else "value"
    return {"type": metric_type, key: quantity.parse(value).stored}


def int64(value: float) -> int:
    """Go's int64 of a float64, cut; what does not fit, NaN too, is the lowest (on amd64)."""
    return int(value) if -(2.0**63) <= value < 2.0**63 else -(2**63)
