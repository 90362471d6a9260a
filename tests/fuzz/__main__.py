"""`make fuzz`: each target for FUZZ_CPU_S seconds of CPU time (default 60), or those that are named. Ends with 1 when one has failed.

An input that computes for longer than SLOWEST_CPU_S, or waits for SILENT_S in which it computes less than IDLE_CPU_S, is a
hang (beside other work a computation may take longer than that); a process that grows by more than GROWTH_MB over a target
is a leak.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import HypothesisWarning

from tests.fuzz.targets import TARGETS, Target, taken

SLOWEST_CPU_S = 20
SILENT_S, IDLE_CPU_S = 300, 1.0
GROWTH_MB = 1500
ROUND = 100


def main() -> int:
    """Fuzz; the exit code."""
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", HypothesisWarning)  # of inputs that are long to print
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, _hangs)
    cpu_s = float(os.environ.get("FUZZ_CPU_S", "60"))
    names = sys.argv[1:] or list(TARGETS)
    failures = [name for name in names if not _fuzz(name, TARGETS[name], cpu_s)]
    print(f"failed: {', '.join(failures) or 'none'}")
    return 1 if failures else 0


def _fuzz(name: str, target: Target, limit_cpu_s: float) -> bool:
    count, number = 0, int.from_bytes(os.urandom(4), "big")
    begun_cpu_s, before_mb = time.process_time(), _peak_mb()

    def once(one: Any) -> None:
        nonlocal count
        count += 1
        _alarms(SLOWEST_CPU_S, SILENT_S)
        try:
            taken(target, one)
        finally:
            _alarms(0, 0)

    while time.process_time() - begun_cpu_s < limit_cpu_s:
        number += 1
        try:
            _round(target, once, number)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            traceback.print_exc()
            print(f"{name}: failed after {count} inputs, seed {number}")
            return False
        if _peak_mb() - before_mb > GROWTH_MB:
            print(f"{name}: grew by {_peak_mb() - before_mb:.0f} MB over {count} inputs")
            return False
    print(
        f"{name}: {count} inputs, {(time.process_time() - begun_cpu_s) / 60:.1f} CPU-minutes, no failure",
        flush=True,
    )
    return True


def _round(target: Target, once: Callable[[Any], None], number: int) -> None:
    limits = settings(
        max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )  # fmt: skip
    seed(number)(limits(given(target.inputs)(once)))()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


_armed_cpu_s = 0.0


def _alarms(cpu_s: int, wall_s: int) -> None:
    global _armed_cpu_s
    _armed_cpu_s = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    signal.alarm(wall_s)


def _hangs(number: int, _: object) -> None:
    global _armed_cpu_s
    if number == signal.SIGALRM and time.process_time() - _armed_cpu_s > IDLE_CPU_S:
        _armed_cpu_s = time.process_time()  # it computes, slowly: the other alarm tells when it is too much
        signal.alarm(SILENT_S)
        return
    limit = f"{SLOWEST_CPU_S} s of CPU time" if number == signal.SIGPROF else f"{SILENT_S} s"
    raise AssertionError(f"no answer within {limit}")


if __name__ == "__main__":
    sys.exit(main())
