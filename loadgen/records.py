"""What a run leaves behind: request rows and gap histograms, made by workers in batches, written by one process.

A worker turns each ended exchange into a row when the event loop is idle, never while bytes wait to be read. Every few
seconds its rows leave as a Batch: plain values, so that it travels to the master as a Locust message. The process that
owns the run directory writes each batch as a part at once: a process killed later loses nothing that was written.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gevent
import gevent.lock
import numpy as np
from numpy.typing import NDArray

from analysis import run
from analysis.histogram import Histogram
from analysis.redact import redact
from loadgen.client import Exchange
from loadgen.clock import Clock
from loadgen.probing import Probes
from loadgen.stream import Answer
from loadgen.traffic import Arrivals, LoadPlan

COLUMNS = tuple(run.TABLES["requests"])
NAN = math.nan
GAPS_EVERY_S = 5.0  # the histogram of gaps is written anew this often; rows are written with every batch
SWITCH_S = 0.0005  # a writing thread gives the interpreter back after this; Python's 5 ms are too many
COUNT_AT = 4096  # gaps counted at once: about 0.2 ms


@dataclass(frozen=True)
class Done:
    """One ended request with its latencies in s; NaN where they do not exist. `gaps_s` lie between its token events."""

    exchange: Exchange
    answer: Answer
    ttft_s: float
    e2e_s: float
    tpot_s: float
    gaps_s: NDArray[np.float64]


def measured(exchange: Exchange) -> Done:
    """Parse the answer and take its latencies, from the due time."""
    answer = exchange.answer()
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


@dataclass
class Batch:
    """Rows (columns of analysis.run's requests table) and gaps per stage, since the last batch of one worker."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    gaps: dict[int, Histogram] = field(default_factory=dict)
    _loose: dict[int, list[NDArray[np.float64]]] = field(default_factory=dict)  # gaps not yet counted
    _loose_gaps: int = 0

    def add(self, done: Done, worker: str, clock: Clock) -> None:
        """One more ended request."""
        exchange, answer = done.exchange, done.answer
        zero = clock.zero_s
        self.rows.append(
            (
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
            )
        )
        if len(done.gaps_s):
            self._loose.setdefault(exchange.stage, []).append(done.gaps_s)
            self._loose_gaps += len(done.gaps_s)
            if self._loose_gaps > COUNT_AT:
                self._count()

    def packed(self) -> dict[str, Any]:
        """Plain values for a message."""
        self._count()
        return {"rows": self.rows, "gaps": {stage: gaps.sparse() for stage, gaps in self.gaps.items()}}

    def _count(self) -> None:
        for stage, arrays in self._loose.items():
            self.gaps.setdefault(stage, Histogram()).add(np.concatenate(arrays))
        self._loose, self._loose_gaps = {}, 0


def dropped(arrivals: Arrivals, stages: NDArray[np.int32], worker: str, reason: str) -> list[tuple[Any, ...]]:
    """Rows for requests that were planned and not sent."""
    return [
        (
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


def preload() -> None:
    """Import what writing needs and write once: the first time takes over a second, which would stall the load."""
    with tempfile.TemporaryDirectory() as scratch:
        run.write_table(scratch, "requests", {name: [None] for name in COLUMNS})
        run.write_table(scratch, "itl", Histogram().table())


def _write_rows(path: Path, rows: Sequence[Sequence[Any]], part: str) -> None:
    run.write_table(path, "requests", dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)), part)


class RunWriter:
    """Owns one run directory while it is being written."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        preload()
        self.path = run.create(path, header)
        self._parts = 0
        self._writing = gevent.lock.BoundedSemaphore(1)
        sys.setswitchinterval(SWITCH_S)
        self._gaps: dict[int, Histogram] = {}
        self._gaps_written_s = time.monotonic()
        self.seen: set[int] = set()  # request ids with a row

    def add(self, worker: str, batch: Mapping[str, Any]) -> None:
        """Write one packed batch of a worker."""
        rows: Sequence[Sequence[Any]] = batch["rows"]
        if rows:
            self.seen.update([row[0] for row in rows])
            self._parts += 1
            self._aside(_write_rows, self.path, rows, f"{worker}.{self._parts:06d}")
        for stage, (buckets, counts) in batch["gaps"].items():
            self._gaps.setdefault(int(stage), Histogram()).merge(Histogram.from_sparse(buckets, counts))
        if batch["gaps"] and time.monotonic() - self._gaps_written_s > GAPS_EVERY_S:
            self._gaps_written_s = time.monotonic()
            self._aside(run.write_table, self.path, "itl", self._itl(), "all.0")

    def account_for(
        self,
        plan: LoadPlan | Probes,
        until_s: float,
        workers: Mapping[int, str],
        reason: Callable[[int], str],
    ) -> int:
        """Write a `dropped` row for every request that was due before `until_s` and has no row; returns how many.

        `workers` names the worker of each slice, `reason` says why its requests are missing.
        """
        missing = 0
        for chunk in plan.arrivals():
            due = chunk.take(chunk.due_s <= until_s)
            absent = np.fromiter((i not in self.seen for i in due.request_id.tolist()), bool, len(due.due_s))
            rest = due.take(absent)
            owner = rest.request_id % len(workers)
            for index in np.unique(owner):
                mine = rest.take(owner == index)
                rows = dropped(mine, plan.stage_of(mine.due_s), workers[int(index)], reason(int(index)))
                self.add(f"{workers[int(index)]}-dropped", {"rows": rows, "gaps": {}})
                missing += len(rows)
            if len(due.due_s) < len(chunk.due_s):
                break
        return missing

    def gaps(self, stage: int) -> Histogram:
        """The gaps between token events of one stage."""
        return self._gaps.get(stage, Histogram())

    def event(self, time_s: float, kind: str, message: str, **facts: Any) -> None:
        """Note in events.jsonl that something happened."""
        run.append_event(self.path, time_s, kind, message, **facts)

    def finish(self, **header: Any) -> run.Run:
        """Fold the parts into tables, complete the header, and read the run back."""
        self._aside(run.merge_parts, self.path, "requests")
        if self._gaps:
            run.write_table(self.path, "itl", self._itl())
            for part in self.path.glob("itl.*.part.parquet"):
                part.unlink()
        run.update(self.path, **header)
        return run.read(self.path)

    def _aside(self, write: Callable[..., Any], *arguments: Any) -> None:
        """Write in a thread and in order, while the event loop goes on: Parquet takes 4 to 11 ms, a busy disk any time."""
        with self._writing:
            gevent.get_hub().threadpool.apply(write, arguments)

    def _itl(self) -> dict[str, Any]:
        tables = {stage: histogram.table() for stage, histogram in sorted(self._gaps.items())}
        columns: dict[str, Any] = {
            name: np.concatenate([table[name] for table in tables.values()])
            for name in ("gap_low_s", "gap_high_s", "count")
        }
        columns["stage"] = np.repeat(list(tables), [len(table["count"]) for table in tables.values()])
        return columns
