"""The sending half of a run, in Locust's local runner or one of its workers: a generator, and its latencies in Locust's rows."""

from __future__ import annotations

import gc
import inspect
import logging
import math
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import numpy as np
from locust.exception import StopUser

from analysis.histogram import BUCKETS, middle_s
from loadgen import failing
from loadgen.in_locust import statistics as rows
from loadgen.in_locust.coordinator import LAST_WORD_S
from loadgen.plan.traffic import LoadPlan
from loadgen.run import backoff
from loadgen.run.capacity_driver import Finder
from loadgen.run.capacity_search import parse_budget
from loadgen.run.endpoint.manner import bodies
from loadgen.run.endpoint.server_facts import ENDPOINTS
from loadgen.run.generator import Generator
from loadgen.run.measured import Done, Measured
from loadgen.run.messages import (
    Begin,
    End,
    Failed,
    Finished,
    Found,
    Message,
    Ready,
    Start,
    WorkerReport,
)
from loadgen.run.options import LoadOptions
from loadgen.run.vitals import ClientSample
from loadgen.wire import clock, descriptors
from loadgen.wire.client import Client
from loadgen.wire.http_response import retry_after_s
from loadgen.wire.stream import looks_failed

log = logging.getLogger("loadgen")

MOST_WARM = 512  # connections of a closed loop that are opened before it starts
MIDDLES_S = np.array([middle_s(bucket) for bucket in range(BUCKETS)])


class Worker:
    """The sending half in this process: a generator, and its latencies in Locust's statistics."""

    def __init__(self, environment: Any, endpoint: str, tell: Callable[[Message], None]) -> None:
        self.environment, self.endpoint, self._tell = environment, endpoint, tell
        self.begun = gevent.event.Event()
        self.open_loop = False
        self.generator: Generator | None = None
        self.grace_s = 0.0
        self._lengths: Any = None
        self._pending: dict[str, list[Any]] = defaultdict(list)
        self._ended, self._settled = False, gevent.event.Event()
        self._start = gevent.event.AsyncResult()
        self._finder: Finder | None = None
        self.name = "local"

    def begin(self, job: Begin, ahead_s: float = 0.0) -> None:
        """Make ready, say so, and begin at the instant that Start names; tells the owner when that cannot be.

        `ahead_s`: by how much the owner's clock is ahead of this process's.
        """
        self.name = job.worker
        try:
            self._begin(job, ahead_s)
        except Exception as error:  # noqa: BLE001 -- told to the owner, which ends the run
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Tell the owner that this half of the run cannot go on."""
        self._tell(Failed(self.name, failing.failure_of(error)))

    def _begin(self, job: Begin, ahead_s: float) -> None:
        chosen = job.options
        self._ended, self._finder = False, None
        self._settled.clear()
        self._start = gevent.event.AsyncResult()
        self.open_loop, self.grace_s = chosen.open_loop, float(chosen.grace)
        limits = chosen.limits(job.of)
        if (few := descriptors.provide(limits.max_connections)) is not None:
            log.warning("%s", few)
        client = Client(job.target, limits)
        whole = chosen.plan()
        source = bodies(chosen, whole, self.endpoint, job.manner, job.salt)
        self.generator = generator = Generator(
            client,
            source,
            job.manner.path,
            job.worker,
            self._report,
            self._done,
            job.tag,
        )
        plan = whole.slice(job.index, job.of)
        if chosen.find_capacity is not None:
            client.warm(1)
        elif self.open_loop:
            generator.prepare(plan)
        else:
            self._lengths = _asked(plan)
            client.warm(min(MOST_WARM, math.ceil((job.users or 1) / job.of)))
        inspect.stack()  # Locust looks at its stack when it stops: the first look takes 60 ms, in the middle of the load
        gc.collect()
        gc.freeze()  # nothing made so far is garbage later: collections during the run stay short
        self._tell(Ready(self.name))
        start_unix_s = self._start.get()
        if start_unix_s is None:
            return  # ended before it began
        start_s = clock.Clock.starting_at(start_unix_s, ahead_s)
        gevent.sleep(max(0.0, start_s.zero_s - clock.now_s()))
        generator.start(start_s)
        self.begun.set()
        if chosen.find_capacity is not None:
            self._find(chosen, whole)
            self._tell(Finished(self.name))

    def hear(self, message: Start | End) -> None:
        """What the owner says once this half is being made ready."""
        if isinstance(message, Start):
            self.start(message.start_unix_s)
        else:
            self.end(message.cut_s, message.grace_s)

    def start(self, start_unix_s: float | None) -> None:
        """Begin at this unix time of the owner's clock; None: never."""
        if not self._start.ready():
            self._start.set(start_unix_s)

    def _find(self, chosen: LoadOptions, plan: LoadPlan) -> None:
        assert self.generator is not None
        assert chosen.slo is not None
        assert chosen.find_capacity is not None
        finder = Finder(
            self.generator,
            plan,
            chosen.slo,
            chosen.first_rps,
            parse_budget(chosen.find_capacity),
            chosen.max_in_flight,
            log.info,
        )
        self._finder = finder
        self._found(finder, finder.run())

    def _found(self, finder: Finder, ended: str) -> None:
        self._finder = None
        self._tell(Found(self.name, finder.found(ended), tuple(finder.probes())))

    def ask(self, failures: int) -> int:
        """One request of a closed-loop user whose last `failures` failed, and how many it is then.

        After a failure the user waits: the request is not sent again, and the next one does not follow at once.
        """
        if self.generator is None or self.generator.cut_s < math.inf:
            raise StopUser
        number, prompt, output, prefix = next(self._lengths)
        if self.generator.client.full:
            raise StopUser("more users than --max-in-flight")
        exchange = self.generator.request(number, prompt, output, prefix)
        if not looks_failed(exchange.reads, exchange.failure):
            return 0
        asked_s = retry_after_s(exchange.reads, clock.unix_now_s())
        pause_s = backoff.pause_s(failures, asked_s, random.random())
        self.generator.paused(pause_s, not math.isnan(asked_s))
        gevent.sleep(pause_s)
        return failures + 1

    def end(self, cut_s: float, grace_s: float) -> None:
        """Stop sending, wait for what is in flight, report the rest; the second time, wait no longer for what is in flight."""
        generator = self.generator
        self.start(None)
        if generator is None:
            return
        if self._ended:  # an interrupt, perhaps together with the master's word
            self.hurry()
            self._settled.wait(timeout=LAST_WORD_S)
            return
        self._ended = True
        try:
            if self._finder is not None:
                self._finder.interrupt()
                self._found(self._finder, "the run was interrupted")
        finally:
            generator.stop(cut_s, grace_s)
            self.begun.clear()
            self.generator = None
            try:
                self.publish()
            finally:
                self._settled.set()

    def hurry(self) -> None:
        """Wait no longer for what is in flight, where `end` does."""
        if self.generator is not None:
            self.generator.hurry()

    def elapsed_s(self) -> float:
        """Seconds since the start of the run, on this process's clock."""
        return self.generator.clock.elapsed(clock.now_s()) if self.generator is not None else math.nan

    def _report(self, batch: Measured, samples: list[ClientSample]) -> None:
        try:
            if self._finder is not None:
                self._finder.sampled(samples)
            self.publish()
            for buckets, counts in batch.gaps.values():
                clock.breathe()  # each step takes up to 1 ms: let the reads between them
                rows.add(self.environment.stats, "ITL", MIDDLES_S[buckets], np.asarray(counts))
            clock.breathe()
        finally:  # what was measured does not depend on what Locust shows of it
            self._tell(WorkerReport(self.name, batch, samples))

    def _done(self, done: Done) -> None:
        exchange, answer = done.exchange, done.answer
        pending = self._pending
        if self._finder is not None:
            self._finder.hear(done)
        if answer.status == "cancelled":
            return  # by the end of the run: neither a success nor a failure of the server
        failure = None if answer.status == "ok" else f"{answer.status}: {answer.error or ''}"[:160]
        self.environment.events.request.fire(
            request_type="POST",
            name=ENDPOINTS[self.endpoint],
            response_time=_ms(done.e2e_s),
            response_length=sum(map(len, exchange.reads)),
            exception=failure,
            context={},
            start_time=None,
            url=None,
            response=None,
        )
        pending["TTFT"].append(done.ttft_s)
        pending["TPOT"].append(done.tpot_s)

    def publish(self) -> None:
        """Add what came since the last time to Locust's rows."""
        pending, self._pending = self._pending, defaultdict(list)
        for name, values in pending.items():
            seconds = np.asarray(values, dtype=np.float64)
            known = seconds[~np.isnan(seconds)]
            clock.breathe()
            rows.add(self.environment.stats, name, known, np.ones(len(known), dtype=np.int64))


def _ms(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds * 1e3


def _asked(plan: Any) -> Any:
    """(request id, prompt tokens, output tokens, shared prefix) without end, for closed-loop users."""
    for chunk in plan.arrivals(1024):
        yield from zip(
            chunk.request_id.tolist(),
            chunk.prompt_tokens.tolist(),
            chunk.output_tokens.tolist(),
            chunk.prefix_tokens.tolist(),
            strict=True,
        )
