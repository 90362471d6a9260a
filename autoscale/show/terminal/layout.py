"""What all results on the terminal are made of: a table, a bullet, and a hyphen where there is no figure."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from autoscale.show import words

NONE = "-"


def plain_table(*columns: str, title: str | None = None) -> Table:
    """A table whose first column is text and whose others are numbers."""
    made = Table(
        title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=False
    )
    for k, column in enumerate(columns):
        made.add_column(column, justify="left" if k == 0 else "right", overflow="fold", header_style="bold")
    return made


def bullet(sentence: str, style: str = "") -> Table:
    """A sentence behind a dot; its further lines begin where the first does."""
    made = Table.grid(padding=(0, 1))
    made.add_column()
    made.add_column(overflow="fold")
    made.add_row(Text(" •", style), Text(sentence))
    return made


def number_text(value: float | None, form: str = ",.1f") -> str:
    """A number, with one decimal unless `form` says otherwise; a hyphen when there is none."""
    return words.number(value, form, NONE)


def money_text(value: float | None) -> str:
    """A cost in the unit of the price; a hyphen when there is none."""
    return words.money(value, NONE)
