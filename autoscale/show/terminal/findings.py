"""Findings of the linter on the terminal: what, where, what happens, the fix."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from autoscale.lint.findings import Report
from autoscale.show.terminal.layout import to_copy

SEVERITIES = {"error": "red", "warning": "yellow", "note": "cyan"}


def finding_lines(result: Report) -> Iterator[RenderableType]:
    """Findings of the linter: what, where, what happens, the fix."""
    for found in result.findings:
        place = f"{found.file}:{found.line}" if found.file else "cluster"
        who = (
            f"{found.kind} {found.namespace}/{found.name}"
            if found.namespace
            else f"{found.kind} {found.name}"
        )
        yield Text.assemble(
            (f"{found.severity:<8}", f"bold {SEVERITIES[found.severity]}"), (found.code, "bold"), f"  {who}"
        )
        yield to_copy(f"        {place}  {found.field}", "dim")
        yield Padding(Text(f"{found.problem} {found.consequence}"), (0, 0, 0, 8))
        yield Padding(Text(f"fix: {found.fix}", style="green"), (0, 0, 1, 8))
    for note in result.notes:
        yield Text(f"note: {note}", style="dim")
    counts = {s: sum(f.severity == s for f in result.findings) for s in SEVERITIES}
    yield Text(", ".join(f"{n} {s}{'s' if n != 1 else ''}" for s, n in counts.items()), style="bold")
