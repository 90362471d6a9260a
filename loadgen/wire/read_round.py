"""One round over many sockets, compiled: which have bytes, what they are, when each was read and when it arrived.

For 64-bit Linux, little-endian (x86-64, arm64): the layouts below are those of its C libraries. Nothing waits, and no
object is made per read; loadgen.wire.receive hands the bytes out.
"""

from __future__ import annotations

import platform
import sys

import numpy as np
from numba import types
from numpy.typing import NDArray

from loadgen.wire.compiled import FLOATS, INTS, compiled, from_c

USABLE = sys.platform.startswith("linux") and sys.maxsize > 2**32 and sys.byteorder == "little"

SOL_SOCKET, TIMESTAMPNS = 1, 35  # SO_TIMESTAMPNS and SCM_TIMESTAMPNS of Linux's generic socket.h
DONTWAIT, MONOTONIC = 0x40, 1
EVENT_WORDS = (
    3 if platform.machine() == "x86_64" else 4
)  # int32 words of struct epoll_event, packed on x86-64 only
# int64 words: a struct msghdr, its struct iovec, room for a cmsghdr with a struct timespec, and a struct timespec
HEADER, PART, NOTE, TIME, WORDS = 0, 7, 9, 13, 15

_epoll_wait = from_c("epoll_wait", types.intc, types.intc, types.intp, types.intc, types.intc)
_recvmsg = from_c("recvmsg", types.intp, types.intc, types.intp, types.intc)
_clock_gettime = from_c("clock_gettime", types.intc, types.intc, types.intp)
_errno_location = from_c("__errno_location", types.intp)
_memcpy = from_c("memcpy", types.intp, types.intp, types.intp, types.intp)


FD, SIZE, END, STAMP_NS = range(4)  # rows of Buffers.facts


class Buffers:
    """What a round leaves behind: the bytes of all reads one after the other, and per read a column of `facts` (socket, size,
    end of its bytes, the kernel's stamp of the last segment's arrival: CLOCK_REALTIME, 0 = none) and when it was read
    (CLOCK_MONOTONIC, s). The size is 0 when the peer has closed, and minus the error number when reading failed."""

    def __init__(self, most: int, arena_bytes: int) -> None:
        self.arena = np.empty(arena_bytes, np.uint8)
        self.bytes = memoryview(self.arena)  # type: ignore[arg-type]  # an array is a buffer
        self.ready = np.empty(most * EVENT_WORDS, np.int32)
        self.scratch = np.zeros(WORDS, np.int64)
        self.facts, self.reads_s = np.empty((4, most), np.int64), np.empty(most)


if USABLE:

    @compiled(
        types.int64,
        types.int64,
        types.int64,
        types.int32[::1],
        types.uint8[::1],
        INTS,
        types.int64[:, ::1],
        FLOATS,
    )
    def read_ready(
        epoll: int,
        room: int,
        ready: NDArray[np.int32],
        arena: NDArray[np.uint8],
        scratch: NDArray[np.int64],
        facts: NDArray[np.int64],
        reads_s: NDArray[np.float64],
    ) -> int:
        """Read once from every socket that has bytes, up to `room` bytes each, into the buffers; returns from how many.

        What does not fit into the arena is left for the next round.
        """
        at = scratch.ctypes.data
        number = _epoll_wait(epoll, ready.ctypes.data, len(reads_s), 0)
        used = 0
        for i in range(number):
            if len(arena) - used < room:
                return i
            fd = ready[i * EVENT_WORDS + EVENT_WORDS - 2]
            scratch[HEADER], scratch[HEADER + 1], scratch[HEADER + 6] = 0, 0, 0
            scratch[HEADER + 2], scratch[HEADER + 3] = at + 8 * PART, 1
            scratch[HEADER + 4], scratch[HEADER + 5] = at + 8 * NOTE, 32
            scratch[PART], scratch[PART + 1] = arena.ctypes.data + used, room
            size = _recvmsg(fd, at, DONTWAIT)
            _clock_gettime(MONOTONIC, at + 8 * TIME)
            if size < 0:
                scratch[NOTE] = 0
                _memcpy(at + 8 * NOTE, _errno_location(), 4)
                size = -scratch[NOTE]
            stamped = scratch[HEADER + 5] >= 32 and scratch[NOTE + 1] == SOL_SOCKET | TIMESTAMPNS << 32
            used += max(size, 0)
            facts[FD, i], facts[SIZE, i], facts[END, i] = fd, size, used
            facts[STAMP_NS, i] = (
                scratch[NOTE + 2] * 1_000_000_000 + scratch[NOTE + 3] if stamped and size > 0 else 0
            )
            reads_s[i] = scratch[TIME] + scratch[TIME + 1] * 1e-9
        return max(number, 0)
