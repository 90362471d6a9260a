"""The kubelet of a fleet of processes: starts the server of a pod, asks whether it is healthy, stops it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from analysis.errors import SourceUnavailable
from autoscale.kube.cluster import log_phase
from autoscale.local_servers import free_ports
from autoscale.sim.fleet.replica import FleetReplica
from benchmarks.real_fleet.clock import ServerTimes
from benchmarks.real_fleet.keeper import GRACE_S

if TYPE_CHECKING:
    from benchmarks.real_fleet.fleet import RealFleet

KEEPER = Path(__file__).with_name("keeper.py")
PROBE_S = 0.25  # between two readiness probes
START_S = 300.0  # that a server may take to be ready
PORTS = 16  # in a row for each server: its own, then those of its metrics where they are others


@dataclass
class Server:
    """The process of one replica."""

    replica: FleetReplica
    port: int
    metrics_port: int
    log: Path
    times: ServerTimes
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Where it exports its metrics."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"


class ProcessKubelet:
    """Runs `words` for each replica, {port}, {metrics_port} and {core} filled in; logs go to the folder `logs`.

    sim.fleet.kubelet.Kubelet; the tasks run in the fleet's event loop. `failed` is why a server that is wanted is no more.
    """

    def __init__(self, fleet: RealFleet, words: Sequence[str], logs: Path) -> None:
        self.fleet, self.words, self.logs = fleet, words, logs
        self.servers: list[Server] = []  # all that ever were, in the order of their start
        self.failed: SourceUnavailable | None = None

    def of(self, slot: int) -> Server:
        """The newest server of a slot."""
        return next(server for server in reversed(self.servers) if server.replica.slot == slot)

    def start(self, replica: FleetReplica) -> None:
        """Start the replica's server."""
        port = free_ports(PORTS)
        own = any("{metrics_port}" in word for word in self.words)
        log = self.logs / f"server-{len(self.servers) + 1}.log"
        server = Server(replica, port, port + own, log, ServerTimes(time.time()))
        self.servers.append(server)
        self.fleet.spawn(self._run(server))

    def stop(self, replica: FleetReplica) -> None:
        """Let it end; the replica is gone when its process is."""
        self.of(replica.slot).stopping.set()

    async def end(self) -> None:
        """Every server ends now."""
        await asyncio.gather(*(self._ended(server) for server in self.servers))

    async def _run(self, server: Server) -> None:
        try:
            await self._started(server)
            server.times.started_s = time.time()
            self.fleet.reached("started", server.replica)
            await self._healthy(server)
            if not server.stopping.is_set():
                server.times.healthy_s = time.time()
                self.fleet.reached("ready", server.replica)
            await self._until_stopped(server)
            server.times.stopping_s = time.time()
            await self._ended(server)
            server.times.ended_s = time.time()
            self.fleet.reached("gone", server.replica)
        except (OSError, SourceUnavailable) as error:
            self.failed = SourceUnavailable(
                "a server of the fleet is no more", value=str(error), next_step=f"see {server.log}"
            )
            self.fleet.wake.set()

    async def _started(self, server: Server) -> None:
        filled = {
            "port": server.port,
            "metrics_port": server.metrics_port,
            "core": server.replica.slot % (os.cpu_count() or 1),
        }
        command = [sys.executable, str(KEEPER), *(word.format(**filled) for word in self.words)]
        with server.log.open("wb") as log:
            server.process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log
            )

    async def _healthy(self, server: Server) -> None:
        """Return when it answers its readiness probe, or is not wanted any more; its log is read on the way."""
        assert server.process is not None
        deadline_s = time.monotonic() + START_S
        timeout = aiohttp.ClientTimeout(total=2.0)
        with server.log.open("rb") as log:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                while not server.stopping.is_set():
                    self._read(server, log.read())
                    if server.process.returncode is not None:
                        raise SourceUnavailable(f"it ended with status {server.process.returncode}")
                    if time.monotonic() > deadline_s:
                        raise SourceUnavailable(f"it was not healthy after {START_S:.0f} s")
                    with suppress(aiohttp.ClientError, TimeoutError):
                        async with session.get(f"{server.url}/health") as answer:
                            if answer.status == 200:
                                return
                    await asyncio.sleep(PROBE_S)

    def _read(self, server: Server, text: bytes) -> None:
        """Tell the new lines of its log that say where its start is."""
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        lines = [line for line in text.decode("utf-8", "replace").splitlines() if log_phase(line)]
        if lines:
            self.fleet.said(server.replica, [{"time": at, "text": line} for line in lines])

    async def _until_stopped(self, server: Server) -> None:
        assert server.process is not None
        stopping = asyncio.ensure_future(server.stopping.wait())
        over = asyncio.ensure_future(server.process.wait())
        await asyncio.wait({stopping, over}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if over.done() and not server.stopping.is_set():
            raise SourceUnavailable(f"it ended with status {server.process.returncode}")
        over.cancel()

    async def _ended(self, server: Server) -> None:
        """Its keeper's input ends, so does the keeper when all of it has."""
        if (process := server.process) is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 2 * GRACE_S)
        except TimeoutError:
            process.kill()
