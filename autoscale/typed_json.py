"""Frozen dataclasses as JSON objects and back: the types of the fields say what a file may hold.

    str, int, bool, Literal    as they are        X | None         null is None
    float                      null is NaN        tuple[X, ...]    a list
    dataclass, Mapping         an object          tuple[X, Y]      a list of two

Annotations change that: `Annotated[X, Reading(...)]` how a value of the file becomes an X, `Name("minReplicas")` what
the field is called there, `LeftOut` that None is not written. A field that the file lacks keeps its default; without a
default it must be there. What the file holds beyond the fields is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from analysis.errors import BadInput, did_you_mean
from analysis.numbers import plain

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """How a value of a file becomes a field's: `make` raises ValueError or BadInput for what is not `expected`."""

    expected: str
    make: Callable[[Any], object]


@dataclass(frozen=True)
class Name:
    """What a field is called in the file, where that differs."""

    text: str


class LeftOut:
    """Marks a field that is not written at all when it is None."""


def as_plain(value: Any) -> Any:
    """The value as plain JSON; what is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((one, getattr(value, one.attribute)) for one in _entries(type(value)))
        return {one.name: as_plain(item) for one, item in pairs if not (item is None and one.left_out)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return plain(value)


def decoded(kind: type[T], value: object, source: str) -> T:
    """The object of a file as a dataclass; `source` opens the sentence of what is refused. Raises BadInput."""
    return _object(kind, value, f"{source} ")


@dataclass(frozen=True)
class _Entry:
    """A field, and the name under which the file holds it."""

    attribute: str
    name: str
    hint: Any
    required: bool
    left_out: bool


@cache
def _entries(kind: Any) -> tuple[_Entry, ...]:
    hints = get_type_hints(kind, include_extras=True)
    made = []
    for one in fields(kind):
        marks = get_args(hints[one.name])[1:] if get_origin(hints[one.name]) is Annotated else ()
        name = next((mark.text for mark in marks if isinstance(mark, Name)), one.name)
        required = one.default is MISSING and one.default_factory is MISSING
        made.append(_Entry(one.name, name, hints[one.name], required, LeftOut in marks))
    return tuple(made)


def _object(kind: type[T], value: object, prefix: str) -> T:
    if not isinstance(value, Mapping):
        raise BadInput(prefix.rstrip(" ."), value=value, expected="an object")
    given = {
        one.attribute: _value(one.hint, value.get(one.name), prefix + one.name)
        for one in _entries(cast("Any", kind))
        if one.required or one.name in value
    }
    return kind(**given)


def _value(hint: Any, value: Any, place: str) -> object:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        readings = (mark for mark in parts[1:] if isinstance(mark, Reading))
        reading = next(readings, None)
        return _made(reading, value, place) if reading else _value(parts[0], value, place)
    if origin in (Union, UnionType):
        if value is None:
            return None
        return _value(next(part for part in parts if part is not NoneType), value, place)
    if origin is tuple:
        return _list(parts, value, place)
    if is_dataclass(hint):
        return _object(hint, value, f"{place}.")  # type: ignore[arg-type]
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise BadInput(place, value=value, expected="an object")
        return {str(key): _value(parts[1], item, f"{place}.{key}") for key, item in value.items()}
    if origin is Literal:
        if value not in parts:
            raise BadInput(
                place,
                value=value,
                expected=f"one of {', '.join(parts)}",
                next_step=did_you_mean(str(value), parts),
            )
        return value
    return value if hint is Any else _made(_SCALARS[hint], value, place)


def _list(parts: tuple[Any, ...], value: Any, place: str) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise BadInput(place, value=value, expected="a list")
    if parts[-1] is Ellipsis:
        parts = (parts[0],) * len(value)
    if len(value) != len(parts):
        raise BadInput(place, value=value, expected=f"a list of {len(parts)}")
    return tuple(
        _value(part, item, f"{place}[{k}]") for k, (part, item) in enumerate(zip(parts, value, strict=True))
    )


def _made(reading: Reading, value: Any, place: str) -> object:
    try:
        return reading.make(value)
    except (TypeError, ValueError, OverflowError, BadInput):  # TypeError: a list where a name is looked up
        raise BadInput(place, value=value, expected=reading.expected) from None


def _of(*kinds: type) -> Callable[[Any], Any]:
    """The value itself when it is of one of these types exactly: true is no number."""

    def same(value: Any) -> Any:
        if type(value) not in kinds:
            raise ValueError
        return value

    return same


def whole(value: Any) -> int:
    """The value, when it is a whole number. Raises ValueError."""
    number = _of(int)(value)
    assert isinstance(number, int)
    return number


def _number(value: Any) -> float:
    number = math.nan if value is None else _of(int, float)(value)
    if value is not None and not math.isfinite(number):
        raise ValueError
    return float(number)


_SCALARS: dict[object, Reading] = {
    str: Reading("text", _of(str)),
    bool: Reading("true or false", _of(bool)),
    int: Reading("a whole number", whole),
    float: Reading("a finite number, or null", _number),
}
