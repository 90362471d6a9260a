"""A served fleet whose replicas are processes of this machine."""

# ruff: noqa: ARG002  # the signatures are those of every data plane
from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from analysis.errors import AutoscaleError
from analysis.run import SIGNALS
from autoscale.observe.scrape import read_once
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.gauges import GAUGES
from autoscale.sim.fleet.control import DEFAULTS
from autoscale.sim.fleet.kubelet import KubeletPods
from autoscale.sim.fleet.replica import FleetReplica, pod_name
from autoscale.sim.http.served_fleet import ServedFleet
from benchmarks.real_fleet.forwarding import ForwardingGateway
from benchmarks.real_fleet.kubelet import ProcessKubelet, Server

GRACE_S = 30.0  # that a removed replica may take for its requests


class RealFleet(ServedFleet):
    """Replicas are servers that `words` starts, behind one gateway, under the HPA. All of them start cold."""

    def __init__(
        self,
        profile: Profile,
        hpa: Mapping[str, Any],
        words: Sequence[str],
        out: Path,
        routing: str,
        *,
        simulated: bool,
    ) -> None:
        options = replace(DEFAULTS, warm=False, grace_s=GRACE_S)
        super().__init__(profile, hpa, options, host="127.0.0.1", port=0, speed=1.0, replicas=None, seed=0)
        self.simulated = simulated
        self.wake = asyncio.Event()
        self.gateway = ForwardingGateway(routing, self.seed)
        self.kubelet = ProcessKubelet(self, words, out)
        self.pods = KubeletPods(profile, self.kubelet, int(hpa["spec"]["maxReplicas"]))
        self.engines = self
        self._gauges = np.zeros(self.slots, GAUGES)

    # --- ServedFleet: what answers the requests ---------------------------------------------------------------------

    def routes(self, app: web.Application) -> None:
        """vLLM's endpoints, passed on."""
        self.gateway.routes(app)

    async def begin(self) -> None:
        """The gateway's own connections."""
        await self.gateway.begin()

    def turn(self, now_s: float) -> float:
        """Nothing is due: servers come and go by themselves. Raises SourceUnavailable when one is no more."""
        if self.kubelet.failed:
            raise self.kubelet.failed
        return math.inf

    def opened(self, replica: FleetReplica, first: Callable[[float], None]) -> None:
        """It takes traffic, and is scraped."""
        server = self.kubelet.of(replica.slot)
        for signal in SIGNALS:
            self._gauges[replica.slot][signal] = math.nan  # until it was scraped
        self.gateway.opened(server, lambda: first(self.engine_now()))
        self.spawn(self._scrape(server))

    def gone(self, slot: int) -> None:
        """Nothing is left of it."""
        self._gauges[slot] = 0

    def metrics_url(self, slot: int) -> str:
        """The server's own page."""
        return self.kubelet.of(slot).metrics_url

    def cut_all(self) -> None:
        """Reset every connection that has a request in flight."""
        for slot in range(self.slots):
            self.gateway.cut(slot)

    async def end(self) -> None:
        """Every server ends."""
        await self.gateway.end()
        await self.kubelet.end()

    # --- around.Engines, for the control loop -----------------------------------------------------------------------

    def open(self, slot: int, at_s: float) -> None:
        """`opened` does it."""

    def close(self, slot: int, at_s: float, abort: bool = False) -> None:
        """No new requests for the slot."""
        self.gateway.router.close(slot)
        if abort:
            self.gateway.cut(slot)

    def advance(self, until_s: float) -> None:
        """Servers do not wait for it."""

    def gauges(self) -> NDArray[Any]:
        """What the servers' own /metrics said last, one row per slot."""
        return self._gauges.copy()

    def in_flight_of(self, slot: int) -> int:
        """Requests that the gateway has sent to the slot and that have not ended."""
        return self.gateway.in_flight(slot)

    def gateway_gauges(self) -> tuple[float, float, float]:
        """It is no inference gateway."""
        return (math.nan,) * 3

    async def _scrape(self, server: Server) -> None:
        """Read the server's gauges once per scrape interval for as long as it runs."""
        every_s, loop = self.profile.metric_path.scrape_interval_s, asyncio.get_running_loop()
        begun_s, k = loop.time(), 0
        while not server.stopping.is_set():
            try:
                reading = await asyncio.to_thread(read_once, server.metrics_url, None)
            except (OSError, AutoscaleError):  # as a scrape that is missing
                pass
            else:
                for row in reading.rows.values():
                    for signal in SIGNALS:
                        self._gauges[server.replica.slot][signal] = row[signal]
            k = max(k + 1, math.ceil((loop.time() - begun_s) / every_s))
            await asyncio.sleep(begun_s + k * every_s - loop.time())

    def hpa_reads(self) -> bool:
        """Whether the HPA could read its metric when it synced last."""
        hpa = self.view.hpa_object()
        conditions = (hpa or {}).get("status", {}).get("conditions", [])
        return any(each["type"] == "ScalingActive" and each["status"] == "True" for each in conditions)

    # --- what the kubelet says --------------------------------------------------------------------------------------

    def reached(self, kind: str, replica: FleetReplica) -> None:
        """A replica is started, ready or gone."""
        self.pods.reached(kind, replica, self.control_now())
        self.wake.set()

    def said(self, replica: FleetReplica, lines: list[dict[str, str]]) -> None:
        """Lines of a replica's log, each with its time, as a watcher reads them."""
        pod = pod_name(self.profile, replica)
        self.observed(self.control_now(), "logs", "READ", {"pod": pod, "lines": lines})
