"""A part of a plan as a plan of its own: what comes from one time until another."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from analysis.errors import BadInput
from loadgen.plan.programme import Rate
from loadgen.plan.traces import Trace
from loadgen.plan.traffic import LoadPlan

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
