"""What an HPA steers to: one signal of vLLM and its averageValue, as a recommendation gives and a manifest holds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from autoscale.kube import quantity
from autoscale.kube.vllm_names import SIGNALS
from autoscale.typed_json import Name, Reading


def _signal(value: Any) -> str:
    if value not in SIGNALS:
        raise ValueError
    return str(value)


def _target_quantity(value: Any) -> str:
    if quantity.parse(value).milli <= 0:
        raise ValueError
    return _quantity(value)


def _quantity(value: Any) -> str:
    stored = quantity.parse(value).stored
    return value if isinstance(value, str) else stored


def _interval(value: Any) -> tuple[str, str]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError
    return _quantity(value[0]), _quantity(value[1])


@dataclass(frozen=True)
class SignalTarget:
    """One metric of the HPA: its averageValue, a Kubernetes quantity, and the targets between which the best one lies.

    signal   waiting and running in requests per pod, kv_usage as a share per pod
    metric   the name in the HPA
    """

    signal: Annotated[str, Name("name"), Reading(f"one of {', '.join(SIGNALS)}", _signal)]
    metric: str = field(default="", kw_only=True)
    quantity: Annotated[str, Name("averageValue"), Reading("a quantity of at least 1m", _target_quantity)]
    interval: Annotated[tuple[str, str], Reading("two quantities, low and high", _interval)] | None = None
