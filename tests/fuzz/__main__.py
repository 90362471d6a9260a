"""`make fuzz`: each target for FUZZ_S seconds (default 60), or those that are named. Ends with 1 when one has failed.

An input that takes longer than SLOWEST_S is a hang; a process that grows by more than GROWTH_MB over a target is a leak.
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

SLOWEST_S = 20
GROWTH_MB = 1500
ROUND = 100


def main() -> int:
    """Fuzz; the exit code."""
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", HypothesisWarning)  # of inputs that are long to print
    signal.signal(signal.SIGALRM, _hangs)
    duration_s = float(os.environ.get("FUZZ_S", "60"))
    names = sys.argv[1:] or list(TARGETS)
    failures = [name for name in names if not _fuzz(name, TARGETS[name], duration_s)]
    print(f"failed: {', '.join(failures) or 'none'}")
    return 1 if failures else 0


def _fuzz(name: str, target: Target, duration_s: float) -> bool:
    count, number = 0, int.from_bytes(os.urandom(4), "big")
    begun_s, cpu_s, before_mb = time.monotonic(), time.process_time(), _peak_mb()

    def once(one: Any) -> None:
        nonlocal count
        count += 1
        signal.alarm(SLOWEST_S)
        try:
            taken(target, one)
        finally:
            signal.alarm(0)

    while time.monotonic() - begun_s < duration_s:
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
        f"{name}: {count} inputs, {(time.process_time() - cpu_s) / 60:.1f} CPU-minutes, no failure",
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


def _hangs(*_: object) -> None:
    raise AssertionError(f"no answer within {SLOWEST_S} s")


if __name__ == "__main__":
    sys.exit(main())
