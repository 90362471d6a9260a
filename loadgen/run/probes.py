"""The probes of a search for the capacity as what they offer: one constant rate each, and together a plan. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loadgen.plan import rates
from loadgen.plan.arrivals import Arrivals
from loadgen.plan.traffic import LoadPlan


@dataclass(frozen=True)
class Probe:
    """One constant rate from start_s to end_s (seconds since the start of the run); its requests count from first_id.

    Has what loadgen.run.generator and loadgen.run.records ask of a plan: `arrivals` and `stage_of`.
    """

    number: int
    rate_rps: float
    start_s: float
    end_s: float
    first_id: int
    base: LoadPlan  # arrivals, lengths, prompts

    def arrivals(self, n: int = 65_536) -> Iterator[Arrivals]:
        """Its requests, due_s counted from the start of the run."""
        programme = rates.constant(self.rate_rps, self.end_s - self.start_s)
        plan = replace(self.base, programme=programme, seed=self.base.seed + self.number)
        for chunk in plan.arrivals(n):
            yield chunk._replace(
                due_s=chunk.due_s + self.start_s, request_id=chunk.request_id + self.first_id
            )

    def stage_of(self, due_s: ArrayLike) -> NDArray[np.int32]:
        """The probe's number, for each due time."""
        return np.full(np.shape(due_s), self.number, dtype=np.int32)

    def stage(self) -> dict[str, float]:
        """The probe as a stage of the run."""
        return {"stage": self.number, "start_s": self.start_s, "end_s": self.end_s, "rate": self.rate_rps}


@dataclass(frozen=True)
class Probes:
    """All probes of a run, as the plan that they turned out to be."""

    probes: tuple[Probe, ...]

    def arrivals(self, n: int = 65_536) -> Iterator[Arrivals]:
        """What was offered, in the order of due times."""
        for probe in self.probes:
            yield from probe.arrivals(n)

    def stage_of(self, due_s: ArrayLike) -> NDArray[np.int32]:
        """The number of the probe that each due time belongs to."""
        starts = np.array([probe.start_s for probe in self.probes])
        return (np.searchsorted(starts, np.asarray(due_s), side="right") - 1).astype(np.int32)
