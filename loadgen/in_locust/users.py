"""The Locust user for streamed LLM requests, closed and open loop, and how a run hangs on Locust's events.

Closed loop: Locust's users, each with one request at a time. Open loop (--rate, --stages, --load, --trace): requests
arrive by the plan, and the users only keep Locust running. Local, --processes and master/worker runs take one path:
the owner (local runner or master) begins a run, generators (local runner or workers) send and report batches.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from typing import Any, ClassVar

import gevent
import gevent.event
import locust.runners
from locust import User, constant, events, task
from locust.env import Environment
from locust.runners import LocalRunner, WorkerRunner

from analysis.errors import AutoscaleError, BadInput
from loadgen import failing
from loadgen.in_locust import statistics as rows
from loadgen.in_locust import web
from loadgen.in_locust.coordinator import SILENT_S, Coordinator
from loadgen.in_locust.process_end import end_with_the_master, interrupt_politely, quit_within
from loadgen.in_locust.worker import Worker
from loadgen.in_locust.worker_process import init_worker
from loadgen.run.messages import (
    TO_OWNER,
)
from loadgen.run.option_table import add_arguments, in_form
from loadgen.run.records import preload

log = logging.getLogger("loadgen")
SETTLE_S = 300.0  # most time for the accounts of a run once its workers have had their last word: a slow disk


class LlmUser(User):
    """One user of an OpenAI-compatible endpoint; subclasses set `endpoint` to completions or chat."""

    abstract = True
    endpoint: ClassVar[str] = "completions"
    wait_time = constant(0)

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._run: Worker | None = None
        self._failures = 0  # in a row

    def on_start(self) -> None:
        """Wait until the run has begun; in an open loop there is nothing else to do."""
        worker: Worker = self.environment.llm_worker
        worker.begun.wait()
        self._run = worker
        if worker.open_loop:
            gevent.event.Event().wait()

    @task
    def ask(self) -> None:
        """One request and its answer, and after a failure a pause."""
        assert self._run is not None
        self._failures = self._run.ask(self._failures)


if sys.platform == "linux":
    os.register_at_fork(after_in_child=end_with_the_master)


@events.init_command_line_parser.add_listener
def _add_arguments(parser: Any) -> None:
    add_arguments(parser)
    web.show_options(parser, in_form())


@events.init.add_listener
def _init(environment: Any, runner: Any, **_: Any) -> None:
    endpoints = {cls.endpoint for cls in environment.user_classes if issubclass(cls, LlmUser)}
    if not endpoints:
        return
    endpoint = endpoints.pop()
    rows.be_precise()
    gc.set_threshold(10_000, 50, 1000)  # a collection of the youngest takes 1 ms, and the others are rare
    if isinstance(runner, WorkerRunner):
        init_worker(environment, runner, endpoint)
        return
    try:
        coordinator = Coordinator(environment, endpoint)
        interrupt_politely(lambda: coordinator.begun, coordinator.hurry)
        failing.hear_of(coordinator.failed)
        coordinator.check()
        preload()
    except AutoscaleError as error:
        sys.stderr.write(f"locust: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"locust: cannot write temporary files: {error}\n")
        sys.exit(BadInput.exit_code)
    parsed = environment.parsed_options
    if parsed.headless:
        # Locust would count from its own start, which comes before the load's; the run ends itself
        parsed.offered_time, parsed.run_time = parsed.run_time, None
    if isinstance(runner, LocalRunner):
        environment.llm_worker = Worker(environment, endpoint, coordinator.hear)
    else:
        locust.runners.HEARTBEAT_LIVENESS = SILENT_S
        for message in TO_OWNER:
            runner.register_message(message.kind, coordinator.receive)
    web.add_to_reports(lambda: coordinator.latest)
    if environment.web_ui is not None:
        web.extend(environment.web_ui, lambda: coordinator.latest, parsed.web_base_path or "")
    coordinator.begun = not parsed.headless  # Locust's main loop follows at once
    environment.events.test_start.add_listener(coordinator.begin)
    environment.events.test_stopping.add_listener(coordinator.end)
    environment.events.quitting.add_listener(
        lambda **_: quit_within(environment, coordinator.quit, coordinator.longest_end_s() + SETTLE_S)
    )
