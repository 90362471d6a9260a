"""What is done for every token, compiled: taking chunks and events of a response apart. Pure; see loadgen.wire.stream.

The compiled parts write into arrays that they are given: without numba's own memory they compile in half the time.
Compiled once and cached beside this file or, where that cannot be written, in the user's cache directory; where neither
can, each process compiles when it starts (some seconds).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

BYTES = types.Array(types.uint8, 1, "C", readonly=True)
INTS, FLOATS, FLAGS = types.int64[::1], types.float64[::1], types.boolean[::1]
LF, CR, SPACE, TAB, SEMICOLON, QUOTE, BACKSLASH = b'\n\r \t;"\\'
LONGEST_SIZE = 15  # hexadecimal digits of a chunk's size
SMALLEST_CHUNK = 6  # bytes: a digit, CRLF, a byte, CRLF


def from_c(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the C library, found in the process; addresses are integers (intp)."""
    return types.ExternalFunction(name, result(*arguments))


_memchr = from_c("memchr", types.intp, types.intp, types.intc, types.intp)
_memcpy = from_c("memcpy", types.intp, types.intp, types.intp, types.intp)
_memcmp = from_c("memcmp", types.intc, types.intp, types.intp, types.intp)


_njit: Any = njit  # its stubs leave _nrt out


def compiled(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile for these types now, so that nothing is compiled amid the load."""
    signature = result(*arguments)

    def compile_now(function: Callable[..., Any]) -> Any:
        try:
            return _njit(signature, cache=True, error_model="numpy", _nrt=False)(function)
        except RuntimeError:  # no place for a cache
            return _njit(signature, error_model="numpy", _nrt=False)(function)

    return compile_now


_inside = _njit(error_model="numpy", _nrt=False)  # compiled with those that call it


@_inside
def _starts(data: NDArray[np.uint8], at: int, start: NDArray[np.uint8]) -> bool:
    if at + len(start) > len(data):
        return False
    for i in range(len(start)):  # noqa: SIM110 -- compiled
        if data[at + i] != start[i]:
            return False
    return True


@_inside
def _byte(data: NDArray[np.uint8], at: int, end: int, byte: int) -> int:
    """Where the byte first stands in data[at:end]; -1 = nowhere."""
    found = _memchr(data.ctypes.data + at, byte, max(end - at, 0))
    return found - data.ctypes.data if found else -1


@_inside
def _same(data: NDArray[np.uint8], one: int, other: int, size: int) -> bool:
    return _memcmp(data.ctypes.data + one, data.ctypes.data + other, size) == 0


@_inside
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


@_inside
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


@_inside
def _find(data: NDArray[np.uint8], at: int, end: int, what: NDArray[np.uint8]) -> int:
    while True:
        at = _byte(data, at, end - len(what) + 1, what[0])
        if at < 0 or _starts(data, at, what):
            return at
        at += 1


@_inside
def _line_end(data: NDArray[np.uint8], at: int) -> int:
    for i in range(at, len(data) - 1):
        if data[i] == CR and data[i + 1] == LF:
            return i
    return -1


@_inside
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
        if over or digits > LONGEST_SIZE:
            return -1
        value = 16 * value + digit
    return value if digits else -1


def chunks(raw: bytes, position: int) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """(where each chunk's data begins, where it ends, whether the last chunk has come) from this position on."""
    starts, ends = np.empty((2, (len(raw) - position) // SMALLEST_CHUNK + 2), np.int64)
    count = _chunks(np.frombuffer(raw, np.uint8), position, starts, ends)
    ended = count >= 0
    count = count if ended else ~count
    return starts[:count], ends[:count], ended


@compiled(types.int64, BYTES, types.int64, INTS, INTS)
def _chunks(raw: NDArray[np.uint8], position: int, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> int:
    """How many there are; inverted (~) when the last one has not come."""
    count = 0
    while True:
        line_end = _line_end(raw, position)
        size = _hexadecimal(raw, position, line_end) if line_end >= 0 else -1
        if size < 0:
            return ~count
        position = line_end + 2
        if size == 0:  # trailers, if any, end with an empty line
            while True:
                end = _line_end(raw, position)
                if end <= position:
                    return count if end == position else ~count
                position = end + 2
        starts[count] = position
        position += size
        ends[count] = min(position, len(raw))
        count += 1
        position += 2


def joined(raw: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> bytes:
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
                if all_plain and not alike and _starts(body, start, data):
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


def times(
    body_ends: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    read_ends: NDArray[np.int64],
    reads_s: NDArray[np.float64],
) -> NDArray[np.float64]:
    """When the byte before each of these rising offsets in the body was read.

    The body is the chunks raw[starts:ends]; `read_ends` are the offsets in raw at which reads ended, `reads_s` their
    times.
    """
    found_s = np.empty(len(body_ends))
    _times(body_ends, starts, ends, read_ends, reads_s, found_s)
    return found_s


@compiled(types.void, INTS, INTS, INTS, INTS, FLOATS, FLOATS)
def _times(
    body_ends: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    read_ends: NDArray[np.int64],
    reads_s: NDArray[np.float64],
    found_s: NDArray[np.float64],
) -> None:
    chunk, before, read = 0, 0, 0  # `before`: bytes of the body in earlier chunks
    for i in range(len(body_ends)):
        last = max(body_ends[i] - 1, 0)
        while chunk < len(starts) - 1 and last >= before + ends[chunk] - starts[chunk]:
            before += ends[chunk] - starts[chunk]
            chunk += 1
        in_raw = starts[chunk] + last - before
        while read < len(read_ends) - 1 and in_raw >= read_ends[read]:
            read += 1
        found_s[i] = reads_s[read]


def arrivals(
    sent_s: float, reads_s: NDArray[np.float64], stamps_ns: NDArray[np.int64], ahead_ns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """See loadgen.wire.receive.KernelClock.arrivals; the stamps are ahead of the other clock by `ahead_ns`."""
    times_s, waits_s = np.empty((2, len(reads_s)))
    _arrivals(sent_s, reads_s, stamps_ns, ahead_ns, times_s, waits_s)
    return times_s, waits_s


@compiled(types.void, types.float64, FLOATS, INTS, types.int64, FLOATS, FLOATS)
def _arrivals(
    sent_s: float,
    reads_s: NDArray[np.float64],
    stamps_ns: NDArray[np.int64],
    ahead_ns: int,
    times_s: NDArray[np.float64],
    waits_s: NDArray[np.float64],
) -> None:
    latest_stamp_s = latest_s = -np.inf
    for i in range(len(reads_s)):
        arrived_s = (stamps_ns[i] - ahead_ns) * 1e-9
        if max(sent_s, latest_stamp_s) <= arrived_s <= reads_s[i]:
            latest_stamp_s, at_s, waits_s[i] = arrived_s, arrived_s, reads_s[i] - arrived_s
        else:
            at_s, waits_s[i] = reads_s[i], np.nan
        latest_s = max(latest_s, at_s)
        times_s[i] = latest_s


@compiled(types.UniTuple(types.int64, 5), FLOATS, FLOATS, FLOATS, types.float64, types.float64)
def lateness(
    times_s: NDArray[np.float64],
    waits_s: NDArray[np.float64],
    tokens_s: NDArray[np.float64],
    late_s: float,
    blur_s: float,
) -> tuple[int, int, int, int, int]:
    """(reads whose wait is known, of these later than `late_s`, tokens, of these at the time of the one before, of these
    in a read later than `blur_s`) of one answer: when its reads arrived, how long they lay, when its tokens came."""
    known = late = shared = blurred = 0
    for i in range(len(waits_s)):
        known += waits_s[i] >= 0  # NaN compares false
        late += waits_s[i] > late_s
    read = 0
    for i in range(1, len(tokens_s)):
        if tokens_s[i] == tokens_s[i - 1]:
            shared += 1
            while read < len(times_s) - 1 and times_s[read] < tokens_s[i]:
                read += 1
            blurred += waits_s[read] > blur_s
    return known, late, len(tokens_s), shared, blurred
