"""From the bytes of one HTTP response and their receive times to tokens, gaps and a failure class. Pure.

A response is a list of socket reads, each with its time. Nothing here depends on where the reads were cut: an event's
time is the time of the read that held its last byte, so cutting finer changes times, never tokens, classes or order.

A vLLM server sends the 200 headers at once while the request still queues, and an error of its engine under status 200;
a stream cut short has no [DONE].
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.errors import printable
from loadgen.wire import read_times
from loadgen.wire.http_response import Head, header, parse_head, response_body
from loadgen.wire.openai_body import error_message, is_stream, stream_facts, whole_facts
from loadgen.wire.refusals import redirected, retry_after

DONE = re.compile(rb"(?:^|\n)data: ?\[DONE\]\s*(?:0\r\n)?$")  # within JSON a line end is escaped
NO_REASON = "the server gave no reason"


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
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


def parse_answer(
    stamps_s: Sequence[float] | NDArray[np.float64],
    reads: Sequence[bytes],
    failure: tuple[str, str] | None = None,
) -> ParsedAnswer:
    """The answer in these reads. `failure` is (status, error) when the client gave up; None: the response ended or the
    peer closed the connection.

    Total: whatever the bytes are, there is an answer with a status, and where it is not ok a reason that can be printed.
    """
    answer = _read_answer(stamps_s, reads, failure)
    return answer if answer.error is None else replace(answer, error=printable(answer.error) or NO_REASON)


def unreadable(error: Exception, reads: Sequence[bytes]) -> ParsedAnswer:
    """The answer that nothing could be made of, because of this error in reading it."""
    what = f"the answer of {sum(map(len, reads))} bytes could not be read: {type(error).__name__}: {error}"
    return _without_answer("incomplete", printable(what))


def _read_answer(
    stamps_s: Sequence[float] | NDArray[np.float64],
    reads: Sequence[bytes],
    failure: tuple[str, str] | None,
) -> ParsedAnswer:
    raw = b"".join(reads)
    try:
        head = parse_head(raw)
    except ValueError as error:
        return _without_answer("connection_error", str(error))
    if head is None:
        where = "in the headers of its answer" if raw else "before an answer came"
        return _without_answer(*(failure or ("connection_error", f"closed {where}")))
    body, starts, ends, ended, fault = response_body(raw, head)
    if head.http_status != 200:
        return _without_answer("http_error", _refusal(head, raw[: head.body_start], body), head.http_status)
    if head.length is None and not head.chunked:
        ended = failure is None  # its end is where the peer closed
    streamed = head.event_stream or is_stream(body)
    if streamed:
        token_ends, facts = stream_facts(body)
        read_ends = np.cumsum(np.fromiter(map(len, reads), np.int64, len(reads)))
        times = read_times.times(token_ends, starts, ends, read_ends, np.asarray(stamps_s, dtype=np.float64))
        last_s = float(times[-1]) if len(times) else float("nan")
        ended = ended or facts.done
    else:
        times, facts = np.empty(0), whole_facts(body)
        last_s = float(stamps_s[-1]) if ended and facts.done else float("nan")
    reason: str | None
    if failure is not None:
        status, reason = failure
    elif facts.error is not None:
        status, reason = "incomplete", facts.error
    elif fault is not None and not facts.done:
        status, reason = "incomplete", fault
    elif not facts.done:
        missing = "[DONE]" if streamed else "an OpenAI answer in JSON"
        status, reason = "incomplete", _compressed(head) or f"the response ended without {missing}"
    elif not ended:
        status, reason = "incomplete", "the connection was closed before the end of the response"
    elif facts.odd is not None:
        status, reason = "incomplete", facts.odd
    elif streamed and not len(times):
        status, reason = "incomplete", "the stream held no token"
    else:
        status, reason = "ok", None
    return ParsedAnswer(
        status,
        head.http_status,
        reason,
        times,
        last_s,
        facts.prompt_tokens,
        facts.output_tokens,
        facts.hidden_tokens(),
    )


def _refusal(head: Head, header_lines: bytes, body: bytes) -> str:
    """What the server said instead of an answer, and where or when it wants to be asked."""
    message = error_message(body) or _compressed(head) or body[:200].decode("utf-8", "replace")
    if 300 <= head.http_status < 400 and (place := header(header_lines, "location")) is not None:
        what, _ = redirected(head.http_status, place)
        message = what
    if (asked := header(header_lines, "retry-after")) is not None:
        message = retry_after(message, asked)
    return message


def _compressed(head: Head) -> str:
    return f"the body is compressed ({head.encoding}), which was not asked for" if head.encoding else ""


def said_done(reads: Sequence[bytes]) -> bool:
    """Whether the last bytes of a stream are its [DONE]: whatever the framing still waits for, no token will come."""
    return DONE.search(b"".join(reads[-8:])[-1000:]) is not None


def looks_failed(reads: Sequence[bytes], failure: tuple[str, str] | None) -> bool:
    """Whether the request failed, from the status line and the last bytes alone: for whoever cannot wait for the answer."""
    if failure is not None or not reads or reads[0][9:12] != b"200":
        return True
    tail = b"".join(reads[-3:])[-400:]
    return b"event-stream" in reads[0][:2000].lower() and (b"[DONE]" not in tail or b'"error"' in tail)


def _without_answer(status: str, error: str, http_status: int | None = None) -> ParsedAnswer:
    return ParsedAnswer(status, http_status, error, np.empty(0), float("nan"), None, None)
