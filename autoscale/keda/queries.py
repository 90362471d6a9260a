"""A trigger's query as a small expression: what of PromQL is simulated.

    query     :=  query + - * / % ^ query  |  query == != < > <= >= [bool] query  |  query or query, vector(N)
              |   sum | avg | min | max | count (query)  |  quantile(Q, query)      no by, or one that all pods share;
              |                                                                     by (pod) inside another aggregation
              |   histogram_quantile(Q, [sum by (le)] (rate(x_bucket[W])))
              |   clamp | clamp_min | clamp_max | ceil | floor | abs | round (query)  |  N  |  vector(N)
              |   series{...}  |  rate | increase | irate (counter[W])  |  avg_ | min_ | max_ | sum_ | last_over_time (gauge[W])

over the series of vLLM, of its router, of an inference gateway and the replica counts of kube-state-metrics. An operator
stands between single elements with the same labels, or next to a number or scalar(...). What is written otherwise is refused with the shape that would do: nothing here evaluates PromQL at large.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from autoscale.kube.gateway_names import ONE_PER_POOL, REPLICA_COUNTS, gateway_metric
from autoscale.kube.promql import one_value
from autoscale.kube.vllm_names import of_router, type_of

AGGREGATIONS = ("sum", "avg", "min", "max", "count", "quantile")
RANGE_FUNCTIONS = ("rate", "increase", "irate")
OVER_TIME = ("avg_over_time", "min_over_time", "max_over_time", "sum_over_time", "last_over_time")
CLAMPS = ("clamp", "clamp_min", "clamp_max")
ROUNDINGS = ("ceil", "floor", "abs", "round")
COMPARED = ("==", "!=", "<=", ">=", "<", ">")
ARITHMETIC = ("+", "-", "*", "/", "%", "^")
# labels that all pods of one fleet share: a by on them leaves one element
SHARED_LABELS = {
    "model_name", "target_model_name", "model", "namespace", "exported_namespace", "job", "exported_job", "service",
    "exported_service", "inference_pool", "deployment", "statefulset", "cluster", "name", "container", "exported_container",
    "endpoint", "app", "app_kubernetes_io_name", "app_kubernetes_io_instance", "producer_name",
}  # fmt: skip
POD_LABELS = {"pod", "instance"}  # either tells pods apart, and nothing else


@dataclass(frozen=True)
class QueryMatcher:
    """One label matcher: =, !=, =~ or !~."""

    label: str
    operator: str
    value: str

    def takes(self, value: str) -> bool:
        """Whether it matches a label's value; a label that is absent has the value ""."""
        if self.operator in ("=", "!="):
            return (value == self.value) == (self.operator == "=")
        return (re.fullmatch(self.value, value) is not None) == (self.operator == "=~")


@dataclass(frozen=True)
class Number:
    """A constant: a scalar, or with `vector` an element without labels."""

    value: float
    vector: bool = False


@dataclass(frozen=True)
class Scalar:
    """The value of a single element as a number, NaN where there is none."""

    of: Expression


@dataclass(frozen=True)
class Instant:
    """A series' newest values, one element for each set of labels."""

    name: str
    matchers: tuple[QueryMatcher, ...] = ()


@dataclass(frozen=True)
class OverWindow:
    """A function of a series over a window: rate, increase, irate, or *_over_time."""

    function: str
    name: str
    matchers: tuple[QueryMatcher, ...]
    window_s: float


@dataclass(frozen=True)
class Aggregation:
    """One element from all: sum, avg, min, max, count, or the quantile; `by` are labels that all of them share.

    `each`: one for every pod instead, which only stands inside another aggregation.
    """

    function: str
    of: Expression
    quantile: float = 0.0
    by: frozenset[str] = frozenset()
    each: bool = False


@dataclass(frozen=True)
class HistogramQuantile:
    """A quantile of a histogram's buckets, of all pods together (`pooled`) or one for each."""

    quantile: float
    buckets: OverWindow | Instant
    pooled: bool
    by: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Applied:
    """A function of each element: a clamp between two bounds, or a rounding."""

    function: str
    of: Expression
    low: float = float("-inf")
    high: float = float("inf")


@dataclass(frozen=True)
class Operation:
    """An operator between two: arithmetic; a comparison keeps what it holds for, `as_bool` gives 1 or 0."""

    operator: str
    left: Expression
    right: Expression
    as_bool: bool = False


@dataclass(frozen=True)
class OrElse:
    """`of`, or the number where it has no element; without `on` () a labelled element has the number beside it."""

    of: Expression
    number: float
    on: bool = False


@dataclass(frozen=True)
class FirstOf:
    """One element of two with the same labels: `first`, or where it has none `second` (a metric's new and old name)."""

    first: Expression
    second: Expression


Expression = (
    Number
    | Scalar
    | Instant
    | OverWindow
    | Aggregation
    | HistogramQuantile
    | Applied
    | Operation
    | OrElse
    | FirstOf
)
Origin = Literal["engine", "router", "gateway", "replicas"]


def parts(expression: Expression) -> tuple[Expression, ...]:
    """The expressions that one is made of, one level down."""
    match expression:
        case Aggregation(of=of) | Applied(of=of) | OrElse(of=of) | Scalar(of=of):
            return (of,)
        case HistogramQuantile(buckets=buckets):
            return (buckets,)
        case Operation(left=left, right=right):
            return (left, right)
        case FirstOf(first=first, second=second):
            return (first, second)
    return ()


def one_element(expression: Expression) -> bool:
    """Whether the answer has one element whatever the number of pods; else KEDA fails with the second element."""
    match expression:
        case Aggregation(each=each):
            return not each
        case Number() | Scalar():
            return True
        case HistogramQuantile(pooled=pooled):
            return pooled
        case Instant(name=name) | OverWindow(name=name):
            return _one_per_pool(name)
        case OrElse(of=of, on=on):
            return one_element(of) and (on or labels_of(of) == frozenset())
    return all(one_element(part) for part in parts(expression))


def pinned_labels(expression: Expression) -> set[str]:
    """Labels that a series may have one value of only."""
    if not isinstance(expression, Instant | OverWindow):
        return set()
    return {matcher.label for matcher in expression.matchers if one_value(matcher.operator, matcher.value)}


def is_scalar(expression: Expression) -> bool:
    """Whether Prometheus answers a number without labels, which KEDA cannot decode."""
    match expression:
        case Number(vector=vector):
            return not vector
        case Scalar():
            return True
        case Operation(left=left, right=right):
            return is_scalar(left) and is_scalar(right)
    return False


def labels_of(expression: Expression) -> frozenset[str] | None:
    """The labels of a single element, None where they are the series' own."""
    match expression:
        case Aggregation(by=by) | HistogramQuantile(pooled=True, by=by):
            return by
        case Number() | Scalar():
            return frozenset()
        case Operation(left=left, right=right):
            return labels_of(right if is_scalar(left) else left)
        case Applied(of=of) | OrElse(of=of) | FirstOf(first=of):
            return labels_of(of)
    return None


def _one_per_pool(name: str) -> bool:
    metric = gateway_metric(name)
    if metric is not None:
        return metric.new in ONE_PER_POOL
    return origin_of(name) == "replicas" or (of_router(name) and name.endswith("_total"))


def origin_of(name: str) -> Origin | None:
    """Who exports a series; None for one that is not known here."""
    if of_router(name):
        return "router"
    if name.startswith("vllm:") and type_of(name) is not None:
        return "engine"
    if gateway_metric(name) is not None:
        return "gateway"
    return "replicas" if name in REPLICA_COUNTS else None


def counts_up(name: str) -> bool:
    """Whether a series is a counter or a part of a histogram."""
    metric = gateway_metric(name)
    kind = metric.type if metric is not None else type_of(name)
    if of_router(name):
        return name.endswith("_total")
    return kind == "counter" or (kind == "histogram" and name.endswith(("_bucket", "_sum", "_count")))
