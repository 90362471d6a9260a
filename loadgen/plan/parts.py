"""Parts of a plan as plans of their own: what comes from one time until another, and its days."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from analysis.errors import BadInput
from loadgen.plan import rates
from loadgen.plan.programme import Rate
from loadgen.plan.time_units import DAY_S
from loadgen.plan.traces import Trace
from loadgen.plan.traffic import LoadPlan

MINUTE_S, HOUR_S = 60.0, 3600.0
ENOUGH = 0.98  # of a day: the first and the last scrape of a window are not at its ends
TRACE_OPTIONS = ("time_scale", "rate_scale", "jitter_s", "bucket_s", "time_unit", "turn_tokens")


def between(plan: LoadPlan, from_s: float, to_s: float) -> LoadPlan:
    """The plan from `from_s` to `to_s`, which becomes its begin and its end.

    Raises BadInput for a trace that is repeated: its parts would be copies of each other.
    """
    begins_s = plan.begins_s + from_s
    if plan.trace is None:
        return replace(plan, programme=_after(plan.programme.until(to_s), from_s), begins_s=begins_s)
    trace = plan.trace
    if trace.repeat > 1:
        raise BadInput(
            "the parts of a trace that is repeated are copies of each other", value=f"repeat {trace.repeat}"
        )
    options = {name: getattr(trace, name) for name in TRACE_OPTIONS}
    first_s, last_s = (trace.from_s + at_s / trace.time_scale for at_s in (from_s, to_s))
    part = Trace.open(trace.path, trace.format, **options, from_s=first_s, to_s=last_s)
    return replace(plan, programme=part.rate, trace=part, begins_s=begins_s)


@dataclass(frozen=True, eq=False)
class Days(LoadPlan):
    """One day of several, each of a seed's own: seed k is the day k modulo their number.

    Its rate, and whatever else a plan has, is that of the most demanding day, so that bounds are those of every day; numbers of
    requests are means over the days.
    """

    days: tuple[LoadPlan, ...] = ()

    @property
    def expected_requests(self) -> float:
        """Expected requests of a day, the mean over the days."""
        return float(np.mean([day.expected_requests for day in self.days]))

    def of_seed(self, seed: int) -> LoadPlan:
        """The seed's day, drawn with it."""
        return replace(self.days[seed % len(self.days)], seed=seed)

    def times(self, factor: float) -> LoadPlan:
        """The same days at so many times their rates."""
        return days_plan([day.times(factor) for day in self.days])

    def describe(self) -> dict[str, object]:
        """The most demanding day in words and numbers, with the requests of a mean one, and of how many it is."""
        return {**super().describe(), "days": len(self.days)}


def days_plan(days: Sequence[LoadPlan]) -> Days:
    """These days as one plan, in this order."""
    hardest = max(days, key=busiest_hour)
    return Days(**{one.name: getattr(hardest, one.name) for one in fields(hardest)}, days=tuple(days))


def busiest_hour(plan: LoadPlan) -> float:
    """Expected requests of the busiest hour."""
    return float(_by_hour(plan).max())


def cut_into_days(plan: LoadPlan) -> list[LoadPlan]:
    """Its days, each from the hour in which the least comes on average, so that a day begins and ends when little is done.

    What is left at both ends is one more day where it is long enough for one. Not of a trace.
    """
    if plan.duration_s < ENOUGH * DAY_S:
        return []
    hours = _by_hour(plan)
    first_s = HOUR_S * int(np.argmin([hours[k::24].mean() for k in range(min(24, len(hours)))]))
    count = int((plan.duration_s - first_s) // DAY_S)
    days = [between(plan, first_s + k * DAY_S, first_s + (k + 1) * DAY_S) for k in range(count)]
    last_s = first_s + count * DAY_S
    over_s = plan.duration_s - last_s + first_s
    if over_s >= ENOUGH * DAY_S:
        end = between(plan, last_s, plan.duration_s)
        begin = between(plan, max(0.0, over_s - DAY_S), first_s)
        days.append(replace(end, programme=rates.joined([end.programme, begin.programme])))
    return days


def _by_hour(plan: LoadPlan) -> np.ndarray:
    """Requests per hour, of whole hours from the plan's begin on."""
    at_s = np.arange(MINUTE_S / 2, max(plan.duration_s // HOUR_S, 1) * HOUR_S, MINUTE_S)
    return plan.rate(np.minimum(at_s, plan.duration_s)).reshape(-1, 60).sum(axis=1) * MINUTE_S


def _after(rate: Rate, from_s: float) -> Rate:
    first = int(np.searchsorted(rate.edges_s, from_s, side="right")) - 1
    level, slope = rate.level_rps[first:].copy(), rate.slope_rps_s[first:]
    level[0] += slope[0] * (from_s - rate.edges_s[first])
    waves = tuple(
        replace(
            w,
            start_s=max(w.start_s - from_s, 0.0),
            end_s=w.end_s - from_s,
            phase_rad=w.phase_rad + 2 * math.pi / w.period_s * max(from_s - w.start_s, 0.0),
        )
        for w in rate.waves
        if w.end_s > from_s
    )
    return Rate(np.append(0.0, rate.edges_s[first + 1 :] - from_s), level, slope, waves)
