"""The look at the server before a run: of which options, once for each that it depends on."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from locust.runners import MasterRunner

from analysis import run
from analysis.errors import BadInput
from loadgen.run.endpoint.fitting import fitting
from loadgen.run.endpoint.server_facts import ServerFacts, inspect_server
from loadgen.run.options import LoadOptions, read_access
from loadgen.wire.target import HttpTarget

log = logging.getLogger("loadgen")

DECISIVE = ("model", "prompts", "ignore_eos", "stream")  # options that the look at the server depends on


class ServerLook:
    """Checks the options of a run and finds out about the server that they name."""

    def __init__(self, environment: Any, endpoint: str) -> None:
        self.environment, self.endpoint = environment, endpoint
        self.server: ServerFacts | None = None
        self._looked_for: Any = None  # the target and options that `server` answers for
        self.access = read_access(environment.parsed_options)

    def check(self) -> None:
        """Validate the options and look at the server, before anything is started. Raises AutoscaleError."""
        environment = self.environment
        chosen = LoadOptions.of(environment.parsed_options)
        chosen.check()
        self._check_alone(chosen)
        if chosen.run_dir is not None:
            run.check_unused(chosen.run_dir)
        if (
            environment.parsed_options.headless
            and (users := environment.parsed_options.num_users) is not None
            and users < (0 if chosen.open_loop else 1)
        ):
            raise BadInput(
                "a closed loop without users, -u",
                value=users,
                expected="at least 1, or a load such as --rate 5",
            )
        if environment.host or environment.parsed_options.headless:  # else the web form names it
            self.at(chosen)

    def _target(self, chosen: LoadOptions) -> HttpTarget:
        """Where --host, or the web form, says. Its user info and query stay here, out of Locust's pages and reports."""
        environment = self.environment
        if not environment.host:
            raise BadInput(
                "--host is missing",
                next_step="give the server's address, for example --host http://127.0.0.1:8000",
            )
        if self.server is not None and environment.host == str(self.server.target):
            target = self.server.target
        else:
            target = HttpTarget.from_url(environment.host, self.access)
        environment.host = environment.parsed_options.host = str(target)
        return replace(target, access=replace(target.access, insecure=chosen.insecure))

    def at(self, chosen: LoadOptions) -> tuple[LoadOptions, ServerFacts]:
        """The options that fit the server, and what is known of it; looked at unless that was done for the same options."""
        wanted = self._target(chosen), tuple(getattr(chosen, name) for name in DECISIVE)
        if self.server is None or self._looked_for != wanted:
            self.server = inspect_server(chosen, wanted[0], self.endpoint)
            self._looked_for = wanted
            for note in self.server.notes:
                log.warning("%s", note)
            log.info("Test requests of one token, counted nowhere: %d", self.server.test_requests)
        return fitting(chosen, self.server.max_model_len), self.server

    def _check_alone(self, chosen: LoadOptions) -> None:
        if chosen.find_capacity is not None and isinstance(self.environment.runner, MasterRunner):
            raise BadInput(
                "--find-capacity with several workers",
                next_step="run it in one process (without --processes and --master)",
            )
