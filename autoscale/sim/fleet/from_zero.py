"""Requests that were due while no replica was ready: they wait on a start from zero, and may have a looser bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.slo import Slo, Term


@dataclass
class FromZero:
    """Which requests waited on a start from zero, how many, and for how long at most.

    rows     FleetRecorder.replicas of the simulation, which grows: time_s, desired, created, scheduled, ready
    ttft_s   what their TTFT may be, and by how much longer their answer may take; None: the SLO's own bounds
    longest_s  the longest TTFT of one that was answered; NaN without one
    last_due_s when the last of them was due
    """

    rows: Sequence[tuple[float, int, int, int, int]]
    ttft_s: float | None = None
    count: int = 0
    longest_s: float = math.nan
    last_due_s: float = -math.inf

    def among(self, due_s: NDArray[Any], ttft_s: NDArray[Any]) -> NDArray[np.bool_]:
        """The ones among finished requests, counted."""
        times = np.array([-math.inf, *(row[0] for row in self.rows)])
        ready = np.array([1, *(row[4] for row in self.rows)])
        found = ready[np.searchsorted(times, due_s, side="right") - 1] == 0
        if found.any():
            self.count += int(found.sum())
            self.last_due_s = max(self.last_due_s, float(due_s[found].max()))
            waits = ttft_s[found]
            if np.isfinite(waits).any():
                self.longest_s = float(np.nanmax([self.longest_s, np.nanmax(waits)]))
        return found

    def bound_s(self, term: Term) -> float:
        """The bound of such a request under a term of the SLO."""
        if self.ttft_s is None or term.metric not in ("ttft", "e2e"):
            return term.bound_s
        return max(term.bound_s, self.ttft_s) if term.metric == "ttft" else term.bound_s + self.ttft_s

    def slo(self, slo: Slo) -> Slo:
        """The SLO with the bounds of such requests."""
        return replace(slo, terms=tuple(replace(term, bound_s=self.bound_s(term)) for term in slo.terms))
