"""A trigger's metadata as KEDA reads it: a map of strings, each decoded by the type that the scaler gives it.

Source: kedacore/keda v2.20.2 pkg/scalers/scalersconfig/typed_config.go; numbers are decoded by Go's encoding/json, so
that `.5`, `5.`, `+3`, `5m` and `1_000` are refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_BLANKS = " \t\r\n"
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
# The parts of a number: what may follow, and what Go says of a character that may not
_AFTER_MINUS, _AFTER_POINT, _IN_EXPONENT, _AFTER_VALUE = (
    "in numeric literal",
    "after decimal point in numeric literal",
    "in exponent of numeric literal",
    "after top-level value",
)
_LITERALS = {"t": "true", "f": "false", "n": "null"}


class Unreadable(ValueError):
    """A trigger that KEDA cannot build; the text is KEDA's."""


class Metadata:
    """Reads parameters by name and type, and gathers what could not be read, in the order of reading."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        """A parameter that must be there."""
        value = self._given.get(name, "").strip()
        if not value:
            self.problems.append(f'missing required parameter "{name}" in [triggerMetadata]')
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A float64 parameter; one without a default must be there."""
        if default is not None and not self._given.get(name, "").strip():
            return default
        value = self._decoded(name, "float64", self.text(name))
        return 0.0 if value is None else float(value)

    def whole(self, name: str) -> int:
        """An int64 parameter that must be there."""
        value = self._decoded(name, "int64", self.text(name))
        return 0 if value is None else int(value)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean parameter."""
        given = self._given.get(name, "").strip()
        value = boolean(given) if given else default
        if value is None:
            problem = f'strconv.ParseBool: parsing "{given}": invalid syntax'
            self._unset(name, given, f'unable to parse boolean value "{given}": {problem}')
        return bool(value)

    def check(self, prefix: str, *more: str) -> None:
        """Raises Unreadable with all problems, those of the scaler's own checks last."""
        problems = [*self.problems, *more]
        if problems:
            raise Unreadable(prefix + "\n".join(problems))

    def _decoded(self, name: str, kind: str, given: str) -> float | None:
        if not given:
            return None
        problem = json_problem(given, kind)
        value = None if problem else json.loads(given)
        if value is not None and (math.isinf(float(given)) or (kind == "int64" and not _is_int64(value))):
            problem = f"json: cannot unmarshal number {given} into Go value of type {kind}"
        if problem:
            self._unset(name, given, f"unable to unmarshal to field type {kind}: {problem}")
            return None
        return value

    def _unset(self, name: str, given: str, problem: str) -> None:
        self.problems.append(f'unable to set param "{name}" value {json.dumps(given)}: {problem}')


def _is_int64(value: float) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63


def boolean(given: str) -> bool | None:
    """strconv.ParseBool; None for what it refuses."""
    return True if given in _TRUE else False if given in _FALSE else None


def json_problem(given: str, kind: str) -> str:
    """What Go's encoding/json says of a text that should be a number; "" when it is one, or null."""
    body = given.strip(_BLANKS)
    if _NUMBER.fullmatch(body) or body == "null":
        return ""
    if body.startswith('"'):
        return f"json: cannot unmarshal string into Go value of type {kind}"
    if body in ("true", "false"):
        return f"json: cannot unmarshal bool into Go value of type {kind}"
    if (literal := _LITERALS.get(body[:1])) is not None:
        shorter = min(len(body), len(literal))
        same = next((at for at in range(shorter) if body[at] != literal[at]), shorter)
        where = f"in literal {literal} (expecting '{literal[same]}')" if same < len(literal) else _AFTER_VALUE
        return _invalid(body[same:], where)
    begun = _NUMBER.match(body)
    if begun is None:
        if body[:1] == "-":
            return _invalid(body[1:], _AFTER_MINUS)
        return _invalid(body, "looking for beginning of value")
    rest = body[begun.end() :]
    if rest[0] == "." and not begun[2] and not begun[3]:
        return _invalid(rest[1:], _AFTER_POINT)
    if rest[0] in "eE" and not begun[3]:
        return _invalid(rest[1:].lstrip("+-") if rest[1:2] in ("+", "-") else rest[1:], _IN_EXPONENT)
    return _invalid(rest.lstrip(_BLANKS), _AFTER_VALUE)


def _invalid(rest: str, where: str) -> str:
    if not rest:
        return "unexpected end of JSON input"
    shown = {"'": r"'\''", '"': "'\"'"}.get(rest[0], f"'{rest[0]}'")
    return f"invalid character {shown} {where}"
