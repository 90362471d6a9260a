"""The ports of a fleet: the gateway's, which bounds its connections, and one per replica for its metrics."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import resource
import socket
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from analysis.errors import BadInput
from autoscale.sim.http.browsers import only_from_here

MOST_CONNECTIONS = 10_000  # to the gateway at once; fewer where the system allows fewer open files
FILES_ASIDE = 128  # open files that are not connections to the gateway, the replicas' ports apart
FULL_WAITS_S = 1.0
IDLE_S = 75.0  # a connection that sends no whole request for so long is closed
LAST_PORT = 65_535
METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket that owns the port and does not listen yet: connections to it are refused."""
    if not 0 <= port <= LAST_PORT:
        raise BadInput(
            "not a port",
            value=port,
            expected=f"0 (any) to {LAST_PORT}, also for the last replica, which counts on from --metrics-port",
        )
    if not host:  # the system takes it for every address
        raise BadInput("--host is empty", expected="an address of this machine; 0.0.0.0 is every address")
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


def connections_allowed(ports: int) -> int:
    """How many connections to the gateway this process can hold beside so many ports."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft < 0 else max(1, min(MOST_CONNECTIONS, soft - FILES_ASIDE - 2 * ports))


def runner_of(app: web.Application, stop_within_s: float) -> web.AppRunner:
    """What serves `app`: connections that are silent or drip are closed, those of clients that go away end their requests."""
    log = logging.getLogger("autoscale.serve")
    log.addFilter(_not_the_clients_fault)
    return web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=IDLE_S,
        shutdown_timeout=stop_within_s / 4,
        logger=log,
    )


def _not_the_clients_fault(record: logging.LogRecord) -> bool:
    """Whether a line of the log is of interest: what is no HTTP is answered 400, and a traceback for each would fill a disk."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def listen(at: socket.socket, server: web.Server, most: int) -> asyncio.Server:
    """Accept up to `most` connections at once; a further one is told so and closed."""

    def protocol() -> asyncio.Protocol:
        return server() if len(server.connections) < most else _Full(most)

    return await asyncio.get_running_loop().create_server(protocol, sock=at, backlog=1024)


class _Full(asyncio.Protocol):
    """The answer to a connection too many."""

    def __init__(self, most: int) -> None:
        message = f"This server holds {most} connections and takes no more: close some, or raise `ulimit -n`."
        body = json.dumps(
            {"error": {"message": message, "type": "Service Unavailable", "code": 503}}
        ).encode()
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self._answer = head.encode() + b"\r\nConnection: close\r\n\r\n" + body
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._answer)
        # Closed before the request is read it would be reset, and the answer lost; who sends none has this long.
        asyncio.get_running_loop().call_later(FULL_WAITS_S, transport.close)

    def data_received(self, _: bytes) -> None:
        self._transport.close()


class MetricsPorts:
    """A port per replica slot: `first` + slot, or free ones when `first` is 0.

    A port refuses connections while its replica does not serve, as a pod's does.
    """

    def __init__(self, host: str, first: int, slots: int, stop_within_s: float) -> None:
        self.host, self.first, self.slots, self.stop_within_s = host, first, slots, stop_within_s
        self._sockets: dict[int, socket.socket] = {}
        self._runners: dict[int, web.AppRunner] = {}

    def bind(self) -> None:
        """Own all ports. Raises BadInput when one is taken."""
        try:
            for slot in range(self.slots):
                self._sockets[slot] = bind(self.host, self.first and self.first + slot)
        except BadInput:
            self._close_sockets()
            raise

    def url(self, slot: int) -> str:
        """Where the replica in this slot exports its metrics."""
        return f"http://{self.host}:{self._sockets[slot].getsockname()[1]}/metrics"

    async def open(self, slot: int, exposition: Callable[[], bytes]) -> None:
        """Serve /metrics and /health of a slot."""

        async def expose(_: web.Request) -> web.Response:
            return web.Response(body=exposition(), headers={"Content-Type": METRICS_TYPE})

        async def healthy(_: web.Request) -> web.Response:
            return web.Response()

        app = web.Application(middlewares=[only_from_here(self.host, self._sockets[slot].getsockname()[0])])
        app.add_routes([web.get("/metrics", expose), web.get("/health", healthy)])
        runner = runner_of(app, self.stop_within_s)
        await runner.setup()
        await web.SockSite(runner, self._sockets[slot]).start()
        self._runners[slot] = runner

    async def close(self, slot: int) -> None:
        """The replica is gone: its port refuses connections from now on, and stays ours."""
        port = self._sockets[slot].getsockname()[1]
        if runner := self._runners.pop(slot, None):
            await runner.cleanup()
        self._sockets[slot].close()
        self._sockets[slot] = bind(self.host, port)

    async def close_all(self) -> None:
        """Give all ports back."""
        for runner in self._runners.values():
            try:
                await asyncio.wait_for(runner.cleanup(), self.stop_within_s)
            except TimeoutError:
                continue  # a client that does not go is left behind
        self._close_sockets()

    def _close_sockets(self) -> None:
        for one in self._sockets.values():
            one.close()
