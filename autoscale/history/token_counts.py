"""Histograms of tokens, and shares of counters, over a window: what vLLM tells of its requests beside their number."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.numbers import known, told_number
from autoscale.history.token_lengths import lengths_in_buckets
from autoscale.observe.prometheus import Prometheus, Refused
from loadgen.plan.lengths import MOST, Lengths

HISTOGRAMS = {"prompt": "request_prompt_tokens", "output": "request_generation_tokens"}
HOUR_S, DAY_S = 3600.0, 86_400.0
DAY_HOURS = 24

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TokenCounts:
    """A histogram over the window.

    lengths     the distribution
    mean        tokens, exact: the sum over the count
    by_hour     float64[24], mean tokens by hour of the day (UTC), NaN for an hour without requests
    """

    lengths: Lengths
    mean: float
    by_hour: Floats


def token_counts(door: Prometheus, window: tuple[float, float], matchers: str, of: str) -> TokenCounts | None:
    """`of` is prompt or output. None where the server has no such histogram, or nothing was counted in it."""
    name = HISTOGRAMS[of]
    buckets: dict[float, float] = defaultdict(float)
    sums, counts = np.zeros(DAY_HOURS), np.zeros(DAY_HOURS)
    for labels, pairs in _increases(door, window, matchers, f"{name}_bucket", "le"):
        bound = told_number(labels.get("le", "nan"))
        if known(bound):
            buckets[bound] += sum(value for _, value in pairs)
    for total, part in ((sums, "sum"), (counts, "count")):
        for _, pairs in _increases(door, window, matchers, f"{name}_{part}"):
            for hour, value in pairs:
                total[hour] += value
    bounds = sorted(bound for bound in buckets if math.isfinite(bound))
    if not bounds or counts.sum() <= 0 or sums.sum() <= 0:
        return None
    below = [buckets[bound] for bound in bounds]
    counted = np.diff([0.0, *np.maximum.accumulate(below), max(buckets.get(math.inf, below[-1]), below[-1])])
    mean = float(sums.sum() / counts.sum())
    found = lengths_in_buckets(bounds, counted.tolist(), mean, float(MOST))
    with np.errstate(invalid="ignore"):
        return (
            None if found is None else TokenCounts(found, mean, sums / np.where(counts > 0, counts, np.nan))
        )


def shares(door: Prometheus, window: tuple[float, float], matchers: str) -> tuple[float, float]:
    """(share of prompt tokens that the prefix cache had, share of requests that were aborted); NaN where not told."""

    def total(name: str, more: str = "") -> float:
        both = ",".join(filter(None, (matchers, more)))
        return sum(value for _, pairs in _increases(door, window, both, name) for _, value in pairs)

    asked, finished = total("prefix_cache_queries_total"), total("request_success_total")
    hits = total("prefix_cache_hits_total") / asked if asked > 0 else math.nan
    aborted = (
        total("request_success_total", 'finished_reason="abort"') / finished if finished > 0 else math.nan
    )
    return hits, aborted


def _increases(
    door: Prometheus, window: tuple[float, float], matchers: str, name: str, by: str = ""
) -> list[tuple[dict[str, str], list[tuple[int, float]]]]:
    """Per series (hour of the day, growth in that hour) over the window, of the metric however its name is prefixed.

    Raises SourceUnavailable where the server allows not even an hour at once.
    """

    def increased(window: tuple[float, float]) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        total = f"sum{f' by ({by})' if by else ''}"
        return door.of_a_name(
            name,
            matchers,
            lambda selector: door.over_time(f"{total} (increase({selector}[1h]))", window, HOUR_S),
        )

    found = []
    start, end = window
    at, span_s = start, DAY_S
    while at < end - 1:
        until = min(at + span_s, end)
        hours = max(round((until - at) / HOUR_S), 1)
        try:
            told = increased((at + HOUR_S, at + hours * HOUR_S))
        except Refused as refused:
            if not refused.asks_too_much:
                return []
            if span_s <= HOUR_S:
                raise door.refusal(str(refused)) from None
            span_s = max(span_s // 2 // HOUR_S * HOUR_S, HOUR_S)
            continue
        for labels, pairs in told:
            found.append((labels, [(int((t - HOUR_S / 2) % DAY_S // HOUR_S), value) for t, value in pairs]))
        at = until
    return found
