"""What is known of a request once it has ended: its latencies, its row, and the gaps between its tokens.

A worker turns each ended exchange into a row when the event loop is idle, never while bytes wait to be read. Every second
its rows leave as `Measured`: plain values, so that they travel to the owner of the run as a message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.histogram import Histogram
from analysis.redact import redact
from loadgen.plan.arrivals import Arrivals
from loadgen.wire.clock import Clock
from loadgen.wire.exchange import Exchange
from loadgen.wire.stream import ParsedAnswer, unreadable

NAN = math.nan
COUNT_AT = 4096  # gaps counted at once: about 0.2 ms


class RequestRow(NamedTuple):
    """One row of the requests table (analysis.run.TABLES), its columns in order."""

    request_id: int
    stage: int
    worker: str
    due_s: float
    sent_s: float
    first_token_s: float
    last_token_s: float
    prompt_tokens: int | None
    output_tokens: int | None
    events: int
    status: str
    http_status: int | None
    error: str | None
    prompt_tokens_asked: int | None
    output_tokens_asked: int | None
    hidden_tokens: int | None
    given_up_s: float


class GapCounts(NamedTuple):
    """The filled buckets of an analysis.histogram.Histogram, and how many gaps each holds."""

    buckets: Sequence[int]
    counts: Sequence[int]


class Pause(NamedTuple):
    """How long a user of a closed loop waited after a failure, and whether because the server asked."""

    length_s: float
    asked: bool


class Measured(NamedTuple):
    """What one worker measured since it reported last; gaps per stage."""

    rows: Sequence[RequestRow]
    gaps: Mapping[int, GapCounts]
    pauses: Sequence[Pause]


@dataclass(frozen=True)
class Done:
    """One ended request with its latencies in s; NaN where they do not exist. `gaps_s` lie between its token events."""

    exchange: Exchange
    answer: ParsedAnswer
    ttft_s: float
    e2e_s: float
    tpot_s: float
    gaps_s: NDArray[np.float64]


def measured(exchange: Exchange) -> Done:
    """Parse the answer and take its latencies, from the due time. Total: an answer that cannot be read has its reason."""
    try:
        answer = exchange.answer()
    except Exception as error:  # noqa: BLE001 -- one answer, whatever it is, must not end the record of the others
        exchange.times_s = exchange.waits_s = None
        answer = unreadable(error, exchange.reads)
    answer = _believed(answer, exchange)
    if answer.error is not None:  # a server that refuses a key may repeat it
        answer = replace(answer, error=redact(answer.error))
    times = answer.token_times_s
    first, last = answer.first_s, answer.last_s
    ok = answer.status == "ok"
    # TPOT is that of tokens that were streamed
    tokens = len(times) if answer.output_tokens is None else answer.output_tokens - answer.hidden_tokens
    return Done(
        exchange,
        answer,
        first - exchange.due_s,
        last - exchange.due_s if ok else NAN,
        (last - first) / (tokens - 1) if ok and tokens > 1 else NAN,
        np.diff(times),
    )


def _believed(answer: ParsedAnswer, exchange: Exchange) -> ParsedAnswer:
    """The answer without a count of tokens that nobody asked for and that its bytes cannot hold."""
    told, asked = answer.output_tokens, exchange.asked[1]
    if told is None or told <= asked or told <= (size := sum(map(len, exchange.reads))):
        return answer
    odd = f"usage.completion_tokens is {told}, of {asked} that were asked, in an answer of {size} bytes"
    status, error = ("incomplete", odd) if answer.status == "ok" else (answer.status, answer.error)
    return replace(answer, status=status, error=error, output_tokens=None, hidden_tokens=0)


@dataclass
class Batch:
    """Collects what one worker measures until it reports."""

    rows: list[RequestRow] = field(default_factory=list)
    gaps: dict[int, Histogram] = field(default_factory=dict)
    pauses: list[Pause] = field(default_factory=list)
    _loose: dict[int, list[NDArray[np.float64]]] = field(default_factory=dict)  # gaps not yet counted
    _loose_gaps: int = 0

    def add(self, done: Done, worker: str, clock: Clock) -> None:
        """One more ended request."""
        exchange, answer = done.exchange, done.answer
        zero = clock.zero_s
        self.rows.append(
            RequestRow(
                exchange.request_id,
                exchange.stage,
                worker,
                exchange.due_s - zero,
                exchange.sent_s - zero,
                answer.first_s - zero,
                answer.last_s - zero,
                answer.prompt_tokens,
                answer.output_tokens,
                len(answer.token_times_s),
                answer.status,
                answer.http_status,
                answer.error,
                *exchange.asked,
                answer.hidden_tokens,
                exchange.given_up_s - zero,
            )
        )
        if len(done.gaps_s):
            self._loose.setdefault(exchange.stage, []).append(done.gaps_s)
            self._loose_gaps += len(done.gaps_s)
            if self._loose_gaps > COUNT_AT:
                self._count()

    def packed(self) -> Measured:
        """All of it, gaps counted."""
        self._count()
        gaps = {stage: GapCounts(*gaps.sparse()) for stage, gaps in self.gaps.items()}
        return Measured(self.rows, gaps, self.pauses)

    def _count(self) -> None:
        for stage, arrays in self._loose.items():
            self.gaps.setdefault(stage, Histogram()).add(np.concatenate(arrays))
        self._loose, self._loose_gaps = {}, 0


def dropped(arrivals: Arrivals, stages: NDArray[np.int32], worker: str, reason: str) -> list[RequestRow]:
    """Rows for requests that were planned and not sent."""
    return [
        RequestRow(
            int(i),
            int(stage),
            worker,
            float(due),
            NAN,
            NAN,
            NAN,
            None,
            None,
            0,
            "dropped",
            None,
            reason,
            int(p),
            int(o),
            None,
            NAN,
        )
        for i, stage, due, p, o in zip(
            arrivals.request_id,
            stages,
            arrivals.due_s,
            arrivals.prompt_tokens,
            arrivals.output_tokens,
            strict=True,
        )
    ]
