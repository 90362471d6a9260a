"""Where results are written: looked at before the work, and never over what somebody else left there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from analysis.errors import BadInput

Recognised = Callable[[Path], bool]


def free_directory(path: Path, earlier: Recognised, option: str = "--out") -> Path:
    """The directory, made now. One that holds something must hold an earlier result of the same kind: `earlier(path)`.

    Raises BadInput, also where it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = any(path.iterdir())
    except OSError as error:
        raise BadInput(
            f"cannot write to {error.filename or path}: {error.strerror}",
            next_step=f"choose another directory with {option}",
        ) from None
    if taken and not earlier(path):
        raise BadInput(
            "the directory already holds something else",
            value=str(path),
            expected="an empty or a new one",
            next_step=f"choose another with {option}",
        )
    return path


def free_file(path: Path, earlier: Recognised, expected: str, option: str = "--out") -> Path:
    """The file, its directory made now. One that is there must be an earlier result of the same kind: `earlier(path)`.

    Raises BadInput, also where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
    except OSError as error:
        raise BadInput(
            f"cannot write to {error.filename or path}: {error.strerror}",
            next_step=f"choose another {option}",
        ) from None
    if there and not (path.is_file() and earlier(path)):
        raise BadInput(
            "there is something else already",
            value=str(path),
            expected=f"a new file, or {expected}",
            next_step=f"choose another {option}",
        )
    return path


def empty(_: Path) -> bool:
    """Of a kind whose earlier results are kept, too: nothing may be there."""
    return False


def begins_with(text: str) -> Recognised:
    """Whether a file begins so, case aside."""

    def earlier(path: Path) -> bool:
        with open(path, "rb") as file:
            return file.read(200).lstrip().lower().startswith(text.lower().encode())

    return earlier
