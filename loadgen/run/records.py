"""The run directory while it is written: request rows and gap histograms of all workers, by the one process that owns it.

What a worker reports is written as a part at once: a process killed later loses nothing that was written.
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
from pathlib import Path
from typing import Any

import gevent
import gevent.lock
import numpy as np
from numpy.typing import NDArray

from analysis import run
from analysis.errors import BadRun
from analysis.histogram import Histogram
from loadgen.plan.traffic import LoadPlan
from loadgen.run.measured import Measured, RequestRow, dropped
from loadgen.run.probes import Probes

GAPS_EVERY_S = 5.0  # the histogram of gaps is written anew this often; rows are written with every batch
SWITCH_S = 0.0005  # a writing thread gives the interpreter back after this; Python's 5 ms are too many
RESERVE_BYTES = 65_536  # of the disk, kept for the end of the header and the last rows of a run that fills it
ROW_BYTES = (
    300  # of the disk that a request takes at most, while parts and the whole table lie there side by side
)
PART_BYTES = 16_384  # and a part, whatever it holds


def preload() -> None:
    """Import what writing needs and write once: the first time takes over a second, which would stall the load."""
    with tempfile.TemporaryDirectory() as scratch:
        run.write_table(scratch, "requests", {name: [None] for name in RequestRow._fields})
        run.write_table(scratch, "itl", Histogram().table())


def _write_rows(path: Path, rows: Sequence[RequestRow], part: str) -> None:
    """Write rows as a part; one that does not fit into the table is written as far as it does."""
    try:
        run.write_table(path, "requests", _columns(rows), part)
    except (ValueError, TypeError, ArithmeticError):  # of Arrow, for values
        run.write_table(path, "requests", _columns([_fitting(row) for row in rows]), part)


def _columns(rows: Sequence[RequestRow]) -> dict[str, Sequence[object]]:
    return dict(zip(RequestRow._fields, zip(*rows, strict=True), strict=True))


def _fitting(row: RequestRow) -> RequestRow:
    try:
        run.arrow_table("requests", _columns([row]))
    except (ValueError, TypeError, ArithmeticError) as error:
        reason = f"its record does not fit into the table: {type(error).__name__}"
        nothing = RequestRow._make([None] * len(RequestRow._fields))
        return nothing._replace(
            request_id=row.request_id,
            stage=row.stage,
            worker=row.worker,
            due_s=row.due_s,
            sent_s=row.sent_s,
            first_token_s=math.nan,
            last_token_s=math.nan,
            events=0,
            status="incomplete",
            error=reason,
        )
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

    def __init__(self, path: Path, header: Mapping[str, object]) -> None:
        preload()
        self.path = run.create(path, header)
        self._header = run.read_header(self.path)
        self.trouble: str | None = None
        self._parts = self._added = 0
        self._unwritten: deque[tuple[str, Sequence[RequestRow]]] = deque()  # worker, rows
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

    def add(self, worker: str, batch: Measured) -> None:
        """Write what one worker measured."""
        rows = batch.rows
        for stage, (buckets, counts) in batch.gaps.items():
            self._gaps.setdefault(stage, Histogram()).merge(Histogram.from_sparse(buckets, counts))
        if rows:
            self.seen.update([row.request_id for row in rows])
            self._added += len(rows)
            self._unwritten.append((worker, rows))
            self._write_rest()
        if batch.gaps and time.monotonic() - self._gaps_written_s > GAPS_EVERY_S:
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
        """Write a `dropped` row for every request that was due before `until_s`, or before another that has a row, and has
        none; returns how many. Workers learn of an end one after the other, so some send a little longer.

        `workers` names the worker of each slice, `reason` says why its requests are missing.
        """
        missing, last = 0, max(self.seen, default=-1)
        for chunk in plan.arrivals():
            due = chunk.take((chunk.due_s <= until_s) | (chunk.request_id <= last))
            absent = np.fromiter((i not in self.seen for i in due.request_id.tolist()), bool, len(due.due_s))
            rest = due.take(absent)
            owner = rest.request_id % len(workers)
            for index in np.unique(owner):
                mine = rest.take(owner == index)
                rows = dropped(mine, plan.stage_of(mine.due_s), workers[int(index)], reason(int(index)))
                self.add(f"{workers[int(index)]}-dropped", Measured(rows, {}, ()))
                missing += len(rows)
            if len(due.due_s) < len(chunk.due_s):
                break
        return missing

    def gaps(self, stage: int) -> Histogram:
        """The gaps between token events of one stage."""
        return self._gaps.get(stage, Histogram())

    def event(self, time_s: float, kind: str, message: str, **facts: object) -> None:
        """Note in events.jsonl that something happened."""
        try:
            run.append_event(self.path, time_s, kind, message, **facts)
        except OSError as error:
            self._failed(error)

    def interim(self) -> run.Run:
        """The run as far as it is written; a header that somebody spoilt or took away meanwhile is written again, with a note.
        Raises BadRun when the directory is gone."""
        try:
            return run.read(self.path)
        except BadRun as error:
            if not self.path.is_dir():
                raise
            note = f"{run.HEADER} was spoilt while the run went on, and written again ({error})"
        notes = [*self._header.get("notes", ()), note]
        self._aside(run.write_header, self.path, {**self._header, "notes": notes})
        return run.read(self.path)

    def finish(self, **header: object) -> run.Run:
        """Fold the parts into tables, complete the header, and read the run back. What does not fit on the disk stays as
        parts. Raises BadRun when the directory is gone."""
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)
        if self.trouble:  # the header first: it is small, and the rest may take what is left
            # So many are unwritten at most
            self._complete(header | {"unwritten": self.unwritten})
        self._write_rest()
        self._aside(run.merge_parts, self.path, "requests")
        if self._gaps and self._aside(run.write_table, self.path, "itl", self._itl()):
            for part in self.path.glob("itl.*.part.parquet"):
                part.unlink()
        self._complete(header | ({"unwritten": self.unwritten} if self.trouble else {}))
        recorded = run.read(self.path)
        written = self._added - self.unwritten
        left = len(recorded.requests) if recorded.has("requests") else 0
        if left < written:
            self.trouble = (
                self.trouble or f"{written - left} of {written} rows were taken from {self.path} meanwhile"
            )
        return recorded

    def _complete(self, header: Mapping[str, object]) -> None:
        if self.path.is_dir():
            self.interim()
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

    def _itl(self) -> dict[str, NDArray[Any]]:
        tables = {stage: histogram.table() for stage, histogram in sorted(self._gaps.items())}
        columns: dict[str, NDArray[Any]] = {
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
