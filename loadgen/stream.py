"""From the bytes of one HTTP response and their receive times to tokens, gaps and a failure class. Pure.

A response is a list of socket reads, each with its time. Nothing here depends on where the reads were cut: an event's
time is the time of the read that held its last byte, so cutting finer changes times, never tokens, classes or order.

What a vLLM server does and why it matters here: the 200 headers come at once while the request still queues; several
events share a read; a token may have empty text; the chat role chunk carries no token; the usage event has no choices;
a dying engine sends an error event and then [DONE], all under status 200; a stream cut short has no [DONE].
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadgen import scanning
from loadgen.refusals import retry_after

RETRY_AFTER = re.compile(rb"\r\nretry-after:([^\r\n]{1,40})", re.IGNORECASE)
HEAD_LIMIT = 65_536  # bytes of headers after which the peer is not taken for an HTTP server


def _bytes(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8)


DATA = _bytes(b"data:")
# without and with a space after colons: the keys of a token's text, and of the reason why a choice ended
KEYS = [
    [_bytes(b'"%s":%s"' % (key, gap)) for key in (b"text", b"content", b"finish_reason")]
    for gap in (b"", b" ")
]
MARKS = [_bytes(b'"role"'), _bytes(b'"error"')]


class Head(NamedTuple):
    """Status line and the headers that matter. `length` is the body's size; None: chunked, or up to the close."""

    http_status: int
    body_start: int  # offset of the first body byte
    chunked: bool
    length: int | None
    keep_alive: bool
    event_stream: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request got back. Times are those of the reads; NaN and None mean that it did not happen.

    `token_times_s` holds one time per event that carried a token; tokens are counted by the server's usage
    (`output_tokens`), since one event may hold several.
    """

    status: str
    http_status: int | None
    error: str | None
    token_times_s: NDArray[np.float64]
    last_s: float  # last event that carried a token; the last byte when the answer was not streamed
    prompt_tokens: int | None
    output_tokens: int | None
    hidden_tokens: int = 0  # of output_tokens: reasoning that was not streamed

    @property
    def first_s(self) -> float:
        """Time of the first token; NaN when none came or the answer was not streamed."""
        return float(self.token_times_s[0]) if len(self.token_times_s) else float("nan")


def parse_head(data: bytes) -> Head | None:
    """The head at the start of `data`, interim 1xx answers skipped; None while it is not complete.

    Raises ValueError when it cannot be the head of an HTTP/1 response.
    """
    start = 0
    while True:
        if not data.startswith(b"HTTP/1.", start) and not b"HTTP/1.".startswith(data[start : start + 7]):
            raise ValueError(f"not an HTTP response: {data[start : start + 40]!r}")
        end = data.find(b"\r\n\r\n", start)
        if end < 0:
            if len(data) - start > HEAD_LIMIT:
                raise ValueError(f"no end of headers within {HEAD_LIMIT} bytes")
            return None
        lines = data[start:end].lower().split(b"\r\n")
        http_status = int(lines[0][9:12])
        if http_status >= 200:
            break
        start = end + 4
    headers = dict(line.split(b":", 1) for line in lines[1:] if b":" in line)
    chunked = b"chunked" in headers.get(b"transfer-encoding", b"")
    length = headers.get(b"content-length")
    size = 0 if http_status in (204, 304) else int(length) if length is not None and not chunked else None
    persistent = b"keep-alive" if lines[0].startswith(b"http/1.1") else b"close"
    connection = headers.get(b"connection", persistent)
    return Head(
        http_status,
        end + 4,
        chunked,
        size,
        b"close" not in connection and (chunked or size is not None),
        b"event-stream" in headers.get(b"content-type", b""),
    )


def is_complete(head: Head, raw: bytes) -> bool:
    """Whether `raw`, a response from its first byte, holds the whole body; never true for one that ends by closing."""
    if head.chunked:
        return scanning.chunks(raw, head.body_start)[2]
    return head.length is not None and len(raw) >= head.body_start + head.length


def read_answer(
    stamps_s: Sequence[float] | NDArray[np.float64],
    reads: Sequence[bytes],
    failure: tuple[str, str] | None = None,
) -> Answer:
    """The answer in these reads. `failure` is (status, error) when the client gave up; None: the response ended or the
    peer closed the connection."""
    raw = b"".join(reads)
    try:
        head = parse_head(raw)
    except ValueError as error:
        return _without_answer("connection_error", str(error))
    if head is None:
        return _without_answer(*(failure or ("connection_error", "closed before an answer came")))
    body, starts, ends, ended = _body(raw, head)
    if head.http_status != 200:
        message = error_message(body) or body[:200].decode("utf-8", "replace")
        if found := RETRY_AFTER.search(raw, 0, head.body_start):
            message = retry_after(message, found[1].decode("latin-1").strip())
        return _without_answer("http_error", message, head.http_status)
    if head.event_stream:
        token_ends, facts = _events(body)
        read_ends = np.cumsum(np.fromiter(map(len, reads), np.int64, len(reads)))
        times = scanning.times(token_ends, starts, ends, read_ends, np.asarray(stamps_s, dtype=np.float64))
        last_s = float(times[-1]) if len(times) else float("nan")
        ended = ended or facts.done
    else:
        times, facts = np.empty(0), _whole(body)
        last_s = float(stamps_s[-1]) if ended and facts.done else float("nan")
    reason: str | None
    if failure is not None:
        status, reason = failure
    elif facts.error is not None:
        status, reason = "incomplete", facts.error
    elif not facts.done:
        missing = "[DONE]" if head.event_stream else "an OpenAI answer in JSON"
        status, reason = "incomplete", f"the response ended without {missing}"
    elif not ended:
        status, reason = "incomplete", "the connection was closed before the end of the response"
    elif head.event_stream and not len(times):
        status, reason = "incomplete", "the stream held no token"
    else:
        status, reason = "ok", None
    return Answer(
        status,
        head.http_status,
        reason,
        times,
        last_s,
        facts.prompt_tokens,
        facts.output_tokens,
        facts.hidden_tokens(),
    )


def error_message(body: bytes) -> str | None:
    """The sentence in an error body (`error.message`, or FastAPI's `detail`); None when there is none."""
    try:
        content = json.loads(body)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    error = content.get("error", content.get("detail"))
    if isinstance(error, dict):
        error = error.get("message")
    return None if error is None else str(error)


# --- inside ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Facts:
    """What a body says besides tokens. `done`: it came to its proper end."""

    done: bool = False
    error: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int = 0
    reasoned: bool = False  # reasoning was streamed

    def take_usage(self, content: dict[str, Any]) -> None:
        usage = content.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = usage.get("prompt_tokens", self.prompt_tokens)
            self.output_tokens = usage.get("completion_tokens", self.output_tokens)
            details = usage.get("completion_tokens_details")
            reasoning = details.get("reasoning_tokens") if isinstance(details, dict) else None
            if isinstance(reasoning, int) and reasoning >= 0:
                self.reasoning_tokens = reasoning

    def hidden_tokens(self) -> int:
        """Tokens of the usage that no event carried: reasoning that the server keeps to itself."""
        return 0 if self.reasoned else min(self.reasoning_tokens, self.output_tokens or 0)


def _without_answer(status: str, error: str, http_status: int | None = None) -> Answer:
    return Answer(status, http_status, error, np.empty(0), float("nan"), None, None)


def _body(raw: bytes, head: Head) -> tuple[bytes, NDArray[np.int64], NDArray[np.int64], bool]:
    """The body, where the pieces of it begin and end in `raw`, and whether the framing says that it is complete."""
    if head.chunked:
        starts, ends, complete = scanning.chunks(raw, head.body_start)
        return scanning.joined(raw, starts, ends), starts, ends, complete
    end = len(raw) if head.length is None else min(head.body_start + head.length, len(raw))
    complete = head.length is not None and len(raw) >= head.body_start + head.length
    return raw[head.body_start : end], np.array([head.body_start]), np.array([end]), complete


def _events(body: bytes) -> tuple[NDArray[np.int64], _Facts]:
    """(where each event that carries a token ends, facts) of an event stream.

    Most events are one plain token each. They are recognised by byte patterns that cannot occur inside a JSON string,
    where quotes are escaped; the others are decoded.
    """
    starts, ends, plain = scanning.events(body, DATA, *KEYS[b'": ' in body[:2000]], *MARKS)
    facts = _Facts()
    closing: list[int] = []  # events without text, which may only end a choice
    for number in np.flatnonzero(~plain).tolist():
        payload = _data(body[starts[number] : ends[number]])
        if payload == b"[DONE]":
            facts.done = True
            continue
        try:
            decoded = json.loads(payload.decode())
        except ValueError:
            continue  # cut in the middle: the stream ends here
        if not isinstance(decoded, dict):
            continue
        if decoded.get("error") is not None:
            facts.error = f"error in the stream: {error_message(payload)}"
            continue
        facts.take_usage(decoded)
        choices = decoded.get("choices") or []
        facts.reasoned = facts.reasoned or any(_reasons(choice) for choice in choices)
        if any(_carries_token(choice) for choice in choices):
            plain[number] = True
            if not any(_text(choice) for choice in choices):
                closing.append(number)
    # A server may end a choice with an event of its own that holds no token; only its usage can tell.
    surplus = 0 if facts.output_tokens is None else int(plain.sum()) - facts.output_tokens
    if surplus > 0:
        plain[closing[-surplus:]] = False
    return ends[plain], facts


def _data(event: bytes) -> bytes:
    """The payload of an event: its data lines joined, comments and other fields left out."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line.rstrip(b"\r") for line in event.split(b"\n")]
    return b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))


def _text(choice: dict[str, Any]) -> str:
    delta = choice.get("delta") or {}
    return choice.get("text") or next((v for k, v in delta.items() if k != "role" and v), "")


def _reasons(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(delta.get("reasoning_content") or delta.get("reasoning"))


def _carries_token(choice: dict[str, Any]) -> bool:
    if "text" in choice:
        return True
    delta = choice.get("delta") or {}
    if "role" in delta:
        return bool(_text(choice))
    return any(value is not None for value in delta.values())


def _whole(body: bytes) -> _Facts:
    """The facts of an answer that was not streamed."""
    facts = _Facts()
    try:
        content = json.loads(body)
    except ValueError:
        return facts
    if isinstance(content, dict):
        facts.take_usage(content)
        facts.done = isinstance(content.get("choices"), list)
        if content.get("error") is not None:
            facts.error = f"error in the answer: {error_message(body)}"
    return facts
