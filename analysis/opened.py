"""A run directory opened: its requests as latencies, gauges, SLO and verdicts, and what it says about one replica."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from analysis.capacity import Capacity, analyse
from analysis.errors import AutoscaleError
from analysis.latency import Percentile, gaps_within, latencies, percentile, percentile_of_gaps
from analysis.run import Run, read, spans_of
from analysis.signals import fleet
from analysis.slo import Slo, Verdict, evaluate, parse_slo


@dataclass(frozen=True)
class OpenedRun:
    """A run directory with what follows from it; whatever is absent or unusable is None."""

    run: Run
    name: str
    learned: Capacity | None = None  # of somebody who knows more than the run's own stages

    @cached_property
    def table(self) -> pd.DataFrame | None:
        """Latencies per request (`analysis.latency.latencies`); None without any request."""
        return latencies(self.run.requests) if self.run.has("requests") and len(self.run.requests) else None

    @cached_property
    def gauges(self) -> pd.DataFrame | None:
        """The fleet's gauges over time (`analysis.signals.fleet`)."""
        return fleet(self.run.metrics) if self.run.has("metrics") and len(self.run.metrics) else None

    @cached_property
    def itl(self) -> pd.DataFrame | None:
        """Gaps between events per stage; None when nothing was streamed."""
        return self.run.itl if self.run.has("itl") and len(self.run.itl) else None

    @cached_property
    def slo(self) -> Slo | None:
        """The SLO of the header; None when there is none or it cannot be read."""
        try:
            return parse_slo(str(self.run.header["slo"])) if self.run.header.get("slo") else None
        except AutoscaleError:
            return None

    @cached_property
    def analysed(self) -> Capacity | str:
        """What the run says about one replica, or the sentence why it says nothing."""
        if self.learned is not None:
            return self.learned
        if self.table is None:
            return "no request was recorded"
        try:
            return analyse(self.run, self.slo)
        except AutoscaleError as error:
            return str(error)

    @cached_property
    def capacity(self) -> Capacity | None:
        """The capacity, when it could be analysed."""
        return self.analysed if isinstance(self.analysed, Capacity) else None

    @cached_property
    def stages(self) -> list[tuple[int, float, float, str]]:
        """(stage, start_s, end_s, plan) of the plan; of the requests themselves, without a plan, when the header has none."""
        return [(s.number, s.start_s, s.end_s, _plan(s.plan)) for s in spans_of(self.run.header, self.table)]

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Per term of the SLO how the whole run stands to it; empty without SLO or requests."""
        if self.slo is None or self.table is None:
            return ()
        table, gaps = self.table, self.itl
        return evaluate(
            self.slo,
            table["ok"],
            table["ttft_s"],
            table["tpot_s"],
            table["e2e_s"],
            None if gaps is None else lambda bound_s: gaps_within(gaps, bound_s),
            None if gaps is None else lambda at: percentile_of_gaps(gaps, at).value,
        )

    def percentile(self, metric: str, at: float, stage: int | None = None) -> Percentile:
        """A percentile (0-100) of ttft, tpot, itl or e2e in s, over one stage or all; of nothing it is NaN."""
        if metric == "itl" and self.itl is not None:
            gaps = self.itl
            return percentile_of_gaps(gaps if stage is None else gaps[gaps["stage"] == stage], at)
        if metric == "itl" or self.table is None:
            return Percentile(at, math.nan, -math.inf, math.inf, 0)
        rows = self.table if stage is None else self.table[self.table["stage"] == stage]
        return percentile(rows[f"{metric}_s"], at)


def open_run(path: Path | str) -> OpenedRun:
    """The run in a directory. Raises BadRun when it has no readable header."""
    path = Path(path)
    return OpenedRun(read(path), path.resolve().name)


def _plan(stage: Mapping[str, object]) -> str:
    if stage.get("rate") is not None:
        return f"{stage['rate']:g}/s"
    return f"{stage['users']} users" if stage.get("users") is not None else ""
