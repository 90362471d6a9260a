"""Who kept the SLO in a simulation: counts of finished requests, of the whole traffic, by minute and by period.

A period is what a promise speaks of: a day, or the whole traffic where that is shorter. The rest of a day at the end
belongs to the last one.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.histogram import Histogram
from analysis.run import STATUSES
from analysis.slo import Slo, Term, meets
from autoscale.sim.engine.state import REFUSED
from autoscale.sim.fleet.from_zero import FromZero

METRICS = ("ttft", "tpot", "e2e")
MINUTE_S = 60.0
MINUTES_OF_A_DAY = 1440


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
        self.requests = 0  # finished, one way or another, the rejected ones not counted
        self.rejected = 0
        self.ok = 0
        self.good = 0  # kept every bound
        self.judged = np.zeros(len(self.terms), np.int64)
        self.within = np.zeros(len(self.terms), np.int64)
        self.output_tokens = 0
        self.latency = {metric: Histogram() for metric in METRICS}
        minutes = math.ceil(duration_s / MINUTE_S)
        self.due_by_minute = np.zeros(minutes, np.int64)
        self.good_by_minute = np.zeros(minutes, np.int64)
        self.judged_by_minute = np.zeros((len(self.terms), minutes), np.int64)
        self.breaches_by_minute = np.zeros((len(self.terms), minutes), np.int64)
        self.least_accelerator_hours = 0.0
        self.turned_away: Counter[int] = Counter()  # by the gateway; they are among the finished

    def add(self, finished: NDArray[Any]) -> NDArray[Any]:
        """Count a batch of finished requests (engine.FINISHED) and hand it back."""
        slots = np.ascontiguousarray(finished["slot"])
        refused = slots == REFUSED
        rejected = int(refused.sum())
        self.rejected += rejected
        if (away := slots[slots < REFUSED]).size:
            self.turned_away.update(away.tolist())
        self._count(finished[~refused] if rejected else finished)
        return finished

    def _count(self, finished: NDArray[Any]) -> None:
        if len(finished) == 0:
            return
        ok = finished["status"] == STATUSES.index("ok")
        due_s, first_s, last_s, tokens = (
            np.ascontiguousarray(finished[name])
            for name in ("due_s", "first_token_s", "last_token_s", "output_tokens")
        )
        ttft, e2e, more = first_s - due_s, last_s - due_s, tokens - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            tpot = np.where(more > 0, (last_s - first_s) / more, np.nan)
        values = {"ttft": ttft, "tpot": tpot, "e2e": e2e}
        self.requests += len(finished)
        self.ok += int(ok.sum())
        cold = None if self.from_zero is None else self.from_zero.among(due_s, ttft)
        good = self._good(ok, ttft, tpot, e2e, cold)
        self.good += int(good.sum())
        self.output_tokens += int(tokens.sum())
        minute = (due_s / MINUTE_S).astype(np.int64)
        low = int(minute.min())
        width = int(minute.max()) - low + 1
        here, minute = slice(low, low + width), minute - low
        self.due_by_minute[here] += np.bincount(minute, minlength=width)
        self.good_by_minute[here] += np.bincount(minute[good], minlength=width)
        for k, term in enumerate(self.terms):
            seconds = values[term.metric]
            within = ok & (seconds <= self._bound_s(term, cold))
            judged = ~ok | np.isfinite(seconds)
            self.judged[k] += int(judged.sum())
            self.within[k] += int(within.sum())
            self.judged_by_minute[k, here] += np.bincount(minute[judged], minlength=width)
            self.breaches_by_minute[k, here] += np.bincount(minute[judged & ~within], minlength=width)
        for metric, seconds in values.items():
            self.latency[metric].add(seconds[ok & np.isfinite(seconds)])

    def _good(
        self,
        ok: NDArray[Any],
        ttft: NDArray[Any],
        tpot: NDArray[Any],
        e2e: NDArray[Any],
        cold: NDArray[np.bool_] | None,
    ) -> NDArray[np.bool_]:
        good = meets(self.slo, ok, ttft, tpot, e2e)
        if self.from_zero is None or cold is None or not cold.any():
            return good
        return np.where(cold, meets(self.from_zero.slo(self.slo), ok, ttft, tpot, e2e), good)

    def _bound_s(self, term: Term, cold: NDArray[np.bool_] | None) -> Any:
        if self.from_zero is None or cold is None:
            return term.bound_s
        return np.where(cold, self.from_zero.bound_s(term), term.bound_s)

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
