"""One connection of HTTP/1.1 on gevent's event loop: a callback per read, no greenlet per request.

A read keeps the raw bytes, its time and the kernel's stamp of their arrival (loadgen.wire.receive); loadgen.wire.stream makes
sense of them after the request is over. Requests are never retried. All callbacks run in the hub: they do not switch.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any, Protocol

import gevent
import gevent.monkey

from loadgen.wire.clock import now_s
from loadgen.wire.descriptors import check_descriptor
from loadgen.wire.exchange import Exchange
from loadgen.wire.http_response import Head, is_complete, parse_head
from loadgen.wire.receive import READ_BYTES, KernelClock, Reader, ask_for_stamps
from loadgen.wire.refusals import connection_sentence, errno_name
from loadgen.wire.target import HttpTarget

WRITE_EVENTS = 2  # gevent.hub.loop.io
MOST_BYTES = 64 << 20  # of one answer; 128,000 tokens of a chat take 32 MiB

# Locust patches the standard library; the watchers here need plain non-blocking sockets.
_Socket: type[socket.socket] = gevent.monkey.get_original("socket", "socket")


class Pool(Protocol):
    """What a connection needs of the pool that it belongs to, and tells it, in the hub."""

    target: HttpTarget
    tls: ssl.SSLContext | None
    reader: Reader
    clock: KernelClock

    def connection_opened(self, connection: Connection) -> None:
        """It can be used; the request that waited for it, if any, is sent next."""

    def connection_refused(self, error: Exception) -> None:
        """It could not be opened; `connection_over` follows."""

    def connection_over(self, connection: Connection, exchange: Exchange | None) -> None:
        """Its exchange has ended, or it closed without one; it is `closed`, or idle again."""


class Connection:
    """One socket: opening -> (TLS handshake) -> idle <-> busy -> closed.

    Invariant: `exchange` is set exactly while a request waits for this connection or for its answer.
    """

    __slots__ = ("_body_bytes", "_head", "_incoming", "_outgoing", "_pool", "_reader", "_streaming", "_tls", "_unsent",
 "_writer", "exchange", "open", "opened_s", "served", "socket", "used_s")  # fmt: skip

    def __init__(self, pool: Pool, family: int, address: Any) -> None:
        self._pool = pool
        self.open = False
        self.opened_s = self.used_s = now_s()
        self.served = 0
        self.exchange: Exchange | None = None
        self._unsent = b""
        self._head: Head | None = None
        self._body_bytes = 0
        self._streaming = False  # within a chunked body: most reads need no look at their content
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.socket = _Socket(family, socket.SOCK_STREAM)
        try:
            check_descriptor(self.socket.fileno())
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
            loop.run_callback(self._failed, OSError(code, errno_name(code)))
        else:
            self._writer.start(self._connected)

    # --- opening -----------------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        self._writer.stop()
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._failed(OSError(code, errno_name(code)))
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
        self._pool.connection_opened(self)
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
        exchange.size += len(data)
        # a chunked body ends with an empty line; after another one it ends an event whose lines end with CRLF
        perhaps_over = data.endswith(b"\r\n\r\n") and not data.endswith(b"\r\n\r\n\r\n")
        if exchange.size > MOST_BYTES:
            self.give_up("incomplete", f"answer larger than {MOST_BYTES >> 20} MiB")
        elif perhaps_over or not self._streaming or len(data) < 6:
            try:
                self._advance(exchange, len(data))
            except ValueError:
                self._over(keep=False)

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
        """Look whether it is complete: for the head, and where the framing may end. ValueError when it can be none."""
        head = self._head
        if head is None:
            raw = b"".join(exchange.reads)
            self._head = head = parse_head(raw)
            if head is None:
                return
            self._body_bytes = len(raw) - head.body_start
            self._streaming = head.chunked
        else:
            self._body_bytes += size
        if head.chunked:
            complete = is_complete(head, b"".join(exchange.reads))
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
            self._pool.connection_refused(error)
        if self.exchange is not None:
            self.exchange.failure = ("connection_error", connection_sentence(error, self._pool.target))
        self._over(keep=False)

    @property
    def body_begun(self) -> bool:
        """Whether more than the head has been read; before that the server may keep the request in a queue."""
        return self.exchange is not None and (len(self.exchange.reads) > 1 or self._body_bytes > 0)

    def give_up(self, status: str, error: str) -> None:
        """End the exchange from this side; the server sees the connection close."""
        if self.exchange is not None:
            self.exchange.failure = (status, error)
            self.exchange.given_up_s = now_s()
        self._over(keep=False)

    def end(self) -> None:
        """Take the answer as it is; the server sees the connection close."""
        self._over(keep=False)

    def _over(self, keep: bool) -> None:
        exchange, self.exchange = self.exchange, None
        self.served += 1
        if not keep:
            self.close()
        self._pool.connection_over(self, exchange)

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
