"""Counts of finished requests against bounds, in one pass over their records; compiled.

What is counted where is told by `Counts`; who keeps which bound is the rule of analysis.slo.meets: a latency of a request
that ended well breaks a bound when it is above it, so one that has none (TPOT of a single token) breaks none.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from autoscale.sim.engine import state
from autoscale.sim.engine.state import OK, REFUSED, compiled

METRICS = ("ttft", "tpot", "e2e")
MINUTE_S = 60.0
TOTALS = np.dtype(
    [
        ("requests", "i8"),  # one way or another, those that were refused left out
        ("ok", "i8"),  # ended well
        ("good", "i8"),  # kept every bound
        ("output_tokens", "i8"),
        ("refused", "i8"),
        ("away", "i8"),  # turned away by the gateway; among the requests
        (state.fingerprint(state.__file__), "i1"),
    ],
    align=True,
)


class Bounds(NamedTuple):
    """What is asked: per term its metric (index in METRICS) and bounds, per metric the bounds of all terms at once.

    The two columns are the bound of every request, and of one that waited on a start from zero; inf: none.
    """

    metric: Any
    term_s: Any
    all_s: Any


class Counts(NamedTuple):
    """Sums that grow; arrays over terms, minutes of the due time, or both.

    totals   one record of TOTALS
    times_s  rows METRICS: latencies of those that ended well, `filled` of them, for who takes them away
    """

    totals: Any
    judged: Any
    within: Any
    due_by_minute: Any
    good_by_minute: Any
    judged_by_minute: Any
    breaches_by_minute: Any
    times_s: Any
    filled: Any

    @classmethod
    def empty(cls, terms: int, minutes: int, room: int) -> Counts:
        """Zeros, and room for so many latencies."""
        per_term, per_minute, both = (terms,), (minutes,), (terms, minutes)
        judged, within, due, good, judged_then, breaches, filled = (
            np.zeros(shape, np.int64)
            for shape in (per_term, per_term, per_minute, per_minute, both, both, (len(METRICS),))
        )
        times_s = np.zeros((len(METRICS), room))
        return cls(np.zeros(1, TOTALS), judged, within, due, good, judged_then, breaches, times_s, filled)


@compiled
def _seconds(f: Any, metric: int) -> float:
    """The latency, NaN where it has none."""
    if metric == 0:
        return float(f.first_token_s - f.due_s)
    if metric == 2:
        return float(f.last_token_s - f.due_s)
    return (f.last_token_s - f.first_token_s) / (f.output_tokens - 1) if f.output_tokens > 1 else math.nan


@compiled
def count_finished(finished: Any, cold: Any, bounds: Bounds, counts: Counts) -> bool:
    """Count the records (FINISHED); `cold`: which waited on a start from zero, or empty. False: one is due outside the minutes."""
    totals, minutes = counts.totals[0], len(counts.due_by_minute)
    for i in range(len(finished)):
        f = finished[i]
        if f.slot == REFUSED:
            totals.refused += 1
            continue
        minute = int(f.due_s / MINUTE_S)
        if not 0 <= minute < minutes:
            return False
        ok, column = f.status == OK, 1 if len(cold) and cold[i] else 0
        good = ok
        for metric in range(len(METRICS)):
            seconds = _seconds(f, metric)
            if ok and math.isfinite(seconds):
                counts.times_s[metric, counts.filled[metric]] = seconds
                counts.filled[metric] += 1
            if seconds > bounds.all_s[metric, column]:
                good = False
        totals.requests += 1
        totals.ok += ok
        totals.good += good
        totals.output_tokens += f.output_tokens
        totals.away += f.slot < REFUSED
        counts.due_by_minute[minute] += 1
        counts.good_by_minute[minute] += good
        for k in range(len(bounds.metric)):
            seconds = _seconds(f, bounds.metric[k])
            if ok and not math.isfinite(seconds):
                continue
            kept = ok and seconds <= bounds.term_s[k, column]
            counts.judged[k] += 1
            counts.within[k] += kept
            counts.judged_by_minute[k, minute] += 1
            counts.breaches_by_minute[k, minute] += not kept
    return True
