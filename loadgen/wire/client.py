"""The pool of connections: which one carries a request, how many are kept open, when they are replaced.

It keeps a few spare connections open, so that a request that is due does not wait for a handshake, and replaces
connections that served long enough, so that replicas which a scale-out adds get their share of the traffic.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import Any

import gevent
import gevent.socket

from analysis.errors import SourceUnavailable
from analysis.numbers import known
from loadgen import failing
from loadgen.wire.clock import now_s
from loadgen.wire.connection import Connection
from loadgen.wire.exchange import Carrier, Exchange
from loadgen.wire.http_response import body_fault
from loadgen.wire.receive import KernelClock, Reader
from loadgen.wire.refusals import connection_reason, connection_sentence, tls_step
from loadgen.wire.stream import said_done
from loadgen.wire.target import HttpTarget, tls_context

SPARE = 8  # idle connections kept open, plus one per SPARE_SHARE in flight
SPARE_SHARE = 16
IDLE_LIMIT_S = 3.0  # an idle connection is not used after this; uvicorn closes after 5 s
CONNECT_TIMEOUT_S = 10.0
SWEEP_S = 0.25
SILENT_S = 1.0  # in mid-answer, after which its framing is looked at
RESOLVE_S = 30.0


@dataclass(frozen=True)
class Limits:
    """What the pool may do. Times in s."""

    max_connections: int = 4096
    timeout_s: float = 600.0  # from sent to the end of the answer
    idle_timeout_s: float = 120.0  # without a byte, once the body has begun
    reconnect_after_s: float = 30.0  # age at which a connection is replaced; inf = never
    reconnect_after_requests: float = math.inf


class Client:
    """A bounded pool of connections to one target. Requests in flight never exceed `limits.max_connections`."""

    def __init__(self, target: HttpTarget, limits: Limits, tls: ssl.SSLContext | None = None) -> None:
        self.target, self.limits = target, limits
        self.tls = None if target.scheme == "http" else tls or tls_context(target.access)
        self.reader, self.clock = Reader(), KernelClock()
        self.in_flight: set[Exchange] = set()
        self.waited = 0  # requests that had to wait for a connection to open
        self.opened = 0  # connections opened so far
        self.last_refusal: Exception | None = None
        self._idle: deque[Connection] = deque()
        self._opening: set[Connection] = set()
        self._silent_s = min(SILENT_S, limits.idle_timeout_s)
        self._silent: set[Exchange] = set()  # in mid-answer, at the last sweep
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
                exchange.failure = ("connection_error", connection_sentence(error, self.target))
                gevent.get_hub().loop.run_callback(self._unconnected, exchange)
                return
        connection.send(exchange)
        self._keep_spares()

    def warm(self, connections: int) -> None:
        """Open so many connections and their spares (called from a greenlet; returns when they are open).

        Raises SourceUnavailable with the reason when none can be opened.
        """
        wanted = min(connections, self.limits.max_connections)
        wanted += self._spares(wanted)  # now, or they are opened amid the first tokens
        for _ in range(wanted - len(self._idle) - len(self._opening)):
            if not self._connect_spare():
                break
        deadline_s = now_s() + CONNECT_TIMEOUT_S
        while self._opening and now_s() < deadline_s:
            gevent.sleep(0.002)
        if not self._idle and not self.in_flight:
            reason = self.last_refusal or f"no answer within {CONNECT_TIMEOUT_S:g} s"
            raise SourceUnavailable(
                f"cannot connect to {self.target}: {connection_reason(reason)}", next_step=tls_step(reason)
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

    def connection_opened(self, connection: Connection) -> None:
        self._opening.discard(connection)
        self.opened += 1
        if connection.exchange is None:
            self._idle.append(connection)

    def connection_refused(self, error: Exception) -> None:
        self.last_refusal = error

    def connection_over(self, connection: Connection, exchange: Exchange | None) -> None:
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
        silent: set[Exchange] = set()
        for exchange in list(self.in_flight):
            connection = exchange.connection
            if connection is None:
                continue
            if not known(exchange.sent_s):
                if now - connection.opened_s > CONNECT_TIMEOUT_S:
                    connection.give_up("connection_error", f"no connection within {CONNECT_TIMEOUT_S:g} s")
            elif now - exchange.sent_s > self.limits.timeout_s:
                connection.give_up("timeout", f"no complete answer within {self.limits.timeout_s:g} s")
            elif connection.body_begun and now - exchange.stamps_s[-1] > self._silent_s:
                silent.add(exchange)
                self._in_silence(connection, exchange, now - exchange.stamps_s[-1])
        self._silent = silent
        while self._idle and now - self._idle[0].used_s > IDLE_LIMIT_S:
            self._idle.popleft().close()
        for _ in range(2 if len(self._idle) < SPARE else 0):
            self._keep_spares()
        if now - self._resolved_s > RESOLVE_S:
            self._resolved_s = now
            gevent.spawn(self._resolve_again)

    def _in_silence(self, connection: Carrier, exchange: Exchange, silent_s: float) -> None:
        """End what has been silent for too long or, looked at once in a silence, can never be complete or has said its end."""
        if silent_s > self.limits.idle_timeout_s:
            connection.give_up("timeout", f"no byte for {self.limits.idle_timeout_s:g} s in mid-answer")
        elif exchange in self._silent:
            return
        elif fault := body_fault(exchange.reads):
            connection.give_up("incomplete", fault)
        elif said_done(exchange.reads):
            connection.end()

    def _resolve_again(self) -> None:
        try:
            self._addresses = self._resolve()
        except SourceUnavailable:
            return  # the addresses known so far stay in use

    def _resolve(self) -> list[tuple[int, Any]]:
        try:
            found = gevent.socket.getaddrinfo(self.target.host, self.target.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise SourceUnavailable(
                f"cannot find the host {self.target.host}: {connection_reason(error)}"
            ) from None
        return [(family, address) for family, _, _, _, address in found]
