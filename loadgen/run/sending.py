"""A run that goes on, over its time: what the plan has due, what the workers' samples say was sent, how long answers took."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadgen.plan.traffic import LoadPlan
from loadgen.run.measured import RequestRow
from loadgen.run.vitals import ClientSample

MOST_INTERVALS = 120  # of a course; when one more is needed, each two become one
PERCENTILES = (0.50, 0.95)


class SentRate(NamedTuple):
    """One interval: its end in s since the start, and requests/s that were offered and sent in it."""

    end_s: float
    offered_rps: float
    sent_rps: float


class Sending:
    """Holds the samples of all workers; `plan` is None where the load follows no plan of its own (users, a search)."""

    def __init__(self, plan: LoadPlan | None) -> None:
        self._plan, self._due = plan, None if plan is None else DueCounter(plan)
        self._samples: dict[str, list[ClientSample]] = {}

    @property
    def planned(self) -> bool:
        """Whether there is a plan."""
        return self._plan is not None

    @property
    def samples(self) -> Mapping[str, Sequence[ClientSample]]:
        """All samples by worker."""
        return self._samples

    def add(self, worker: str, samples: Sequence[ClientSample]) -> None:
        """Further samples of one worker."""
        self._samples.setdefault(worker, []).extend(samples)

    def sent(self, worker: str) -> int:
        """How many requests this worker has sent, as far as it said."""
        samples = self._samples.get(worker)
        return samples[-1].sent if samples else 0

    def rates(self, most: int) -> list[SentRate]:
        """About `most` intervals so far.

        Offered are the requests that the plan's draw has due in the interval, so that a client which keeps up sends
        them all. A closed loop offers what it sends; so does a search, whose plan is its probes.
        """
        samples = [own for own in self._samples.values() if own]
        until_s = min((own[-1].time_s for own in samples), default=0.0)
        # the second that has just begun says nothing yet
        if self._plan is None or until_s < self._plan.duration_s:
            until_s = float(int(until_s))
        else:
            until_s = self._plan.duration_s
        if until_s <= 0:
            return []
        edges_s = np.append(np.arange(0.0, until_s, math.ceil(until_s / most)), until_s)
        sent = np.zeros(len(edges_s))
        for own in samples:
            sent += np.interp(edges_s, [0.0, *(s.time_s for s in own)], [0, *(s.sent for s in own)])
        sent_rps = np.diff(sent) / np.diff(edges_s)
        offered = sent_rps if self._due is None else np.diff(self._due.until(edges_s)) / np.diff(edges_s)
        rows = zip(edges_s[1:].tolist(), offered.tolist(), sent_rps.tolist(), strict=True)
        return [SentRate(*row) for row in rows]


class DueCounter:
    """Counts the requests of a plan that are due in each second, drawn as far as asked."""

    def __init__(self, plan: LoadPlan) -> None:
        self._chunks = plan.arrivals(1024)
        self._duration_s = plan.duration_s
        self._drawn_s = 0.0
        self._per_second: list[int] = []

    def until(self, edges_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many are due until each of these instants, which are whole seconds or the end of the plan."""
        while self._drawn_s < edges_s[-1]:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._drawn_s = math.inf
                break
            self._drawn_s = float(chunk.due_s[-1])
            seconds, counts = np.unique(chunk.due_s.astype(np.int64), return_counts=True)
            self._per_second += [0] * (int(seconds[-1]) + 1 - len(self._per_second))
            for second, count in zip(seconds.tolist(), counts.tolist(), strict=True):
                self._per_second[second] += count
        ends_s = np.minimum(np.arange(len(self._per_second) + 1), self._duration_s)
        return np.interp(edges_s, ends_s, np.cumsum([0, *self._per_second]))


class CourseRow(NamedTuple):
    """One interval: its end in s since the start, and the median and the 95th percentile in it, in s."""

    end_s: float
    p50_s: float
    p95_s: float


class LatencyCourse:
    """Counts latencies, to two digits, by the second in which the answer ended; its memory does not grow with the run."""

    def __init__(self) -> None:
        self._interval_s = 1.0
        self._counts: dict[str, dict[int, Counter[float]]] = {"TTFT": {}, "TPOT": {}}

    def add(self, rows: Iterable[RequestRow]) -> None:
        """Count the answers among these rows."""
        for row in rows:
            if row.status != "ok" or not row.last_token_s >= 0:
                continue
            while row.last_token_s >= MOST_INTERVALS * self._interval_s:
                self._halve()
            self._count("TTFT", row.last_token_s, row.first_token_s - row.due_s)
            tokens = (row.output_tokens or row.events) - (row.hidden_tokens or 0)
            if tokens > 1:
                self._count("TPOT", row.last_token_s, (row.last_token_s - row.first_token_s) / (tokens - 1))

    def rows(self, name: str) -> list[CourseRow]:
        """The intervals in which answers ended, of "TTFT" or "TPOT"."""
        return [
            CourseRow((number + 1) * self._interval_s, *_quantiles(counts, PERCENTILES))
            for number, counts in sorted(self._counts[name].items())
        ]

    def _count(self, name: str, at_s: float, value_s: float) -> None:
        if math.isfinite(value_s):
            counts = self._counts[name].setdefault(int(at_s / self._interval_s), Counter())
            counts[float(f"{value_s:.2g}")] += 1

    def _halve(self) -> None:
        self._interval_s *= 2
        for name, before in self._counts.items():
            after: dict[int, Counter[float]] = {}
            for number, counts in before.items():
                after.setdefault(number // 2, Counter()).update(counts)
            self._counts[name] = after


def _quantiles(counts: Counter[float], fractions: Sequence[float]) -> list[float]:
    """The value that each of these ascending fractions of the counts does not exceed."""
    found: list[float] = []
    total, below = counts.total(), 0
    for value in sorted(counts):
        below += counts[value]
        while len(found) < len(fractions) and below >= fractions[len(found)] * total:
            found.append(value)
    return found
