"""When bytes came, and when to read them.

Linux stamps every TCP segment as it arrives and hands the stamp out with the read (SO_TIMESTAMPNS). With it, a token's
time does not contain how late this process read it. Several segments in one read share the stamp of the last one. And
since reading at once gains nothing, one epoll takes in what many connections got and the loop sleeps between its
rounds: the time of a read is exact all the same, and the stamps cost no more CPU time than they save.

Where the kernel does not stamp (macOS, gVisor, some proxies of the system calls) reads are stamped by this process and
nothing waits.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import gevent.monkey
import numpy as np
from numpy.typing import NDArray

from loadgen.wire import read_round as rounds
from loadgen.wire import read_times
from loadgen.wire.clock import breathe, now_s

STEP_NS = 50_000  # the clocks are read together to within 1 us: a larger change is a clock that was set
ROUND_S = 0.0015  # from one round to the next
HANDING_S = 0.001  # most time between two rounds that goes into handing out
BATCH = 512  # sockets read in one round, so that timers get their turn
READ_BYTES = 16_384
ARENA_BYTES = 1 << 20  # of one round
AGAIN = (errno.EAGAIN, errno.EINTR)

READ = 1  # gevent.hub.loop.io and EPOLLIN

_epoll = gevent.monkey.get_original("select", "epoll") if rounds.USABLE else None
_sleep = gevent.monkey.get_original("time", "sleep")

Take = Callable[[bytes, float, int], None]
_Handler = tuple[Take, Callable[[Exception], None]]


class KernelClock:
    """Turns the kernel's arrival stamps (CLOCK_REALTIME) into now_s() readings.

    Both clocks run at the same pace (adjtimex slews both), so their difference changes only when the time of day is
    set. Stamps of exchanges that were under way at that moment are not used.
    """

    def __init__(self) -> None:
        self._ahead_ns, self._good_from_s = _ahead_ns(), -math.inf

    def check(self) -> None:
        """Notice that the time of day has been set."""
        if abs(time.time_ns() - time.perf_counter_ns() - self._ahead_ns) <= STEP_NS:
            return
        ahead_ns = _ahead_ns()
        if abs(ahead_ns - self._ahead_ns) > STEP_NS:
            self._ahead_ns, self._good_from_s = ahead_ns, now_s()

    def arrivals(
        self, sent_s: float, read_s: Sequence[float], stamps_ns: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(when each read's last segment arrived, how long it lay until it was read), in s.

        `stamps_ns` are the kernel's stamps, 0 where there was none. Without a stamp, or with one that
        cannot be (before the request was sent, before an earlier read's, after the read), the read's own time counts
        and the wait is NaN. Times never fall.
        """
        read = np.array(read_s, dtype=np.float64)
        self.check()
        if sent_s < self._good_from_s:
            return read, np.full(len(read), np.nan)
        stamps = np.array(stamps_ns, dtype=np.int64)
        times_s, waits_s = read_times.arrival_times(sent_s, read, stamps, self._ahead_ns)
        return times_s, waits_s


class Reader:
    """Reads what sockets get and hands it out, in the hub: `take(bytes, when read, stamp in ns)`, no bytes at the end, or
    `failed(error)`.

    `stamped` says that the kernel's stamps are there, `wake_by_s` names an instant before which the loop has to be awake.
    """

    def __init__(self) -> None:
        self.stamped = False
        self.wake_by_s = math.inf
        self._handlers: dict[int, _Handler] = {}
        self._watchers: dict[int, Any] = {}
        self._read_s = -math.inf  # the last round
        self._queue: deque[tuple[int, _Handler | None, int, bytes, float, int]] = (
            deque()
        )  # read, not yet handed out
        self._called = False  # the loop has been asked to continue with the queue
        self._turns = 0  # greenlets that have let the loop have a turn
        self._epoll = None
        if _epoll is not None:
            self._epoll, self._buffers = _epoll(), rounds.Buffers(BATCH, ARENA_BYTES)
            self._watcher = gevent.get_hub().loop.io(self._epoll.fileno(), READ)
            self._watcher.start(self._round)

    def add(self, connection: socket.socket, take: Take, failed: Callable[[Exception], None]) -> None:
        """Read from this socket; replaces earlier callbacks. Raises OSError when the system watches no more sockets."""
        fd = connection.fileno()
        known = fd in self._handlers
        if self._epoll is not None and not known:
            self._epoll.register(fd, READ)
        self._handlers[fd] = (take, failed)
        if known or self._epoll is not None:
            return
        self._watchers[fd] = watcher = gevent.get_hub().loop.io(fd, READ)
        watcher.start(self._read_one, fd, connection.recv)

    def remove(self, fd: int) -> None:
        """Read from it no longer; to be called before the socket is closed."""
        if self._handlers.pop(fd, None) is None:
            return
        if self._epoll is not None:
            self._epoll.unregister(fd)
            return
        watcher = self._watchers.pop(fd)
        watcher.stop()
        watcher.close()

    def close(self) -> None:
        """Read nothing any more."""
        for fd in list(self._handlers):
            self.remove(fd)
        if self._epoll is not None:
            self._watcher.stop()
            self._watcher.close()
            self._epoll.close()
            self._epoll = None
            self._queue.clear()

    def turn(self) -> None:
        """Let the loop read and send what is due, then go on (in a greenlet that has more to do)."""
        self._turns += 1
        try:
            breathe()
        finally:
            self._turns -= 1

    def _round(self) -> None:
        """Read what there is, and hand out for a while: a queue of what was read must not delay the next read."""
        now, queue = now_s(), self._queue
        if self.stamped and not queue:
            rest_s = self._read_s + ROUND_S - now
            if rest_s > 0:
                if self._turns:
                    return  # there is something better to do than to sleep
                rest_s = min(rest_s, self.wake_by_s - now)
                if rest_s > 0:
                    _sleep(rest_s)
        self._read()
        until_s = min(now_s() + HANDING_S, max(now, self.wake_by_s))
        handlers = self._handlers
        while queue:
            fd, handler, size, data, read_s, stamp_ns = queue.popleft()
            # a callback may have closed the socket; its number may be another one's by now
            if handler is not None and handlers.get(fd) is handler:
                if size >= 0:
                    try:
                        handler[0](data, read_s, stamp_ns)
                    except Exception as error:  # noqa: BLE001 -- this connection's alone: the others are read on
                        handler[1](error)
                elif -size not in AGAIN:
                    handler[1](OSError(-size, os.strerror(-size)))
            if now_s() > until_s:
                break
        if queue and not self._called:
            self._called = True
            gevent.get_hub().loop.run_callback(self._continue)

    def _continue(self) -> None:
        self._called = False
        if self._queue:
            self._round()

    def _read(self) -> None:
        """Put what the sockets got into the queue."""
        if self._epoll is None:
            return
        b = self._buffers
        number = rounds.read_ready(
            self._epoll.fileno(), READ_BYTES, b.ready, b.arena, b.scratch, b.facts, b.reads_s
        )
        self._read_s = now_s()
        if not number:
            return
        fds, sizes, ends, stamps_ns = b.facts[:, :number].tolist()
        data = b.bytes[: ends[-1]].tobytes()
        self._queue.extend(
            zip(
                fds,
                map(self._handlers.get, fds),
                sizes,
                [data[end - size : end] if size > 0 else b"" for end, size in zip(ends, sizes, strict=True)],
                b.reads_s[:number].tolist(),
                stamps_ns,
                strict=True,
            )
        )
        self.stamped = stamps_ns[-1] > 0 or self.stamped

    def _read_one(self, fd: int, receive: Callable[[int], bytes]) -> None:
        take, failed = self._handlers[fd]
        try:
            data = receive(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            failed(error)
            return
        take(data, now_s(), 0)


def ask_for_stamps(connection: socket.socket) -> bool:
    """Ask the kernel to stamp what arrives; False where it cannot."""
    if _epoll is None:
        return False
    try:
        connection.setsockopt(socket.SOL_SOCKET, rounds.TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


def _ahead_ns() -> int:
    """How far the time of day is ahead of now_s(), in ns: of five readings the one that took the least time."""
    best_ns, ahead_ns = sys.maxsize, 0
    for _ in range(5):
        before, unix, after = time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()
        if after - before < best_ns:
            best_ns, ahead_ns = after - before, unix - (before + after) // 2
    return ahead_ns
