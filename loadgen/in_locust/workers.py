"""The workers of a run as the master sees them: their names, how far they are, which of them are gone."""

from __future__ import annotations

import os
from typing import Any

from locust.runners import MasterRunner

from loadgen.run.messages import Offset


class Workers:
    """The workers of one run by Locust's ids for them, and what they have said; the local runner is one, `local`."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # Locust's id -> our name
        self.pids: dict[str, int] = {}  # of workers that --processes forked
        self.offsets: dict[str, Offset] = {}  # by name, of their clocks
        self.ready: set[str] = set()  # names from here on
        self.finished: set[str] = set()
        self.last_words: set[str] = set()

    def of_next_run(self, runner: Any) -> Workers:
        """The workers that a run which begins now has."""
        found = Workers()
        found.pids = self.pids
        if isinstance(runner, MasterRunner):
            found.names = {client.id: f"w{i}" for i, client in enumerate(runner.clients.ready)}
        else:
            found.names, found.offsets = {"local": "local"}, {"local": Offset(0.0, 0.0)}
        return found

    def alive(self, runner: Any, client_id: str) -> bool:
        """Whether a worker sends heartbeats, and, where --processes forked it, whether it runs."""
        if not isinstance(runner, MasterRunner):
            return True
        if client_id in self.pids:
            try:
                os.kill(self.pids[client_id], 0)
            except ProcessLookupError:
                return False
        return client_id in runner.clients and runner.clients[client_id].state != "missing"

    def preparing(self, runner: Any) -> bool:
        """Whether a worker that lives is not yet ready."""
        return any(
            name not in self.ready and self.alive(runner, client_id) for client_id, name in self.names.items()
        )

    def gone(self, runner: Any) -> list[str]:
        """The names of those that no longer live and had no last word."""
        return [
            name
            for client_id, name in self.names.items()
            if not self.alive(runner, client_id) and name not in self.last_words
        ]
