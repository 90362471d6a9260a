"""From the bytes of one HTTP response and their receive times to tokens, gaps and a failure class. Pure.

A response is a list of socket reads, each with its time. Nothing here depends on where the reads were cut: an event's
time is the time of the read that held its last byte, so cutting finer changes times, never tokens, classes or order.

What a vLLM server does and why it matters here: the 200 headers come at once while the request still queues; several
events share a read; a token may have empty text; the chat role chunk carries no token; the usage event has no choices;
a dying engine sends an error event and then [DONE], all under status 200; a stream cut short has no [DONE].
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadgen.wire import scan as scanning
from loadgen.wire.refusals import retry_after

RETRY_AFTER = re.compile(rb"\r\nretry-after:([^\r\n]{1,40})", re.IGNORECASE)
HEAD_LIMIT = 65_536  # bytes of headers after which the peer is not taken for an HTTP server
MOST_TOKENS = 2**31 - 1  # of one request; a count beyond it is no count
LONGEST_REASON = 500  # characters of what a server said that are kept
BOM = b"\xef\xbb\xbf"
_JSON = json.JSONDecoder(strict=False)  # a control character in a text is odd and harmless


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
    peer closed the connection.

    Total: whatever the bytes are, there is an answer with a status, and where it is not ok a reason that can be printed.
    """
    answer = _read_answer(stamps_s, reads, failure)
    return answer if answer.error is None else replace(answer, error=printable(answer.error))


def unreadable(error: Exception, reads: Sequence[bytes]) -> Answer:
    """The answer that nothing could be made of, because of this error in reading it."""
    what = f"the answer of {sum(map(len, reads))} bytes could not be read: {type(error).__name__}: {error}"
    return _without_answer("incomplete", printable(what))


def _read_answer(
    stamps_s: Sequence[float] | NDArray[np.float64],
    reads: Sequence[bytes],
    failure: tuple[str, str] | None,
) -> Answer:
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
        if (asked := _retry_after(raw[: head.body_start])) is not None:
            message = retry_after(message, asked)
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
    elif facts.odd is not None:
        status, reason = "incomplete", facts.odd
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
    content = decoded(body)
    if not isinstance(content, dict):
        return None
    error = content.get("error", content.get("detail"))
    if isinstance(error, dict):
        error = error.get("message")
    return None if error is None else error if isinstance(error, str) else _brief(error)


def decoded(text: bytes) -> Any:
    """The JSON value in this text; None where it is none, or one that is nested too deeply to be read."""
    try:
        return _JSON.decode(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def printable(text: str) -> str:
    """The text as one line that can be written and printed anywhere: what cannot is escaped, what is long is cut."""
    line = " ".join(text[: 4 * LONGEST_REASON].split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return shown if len(shown) <= LONGEST_REASON else shown[: LONGEST_REASON - 3] + "..."


def looks_failed(reads: Sequence[bytes], failure: tuple[str, str] | None) -> bool:
    """Whether the request failed, from the status line and the last bytes alone: for whoever cannot wait for the answer."""
    if failure is not None or not reads or reads[0][9:12] != b"200":
        return True
    tail = b"".join(reads[-3:])[-400:]
    return b"event-stream" in reads[0][:2000].lower() and (b"[DONE]" not in tail or b'"error"' in tail)


def retry_after_s(reads: Sequence[bytes], now_unix_s: float) -> float:
    """The seconds that the server asks to wait in Retry-After (a number, or a date); NaN where it asks nothing."""
    text = _retry_after(b"".join(reads[:2])[:HEAD_LIMIT].split(b"\r\n\r\n", 1)[0])
    if text is None:
        return math.nan
    try:
        wait_s = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - now_unix_s
    except (ValueError, OverflowError):
        return math.nan
    return max(0.0, wait_s)


def _retry_after(head: bytes) -> str | None:
    """The value of the header in the bytes of a head."""
    found = RETRY_AFTER.search(head)
    return None if found is None else found[1].decode("latin-1").strip()


# --- inside ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Facts:
    """What a body says besides tokens. `done`: it came to its proper end; `odd`: what in it is not as OpenAI's."""

    done: bool = False
    error: str | None = None
    odd: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int = 0
    reasoned: bool = False  # reasoning was streamed

    def take_usage(self, content: dict[str, Any]) -> None:
        """A count is taken when it is one; anything else stays null, and the answer is odd."""
        usage = content.get("usage")
        if usage is None:
            return
        if not isinstance(usage, dict):
            self.odd = f"usage is {_brief(usage)}; expected an object"
            return
        self.prompt_tokens = self._count(usage, "prompt_tokens", self.prompt_tokens)
        self.output_tokens = self._count(usage, "completion_tokens", self.output_tokens)
        details = usage.get("completion_tokens_details")
        if isinstance(details, dict):
            self.reasoning_tokens = self._count(details, "reasoning_tokens", self.reasoning_tokens) or 0

    def hidden_tokens(self) -> int:
        """Tokens of the usage that no event carried: reasoning that the server keeps to itself."""
        return 0 if self.reasoned else min(self.reasoning_tokens, self.output_tokens or 0)

    def _count(self, usage: dict[str, Any], name: str, before: int | None) -> int | None:
        value = usage.get(name)
        if value is None:
            return before
        if type(value) is int and 0 <= value <= MOST_TOKENS:
            return value
        self.odd = (
            f"usage.{name} is {_brief(value)}; expected a whole number of tokens from 0 to {MOST_TOKENS}"
        )
        return None

    def take_error(self, where: str, payload: bytes) -> None:
        self.error = f"error in the {where}: {error_message(payload) or _brief(payload)}"


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
        content = decoded(payload)
        if not isinstance(content, dict):
            if (
                payload[:1] in (b"{", b"[") and number < len(ends) - 1
            ):  # the last one may be cut in the middle
                facts.odd = f"an event of the stream is {_brief(payload)}; expected an object in JSON"
            continue
        if content.get("error") is not None:
            facts.take_error("stream", payload)
            continue
        facts.take_usage(content)
        choices = _objects(content.get("choices"))
        facts.reasoned = facts.reasoned or any(_reasons(choice) for choice in choices)
        if any(_carries_token(choice) for choice in choices):
            plain[number] = True
            if not any(_has_text(choice) for choice in choices):
                closing.append(number)
        elif not _is_understood(content.get("choices")):
            facts.odd = f"an event of the stream is {_brief(payload)}; expected choices with text or delta"
    # A server may end a choice with an event of its own that holds no token; only its usage can tell.
    surplus = 0 if facts.output_tokens is None else int(plain.sum()) - facts.output_tokens
    if surplus > 0:
        plain[closing[-surplus:]] = False
    return ends[plain], facts


def _data(event: bytes) -> bytes:
    """The payload of an event: its data lines joined, comments and other fields left out."""
    event = event.removeprefix(BOM)
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line.rstrip(b"\r") for line in event.split(b"\n")]
    return b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects in what should be a list of them, or one."""
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]


def _is_understood(choices: Any) -> bool:
    """Whether the choices of an event without token are such as servers send: a list of objects whose delta is one, or
    nothing."""
    if choices is None:
        return True
    found = _objects(choices)
    if not isinstance(choices, list) or len(found) < len(choices):
        return False
    return all(choice.get("delta") is None or _objects(choice["delta"]) for choice in found)


def _has_text(choice: dict[str, Any]) -> bool:
    if choice.get("text"):
        return True
    return any(v for delta in _objects(choice.get("delta")) for k, v in delta.items() if k != "role")


def _reasons(choice: dict[str, Any]) -> bool:
    return any(d.get("reasoning_content") or d.get("reasoning") for d in _objects(choice.get("delta")))


def _carries_token(choice: dict[str, Any]) -> bool:
    if "text" in choice:
        return True
    deltas = _objects(choice.get("delta"))
    if any("role" in delta for delta in deltas):
        return _has_text(choice)
    return any(value is not None for delta in deltas for value in delta.values())


def _whole(body: bytes) -> _Facts:
    """The facts of an answer that was not streamed."""
    facts = _Facts()
    content = decoded(body)
    if isinstance(content, dict):
        facts.take_usage(content)
        choices = content.get("choices")
        facts.done = isinstance(choices, list)
        if not _is_understood(choices):
            facts.odd = f"choices are {_brief(choices)}; expected objects with text or message"
        if content.get("error") is not None:
            facts.take_error("answer", body)
    return facts


def _brief(value: Any) -> str:
    """The beginning of a value of any kind and size, for a sentence."""
    try:
        text = value[:80].decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
