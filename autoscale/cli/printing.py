"""What verbs print on stdout."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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


def show_paths(paths: Sequence[Path]) -> None:
    """Print which files were written."""
    for path in paths:
        print(f"  {path}")


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    told = console.is_terminal or os.environ.get("COLUMNS", "").isdigit()
    return console if told else Console(highlight=False, width=100)
