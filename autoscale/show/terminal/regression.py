"""Two runs compared on the terminal: the verdict, why, and the figures per stage."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from autoscale.regression import Regression
from autoscale.show.regression_words import HEADLINES, HEADS, regression_rows, regression_sentences
from autoscale.show.terminal.layout import bullet, plain_table

COLOURS = {"better": "green", "worse": "red", "same": "green", "not judged": "yellow"}


def regression_lines(found: Regression, before: str) -> Iterator[RenderableType]:
    """The figures, then the verdict against the run called `before`."""
    if found.rows:
        made = plain_table(*HEADS)
        for row in regression_rows(found):
            made.add_row(*row)
        yield made
    yield Text(f"\n{HEADLINES[found.change]}, compared with {before}", style=f"bold {COLOURS[found.change]}")
    for sentence in regression_sentences(found):
        yield bullet(sentence, COLOURS[found.change])
