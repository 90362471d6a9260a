"""What is wrong with the words of a command, in this project's sentences: the value, what was expected, the nearest name."""

from __future__ import annotations

import re
from typing import Any

from analysis.errors import did_you_mean


def usage_sentence(error: Any) -> str:
    """The sentence of a usage error of the parser of arguments, with the nearest name in place of its guesses."""
    said = str(getattr(error, "message", ""))
    command = getattr(getattr(error, "ctx", None), "command", None)
    if unknown := getattr(error, "option_name", None):
        options = [
            name for one in getattr(command, "params", ()) for name in (*one.opts, *one.secondary_opts)
        ]
        error.possibilities = None
        return _with_nearest(said, unknown, [name for name in options if name.startswith("--")])
    if unknown := re.match(r"No such command '(.*?)'\.", said):
        return _with_nearest(unknown[0].rstrip("."), unknown[1], getattr(command, "commands", ()))
    if chosen := re.fullmatch(r"Value error, '(.*?)' is not one of (.*)\.", said):
        names = re.findall(r"'(.*?)'", chosen[2])
        return _with_nearest(f"{chosen[1]!r}; expected one of {', '.join(names)}", chosen[1], names)
    return said.removeprefix("Value error, ")


def _with_nearest(said: str, given: str, known: Any) -> str:
    near = did_you_mean(given, known)
    return f"{said}. {near[:1].upper()}{near[1:]}" if near else said
