"""The gateway before real servers: each request goes to the replica that the router picks, its answer back as it comes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp import web

from analysis.numbers import known
from autoscale.sim.http.errors import none_ready, plain_errors
from autoscale.sim.http.live_replicas import Router
from autoscale.sim.http.openai_request import Refusal
from benchmarks.real_fleet.kubelet import Server

OF_THE_CONNECTION = {
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "transfer-encoding",
}  # not passed on


class ForwardingGateway:
    """vLLM's endpoints, each answered by one of the servers that take traffic."""

    def __init__(self, routing: str, seed: int) -> None:
        self.router = Router(routing, seed, self.in_flight)
        self.servers: dict[int, Server] = {}  # slot -> the server that has it
        self._first: dict[int, Callable[[], None]] = {}  # to be told of the slot's first request
        self._open: dict[int, dict[int, web.Request]] = defaultdict(
            dict
        )  # slot -> requests in flight, by id()
        self._session: aiohttp.ClientSession | None = None

    def routes(self, app: web.Application) -> None:
        """Add the endpoints."""
        for path in ("/v1/completions", "/v1/chat/completions", "/tokenize"):
            app.router.add_post(path, self._forward)
        for path in ("/v1/models", "/version"):
            app.router.add_get(path, self._forward)
        app.router.add_get("/health", self._health)
        app.middlewares.append(plain_errors)

    async def begin(self) -> None:
        """Connections to the servers can be made from now on."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )

    async def end(self) -> None:
        """No more connections to the servers."""
        if self._session is not None:
            await self._session.close()

    def in_flight(self, slot: int) -> int:
        """Requests that a slot holds."""
        return len(self._open[slot])

    def opened(self, server: Server, first: Callable[[], None]) -> None:
        """The server takes traffic; `first` is told when its first request comes."""
        slot = server.replica.slot
        self.servers[slot], self._first[slot] = server, first
        self.router.opened.append(slot)

    def cut(self, slot: int) -> None:
        """Reset the connections whose requests the slot holds."""
        for request in list(self._open[slot].values()):
            if request.transport is not None:
                request.transport.abort()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.router.opened else 503)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        slot = self.router.pick(request.transport)
        if slot is None:
            return _refused(none_ready())
        server = self.servers[slot]
        self._open[slot][id(request)] = request
        try:
            return await self._answered(request, body, server)
        finally:
            del self._open[slot][id(request)]

    async def _answered(self, request: web.Request, body: bytes, server: Server) -> web.StreamResponse:
        assert self._session is not None
        generates = request.method == "POST"
        if generates and not known(server.times.request_s):
            server.times.request_s = time.time()
            self._first[server.replica.slot]()
        response: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method, server.url + request.path_qs, data=body, headers=_passed(request.headers)
            ) as answer:
                response = web.StreamResponse(status=answer.status, headers=_passed(answer.headers))
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    if generates and not known(server.times.token_s):
                        server.times.token_s = time.time()
                    await response.write(chunk)
                await response.write_eof()
                return response
        except aiohttp.ClientError as error:
            if response is None:
                return _refused(Refusal(502, f"The replica does not answer: {error}", "Bad Gateway"))
            raise ConnectionResetError("the replica went away") from None


def _passed(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in OF_THE_CONNECTION]


def _refused(refusal: Refusal) -> web.Response:
    return web.json_response(refusal.body, status=refusal.status)
