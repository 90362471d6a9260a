"""Chance in the starts of replicas: the k-th start of a fleet draws the same numbers whatever happened before it."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from analysis.numbers import Z95
from autoscale.profiles.profile import Phase

_AHEAD = 32  # starts whose draws are made at once


class StartDraws:
    """Standard normals of each start: node and image per member, join, init, compile, and a uid (`width` in all).

    Warm replicas (negative ordinals) have their own, so that they shift nobody else's.
    """

    def __init__(self, seed: int, width: int) -> None:
        self._seed, self._width = seed, width
        self._rows = np.empty((0, width))

    def of(self, ordinal: int) -> NDArray[np.float64]:
        """The numbers of one start."""
        if ordinal < 0:
            return _normals(self._seed, ordinal, self._width)[-ordinal % _AHEAD]
        while ordinal >= len(self._rows):
            more = _normals(self._seed, len(self._rows), self._width)
            self._rows = np.concatenate([self._rows, more])
        return self._rows[ordinal]


@functools.lru_cache(maxsize=64)
def _normals(seed: int, start: int, width: int) -> NDArray[np.float64]:
    """Draws of the starts from number `start` on; the block of a start depends on nothing but the seed and its number."""
    rng = np.random.Generator(np.random.PCG64([seed, 9005, start if start >= 0 else 1 << 32]))
    return rng.standard_normal((_AHEAD, width))


def duration_s(phase: Phase, z: float) -> float:
    """The duration in s at the standard normal `z`: median * (p95/median)^(z/1.645)."""
    median, p95 = phase.median_s, phase.p95_s
    return median if median == p95 or median == 0 else median * math.exp(z * math.log(p95 / median) / Z95)
