"""What verbs print on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import escaped

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def show(*parts: RenderableType) -> None:
    """Print tables and texts; without a terminal, and without COLUMNS, 100 columns wide."""
    console = _console()
    for part in parts:
        console.print(part, crop=False)


def show_json(content: Mapping[str, object], computed_from: Mapping[str, object] | None = None) -> None:
    """Print the content as JSON: what is not known, NaN here, is null there. First what it was computed from, and by which
    version, where the content does not say so itself."""
    from analysis.numbers import plain
    from analysis.redact import redacted
    from autoscale.typed_json import as_plain
    from autoscale.version import own_version

    if computed_from is not None:
        said = {name: str(one) if isinstance(one, Path) else one for name, one in computed_from.items()}
        content = {"computed_from": redacted(plain({"version": own_version(), **said})), **content}
    print(json.dumps(as_plain(content), indent=2, default=str, allow_nan=False))


def print_lines(*lines: str) -> None:
    """Print lines that may hold what others wrote: nothing in them moves the cursor or changes the terminal."""
    for line in lines:
        print("\n".join(map(escaped, line.split("\n"))))


def show_paths(paths: Sequence[Path]) -> None:
    """Print which files were written."""
    for path in paths:
        print(f"  {path}")


def leave_stdout() -> None:
    """From now on stdout goes nowhere: what it still holds is flushed at the end, and would fail again."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _console() -> Console:
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        """Rich's own ends the program with code 1 when nobody reads on, and hands a terminal what others wrote as it is."""

        def render(self, *arguments: Any, **options: Any) -> Iterator[Segment]:
            for one in super().render(*arguments, **options):
                said = one.text if one.control else "\n".join(map(escaped, one.text.split("\n")))
                yield one if said == one.text else Segment(said, one.style)

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    console = Plain(highlight=False)
    told = console.is_terminal or os.environ.get("COLUMNS", "").isdigit()
    return console if told else Plain(highlight=False, width=100)
