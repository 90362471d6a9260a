"""What all results on the terminal are made of: a table, a bullet, a copyable line, a hyphen where there is no figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from autoscale.show import words

NONE = "-"
GAP = 2  # between columns


@dataclass
class Column:
    """A heading, the cells below it, and the side to which they are set."""

    heading: Text
    justify: Literal["left", "right"]
    cells: list[Text] = field(default_factory=list, init=False)

    def widths(self, console: Console, options: ConsoleOptions) -> tuple[int, int]:
        """(longest word, longest line)."""
        sizes = [Measurement.get(console, options, text) for text in (self.heading, *self.cells)]
        return max(size.minimum for size in sizes), max(size.maximum for size in sizes)


@dataclass
class PlainTable:
    """A table that breaks no word: the columns that do not fit beside the first stand in a further table below."""

    columns: list[Column]
    title: str | None = None

    @property
    def row_count(self) -> int:
        """Rows without the heading."""
        return len(self.columns[0].cells)

    def add_row(self, *cells: str | Text) -> None:
        """One cell per column."""
        for column, cell in zip(self.columns, cells, strict=True):
            column.cells.append(cell if isinstance(cell, Text) else Text(cell))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The tables, one below the other."""
        room = options.max_width
        sizes = [column.widths(console, options.update(width=10_000)) for column in self.columns]
        for number, group in enumerate(_groups([least for least, _ in sizes], room)):
            widths = _shared([sizes[k] for k in group], room - GAP * (len(group) - 1))
            made = Table(
                title=None if number else self.title,
                title_justify="left", box=None, pad_edge=False, padding=(0, GAP, 0, 0), expand=False,
            )  # fmt: skip
            for k, width in zip(group, widths, strict=True):
                column = self.columns[k]
                made.add_column(
                    column.heading,
                    justify=column.justify,
                    overflow="fold",
                    header_style="bold",
                    width=width,
                )
            for row in zip(*(self.columns[k].cells for k in group), strict=True):
                made.add_row(*row)
            if number:
                yield Text()
            yield made


def plain_table(*columns: str, title: str | None = None) -> PlainTable:
    """A table whose first column is text and whose others are numbers."""
    made = [Column(Text(name, "bold"), "left" if k == 0 else "right") for k, name in enumerate(columns)]
    return PlainTable(made, title)


def _groups(least: Sequence[int], room: int) -> Iterator[list[int]]:
    """Which columns stand beside each other: the first in each group, and as many others as there is room for."""
    group, used = [0], least[0]
    for k in range(1, len(least)):
        if len(group) > 1 and used + GAP + least[k] > room:
            yield group
            group, used = [0], least[0]
        group.append(k)
        used += GAP + least[k]
    yield group


def _shared(sizes: Sequence[tuple[int, int]], room: int) -> list[int]:
    """The width of each column: its longest word and, of the room that is left, a share by the text that it holds."""
    widths = [least for least, _ in sizes]
    left, wished = room - sum(widths), sum(most - least for least, most in sizes)
    share = 1.0 if wished <= left else max(0, left) / wished
    return [width + int(share * (most - least)) for width, (least, most) in zip(widths, sizes, strict=True)]


def bullet(sentence: str, style: str = "") -> Table:
    """A sentence behind a dot; its further lines begin where the first does."""
    made = Table.grid(padding=(0, 1))
    made.add_column()
    made.add_column(overflow="fold")
    made.add_row(Text(" •", style), Text(sentence))
    return made


def to_copy(text: str, style: str = "") -> Group:
    """A command, a file's content or its place: never wrapped, so that it can be copied and parsed."""
    return Group(
        Text(text, style, no_wrap=True, overflow="ignore")
    )  # of a text alone print() drops these two


def number_text(value: float | None, form: str = ",.1f") -> str:
    """A number, with one decimal unless `form` says otherwise; a hyphen when there is none."""
    return words.number(value, form, NONE)


def money_text(value: float | None) -> str:
    """A cost in the unit of the price; a hyphen when there is none."""
    return words.money(value, NONE)
