"""One run as its owner sees it: open the run directory, take in batches, settle accounts, say how it went.

The owner is the only process, or Locust's master. Imports no locust, so that it can be driven by a test.
"""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from analysis import run
from analysis.access import Access
from analysis.errors import BadInput
from analysis.redact import command_line
from analysis.run import unix_now_s
from loadgen.plan.traffic import LoadPlan
from loadgen.run.capacity_search import FoundCapacity
from loadgen.run.client_health import judge_client
from loadgen.run.client_samples import sample_columns
from loadgen.run.endpoint.server_facts import ServerFacts
from loadgen.run.header import ClientBlock, FirstHeader, LastHeader, PausesBlock, Stage, WorkerBlock
from loadgen.run.measured import Pause
from loadgen.run.messages import Offset, WorkerReport
from loadgen.run.options import LoadOptions
from loadgen.run.probes import Probe, Probes
from loadgen.run.records import RunWriter, disk_bytes, free_bytes
from loadgen.run.sending import LatencyCourse, Sending, SentRate
from loadgen.run.stopping import Watch, parse_rules
from loadgen.wire.refusals import rate_limited


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
        self.found: FoundCapacity | None = None  # by --find-capacity
        self.probes: tuple[Probe, ...] = ()  # and the rates that it tried
        self.stopped: str | None = None  # why the run ended early: a rule of --stop-when, a fault
        planned = options.open_loop and options.find_capacity is None
        self._sending = Sending(self.plan if planned else None)
        self._watch = Watch(parse_rules(options.stop_when, options.slo))
        self.set_by_s = 0.0  # by which the machine's clock was set meanwhile
        self.lost: dict[str, float] = {}  # worker -> when it was found to be gone, in s since the start
        self._last_report_s: dict[str, float] = {}
        self._rows: dict[str, int] = {}  # worker -> rows that it reported
        self.course: LatencyCourse | None = None  # for a page that shows it
        self._pauses: list[Pause] = []  # of a closed loop's users after failures
        header = FirstHeader(
            started_at=started_at,
            command=command_line(sys.argv),
            versions=_versions(),
            options=options,
            endpoint=endpoint,
            server=server,
            request_tag=tag,
            prometheus=options.prometheus and Access().of_url(options.prometheus)[0],
            workers=workers,
        )
        path = Path(options.run_dir) if options.run_dir else _fresh_directory(started_at, endpoint)
        self.writer = _writer(path, header.as_json())

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.writer.path

    def shortage(self) -> str | None:
        """A sentence when the disk may be full before the end of the plan; None = there is room enough, or nobody knows."""
        if not self._sending.planned:
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

    def clock_was_set(self, by_s: float) -> str:
        """Note that the machine's clock was set while the run went on; the sentence."""
        said = f"the clock of this machine was set by {by_s:+.1f} s meanwhile: all times are by the clock at the start"
        self.set_by_s = round(by_s, 3)
        self.writer.event(unix_now_s() - self.started_at, "clock_set", said, by_s=by_s)
        return said

    def take(self, report: WorkerReport, now_unix_s: float) -> None:
        """Write what a worker reports."""
        worker, measured, samples = report.worker, report.measured, report.samples
        self.writer.add(worker, measured)
        self._rows[worker] = self._rows.get(worker, 0) + len(measured.rows)
        self._pauses += measured.pauses
        now_s = now_unix_s - self.started_at
        self._watch.add(measured.rows, now_s)
        if self.course is not None:
            self.course.add(measured.rows)
        if samples:
            self._watch.level(worker, int(samples[-1].in_flight), now_s)
        self._sending.add(worker, samples)
        self._last_report_s[worker] = now_s
        if reason := self.writer.trouble or self._watch.reason():
            self.stop(reason, now_unix_s)

    def rates(self, most: int) -> list[SentRate]:
        """What was offered and sent in about `most` intervals so far."""
        return self._sending.rates(most)

    def worker_lost(self, worker: str, now_unix_s: float) -> None:
        """Note that a worker is gone; its requests are accounted for at the end."""
        if worker not in self.lost and worker in self.workers.values():
            self.lost[worker] = now_unix_s - self.started_at
            self.writer.event(self.lost[worker], "worker_lost", f"worker {worker} was lost", worker=worker)

    def worker_found(self, worker: str) -> None:
        """Take back what `worker_lost` said: the worker was only silent, and has reported everything."""
        if self.lost.pop(worker, None) is not None:
            self.writer.event(
                self._last_report_s.get(worker, 0.0),
                "worker_found",
                f"worker {worker} was found",
                worker=worker,
            )

    def finish(
        self, until_s: float, now_unix_s: float, users: int | None, offsets: Mapping[str, Offset]
    ) -> run.Run:
        """Settle the accounts up to `until_s` (seconds since the start) and complete the directory. Raises BadRun when it is
        gone.

        `users` is the size of a closed loop, `offsets` what was measured of the workers' clocks.
        """
        stages, unsent = self._settled(until_s, users)
        interim = self.writer.interim()
        last = LastHeader(
            ended_at=now_unix_s,
            clock_set_by_s=self.set_by_s,
            stages=stages,
            load=interim.header["load"],
            client=self._client(interim, stages, unsent),
            stopped=self.stopped,
            pauses=None if self.options.open_loop else PausesBlock.of(self._pauses),
            find_capacity=self.found,
            workers=[
                WorkerBlock.of(name, self.lost.get(name), offsets.get(name)) for name in self.workers.values()
            ],
        )
        return self.writer.finish(**last.as_json())

    def _settled(self, until_s: float, users: int | None) -> tuple[list[Stage], int]:
        """The stages as far as they were offered, and how many of their requests were not sent."""
        if self.options.find_capacity is not None:
            unsent = self.writer.account_for(Probes(self.probes), until_s, self.workers, self._why_missing)
            return [probe.stage() for probe in self.probes], unsent
        if not self.options.open_loop:
            return [{"stage": 0, "start_s": 0.0, "end_s": until_s, "users": users}], 0
        stages: list[Stage] = [
            {**stage, "end_s": min(stage["end_s"], until_s)}
            for stage in self.plan.stages
            if stage["start_s"] < until_s
        ]
        return stages, self.writer.account_for(self.plan, until_s, self.workers, self._why_missing)

    def _client(self, interim: run.Run, stages: Sequence[Stage], unsent: int) -> ClientBlock:
        health, limited = None, None
        if interim.has("requests"):
            health = judge_client(
                interim.requests,  # type: ignore[arg-type]  # a DataFrame maps column names to columns
                stages,
                sample_columns(self._sending.samples),
                self.options.max_in_flight if self.options.open_loop else None,
            )
            status = interim.requests["http_status"].to_numpy(dtype=float, na_value=math.nan)
            limited = rate_limited(status, interim.requests["error"])
        cpu_s = {
            worker: round(sum(sample.cpu_s for sample in samples), 3)
            for worker, samples in sorted(self._sending.samples.items())
        }
        return ClientBlock(health, self.lost, unsent, limited, cpu_s)

    def _why_missing(self, index: int) -> str:
        worker = self.workers[index]
        if worker in self.lost:
            last_s = self._last_report_s.get(worker)
            since = (
                "before its first report" if last_s is None else f"after its last report at {last_s:.1f} s"
            )
            return f"worker {worker} was lost {since}"
        sent = self._sending.sent(worker)
        if sent > self._rows.get(worker, 0):
            return f"worker {worker} left no record of it; it may have been sent"
        return f"the {'run' if self.found is None else 'probe'} ended while the request waited for a seat"


def _writer(path: Path, header: Mapping[str, object]) -> RunWriter:
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
