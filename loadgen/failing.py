"""What no code foresaw: an exception that nobody caught ends the run with a sentence, instead of leaving it half alive.

gevent hands every exception that ends a greenlet, or leaves a callback of its event loop, to one function of the hub, which
prints it and goes on. Here that function tells the run as well.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import gevent

from analysis.errors import AutoscaleError
from analysis.redact import redact

# Not what is installed beside them: gevent hands what its own threads raised to whoever asked for it, too.
OURS = tuple(Path(__file__).parents[1] / package for package in ("analysis", "loadgen"))
FILE = "traceback.txt"  # in the run directory


class Unforeseen(AutoscaleError):
    """A fault of this program, or of what it rests on."""


class Failure(NamedTuple):
    """An exception as it is told: a sentence, the exit code that it stands for, and of an unforeseen one its traceback."""

    sentence: str
    exit_code: int
    traceback: str | None


def hear_of(heard: Callable[[Exception], None]) -> None:
    """From now on call `heard(error)`, in a greenlet, for each exception of this package that nobody caught."""
    hub = gevent.get_hub()
    as_before = hub.handle_error
    telling: set[Any] = set()  # greenlets that run `heard`: what they raise is only printed

    def handle(context: Any, kind: Any, value: Any, trace: TracebackType | None) -> None:
        if not isinstance(value, Exception) or context in telling or not _is_ours(trace):
            as_before(context, kind, value, trace)
            return
        greenlet = gevent.spawn(heard, value.with_traceback(trace))
        telling.add(greenlet)
        greenlet.rawlink(telling.discard)

    hub.handle_error = handle


def tell(error: Exception) -> None:
    """Treat this exception as one that nobody caught."""
    gevent.get_hub().handle_error(gevent.getcurrent(), type(error), error, error.__traceback__)


def failure_of(error: Exception) -> Failure:
    """What is told of an exception."""
    if isinstance(error, AutoscaleError):
        return Failure(str(error), error.exit_code, None)
    where = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(where[-1].filename).name} line {where[-1].lineno}" if where else ""
    what = Unforeseen(f"internal error: {type(error).__name__}{place}: {error}")
    return Failure(str(what), what.exit_code, redact("".join(traceback.format_exception(error))))


def keep(text: str, folder: Path | None) -> Path | None:
    """Write a traceback into the run directory or, where that does not work, a temporary file; None: nowhere."""
    if folder is not None:
        with suppress(OSError), open(folder / FILE, "a", encoding="utf-8") as file:
            file.write(text)
            return folder / FILE
    with suppress(OSError):
        with tempfile.NamedTemporaryFile(
            "w", prefix="loadgen-", suffix=".txt", delete=False, encoding="utf-8"
        ) as scratch:
            scratch.write(text)
        return Path(scratch.name)
    return None


def _is_ours(trace: TracebackType | None) -> bool:
    files = [Path(frame.filename) for frame in traceback.extract_tb(trace)]
    return any(package in file.parents for package in OURS for file in files)
