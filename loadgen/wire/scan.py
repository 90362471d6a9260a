"""Taking chunks and events of a response apart, compiled. Pure; see loadgen.wire.http_response and loadgen.wire.openai_body."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from loadgen.wire.compiled import BYTES, FLAGS, INTS, compiled, from_c, inside

LF, CR, SPACE, TAB, SEMICOLON, QUOTE, BACKSLASH = b'\n\r \t;"\\'
LONGEST_SIZE = 15  # hexadecimal digits of a chunk's size, zeros before it left out
SMALLEST_CHUNK = 6  # bytes: a digit, CRLF, a byte, CRLF


_memchr = from_c("memchr", types.intp, types.intp, types.intc, types.intp)
_memcpy = from_c("memcpy", types.intp, types.intp, types.intp, types.intp)
_memcmp = from_c("memcmp", types.intc, types.intp, types.intp, types.intp)


@inside
def _starts(data: NDArray[np.uint8], at: int, start: NDArray[np.uint8]) -> bool:
    if at + len(start) > len(data):
        return False
    for i in range(len(start)):  # noqa: SIM110 -- compiled
        if data[at + i] != start[i]:
            return False
    return True


@inside
def _byte(data: NDArray[np.uint8], at: int, end: int, byte: int) -> int:
    """Where the byte first stands in data[at:end]; -1 = nowhere."""
    found = _memchr(data.ctypes.data + at, byte, max(end - at, 0))
    return found - data.ctypes.data if found else -1


@inside
def _same(data: NDArray[np.uint8], one: int, other: int, size: int) -> bool:
    return _memcmp(data.ctypes.data + one, data.ctypes.data + other, size) == 0


@inside
def _any_of(
    data: NDArray[np.uint8],
    at: int,
    end: int,
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    c: NDArray[np.uint8],
) -> bool:
    """Whether one of three names, which begin with a quote, stands in data[at:end]."""
    while True:
        at = _byte(data, at, end, QUOTE)
        if at < 0:
            return False
        if _starts(data, at, a) or _starts(data, at, b) or _starts(data, at, c):
            return True
        at += 1


@inside
def _event_end(body: NDArray[np.uint8], start: int) -> tuple[int, int]:
    """(end of the event that begins here, start of the next one, or -1 when no empty line follows)."""
    at, size = start, len(body)
    while True:
        at = _byte(body, at, size, LF)
        if at < 0:
            return size, -1
        following = at + 1
        if following < size and body[following] == CR:
            following += 1
        if following < size and body[following] == LF:
            return (at - 1 if at > start and body[at - 1] == CR else at), following + 1
        at += 1


@inside
def _find(data: NDArray[np.uint8], at: int, end: int, what: NDArray[np.uint8]) -> int:
    while True:
        at = _byte(data, at, end - len(what) + 1, what[0])
        if at < 0 or _starts(data, at, what):
            return at
        at += 1


@inside
def _line_end(data: NDArray[np.uint8], at: int) -> int:
    for i in range(at, len(data) - 1):
        if data[i] == CR and data[i + 1] == LF:
            return i
    return -1


@inside
def _hexadecimal(data: NDArray[np.uint8], at: int, end: int) -> int:
    """The number in data[at:end], blanks around it and an extension after a semicolon left out; -1 = none."""
    value, digits, over = 0, 0, False
    for i in range(at, end):
        byte = data[i]
        if byte == SEMICOLON:
            break
        if byte in (SPACE, TAB):
            over = digits > 0
            continue
        if 48 <= byte <= 57:
            digit = byte - 48
        elif 97 <= byte | 32 <= 102:
            digit = (byte | 32) - 87
        else:
            return -1
        digits += 1
        if over or value >= 16 ** (LONGEST_SIZE - 1):
            return -1
        value = 16 * value + digit
    return value if digits else -1


class Framing(NamedTuple):
    """Where each chunk's data begins and ends, whether the last chunk has come, and where a line stands in the place of a size
    that is none (-1: nowhere)."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    ended: bool
    broken: int


def chunks(raw: bytes, position: int) -> Framing:
    """The chunks from this position on."""
    starts, ends = np.empty((2, (len(raw) - position) // SMALLEST_CHUNK + 2), np.int64)
    count = _chunks(np.frombuffer(raw, np.uint8), position, starts, ends)
    ended = count >= 0
    count = count if ended else ~count
    return Framing(starts[:count], ends[:count], ended, -1 if ended else int(starts[count]))


@compiled(types.int64, BYTES, types.int64, INTS, INTS)
def _chunks(raw: NDArray[np.uint8], position: int, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> int:
    """How many there are; inverted (~) when the last one has not come. Then the next start is that of a line which is no size,
    or -1."""
    count = 0
    while True:
        starts[count] = -1
        line_end = _line_end(raw, position)
        if line_end < 0 and _byte(raw, position, len(raw), LF) < 0:
            return ~count
        size = _hexadecimal(raw, position, line_end) if line_end >= 0 else -1
        if size < 0:
            starts[count] = position
            return ~count
        position = line_end + 2
        if size == 0:  # trailers, if any, end with an empty line
            while True:
                end = _line_end(raw, position)
                if end <= position:
                    starts[count] = -1
                    return count if end == position else ~count
                position = end + 2
        starts[count] = position
        position += size
        ends[count] = min(position, len(raw))
        count += 1
        position += 2


def joined_chunks(raw: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> bytes:
    """The data of these chunks, one after the other."""
    body = np.empty(int((ends - starts).sum()), np.uint8)
    _join(np.frombuffer(raw, np.uint8), starts, ends, body)
    return body.tobytes()


@compiled(types.void, BYTES, INTS, INTS, types.uint8[::1])
def _join(
    raw: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], body: NDArray[np.uint8]
) -> None:
    at = body.ctypes.data
    for i in range(len(starts)):
        _memcpy(at, raw.ctypes.data + starts[i], ends[i] - starts[i])
        at += ends[i] - starts[i]


def events(
    body: bytes, *words: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(where each event of the stream begins, where it ends, which are surely one plain token each).

    Events end with an empty line, whose ends of line are LF or CRLF. Of the `words` the first is how a plain event
    begins, the next two are the keys before its text, of which it holds one, and the rest are names that it does not
    hold. The first event (perhaps the role), the last one (perhaps cut) and all from the first one on that holds one of
    these names are not taken for plain.
    """
    most = len(body) // 2 + 1
    starts, ends = np.empty((2, most), np.int64)
    plain = np.zeros(most, np.bool_)
    count = _events(np.frombuffer(body, np.uint8), *words, starts, ends, plain)
    return starts[:count], ends[:count], plain[:count]


@compiled(types.int64, *(7 * [BYTES]), INTS, INTS, FLAGS)
def _events(
    body: NDArray[np.uint8],
    data: NDArray[np.uint8],
    text: NDArray[np.uint8],
    content: NDArray[np.uint8],
    finished: NDArray[np.uint8],
    role: NDArray[np.uint8],
    error: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    plain: NDArray[np.bool_],
) -> int:
    """How many events there are. What stood before and after the text of the last plain one is remembered: mostly the next
    one is alike."""
    before, before_size, after, after_size = 0, 0, 0, -1  # of the last plain event
    count, start, all_plain = 0, 0, True
    while True:
        end, following = _event_end(body, start)
        starts[count], ends[count] = start, end
        if following < 0:
            break
        if count and all_plain:
            alike = before_size > 0 and end - start > before_size and _same(body, before, start, before_size)
            begun = start + before_size if alike else start
            quote = _byte(body, begun, end, QUOTE) if alike else -1
            if quote < 0 or end - quote != after_size or not _same(body, after, quote, after_size):
                all_plain = not _any_of(body, begun, end, finished, role, error)
                one_line = _byte(body, begun, end, LF) < 0  # no other field, such as `event: error`, follows
                alike = alike and one_line
                if all_plain and not alike and one_line and _starts(body, start, data):
                    key, size = _find(body, start, end, text), len(text)
                    if key < 0:
                        key, size = _find(body, start, end, content), len(content)
                    if key >= 0:
                        before, before_size, alike = start, key + size - start, True
                        quote = _byte(body, key + size, end, QUOTE)
                if all_plain and alike and quote > 0 and body[quote - 1] != BACKSLASH:
                    after, after_size = quote, end - quote
            plain[count] = all_plain and alike
        start = following
        count += 1
    return count + 1
