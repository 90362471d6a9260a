"""The sending half of a run in a process of its own: it measures its clock, hears the master, and has the last word."""

from __future__ import annotations

import math
import os
from types import SimpleNamespace
from typing import Any

import gevent
import locust.runners
from locust.runners import WorkerRunner

from analysis.errors import AutoscaleError
from loadgen import failing
from loadgen.in_locust.coordinator import FAMILY, LAST_WORD_S
from loadgen.in_locust.process_end import EXIT_S, interrupt_politely, quit_within
from loadgen.in_locust.worker import Worker
from loadgen.run.messages import (
    TO_WORKER,
    Begin,
    ClockMeasured,
    End,
    LastWord,
    Message,
    Offset,
    Ping,
    Pong,
    Start,
    decode,
    encode,
)
from loadgen.wire import clock

PINGS = 10
MASTERLESS_S = 20  # a worker ends when its master is silent for so long; Locust would wait a minute


def init_worker(environment: Any, runner: WorkerRunner, endpoint: str) -> None:
    """Make this process the worker that `runner` is."""

    def tell(message: Message) -> None:
        runner.send_message(message.kind, encode(message))

    worker = Worker(environment, endpoint, tell)
    environment.llm_worker = worker
    failing.hear_of(worker.failed)
    locust.runners.MASTER_HEARTBEAT_TIMEOUT = MASTERLESS_S
    even: Any = SimpleNamespace(time=clock.unix_now_s)
    locust.runners.time = even  # a clock that is set is no silence of the master
    pongs: list[tuple[float, float, float]] = []

    def hear(message: Message) -> None:
        if isinstance(message, Pong):
            pongs.append((message.sent_s, message.owner_s, clock.unix_now_s()))
        elif isinstance(message, Begin):
            begin(message)
        elif isinstance(message, Start):
            worker.hear(message)
        elif isinstance(message, End):
            try:
                worker.hear(message)
            finally:
                tell(LastWord(worker.name))

    def begin(job: Begin) -> None:
        worker.name = job.worker
        pongs.clear()  # the owner reads its clock anew for every run
        for _ping in range(PINGS):
            tell(Ping(clock.unix_now_s(), FAMILY, os.getpid()))
            gevent.sleep(0.02)
        offset = Offset(*clock.offset(pongs)) if pongs else Offset(0.0, math.nan)
        tell(ClockMeasured(job.worker, offset))
        worker.begin(job, offset.ahead_s)

    def receive(msg: Any, **_: Any) -> None:
        try:
            message = decode(msg.type, msg.data)
        except AutoscaleError as error:
            worker.failed(error)
            return
        hear(message)

    def quitting() -> None:
        if worker.name != "local":
            worker.end(worker.elapsed_s(), 0.0)
            tell(LastWord(worker.name))

    for message in TO_WORKER:
        runner.register_message(message.kind, receive, concurrent=message in (Begin, End))
    environment.events.quitting.add_listener(
        lambda **_: quit_within(environment, quitting, LAST_WORD_S + EXIT_S)
    )
    interrupt_politely(lambda: True, worker.hurry)
