"""What verbs print on stdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def show(*parts: RenderableType) -> None:
    """Print tables and texts; without a terminal 100 columns wide."""
    console = _console()
    for part in parts:
        console.print(part)


def show_json(content: object) -> None:
    """Print the content as JSON."""
    print(json.dumps(content, indent=2, default=str))


def show_paths(paths: Sequence[Path]) -> None:
    """Print which files were written."""
    for path in paths:
        print(f"  {path}")


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=100)
