"""Latencies of requests and gaps, and percentiles that say how well they are known.

TTFT and E2E are counted from the time a request was due, so that a late client or a full connection pool is part of
what users would have felt; the same from the send time is kept beside them. Failed and dropped requests have no
latency: they are NaN here and a breach in `analysis.slo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.slo import CONFIDENCE, samples_needed


@dataclass(frozen=True)
class Percentile:
    """A percentile of `count` samples with its distribution-free interval.

    `value` is NaN when the samples are too few to know it; `low` and `high` are order statistics that hold the true
    percentile with 95 % confidence, -inf or inf where no sample bounds it.
    """

    percentile: float
    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if np.isnan(self.value):
            return (
                f"too few samples for p{self.percentile:g}: {self.count} of {samples_needed(self.percentile)}"
            )
        if np.isinf(self.value):
            return f"not served (n={self.count})"
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g}, n={self.count})"


def latencies(requests: pd.DataFrame) -> pd.DataFrame:
    """Latencies per planned request, in s; same rows and order as `requests`.

    Columns: stage, due_s, sent_s, first_token_s, last_token_s, left_s (when it left the server), prompt_tokens, output_tokens
    (float), status, ok;
    ttft_s, e2e_s from the due time, ttft_sent_s, e2e_sent_s from the send time, tpot_s = (last - first token) /
    (streamed output tokens - 1). All latencies are NaN for requests that did not complete; tpot_s also for a single token.
    """
    table = pd.DataFrame({"stage": requests["stage"].to_numpy(dtype="int64", na_value=-1)})
    for column in ("due_s", "sent_s", "first_token_s", "last_token_s", "prompt_tokens", "output_tokens"):
        table[column] = requests[column].to_numpy(dtype="float64", na_value=np.nan)
    given_up = requests["given_up_s"] if "given_up_s" in requests else pd.Series(np.nan, requests.index)
    table["status"] = requests["status"].to_numpy()
    ok = (requests["status"] == "ok").to_numpy(dtype=bool)
    table["ok"] = ok
    table["left_s"] = _left(table, np.asarray(given_up.to_numpy(dtype="float64", na_value=np.nan)))
    first = np.where(ok, table["first_token_s"], np.nan)
    last = np.where(ok, table["last_token_s"], np.nan)
    table["ttft_s"], table["e2e_s"] = first - table["due_s"], last - table["due_s"]
    table["ttft_sent_s"], table["e2e_sent_s"] = first - table["sent_s"], last - table["sent_s"]
    hidden = (
        requests["hidden_tokens"].to_numpy(dtype="float64", na_value=0.0)
        if "hidden_tokens" in requests
        else 0.0
    )
    tokens = table["output_tokens"] - hidden
    table["tpot_s"] = (last - first) / (tokens - 1).where(tokens > 1)
    return table


def _left(table: pd.DataFrame, given_up_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """When each request left the server, in s since the run's start; NaN where it was never sent.

    A completed one with its last token. What was cancelled, timed out or cut at the end of the grace time occupied the
    server until the client gave it up; where nobody noted when, until the last moment of the run, as far as anybody
    knows. An answer that broke off ends with its last token; a refused or failed one came and went.
    """
    sent, last = table["sent_s"].to_numpy(), table["last_token_s"].to_numpy()
    moments = table[["sent_s", "last_token_s"]].to_numpy()
    final_s = float(np.nanmax(moments)) if np.isfinite(moments).any() else np.nan
    status = table["status"].to_numpy()
    given_up = (status == "cancelled") | (status == "timeout")
    until_s = np.where(np.isfinite(given_up_s), np.fmax(sent, given_up_s), final_s)
    gone = np.where(given_up, until_s, np.fmax(sent, last))
    return np.where(np.isfinite(sent), np.where(table["ok"], last, gone), np.nan)


def percentile(values: ArrayLike, at: float, *, unserved: int = 0) -> Percentile:
    """The percentile `at` (0-100) of the finite values, with a binomial (order statistic) interval.

    `unserved` further requests have no value because they were not served: they took longer than any that was, so that
    the percentile is infinite where it lies among them.

    The value is the smallest sample with at least `at` percent of all at or below it. Its interval needs no shape of
    the distribution: the number of samples below the true percentile is binomial (Conover, Practical Nonparametric
    Statistics, 3.2). It assumes independent samples, which requests of one window are only nearly.
    """
    samples = np.asarray(values, dtype=float)
    samples = samples[np.isfinite(samples)]
    if samples.size:
        samples = np.append(samples, np.full(unserved, np.inf))
    count, share = samples.size, at / 100
    if count < samples_needed(at):
        return Percentile(at, np.nan, -np.inf, np.inf, int(count))
    rank = max(ceil(count * share - 1e-9) - 1, 0)
    below = int(stats.binom.ppf((1 - CONFIDENCE) / 2, count, share)) - 1
    above = int(stats.binom.ppf((1 + CONFIDENCE) / 2, count, share))
    wanted = [index for index in (below, rank, above) if 0 <= index < count]
    ordered = np.partition(samples, wanted)
    low = float(ordered[below]) if below >= 0 else -np.inf
    high = float(ordered[above]) if above < count else np.inf
    return Percentile(at, float(ordered[rank]), low, high, int(count))


def percentile_of_gaps(itl: pd.DataFrame, at: float) -> Percentile:
    """The percentile `at` (0-100) of gaps in s, with its 95 % interval, from histogram rows (gap_low_s, gap_high_s, count) of any stages.

    Every value is the middle of its bucket, so it errs by half a bucket at most.
    """
    middle_s, cumulative = _gaps(itl)
    count = int(cumulative[-1]) if cumulative.size else 0
    if count < samples_needed(at):
        return Percentile(at, np.nan, -np.inf, np.inf, count)
    ranks = [
        count * at / 100,
        *stats.binom.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], count, at / 100),
    ]
    value, low, high = middle_s[np.minimum(np.searchsorted(cumulative, ranks), middle_s.size - 1)]
    return Percentile(at, float(value), float(low), float(high), count)


def gaps_within(itl: pd.DataFrame, bound_s: float) -> tuple[float, int]:
    """The share (0-1) of gaps that are at most `bound_s`, and how many gaps there are; NaN and 0 without any."""
    middle_s, cumulative = _gaps(itl)
    if not cumulative.size or not cumulative[-1]:
        return np.nan, 0
    inside = int(np.searchsorted(middle_s, bound_s, side="right"))
    return (float(cumulative[inside - 1] / cumulative[-1]) if inside else 0.0), int(cumulative[-1])


def in_flight(start_s: ArrayLike, end_s: ArrayLike, at_s: ArrayLike) -> NDArray[np.float64]:
    """How many intervals [start, end) are open at each of `at_s`; NaN starts are left out, NaN ends stay open."""
    start, end = np.asarray(start_s, dtype=float), np.asarray(end_s, dtype=float)
    begun = np.isfinite(start)
    starts = np.sort(start[begun])
    ends = np.sort(end[begun & np.isfinite(end)])
    opened = np.searchsorted(starts, at_s, side="right")
    return (opened - np.searchsorted(ends, at_s, side="right")).astype(float)


def _gaps(itl: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    counts = itl.groupby(["gap_low_s", "gap_high_s"])["count"].sum().sort_index()
    low_s, high_s = (counts.index.get_level_values(i).to_numpy(dtype=float) for i in (0, 1))
    return (low_s + high_s) / 2, np.cumsum(counts.to_numpy(dtype="int64"))
