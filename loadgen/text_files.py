"""Text files, plain or gzipped, that a user names: what goes wrong in them is bad input."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from analysis.errors import BadInput


def opened(path: Path | str) -> IO[str]:
    """The file, to be read as text; bytes that are none become U+FFFD, so that the row is blamed. Raises BadInput."""
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        if packed:
            return gzip.open(path, "rt", encoding="utf-8", errors="replace")
        return open(path, encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadInput(f"cannot read the trace: {error}") from None


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turns what a damaged file raises while it is read into BadInput."""
    try:
        yield
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise BadInput(f"cannot read the trace {path}: {error}") from None
