"""The owning half of a run, in Locust's local runner or its master: begins it, hears what its workers report, settles it."""

from __future__ import annotations

import logging
import math
import os
import sys
import uuid
import zlib
from typing import Any

import gevent
import gevent.event
import gevent.lock
from locust.runners import MasterRunner

from analysis import run
from analysis.errors import AutoscaleError
from analysis.run import clock_was_set_by_s, read_unix_clock
from loadgen import failing
from loadgen.failing import Failure
from loadgen.in_locust import statistics as rows
from loadgen.in_locust.process_end import EXIT_INTERRUPTED
from loadgen.in_locust.server_look import ServerLook
from loadgen.in_locust.workers import Workers
from loadgen.run import summary
from loadgen.run.account import Owner
from loadgen.run.endpoint.server_facts import ServerFacts
from loadgen.run.messages import (
    Begin,
    ClockMeasured,
    End,
    Failed,
    Finished,
    Found,
    LastWord,
    Message,
    Ping,
    Pong,
    Ready,
    Start,
    WorkerReport,
    decode,
    encode,
)
from loadgen.run.options import LoadOptions
from loadgen.run.sending import LatencyCourse
from loadgen.wire import clock

log = logging.getLogger("loadgen")
BEGIN_AFTER_S = 0.6  # from the word that all are ready to the start
SILENT_S = 15  # a worker without heartbeat for longer is lost; a machine that starts many processes can starve one for 5
UNREAD_S = 1.0  # after the end of a worker its last messages may still have to be read
ENDLESS_S = 30 * 86_400.0  # a plan this long ends when it is stopped
FAIL_AFTER_S = 0.5  # Locust is still starting when a run fails to begin
CLOCK_SET_S = 0.5  # from which on it is said that the machine's clock was set in the run
ALMOST_S = 4.0  # a run that is stopped so shortly before the end of its plan goes on to it
LAST_WORD_S = 10.0  # how long the master waits for the last batches of its workers, after the grace
MOST_DROPPED = (
    0.05  # of the planned requests; beyond it the run did not offer its plan, and the exit code is 1
)
FAMILY = uuid.uuid4().hex  # drawn before --processes forks: the master's and its workers', nobody else's


class Coordinator:
    """The owning half: begins and ends runs, in the local runner or the master."""

    def __init__(self, environment: Any, endpoint: str) -> None:
        self.environment, self.endpoint = environment, endpoint
        self.owner: Owner | None = None
        self.latest: Owner | None = None  # the present or the last one
        self._look = ServerLook(environment, endpoint)
        self._workers = Workers()
        self.options = LoadOptions(grace=0.0)
        self.tag = ""  # of the requests of this run
        self.begun = False  # an interrupt reaches Locust's main loop
        self._preparing: gevent.Greenlet | None = None  # between Locust's start and the run's
        self._ending = self._failed = False
        self._hurried = gevent.event.Event()
        self._settled = gevent.event.Event()
        self._books = gevent.lock.RLock()  # writing may yield: no batch is half taken when the run is settled

    # --- begin -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Validate the options and look at the server, before anything is started. Raises AutoscaleError."""
        self._look.check()

    def begin(self, **_: Any) -> None:
        """Listener of test_start."""
        self.begun = True
        self._ending = self._failed = False
        self._hurried.clear()
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001 -- what the web form says is only known now, and Locust would go on
            self.failed(error)

    def _begin(self) -> None:
        read_unix_clock()
        chosen = self.options = LoadOptions.of(self.environment.parsed_options)
        chosen.check()
        if chosen.open_loop and (trace := chosen.plan().trace) is not None:
            log.info("Read %s", trace.sentence)
        chosen, server = self._look.at(chosen)
        self.options = chosen
        runner = self.environment.runner
        workers = self._workers = self._workers.of_next_run(runner)
        self._preparing = gevent.spawn(self._start_when_ready, runner, server)
        salt = zlib.crc32(repr(clock.unix_now_s()).encode())
        self.tag = f"{salt:08x}"
        for index, (client_id, name) in enumerate(workers.names.items()):
            job = Begin(
                options=chosen,
                target=server.target,
                manner=server.manner,
                index=index,
                of=len(workers.names),
                worker=name,
                salt=salt,
                tag=self.tag,
                users=self.environment.parsed_options.num_users,
            )
            if isinstance(runner, MasterRunner):
                self._send(runner, job, client_id)
            else:
                gevent.spawn(self.environment.llm_worker.begin, job)

    def _start_when_ready(self, runner: Any, server: ServerFacts) -> None:
        """Name the instant at which all begin, once the last worker has its bodies and connections."""
        while self._workers.preparing(runner):
            gevent.sleep(0.02)
        names = list(self._workers.names.values())
        start_unix_s = clock.unix_now_s() + BEGIN_AFTER_S
        try:
            owner = Owner(self.options, self.endpoint, server, start_unix_s, self.tag, names)
        except AutoscaleError as error:
            self.failed(error)
            return
        if self.environment.web_ui is not None:
            owner.course = LatencyCourse()
        self.owner = self.latest = owner
        self._preparing = None
        log.info("Recording in %s", owner.path)
        if (shortage := owner.shortage()) is not None:
            log.warning("%s", shortage)
        self._tell_all(runner, Start(start_unix_s))
        if isinstance(runner, MasterRunner):
            gevent.spawn(self._watch_workers, runner, owner)
        duration_s = self._planned_s(owner)
        if self.options.find_capacity is None and duration_s < ENDLESS_S:
            log.info("Offering load for %g s", duration_s)
            gevent.spawn_later(start_unix_s + duration_s - clock.unix_now_s(), self._plan_is_over, owner)

    def _planned_s(self, owner: Owner) -> float:
        """How long the load is meant to last, in s; inf for a closed loop without a run time."""
        return owner.plan.duration_s if self.options.open_loop else float(self.options.run_time or math.inf)

    def _tell_all(self, runner: Any, message: Start | End) -> None:
        if isinstance(runner, MasterRunner):
            for client_id in self._workers.names:
                self._send(runner, message, client_id)
        else:
            self.environment.llm_worker.hear(message)

    def _send(self, runner: MasterRunner, message: Message, client_id: str) -> None:
        runner.send_message(message.kind, encode(message), client_id)

    def failed(self, error: Exception) -> None:
        """End the run because of an exception in this process."""
        self._fail(failing.failure_of(error))

    def _fail(self, failure: Failure) -> None:
        """End a run that cannot begin or go on, with the first reason only; the web UI shows it among its exceptions."""
        owner, runner = self.owner, self.environment.runner
        sentence, exit_code, trace = failure
        if trace is not None:
            place = failing.keep(trace, None if owner is None else owner.path)
            sentence += f". The traceback is in {place}" if place else f". {trace.splitlines()[-2].strip()}"
        if self._failed:
            log.debug("%s", sentence)
            return
        self._failed = True
        log.error("%s", sentence)
        if owner is not None:
            owner.stop(sentence, clock.unix_now_s(), "failed")
        runner.log_exception("local", sentence, "")
        self._exit_with(exit_code)
        gevent.spawn_later(FAIL_AFTER_S, lambda: self._plan_is_over(self.owner))  # it may have begun by then

    def _exit_with(self, exit_code: int) -> None:
        if self.environment.parsed_options.headless:  # the web UI goes on
            self.environment.process_exit_code = exit_code

    # --- messages ----------------------------------------------------------------------------------------------------

    def receive(self, msg: Any, **_: Any) -> None:
        """A message of a worker in another process, as Locust hands it on."""
        try:
            message = decode(msg.type, msg.data)
        except AutoscaleError as error:
            self.failed(error)
            return
        if isinstance(message, Ping):
            self._pong(message, msg.node_id)
        else:
            self.hear(message)

    def _pong(self, ping: Ping, client_id: str) -> None:
        """Answer a worker that measures how its clock differs."""
        if ping.family == FAMILY:
            self._workers.pids[client_id] = ping.pid
        self._send(self.environment.runner, Pong(ping.sent_s, clock.unix_now_s()), client_id)

    def hear(self, message: Message) -> None:
        """A message of a worker."""
        try:
            self._hear(message)
        except Exception as error:  # noqa: BLE001 -- Locust would print it and go on without what the message said
            self.failed(error)

    def _hear(self, message: Message) -> None:
        owner = self.owner
        if isinstance(message, Ready):
            self._workers.ready.add(message.worker)
        elif isinstance(message, ClockMeasured):
            self._workers.offsets[message.worker] = message.offset
        elif isinstance(message, Failed):
            self._fail(message.failure)
        elif owner is None:
            return
        elif isinstance(message, WorkerReport):
            with self._books:
                running = owner.stopped is None
                owner.take(message, clock.unix_now_s())
            if running and owner.stopped is not None:
                log.warning("Stopping: %s", owner.stopped)
                gevent.spawn(self._plan_is_over, owner)
        elif isinstance(message, Found):
            owner.found, owner.probes = message.found, message.probes
        elif isinstance(message, Finished):
            self._workers.finished.add(message.worker)
            if self._workers.finished >= set(self._workers.names.values()):
                gevent.spawn(self._plan_is_over, owner)
        elif isinstance(message, LastWord):
            self._workers.last_words.add(message.worker)

    def _watch_workers(self, runner: MasterRunner, owner: Owner) -> None:
        """Note in the run, while it goes on, which workers are silent."""
        while self.owner is owner:
            gevent.sleep(1.0)
            for name in self._workers.gone(runner):
                owner.worker_lost(name, clock.unix_now_s())
            if self.owner is owner and len(owner.lost) == len(self._workers.names):
                owner.stop("every worker was lost", clock.unix_now_s())
                self._plan_is_over(owner)

    def _plan_is_over(self, owner: Owner | None) -> None:
        if self.owner is not owner or self._ending:
            return
        if self.environment.parsed_options.headless:
            self.environment.runner.quit()
        elif self.environment.runner.state not in ("stopping", "stopped", "cleanup"):
            self.environment.runner.stop()

    # --- end ---------------------------------------------------------------------------------------------------------

    def quit(self) -> None:
        """Listener of quitting: settle the run. One that had not ended by itself was interrupted."""
        ending = self._ending and not self._settled.is_set()
        interrupted = ending or self._preparing is not None or self.owner is not None
        self.end(interrupted=True)
        if interrupted and not self._failed:
            self.environment.process_exit_code = EXIT_INTERRUPTED

    def hurry(self) -> None:
        """Wait no longer for answers: what is in flight is cancelled."""
        if not self._ending or self._settled.is_set() or self._hurried.is_set():
            return
        log.warning("Interrupted while waiting for answers: what is in flight is cancelled")
        self._hurried.set()
        runner = self.environment.runner
        if isinstance(runner, MasterRunner):
            for client_id in self._workers.names:
                self._send(runner, End(0.0, 0.0), client_id)
        else:
            self.environment.llm_worker.hurry()

    def end(self, interrupted: bool = False, **_: Any) -> None:
        """Listener of test_stopping: settle the run, once. Whoever comes while that goes on ends the wait for answers."""
        if self._ending:
            self.hurry()
            self._settled.wait(timeout=self.longest_end_s())
            return
        owner = self.owner
        if owner is None:
            self._give_up()
            return
        self._ending = True
        self._settled.clear()
        try:
            self._settle(owner, interrupted)
        except Exception as error:  # noqa: BLE001 -- the last thing that a run does must not hide what it was
            trouble = owner.writer.trouble
            self._fail(Failure(trouble, AutoscaleError.exit_code, None)) if trouble else self.failed(error)
        finally:
            self.owner = None
            self._settled.set()

    def _settle(self, owner: Owner, interrupted: bool) -> None:
        chosen = self.options
        elapsed_s = clock.unix_now_s() - owner.started_at
        planned_s = self._planned_s(owner)
        broken = interrupted or self._failed or owner.writer.trouble is not None
        natural = elapsed_s >= planned_s - ALMOST_S and chosen.find_capacity is None and not broken
        if natural:
            natural = not self._hurried.wait(timeout=max(0.0, planned_s - elapsed_s))
        cut_s = planned_s if natural else min(planned_s, clock.unix_now_s() - owner.started_at)
        grace_s = float(chosen.grace) if natural else 0.0
        users = int(self.environment.runner.user_count) or self.environment.parsed_options.num_users
        runner = self.environment.runner
        if isinstance(runner, MasterRunner):
            self._end_workers(runner, cut_s, grace_s)
        else:
            self.environment.llm_worker.end(cut_s, grace_s)
        if owner.found is not None and owner.found.rate_rps is None:
            self._exit_with(1)  # the answer is no
        self.owner = None
        if abs(set_by_s := clock_was_set_by_s()) > CLOCK_SET_S:
            log.warning("%s", owner.clock_was_set(set_by_s))
        with self._books:
            finished = owner.finish(cut_s, clock.unix_now_s(), users, self._workers.offsets)
        _say(summary.summary_table(finished, details=chosen.details) + "\n")
        if natural and not self._hurried.is_set() and finished.has("requests"):
            _say_cut_off(finished, grace_s)
        if self.environment.parsed_options.headless and not chosen.details:
            rows.say_no_more()
        self._judge(owner, finished)

    def _judge(self, owner: Owner, finished: run.Run) -> None:
        """Exit code 1 when the run is not the one that was asked for, though it went to its end."""
        reason = owner.writer.trouble
        if owner.lost:
            reason = reason or f"lost {', '.join(sorted(owner.lost))} of {len(self._workers.names)} workers"
        if not finished.has("requests"):
            reason = (
                reason or "no request was sent before it ended; a longer run time (-t) leaves time for some"
            )
        unsent = finished.header["client"]["unsent"]
        if unsent and not reason and unsent > MOST_DROPPED * len(finished.requests):
            share = unsent / len(finished.requests)
            reason = f"{share:.0%} of the planned requests were not sent (bound {MOST_DROPPED:.0%})"
        if reason and not self._failed:
            if reason != owner.stopped:
                log.error("The run is not as planned: %s", reason)
            self._exit_with(1)

    def longest_end_s(self) -> float:
        """How long `end` may wait for the rest of the plan, for answers and for workers."""
        return ALMOST_S + float(self.options.grace or 0) + 2 * LAST_WORD_S

    def _give_up(self) -> None:
        """End what has not begun: nothing was sent, nothing is recorded."""
        if self._preparing is not None:
            self._preparing.kill(block=False)
            self._preparing = None
            self._tell_all(self.environment.runner, End(0.0, 0.0))

    def _end_workers(self, runner: MasterRunner, cut_s: float, grace_s: float) -> None:
        workers = self._workers
        asked = {client_id: name for client_id, name in workers.names.items() if client_id in runner.clients}
        for client_id in asked:
            self._send(runner, End(cut_s, grace_s), client_id)
        deadline_s = clock.now_s() + grace_s + LAST_WORD_S
        alive_s = clock.now_s()
        hurried = False
        while clock.now_s() < min(deadline_s, alive_s + UNREAD_S):
            silent = [client_id for client_id, name in asked.items() if name not in workers.last_words]
            if not silent:
                break
            if any(workers.alive(runner, client_id) for client_id in silent):
                alive_s = clock.now_s()
            gevent.sleep(0.05)
            if self._hurried.is_set() and not hurried:
                hurried, deadline_s = True, min(deadline_s, clock.now_s() + LAST_WORD_S)
        for name in self._workers.names.values():
            if self.owner is not None and name not in self._workers.last_words:
                self.owner.worker_lost(name, clock.unix_now_s())
            elif self.owner is not None:
                self.owner.worker_found(name)


def _say_cut_off(finished: run.Run, grace_s: float) -> None:
    status = finished.requests["status"]
    if cut_off := int((status == "cancelled").sum()):
        log.warning(
            "%d of %d requests had no answer %g s after the end of the load and were cut off: a server that is behind, or "
            "a longer --grace is needed. They have rows, and are no reason for another exit code",
            cut_off, len(status), grace_s,
        )  # fmt: skip


def _say(text: str) -> None:
    """Print it. Where nobody listens any more (`| head`, a closed terminal, a full disk) the run is no worse for it."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        log.warning("the summary could not be printed: %s", error.strerror)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # Python would try once more at its end
