"""Text files, plain or gzipped, that a user names: what goes wrong in them is bad input, and no file takes the memory.

A file is read line by line, and a line has an end: a few kilobytes of gzip can hold gigabytes. Only regular files are
read: a device has no end, a pipe cannot be read twice.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from analysis.errors import BadInput
from analysis.files import REGULAR, SAVE_IT, special_kind, utf8_text

MOST_LINE = 4_000_000  # characters; a row with the prefix blocks of a million tokens has about half a million
MOST_BLANK = 100_000  # empty lines in a row
MOST_YAML = 1_000_000  # bytes: about 30,000 points of a curve, read within 2 s
MOST_DEPTH = 32  # lists and mappings in each other, aliases followed
MOST_NODES = 100_000  # values of a YAML file, aliases followed


class PlainNumbers(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml is ten times as fast
    """Safe YAML without YAML 1.1's numbers to the base of 60: there `stages: 10:1` is the number 601."""


_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(?:0|[1-9][0-9_]*)",
    "tag:yaml.org,2002:float": r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
}
PlainNumbers.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    PlainNumbers.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+.0123456789"))


def regular(path: Path | str, what: str) -> Path:
    """The path of a regular file. Raises BadInput: `what` ("the trace") is missing, or is something else than a file."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {what}: {error}") from None
    if (kind := special_kind(mode)) is not None:
        raise BadInput(f"{what} {path} is {kind}", expected=REGULAR, next_step=SAVE_IT)
    return Path(path)


def lines(path: Path | str, what: str = "the trace") -> Iterator[tuple[int, str]]:
    """Line numbers (from 1) and lines that are not blank, stripped; a byte order mark is left out.

    Bytes that are no text become U+FFFD, so that the row is blamed. Raises BadInput for a file that cannot be read, a
    line without end and a NUL byte.
    """
    blank = 0
    with _opened(path, what) as file, _readable(path, what):
        for number in range(1, 1 << 62):
            line = file.readline(MOST_LINE + 1)
            if not line:
                return
            if len(line) > MOST_LINE:
                raise BadInput(
                    f"{path} line {number} is longer than {MOST_LINE:,} characters",
                    expected="one request per line",
                )
            if "\0" in line:
                raise BadInput(f"{path} line {number} holds a NUL byte", next_step="save it as UTF-8 text")
            text = line.strip()
            blank = 0 if text else blank + 1
            if blank > MOST_BLANK:
                raise BadInput(f"{path} line {number}: more than {MOST_BLANK:,} empty lines in a row")
            if text:
                yield number, text


def _opened(path: Path | str, what: str) -> IO[str]:
    regular(path, what)
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        if packed:
            return gzip.open(path, "rt", encoding="utf-8-sig", errors="replace")
        return open(path, encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise BadInput(f"cannot read {what}: {error}") from None


@contextmanager
def _readable(path: Path | str, what: str) -> Iterator[None]:
    """Turns what a damaged file raises while it is read into BadInput."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"cannot read {what} {path}: {error}") from None


def yaml_text(path: Path | str, what: str) -> str:
    """The text of a small YAML file. Raises BadInput when it is no regular file, too long, or no UTF-8."""
    file = regular(path, what)
    try:
        with file.open("rb") as opened:
            raw = opened.read(MOST_YAML + 1)
        if len(raw) > MOST_YAML:
            raise BadInput(f"{what} {path} is longer than {MOST_YAML:,} bytes")
    except OSError as error:
        raise BadInput(f"cannot read {what} {path}: {error}") from None
    return utf8_text(raw, f"{what} {path}")


def yaml_value(path: Path | str, text: str, loader: Any) -> tuple[yaml.Node | None, Any]:
    """The first node and the value of a YAML text, read with `loader` (a SafeLoader).

    Raises BadInput naming the line for what is not YAML, nested too deeply, or multiplied by aliases.
    """
    try:
        _bounded(path, text, loader)
        root = yaml.compose(text, Loader=loader)
        _said_once(path, root)
        return root, yaml.load(text, Loader=loader)  # noqa: S506 -- a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadInput(f"{path}{where} is not valid YAML: {getattr(error, 'problem', error)}") from None
    except (ValueError, OverflowError) as error:  # a number of thousands of digits, a 13th month
        raise BadInput(f"{path} holds a value that cannot be read: {error}") from None


def _bounded(path: Path | str, text: str, loader: Any) -> None:
    """Raises BadInput when the text, with its aliases followed, is too deep or too much; nothing is built for it."""
    anchors: dict[str, tuple[int, int]] = {}  # values in it, levels in it
    open_: list[tuple[str | None, int, int]] = [(None, 0, 0)]
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.events.CollectionStartEvent):
            open_.append((event.anchor, 1, 1))
            size, levels = 0, 0
        elif isinstance(event, yaml.events.CollectionEndEvent):
            anchor, size, levels = open_.pop()
            if anchor:
                anchors[anchor] = size, levels
        elif isinstance(event, yaml.events.AliasEvent):
            if event.anchor not in anchors:
                raise BadInput(f"{path} line {_line(event)}: *{event.anchor} refers to nothing complete")
            size, levels = anchors[event.anchor]
        elif isinstance(event, yaml.events.ScalarEvent):
            size, levels = 1, 0
            if event.anchor:
                anchors[event.anchor] = size, levels
        else:
            continue
        anchor, inside, deepest = open_[-1]
        open_[-1] = anchor, inside + size, max(deepest, levels + 1)
        line = _line(event)
        if len(open_) - 1 + levels > MOST_DEPTH:
            raise BadInput(f"{path} line {line}: nested more than {MOST_DEPTH} deep")
        if sum(part for _, part, _ in open_) > MOST_NODES:
            raise BadInput(f"{path} line {line}: more than {MOST_NODES:,} values, aliases followed")


def _said_once(path: Path | str, root: yaml.Node | None) -> None:
    """Raises BadInput for a key that stands twice in a mapping: YAML would drop what the first one says."""
    seen: set[int] = set()
    below = [] if root is None else [root]
    while below:
        node = below.pop()
        if id(node) in seen:  # by an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            below += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and lines.setdefault(key.value, line) != line:
                    raise BadInput(
                        f"{path} line {line}: {key.value} is there twice, first in line {lines[key.value]}"
                    )
                below += [key, value]


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0
