"""Time: waking the event loop at an exact instant, and mapping the process's clock to unix time and to another machine's.

The event loop's own timers are late by up to 1 ms, since epoll counts whole milliseconds; a timerfd (Linux) is not.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import gevent
import gevent.monkey

from analysis.run import unix_now_s

now_s = time.perf_counter
_sleep = gevent.monkey.get_original("time", "sleep")

AWAKE_S = 0.00008  # a sleep ends up to so late

_CLOCK_MONOTONIC = 1
_PR_SET_TIMERSLACK = 29  # of linux/prctl.h
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC


class _Itimerspec(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "after_s", "after_ns"))


class Alarm:
    """Calls `wake()` in the hub at the instant last given to `set`; one instant at a time.

    Late by about 0.1 ms on an idle loop where timerfd exists, by up to 1.1 ms elsewhere.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        loop = gevent.get_hub().loop
        self._fd = _timerfd()
        if self._fd is None:
            self._timer = loop.timer(1.0)
        else:
            self._timer = loop.io(self._fd, 1)
            self._timer.start(self._rang)

    def set(self, at_s: float) -> None:
        """Wake at this reading of `now_s` (at once when it has passed)."""
        after_s = max(at_s - now_s(), 1e-6)
        if self._fd is None:
            self._restart(after_s)
        else:
            whole = math.floor(after_s)
            spec = _Itimerspec(0, 0, whole, int((after_s - whole) * 1e9))
            _libc.timerfd_settime(self._fd, 0, ctypes.byref(spec), None)

    def close(self) -> None:
        """Never wake again."""
        self._timer.stop()
        self._timer.close()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _rang(self) -> None:
        assert self._fd is not None
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self._wake()

    def _restart(self, after_s: float) -> None:
        self._timer.close()
        self._timer = gevent.get_hub().loop.timer(after_s)
        self._timer.start(self._wake, update=True)


def breathe() -> None:
    """Let the event loop read and send what is due, then go on (in a greenlet); costs 5 us.

    gevent.sleep(0) does not: it runs other greenlets, up to a thousand times before the loop looks at its sockets.
    """
    hub = gevent.get_hub()
    with hub.loop.timer(0.0, priority=-1) as turn:
        hub.wait(turn)


def sleep_exactly() -> None:
    """Have this thread woken when its sleep is over (Linux): the kernel takes 50 us more, to wake several at once."""
    if sys.platform.startswith("linux"):
        _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def wait_until(at_s: float) -> None:
    """Wait, the loop with it, until this reading of `now_s`: asleep, and awake for the last moment."""
    rest_s = at_s - now_s() - AWAKE_S
    if rest_s > 0:
        _sleep(rest_s)
    while now_s() < at_s:
        pass


@dataclass(frozen=True)
class Clock:
    """Maps now_s() readings to seconds since the start of a run: elapsed = reading - zero_s."""

    zero_s: float

    @classmethod
    def starting_at(cls, unix_s: float, offset_s: float = 0.0) -> Clock:
        """The clock of a run that starts at `unix_s` on a clock that is ahead of this machine's by `offset_s`."""
        return cls(now_s() + (unix_s - offset_s - unix_now_s()))

    def elapsed(self, reading_s: float) -> float:
        """Seconds since the start of the run."""
        return reading_s - self.zero_s


def offset(exchanges: Iterable[tuple[float, float, float]]) -> tuple[float, float]:
    """(how far the other clock is ahead, its uncertainty), in s, from (sent, the other's time, received) triples.

    The exchange with the shortest way there and back decides; half of that way bounds the error (RFC 5905, section 8).
    """
    sent_s, other_s, received_s = min(exchanges, key=lambda e: e[2] - e[0])
    return other_s - (sent_s + received_s) / 2, (received_s - sent_s) / 2


def _timerfd() -> int | None:
    if not sys.platform.startswith("linux"):
        return None
    fd = _libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
    return fd if fd >= 0 else None


_libc = ctypes.CDLL(None, use_errno=True)
