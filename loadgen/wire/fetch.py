"""One plain request and its answer, waited for in a greenlet: used before the load, never within."""

from __future__ import annotations

from typing import NamedTuple

import gevent.event

from analysis.errors import SourceUnavailable
from loadgen.wire.client import Client
from loadgen.wire.clock import now_s
from loadgen.wire.exchange import Exchange
from loadgen.wire.http_response import header, parse_head, response_body
from loadgen.wire.target import HttpTarget


def ask_once(client: Client, payload: bytes) -> Exchange:
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
        return header(self.head, name)


def fetch(
    client: Client, method: str, path: str, body: bytes = b"", target: HttpTarget | None = None
) -> Reply:
    """One plain request, waited for in a greenlet; used before the load, never within.

    `target` is another base path on the client's server. Raises SourceUnavailable when no answer came.
    """
    exchange = ask_once(client, (target or client.target).request(method, path, body))
    raw = b"".join(exchange.reads)
    try:
        head = parse_head(raw)
    except ValueError as error:
        raise SourceUnavailable(f"{client.target} does not speak HTTP: {error}") from None
    if head is None:
        reason = exchange.failure[1] if exchange.failure else "closed before its headers ended"
        raise SourceUnavailable(f"no answer from {client.target}: {reason}")
    return Reply(head.http_status, response_body(raw, head).data, raw[: head.body_start])
