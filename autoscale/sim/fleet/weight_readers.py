"""Replicas that read the model's weights at the same time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class WeightReaders:
    """Reading weights: every replica at `rate`, or all together at `rate` in equal shares (processor sharing)."""

    rate: float
    shared: bool
    now_s: float = 0.0
    left: dict[int, float] = field(default_factory=dict)  # ordinal -> bytes

    def _progress(self, now_s: float) -> None:
        if self.left:
            read = (now_s - self.now_s) * self.rate / (len(self.left) if self.shared else 1)
            for ordinal in self.left:
                self.left[ordinal] -= read
        self.now_s = now_s

    def begin(self, ordinal: int, size_bytes: float, now_s: float) -> None:
        self._progress(now_s)
        self.left[ordinal] = size_bytes

    def cancel(self, ordinal: int, now_s: float) -> None:
        self._progress(now_s)
        self.left.pop(ordinal, None)

    def next(self) -> tuple[float, int]:
        """When the next one is done, and which; (inf, 0) when nobody reads."""
        if not self.left:
            return math.inf, 0
        ordinal = min(self.left, key=lambda o: (self.left[o], o))
        share = self.rate / (len(self.left) if self.shared else 1)
        return self.now_s + max(self.left[ordinal], 0.0) / share, ordinal
