"""TTFT and TPOT over the time of a run, as the web page shows them while it goes on: percentiles per interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from loadgen.run.measured import RequestRow

MOST = 120  # intervals; when one more is needed, each two become one
PERCENTILES = (0.50, 0.95)


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
            while row.last_token_s >= MOST * self._interval_s:
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
