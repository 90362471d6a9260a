"""Who kept the SLO in a simulation: counts of finished requests, of the whole traffic, by minute and by period.

A period is what a promise speaks of: a day, or the whole traffic where that is shorter. The rest of a day at the end
belongs to the last one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.histogram import Histogram
from analysis.slo import Slo, Term
from autoscale.sim.engine.counting import METRICS, MINUTE_S, Bounds, Counts, count_finished
from autoscale.sim.engine.state import REFUSED
from autoscale.sim.fleet.from_zero import FromZero

MINUTES_OF_A_DAY = 1440
MOST_AT_ONCE = 65_536  # latencies that wait for their histogram: it is as long as 25,000 of them


@dataclass(frozen=True)
class Period:
    """One period of a simulation, by the due time of its requests.

    shares            per term of the SLO the share within its bound, NaN without a request, and the share asked
    attainment        share that kept every bound, NaN without a request
    longest_breach_s  longest time in a row, in whole minutes, in which the due requests broke the SLO's share
    """

    shares: tuple[tuple[float, float], ...]
    attainment: float
    longest_breach_s: float


class Tally:
    """Counts and histograms of finished requests; its size does not grow with the number of requests.

    A request that did not finish well is a breach of every bound. One that the model or the cache is too short for is
    counted apart and judged by nothing: the server refuses it at once, however many replicas there are. One that waited on a
    start from zero has bounds of its own where they are given. `least_accelerator_hours` is what the run will have
    taken at least, kept up to date by the fleet for those who stop a run by its cost.
    """

    def __init__(self, slo: Slo, duration_s: float, from_zero: FromZero | None = None) -> None:
        self.slo, self.from_zero = slo, from_zero
        self.terms = [t for t in slo.terms if t.percentile is not None and t.metric in METRICS]
        self.turned_away: Counter[int] = Counter()  # by the gateway; they are among the finished
        self.least_accelerator_hours = 0.0
        minutes = math.ceil(duration_s / MINUTE_S)
        self._counts = counts = Counts.empty(len(self.terms), minutes, MOST_AT_ONCE)
        self._bounds = _bounds(slo, self.terms, from_zero)
        self._latency = {metric: Histogram() for metric in METRICS}
        self.judged, self.within = counts.judged, counts.within  # per term
        self.due_by_minute, self.good_by_minute = counts.due_by_minute, counts.good_by_minute
        self.judged_by_minute, self.breaches_by_minute = counts.judged_by_minute, counts.breaches_by_minute

    @property
    def requests(self) -> int:
        """Finished, one way or another, the rejected ones not counted."""
        return int(self._counts.totals["requests"][0])

    @property
    def ok(self) -> int:
        """Finished well."""
        return int(self._counts.totals["ok"][0])

    @property
    def good(self) -> int:
        """Kept every bound."""
        return int(self._counts.totals["good"][0])

    @property
    def output_tokens(self) -> int:
        """Of all finished requests."""
        return int(self._counts.totals["output_tokens"][0])

    @property
    def rejected(self) -> int:
        """Too long for the model or the cache."""
        return int(self._counts.totals["refused"][0])

    @property
    def latency(self) -> dict[str, Histogram]:
        """Per metric the latencies of those that finished well."""
        self._empty()
        return self._latency

    def add(self, finished: NDArray[Any]) -> NDArray[Any]:
        """Count a batch of finished requests (engine.FINISHED) and hand it back."""
        for first in range(0, len(finished), MOST_AT_ONCE):
            self._count(finished[first : first + MOST_AT_ONCE])
        return finished

    def _count(self, finished: NDArray[Any]) -> None:
        counts, away = self._counts, self._counts.totals["away"][0]
        if counts.filled.max() + len(finished) > MOST_AT_ONCE:
            self._empty()
        if not count_finished(finished, self._cold(finished), self._bounds, counts):
            raise ValueError("a request is due outside the traffic")
        if counts.totals["away"][0] > away:
            slots = finished["slot"]
            self.turned_away.update(slots[slots < REFUSED].tolist())

    def _empty(self) -> None:
        """Let the latencies that wait into their histograms."""
        for times_s, metric, count in zip(self._counts.times_s, METRICS, self._counts.filled, strict=True):
            self._latency[metric].add(times_s[:count])
        self._counts.filled[:] = 0

    def _cold(self, finished: NDArray[Any]) -> NDArray[np.bool_]:
        """Which waited on a start from zero; empty where none can."""
        cold = np.zeros(0 if self.from_zero is None else len(finished), bool)
        if self.from_zero is not None:
            taken = finished["slot"] != REFUSED
            due_s, first_s = finished["due_s"][taken], finished["first_token_s"][taken]
            cold[taken] = self.from_zero.among(due_s, first_s - due_s)
        return cold

    def hours_over(self) -> int:
        """Hours, counted from the begin, in which the requests that were due broke the SLO's share."""
        starts = np.arange(0, len(self.due_by_minute), 60)
        due, good = (np.add.reduceat(of, starts) for of in (self.due_by_minute, self.good_by_minute))
        breaches = np.add.reduceat(self.breaches_by_minute, starts, axis=1)
        return int(self._over(due, good, breaches).sum())

    def _over(self, due: NDArray[Any], good: NDArray[Any], breaches: NDArray[Any]) -> NDArray[np.bool_]:
        over = np.zeros(len(due), bool)
        for term, broken in zip(self.terms, breaches, strict=True):
            assert term.percentile is not None
            over |= broken > (1 - term.percentile / 100) * due
        if self.slo.goodput is not None:
            over |= due - good > (1 - self.slo.goodput) * due
        return over

    def longest_breach_s(self, minutes: slice = slice(None)) -> float:
        """The longest time in a row, in whole minutes, in which the requests that were due broke the SLO's share."""
        over = self._over(
            self.due_by_minute[minutes], self.good_by_minute[minutes], self.breaches_by_minute[:, minutes]
        )
        ends = np.flatnonzero(np.diff(np.concatenate([[0], over.astype(np.int8), [0]])))
        return float((ends[1::2] - ends[::2]).max()) * MINUTE_S if len(ends) else 0.0

    def periods(self, unserved: int = 0) -> tuple[Period, ...]:
        """The periods in order; requests that did not finish are breaches of the last one."""
        count = max(1, len(self.due_by_minute) // MINUTES_OF_A_DAY)
        found = []
        for i in range(count):
            last = i == count - 1
            minutes = slice(i * MINUTES_OF_A_DAY, None if last else (i + 1) * MINUTES_OF_A_DAY)
            lost = unserved if last else 0
            due = int(self.due_by_minute[minutes].sum()) + lost
            good = int(self.good_by_minute[minutes].sum())
            attainment = good / due if due else math.nan
            shares = []
            for k, term in enumerate(self.terms):
                assert term.percentile is not None
                judged = int(self.judged_by_minute[k, minutes].sum()) + lost
                within = judged - lost - int(self.breaches_by_minute[k, minutes].sum())
                shares.append((within / judged if judged else math.nan, term.percentile / 100))
            if self.slo.goodput is not None:
                shares.append((attainment, self.slo.goodput))
            found.append(Period(tuple(shares), attainment, self.longest_breach_s(minutes)))
        return tuple(found)


def _bounds(slo: Slo, terms: Sequence[Term], from_zero: FromZero | None) -> Bounds:
    """What a request must keep, and what one that waited on a start from zero."""
    cold = slo if from_zero is None else from_zero.slo(slo)
    both = [(t.bound_s, t.bound_s if from_zero is None else from_zero.bound_s(t)) for t in terms]
    return Bounds(
        np.array([METRICS.index(t.metric) for t in terms], np.int64),
        np.array(both, float).reshape(-1, 2),
        np.array([[of.bounds_s().get(metric, math.inf) for of in (slo, cold)] for metric in METRICS]),
    )
