"""When the bytes of a response came, compiled: from the times of reads to those of tokens, and how late reads were. Pure."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from loadgen.wire.compiled import FLOATS, INTS, compiled


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


def arrival_times(
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
