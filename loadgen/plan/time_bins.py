"""Requests of a trace counted by time, in bounded memory: what the rate of a trace is made of. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_BINS = 1 << 20  # in which requests are counted, of 1 s while the trace is shorter than 12 days
MOST_PIECES = 50_000  # of the rate, of 60 s while the trace is shorter than 34 days


class TimeBins:
    """Requests counted by time in at most MOST_BINS bins: of a second, and twice as wide whenever they do not reach."""

    def __init__(self) -> None:
        self.width_s = 1
        self.counts = np.zeros(1, dtype=np.int64)

    def add(self, times_s: NDArray[np.float64]) -> None:
        """Count the rising times, at least 0."""
        while times_s[-1] >= self.width_s * MOST_BINS:
            self.width_s *= 2
            even = np.pad(self.counts, (0, len(self.counts) % 2))
            self.counts = even.reshape(-1, 2).sum(axis=1)
        where = (times_s / self.width_s).astype(np.int64)
        low, high = int(where[0]), int(where[-1])
        self.counts = np.pad(self.counts, (0, max(0, high + 1 - len(self.counts))))
        self.counts[low : high + 1] += np.bincount(where - low)

    def pieces(self, from_s: float, end_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Edges between from_s and end_s of at most MOST_PIECES pieces, of 60 s or less where they are few, and counts."""
        span_s = end_s - from_s
        wanted_s = max(min(span_s / 60, 60.0), span_s / MOST_PIECES)
        together = max(1, round(min(wanted_s / self.width_s, len(self.counts))))
        width_s = self.width_s * together
        sums = np.add.reduceat(self.counts, np.arange(0, len(self.counts), together)).astype(np.float64)
        edges = from_s + width_s * np.arange(len(sums) + 1, dtype=np.float64)
        if edges[-2] >= end_s:  # a last stamp inside the last whole bin before the end
            edges, sums = np.delete(edges, -2), np.append(sums[:-2], sums[-2:].sum())
        if end_s > edges[-1]:
            edges, sums = np.append(edges, end_s), np.append(sums, 0.0)
        edges[-1] = end_s
        return edges, sums
