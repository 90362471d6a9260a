"""The search for the highest rate that holds an SLO (`--find-capacity 10m`): which rate next, and how a probe stands. Pure.

A probe offers one constant rate. The search doubles the rate while probes hold, halves it when the first one breaks, and
then bisects between the highest that held and the lowest that broke, until they are TOLERANCE apart or the time is over. A
rate that is about to be the answer has to hold twice.

How a probe stands is asked every second, over the requests due since its warm-up (twice the median E2E, at least 2 s),
from a quarter of its longest time on, half once a rate broke (breaches come in bursts: a short window has one or none):

    breaks   a term of the SLO has so many breaches that a server which just holds it would show them in 1 of 200 cases;
             or the number in flight grows: between the first and the last third of the window by more than a tenth of
             what was offered in between, and by more than four standard deviations of a Poisson number
    holds    in flight does not grow (half of those bounds), at least LEAST requests were judged, the probe lasts for
             STEADY_LIVES times the median E2E, and every term either has so few breaches that a server which just breaks it would show them in 1 of
             20 cases (59 requests without a breach for a p95, 299 for a p99), or lies below half of its bound
    unclear  neither; at the end of the probe's time the observed percentiles decide, if the probe was long enough for
             them (analysis.slo). So is a probe in which the client was the limit, or the server died (then the search ends): it neither held nor broke

A request without an answer counts as a breach as soon as it has waited longer than a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr

from analysis.errors import BadInput
from analysis.histogram import Histogram
from analysis.numbers import parse_seconds
from analysis.slo import STEADY_LIVES, Slo, Verdict, evaluate, requests_needed, stage_needed_s
from analysis.steady import server_died
from loadgen.run.probes import Probe

TOLERANCE = 0.05  # of the rate: the bracket in which the search ends
LEAST = 20  # requests judged, without which a probe says nothing
PROBE_SHARE = 0.1  # of the budget that one probe takes while it is undecided, or as long as it needs ...
PROBE_LEAST_S, PROBE_MOST_S = 10.0, 120.0  # ... within these
DECIDE_SHARE = 0.25, 0.5  # of a probe's time, before which it is not judged: until a rate broke, and then
WARM_LEAST_S = 2.0
SURE_BREAK, SURE_HOLD = 0.005, 0.05
GROWTH_SHARE = 0.10
GROWTH_DEVIATIONS = 4.0
LOWEST = 1 / 64  # of the first rate: below it the search gives up


class ProbeRequest(NamedTuple):
    """One request of a probe; latencies in s from the due time, NaN = none (yet). `lost`: its connection broke or got none."""

    due_s: float
    ok: bool
    ttft_s: float
    tpot_s: float
    e2e_s: float
    lost: bool = False


class Waiting(NamedTuple):
    """One request still in flight: when it was due and whether its answer has begun."""

    due_s: float
    begun: bool


@dataclass(frozen=True)
class ProbeStanding:
    """How a probe stands: holds | breaks | unclear, why, and over how many requests."""

    verdict: str
    reason: str
    requests: int


@dataclass(frozen=True)
class FoundCapacity:
    """What a search found; None where no probe held, in the bracket where none held or none broke."""

    slo: str
    first_rps: float
    budget_s: float
    rate_rps: float | None
    bracket_rps: tuple[float | None, float | None]
    ended: str  # why
    probes: tuple[tuple[Probe, ProbeStanding], ...]

    def as_json(self) -> dict[str, object]:
        """The block `find_capacity` of run.json."""
        probes = [
            {**probe.stage(), "verdict": s.verdict, "reason": s.reason, "requests": s.requests}
            for probe, s in self.probes
        ]
        names = ("slo", "first_rps", "budget_s", "rate_rps")
        known = {name: getattr(self, name) for name in names}
        return {**known, "bracket_rps": list(self.bracket_rps), "ended": self.ended, "probes": probes}


def next_rate(tried: Sequence[tuple[float, str]], first_rps: float) -> float | None:
    """The rate to probe after these (rate, verdict) pairs; None when there is nothing left to find."""
    if not tried:
        return first_rps
    held, broke = bracket(tried)
    if broke is None:
        return 2 * max(rate for rate, _ in tried)
    if held is None:
        rate = broke / 2
        while [tried_rps for tried_rps, _ in tried].count(rate) > 1:  # not decided, twice
            rate /= 2
        return rate if rate >= LOWEST * first_rps else None
    if broke / held <= 1 + TOLERANCE:
        return held if [rate for rate, _ in tried].count(held) == 1 else None
    middle = (held + broke) / 2
    return None if any(rate == middle for rate, _ in tried) else middle  # unclear there: more will not help


def bracket(tried: Sequence[tuple[float, str]]) -> tuple[float | None, float | None]:
    """(highest rate that held, lowest that broke)."""
    broke = min((rate for rate, verdict in tried if verdict == "breaks"), default=None)
    held = max((rate for rate, v in tried if v == "holds" and (broke is None or rate < broke)), default=None)
    return held, broke


def least_s(tried: Sequence[tuple[float, str]], limit_s: float) -> float:
    """How long the next probe's window has to be before it is judged."""
    return DECIDE_SHARE[any(verdict == "breaks" for _, verdict in tried)] * limit_s


def probe_limit_s(budget_s: float) -> float:
    """How long one probe of a search may take, where it need not be longer to say something."""
    return min(max(PROBE_SHARE * budget_s, PROBE_LEAST_S), PROBE_MOST_S)


def standing(
    slo: Slo,
    rate_rps: float,
    start_s: float,
    now_s: float,
    seen: Sequence[ProbeRequest],
    waiting: Sequence[Waiting],
    levels: Sequence[tuple[float, int]],
    gaps: Histogram,
    least_s: float = 0.0,
    over: bool = False,
) -> ProbeStanding:
    """How a probe that began at `start_s` stands at `now_s`; see the module docstring.

    `seen` are its requests that ended, `waiting` those in flight, `levels` (time, number in flight) pairs, `gaps` the
    gaps between its token events. Before `least_s` nothing is decided; `over` says that its time is over: what was observed decides.
    """
    lasting = [s.e2e_s for s in seen if s.ok]
    e2e_s = float(np.median(lasting)) if lasting else 0.0
    from_s = start_s + max(WARM_LEAST_S, min(2 * e2e_s, (now_s - start_s) / 2))
    rows = [s for s in seen if s.due_s >= from_s]
    rows += _overdue(slo, [w for w in waiting if w.due_s >= from_s], now_s)
    if gone := died(seen):
        return gone
    if now_s - from_s < least_s and not over:
        return ProbeStanding("unclear", f"judged from {least_s:.0f} s after the warm-up", len(rows))
    if len(rows) < LEAST:
        return ProbeStanding("unclear", f"{len(rows)} requests judged, {LEAST} are needed", len(rows))
    _, ok, ttft, tpot, e2e, _ = zip(*rows, strict=True)
    verdicts = evaluate(slo, ok, ttft, tpot, e2e, gaps.share_within, gaps_quantile(gaps))
    for verdict in verdicts:
        breaches, n = _breaches(verdict, len(rows))
        if n and 1 - bdtr(breaches - 1, n, 1 - verdict.asked) < SURE_BREAK and not verdict.holds:
            return ProbeStanding("breaks", _said(verdict), len(rows))
    drift, bound = _drift(levels, from_s, rate_rps)
    if drift > bound:
        return ProbeStanding("breaks", f"in flight grew by {drift:.0f} (bound {bound:.0f})", len(rows))
    lasted_s = now_s - start_s
    if over:
        broken = [v for v in verdicts if not v.holds]
        if short := _too_short(slo, rate_rps, lasted_s, len(rows), 0.0 if broken else e2e_s):
            return ProbeStanding("unclear", short, len(rows))
        return ProbeStanding(
            "breaks" if broken else "holds", ", ".join(map(_said, broken or verdicts)), len(rows)
        )
    settled = drift <= bound / 2 and lasted_s >= STEADY_LIVES * e2e_s and now_s - from_s >= WARM_LEAST_S
    if settled and all(_surely_holds(slo, verdict, len(rows)) for verdict in verdicts):
        return ProbeStanding("holds", ", ".join(map(_said, verdicts)), len(rows))
    return ProbeStanding("unclear", ", ".join(map(_said, verdicts)), len(rows))


def died(seen: Sequence[ProbeRequest]) -> ProbeStanding | None:
    """Where the server died while these requests were answered: that nothing was decided."""
    lost = sum(s.lost for s in seen)
    if not server_died(lost, len(seen)):
        return None
    reason = f"the server died: {lost} of {len(seen)} requests lost their connection or got none"
    return ProbeStanding("unclear", reason, len(seen))


def _too_short(slo: Slo, rate_rps: float, lasted_s: float, judged: int, e2e_s: float) -> str:
    """Why a probe of that length and with so many requests decides nothing; nothing where it does."""
    needed, asked_s = requests_needed(slo), stage_needed_s(e2e_s, rate_rps, slo)
    if judged < needed:
        return f"{judged} requests judged, {needed} are needed: {asked_s:.0f} s at this rate"
    if lasted_s < STEADY_LIVES * e2e_s:
        return f"{lasted_s:.0f} s are less than {STEADY_LIVES} times what a request takes ({e2e_s:.1f} s)"
    return ""


def gaps_quantile(gaps: Histogram) -> Callable[[float], float]:
    """Percentile (0-100) -> gap in s, of a histogram."""
    return lambda percentile: gaps.quantile(percentile / 100)


def found_capacity(
    tried: Sequence[tuple[Probe, ProbeStanding]], slo: str, first_rps: float, budget_s: float, ended: str
) -> FoundCapacity:
    """What the search found with these probes, and why it ended."""
    held, broke = bracket([(probe.rate_rps, stands.verdict) for probe, stands in tried])
    return FoundCapacity(slo, first_rps, budget_s, held, (held, broke), ended, tuple(tried))


def parse_budget(text: str) -> float:
    """Seconds in `10m`, `600`, `90s` or `1h`. Raises BadInput."""
    budget_s = parse_seconds(text)
    if not PROBE_LEAST_S * 2 <= budget_s < math.inf:
        raise BadInput(
            "--find-capacity", value=text, expected="a time of at least 20 s, for example 10m or 600s"
        )
    return budget_s


def _overdue(slo: Slo, waiting: Sequence[Waiting], now_s: float) -> list[ProbeRequest]:
    """Requests in flight that can no longer keep a bound, with their age as latency."""
    ttft_s = max((t.bound_s for t in slo.terms if t.metric == "ttft"), default=math.inf)
    e2e_s = max((t.bound_s for t in slo.terms if t.metric == "e2e"), default=math.inf)
    late = []
    for due_s, begun in waiting:
        age_s = now_s - due_s
        first = age_s if not begun and age_s > ttft_s else math.nan
        whole = age_s if age_s > e2e_s else math.nan
        if not (math.isnan(first) and math.isnan(whole)):
            late.append(ProbeRequest(due_s, True, first, math.nan, whole))
    return late


def _breaches(verdict: Verdict, requests: int) -> tuple[int, int]:
    """(breaches, of how many); gaps are not independent of each other: no more are counted than there are requests."""
    n = min(verdict.count, requests)
    return (round((1 - verdict.share_within) * n), n) if n else (0, 0)


def _surely_holds(slo: Slo, verdict: Verdict, requests: int) -> bool:
    breaches, n = _breaches(verdict, requests)
    if not n or not verdict.holds:
        return False
    if bdtr(breaches, n, 1 - verdict.asked) < SURE_HOLD:
        return True
    bound_s = next((t.bound_s for t in slo.terms if t.name == verdict.name), math.nan)
    return verdict.value <= bound_s / 2


def _drift(levels: Sequence[tuple[float, int]], from_s: float, rate_rps: float) -> tuple[float, float]:
    """(growth of the number in flight between the thirds of the window, the growth that is too much)."""
    inside = np.array([level for level in levels if level[0] >= from_s], dtype=float)
    if len(inside) < 6:
        return 0.0, math.inf
    third = len(inside) // 3
    first, last = inside[:third].mean(axis=0), inside[-third:].mean(axis=0)
    offered = rate_rps * (last[0] - first[0])
    return float(last[1] - first[1]), max(GROWTH_SHARE * offered, GROWTH_DEVIATIONS * math.sqrt(first[1] + 1))


def _said(verdict: Verdict) -> str:
    return (
        f"{verdict.name} {verdict.value:.4g} ({verdict.share_within:.1%} within, {verdict.asked:.1%} asked)"
    )
