"""Service level objectives: `ttft_p95=2s,tpot_p95=100ms,goodput=99%` as a value, and who meets them.

Metrics: ttft (first token after the request was due), tpot (mean time per output token after the first), e2e (last
token after due), itl (gap between streamed events). A term bounds one percentile of one metric. `goodput=99%` asks
that this share of the requests keeps every bound at once; with it, a term may go without percentile (`ttft=2s`).

Requests that failed or were dropped have no latency, so they are in no percentile; they are a breach in every share.
How many requests a percentile needs, and how long a stage, stands here too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("ttft", "tpot", "itl", "e2e")
PER_REQUEST = ("ttft", "tpot", "e2e")  # a gap belongs to a stream, not to a request: itl has percentiles only

CONFIDENCE = 0.95  # of percentiles
STEADY_LIVES = 10  # of a request (median E2E) in a stage, by which time the way to its steady state is short
WARM_UP_SHARE = 1 / 3  # of a stage, at most, that is cut before its percentiles are taken
HIGHEST_PERCENTILE = 99.9  # that is asked of a stage: beyond it no stage is long enough

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0}
_EXAMPLE = "terms such as ttft_p95=2s, tpot_p99=100ms, e2e_p95=30s, itl_p99=200ms, goodput=99%"


@dataclass(frozen=True)
class Term:
    """One bound: `percentile` (0-100; None = only counted in goodput) of `metric` at most `bound_s`."""

    metric: str
    percentile: float | None
    bound_s: float

    @property
    def name(self) -> str:
        """The name as written, `ttft_p95`."""
        return self.metric if self.percentile is None else f"{self.metric}_p{self.percentile:g}"

    def __str__(self) -> str:
        return f"{self.name}={_duration(self.bound_s)}"


@dataclass(frozen=True)
class Slo:
    """All terms must hold; `goodput` is the asked share (0-1) of requests that keep every bound, None = not asked."""

    terms: tuple[Term, ...]
    goodput: float | None = None

    def __str__(self) -> str:
        asked = [] if self.goodput is None else [f"goodput={self.goodput * 100:g}%"]
        return ",".join([*map(str, self.terms), *asked])

    def percentile_terms(self) -> tuple[Term, ...]:
        """The terms as bounds of a percentile: a term without one bounds the percentile that goodput asks for."""
        goodput = 100 * (self.goodput or 0.0)
        return tuple(
            dict.fromkeys(
                Term(t.metric, t.percentile or float(f"{goodput:g}"), t.bound_s) for t in self.terms
            )
        )

    def bounds_s(self) -> dict[str, float]:
        """The bound in s that one request has to keep, per metric that has one.

        Of several terms of a metric, the one without percentile, else the highest percentile's: half of the requests
        may break a p50 bound, so breaking it says nothing about a single request.
        """
        rank = {term: np.inf if term.percentile is None else term.percentile for term in self.terms}
        ordered = sorted((t for t in self.terms if t.metric in PER_REQUEST), key=rank.__getitem__)
        return {term.metric: term.bound_s for term in ordered}


@dataclass(frozen=True)
class Verdict:
    """How a window of requests stands to one asked name (`ttft_p95`, `goodput`).

    `value` is the observed percentile in s (for goodput: the share), `share_within` the share (0-1) of requests within
    the bound, failures counted as breaches, `asked` the share that must be, `count` the requests or gaps behind it.
    """

    name: str
    value: float
    share_within: float
    asked: float
    count: int

    @property
    def holds(self) -> bool:
        """Whether it holds; without any observation it does not."""
        return self.count > 0 and self.share_within >= self.asked


def parse_slo(text: str) -> Slo:
    """The objectives in `text`, comma-separated. Raises BadInput naming the term and the nearest valid name."""
    terms: list[Term] = []
    goodput: float | None = None
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, sep, value = (p.strip() for p in part.partition("="))
        if not sep or not value:
            raise BadInput("cannot read the SLO term", value=part, expected=_EXAMPLE)
        if name == "goodput":
            if goodput is not None:
                raise BadInput("the SLO names goodput twice", value=text)
            goodput = _share(value, part)
        else:
            terms.append(_term(name, value, part))
    _check(terms, goodput, text)
    return Slo(tuple(terms), goodput)


def meets(
    slo: Slo, ok: ArrayLike, ttft_s: ArrayLike, tpot_s: ArrayLike, e2e_s: ArrayLike
) -> NDArray[np.bool_]:
    """Per request, whether it keeps every per-request bound.

    `ok` says which requests completed; the others never meet. A NaN latency of a completed request (TPOT of a single
    token) has no bound to break; a completed request without TTFT was not streamed and is judged by the rest.
    """
    good = np.array(ok, dtype=bool)
    values = {"ttft": ttft_s, "tpot": tpot_s, "e2e": e2e_s}
    for metric, bound_s in slo.bounds_s().items():
        good &= ~(np.asarray(values[metric], dtype=float) > bound_s)
    return good


def evaluate(
    slo: Slo,
    ok: ArrayLike,
    ttft_s: ArrayLike,
    tpot_s: ArrayLike,
    e2e_s: ArrayLike,
    itl_share_within: Callable[[float], tuple[float, int]] | None = None,
    itl_percentile: Callable[[float], float] | None = None,
) -> tuple[Verdict, ...]:
    """Per term with a percentile, and for goodput, how the requests of one window stand.

    The two `itl_` callables answer from a histogram of gaps: bound in s -> (share within, gaps), percentile -> s; an
    itl term without them is judged on nothing, which does not hold.
    """
    completed = np.asarray(ok, dtype=bool)
    values = {"ttft": ttft_s, "tpot": tpot_s, "e2e": e2e_s}
    verdicts = []
    for term in slo.terms:
        if term.percentile is None:
            continue
        asked = term.percentile / 100
        if term.metric == "itl":
            share, count = itl_share_within(term.bound_s) if itl_share_within else (np.nan, 0)
            value = itl_percentile(term.percentile) if itl_percentile else np.nan
        else:
            seconds = np.asarray(values[term.metric], dtype=float)
            judged = ~completed | np.isfinite(seconds)
            count = int(judged.sum())
            within = completed & (seconds <= term.bound_s)
            share = float(within.sum() / count) if count else np.nan
            have = seconds[completed & np.isfinite(seconds)]
            value = (
                float(np.percentile(have, term.percentile, method="inverted_cdf")) if have.size else np.nan
            )
        verdicts.append(Verdict(term.name, value, share, asked, count))
    if slo.goodput is not None:
        good = meets(slo, completed, ttft_s, tpot_s, e2e_s)
        share = float(good.mean()) if good.size else np.nan
        verdicts.append(Verdict("goodput", share, share, slo.goodput, good.size))
    return tuple(verdicts)


def breaches(slo: Slo, table: pd.DataFrame, window_s: float) -> list[tuple[float, float]]:
    """Spans (from_s, to_s) in which the SLO was broken, by the due time of the requests of `analysis.latency.latencies`.

    Time is cut into windows of `window_s`; one is broken when a percentile term or goodput does not hold in it. Windows
    with fewer than 10 requests say nothing. Broken windows in a row are one span. Gaps (itl) have no time: those
    terms are left out.
    """
    spans: list[tuple[float, float]] = []
    timed = Slo(tuple(t for t in slo.terms if t.metric in PER_REQUEST), slo.goodput)
    for window, rows in table.groupby(table["due_s"] // window_s):
        if len(rows) < 10:
            continue
        judged = evaluate(timed, rows["ok"], rows["ttft_s"], rows["tpot_s"], rows["e2e_s"])
        if all(verdict.holds for verdict in judged):
            continue
        from_s = float(window) * window_s
        if spans and spans[-1][1] == from_s:
            from_s = spans.pop()[0]
        spans.append((from_s, float(window) * window_s + window_s))
    return spans


def _term(name: str, value: str, part: str) -> Term:
    match = re.fullmatch(r"([a-z0-9]+)(?:_p([0-9]+(?:\.[0-9]+)?))?", name)
    metric = match.group(1) if match else name.split("_")[0]
    if metric not in METRICS:
        raise BadInput(
            f"unknown SLO metric {metric!r} in",
            value=part,
            expected=f"one of {', '.join(METRICS)}, goodput",
            next_step=did_you_mean(metric, [*METRICS, "goodput"]),
        )
    if match is None:
        raise BadInput("cannot read the percentile of the SLO term", value=part, expected=f"{metric}_p95=2s")
    percentile = None if match.group(2) is None else float(match.group(2))
    if percentile is not None and not 0 < percentile < 100:
        raise BadInput("the percentile must lie between 0 and 100", value=part, expected=f"{metric}_p95=2s")
    return Term(metric, percentile, _seconds(value, part))


def _check(terms: list[Term], goodput: float | None, text: str) -> None:
    if not terms:
        raise BadInput("the SLO bounds no latency", value=text, expected=_EXAMPLE)
    names = [term.name for term in terms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"the SLO names {twice[0]} twice", value=text)
    for term in terms:
        if term.percentile is None and (goodput is None or term.metric not in PER_REQUEST):
            raise BadInput(
                "the SLO term has no percentile",
                value=str(term),
                expected=f"{term.metric}_p95={_duration(term.bound_s)}"
                + ("" if term.metric == "itl" else ", or goodput=99% beside it"),
            )
    if goodput is not None and all(term.metric == "itl" for term in terms):
        raise BadInput(
            "goodput needs a bound on ttft, tpot or e2e", value=text, expected="ttft=2s,goodput=99%"
        )


def _seconds(value: str, part: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]+)", value)
    if match is None or match.group(2) not in _UNITS_S or float(match.group(1)) == 0:
        raise BadInput(
            f"cannot read the time {value!r} in", value=part, expected="a number above 0 with ms, s or min"
        )
    return float(match.group(1)) * _UNITS_S[match.group(2)]


def _share(value: str, part: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(%?)", value)
    share = float(match.group(1)) / (100 if match.group(2) else 1) if match else np.nan
    if not 0 < share <= 1:
        raise BadInput("cannot read the share in", value=part, expected="goodput=99% or goodput=0.99")
    return share


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:g}s"
    return f"{seconds * 1e3:g}ms"


def samples_needed(percentile: float) -> int:
    """The samples that have, with 95 % confidence, at least one beyond the percentile: p50 5, p95 59, p99 299, p99.9 2995."""
    return ceil(log(1 - CONFIDENCE) / log(percentile / 100))


def requests_needed(slo: Slo | None) -> int:
    """The requests without which a stage cannot show the SLO's highest percentile, or its goodput; for a median without any.

    Gaps between tokens are not asked for: a few requests have enough of them.
    """
    asked = [t.percentile for t in slo.terms if t.percentile and t.metric != "itl"] if slo else []
    if slo is not None and slo.goodput is not None:
        asked.append(100 * slo.goodput)
    return samples_needed(min(max(asked, default=50.0), HIGHEST_PERCENTILE))


def stage_needed_s(life_s: float, rate_rps: float, slo: Slo | None) -> float:
    """The shortest stage in s that says something at `rate_rps`, where a request takes `life_s` (median E2E)."""
    return max(STEADY_LIVES * life_s, requests_needed(slo) / (1 - WARM_UP_SHARE) / max(rate_rps, 1e-9))
