"""YAML and JSON as data with places: safe, with limits, and with an error's line and column.

Only plain data is built: a tag that is not YAML's own is refused, aliases may not unfold into more than a file of
reasonable size holds, and nesting has an end, the same one whatever the version of the parser. The values are those that
an API server sees: a date stays text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml

Key = str | int  # of a mapping, or a place in a list

MAX_UNFOLDED = (
    200_000  # values that the aliases of a document may add to those that are written; ours add none
)
MAX_DEPTH = 100  # an API server refuses 10,000; a manifest has 15
TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
_CORE_TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "map", "seq", "binary", "timestamp", "merge")
}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {
    word: value
    for words, value in (("true yes on", True), ("false no off", False))
    for low in words.split()
    for word in (low, low.capitalize(), low.upper())
}
_INT = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)")
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


@dataclass(frozen=True)
class Problem:
    """Why a document cannot be used: code, sentence, and the place, counted from 1."""

    code: str
    text: str
    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """One document's value, where it starts, and what is wrong with it although it could be read."""

    value: Any
    line: int
    problems: list[Problem] = field(default_factory=list)


class _Refused(Exception):
    """Carries the Problem for which a document is given up."""

    def __init__(self, code: str, text: str, mark: Any) -> None:
        super().__init__(text)
        self.problem = Problem(code, text, mark.line + 1, mark.column + 1)


def documents(text: str, places: dict[int, dict[Key, tuple[int, int]]]) -> Iterator[Document | Problem]:
    """The documents of a file in order; a Problem for one that cannot be used.

    Nothing follows a syntax error or a document that is nested too deep. `places` receives, for the id of every mapping
    and list, the line and column of each key; it is valid as long as the documents are kept.
    """
    try:
        loader = _LOADER(text)
        try:
            while (event := loader.get_event()) is not None and type(event) is not yaml.StreamEndEvent:
                if type(event) is yaml.DocumentStartEvent:
                    builder = _Builder(places)
                    yield builder.document(loader.get_event)
                    if builder.too_deep:
                        return
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        yield _first_too_deep(text, error) or _broken(error)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        yield Problem("yaml-broken", f"character that YAML does not allow: {error.reason}", line, 1)


def _broken(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    sentence = " ".join(part for part in (error.problem, error.context) if part)
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    return Problem("yaml-broken", sentence or "not valid YAML", line, column)


def _first_too_deep(text: str, error: yaml.MarkedYAMLError) -> Problem | None:
    """Where nesting passes MAX_DEPTH, when that is what the parser gave up for; None for any other error.

    libyaml's scanner reads ahead: since 0.2.6 it may refuse the thousandth bracket before it has told of the first.
    """
    if "nesting" not in (error.problem or ""):
        return None
    depth = 0
    with suppress(yaml.YAMLError):
        for event in yaml.parse(
            text, Loader=yaml.SafeLoader
        ):  # in Python: slower, and without a limit of its own
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                return _too_deep(event.start_mark)
    return None


def _too_deep(mark: Any) -> Problem:
    return Problem("yaml-bomb", TOO_DEEP, mark.line + 1, mark.column + 1)


class _Builder:
    """Builds one document from parser events, without recursion."""

    def __init__(self, places: dict[int, dict[Key, tuple[int, int]]]) -> None:
        self.places = places
        self.anchors: dict[
            str, tuple[Any, int, int]
        ] = {}  # name -> value, values it unfolds into, levels in it
        self.problems: list[Problem] = []
        self.written = 0  # values so far, aliases not followed
        self.too_deep = False

    def document(self, next_event: Callable[[], Any]) -> Document | Problem:
        """The document whose start event was just taken; takes all events up to its end, unless it is too deep."""
        refused: Problem | None = None
        value, line = None, 0
        stack: list[_Open] = []
        try:
            while type(event := next_event()) is not yaml.DocumentEndEvent:
                line = line or event.start_mark.line + 1
                if refused:
                    continue
                if len(stack) >= MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
                    self.too_deep = True
                    return _too_deep(event.start_mark)
                try:
                    done, item = self._take(event, stack)
                    if done:
                        value = item
                except _Refused as error:
                    refused = error.problem
        except yaml.YAMLError:
            if refused is None:
                raise
        return refused or Document(value, line, self.problems)

    def _take(self, event: Any, stack: list[_Open]) -> tuple[bool, Any]:
        """Apply one event; (True, value) when it completed the document's root."""
        kind = type(event)
        self.written += 1
        if kind is yaml.ScalarEvent:
            plain = event.implicit[0] and not event.tag
            value = plain_value(event.value) if plain else _value_of(event)
            if event.anchor:
                self.anchors[event.anchor] = (value, 1, 0)
            return self._place(value, 1, 0, event.start_mark, stack)
        if kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            _check_tag(event)
            container: Any = {} if kind is yaml.MappingStartEvent else []
            stack.append(_Open(container, event.anchor, event.start_mark))
            if event.anchor:
                self.anchors.pop(event.anchor, None)
            self.places[id(container)] = stack[-1].places
            return False, None
        if kind is yaml.AliasEvent:
            if event.anchor not in self.anchors:
                inside = any(open_.anchor == event.anchor for open_ in stack)
                text = f"alias *{event.anchor} " + (
                    "contains itself" if inside else "has no anchor before it"
                )
                raise _Refused("yaml-bomb" if inside else "yaml-broken", text, event.start_mark)
            value, size, levels = self.anchors[event.anchor]
            return self._place(value, size, levels, event.start_mark, stack)
        done = stack.pop()
        if done.anchor:
            self.anchors[done.anchor] = (done.container, done.size, done.levels)
        return self._place(done.container, done.size, done.levels, done.mark, stack)

    def _place(self, value: Any, size: int, levels: int, mark: Any, stack: list[_Open]) -> tuple[bool, Any]:
        if not stack:
            return True, value
        top = stack[-1]
        top.size += size
        top.levels = max(top.levels, levels + 1)
        if len(stack) + levels > MAX_DEPTH:
            raise _Refused("yaml-bomb", TOO_DEEP, mark)
        if top.size > MAX_UNFOLDED + self.written:
            raise _Refused("yaml-bomb", f"aliases unfold into more than {MAX_UNFOLDED} values", mark)
        if top.is_list:
            top.places[len(top.container)] = (mark.line + 1, mark.column + 1)
            top.container.append(value)
        elif top.key is _NO_KEY:
            if type(value) in (dict, list):
                raise _Refused("yaml-broken", "a mapping or list is used as a key", mark)
            top.key, top.key_mark = value, mark
        else:
            self._entry(top, value)
        return False, None

    def _entry(self, top: _Open, value: Any) -> None:
        key, key_mark = top.key, top.key_mark
        top.key = _NO_KEY
        if key == "<<" and isinstance(value, dict | list):
            for merged in [value] if isinstance(value, dict) else value:
                if isinstance(merged, dict):
                    top.container.update({k: v for k, v in merged.items() if k not in top.container})
            return
        key = key if isinstance(key, str) else _key_text(key)
        if key in top.places:
            text = f'key "{key}" is there twice, first in line {top.places[key][0]}'
            self.problems.append(Problem("yaml-duplicate-key", text, key_mark.line + 1, key_mark.column + 1))
        top.container[key] = value
        top.places[key] = (key_mark.line + 1, key_mark.column + 1)


_NO_KEY = object()


class _Open:
    """A mapping or list that is being filled, and how many values and levels it unfolds into so far."""

    __slots__ = ("anchor", "container", "is_list", "key", "key_mark", "levels", "mark", "places", "size")

    def __init__(self, container: Any, anchor: str | None, mark: Any) -> None:
        self.container, self.anchor, self.mark = container, anchor, mark
        self.places: dict[Key, tuple[int, int]] = {}
        self.is_list = type(container) is list
        self.size = self.levels = 1
        self.key: Any = _NO_KEY
        self.key_mark: Any = None


def _check_tag(event: Any) -> None:
    if event.tag and event.tag != "!" and event.tag not in _CORE_TAGS:
        shown = event.tag.replace("tag:yaml.org,2002:", "!!")
        raise _Refused("yaml-tag-refused", f"tag {shown} is not plain data", event.start_mark)


def _value_of(event: Any) -> Any:
    """The value of a scalar that is quoted or tagged."""
    if not event.tag:
        return event.value
    _check_tag(event)
    return event.value if event.tag in ("!", "tag:yaml.org,2002:str") else plain_value(event.value)


@lru_cache(maxsize=20_000)
def plain_value(text: str) -> Any:
    """What an unquoted scalar means: null, a boolean, a number, or text."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    try:
        if _INT.fullmatch(text):
            digits = text.replace("_", "")
            octal = re.fullmatch(r"([-+]?)0o?([0-7]+)", digits)
            return int(octal[1] + octal[2], 8) if octal else int(digits, 0)
        if _FLOAT.fullmatch(text):
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return text
    return text


def _key_text(key: Any) -> str:
    """A key that is not text, as an API server reads it."""
    if isinstance(key, bool):
        return str(key).lower()
    return "null" if key is None else str(key)


def helm_hint(problem: Problem, text: str) -> str | None:
    """The next step for a text that is no YAML because Helm has yet to fill it in; None for another problem."""
    if problem.code != "yaml-broken" or "{{" not in text:
        return None
    return "it looks like a Helm template: give the output of `helm template`"
