"""The framing of one HTTP/1.1 response: its head, where its body lies in the bytes, whether it is complete. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadgen.wire import scan
from loadgen.wire.refusals import LONGEST_WAIT_S

SWITCHED = 101  # to another protocol that nobody asked for: no answer follows
STATUS = re.compile(rb" [1-9]\d\d ?")
LENGTH = re.compile(rb"\d{1,18}")
HEAD_END = re.compile(rb"\r?\n\r?\n")
HEAD_LIMIT = 65_536  # bytes of headers after which the peer is not taken for an HTTP server


class Head(NamedTuple):
    """Status line and the headers that matter. `length` is the body's size; None: chunked, or up to the close."""

    http_status: int
    body_start: int  # offset of the first body byte
    chunked: bool
    length: int | None
    keep_alive: bool
    event_stream: bool
    encoding: str  # in which the body is compressed; "" = it is not


def parse_head(data: bytes) -> Head | None:
    """The head at the start of `data`, interim 1xx answers skipped, but 101; None while it is not complete. Lines may end with LF alone.

    Raises ValueError when it cannot be the head of an HTTP/1 response.
    """
    start = 0
    while True:
        if not data.startswith(b"HTTP/1.", start) and not b"HTTP/1.".startswith(data[start : start + 7]):
            raise ValueError(f"not an HTTP response: {data[start : start + 40]!r}")
        end = HEAD_END.search(data, start)
        if end is None:
            if len(data) - start > HEAD_LIMIT:
                raise ValueError(f"no end of headers within {HEAD_LIMIT} bytes")
            return None
        lines = data[start : end.start()].lower().replace(b"\r\n", b"\n").split(b"\n")
        if not STATUS.fullmatch(lines[0][8:13]):
            raise ValueError(f"not an HTTP response: its status line is {lines[0][:40]!r}")
        http_status = int(lines[0][9:12])
        if http_status >= 200 or http_status == SWITCHED:
            break
        start = end.end()
        if start > HEAD_LIMIT:
            raise ValueError(f"no answer within {HEAD_LIMIT} bytes of interim ones")
    headers = _headers(lines[1:])
    transfer = headers.get(b"transfer-encoding", b"")
    chunked = b"chunked" in transfer and http_status != SWITCHED
    size = (
        0
        if http_status in (SWITCHED, 204, 304)
        else None
        if chunked
        else _length(headers.get(b"content-length"))
    )
    persistent = b"keep-alive" if lines[0].startswith(b"http/1.1") else b"close"
    connection = headers.get(b"connection", persistent)
    return Head(
        http_status,
        end.end(),
        chunked,
        size,
        b"close" not in connection and (chunked or size is not None) and http_status != SWITCHED,
        b"event-stream" in headers.get(b"content-type", b""),
        _encoding(headers.get(b"content-encoding", b""), transfer),
    )


def _headers(lines: Sequence[bytes]) -> dict[bytes, bytes]:
    """Name -> value; that of a header which comes twice is a list, so that one cannot hide the other."""
    headers: dict[bytes, bytes] = {}
    for name, colon, value in (line.partition(b":") for line in lines):
        if colon:
            headers[name] = headers[name] + b"," + value if name in headers else value
    return headers


def _length(value: bytes | None) -> int | None:
    """The number of a Content-Length, once or repeated by a proxy. Raises ValueError when it is none."""
    if value is None:
        return None
    one, *others = {number.strip() for number in value.split(b",")}
    if others or not LENGTH.fullmatch(one):
        raise ValueError(f"no length of an answer: Content-Length is {value.strip()[:40]!r}")
    return int(one)


def _encoding(content: bytes, transfer: bytes) -> str:
    named = [name.strip() for name in (content + b"," + transfer).split(b",")]
    return b", ".join(name for name in named if name not in (b"", b"identity", b"chunked"))[:40].decode(
        "latin-1"
    )


def is_complete(head: Head, raw: bytes) -> bool:
    """Whether `raw`, a response from its first byte, holds the whole body; never true for one that ends by closing.

    Raises ValueError when it never will, since a chunk has no size.
    """
    if head.chunked:
        found = scan.chunks(raw, head.body_start)
        if fault := _chunk_fault(raw, found):
            raise ValueError(fault)
        return found.ended
    return head.length is not None and len(raw) >= head.body_start + head.length


def retry_after_s(reads: Sequence[bytes], now_unix_s: float) -> float:
    """The seconds that the server asks to wait in Retry-After (a number, or a date); NaN where it asks nothing, or
    for more than LONGEST_WAIT_S."""
    text = header(HEAD_END.split(b"".join(reads[:2])[:HEAD_LIMIT], 1)[0], "retry-after")
    if text is None:
        return math.nan
    try:
        wait_s = (
            float(text)
            if text.isascii() and text.isdigit()
            else parsedate_to_datetime(text).timestamp() - now_unix_s
        )
    except (ValueError, OverflowError):
        return math.nan
    return max(0.0, wait_s) if wait_s <= LONGEST_WAIT_S else math.nan


def header(head: bytes, name: str) -> str | None:
    """The value of this header in the bytes of a head; None when it was not sent."""
    found = re.search(rb"(?im)^%s:[ \t]*([^\r\n]*)" % re.escape(name.encode()), head)
    return found[1].decode("latin-1").strip() if found else None


class Body(NamedTuple):
    """The body, where its pieces begin and end in the response, whether the framing says that it is complete, and why it can
    never be."""

    data: bytes
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    complete: bool
    fault: str | None = None


def response_body(raw: bytes, head: Head) -> Body:
    """The body in `raw`, a response from its first byte, as far as it has come."""
    if head.chunked:
        found = scan.chunks(raw, head.body_start)
        data = scan.joined_chunks(raw, found.starts, found.ends)
        return Body(data, found.starts, found.ends, found.ended, _chunk_fault(raw, found))
    end = len(raw) if head.length is None else min(head.body_start + head.length, len(raw))
    complete = head.length is not None and len(raw) >= head.body_start + head.length
    return Body(raw[head.body_start : end], np.array([head.body_start]), np.array([end]), complete)


def body_fault(reads: Sequence[bytes]) -> str | None:
    """Why the body in these reads can never be complete; None where it can."""
    raw = b"".join(reads)
    head = parse_head(raw)
    return response_body(raw, head).fault if head else None


def _chunk_fault(raw: bytes, found: scan.Framing) -> str | None:
    if found.broken < 0:
        return None
    line = raw[found.broken : found.broken + 41].partition(b"\n")[0].rstrip(b"\r").decode("latin-1")
    return f"{line if len(line) <= 40 else line[:37] + '...'!r} is no chunk size"
