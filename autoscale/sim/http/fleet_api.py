"""What a fleet over HTTP tells about itself, and the one thing that it can be told: its size.

GET  /fleet                            profile, speed, HPA, whether its servers are real, replicas with state and metrics URL
GET  /fleet/sd                         http_sd targets of the replicas that export metrics, and of an inference gateway
GET  /fleet/observations?since=N       NDJSON, stays open: what a Kubernetes watcher would have seen
GET  /fleet/truth                      when each replica was created, scheduled, ... ready, first used
POST /fleet/scale?replicas=N           write the scale subresource
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from autoscale.sim.fleet.replica import pod_name
from autoscale.sim.http.ports import METRICS_TYPE

if TYPE_CHECKING:
    from autoscale.sim.http.served_fleet import ServedFleet

FOLLOW_S = 1.0  # the longest wait of a follower before it looks whether the fleet still runs


class FleetApi:
    """The /fleet endpoints of a running ServedFleet."""

    def __init__(self, server: ServedFleet) -> None:
        self.server = server

    def routes(self, app: web.Application) -> None:
        """Add the endpoints."""
        app.add_routes(
            [
                web.get("/fleet", self._fleet),
                web.get("/fleet/sd", self._targets),
                web.get("/fleet/observations", self._observations),
                web.get("/fleet/truth", self._truth),
                web.post("/fleet/scale", self._scale),
            ]
        )
        if (metrics := self.server.gateway_metrics) is not None:

            async def expose(_: web.Request) -> web.Response:
                return web.Response(body=metrics.text(), headers={"Content-Type": METRICS_TYPE})

            app.router.add_get("/metrics", expose)

    async def _fleet(self, _: web.Request) -> web.Response:
        server, profile = self.server, self.server.profile
        shown = [
            {
                "name": pod_name(profile, replica),
                "slot": replica.slot,
                "state": replica.state,
                "ready": replica.ready,
                "metrics_url": server.metrics_url(replica.slot)
                if replica.slot in server.fleet.serving
                else None,
            }
            for replica in server.fleet.pods.replicas
        ]
        return web.json_response(
            {
                "profile": profile.name,
                "model": profile.model.id,
                "vllm_version": profile.engine.vllm_version,
                "servers": "simulated" if server.simulated else "real",
                "speed": server.speed,
                "started_at": server.started_at,
                "control_s": server.control_now(),
                "desired": server.fleet.desired,
                "namespace": profile.deploy.namespace,
                "hpa": server.view.hpa_object(),
                "workload": server.view.workload_object(server.control_now()),
                "replicas": shown,
            }
        )

    async def _targets(self, _: web.Request) -> web.Response:
        server = self.server
        return web.json_response(
            self._gateway_target()
            + [
                {
                    "targets": [server.metrics_url(slot).removeprefix("http://").removesuffix("/metrics")],
                    "labels": {
                        "pod": pod_name(server.profile, replica),
                        "namespace": server.profile.deploy.namespace,
                        "container": "vllm",
                    },
                }
                for slot, replica in sorted(server.fleet.serving.items())
            ]
        )

    def _gateway_target(self) -> list[dict[str, object]]:
        server = self.server
        if server.gateway_metrics is None:
            return []
        labels = {"namespace": server.profile.deploy.namespace, "container": "epp"}
        return [{"targets": [server.url.removeprefix("http://")], "labels": labels}]

    async def _truth(self, _: web.Request) -> web.Response:
        server = self.server
        return web.json_response(
            {"started_at": server.started_at, "speed": server.speed, "replicas": server.start_times.rows}
        )

    async def _scale(self, request: web.Request) -> web.Response:
        most = self.server.slots // 2
        replicas = _number(request.query.get("replicas", ""))
        if replicas is None or replicas > most:
            return _refused(400, f"give replicas=N with N from 0 to {most}")
        self.server.scale(replicas)
        return web.json_response({"replicas": replicas})

    async def _observations(self, request: web.Request) -> web.StreamResponse:
        since = request.query.get("since", "0")
        at = _number(since)
        if at is None:
            return _refused(400, f"since is the number of an observation, not {since!r}")
        follow = request.query.get("follow", "true") != "false"
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        log = self.server.observations
        with suppress(ConnectionResetError):  # a watcher that goes away is no error
            await response.prepare(request)
            while True:
                if batch := log.since(at):
                    at = batch[-1]["seq"] + 1
                    await response.write("".join(json.dumps(o) + "\n" for o in batch).encode())
                if not follow or not self.server.running:
                    break
                await log.more(FOLLOW_S)
            await response.write_eof()
        return response


def _number(text: str) -> int | None:
    """A whole number of at most 18 digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _refused(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status)
