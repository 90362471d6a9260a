"""One run as its owner sees it: open the run directory, take in batches, settle accounts, say how it went.

The owner is the only process, or Locust's master. Imports no locust, so that it can be driven by a test.
"""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import run
from analysis.access import Access
from analysis.errors import BadInput
from analysis.redact import command_line
from loadgen.plan.traffic import LoadPlan
from loadgen.plan.words import Counted
from loadgen.run import client_health
from loadgen.run.capacity_search import Probe, Probes
from loadgen.run.endpoint.manner import prompt_kind
from loadgen.run.endpoint.server_facts import ServerFacts
from loadgen.run.generator import ClientSample
from loadgen.run.options import LoadOptions
from loadgen.run.records import RunWriter, disk_bytes, free_bytes
from loadgen.run.stopping import Watch, parse_rules
from loadgen.wire.refusals import rate_limited

SAMPLE_COLUMNS = tuple(f.name for f in fields(ClientSample))
CPU_COLUMN, IN_FLIGHT_COLUMN, SENT_COLUMN = map(SAMPLE_COLUMNS.index, ("cpu_s", "in_flight", "sent"))


class Owner:
    """Owns the run directory between `Owner(...)` and `finish`; `take` may be called at any time in between."""

    def __init__(
        self,
        options: LoadOptions,
        endpoint: str,
        server: ServerFacts,
        started_at: float,
        tag: str,
        workers: Sequence[str],
    ) -> None:
        self.options, self.started_at = options, started_at
        self.workers = dict(enumerate(workers))
        self.plan: LoadPlan = options.plan()
        self.found: dict[str, Any] | None = None  # what --find-capacity found
        self.probes: tuple[Probe, ...] = ()  # and the rates that it tried
        self.stopped: str | None = None  # why the run ended early: a rule of --stop-when, a fault
        self._due = _Due(self.plan) if options.open_loop and options.find_capacity is None else None
        self._watch = Watch(parse_rules(options.stop_when, options.slo))
        self._samples: dict[str, list[tuple[float, ...]]] = {}
        self.lost: dict[str, float] = {}  # worker -> when it was found to be gone, in s since the start
        self._last_batch_s: dict[str, float] = {}
        self._rows: dict[str, int] = {}  # worker -> rows that it reported
        self._pauses: list[tuple[float, bool]] = []  # of a closed loop's users after failures
        planned = options.open_loop and options.find_capacity is None
        stages = list(self.plan.stages) if planned else []
        path = Path(options.run_dir) if options.run_dir else _fresh_directory(started_at, endpoint)
        self.writer = _writer(
            path,
            {
                "kind": "live",
                "started_at": started_at,
                "ended_at": None,
                "command": command_line(sys.argv),
                "versions": _versions(),
                "target": str(server.target),
                "access": server.target.access.described(),
                "endpoint": server.manner.path,
                "model": server.manner.model,
                "metrics_model": server.metrics_model,
                "notes": list(server.notes),
                "test_requests": server.test_requests,
                "request_tag": tag,  # X-Request-Id is tag-request_id
                "load": {
                    "loop": "open" if options.open_loop else "closed",
                    **(self.plan.describe() if options.open_loop else {}),
                    "stages": stages,
                    "max_in_flight": options.max_in_flight,
                },
                "stages": stages,
                "lengths": {
                    "prompts": None
                    if options.prompts in ("ids", "words")
                    else options.prompts,  # the user's file
                    "prompt_tokens": str(self.plan.prompt),
                    "output_tokens": str(self.plan.output),
                    "shared_prefix_tokens": self.plan.shared_prefix_tokens,
                    **_counted(prompt_kind(options, endpoint), server.manner.counted),
                    "most_tokens": self.plan.most_tokens,  # that requests were cut to
                    "ignore_eos": options.ignore_eos,
                },
                "seed": self.plan.seed,
                "engine": dict(server.engine),
                "slo": options.slo,
                "prometheus": options.prometheus and Access().of_url(options.prometheus)[0],
                "workers": [{"name": name} for name in workers],
                "client": None,
            },
        )

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.writer.path

    def shortage(self) -> str | None:
        """A sentence when the disk may be full before the end of the plan; None = there is room enough, or nobody knows."""
        if self._due is None:
            return None
        needed = disk_bytes(self.plan.expected_requests, self.plan.duration_s, len(self.workers))
        free = free_bytes(self.path)
        if free >= needed:
            return None
        return (
            f"the disk of {self.path} has {free / 1e6:.3g} MB free and the run may take {needed / 1e6:.3g} MB: "
            "it stops when the disk is full. Free space or choose another --run-dir"
        )

    def stop(self, reason: str, now_unix_s: float, kind: str = "stopped") -> bool:
        """Note why the run ends early, the first reason only; whether this was it."""
        if self.stopped is not None:
            return False
        self.stopped = reason
        self.writer.event(now_unix_s - self.started_at, kind, reason)
        return True

    def take(
        self, worker: str, batch: Mapping[str, Any], samples: Sequence[Sequence[float]], now_unix_s: float
    ) -> None:
        """Write one worker's batch."""
        self.writer.add(worker, batch)
        self._rows[worker] = self._rows.get(worker, 0) + len(batch["rows"])
        self._pauses += [tuple(pause) for pause in batch["pauses"]]
        now_s = now_unix_s - self.started_at
        self._watch.add(batch["rows"], now_s)
        if samples:
            self._watch.level(worker, int(samples[-1][IN_FLIGHT_COLUMN]), now_s)
        self._samples.setdefault(worker, []).extend(tuple(sample) for sample in samples)
        self._last_batch_s[worker] = now_s
        if reason := self.writer.trouble or self._watch.reason():
            self.stop(reason, now_unix_s)

    def rates(self, most: int) -> list[tuple[float, float, float]]:
        """(end in s, offered, delivered in requests/s) of about `most` intervals so far; delivered is what was sent.

        Offered are the requests that the plan's draw has due in the interval, so that a client which keeps up delivers
        them all. A closed loop offers what it delivers; so does a search, whose plan is its probes.
        """
        samples = [rows for rows in self._samples.values() if rows]
        until_s = min((rows[-1][0] for rows in samples), default=0.0)
        due = self._due
        # the second that has just begun says nothing yet
        until_s = (
            float(int(until_s)) if due is None or until_s < self.plan.duration_s else self.plan.duration_s
        )
        if until_s <= 0:
            return []
        step_s = math.ceil(until_s / most)
        edges_s = np.append(np.arange(0.0, until_s, step_s), until_s)
        sent = np.zeros(len(edges_s))
        for rows in samples:
            time_s, total = [0.0, *(row[0] for row in rows)], [0, *(row[SENT_COLUMN] for row in rows)]
            sent += np.interp(edges_s, time_s, total)
        delivered = np.diff(sent) / np.diff(edges_s)
        offered = delivered if due is None else np.diff(due.until(edges_s)) / np.diff(edges_s)
        return list(zip(edges_s[1:].tolist(), offered.tolist(), delivered.tolist(), strict=True))

    def worker_lost(self, worker: str, now_unix_s: float) -> None:
        """Note that a worker is gone; its requests are accounted for at the end."""
        if worker not in self.lost and worker in self.workers.values():
            self.lost[worker] = now_unix_s - self.started_at
            self.writer.event(self.lost[worker], "worker_lost", f"worker {worker} was lost", worker=worker)

    def worker_found(self, worker: str) -> None:
        """Take back what `worker_lost` said: the worker was only silent, and has reported everything."""
        if self.lost.pop(worker, None) is not None:
            self.writer.event(
                self._last_batch_s.get(worker, 0.0),
                "worker_found",
                f"worker {worker} was found",
                worker=worker,
            )

    def finish(
        self, until_s: float, now_unix_s: float, users: int | None, offsets: Mapping[str, tuple[float, float]]
    ) -> run.Run:
        """Settle the accounts up to `until_s` (seconds since the start) and complete the directory. Raises BadRun when it is
        gone.

        `users` is the size of a closed loop, `offsets` the (clock offset, its uncertainty) in s measured per worker; null
        in the header where none was.
        """
        if self.options.find_capacity is not None:
            stages: list[dict[str, Any]] = [probe.stage() for probe in self.probes]
            unsent = self.writer.account_for(Probes(self.probes), until_s, self.workers, self._why_missing)
        elif self.options.open_loop:
            stages = [
                {**stage, "end_s": min(stage["end_s"], until_s)}
                for stage in self.plan.stages
                if stage["start_s"] < until_s
            ]
            unsent = self.writer.account_for(self.plan, until_s, self.workers, self._why_missing)
        else:
            stages = [{"stage": 0, "start_s": 0.0, "end_s": until_s, "users": users}]
            unsent = 0
        interim = run.read(self.path)
        client: dict[str, Any] = {"verdict": "ok", "stages": [], "sentence": "no request was planned"}
        if interim.has("requests"):
            client = client_health.judge_client(
                interim.requests,  # type: ignore[arg-type]  # a DataFrame maps column names to columns
                stages,
                sample_columns(self._samples),
                self.options.max_in_flight if self.options.open_loop else None,
            )
        for worker, lost_s in self.lost.items():
            client["verdict"] = "limited"
            client.setdefault("lost_workers", []).append({"worker": worker, "time_s": round(lost_s, 3)})
        client["unsent"] = unsent
        if interim.has("requests"):
            status = interim.requests["http_status"].to_numpy(dtype=float, na_value=math.nan)
            client["rate_limited"] = rate_limited(status, interim.requests["error"])
        client["cpu_s"] = {
            worker: round(sum(row[CPU_COLUMN] for row in rows), 3)
            for worker, rows in sorted(self._samples.items())
        }
        header = interim.header
        return self.writer.finish(
            ended_at=now_unix_s,
            stages=stages,
            load={**header["load"], "stages": stages},
            client=client,
            stopped=self.stopped,
            **({} if self.options.open_loop else {"pauses": self._paused()}),
            **({} if self.found is None else {"find_capacity": self.found}),
            workers=[
                {
                    "name": name,
                    "lost_at_s": self.lost.get(name),
                    "clock_offset_s": offsets.get(name, (None, None))[0],
                    "clock_uncertainty_s": offsets.get(name, (None, None))[1],
                }
                for name in self.workers.values()
            ],
        )

    def _why_missing(self, index: int) -> str:
        worker = self.workers[index]
        if worker in self.lost:
            last_s = self._last_batch_s.get(worker)
            since = (
                "before its first report" if last_s is None else f"after its last report at {last_s:.1f} s"
            )
            return f"worker {worker} was lost {since}"
        sent = self._samples[worker][-1][SENT_COLUMN] if self._samples.get(worker) else 0
        if sent > self._rows.get(worker, 0):
            return f"worker {worker} left no record of it; it may have been sent"
        return f"the {'run' if self.found is None else 'probe'} ended while the request waited for a seat"

    def _paused(self) -> dict[str, Any]:
        """How often and how long users waited after failures, and how often because the server asked (Retry-After)."""
        lengths = [length_s for length_s, _ in self._pauses]
        asked = sum(asked for _, asked in self._pauses)
        return {"number": len(lengths), "seconds": round(sum(lengths), 3), "retry_after": asked}


def sample_columns(samples: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any] | None:
    """The samples of each worker as columns for loadgen.run.client_health.judge_client; None when there are none."""
    rows = [(worker, *sample) for worker, own in sorted(samples.items()) for sample in own]
    if not rows:
        return None
    columns = dict(zip(("worker", *SAMPLE_COLUMNS), map(list, zip(*rows, strict=True)), strict=True))
    columns["waited"] = _increments(columns["worker"], columns["waited"])
    return columns


class _Due:
    """Counts the requests of a plan that are due in each second, drawn as far as asked."""

    def __init__(self, plan: LoadPlan) -> None:
        self._chunks = plan.arrivals(1024)
        self._duration_s = plan.duration_s
        self._drawn_s = 0.0
        self._per_second: list[int] = []

    def until(self, edges_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """How many are due until each of these instants, which are whole seconds or the end of the plan."""
        while self._drawn_s < edges_s[-1]:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._drawn_s = math.inf
                break
            self._drawn_s = float(chunk.due_s[-1])
            seconds, counts = np.unique(chunk.due_s.astype(np.int64), return_counts=True)
            self._per_second += [0] * (int(seconds[-1]) + 1 - len(self._per_second))
            for second, count in zip(seconds.tolist(), counts.tolist(), strict=True):
                self._per_second[second] += count
        ends_s = np.minimum(np.arange(len(self._per_second) + 1), self._duration_s)
        return np.interp(edges_s, ends_s, np.cumsum([0, *self._per_second]))


def _counted(how: str, counted: Counted) -> dict[str, Any]:
    """How the tokens of prompts are known, for run.json; all None for the user's own prompts."""
    known = how in ("ids", "words")
    return {
        "counted_by": counted.by if known else None,
        "tokens_per_word": counted.tokens_per_word if how == "words" else None,
        "overhead_tokens": counted.overhead_tokens if how == "words" else None,
    }


def _increments(workers: Sequence[str], totals: Sequence[int]) -> list[int]:
    last: dict[str, int] = {}
    steps = []
    for worker, total in zip(workers, totals, strict=True):
        steps.append(total - last.get(worker, 0))
        last[worker] = total
    return steps


def _writer(path: Path, header: Mapping[str, Any]) -> RunWriter:
    try:
        return RunWriter(path, header)
    except OSError as error:
        raise BadInput(
            f"cannot write the run directory: {error}", next_step="name another one with --run-dir"
        ) from None


def _fresh_directory(started_at: float, endpoint: str) -> Path:
    stamp = datetime.fromtimestamp(started_at, UTC).strftime("%Y%m%dT%H%M%SZ")
    path = Path("runs") / f"{stamp}-{endpoint}"
    number = 2
    while (path / run.HEADER).exists():
        path = Path("runs") / f"{stamp}-{endpoint}-{number}"
        number += 1
    return path


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("llm-autoscale", "locust", "gevent", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # used from a clone without installation
            continue
    return versions
