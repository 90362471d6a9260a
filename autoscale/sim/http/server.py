"""The simulated fleet over HTTP in real time: a gateway that speaks vLLM's API, a /metrics port per replica, the HPA loop.

GET  /v1/models  /health  /version     POST /v1/completions  /v1/chat/completions  /tokenize
GET  /metrics                          of an inference gateway, with options.gateway
/fleet...                              what the fleet tells about itself (fleet_api)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from autoscale.profiles.profile import Profile
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.control import DEFAULTS, FleetOptions
from autoscale.sim.fleet.replica import FleetReplica, pod_name
from autoscale.sim.http.exposition import ReplicaMetrics
from autoscale.sim.http.flow_gate import FlowGate
from autoscale.sim.http.gateway import Gateway
from autoscale.sim.http.gateway_metrics import GatewayMetrics
from autoscale.sim.http.live_replicas import LiveReplicas, warm_up
from autoscale.sim.http.ports import MetricsPorts
from autoscale.sim.http.served_fleet import STOP_WITHIN_S, ServedFleet


class FleetServer(ServedFleet):
    """A fleet of simulated replicas.

    `metrics_port` + slot is a replica's metrics port; 0 takes free ones. A port refuses connections while its
    replica does not serve, as a pod's does.
    """

    def __init__(
        self,
        profile: Profile,
        hpa: Mapping[str, Any] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        metrics_port: int = 0,
        speed: float = 1.0,
        replicas: int | None = None,
        seed: int = 0,
        engine: EngineParams | None = None,
        routing: str = "connection",
        options: FleetOptions = DEFAULTS,
    ) -> None:
        super().__init__(
            profile, hpa, options, host=host, port=port, speed=speed, replicas=replicas, seed=seed
        )
        self.params = engine or EngineParams.from_profile(profile)
        self.engines = self.live = LiveReplicas(self.params, self.slots, seed, routing)
        self.gate: FlowGate | None = None
        if options.gateway:
            self.gate = FlowGate(options.gateway, self.live, self.engine_now, self.control_now)
            self.gateway_metrics = GatewayMetrics(self.gate, profile.deploy.name, self.model, self._taking)
            self.live.gateway_gauges = lambda: self.gate.gauges if self.gate else (math.nan,) * 3
        waits = options.no_ready == "wait"
        self.gateway = Gateway(profile, self.live, self.engine_now, wait=waits, gate=self.gate)
        self.wake = self.gateway.wake
        self.ports = MetricsPorts(host, metrics_port, self.slots, STOP_WITHIN_S)
        self._exporting: set[int] = set()  # slots whose metrics port is open

    def _taking(self) -> dict[int, str]:
        """Slot -> pod name of the replicas that take traffic."""
        serving = self.fleet.serving
        return {slot: pod_name(self.profile, serving[slot]) for slot in self.live.opened if slot in serving}

    def routes(self, app: web.Application) -> None:
        """vLLM's endpoints."""
        self.gateway.routes(app)

    async def begin(self) -> None:
        """Bind the metrics ports, compile the engine."""
        self.ports.bind()
        warm_up(self.params)

    def turn(self, now_s: float) -> float:
        """Send on what waited, and hand out tokens as steps end."""
        self.gateway.send_waiting(now_s)
        self._hand_out_due(now_s)
        return min(self.live.next_s)

    def _hand_out_due(self, now_s: float) -> None:
        """Let due engines come to now, and send what they produced."""
        for slot in self.live.advance_due(now_s):
            self.gateway.hand_out(slot, now_s)

    def opened(self, replica: FleetReplica, first: Callable[[float], None]) -> None:
        """It exports its metrics, too."""
        slot = replica.slot
        metrics = ReplicaMetrics(
            self.profile, self.params, self.live.engines[slot].engine_gauges, self.live.caches[slot]
        )

        def exposition() -> bytes:
            self._hand_out_due(self.engine_now())
            return metrics.text()

        self.gateway.opened(slot, metrics, first)
        self._exporting.add(slot)
        self.spawn(self.ports.open(slot, exposition))

    def gone(self, slot: int) -> None:
        """Its metrics port refuses connections."""
        if slot in self._exporting:
            self._exporting.discard(slot)
            self.spawn(self.ports.close(slot))

    def metrics_url(self, slot: int) -> str:
        """The metrics port of the slot."""
        return self.ports.url(slot)

    def cut_all(self) -> None:
        """Reset every connection that has a request in flight."""
        self.gateway.cut_all()

    async def end(self) -> None:
        """Give the metrics ports back."""
        await self.ports.close_all()
