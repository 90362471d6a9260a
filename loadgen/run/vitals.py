"""How the client itself fares while it measures: its event loop's punctuality, its share of a core, its reads."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from loadgen.run.measured import Done
from loadgen.wire import read_times
from loadgen.wire.clock import Alarm, now_s

TICK_S = 0.02  # how often the loop's punctuality is tested
STALL_S = 0.01  # a tick, or a read, later than this counts as late
BLUR_S = 0.002  # a read later than this may hold tokens of different times; usual are up to 1.5 ms
GROUPS, GROUP_FOLDERS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


class ClientSample(NamedTuple):
    """How the client itself fared over one interval of one worker; see loadgen.run.client_health."""

    time_s: float  # end of the interval, seconds since the start of the run
    interval_s: float
    cpu_s: float  # of this process
    starved_s: float  # the process was runnable and had no core (NaN where the kernel does not say)
    throttled_s: float  # a CPU limit of its container held it back (NaN where there is none)
    stalled_s: float  # the event loop was late, beyond STALL_S
    in_flight: int
    waited: int  # requests that had to wait for a connection to open
    waiting: int  # due requests that wait for a seat
    sent: int  # requests so far
    reads: int  # of the answers that ended in this interval
    stamped: int  # of them, reads whose arrival the kernel stamped
    late_reads: int  # of these, how many lay in the kernel for more than STALL_S
    events: int  # token events of these answers
    shared: int  # of them, how many came in the same read as the one before
    blurred: int  # of these, how many in a read that lay in the kernel for more than BLUR_S


class Vitals:
    """Counts since the last `take`. Tests every TICK_S how late the event loop is."""

    def __init__(self) -> None:
        self._due_s = now_s() + TICK_S
        self._late_s = 0.0
        self._reads = [0] * 6
        self._alarm = Alarm(self._tick)
        self._alarm.set(self._due_s)
        self._last = self._kernel()
        self._limited = _throttling()

    def saw(self, done: Done) -> None:
        """One more answer that ended."""
        times_s, waits_s, tokens_s = done.exchange.times_s, done.exchange.waits_s, done.answer.token_times_s
        if times_s is None or waits_s is None:
            return
        counts = (len(waits_s), *read_times.lateness(times_s, waits_s, tokens_s, STALL_S, BLUR_S))
        self._reads = [total + count for total, count in zip(self._reads, counts, strict=True)]

    def take(self, time_s: float, in_flight: int, waited: int, waiting: int, sent: int) -> ClientSample:
        """The sample of the interval that ends now."""
        before, self._last = self._last, self._kernel()
        interval_s, cpu_s, starved_s = (b - a for a, b in zip(before, self._last, strict=True))
        (group, until_s), self._limited = self._limited, _throttling()
        throttled_s = self._limited[1] - until_s if self._limited[0] == group else math.nan
        late_s, self._late_s = self._late_s, 0.0
        reads, self._reads = self._reads, [0] * 6
        return ClientSample(
            time_s, interval_s, cpu_s, starved_s, throttled_s, late_s, in_flight, waited, waiting, sent, *reads
        )  # fmt: skip

    def reset(self) -> None:
        """Begin counting anew."""
        self.take(0.0, 0, 0, 0, 0)

    def close(self) -> None:
        """Test no longer."""
        self._alarm.close()

    def _kernel(self) -> tuple[float, float, float]:
        return now_s(), time.process_time(), _starved_s()

    def _tick(self) -> None:
        now = now_s()
        late_s = now - self._due_s
        if late_s > STALL_S:
            self._late_s += late_s
        self._due_s = now + TICK_S
        self._alarm.set(self._due_s)


def _starved_s() -> float:
    """Time in s that the main thread was runnable without a core so far; NaN where Linux's schedstat is missing."""
    with suppress(OSError, ValueError, IndexError), open("/proc/self/schedstat", encoding="ascii") as file:
        return int(file.read().split()[1]) / 1e9
    return math.nan


def _throttling() -> tuple[Path | None, float]:
    """This process's control group (version 2 or 1), and the time in s that its CPU limit has held it back so far; NaN
    where the kernel does not say."""
    with suppress(OSError, ValueError):
        for line in GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = GROUP_FOLDERS / ("cpu" if controllers else "")
            for folder in (root / group.lstrip("/"), root):  # in a container the path may be the host's
                with suppress(OSError):
                    facts = dict(
                        map(str.split, (folder / "cpu.stat").read_text(encoding="ascii").splitlines())
                    )
                    if "throttled_usec" in facts:
                        return folder, int(facts["throttled_usec"]) / 1e6
                    if "throttled_time" in facts:
                        return folder, int(facts["throttled_time"]) / 1e9
    return None, math.nan
