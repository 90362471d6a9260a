"""What a query (keda.queries) gives over a fleet's samples, as Prometheus computes it.

Source: prometheus promql/{engine.go,functions.go,quantile.go}: extrapolated rates, interpolated buckets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import eq, ge, gt, le, lt, ne

from analysis.numbers import known
from autoscale.keda.queries import (
    SHARED_LABELS,
    Aggregation,
    Applied,
    Expression,
    FirstOf,
    HistogramQuantile,
    Instant,
    Number,
    Operation,
    OrElse,
    OverWindow,
    QueryMatcher,
    Scalar,
    is_scalar,
    labels_of,
)
from autoscale.sim.fleet.signals.series import LOOKBACK_S, Labels, Samples, Track

Element = tuple[Labels, float]
Vector = list[Element]

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge,
}  # fmt: skip


@dataclass(frozen=True)
class QueryTime:
    """When a query is asked, and the samples that it may see."""

    samples: Samples
    now_s: float

    @property
    def visible_s(self) -> float:
        """Scrapes up to here have been ingested."""
        return self.now_s - self.samples.delay_s


def evaluated(expression: Expression, at: QueryTime) -> Vector:
    """The elements of the answer; a scalar is one element without labels."""
    match expression:
        case Number(value=value):
            return [((), value)]
        case Scalar(of=of):
            found = evaluated(of, at)
            return [((), found[0][1] if len(found) == 1 else math.nan)]
        case Instant(name=name, matchers=matchers):
            return [
                (labels, value)
                for labels, track in _selected(name, matchers, at)
                if known(value := track.newest(at.now_s - LOOKBACK_S, at.visible_s))
            ]
        case OverWindow():
            return list(_over_window(expression, at))
        case Aggregation(of=of):
            return _aggregated(expression, evaluated(of, at))
        case HistogramQuantile():
            return list(_quantiles(expression, at))
        case Applied(of=of):
            return [(labels, _applied(expression, value)) for labels, value in evaluated(of, at)]
        case Operation():
            return _operation(expression, at)
        case OrElse(of=of, number=number, on=on):
            found = evaluated(of, at)
            alone = not found or on or labels_of(of) == frozenset()
            return (found or [((), number)]) if alone else [*found, ((), number)]
        case FirstOf(first=first, second=second):
            return evaluated(first, at) or evaluated(second, at)


def _selected(name: str, matchers: Sequence[QueryMatcher], at: QueryTime) -> Iterator[tuple[Labels, Track]]:
    for labels, track in at.samples.tracks[name].items():
        values = dict(labels)
        if all(_matches(matcher, values) for matcher in matchers):
            yield labels, track


def _matches(matcher: QueryMatcher, labels: dict[str, str]) -> bool:
    """A label that all of a fleet's series share has whatever value is asked for: the fleet is the one that is meant."""
    if matcher.label not in labels and matcher.label in SHARED_LABELS:
        return True
    return matcher.takes(labels.get(matcher.label, ""))


def _over_window(query: OverWindow, at: QueryTime) -> Iterator[Element]:
    for labels, track in _selected(query.name, query.matchers, at):
        times_s, values = track.window(at.now_s - query.window_s, at.visible_s)
        if query.function.endswith("_over_time"):
            if values:
                yield labels, _over_time(query.function, values)
        elif len(values) > 1:
            yield labels, _growth(query, times_s, values, at.now_s)


def _over_time(function: str, values: list[float]) -> float:
    match function:
        case "avg_over_time":
            return sum(values) / len(values)
        case "sum_over_time":
            return sum(values)
        case "min_over_time":
            return min(values)
        case "max_over_time":
            return max(values)
    return values[-1]


def _growth(query: OverWindow, times_s: list[float], values: list[float], now_s: float) -> float:
    """rate, increase or irate of a counter, grown over its resets and extrapolated to the window's ends."""
    if query.function == "irate":
        step = values[-1] - values[-2]
        return (step if step >= 0 else values[-1]) / (times_s[-1] - times_s[-2])
    resets = sum(a for a, b in pairwise(values) if b < a)
    grown = values[-1] - values[0] + resets
    sampled_s = times_s[-1] - times_s[0]
    between_s = sampled_s / (len(values) - 1)
    to_start_s, to_end_s = times_s[0] - (now_s - query.window_s), now_s - times_s[-1]
    if to_start_s >= 1.1 * between_s:
        to_start_s = between_s / 2
    if grown > 0 and values[0] >= 0:
        to_start_s = min(to_start_s, sampled_s * values[0] / grown)
    if to_end_s >= 1.1 * between_s:
        to_end_s = between_s / 2
    grown *= (sampled_s + to_start_s + to_end_s) / sampled_s
    return grown / query.window_s if query.function == "rate" else grown


def _aggregated(query: Aggregation, elements: Vector) -> Vector:
    groups: dict[Labels, list[float]] = {}
    for labels, value in elements:
        kept = tuple(pair for pair in labels if pair[0] == "pod") if query.each else ()
        groups.setdefault(kept, []).append(value)
    return [(labels, _aggregate(query, values)) for labels, values in groups.items()]


def _aggregate(query: Aggregation, values: list[float]) -> float:
    match query.function:
        case "sum":
            return sum(values)
        case "avg":
            return sum(values) / len(values)
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "count":
            return float(len(values))
    return _quantile(query.quantile, sorted(values))


def _quantile(q: float, values: list[float]) -> float:
    if not 0 <= q <= 1:
        return math.copysign(math.inf, q - 0.5) if known(q) else math.nan
    rank = q * (len(values) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(values) - 1)
    return values[low] * (1 - (rank - low)) + values[high] * (rank - low)


def _quantiles(query: HistogramQuantile, at: QueryTime) -> Iterator[Element]:
    buckets: dict[Labels, dict[float, float]] = {}
    for labels, value in evaluated(query.buckets, at):
        rest = () if query.pooled else tuple(pair for pair in labels if pair[0] != "le")
        of_one = buckets.setdefault(rest, {})
        bound = float(dict(labels)["le"])
        of_one[bound] = of_one.get(bound, 0.0) + value
    for labels, of_one in buckets.items():
        yield labels, bucket_quantile(query.quantile, sorted(of_one.items()))


def bucket_quantile(q: float, buckets: list[tuple[float, float]]) -> float:
    """The quantile from (upper bound, count up to it), ascending: linear within its bucket; NaN without observations."""
    if len(buckets) < 2 or buckets[-1][0] != math.inf or not buckets[-1][1] > 0:
        return math.nan
    if not 0 <= q <= 1:
        return math.copysign(math.inf, q - 0.5)
    most, rising = 0.0, []
    for bound, count in buckets:
        most = max(most, count)
        rising.append((bound, most))
    rank = q * rising[-1][1]
    at = next((i for i, (_, count) in enumerate(rising[:-1]) if count >= rank), len(rising) - 1)
    if at == len(rising) - 1:
        return rising[-2][0]
    end, count = rising[at]
    if at == 0 and end <= 0:
        return end
    start, below = rising[at - 1] if at else (0.0, 0.0)
    return start + (end - start) * (rank - below) / (count - below) if count > below else start


def _applied(query: Applied, value: float) -> float:
    match query.function:
        case "abs":
            return abs(value)
        case "ceil" | "floor" | "round" if not math.isfinite(value):
            return value
        case "ceil":
            return float(math.ceil(value))
        case "floor":
            return float(math.floor(value))
        case "round":
            return float(math.floor(value + 0.5))
    if query.high < query.low:
        return math.nan
    return max(query.low, min(query.high, value)) if known(value) else value


def _operation(query: Operation, at: QueryTime) -> Vector:
    left, right = evaluated(query.left, at), evaluated(query.right, at)
    if is_scalar(query.right):
        pairs = [(labels, value, right[0][1], value) for labels, value in left]
    elif is_scalar(query.left):
        pairs = [(labels, left[0][1], value, value) for labels, value in right]
    else:
        pairs = [(labels, a, b, a) for (labels, a), (_, b) in zip(left, right, strict=False)]
    compare = _COMPARE.get(query.operator)
    if compare is None:
        return [(labels, _arithmetic(query.operator, a, b)) for labels, a, b, _ in pairs]
    if query.as_bool:
        return [(labels, float(compare(a, b))) for labels, a, b, _ in pairs]
    return [(labels, kept) for labels, a, b, kept in pairs if compare(a, b)]


def _arithmetic(operator: str, a: float, b: float) -> float:
    match operator:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/":
            if b:
                return a / b
            return math.nan if a == 0 or not known(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)
        case "%":
            return math.fmod(a, b) if b else math.nan
    try:
        power = a**b
    except (OverflowError, ZeroDivisionError):
        return math.inf
    return math.nan if isinstance(power, complex) else float(power)
