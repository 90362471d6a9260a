"""When to end a load early: `--stop-when errors=10%,slo,saturated`. Pure: told what ended, asked for a reason.

errors=10%   more than this share of the requests that ended in the last 15 s failed (of at least 20)
slo          a term of --slo did not hold in the last 15 s (of at least 20 requests)
saturated    over the last 30 s, more than a tenth of what was sent only made the number in flight larger
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.errors import BadInput
from analysis.numbers import read_number
from analysis.slo import Slo, evaluate, parse_slo
from loadgen.run.measured import RequestRow

WINDOW_S = 15.0
LEAST = 20  # requests in the window before it is judged
SATURATION_S = 30.0
GROWTH_SHARE = 0.10
GROWTH_LEAST = 10  # requests in flight


@dataclass(frozen=True)
class Rules:
    """What ends a run: the share of errors (None = not asked), a breach of `slo` (None = not asked), saturation."""

    errors: float | None = None
    slo: Slo | None = None
    saturated: bool = False


class Ended(NamedTuple):
    """One request that ended; latencies in s from the due time, NaN where there is none."""

    at_s: float
    ok: bool
    ttft_s: float
    tpot_s: float
    e2e_s: float


def parse_rules(text: str | None, slo: str | None) -> Rules:
    """The rules in `text`. Raises BadInput naming the rule that is wrong."""
    errors, breach, saturated = None, None, False
    for part in filter(None, (p.strip() for p in (text or "").split(","))):
        name, _, value = part.partition("=")
        if name == "errors" and value:
            try:
                errors = read_number(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
            except ValueError:
                errors = math.nan
            if not 0 <= errors < 1:
                raise BadInput("--stop-when", value=part, expected="a share such as errors=10%")
        elif part == "slo":
            if slo is None:
                raise BadInput("--stop-when slo without --slo", next_step="add for example --slo ttft_p95=2s")
            breach = parse_slo(slo)
        elif part == "saturated":
            saturated = True
        else:
            raise BadInput("--stop-when", value=part, expected="errors=SHARE, slo, saturated")
    return Rules(errors, breach, saturated)


class Watch:
    """Follows a run and says when a rule is met. Times are seconds since the start of the run."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._ended: deque[Ended] = deque()
        self._levels: deque[tuple[float, int, int]] = deque()  # time, in flight, requests ended so far
        self._total = 0
        self._in_flight: dict[str, int] = {}

    def add(self, rows: Sequence[RequestRow], now_s: float) -> None:
        """Rows of the requests table that ended until now."""
        self._ended.extend(_ended(row, now_s) for row in rows)
        self._total += len(rows)
        while self._ended and self._ended[0].at_s < now_s - WINDOW_S:
            self._ended.popleft()

    def level(self, worker: str, in_flight: int, now_s: float) -> None:
        """The number in flight of one worker now."""
        self._in_flight[worker] = in_flight
        self._levels.append((now_s, sum(self._in_flight.values()), self._total))
        while len(self._levels) > 1 and self._levels[1][0] <= now_s - SATURATION_S:
            self._levels.popleft()

    def reason(self) -> str | None:
        """Why the run should end; None while it should go on."""
        return self._errors() or self._breach() or self._saturation()

    def _errors(self) -> str | None:
        if self.rules.errors is None or len(self._ended) < LEAST:
            return None
        failed = sum(not e.ok for e in self._ended)
        if failed <= self.rules.errors * len(self._ended):
            return None
        return f"{failed} of the last {len(self._ended)} requests failed (--stop-when errors={self.rules.errors:.0%})"

    def _breach(self) -> str | None:
        if self.rules.slo is None or len(self._ended) < LEAST:
            return None
        _, ok, ttft, tpot, e2e = zip(*self._ended, strict=True)
        for verdict in evaluate(self.rules.slo, ok, ttft, tpot, e2e):
            if verdict.count and not verdict.holds:
                return (
                    f"{verdict.name} was {verdict.value:.4g} over the last {WINDOW_S:.0f} s (--stop-when slo)"
                )
        return None

    def _saturation(self) -> str | None:
        if not self.rules.saturated or not self._levels:
            return None
        (then_s, before, ended_then), (now_s, level, ended_now) = self._levels[0], self._levels[-1]
        growth = level - before
        sent = ended_now - ended_then + growth
        warm = then_s >= SATURATION_S  # the rise from nothing to the steady level is no saturation
        if not warm or now_s - then_s < SATURATION_S or growth < max(GROWTH_LEAST, GROWTH_SHARE * sent):
            return None
        return (
            f"in flight grew from {before} to {level} within {now_s - then_s:.0f} s (--stop-when saturated)"
        )


def _ended(row: RequestRow, now_s: float) -> Ended:
    tokens = row.events if row.output_tokens is None else row.output_tokens
    if row.status != "ok":
        return Ended(now_s, False, math.nan, math.nan, math.nan)
    tpot_s = (row.last_token_s - row.first_token_s) / (tokens - 1) if tokens > 1 else math.nan
    return Ended(now_s, True, row.first_token_s - row.due_s, tpot_s, row.last_token_s - row.due_s)
