"""KEDA's Prometheus trigger: its metadata, and what one answer of Prometheus is worth to it.

Source: kedacore/keda v2.20.2 pkg/scalers/{prometheus_scaler.go,scaler.go}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from autoscale.keda.arithmetic import is_active
from autoscale.keda.metadata import Metadata
from autoscale.keda.targets import metric_type_of
from autoscale.kube import quantity

_TYPED = (
    "serverAddress", "query", "queryParameters", "threshold", "activationThreshold", "namespace", "customHeaders",
    "ignoreNullValues", "unsafeSsl", "awsRegion", "timeout", "identityOwner", "authModes",
)  # fmt: skip
_INT64 = 2**64
_MOST = 2**63 - 1  # of a quantity


class NoElement(NamedTuple):
    """An answer without a value: an empty vector, or an element with no value in it."""

    problem: str = "the result is empty"


class QueryFailed(NamedTuple):
    """No usable answer; `message` is KEDA's sentence."""

    message: str


# A number is the one element's value, NaN and infinities included
Answer = float | NoElement | QueryFailed


class TriggerValue(NamedTuple):
    """What one read of a trigger gave: the value that the HPA sees, and whether the trigger is active."""

    milli: int
    quantity: str  # as KEDA hands it on: "8.200"
    active: bool


@dataclass(frozen=True)
class PrometheusTrigger:
    """One trigger on a PromQL query. `ignored` are keys of its metadata that the scaler does not know."""

    index: int
    name: str
    metric_type: str  # AverageValue, Value, or what the API server of the HPA then refuses
    cached: bool  # useCachedMetrics: the HPA gets the last poll's value
    server_address: str
    query: str
    threshold: float
    activation_threshold: float
    ignore_null_values: bool
    authentication: str = ""  # the TriggerAuthentication's name
    ignored: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_trigger(
        cls,
        index: int,
        name: str,
        metric_type: str,
        cached: bool,
        metadata: Mapping[str, str],
        authentication: str,
    ) -> PrometheusTrigger:
        """The trigger as KEDA builds its scaler. Raises metadata.Unreadable with KEDA's sentence."""
        read = Metadata(metadata)
        trigger = cls(
            index,
            name,
            metric_type_of(metric_type),
            cached,
            read.text("serverAddress"),
            read.text("query"),
            read.number("threshold"),
            read.number("activationThreshold", 0.0),
            read.flag("ignoreNullValues", default=True),
            authentication,
            tuple(key for key in metadata if key not in _TYPED),
        )
        read.flag("unsafeSsl", default=False)
        read.check("error parsing prometheus metadata: error parsing prometheus metadata: ")
        return trigger

    @property
    def metric_name(self) -> str:
        """The HPA's metric; metadata.metricName has no say."""
        return f"s{self.index}-prometheus"

    @property
    def target(self) -> str:
        """The HPA's target as KEDA writes it: three decimals."""
        return printed(self.threshold)

    def read(self, answer: Answer) -> TriggerValue | QueryFailed:
        """What an answer gives: a negative value is 0 and inactive, no value is 0 unless ignoreNullValues is off."""
        if isinstance(answer, QueryFailed):
            return answer
        if isinstance(answer, NoElement):
            if not self.ignore_null_values:
                return QueryFailed(f"prometheus metrics 'prometheus' target may be lost, {answer.problem}")
            answer = 0.0
        elif math.isinf(answer) or math.isnan(answer):
            if not self.ignore_null_values:
                shown = "NaN" if math.isnan(answer) else "+Inf" if answer > 0 else "-Inf"
                return QueryFailed(f"prometheus query returns {shown}")
            answer = 0.0
        return trigger_value(max(answer, 0.0), is_active(answer, self.activation_threshold))

    def many(self) -> QueryFailed:
        """What KEDA says of an answer of several elements."""
        return QueryFailed(f"prometheus query {self.query} returned multiple elements")


def printed(value: float) -> str:
    """A float as KEDA prints it for the HPA: three decimals; below zero and NaN are 0."""
    return f"{value:.3f}" if value > 0 else "0.000"


@lru_cache(maxsize=4096)  # a queue and a count take the same few values at thousands of polls
def trigger_value(value: float, active: bool) -> TriggerValue:
    """The value as the HPA gets it, rounded to three decimals; beyond 64 bits of milli-units it wraps as KEDA's does."""
    given = quantity.parse(min(printed(value), str(_MOST), key=float))
    milli = int(given.value * 1000)
    wrapped = (milli + _INT64 // 2) % _INT64 - _INT64 // 2
    return TriggerValue(wrapped, given.stored, active)
