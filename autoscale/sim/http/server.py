"""The simulated fleet over HTTP in real time: a gateway that speaks vLLM's API, a /metrics port per replica, the HPA loop.

    GET  /v1/models  /health  /version     POST /v1/completions  /v1/chat/completions  /tokenize
    GET  /metrics                          of an inference gateway, with options.gateway
    /fleet...                              what the fleet tells about itself (fleet_api)

`speed` compresses the control plane (cold start, scrape, sync, windows run on control time = wall time * speed), never the
engine: latencies that a client measures are true seconds. Observations and truth carry control time as
`started_at + control seconds`.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web

from analysis.errors import BadInput
from autoscale.hpa import HpaDecision, HpaSpec, PodMetric
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.control import DEFAULTS, Fleet, FleetOptions
from autoscale.sim.fleet.replica import FleetReplica, PodEvent, pod_name
from autoscale.sim.fleet.scalers import foreign_name, hpa_of, read_scaler
from autoscale.sim.fleet.simulate import slots_for
from autoscale.sim.http.browsers import only_from_here
from autoscale.sim.http.exposition import ReplicaMetrics
from autoscale.sim.http.fleet_api import FleetApi
from autoscale.sim.http.flow_gate import FlowGate
from autoscale.sim.http.gateway import Gateway
from autoscale.sim.http.gateway_metrics import GatewayMetrics
from autoscale.sim.http.kubernetes_objects import KubernetesObject
from autoscale.sim.http.kubernetes_view import KubernetesView
from autoscale.sim.http.live_replicas import LiveReplicas, warm_up
from autoscale.sim.http.observations import ObservationLog
from autoscale.sim.http.ports import MetricsPorts, bind, connections_allowed, listen
from autoscale.sim.http.start_times import StartTimes

MOST_SLOTS = 512  # replicas that serve or drain, each on a metrics port
MOST_BODY = 8 << 20  # bytes of a request: a prompt of a million token ids
STOP_WITHIN_S = 1.0
IDLE_S = 0.25  # the longest sleep of the loop that moves time


class FleetServer:
    """A fleet on HTTP ports of this machine. `start`, then `stop`; both in the same event loop.

    `metrics_port` + slot is a replica's metrics port; 0 takes free ones. A port refuses connections while its
    replica does not serve, as a pod's does. Raises BadInput when the HPA does not fit or a port is taken.
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
        if not 0 < speed < math.inf:
            raise BadInput(
                "the speed of the control plane", value=speed, expected="a number above 0, 1 is real time"
            )
        self.profile, self.host, self.port = profile, host, port
        self.speed, self.seed, self.options = speed, seed, options
        self.scaler = None if hpa is None else read_scaler(profile, hpa)
        self.spec = None if self.scaler is None else hpa_of(self.scaler)
        self.scaled_object = None if isinstance(self.scaler, HpaSpec) else hpa
        self.note = foreign_name(profile, self.scaler) if self.scaler else None
        least = self.spec.min_replicas if self.spec else profile.deploy.min_replicas
        self.replicas = max(1, least) if replicas is None else replicas
        self.params = engine or EngineParams.from_profile(profile)
        room = max(slots_for(self.scaler, self.replicas), 2 * profile.deploy.max_replicas + 2)
        if room > MOST_SLOTS:
            raise BadInput(
                f"a fleet over HTTP of up to {(room - 2) // 2:,} replicas",
                expected=f"at most {(MOST_SLOTS - 2) // 2:,}: each has a port of its own",
                next_step="lower maxReplicas for this trial",
            )
        self.live = LiveReplicas(self.params, room, seed, routing)
        self.gate: FlowGate | None = None
        self.gateway_metrics: GatewayMetrics | None = None
        if options.gateway:
            self.gate = FlowGate(options.gateway, self.live, self.engine_now, self.control_now)
            self.gateway_metrics = GatewayMetrics(self.gate, profile.deploy.name, self.model, self._taking)
            self.live.gateway_gauges = lambda: self.gate.gauges if self.gate else (math.nan,) * 3
        waits = options.no_ready == "wait"
        self.gateway = Gateway(profile, self.live, self.engine_now, wait=waits, gate=self.gate)
        self.ports = MetricsPorts(host, metrics_port, room, STOP_WITHIN_S)
        self.observations = ObservationLog()
        self.started_at = math.nan
        self._zero = math.nan
        self._exporting: set[int] = set()  # slots whose metrics port is open
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return f"http://{self.host}:{self.port}"

    @property
    def model(self) -> str:
        """The model id that requests name."""
        return self.profile.model.id

    def engine_now(self) -> float:
        """Seconds since the start: the engines' time."""
        return time.perf_counter() - self._zero

    @property
    def running(self) -> bool:
        """Whether time moves."""
        return not self._loop_task.done()

    def _taking(self) -> dict[int, str]:
        """Slot -> pod name of the replicas that take traffic."""
        serving = self.fleet.serving
        return {slot: pod_name(self.profile, serving[slot]) for slot in self.live.opened if slot in serving}

    def control_now(self) -> float:
        """The control plane's time in s."""
        return self.engine_now() * self.speed

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen on all ports, start the replicas and the loop that moves time."""
        gateway_socket = bind(self.host, self.port)
        self.port = gateway_socket.getsockname()[1]
        try:
            self.ports.bind()
            await self._start(gateway_socket)
        except BaseException:  # a scaler that is refused, or Ctrl-C while the engine compiles
            gateway_socket.close()
            await self.ports.close_all()
            raise

    async def _start(self, gateway_socket: socket.socket) -> None:
        warm_up(self.params)
        self.started_at, self._zero = time.time(), time.perf_counter()
        self.start_times = StartTimes(self.profile, self.started_at)
        self.view = KubernetesView(
            self.profile, self.spec, self.started_at, self._observed, self.scaled_object
        )
        self.view.begin(self.replicas)
        slots = len(self.live.engines)
        self.fleet = Fleet(
            self.profile,
            self.live,
            slots,
            scaler=self.scaler,
            replicas=self.replicas,
            seed=self.seed,
            options=self.options,
            speed=self.speed,
            watcher=self,
        )
        from_here = only_from_here(self.host, gateway_socket.getsockname()[0])
        app = web.Application(client_max_size=MOST_BODY, middlewares=[from_here])
        self.gateway.routes(app)
        FleetApi(self).routes(app)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=STOP_WITHIN_S / 4
        )
        await self._runner.setup()
        assert self._runner.server is not None
        most = connections_allowed(slots)
        self._listener = await listen(gateway_socket, self._runner.server, most)
        self._loop_task = asyncio.create_task(self._move_time())

    async def stop(self) -> None:
        """Stop listening, cut what is in flight; done within a second."""
        self._listener.close()
        self._loop_task.cancel()
        with suppress(asyncio.CancelledError):
            await self._loop_task
        self.gateway.cut_all()
        self.observations.wake()
        for task in list(self._tasks):
            task.cancel()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._runner.cleanup(), STOP_WITHIN_S)
        await self.ports.close_all()

    async def __aenter__(self) -> FleetServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def until(self, stopped: asyncio.Event) -> None:
        """Serve, once started, until `stopped` is set or the loop that moves time fails; then stop."""
        waiting = asyncio.create_task(stopped.wait())
        try:
            await asyncio.wait({waiting, self._loop_task}, return_when=asyncio.FIRST_COMPLETED)
            if self._loop_task.done():
                self._loop_task.result()
        finally:
            waiting.cancel()
            await self.stop()

    async def _move_time(self) -> None:
        """Run control plane and engines along with the wall clock, and hand out tokens as steps end."""
        fleet, gateway = self.fleet, self.gateway
        while True:
            now_s = self.engine_now()
            fleet.advance(now_s * self.speed)
            gateway.send_waiting(now_s)
            self._hand_out_due(now_s)
            next_s = min(min(self.live.next_s), fleet.next_s / self.speed)
            delay_s = next_s - self.engine_now()
            gateway.wake.clear()
            if delay_s <= 0.0002:
                await asyncio.sleep(0)
            else:
                timer = asyncio.get_running_loop().call_later(min(delay_s, IDLE_S), gateway.wake.set)
                await gateway.wake.wait()
                timer.cancel()

    def _hand_out_due(self, now_s: float) -> None:
        """Let due engines come to now, and send what they produced."""
        for slot in self.live.advance_due(now_s):
            self.gateway.hand_out(slot, now_s)

    def scale(self, replicas: int) -> None:
        """Write the scale subresource now."""
        now_s = max(self.control_now(), self.fleet.now_s)
        self.fleet.advance(now_s)
        self.fleet.scale(replicas, now_s)
        self.gateway.wake.set()

    # --- what the fleet tells (control.Watcher) ---------------------------------------------------------------------

    def pod(self, event: PodEvent) -> None:
        """A replica made a transition."""
        replica = event.replica
        self.start_times.pod(event)
        if event.kind == "ready":
            self._open(replica)
        elif event.kind == "gone" and replica.slot in self._exporting:
            self._exporting.discard(replica.slot)
            self._spawn(self.ports.close(replica.slot))
        self.view.pod(event)

    def _open(self, replica: FleetReplica) -> None:
        """The replica takes traffic and exports its metrics from now on."""
        slot = replica.slot
        metrics = ReplicaMetrics(
            self.profile, self.params, self.live.engines[slot].engine_gauges, self.live.caches[slot]
        )

        def exposition() -> bytes:
            self._hand_out_due(self.engine_now())
            return metrics.text()

        self.gateway.opened(slot, metrics, self.start_times.first_request(replica, self.speed))
        self._exporting.add(slot)
        self._spawn(self.ports.open(slot, exposition))

    def query(self, now_s: float, metric: str, values: list[PodMetric], pods: list[FleetReplica]) -> None:
        """The HPA read one metric."""
        self.view.query(now_s, metric, values, pods)

    def sync(self, now_s: float, decision: HpaDecision) -> None:
        """The HPA decided."""
        self.view.sync(now_s, decision)

    def scaled(self, now_s: float, before: int, after: int, why: str) -> None:
        """The scale subresource was written."""
        self.view.scaled(now_s, before, after, why)

    def _observed(self, control_s: float, resource: str, kind: str, content: KubernetesObject) -> None:
        self.observations.add(self.started_at + control_s, resource, kind, content)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
