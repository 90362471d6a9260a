"""A fleet behind a port in real time: the control plane, what it tells, and the loop that moves time.

What answers the requests is the subclass's: simulated engines (server.FleetServer), or processes that it starts.

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
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web

from analysis.errors import BadInput
from analysis.sound import FASTEST
from autoscale.hpa import HpaDecision, HpaSpec, PodMetric
from autoscale.profiles.profile import Profile
from autoscale.sim.fleet.around import Engines
from autoscale.sim.fleet.control import Fleet, FleetOptions
from autoscale.sim.fleet.pods import Pods
from autoscale.sim.fleet.replica import FleetReplica, PodEvent
from autoscale.sim.fleet.scalers import foreign_name, hpa_of, read_scaler
from autoscale.sim.fleet.simulate import slots_for
from autoscale.sim.http.browsers import only_from_here
from autoscale.sim.http.fleet_api import FleetApi
from autoscale.sim.http.gateway_metrics import GatewayMetrics
from autoscale.sim.http.kubernetes_objects import KubernetesObject
from autoscale.sim.http.kubernetes_view import KubernetesView
from autoscale.sim.http.observations import ObservationLog
from autoscale.sim.http.ports import bind, connections_allowed, listen, runner_of
from autoscale.sim.http.start_times import StartTimes

MOST_SLOTS = 512  # replicas that serve or drain, each on a metrics port
MOST_BODY = 8 << 20  # bytes of a request: a prompt of a million token ids
STOP_WITHIN_S = 1.0
IDLE_S = 0.25  # the longest sleep of the loop that moves time


class ServedFleet(ABC):
    """A fleet on HTTP ports of this machine. `start`, then `stop`; both in the same event loop.

    Raises BadInput when the HPA does not fit or a port is taken.
    """

    engines: Engines
    simulated = True  # what answers; False where the servers are real
    pods: Pods | None = None  # None: the life of pods is drawn
    gateway_metrics: GatewayMetrics | None = None
    wake: asyncio.Event  # set when something new is to be done

    def __init__(
        self,
        profile: Profile,
        hpa: Mapping[str, Any] | None,
        options: FleetOptions,
        *,
        host: str,
        port: int,
        speed: float,
        replicas: int | None,
        seed: int,
    ) -> None:
        if not 0 < speed < FASTEST:
            raise BadInput(
                "the speed of the control plane",
                value=speed,
                expected=f"a number above 0 and below {FASTEST:g}, 1 is real time",
            )
        self.profile, self.host, self.port = profile, host, port
        self.speed, self.seed, self.options = speed, seed, options
        self.scaler = None if hpa is None else read_scaler(profile, hpa)
        self.spec = None if self.scaler is None else hpa_of(self.scaler)
        self.scaled_object = None if isinstance(self.scaler, HpaSpec) else hpa
        self.note = foreign_name(profile, self.scaler) if self.scaler else None
        least = self.spec.min_replicas if self.spec else profile.deploy.min_replicas
        self.replicas = max(1, least) if replicas is None else replicas
        self.slots = max(slots_for(self.scaler, self.replicas), 2 * profile.deploy.max_replicas + 2)
        if self.slots > MOST_SLOTS:
            raise BadInput(
                f"a fleet over HTTP of up to {(self.slots - 2) // 2:,} replicas",
                expected=f"at most {(MOST_SLOTS - 2) // 2:,}: each has a port of its own",
                next_step="lower maxReplicas for this trial",
            )
        self.observations = ObservationLog()
        self.started_at = math.nan
        self._zero = math.nan
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what answers the requests ----------------------------------------------------------------------------------

    @abstractmethod
    def routes(self, app: web.Application) -> None:
        """Add the endpoints of the gateway."""

    @abstractmethod
    async def begin(self) -> None:
        """Take what must be there before the clock starts."""

    @abstractmethod
    def turn(self, now_s: float) -> float:
        """Do what is due by now (engine seconds); returns when something is due next."""

    @abstractmethod
    def opened(self, replica: FleetReplica, first: Callable[[float], None]) -> None:
        """The replica takes traffic from now on; `first` is told when its first request comes."""

    @abstractmethod
    def gone(self, slot: int) -> None:
        """The replica in this slot is no more."""

    @abstractmethod
    def metrics_url(self, slot: int) -> str:
        """Where the replica in this slot exports its metrics."""

    @abstractmethod
    def cut_all(self) -> None:
        """Break every connection that has a request in flight."""

    @abstractmethod
    async def end(self) -> None:
        """Give everything back that `begin` took, and what came later."""

    # --- life -------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return f"http://{self.host}:{self.port}"

    @property
    def model(self) -> str:
        """The model id that requests name."""
        return self.profile.model.id

    @property
    def running(self) -> bool:
        """Whether time moves."""
        return not self._loop_task.done()

    def engine_now(self) -> float:
        """Seconds since the start: the engines' time."""
        return time.perf_counter() - self._zero

    def control_now(self) -> float:
        """The control plane's time in s."""
        return self.engine_now() * self.speed

    async def start(self) -> None:
        """Listen on all ports, start the replicas and the loop that moves time."""
        gateway_socket = bind(self.host, self.port)
        self.port = gateway_socket.getsockname()[1]
        try:
            await self.begin()
            await self._start(gateway_socket)
        except BaseException:  # a scaler that is refused, or Ctrl-C while the engine compiles
            gateway_socket.close()
            await self.end()
            raise

    async def _start(self, gateway_socket: socket.socket) -> None:
        self.started_at, self._zero = time.time(), time.perf_counter()
        self.start_times = StartTimes(self.profile, self.started_at)
        self.view = KubernetesView(
            self.profile, self.spec, self.started_at, self.observed, self.scaled_object
        )
        self.view.begin(self.replicas)
        self.fleet = Fleet(
            self.profile,
            self.engines,
            self.slots,
            scaler=self.scaler,
            replicas=self.replicas,
            seed=self.seed,
            options=self.options,
            speed=self.speed,
            watcher=self,
            pods=self.pods,
        )
        from_here = only_from_here(self.host, gateway_socket.getsockname()[0])
        app = web.Application(client_max_size=MOST_BODY, middlewares=[from_here])
        self.routes(app)
        FleetApi(self).routes(app)
        self._runner = runner_of(app, STOP_WITHIN_S)
        await self._runner.setup()
        assert self._runner.server is not None
        most = connections_allowed(self.slots)
        self._listener = await listen(gateway_socket, self._runner.server, most)
        self._loop_task = asyncio.create_task(self._move_time())

    async def stop(self) -> None:
        """Stop listening, cut what is in flight; done within a second, beside what `end` takes."""
        self._listener.close()
        self._loop_task.cancel()
        await asyncio.wait({self._loop_task})  # not its error: what it stands on is given back in any case
        self.cut_all()
        self.observations.wake()
        for task in list(self._tasks):
            task.cancel()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._runner.cleanup(), STOP_WITHIN_S)
        await self.end()

    async def __aenter__(self) -> ServedFleet:
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
        """Run control plane and engines along with the wall clock."""
        fleet = self.fleet
        while True:
            now_s = self.engine_now()
            fleet.advance(now_s * self.speed)
            next_s = min(self.turn(now_s), fleet.next_s / self.speed)
            delay_s = next_s - self.engine_now()
            self.wake.clear()
            if delay_s <= 0.0002:
                await asyncio.sleep(0)
            else:
                timer = asyncio.get_running_loop().call_later(min(delay_s, IDLE_S), self.wake.set)
                await self.wake.wait()
                timer.cancel()

    def scale(self, replicas: int) -> None:
        """Write the scale subresource now."""
        now_s = max(self.control_now(), self.fleet.now_s)
        self.fleet.advance(now_s)
        self.fleet.scale(replicas, now_s)
        self.wake.set()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it beside, until the fleet stops at the latest."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- what the fleet tells (around.FleetWatcher) -----------------------------------------------------------------

    def pod(self, event: PodEvent) -> None:
        """A replica made a transition."""
        replica = event.replica
        self.start_times.pod(event)
        if event.kind == "ready":
            self.opened(replica, self.start_times.first_request(replica, self.speed))
        elif event.kind == "gone":
            self.gone(replica.slot)
        self.view.pod(event)

    def query(self, now_s: float, metric: str, values: list[PodMetric], pods: list[FleetReplica]) -> None:
        """The HPA read one metric."""
        self.view.query(now_s, metric, values, pods)

    def sync(self, now_s: float, decision: HpaDecision) -> None:
        """The HPA decided."""
        self.view.sync(now_s, decision)

    def scaled(self, now_s: float, before: int, after: int, why: str) -> None:
        """The scale subresource was written."""
        self.view.scaled(now_s, before, after, why)

    def observed(self, control_s: float, resource: str, kind: str, content: KubernetesObject) -> None:
        """What a watcher of the cluster would see now."""
        self.observations.add(self.started_at + control_s, resource, kind, content)
