"""What a run leaves behind: request rows and gap histograms, made by workers in batches, written by one process.

A worker turns each ended exchange into a row when the event loop is idle, never while bytes wait to be read. Every few
seconds its rows leave as a Batch: plain values, so that it travels to the master as a Locust message. The process that
owns the run directory writes each batch as a part at once: a process killed later loses nothing that was written.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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
from loadgen.plan.traffic import Arrivals, LoadPlan
from loadgen.run.capacity_search import Probes
from loadgen.wire.clock import Clock
from loadgen.wire.exchange import Exchange
from loadgen.wire.stream import ParsedAnswer, unreadable

COLUMNS = tuple(run.TABLES["requests"])
NAN = math.nan
GAPS_EVERY_S = 5.0  # the histogram of gaps is written anew this often; rows are written with every batch
SWITCH_S = 0.0005  # a writing thread gives the interpreter back after this; Python's 5 ms are too many
COUNT_AT = 4096  # gaps counted at once: about 0.2 ms
RESERVE_BYTES = 65_536  # of the disk, kept for the end of the header and the last rows of a run that fills it
ROW_BYTES = (
    300  # of the disk that a request takes at most, while parts and the whole table lie there side by side
)
PART_BYTES = 16_384  # and a part, whatever it holds


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
    pauses: list[tuple[float, bool]] = field(
        default_factory=list
    )  # of users after failures; asked by the server
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
        gaps = {stage: gaps.sparse() for stage, gaps in self.gaps.items()}
        return {"rows": self.rows, "gaps": gaps, "pauses": self.pauses}

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
    """Write rows as a part; one that does not fit into the table is written as far as it does."""
    try:
        run.write_table(path, "requests", _columns(rows), part)
    except (ValueError, TypeError, ArithmeticError):  # of Arrow, for values
        run.write_table(path, "requests", _columns([_fitting(row) for row in rows]), part)


def _columns(rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))


def _fitting(row: Sequence[Any]) -> Sequence[Any]:
    try:
        run.arrow_table("requests", _columns([row]))
    except (ValueError, TypeError, ArithmeticError) as error:
        known = dict(zip(COLUMNS, row, strict=True))
        kept = {name: known[name] for name in ("request_id", "stage", "worker", "due_s", "sent_s")}
        reason = f"its record does not fit into the table: {type(error).__name__}"
        made = kept | {"events": 0, "status": "incomplete", "error": reason}
        return [
            made.get(name, NAN if kind == "float64" else None)
            for name, kind in run.TABLES["requests"].items()
        ]
    return row


def disk_bytes(requests: float, duration_s: float, workers: int) -> float:
    """How much room on the disk a run of so many requests takes at most, by its workers' parts of FLUSH_S each."""
    return requests * ROW_BYTES + min(duration_s * workers, requests) * PART_BYTES


def free_bytes(path: Path) -> int:
    """The room that is left on the disk of this directory, which need not exist yet. Raises OSError."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


class RunWriter:
    """Owns one run directory while it is being written.

    A write that fails ends nothing: rows stay in memory and are tried again with the next batch and at the end; `trouble`
    says why, and what is not written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        preload()
        self.path = run.create(path, header)
        self.trouble: str | None = None
        self._parts = 0
        self._unwritten: deque[tuple[str, Sequence[Sequence[Any]]]] = deque()  # worker, rows
        self._reserve = self.path / "reserve.tmp"
        with suppress(OSError):
            self._reserve.write_bytes(bytes(min(RESERVE_BYTES, free_bytes(self.path) // 4)))
        self._writing = gevent.lock.BoundedSemaphore(1)
        sys.setswitchinterval(SWITCH_S)
        self._gaps: dict[int, Histogram] = {}
        self._gaps_written_s = time.monotonic()
        self.seen: set[int] = set()  # request ids with a row

    @property
    def unwritten(self) -> int:
        """How many rows could not be written so far."""
        return sum(len(rows) for _, rows in self._unwritten)

    def add(self, worker: str, batch: Mapping[str, Any]) -> None:
        """Write one packed batch of a worker."""
        rows: Sequence[Sequence[Any]] = batch["rows"]
        for stage, (buckets, counts) in batch["gaps"].items():
            self._gaps.setdefault(int(stage), Histogram()).merge(Histogram.from_sparse(buckets, counts))
        if rows:
            self.seen.update([row[0] for row in rows])
            self._unwritten.append((worker, rows))
            self._write_rest()
        if batch["gaps"] and time.monotonic() - self._gaps_written_s > GAPS_EVERY_S:
            self._gaps_written_s = time.monotonic()
            self._aside(run.write_table, self.path, "itl", self._itl(), "all.0")

    def _write_rest(self) -> None:
        while self._unwritten:
            worker, rows = self._unwritten[0]
            self._parts += 1
            if not self._aside(_write_rows, self.path, rows, f"{worker}.{self._parts:06d}"):
                return
            self._unwritten.popleft()

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
        try:
            run.append_event(self.path, time_s, kind, message, **facts)
        except OSError as error:
            self._failed(error)

    def finish(self, **header: Any) -> run.Run:
        """Fold the parts into tables, complete the header, and read the run back. What does not fit on the disk stays as
        parts. Raises BadRun when the directory is gone."""
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)
        if self.trouble:  # the header first: it is small, and the rest may take what is left
            self._complete(header)
        self._write_rest()
        self._aside(run.merge_parts, self.path, "requests")
        if self._gaps and self._aside(run.write_table, self.path, "itl", self._itl()):
            for part in self.path.glob("itl.*.part.parquet"):
                part.unlink()
        self._complete(header | ({"unwritten": self.unwritten} if self.trouble else {}))
        return run.read(self.path)

    def _complete(self, header: Mapping[str, Any]) -> None:
        if (self.path / run.HEADER).exists():
            self._aside(lambda: run.update(self.path, **header))

    def _aside(self, write: Callable[..., Any], *arguments: Any) -> bool:
        """Write in a thread and in order, while the event loop goes on: Parquet takes 4 to 11 ms, a busy disk any time.

        False, and why in `trouble`, when the system does not let it.
        """
        with self._writing:
            error = gevent.get_hub().threadpool.apply(_attempt, (write, arguments))
        if error is not None:
            self._failed(error)
        return error is None

    def _failed(self, error: OSError) -> None:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        self.trouble = self.trouble or f"cannot write the run directory {self.path}: {reason}"

    def _itl(self) -> dict[str, Any]:
        tables = {stage: histogram.table() for stage, histogram in sorted(self._gaps.items())}
        columns: dict[str, Any] = {
            name: np.concatenate([table[name] for table in tables.values()])
            for name in ("gap_low_s", "gap_high_s", "count")
        }
        columns["stage"] = np.repeat(list(tables), [len(table["count"]) for table in tables.values()])
        return columns


def _attempt(write: Callable[..., Any], arguments: tuple[Any, ...]) -> OSError | None:
    """In a thread whose exceptions gevent would print."""
    try:
        write(*arguments)
    except OSError as error:
        return error
    return None
