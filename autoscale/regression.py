"""Whether one run of a server is better or worse than an earlier one of the same load: per stage and term of the SLO.

Requests of one stage are not independent: a queue makes neighbours slow together. So each stage is cut into blocks of
its due time and whole blocks are drawn again (block bootstrap; Künsch 1989), on both sides. What differs by less than
its interval, or by less than WORTH, is the same within noise. Two runs say nothing about how the server differs from
one start to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.latency import percentile
from analysis.opened import OpenedRun
from analysis.slo import PER_REQUEST, Slo, Term, meets

WORTH = 0.05  # a latency that moved by less is the same, whatever its interval
WORTH_SHARE = 0.01  # so is a share of requests that moved by less than one in a hundred
BLOCKS = 24  # of a stage at most; each holds some lives of a request
FEWEST_BLOCKS = 6
DRAWS = 1000
CONFIDENCE = 0.95  # over all rows of a comparison together
USUAL = tuple(Term(metric, percent, math.inf) for metric in PER_REQUEST for percent in (50.0, 95.0))

Change = Literal["better", "worse", "same", "not judged"]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class RegressionRow:
    """One figure of one stage that both runs were sent: a percentile in s or a share, before and now.

    `low` and `high` bound the change: of a percentile relative (0.1 is 10 % more), of a share in its own unit.
    """

    plan: str
    figure: str
    before: float
    now: float
    low: float
    high: float
    change: Change
    bound_s: float = math.inf
    why: str = ""

    @property
    def is_share(self) -> bool:
        """Whether the figure is a share of requests, of which more is better."""
        return "_p" not in self.figure


@dataclass(frozen=True)
class Regression:
    """The rows, what they come to, and as clauses what was sent otherwise."""

    rows: tuple[RegressionRow, ...]
    other_load: tuple[str, ...] = ()

    @property
    def change(self) -> Change:
        """Worse when any row is, else better when any is, else the same; not judged when most rows could not be."""
        for change in ("worse", "better"):
            if self.of(change):
                return change
        return "same" if 2 * len(self.of("same")) >= max(len(self.rows), 1) else "not judged"

    @property
    def no_worse(self) -> bool:
        """Whether the same load shows that the run is better or the same."""
        return self.change in ("better", "same") and not self.other_load

    def of(self, change: Change) -> list[RegressionRow]:
        """The rows that changed so."""
        return [row for row in self.rows if row.change == change]


def regression(run: OpenedRun, before: OpenedRun) -> Regression:
    """`run` against an earlier one: every stage of the same plan in both, by the SLO of the run or, without one, of the other.

    Without any SLO the medians and p95 of TTFT, TPOT and E2E are compared. Draws are seeded: the same runs give the same rows.
    """
    slo = run.slo or before.slo
    terms = slo.percentile_terms() if slo else USUAL
    pairs = list(_pairs(run, before))
    looks = max(1, len(pairs) * (len(terms) + 1))
    rng = np.random.default_rng(0)
    rows: list[RegressionRow] = []
    for plan, (now, past) in pairs:
        for term in terms:
            if term.metric in PER_REQUEST:
                rows.append(_latency(plan, term, past, now, looks, rng))
        rows.append(_share(plan, slo, past, now, looks, rng))
    return Regression(tuple(rows), tuple(_loads_differ(run, before)))


def _loads_differ(run: OpenedRun, before: OpenedRun) -> Iterator[str]:
    for key in ("endpoint", "lengths", "arrivals"):
        now, past = (_sent(one, key) for one in (run, before))
        if now != past and None not in (now, past):
            yield f"{key}: {past} before, {now} now"


def _sent(seen: OpenedRun, key: str) -> str | None:
    header = seen.run.header
    if key == "lengths":
        lengths = header.get("lengths") or {}
        told = [lengths.get(name) for name in ("prompt_tokens", "output_tokens")]
        return " and ".join(map(str, told)) if all(told) else None
    value = (header.get("load") or {}).get("arrivals") if key == "arrivals" else header.get(key)
    return None if value is None else str(value)


def _pairs(run: OpenedRun, before: OpenedRun) -> Iterator[tuple[str, tuple[pd.DataFrame, pd.DataFrame]]]:
    """Per plan that both have, the requests of its stages; stages of one plan are taken together."""
    now, past = _by_plan(run), _by_plan(before)
    for plan in now:
        if plan in past:
            yield plan, (now[plan], past[plan])


def _by_plan(seen: OpenedRun) -> dict[str, pd.DataFrame]:
    table = seen.table
    if table is None:
        return {}
    found: dict[str, list[int]] = {}
    for stage, _, _, plan in seen.stages:
        if plan:
            found.setdefault(plan, []).append(stage)
    tables = {plan: table[table["stage"].isin(stages)] for plan, stages in found.items()}
    return {plan: rows for plan, rows in tables.items() if len(rows)}


def _latency(
    plan: str, term: Term, past: pd.DataFrame, now: pd.DataFrame, looks: int, rng: np.random.Generator
) -> RegressionRow:
    column, at = f"{term.metric}_s", term.percentile or 50.0
    sides = [rows[rows[column].notna()] for rows in (past, now)]
    known = [percentile(rows[column], at) for rows in sides]
    row = RegressionRow(
        plan, term.name, known[0].value, known[1].value, math.nan, math.nan, "not judged", term.bound_s
    )
    if few := next((str(k) for k in known if math.isnan(k.value)), ""):
        return replace(row, why=few)
    if zero := next((when for when, k in zip(("before", "now"), known, strict=True) if k.value <= 0), ""):
        return replace(row, why=f"0 {zero}")

    life_s = _life_s(past, now)

    def drawn(rows: pd.DataFrame) -> _Redrawn | None:
        values_s = rows[column].to_numpy(float)
        with np.errstate(divide="ignore"):
            return _redrawn(
                rows, life_s, rng, lambda counts: np.log(_percentiles(values_s, counts, at / 100))
            )

    change = known[1].value / known[0].value - 1
    return _judged(row, change, _spread([drawn(rows) for rows in sides]), looks, WORTH, relative=True)


def _share(
    plan: str, slo: Slo | None, past: pd.DataFrame, now: pd.DataFrame, looks: int, rng: np.random.Generator
) -> RegressionRow:
    def good(rows: pd.DataFrame) -> Values:
        if slo is None:
            return rows["ok"].to_numpy(float)
        return meets(slo, rows["ok"], rows["ttft_s"], rows["tpot_s"], rows["e2e_s"]).astype(float)

    life_s = _life_s(past, now)

    def drawn(rows: pd.DataFrame) -> _Redrawn | None:
        return _redrawn(rows, life_s, rng, lambda counts: counts @ good(rows) / counts.sum(axis=1))

    shares = [float(good(rows).mean()) for rows in (past, now)]
    name = "requests within every bound" if slo else "requests that were answered"
    row = RegressionRow(plan, name, shares[0], shares[1], math.nan, math.nan, "not judged")
    return _judged(
        row, shares[1] - shares[0], _spread([drawn(rows) for rows in (past, now)]), looks, WORTH_SHARE
    )


def _judged(
    row: RegressionRow,
    moved: float,
    spread: tuple[float, int] | None,
    looks: int,
    worth: float,
    *,
    relative: bool = False,
) -> RegressionRow:
    """The row with its interval and outcome, for `looks` rows that are looked at together."""
    if spread is None:
        return replace(row, why=f"the stage is too short: fewer than {FEWEST_BLOCKS} times a request's life")
    deviation, blocks = spread
    if not math.isfinite(deviation):
        return replace(row, why="0 in part of the requests")
    half = float(stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / looks, blocks - 1)) * deviation
    low, high = moved - half, moved + half
    if relative:
        low, high = ((1 + moved) * math.exp(sign * half) - 1 for sign in (-1, 1))
    change: Change = "same"
    if abs(moved) >= worth and not low <= 0 <= high:
        change = "better" if (moved > 0) == row.is_share else "worse"
    return replace(row, low=low, high=high, change=change)


@dataclass(frozen=True)
class _Redrawn:
    """A figure of a stage whose blocks were drawn again, and how many blocks it has."""

    figures: Values
    blocks: int


def _spread(sides: Sequence[_Redrawn | None]) -> tuple[float, int] | None:
    """Standard deviation of the difference of the two sides, and the blocks of the smaller one; None when one cannot be cut."""
    known = [side for side in sides if side is not None]
    if len(known) < len(sides):
        return None
    blocks = min(side.blocks for side in known)
    with np.errstate(invalid="ignore"):  # the logarithm of 0 has none
        deviation = math.hypot(*(float(np.std(side.figures, ddof=1)) for side in known))
    return deviation * math.sqrt(blocks / (blocks - 1)), blocks


def _life_s(past: pd.DataFrame, now: pd.DataFrame) -> float:
    """A request's median life on the faster side: where a queue grows, blocks of that length differ all the more."""
    return min(float(past["e2e_s"].median()), float(now["e2e_s"].median()))


def _redrawn(
    rows: pd.DataFrame, life_s: float, rng: np.random.Generator, figure: Callable[[Values], Values]
) -> _Redrawn | None:
    """The figure of DRAWS redrawn stages, by how often each request was drawn; None when there are too few blocks."""
    due_s = rows["due_s"].to_numpy(float)
    length_s = float(np.ptp(due_s)) if len(rows) else 0.0
    if not length_s or not math.isfinite(life_s):
        return None
    blocks = int(min(BLOCKS, len(rows) // 3, length_s / max(life_s, 1e-9)))
    if blocks < FEWEST_BLOCKS:
        return None
    block = np.minimum(((due_s - due_s.min()) / length_s * blocks).astype(int), blocks - 1)
    counts = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=DRAWS)[:, block].astype(float)
    counts = counts[counts.sum(axis=1) > 0]
    return _Redrawn(figure(counts), blocks)


def _percentiles(values: Values, counts: Values, share: float) -> Values:
    """Per row of `counts`, which says how often each value was drawn, the smallest value with `share` at or below it."""
    order = np.argsort(values)
    below = np.cumsum(counts[:, order], axis=1)
    first = (below >= share * below[:, -1:] - 1e-9).argmax(axis=1)
    return values[order][first]
