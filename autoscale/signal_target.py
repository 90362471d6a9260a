"""What a scaler steers to: one signal and its target, as a recommendation gives and a manifest holds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from autoscale.kube.quantity import parse
from autoscale.kube.scaling_signals import SCALING_SIGNALS
from autoscale.typed_json import LeftOut, Name, Reading


def _signal(value: Any) -> str:
    if value not in SCALING_SIGNALS:
        raise ValueError
    return str(value)


def _target_quantity(value: Any) -> str:
    if parse(value).milli <= 0:
        raise ValueError
    return _quantity(value)


def _quantity(value: Any) -> str:
    stored = parse(value).stored
    return value if isinstance(value, str) else stored


def _interval(value: Any) -> tuple[str, str]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError
    return _quantity(value[0]), _quantity(value[1])


@dataclass(frozen=True)
class SignalTarget:
    """One metric of the HPA: its averageValue, a Kubernetes quantity, and the targets between which the best one lies.

    signal       of kube.scaling_signals: waiting and running in requests per pod, kv_usage as a share per pod; beyond
                 the first three only a ScaledObject can have it
    metric       the name in the HPA
    metric_type  Value where the target is none per replica, else nothing
    query        the PromQL behind it, of a ScaledObject
    """

    signal: Annotated[str, Name("name"), Reading(f"one of {', '.join(SCALING_SIGNALS)}", _signal)]
    metric: str = field(default="", kw_only=True)
    quantity: Annotated[str, Name("averageValue"), Reading("a quantity of at least 1m", _target_quantity)]
    interval: Annotated[tuple[str, str], Reading("two quantities, low and high", _interval)] | None = None
    metric_type: Annotated[Literal["Value"] | None, Name("metricType"), LeftOut] = field(
        default=None, kw_only=True
    )
    query: Annotated[str | None, LeftOut] = field(default=None, kw_only=True)

    @property
    def value_words(self) -> str:
        """The field of an HPA and the target as it stands there, with the number that it is: "averageValue 9400m (9.4)"."""
        field_ = "value" if self.metric_type else "averageValue"
        number = f"{parse(self.quantity).milli / 1000:g}"
        return f"{field_} {self.quantity}" + ("" if number == self.quantity else f" ({number})")

    @property
    def interval_words(self) -> str:
        """The interval as one reads it: of one target, or of the best targets for all that may be there."""
        low, high = self.interval or (self.quantity, self.quantity)
        which = (
            ""
            if low == high
            else ": the best targets for a replica as slow or as fast as the data allow, for a little more traffic, and with windows and bounds that cost the same"
        )
        ends = " to ".join(f"{milli / 1000:g}" for milli in self.interval_milli)
        return f"interval {ends}{which}"

    @property
    def interval_milli(self) -> tuple[int, int]:
        """The ends of the interval in thousandths; the target's own value twice without one."""
        low, high = self.interval or (self.quantity, self.quantity)
        return parse(low).milli, parse(high).milli
