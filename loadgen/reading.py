"""When bytes came, and when to read them.

Linux stamps every TCP segment as it arrives and hands the stamp out with the read (SO_TIMESTAMPNS). With it, a token's
time does not contain how late this process read it. Several segments in one read share the stamp of the last one. And
since reading at once gains nothing, one epoll takes in what many connections got and the loop sleeps between its
rounds: the time of a read is exact all the same, and the stamps cost no more CPU time than they save.

Where the kernel does not stamp (macOS, gVisor, some proxies of the system calls) reads are stamped by this process and
nothing waits.
"""

from __future__ import annotations

import math
import socket
import sys
import time
from collections.abc import Callable, Sequence

import gevent
import gevent.monkey
import numpy as np
from numpy.typing import NDArray

now_s = time.perf_counter

TIMESTAMPNS = 35  # SO_TIMESTAMPNS and SCM_TIMESTAMPNS of Linux's generic socket.h
NOTE_BYTES = 64  # room for the stamp beside the data
STAMP_BYTES = 16  # struct timespec of a 64-bit system
STEP_NS = 50_000  # the clocks are read together to within 1 us: a larger change is a clock that was set
ROUND_S = 0.001  # sleep before a round
BUSY_S = 0.002  # rounds closer than this are worth a sleep
ENDED_SHARE = 8  # no sleep after a round in which more than one read in so many ended an exchange
LARGE = 40  # a round of more reads leaves no time for other things
BATCH = 512  # sockets read in one round, so that timers get their turn

READ = 1  # gevent.hub.loop.io and EPOLLIN

_epoll = gevent.monkey.get_original("select", "epoll") if sys.platform.startswith("linux") else None
_sleep = gevent.monkey.get_original("time", "sleep")


class KernelClock:
    """Turns the kernel's arrival stamps (CLOCK_REALTIME) into now_s() readings.

    Both clocks run at the same pace (adjtimex slews both), so their difference changes only when the time of day is
    set. Stamps of exchanges that were under way at that moment are not used.
    """

    def __init__(self) -> None:
        self._ahead_ns, self._good_from_s = _ahead_ns(), -math.inf

    def check(self) -> None:
        """Notice that the time of day has been set."""
        ahead_ns = _ahead_ns()
        if abs(ahead_ns - self._ahead_ns) > STEP_NS:
            self._ahead_ns, self._good_from_s = ahead_ns, now_s()

    def arrivals(
        self, sent_s: float, read_s: Sequence[float], notes: Sequence[bytes]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(when each read's last segment arrived, how long it lay until it was read), in s.

        `notes` are the kernel's stamps as they came, empty where there was none. Without a stamp, or with one that
        cannot be (before the request was sent, before an earlier read's, after the read), the read's own time counts
        and the wait is NaN. Times never fall.
        """
        read = np.asarray(read_s, dtype=np.float64)
        self.check()
        if sent_s < self._good_from_s or not notes:
            return read, np.full(len(read), np.nan)
        joined = b"".join([n if len(n) == STAMP_BYTES else b"\0" * STAMP_BYTES for n in notes])
        stamps = np.frombuffer(joined, dtype=np.int64).reshape(-1, 2)
        arrived = (stamps[:, 0] * 1_000_000_000 + stamps[:, 1] - self._ahead_ns) * 1e-9
        possible = (arrived >= sent_s) & (arrived <= read)
        before = np.maximum.accumulate(np.where(possible, arrived, -np.inf))
        possible &= arrived >= before
        times = np.maximum.accumulate(np.where(possible, arrived, read))
        return times, np.where(possible, read - arrived, np.nan)


class Reader:
    """Calls back, in the hub, for each socket that has bytes; the callbacks read what there is.

    `ended` is raised by the owner with each exchange that ends, `stamped` says that the kernel's stamps are there,
    `wake_by_s` names an instant before which the loop has to be awake. `pressed`: the last round was a large one.
    """

    def __init__(self) -> None:
        self.ended = 0
        self.stamped = self.pressed = False
        self.wake_by_s = math.inf
        self._calls: dict[int, Callable[[], None]] = {}
        self._watchers: dict[int, object] = {}
        self._round_s = -math.inf
        self._waits = True
        self._poll = None
        if _epoll is not None:
            self._epoll = _epoll()
            self._poll = self._epoll.poll
            self._watcher = gevent.get_hub().loop.io(self._epoll.fileno(), READ)
            self._watcher.start(self._round)

    def add(self, fd: int, call: Callable[[], None]) -> None:
        """Watch one socket; replaces an earlier callback."""
        known = fd in self._calls
        self._calls[fd] = call
        if self._poll is not None:
            if not known:
                self._epoll.register(fd, READ)
            return
        watcher = gevent.get_hub().loop.io(fd, READ)
        self._watchers[fd] = watcher
        watcher.start(lambda: self._calls[fd]())

    def remove(self, fd: int) -> None:
        """Watch it no longer; to be called before the socket is closed."""
        if self._calls.pop(fd, None) is None:
            return
        if self._poll is not None:
            self._epoll.unregister(fd)
            return
        watcher = self._watchers.pop(fd)
        watcher.stop()  # type: ignore[attr-defined]  # a gevent watcher
        watcher.close()  # type: ignore[attr-defined]

    def close(self) -> None:
        """Watch nothing any more."""
        for fd in list(self._calls):
            self.remove(fd)
        if self._poll is not None:
            self._poll = None
            self._watcher.stop()
            self._watcher.close()
            self._epoll.close()

    def _round(self) -> None:
        started_s = now_s()
        busy = started_s - self._round_s < BUSY_S and self._waits
        if busy and self.stamped and not 0 < self.wake_by_s - started_s < ROUND_S:
            _sleep(ROUND_S)
        calls, ended = self._calls, self.ended
        assert self._poll is not None
        ready = self._poll(0, BATCH)
        for fd, _ in ready:
            call = calls.get(fd)
            if call is not None:  # closed by a callback of this round
                call()
        self.pressed = len(ready) > LARGE
        self._waits = not self.pressed and (self.ended - ended) * ENDED_SHARE <= len(ready)
        self._round_s = now_s()


def ask_for_stamps(connection: socket.socket) -> bool:
    """Ask the kernel to stamp what arrives; False where it cannot."""
    if _epoll is None:
        return False
    try:
        connection.setsockopt(socket.SOL_SOCKET, TIMESTAMPNS, 1)
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
