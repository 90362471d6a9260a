"""One worker's half of a run: sends its slice of the plan (or what Locust's users ask for) and keeps the records.

Open loop: a request is sent at its due time, whatever the answers do. Due times are absolute, so nothing accumulates;
bodies are made ahead of time, while the loop is idle. At the in-flight cap a due request waits for a seat: its latency
counts from the due time, and it is `dropped` when the run ends first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import gevent
import gevent.event
import gevent.lock
import numpy as np
from numpy.typing import ArrayLike, NDArray

from loadgen import failing
from loadgen.plan.arrivals import Arrivals
from loadgen.plan.own_prompts import OwnPrompts
from loadgen.plan.prompts import PromptSource
from loadgen.plan.traffic import LoadPlan
from loadgen.run.measured import Batch, Done, Measured, Pause, measured
from loadgen.run.vitals import ClientSample, Vitals
from loadgen.wire.client import Client
from loadgen.wire.clock import Alarm, Clock, now_s, sleep_exactly, wait_until
from loadgen.wire.exchange import Exchange

AHEAD = 4096  # bodies made ahead
AHEAD_BYTES = 64 << 20
SLICE_S = 0.001  # most time spent on bookkeeping before the loop gets its turn
EARLY_S = 0.0003  # the loop wakes so long before a request is due, since waking takes part of it, and waits for the rest
WAIT_S = 0.001  # most time spent on waiting for several that are due one after the other
BACKLOG = 2000  # ended requests that may wait for idle time before they are parsed regardless
LOT = 16  # users woken at once: with what they ask for, they take a slice
WARM = 64  # connections opened before the start, at most
FLUSH_S = 1.0
SAMPLE_S = 0.5
INTERRUPTED = "the run was interrupted before the answer"


class OfferedRequests(Protocol):
    """Requests to send, in the order of their due times (a LoadPlan, a Probe)."""

    def arrivals(self, n: int) -> Iterator[Arrivals]:
        """In chunks of at most `n`."""

    def stage_of(self, due_s: ArrayLike) -> NDArray[np.int32]:
        """The stage of each due time."""


class Generator:
    """Sends requests on one client and hands out batches. `report(measured, samples)` is called every FLUSH_S.

    `on_done(done)` is called for each ended request, in a greenlet.
    """

    def __init__(
        self,
        client: Client,
        bodies: PromptSource | OwnPrompts,
        path: str,
        worker: str,
        report: Callable[[Measured, list[ClientSample]], None],
        on_done: Callable[[Done], None],
        run_tag: str = "",
    ) -> None:
        self.client, self._bodies, self._path, self.worker = client, bodies, path, worker
        self._report, self._on_done, self._tag = report, on_done, run_tag
        self.clock = Clock(now_s())
        self.started = gevent.event.Event()
        self.finished = gevent.event.Event()  # the plan is over and nothing is in flight
        self.cut_s = math.inf  # seconds since the start from which nothing more is planned
        self._ended: deque[Exchange] = deque()
        self._something_ended = gevent.event.Event()
        self._batch = Batch()
        self._samples: list[ClientSample] = []
        self._reporting = (
            gevent.lock.RLock()
        )  # reporting lets others run: the last batch waits for the one before
        self._ready: deque[Exchange] = deque()
        self._source: Iterator[Exchange] = iter(())
        self._planned, self._exhausted = False, True
        self._hungry = gevent.event.Event()
        self._alarm: Alarm | None = None
        self._sent = 0
        self._hurried = False  # the grace is over
        self._parsing_s = 0.0  # what one answer takes to parse, at the upper end
        self._asked: deque[tuple[Exchange, int]] = (
            deque()
        )  # by users of a closed loop, with the shared prefix
        self._answered: deque[gevent.event.Event] = deque()  # of users that wait for their answer
        self._something_asked = gevent.event.Event()
        loops = (self._parse_loop, self._flush_loop, self._ask_loop)
        self._greenlets = [gevent.spawn(loop) for loop in loops]
        self._vitals = Vitals()
        sleep_exactly()

    # --- open loop ---------------------------------------------------------------------------------------------------

    def prepare(self, plan: LoadPlan) -> None:
        """Open connections and make the first bodies for this slice of the plan (in a greenlet)."""
        self._source = self._exchanges(plan)
        self._planned, self._exhausted = True, False
        first_rate = float(plan.rate(0.0)) / plan.of
        self.client.warm(min(WARM, max(4, math.ceil(first_rate))))
        self._refill()

    def start(self, clock: Clock) -> None:
        """Begin at the clock's zero."""
        self.clock = clock
        self._vitals.reset()  # what the preparation took is not part of the run
        if self._planned:
            self._alarm = Alarm(self._send_due)
            self._greenlets.append(gevent.spawn(self._refill_loop))
            self._send_due()
        self.started.set()

    def offer(self, requests: OfferedRequests) -> None:
        """While running, with nothing left of an earlier offer: send these, due in seconds since the start."""
        self._source, self._exhausted, self.cut_s = self._exchanges(requests), False, math.inf
        if self._alarm is None:
            self._alarm = Alarm(self._send_due)
        self._refill()
        self._greenlets = [g for g in self._greenlets if not g.dead]
        self._greenlets.append(gevent.spawn(self._refill_loop))
        self._hungry.set()
        self._send_due()

    def recall(self, cut_s: float) -> None:
        """Take back what is due after `cut_s`, and what still waits for a seat."""
        self.cut_s = cut_s
        self._send_due()
        self._ready.clear()
        self._source, self._exhausted = iter(()), True
        self._hungry.set()

    def _exchanges(self, plan: OfferedRequests) -> Iterator[Exchange]:
        """The plan's requests, ready to be sent; due_s is still relative to the start."""
        for chunk in plan.arrivals(1024):
            stages = plan.stage_of(chunk.due_s).tolist()
            blocks = chunk.blocks if chunk.blocks is not None else [None] * len(stages)
            rows = zip(
                chunk.request_id.tolist(),
                chunk.due_s.tolist(),
                stages,
                chunk.prompt_tokens.tolist(),
                chunk.output_tokens.tolist(),
                chunk.prefix_tokens.tolist(),
                blocks,
                strict=True,
            )
            for number, due_s, stage, prompt, output, prefix, block in rows:
                body = self._bodies.body(number, prompt, output, prefix, block)
                yield Exchange(
                    number, self._payload(number, body), due_s, self._over, stage, (prompt, output)
                )

    def _payload(self, number: int, body: bytes) -> bytes:
        return self.client.target.request("POST", self._path, body, f"X-Request-Id: {self._tag}-{number}\r\n")

    def _refill(self) -> None:
        """Make bodies ahead, for at most SLICE_S at a time."""
        size = sum(len(e.payload) for e in self._ready)
        while not self._exhausted and len(self._ready) < AHEAD and size < AHEAD_BYTES:
            until_s = now_s() + SLICE_S
            while now_s() < until_s:
                exchange = next(self._source, None)
                if exchange is None:
                    self._exhausted = True
                    break
                size += len(exchange.payload)
                self._ready.append(exchange)
            self.client.reader.turn()

    def _refill_loop(self) -> None:
        while not self._exhausted:
            self._hungry.wait()
            self._hungry.clear()
            was_empty = not self._ready
            self._refill()
            if was_empty:
                self._send_due()

    def _send_due(self) -> None:
        """Send everything that is due and set the alarm for the next; runs in the hub, or in a greenlet."""
        ready, client, zero_s = self._ready, self.client, self.clock.zero_s
        client.reader.wake_by_s = math.inf
        turn_s = now_s() + WAIT_S  # then others get theirs
        while ready and not client.full:
            exchange = ready[0]
            if exchange.due_s > self.cut_s:
                ready.clear()
                self._exhausted, self._source = True, iter(())
                break
            due_s = zero_s + exchange.due_s
            now = now_s()
            if due_s > now and (due_s - now > EARLY_S or due_s > turn_s):
                if self._alarm is not None:
                    self._alarm.set(due_s - EARLY_S)
                    client.reader.wake_by_s = due_s - EARLY_S
                break
            wait_until(due_s)
            ready.popleft()
            exchange.due_s = due_s
            self._sent += 1
            client.submit(exchange)
        if not self._exhausted and len(ready) < AHEAD // 2:
            self._hungry.set()
        self._check_finished()

    def _check_finished(self) -> None:
        if self._exhausted and not self._ready and not self.client.in_flight:
            self.finished.set()

    # --- closed loop -------------------------------------------------------------------------------------------------

    def paused(self, length_s: float, asked: bool) -> None:
        """Count that a user waits so long after a failure, and whether because the server asked."""
        self._batch.pauses.append(Pause(length_s, asked))

    def request(self, number: int, prompt: int, output: int, prefix: int = 0, stage: int = 0) -> Exchange:
        """Send one request for a user and wait for its end (in a greenlet)."""
        ended = gevent.event.Event()

        def over(exchange: Exchange) -> None:
            self._over(exchange)
            self._answered.append(ended)
            self._something_asked.set()

        exchange = Exchange(number, b"", math.nan, over, stage, (prompt, output))
        self._asked.append((exchange, prefix))
        self._something_asked.set()
        try:
            ended.wait()
        except gevent.GreenletExit:
            exchange.give_up("cancelled", "the run ended before the answer")
            raise
        return exchange

    def _ask_loop(self) -> None:
        """Wake users whose answer has come and send what they ask for, a few at a time: users in step must not delay each
        other's tokens."""
        while True:
            self._something_asked.wait()
            self._something_asked.clear()
            while self._asked or self._answered:
                self._yield()
                for _ in range(min(LOT, len(self._answered))):
                    self._answered.popleft().set()
                until_s = now_s() + SLICE_S
                while self._asked and now_s() < until_s:
                    exchange, prefix = self._asked.popleft()
                    body = self._bodies.body(exchange.request_id, *exchange.asked, prefix)
                    exchange.payload = self._payload(exchange.request_id, body)
                    self._sent += 1
                    exchange.due_s = now_s()  # a closed loop has no schedule: due is when it is sent
                    self.client.submit(exchange)

    # --- bookkeeping -------------------------------------------------------------------------------------------------

    def _over(self, exchange: Exchange) -> None:
        self._ended.append(exchange)
        self._something_ended.set()
        if self._alarm is not None:
            if self._ready:
                self._send_due()
            else:
                self._check_finished()

    def _parse_loop(self) -> None:
        while True:
            self._something_ended.wait()
            self._something_ended.clear()
            while self._ended:
                if len(self._ended) >= BACKLOG:
                    self._parse(now_s() + SLICE_S)
                    self.client.reader.turn()
                    continue
                self._yield()
                if self._asked or self._answered:
                    continue  # requests first
                now, due_s = now_s(), self.client.reader.wake_by_s
                until_s = min(now + SLICE_S, due_s - self._parsing_s)  # what is due must not wait for this
                if until_s > now:
                    self._parse(until_s)
                elif due_s > now:
                    gevent.sleep(due_s - now)

    def _yield(self) -> None:
        """Let reads and sends come first; where a read's time is its stamp, only once nothing is left to read."""
        if self.client.reader.stamped:
            self.client.reader.turn()
        else:
            gevent.idle()

    def _parse(self, until_s: float) -> None:
        while self._ended and (begun_s := now_s()) < until_s:
            done = measured(self._ended.popleft())
            self._batch.add(done, self.worker, self.clock)
            self._vitals.saw(done)
            self._on_done(done)
            self._parsing_s = max(now_s() - begun_s, 0.9 * self._parsing_s)

    def _flush_loop(self) -> None:
        samples = 0
        while True:
            gevent.sleep(SAMPLE_S)
            if self.started.is_set():
                self._sample()
                samples += 1
                if samples % round(FLUSH_S / SAMPLE_S) == 0:
                    self.flush()

    def flush(self) -> None:
        """Report what came since the last time, once an earlier report is through."""
        with self._reporting:
            batch, self._batch = self._batch, Batch()
            samples, self._samples = self._samples, []
            if batch.rows or samples:
                self._report(batch.packed(), samples)

    def _sample(self) -> None:
        now = now_s() - self.clock.zero_s
        waiting = sum(1 for e in self._ready if e.due_s < now) if self.client.full else 0
        self._samples.append(
            self._vitals.take(now, len(self.client.in_flight), self.client.waited, waiting, self._sent)
        )

    def hurry(self) -> None:
        """Cut the grace of `stop` short."""
        self._hurried = True
        self.finished.set()

    def stop(self, cut_s: float, grace_s: float) -> None:
        """Plan nothing after `cut_s`, wait up to `grace_s` for what is in flight, cancel the rest, report the last batch.

        What has no answer then is cancelled, and every step is taken, whatever happened to the others.
        """
        self.cut_s = min(self.cut_s, cut_s)
        self._attempt(self._wait_for_answers, grace_s)
        late = grace_s > 0 and not self._hurried
        reason = f"no complete answer within {grace_s:g} s after the end of the load" if late else INTERRUPTED
        self._ready.clear()
        self._asked.clear()
        self._exhausted = True
        self._attempt(self.client.close, "cancelled", reason)
        if self._alarm is not None:
            self._attempt(self._alarm.close)
            self._alarm = None
        while self._answered:
            self._answered.popleft().set()
        for _ in range(len(self._ended)):  # once, unless one of them fails
            self._attempt(self._parse, math.inf)
        self._attempt(self._sample)
        self._attempt(self.flush)
        self._attempt(self._vitals.close)
        gevent.killall([g for g in self._greenlets if g is not gevent.getcurrent()], block=False)

    def _wait_for_answers(self, grace_s: float) -> None:
        if self._alarm is not None:
            self._send_due()
            self.finished.wait(timeout=grace_s)
            return
        self._asked.clear()  # by users, and never sent
        until_s = now_s() + grace_s
        while self.client.in_flight and now_s() < until_s and not self._hurried:
            gevent.sleep(0.02)

    def _attempt(self, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except Exception as error:  # noqa: BLE001 -- told, and the next step is taken all the same
            failing.tell(error)
