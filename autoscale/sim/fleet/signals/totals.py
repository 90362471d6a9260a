"""Queries that need nothing but the newest scrape: one gauge over the pods, a sum of two, or one of the gateway's, times a number.

All targets are scraped at one instant here, and a series that is not exported then has ended: what such a query gives is
known when the scrape is made, and seen when it has been ingested. The compiled ticks keep the same numbers.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.numbers import known
from analysis.run import SIGNALS
from autoscale.keda.queries import (
    SHARED_LABELS,
    Aggregation,
    Expression,
    FirstOf,
    Instant,
    Number,
    Operation,
    OrElse,
    QueryMatcher,
)
from autoscale.kube.gateway_names import NEW, gateway_metric
from autoscale.kube.vllm_names import exported_names, signal_of
from autoscale.profiles.profile import Profile
from autoscale.sim.fleet.replica import names_like
from autoscale.sim.fleet.signals.series import LOOKBACK_S

GATEWAY_GAUGES = ("flow_control_queue_size", "request_running", "flow_control_pool_saturation")
COLUMNS = (*SIGNALS, *GATEWAY_GAUGES)
SUM, AVERAGE, LARGEST, SMALLEST = range(4)
NO_COLUMN = -1
_AGGREGATES = {"sum": SUM, "avg": AVERAGE, "max": LARGEST, "min": SMALLEST}
_STAGES = 2  # that the gateway shows its pool's saturation for

# A metric of the HPA as the compiled ticks know it
PODS, AVERAGE_VALUE, VALUE = range(3)
TARGET = np.dtype(
    [
        ("milli", "i8"),
        ("kind", "i8"),
        ("column", "i8"),  # of COLUMNS
        ("total", "i8"),  # position in `totals`
        ("aggregate", "i8"),
        ("factor", "f8"),
        ("empty", "f8"),
        ("rounded", "i8"),  # KEDA rounds to thousandths, adapters cut
        ("strict", "i8"),  # no element is an error, not 0
        ("also", "i8"),  # a second column that is added, or NO_COLUMN
        ("active_above", "f8"),  # of KEDA's trigger
    ],
    align=True,
)


class GaugeTotal(NamedTuple):
    """`factor` times an aggregate of one of COLUMNS, or of it and `also`; `empty` is the value without any pod, NaN for no
    element."""

    aggregate: int
    column: int
    factor: float
    empty: float
    also: int = NO_COLUMN


def gauge_total(expression: Expression, profile: Profile) -> GaugeTotal | None:
    """The query as a GaugeTotal, None when it needs more than that."""
    match expression:
        case FirstOf(first=first, second=second):  # a metric under two names, both exported
            old, new = (gauge_total(each, profile) for each in (first, second))
            return new if repr(old) == repr(new) else None
        case OrElse(of=of, number=number):
            found = gauge_total(of, profile)
            return found and found._replace(empty=number)
        case (
            Operation(operator="*", left=of, right=Number(value=value, vector=False))
            | Operation(operator="*", left=Number(value=value, vector=False), right=of)
        ):
            found = gauge_total(of, profile)
            return found and found._replace(factor=found.factor * value)
        case Operation(operator="/", left=of, right=Number(value=value, vector=False)) if value:
            found = gauge_total(of, profile)
            return found and found._replace(factor=found.factor / value)
        case Operation(operator="+", left=left, right=right):
            return _both(gauge_total(left, profile), gauge_total(right, profile))
        case Aggregation(function="sum", of=Aggregation(function="avg", of=Instant() as series, each=True)):
            found = gauge_total(Aggregation("sum", series), profile)
            return found and found._replace(factor=found.factor / profile.replica.data_parallel)
        case Aggregation(function=function, of=Instant(name=name, matchers=matchers)):
            aggregate = _AGGREGATES.get(function)
            if aggregate is None or not all(_asks_for_all(matcher, profile) for matcher in matchers):
                return None
            engine = profile.engine.vllm_version
            return _of_series(aggregate, name, engine, profile.replica.data_parallel)
    return None


def _both(left: GaugeTotal | None, right: GaugeTotal | None) -> GaugeTotal | None:
    """The sum of two sums over the same pods: there is an element of one where there is one of the other."""
    if left is None or right is None or left.also != NO_COLUMN or right.also != NO_COLUMN:
        return None
    of_pods = max(left.column, right.column) < len(SIGNALS) and left.aggregate == right.aggregate == SUM
    alike = left.factor == right.factor and math.isnan(left.empty) and math.isnan(right.empty)
    return left._replace(also=right.column) if of_pods and alike else None


def _asks_for_all(matcher: QueryMatcher, profile: Profile) -> bool:
    """Whether a matcher leaves out none of the fleet's pods."""
    if matcher.label != "pod" or matcher.operator != "=~":
        return matcher.label in SHARED_LABELS
    return all(re.fullmatch(matcher.value, name) for name in names_like(profile))


def _of_series(aggregate: int, name: str, vllm_version: str, data_parallel: int) -> GaugeTotal | None:
    if name in exported_names(vllm_version):
        if data_parallel > 1 and aggregate != SUM:
            return None  # a series per engine, and the pods' gauges are sums
        return GaugeTotal(aggregate, SIGNALS.index(signal_of(name) or ""), 1.0, math.nan)
    metric = gateway_metric(name)
    short = metric.new.removeprefix(NEW) if metric else ""
    if short not in GATEWAY_GAUGES:
        return None
    column = COLUMNS.index(short)
    if short == "flow_control_pool_saturation":
        return GaugeTotal(SUM, column, _STAGES if aggregate == SUM else 1, math.nan)
    return GaugeTotal(SUM, column, 1.0, math.nan) if aggregate == SUM else None


def aggregated(aggregate: int, values: Sequence[float]) -> float:
    """The aggregate of the values that are known; NaN without any."""
    total, count = 0.0, 0
    for j in range(len(values)):
        value = values[j]
        if not known(value):
            continue
        count += 1
        if aggregate == LARGEST:
            total = value if count == 1 else max(total, value)
        elif aggregate == SMALLEST:
            total = value if count == 1 else min(total, value)
        else:
            total += value
    if count == 0:
        return math.nan
    return total / count if aggregate == AVERAGE else total


class Totals:
    """The values of some GaugeTotals, scrape by scrape."""

    def __init__(self, of: Sequence[GaugeTotal], delay_s: float) -> None:
        self.of, self.delay_s = tuple(of), delay_s
        self.on_the_way: deque[tuple[float, list[float]]] = deque()
        self.shown: tuple[float, list[float]] = (-math.inf, [math.nan] * len(self.of))

    def scrape(self, now_s: float, columns: Sequence[Sequence[float]]) -> None:
        """What COLUMNS were at `now_s`: a value per pod, or the gateway's one."""
        values = []
        for gauge in self.of:
            value = aggregated(gauge.aggregate, columns[gauge.column])
            if gauge.also != NO_COLUMN:
                value += aggregated(gauge.aggregate, columns[gauge.also])
            values.append(value * gauge.factor if known(value) else gauge.empty)
        self.on_the_way.append((now_s, values))

    def read(self, now_s: float) -> list[float]:
        """What a query gives now; NaN: no element."""
        while self.on_the_way and self.on_the_way[0][0] <= now_s - self.delay_s:
            self.shown = self.on_the_way.popleft()
        if self.shown[0] <= now_s - LOOKBACK_S:
            return [gauge.empty for gauge in self.of]
        return self.shown[1]
