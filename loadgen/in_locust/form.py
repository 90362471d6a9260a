"""The load's options in the form of Locust's web page: their order, their groups, and what is wrong with an entry."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from analysis.errors import AutoscaleError, BadInput
from loadgen.run.option_table import FIRST_IN_FORM, GROUPS, field_name
from loadgen.run.options import LoadOptions

FIRST = "The load"


def fields() -> list[tuple[str, str, str]]:
    """(field, group, help) in the order of the form: the few that most loads need, then the groups of the option table."""
    every = {field_name(o): (group.title, o) for group in GROUPS for o in group.options if o.in_form}
    first = [(name, FIRST, every[name][1].help) for name in FIRST_IN_FORM]
    rest = [(name, title, o.help) for name, (title, o) in every.items() if name not in FIRST_IN_FORM]
    return [(name, title, text.replace("%%", "%")) for name, title, text in first + rest]


def problem(entries: Mapping[str, str], parsed: argparse.Namespace) -> str | None:
    """What is wrong with the entries of the form, as a sentence; None when a run can begin with them.

    They are read as Locust reads them: with the type of the value that the option has now.
    """
    asked = argparse.Namespace(**vars(parsed))
    try:
        for name, *_ in fields():
            if name in entries:
                setattr(asked, name, _read(name, entries[name], getattr(parsed, name, None)))
        LoadOptions.of(asked).check()
    except AutoscaleError as error:
        return str(error)
    return None


def _read(name: str, text: str, now: object) -> object:
    if isinstance(now, bool):
        return text == "true"
    if isinstance(now, int | float):
        try:
            return type(now)(text)
        except ValueError:
            raise BadInput(
                f"--{name.replace('_', '-')}",
                value=text,
                expected="a whole number" if isinstance(now, int) else "a number",
            ) from None
    return text
