"""The simulated fleet over HTTP in real time: a gateway that speaks vLLM's API, a /metrics port per replica, the HPA loop.

    GET  /v1/models  /health  /version     POST /v1/completions  /v1/chat/completions  /tokenize
    GET  /fleet                            profile, speed, HPA, replicas with state and metrics URL
    GET  /fleet/sd                         http_sd targets of the replicas that export metrics
    GET  /fleet/observations?since=N       NDJSON, stays open: what a Kubernetes watcher would have seen
    GET  /fleet/truth                      when each replica was created, scheduled, ... ready, first used
    POST /fleet/scale?replicas=N           write the scale subresource

`speed` compresses the control plane (cold start, scrape, sync, windows run on control time = wall time * speed), never the
engine: latencies that a client measures are true seconds. Observations and truth carry control time as
`started_at + control seconds`.
"""

from __future__ import annotations

import asyncio
import errno
import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web

from analysis.errors import BadInput
from autoscale.hpa import HpaDecision, PodMetric
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.control import DEFAULTS, Fleet, Options
from autoscale.sim.fleet.replica import PodEvent, Replica, pod_name
from autoscale.sim.fleet.simulate import foreign_name, read_hpa, slots_for
from autoscale.sim.http.exposition import ReplicaMetrics
from autoscale.sim.http.gateway import Gateway
from autoscale.sim.http.kubernetes_view import KubernetesView
from autoscale.sim.http.openai_api import Prompt
from autoscale.sim.http.realtime import Rack

KEPT_OBSERVATIONS = 100_000
MOST_SLOTS = 512  # replicas that serve or drain, each on a metrics port
STOP_WITHIN_S = 1.0
LAST_PORT = 65_535
IDLE_S = 0.25  # the longest sleep of the loop that moves time
METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"


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
        options: Options = DEFAULTS,
    ) -> None:
        if not 0 < speed < math.inf:
            raise BadInput(
                "the speed of the control plane", value=speed, expected="a number above 0, 1 is real time"
            )
        self.profile, self.host, self.port = profile, host, port
        self.speed, self.seed, self.options = speed, seed, options
        self.metrics_port = metrics_port
        self.spec = None if hpa is None else read_hpa(profile, hpa)
        self.note = foreign_name(profile, self.spec) if self.spec else None
        least = self.spec.min_replicas if self.spec else profile.deploy.min_replicas
        self.replicas = max(1, least) if replicas is None else replicas
        self.params = engine or EngineParams.from_profile(profile)
        room = max(slots_for(self.spec, self.replicas), 2 * profile.deploy.max_replicas + 2)
        if room > MOST_SLOTS:
            raise BadInput(
                f"a fleet over HTTP of up to {(room - 2) // 2:,} replicas",
                expected=f"at most {(MOST_SLOTS - 2) // 2:,}: each has a port of its own",
                next_step="lower maxReplicas for this trial",
            )
        self.rack = Rack(self.params, room, seed, routing)
        self.gateway = Gateway(profile, self.rack, self.engine_now, wait=options.no_ready == "wait")
        self.metrics: dict[int, ReplicaMetrics] = {}
        self.observations: list[dict[str, Any]] = []
        self.truth: dict[int, dict[str, Any]] = {}
        self.started_at = math.nan
        self._dropped = 0  # observations that are no longer kept
        self._seen = asyncio.Event()
        self._sockets: dict[int, socket.socket] = {}
        self._sites: dict[int, web.SockSite] = {}
        self._runners: dict[int, web.AppRunner] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._zero = math.nan

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

    def control_now(self) -> float:
        """The control plane's time in s."""
        return self.engine_now() * self.speed

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen on all ports, start the replicas and the loop that moves time."""
        self._seen = asyncio.Event()
        gateway_socket = _bind(self.host, self.port)
        self.port = gateway_socket.getsockname()[1]
        try:
            for slot in range(len(self.rack.engines)):
                self._sockets[slot] = _bind(self.host, self.metrics_port and self.metrics_port + slot)
        except BadInput:
            gateway_socket.close()
            self._close_sockets()
            raise
        _warm_up(self.params)
        self.started_at, self._zero = time.time(), time.perf_counter()
        self.view = KubernetesView(self.profile, self.spec, self.started_at, self._emit)
        self.view.begin(self.replicas)
        self.fleet = Fleet(
            self.profile,
            self.rack,
            len(self.rack.engines),
            spec=self.spec,
            replicas=self.replicas,
            seed=self.seed,
            options=self.options,
            speed=self.speed,
            watcher=self,
        )
        app = web.Application(client_max_size=64 << 20)
        self.gateway.routes(app)
        app.add_routes(
            [
                web.get("/fleet", self._get_fleet),
                web.get("/fleet/sd", self._get_targets),
                web.get("/fleet/observations", self._get_observations),
                web.get("/fleet/truth", self._get_truth),
                web.post("/fleet/scale", self._post_scale),
            ]
        )
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=STOP_WITHIN_S / 4
        )
        await self._runner.setup()
        await web.SockSite(self._runner, gateway_socket, backlog=1024).start()
        self._loop_task = asyncio.create_task(self._move_time())

    async def stop(self) -> None:
        """Stop listening, cut what is in flight; done within a second."""
        self._loop_task.cancel()
        with suppress(asyncio.CancelledError):
            await self._loop_task
        self.gateway.cut_all()
        self._seen.set()
        for task in list(self._tasks):
            task.cancel()
        for runner in [self._runner, *self._runners.values()]:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(runner.cleanup(), STOP_WITHIN_S)
        self._close_sockets()

    async def __aenter__(self) -> FleetServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def run(self, stopped: asyncio.Event | None = None) -> None:
        """Start, serve until `stopped` is set or the loop that moves time fails, stop."""
        await self.start()
        waiting = asyncio.create_task((stopped or asyncio.Event()).wait())
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
            for slot in self.rack.advance_due(now_s):
                gateway.hand_out(slot, now_s)
            next_s = min(min(self.rack.next_s), fleet.next_s / self.speed)
            delay_s = next_s - self.engine_now()
            gateway.wake.clear()
            if delay_s <= 0.0002:
                await asyncio.sleep(0)
            else:
                timer = asyncio.get_running_loop().call_later(min(delay_s, IDLE_S), gateway.wake.set)
                await gateway.wake.wait()
                timer.cancel()

    # --- what the fleet tells (fleet.Watcher) -----------------------------------------------------------------------

    def pod(self, event: PodEvent) -> None:
        """A replica made a transition."""
        replica, kind = event.replica, event.kind
        facts = self.truth.get(replica.ordinal)
        if facts is None:
            name = pod_name(self.profile, replica)
            facts = self.truth[replica.ordinal] = {
                "replica": name,
                "slot": replica.slot,
                **dict.fromkeys(_TRUTH),
            }
        stage = _TRUTH_OF.get(kind, kind)
        if stage in facts and (
            facts[stage] is None or kind == "scheduled"
        ):  # of several pods the last counts
            facts[stage] = self.started_at + event.time_s
        if kind == "ready":
            engine = self.rack.engines[replica.slot]
            self.metrics[replica.slot] = ReplicaMetrics(
                self.profile, self.params, engine.engine_gauges, self.rack.caches[replica.slot]
            )
            self.gateway.opened(replica.slot, self.metrics[replica.slot], self._first_request(replica))
            self._spawn(self._listen(replica.slot))
        elif kind == "gone" and replica.slot in self.metrics:
            del self.metrics[replica.slot]
            self._spawn(self._unlisten(replica.slot))
        self.view.pod(event)

    def query(self, now_s: float, metric: str, values: list[PodMetric], pods: list[Replica]) -> None:
        """The HPA read one metric."""
        self.view.query(now_s, metric, values, pods)

    def sync(self, now_s: float, decision: HpaDecision) -> None:
        """The HPA decided."""
        self.view.sync(now_s, decision)

    def scaled(self, now_s: float, before: int, after: int, why: str) -> None:
        """The scale subresource was written."""
        self.view.scaled(now_s, before, after, why)

    def _first_request(self, replica: Replica) -> Callable[[float], None]:
        facts = self.truth[replica.ordinal]

        def note(engine_s: float) -> None:
            if facts["first_request"] is None:
                facts["first_request"] = self.started_at + engine_s * self.speed

        return note

    def _emit(self, control_s: float, resource: str, kind: str, content: dict[str, Any]) -> None:
        seq = self._dropped + len(self.observations)
        self.observations.append(
            {
                "seq": seq,
                "time_s": round(self.started_at + control_s, 6),
                "resource": resource,
                "type": kind,
                "object": content,
            }
        )
        if len(self.observations) > KEPT_OBSERVATIONS:
            cut = KEPT_OBSERVATIONS // 10
            del self.observations[:cut]
            self._dropped += cut
        self._seen.set()

    # --- ports of the replicas --------------------------------------------------------------------------------------

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, slot: int) -> None:
        metrics = self.metrics[slot]

        async def expose(_: web.Request) -> web.Response:
            now_s = self.engine_now()
            for due in self.rack.advance_due(now_s):
                self.gateway.hand_out(due, now_s)
            return web.Response(body=metrics.text(), headers={"Content-Type": METRICS_TYPE})

        async def healthy(_: web.Request) -> web.Response:
            return web.Response()

        app = web.Application()
        app.add_routes([web.get("/metrics", expose), web.get("/health", healthy)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_WITHIN_S / 4)
        await runner.setup()
        await web.SockSite(runner, self._sockets[slot]).start()
        self._runners[slot] = runner

    async def _unlisten(self, slot: int) -> None:
        """The replica is gone: its port refuses connections from now on, and stays ours."""
        port = self._sockets[slot].getsockname()[1]
        if runner := self._runners.pop(slot, None):
            await runner.cleanup()
        self._sockets[slot].close()
        self._sockets[slot] = _bind(self.host, port)

    def _close_sockets(self) -> None:
        for one in self._sockets.values():
            one.close()

    def metrics_url(self, slot: int) -> str:
        """Where the replica in this slot exports its metrics."""
        return f"http://{self.host}:{self._sockets[slot].getsockname()[1]}/metrics"

    # --- /fleet -----------------------------------------------------------------------------------------------------

    async def _get_fleet(self, _: web.Request) -> web.Response:
        shown = []
        for replica in self.fleet.pods.replicas:
            serves = replica.slot in self.fleet.serving
            shown.append(
                {
                    "name": pod_name(self.profile, replica),
                    "slot": replica.slot,
                    "state": replica.state,
                    "ready": replica.ready,
                    "metrics_url": self.metrics_url(replica.slot) if serves else None,
                }
            )
        return web.json_response(
            {
                "profile": self.profile.name,
                "model": self.profile.model.id,
                "vllm_version": self.profile.engine.vllm_version,
                "speed": self.speed,
                "started_at": self.started_at,
                "control_s": self.control_now(),
                "desired": self.fleet.desired,
                "namespace": self.profile.deploy.namespace,
                "hpa": self.view.hpa_object(),
                "workload": self.view.workload_object(self.control_now()),
                "replicas": shown,
            }
        )

    async def _get_targets(self, _: web.Request) -> web.Response:
        deploy = self.profile.deploy
        return web.json_response(
            [
                {
                    "targets": [self.metrics_url(slot).removeprefix("http://").removesuffix("/metrics")],
                    "labels": {
                        "pod": pod_name(self.profile, replica),
                        "namespace": deploy.namespace,
                        "container": "vllm",
                    },
                }
                for slot, replica in sorted(self.fleet.serving.items())
            ]
        )

    async def _get_truth(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"started_at": self.started_at, "speed": self.speed, "replicas": list(self.truth.values())}
        )

    async def _post_scale(self, request: web.Request) -> web.Response:
        most = len(self.rack.engines) // 2
        try:
            replicas = int(request.query["replicas"])
            if not 0 <= replicas <= most:
                raise ValueError
        except (KeyError, ValueError):
            return web.json_response({"error": f"give replicas=N with N from 0 to {most}"}, status=400)
        now_s = max(self.control_now(), self.fleet.now_s)
        self.fleet.advance(now_s)
        self.fleet.scale(replicas, now_s)
        self.gateway.wake.set()
        return web.json_response({"replicas": replicas})

    async def _get_observations(self, request: web.Request) -> web.StreamResponse:
        since = request.query.get("since", "0")
        if not since.isdigit():
            return web.json_response(
                {"error": f"since is the number of an observation, not {since!r}"}, status=400
            )
        at = int(since)
        follow = request.query.get("follow", "true") != "false"
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        with suppress(ConnectionResetError):  # a watcher that goes away is no error
            await response.prepare(request)
            while True:
                batch = self.observations[max(0, at - self._dropped) :]
                if batch:
                    at = batch[-1]["seq"] + 1
                    await response.write("".join(json.dumps(o) + "\n" for o in batch).encode())
                if not follow or self._loop_task.done():
                    break
                self._seen.clear()
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._seen.wait(), 1.0)
            await response.write_eof()
        return response


_TRUTH = (
    "created",
    "scheduled",
    "image",
    "joined",
    "weights",
    "engine",
    "ready",
    "first_request",
    "deleting",
    "gone",
)
_TRUTH_OF = {"running": "image", "loaded": "weights", "initialised": "engine"}


def _bind(host: str, port: int) -> socket.socket:
    """A TCP socket that owns the port and does not listen yet: connections to it are refused."""
    if not 0 <= port <= LAST_PORT:
        raise BadInput(
            "not a port",
            value=port,
            expected=f"0 (any) to {LAST_PORT}, also for the last replica, which counts on from --metrics-port",
        )
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((host, port))
    except (OSError, TypeError) as error:  # TypeError: a name that no encoding of hosts can hold
        one.close()
        raise _cannot_listen(host, port, error) from None
    return one


def _cannot_listen(host: str, port: int, error: OSError | TypeError) -> BadInput:
    """Why an address cannot be bound, and which option helps: the port's or the host's."""
    reason = (error.strerror if isinstance(error, OSError) else None) or "not a host name"
    if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EPERM):
        return BadInput(
            f"cannot listen on {host}: {reason.lower()}",
            value=port,
            expected="a free port" if error.errno == errno.EADDRINUSE else "a port that this user may open",
            next_step="choose another one with --port (--metrics-port for the replicas)",
        )
    return BadInput(
        f"cannot listen on port {port} of this host ({reason[:1].lower()}{reason[1:]})",
        value=host,
        expected="an IPv4 address of this machine, or a name of one",
        next_step="choose another one with --host; 0.0.0.0 is every address",
    )


def _warm_up(params: EngineParams) -> None:
    """Compile, or load from the cache, before the clock starts: the first request would wait for it otherwise."""
    rack = Rack(params, 1, 0)
    rack.open(0, 0.0)
    rack.submit(0, Prompt(1), 2, 0.0)
    rack.advance(60.0)
    engine = rack.engines[0]
    request = rack.submit(0, Prompt(1), 2, 60.0)
    engine.advance(60.0 + 1e-6)
    engine.abort(request)
    engine.progress()
    engine.finished()
    engine.engine_gauges()
    rack.close(0, 61.0, abort=True)
    rack.gauges()


def serve(
    server: FleetServer,
    *,
    on_started: Callable[[FleetServer], None] | None = None,
    with_parent: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM; `with_parent` ends with the process that started this one (no orphan).

    For the main thread. Raises what FleetServer.start raises.
    """

    async def main() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        serving = asyncio.create_task(server.run(stopped))
        parent = os.getppid()
        told = False
        while not serving.done():
            if not told and math.isfinite(server.started_at) and hasattr(server, "_loop_task"):
                told = True
                if on_started:
                    on_started(server)
            if with_parent and os.getppid() != parent:
                stopped.set()
            await asyncio.wait({serving}, timeout=0.5 if told else 0.02)
        serving.result()

    asyncio.run(main())


class FleetThread:
    """A FleetServer in a thread of its own: `with FleetThread(server) as server: ... server.url`."""

    def __init__(self, server: FleetServer) -> None:
        self.server = server
        self._error: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, name="fleet", daemon=True)

    def __enter__(self) -> FleetServer:
        self._thread.start()
        self._started.wait()
        if self._error:
            raise self._error
        return self.server

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        if self._error:
            raise self._error

    def _main(self) -> None:
        async def main() -> None:
            self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
            await self.server.start()
            self._started.set()
            waiting = asyncio.create_task(self._stopped.wait())
            try:
                await asyncio.wait({waiting, self.server._loop_task}, return_when=asyncio.FIRST_COMPLETED)
                if self.server._loop_task.done():
                    self.server._loop_task.result()
            finally:
                waiting.cancel()
                await self.server.stop()

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            self._error = error
        finally:
            self._started.set()
