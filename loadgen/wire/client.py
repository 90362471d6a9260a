"""Connections and the read loop: HTTP/1.1 on gevent's event loop, one callback per connection, no greenlet per request.

A read keeps the raw bytes, its time and the kernel's stamp of their arrival (loadgen.wire.receive); loadgen.wire.stream makes
sense of them after the request is over. Requests are never retried. All callbacks run in the hub: they do not switch.

The pool keeps a few spare connections open, so that a request that is due does not wait for a handshake, and replaces
connections that served long enough, so that replicas which a scale-out adds get their share of the traffic.
"""

from __future__ import annotations

import errno
import math
import os
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import gevent
import gevent.event
import gevent.monkey
import gevent.socket
import numpy as np
from numpy.typing import NDArray

from analysis.errors import SourceUnavailable
from analysis.numbers import known
from loadgen.run import descriptors, failing
from loadgen.wire import stream
from loadgen.wire.receive import READ_BYTES, KernelClock, Reader, ask_for_stamps
from loadgen.wire.refusals import tls_step
from loadgen.wire.target import Target, tls_context

WRITE_EVENTS = 2  # gevent.hub.loop.io
SPARE = 8  # idle connections kept open, plus one per SPARE_SHARE in flight
SPARE_SHARE = 16
IDLE_LIMIT_S = 3.0  # an idle connection is not used after this; uvicorn closes after 5 s
CONNECT_TIMEOUT_S = 10.0
SWEEP_S = 0.25
RESOLVE_S = 30.0

now_s = time.perf_counter

# Locust patches the standard library; the watchers here need plain non-blocking sockets.
_Socket: type[socket.socket] = gevent.monkey.get_original("socket", "socket")


@dataclass(frozen=True)
class Limits:
    """What the pool may do. Times in s."""

    max_connections: int = 4096
    timeout_s: float = 600.0  # from sent to the end of the answer
    idle_timeout_s: float = 120.0  # without a byte, once the body has begun
    reconnect_after_s: float = 30.0  # age at which a connection is replaced; inf = never
    reconnect_after_requests: float = math.inf


@dataclass(slots=True, eq=False)
class Exchange:
    """One request on its way. Times are now_s() readings; NaN = did not happen."""

    request_id: int
    payload: bytes = field(repr=False)  # holds the key
    due_s: float
    over: Callable[[Exchange], None]  # called in the hub when the exchange has ended
    stage: int = 0
    asked: tuple[int, int] = (0, 0)  # prompt and output tokens
    sent_s: float = math.nan
    waited: bool = False  # for a connection to be opened
    reads: list[bytes] = field(default_factory=list)
    stamps_s: list[float] = field(default_factory=list)  # when each was read
    arrivals_ns: list[int] = field(default_factory=list)  # the kernel's stamp of its arrival; 0 = none
    # set by answer(): when each read arrived, and how long it lay in the kernel (NaN = unknown)
    times_s: NDArray[np.float64] | None = None
    waits_s: NDArray[np.float64] | None = None
    failure: tuple[str, str] | None = None
    connection: Connection | None = None
    clock: KernelClock | None = None

    def answer(self) -> stream.Answer:
        """What came back."""
        if self.clock is None:
            return stream.read_answer(self.stamps_s, self.reads, self.failure)
        self.times_s, self.waits_s = self.clock.arrivals(self.sent_s, self.stamps_s, self.arrivals_ns)
        return stream.read_answer(self.times_s, self.reads, self.failure)


class Connection:
    """One socket: opening -> (TLS handshake) -> idle <-> busy -> closed.

    Invariant: `exchange` is set exactly while a request waits for this connection or for its answer.
    """

    __slots__ = (
        "_body_bytes",
        "_head",
        "_incoming",
        "_outgoing",
        "_pool",
        "_reader",
        "_streaming",
        "_tls",
        "_unsent",
        "_writer",
        "exchange",
        "open",
        "opened_s",
        "served",
        "socket",
        "used_s",
    )

    def __init__(self, pool: Client, family: int, address: Any) -> None:
        self._pool = pool
        self.open = False
        self.opened_s = self.used_s = now_s()
        self.served = 0
        self.exchange: Exchange | None = None
        self._unsent = b""
        self._head: stream.Head | None = None
        self._body_bytes = 0
        self._streaming = False  # within a chunked body: most reads need no look at their content
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.socket = _Socket(family, socket.SOCK_STREAM)
        try:
            descriptors.check(self.socket.fileno())
        except OSError:
            self.socket.close()
            raise
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ask_for_stamps(self.socket)
        self._reader = pool.reader
        loop = gevent.get_hub().loop
        self._writer = loop.io(self.socket.fileno(), WRITE_EVENTS)
        code = self.socket.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            loop.run_callback(self._failed, OSError(code, _reason(code)))
        else:
            self._writer.start(self._connected)

    # --- opening -----------------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        self._writer.stop()
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._failed(OSError(code, _reason(code)))
            return
        context = self._pool.tls
        try:
            self._reader.add(
                self.socket, self._take if context is None else self._take_handshake, self._failed
            )
        except OSError as error:  # the system watches no more sockets
            self._failed(error)
            return
        if context is None:
            self._opened()
            return
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=self._pool.target.host)
        self._handshake()

    def _take_handshake(self, data: bytes, _read_s: float, _stamp_ns: int) -> None:
        if not data:
            self._failed(OSError("closed during the TLS handshake"))
            return
        self._incoming.write(data)
        self._handshake()

    def _handshake(self) -> None:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._transmit(self._outgoing.read())
            return
        except ssl.SSLError as error:
            self._failed(error)
            return
        self._transmit(self._outgoing.read())
        self._reader.add(self.socket, self._take_tls, self._failed)
        self._opened()

    def _opened(self) -> None:
        self.open = True
        self.opened_s = self.used_s = now_s()
        self._pool._opened(self)
        if self.exchange is not None:
            self._start(self.exchange)

    # --- sending -----------------------------------------------------------------------------------------------------

    def send(self, exchange: Exchange) -> None:
        """Send now, or as soon as the connection is open."""
        self.exchange, exchange.connection, exchange.clock = exchange, self, self._pool.clock
        if self.open:
            self._start(exchange)

    def _start(self, exchange: Exchange) -> None:
        self._head, self._body_bytes, self._streaming = None, 0, False
        data = exchange.payload
        if self._tls is not None:
            self._tls.write(data)
            data = self._outgoing.read()
        exchange.sent_s = self.used_s = now_s()  # with nothing left to do but to send
        self._transmit(data)

    def _transmit(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self.socket.send(data) if data else 0
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._failed(error)
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._writer.start(self._writable)

    def _writable(self) -> None:
        self._writer.stop()
        data, self._unsent = self._unsent, b""
        self._transmit(data)

    # --- receiving ---------------------------------------------------------------------------------------------------

    def _take(self, data: bytes, read_s: float, stamp_ns: int) -> None:
        exchange = self.exchange
        if exchange is None or not data:
            self._closed_by_peer()
            return
        exchange.stamps_s.append(read_s)
        exchange.arrivals_ns.append(stamp_ns)
        exchange.reads.append(data)
        # a chunked body ends with an empty line; after another one it ends an event whose lines end with CRLF
        perhaps_over = data.endswith(b"\r\n\r\n") and not data.endswith(b"\r\n\r\n\r\n")
        if perhaps_over or not self._streaming or len(data) < 6:
            self._advance(exchange, len(data))

    def _take_tls(self, received: bytes, read_s: float, stamp_ns: int) -> None:
        assert self._tls is not None
        if received:
            self._incoming.write(received)
        else:
            self._incoming.write_eof()
        asked = len(received) or READ_BYTES  # a record is longer than what it holds
        while True:
            try:
                data = self._tls.read(asked)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLError as error:
                if received:
                    self._failed(error)
                else:
                    self._closed_by_peer()
                return
            self._take(data, read_s, stamp_ns)
            if self.socket is None or (len(data) < asked and not self._incoming.pending and received):
                return  # asking once more would cost an exception

    def _advance(self, exchange: Exchange, size: int) -> None:
        """Look whether the response is complete: called for the head, and where the framing may have ended."""
        head = self._head
        if head is None:
            raw = b"".join(exchange.reads)
            try:
                self._head = head = stream.parse_head(raw)
            except ValueError:
                self._over(keep=False)
                return
            if head is None:
                return
            self._body_bytes = len(raw) - head.body_start
            self._streaming = head.chunked
        else:
            self._body_bytes += size
        if head.chunked:
            complete = stream.is_complete(head, b"".join(exchange.reads))
        else:
            complete = head.length is not None and self._body_bytes >= head.length
        if complete:
            self._over(keep=head.keep_alive)

    # --- ending ------------------------------------------------------------------------------------------------------

    def _closed_by_peer(self) -> None:
        exchange = self.exchange
        if exchange is not None and not exchange.reads:
            exchange.failure = ("connection_error", "the server closed the connection before an answer came")
        self._over(keep=False)

    def _failed(self, error: Exception) -> None:
        if self.socket is None:
            return
        if not self.open:
            self._pool._refused(error)
        if self.exchange is not None:
            self.exchange.failure = ("connection_error", _sentence(error, self._pool.target))
        self._over(keep=False)

    @property
    def body_begun(self) -> bool:
        """Whether more than the head has been read; before that the server may keep the request in a queue."""
        return self.exchange is not None and (len(self.exchange.reads) > 1 or self._body_bytes > 0)

    def give_up(self, status: str, error: str) -> None:
        """End the exchange from this side; the server sees the connection close."""
        if self.exchange is not None:
            self.exchange.failure = (status, error)
        self._over(keep=False)

    def _over(self, keep: bool) -> None:
        exchange, self.exchange = self.exchange, None
        self.served += 1
        if not keep:
            self.close()
        self._pool._over(self, exchange)

    def close(self) -> None:
        """Free the socket and its watchers; may be called twice."""
        if self.socket is None:
            return
        self.open = False
        self._reader.remove(self.socket.fileno())
        self._writer.stop()
        self._writer.close()
        self.socket.close()
        self.socket = None  # type: ignore[assignment]  # marks the connection as closed


class Client:
    """A bounded pool of connections to one target. Requests in flight never exceed `limits.max_connections`."""

    def __init__(self, target: Target, limits: Limits, tls: ssl.SSLContext | None = None) -> None:
        self.target, self.limits = target, limits
        self.tls = None if target.scheme == "http" else tls or tls_context(target.access)
        self.reader, self.clock = Reader(), KernelClock()
        self.in_flight: set[Exchange] = set()
        self.waited = 0  # requests that had to wait for a connection to open
        self.opened = 0  # connections opened so far
        self.last_refusal: Exception | None = None
        self._idle: deque[Connection] = deque()
        self._opening: set[Connection] = set()
        self._addresses = self._resolve()
        self._turn = count()
        self._resolved_s = self._swept_s = now_s()
        self._sweeper = gevent.get_hub().loop.timer(SWEEP_S, repeat=SWEEP_S)
        self._sweeper.start(self._sweep)
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether every connection that may be used is busy."""
        return len(self.in_flight) >= self.limits.max_connections

    def submit(self, exchange: Exchange) -> None:
        """Send now on an idle connection, or on a new one as soon as it is open."""
        self.in_flight.add(exchange)
        horizon_s = now_s() - IDLE_LIMIT_S
        while self._idle:
            connection = self._idle.pop()  # the most recently used one
            if connection.used_s > horizon_s:
                break
            connection.close()
        else:
            exchange.waited = True
            self.waited += 1
            try:
                connection = next((c for c in self._opening if c.exchange is None), None) or self._connect()
            except OSError as error:
                exchange.failure = ("connection_error", _sentence(error, self.target))
                gevent.get_hub().loop.run_callback(self._unconnected, exchange)
                return
        connection.send(exchange)
        self._keep_spares()

    def warm(self, connections: int, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Open so many connections and their spares (called from a greenlet; returns when they are open).

        Raises SourceUnavailable with the reason when none can be opened.
        """
        wanted = min(connections, self.limits.max_connections)
        wanted += self._spares(wanted)  # now, or they are opened amid the first tokens
        for _ in range(wanted - len(self._idle) - len(self._opening)):
            if not self._connect_spare():
                break
        deadline_s = now_s() + timeout_s
        while self._opening and now_s() < deadline_s:
            gevent.sleep(0.002)
        if not self._idle and not self.in_flight:
            reason = self.last_refusal or f"no answer within {timeout_s:g} s"
            raise SourceUnavailable(
                f"cannot connect to {self.target}: {_reason_of(reason)}", next_step=tls_step(reason)
            )

    def close(self, status: str = "cancelled", error: str = "the run ended") -> None:
        """Give up what is in flight with this status and close every connection."""
        self._closed = True
        self._sweeper.stop()
        self._sweeper.close()
        for exchange in list(self.in_flight):
            if exchange.connection is None:  # found none, and about to end for that
                self._unconnected(exchange)
            else:
                exchange.connection.give_up(status, error)
        for connection in (*self._idle, *self._opening):
            connection.close()
        self._idle.clear()
        self._opening.clear()
        self.reader.close()

    # --- called by connections ---------------------------------------------------------------------------------------

    def _opened(self, connection: Connection) -> None:
        self._opening.discard(connection)
        self.opened += 1
        if connection.exchange is None:
            self._idle.append(connection)

    def _refused(self, error: Exception) -> None:
        self.last_refusal = error

    def _over(self, connection: Connection, exchange: Exchange | None) -> None:
        self._opening.discard(connection)
        if connection.socket is None:
            if connection in self._idle:
                self._idle.remove(connection)
        elif self._worn(connection):
            connection.close()
        else:
            connection.used_s = now_s()
            self._idle.append(connection)
        if exchange is not None:
            exchange.connection = None
            self._ended(exchange)

    def _ended(self, exchange: Exchange) -> None:
        self.in_flight.discard(exchange)
        try:
            exchange.over(exchange)
        except Exception as error:  # noqa: BLE001 -- of whoever asked, not of this connection
            failing.tell(error)

    # --- upkeep ------------------------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        family, address = self._addresses[next(self._turn) % len(self._addresses)]
        connection = Connection(self, family, address)
        self._opening.add(connection)
        return connection

    def _connect_spare(self) -> bool:
        """Open a connection that no request waits for; whether the system allows one more."""
        try:
            self._connect()
        except OSError as error:
            self.last_refusal = error
            return False
        return True

    def _unconnected(self, exchange: Exchange) -> None:
        """End a request for which the system gives no connection."""
        if exchange in self.in_flight:
            self._ended(exchange)

    def _keep_spares(self) -> None:
        if len(self._idle) + len(self._opening) < self._spares(len(self.in_flight)) and not self._closed:
            self._connect_spare()

    def _spares(self, busy: int) -> int:
        return min(SPARE + busy // SPARE_SHARE, self.limits.max_connections - busy)

    def _worn(self, connection: Connection) -> bool:
        return (
            connection.served >= self.limits.reconnect_after_requests
            or now_s() - connection.opened_s >= self.limits.reconnect_after_s
        )

    def _sweep(self) -> None:
        """Time out silent exchanges, drop connections that idled too long, look addresses up again."""
        now = now_s()
        for exchange in list(self.in_flight):
            connection = exchange.connection
            if connection is None:
                continue
            if not known(exchange.sent_s):
                if now - connection.opened_s > CONNECT_TIMEOUT_S:
                    connection.give_up("connection_error", f"no connection within {CONNECT_TIMEOUT_S:g} s")
            elif now - exchange.sent_s > self.limits.timeout_s:
                connection.give_up("timeout", f"no complete answer within {self.limits.timeout_s:g} s")
            elif connection.body_begun and now - exchange.stamps_s[-1] > self.limits.idle_timeout_s:
                connection.give_up("timeout", f"no byte for {self.limits.idle_timeout_s:g} s in mid-answer")
        while self._idle and now - self._idle[0].used_s > IDLE_LIMIT_S:
            self._idle.popleft().close()
        for _ in range(2 if len(self._idle) < SPARE else 0):
            self._keep_spares()
        if now - self._resolved_s > RESOLVE_S:
            self._resolved_s = now
            gevent.spawn(self._resolve_again)

    def _resolve_again(self) -> None:
        try:
            self._addresses = self._resolve()
        except SourceUnavailable:
            return  # the addresses known so far stay in use

    def _resolve(self) -> list[tuple[int, Any]]:
        try:
            found = gevent.socket.getaddrinfo(self.target.host, self.target.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise SourceUnavailable(f"cannot find the host {self.target.host}: {_reason_of(error)}") from None
        return [(family, address) for family, _, _, _, address in found]


def asked(client: Client, payload: bytes) -> Exchange:
    """One request that has ended, waited for in a greenlet; used before the load, never within."""
    ended = gevent.event.Event()
    exchange = Exchange(-1, payload, now_s(), lambda _: ended.set())
    client.submit(exchange)
    ended.wait()
    return exchange


class Reply(NamedTuple):
    """One plain answer."""

    status: int
    body: bytes
    head: bytes

    def header(self, name: str) -> str | None:
        """The value of a header; None when it was not sent."""
        found = re.search(rb"(?im)^%s:[ \t]*([^\r\n]*)" % re.escape(name.encode()), self.head)
        return found[1].decode("latin-1").strip() if found else None


def fetch(client: Client, method: str, path: str, body: bytes = b"", target: Target | None = None) -> Reply:
    """One plain request, waited for in a greenlet; used before the load, never within.

    `target` is another base path on the client's server. Raises SourceUnavailable when no answer came.
    """
    exchange = asked(client, (target or client.target).request(method, path, body))
    raw = b"".join(exchange.reads)
    try:
        head = stream.parse_head(raw)
    except ValueError as error:
        raise SourceUnavailable(f"{client.target} does not speak HTTP: {error}") from None
    if head is None:
        reason = exchange.failure[1] if exchange.failure else "closed before an answer came"
        raise SourceUnavailable(f"no answer from {client.target}: {reason}")
    return Reply(head.http_status, stream._body(raw, head)[0], raw[: head.body_start])


def _reason(code: int) -> str:
    return errno.errorcode.get(code, str(code))


def _reason_of(error: object) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(getattr(error, "strerror", None) or error)


def _sentence(error: Exception, target: Target) -> str:
    return f"{target}: {_reason_of(error)}"
