"""YAML with comments and a stable order: objects as plain dicts in which a value may carry a note.

`Note("why", value)` puts `# why` above the key or list item that holds the value. `plain` strips the notes, `dump`
writes one document, and parsing what `dump` wrote gives what `plain` returns.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

WIDTH = 110


@dataclass(frozen=True)
class Note:
    """A value and the comment that stands above it."""

    text: str
    value: Any


def plain_yaml(value: Any) -> Any:
    """The value without its notes, as new dicts and lists."""
    value = bare(value)
    if isinstance(value, dict):
        return {key: plain_yaml(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_yaml(item) for item in value]
    return value


def dump(document: dict[str, Any], head: str = "") -> str:
    """One YAML document, ending in a newline; `head` becomes the comment at its top."""
    lines = [*_comment(head, 0), *_comment(_text(document), 0), *_mapping(bare(document), 0)]
    return "\n".join(lines) + "\n"


def dump_all(documents: list[tuple[dict[str, Any], str]]) -> str:
    """Several documents, each with its head comment, separated by `---`."""
    return "---\n".join(dump(document, head) for document, head in documents)


def bare(value: Any) -> Any:
    """The value that a note holds, however deep; any other value as it is. Notes further inside stay."""
    while isinstance(value, Note):
        value = value.value
    return value


def _text(value: Any) -> str:
    texts = []
    while isinstance(value, Note):
        texts.append(value.text)
        value = value.value
    return "\n".join(texts)


def _comment(text: str, indent: int) -> Iterator[str]:
    """Comment lines, wrapped paragraph by paragraph."""
    for paragraph in text.splitlines():
        paragraph = "".join(letter if letter.isprintable() else " " for letter in paragraph)
        lines = textwrap.wrap(
            paragraph, max(40, WIDTH - indent - 2), break_long_words=False, break_on_hyphens=False
        )
        yield from (f"{' ' * indent}# {line}" for line in lines)


def _mapping(mapping: dict[str, Any], indent: int) -> Iterator[str]:
    pad = " " * indent
    for key, noted in mapping.items():
        value = bare(noted)
        yield from _comment(_text(noted), indent)
        name = _scalar(key)
        if isinstance(value, dict) and value:
            yield f"{pad}{name}:"
            yield from _mapping(value, indent + 2)
        elif isinstance(value, list) and value:
            yield f"{pad}{name}:"
            yield from _sequence(value, indent)
        else:
            yield from _leaf(f"{pad}{name}:", value, indent + 2)


def _sequence(items: list[Any], indent: int) -> Iterator[str]:
    pad = " " * indent
    for noted in items:
        value = bare(noted)
        yield from _comment(_text(noted), indent)
        if isinstance(value, dict | list) and value:
            inner = _mapping(value, indent + 2) if isinstance(value, dict) else _sequence(value, indent + 2)
            lines = list(inner)
            while lines[0].lstrip().startswith("#"):  # the comment of a first key goes above the dash
                yield pad + lines.pop(0).lstrip()
            yield f"{pad}- {lines[0].lstrip()}"
            yield from lines[1:]
        else:
            yield from _leaf(f"{pad}-", value, indent + 2)


def _leaf(prefix: str, value: Any, indent: int) -> Iterator[str]:
    if isinstance(value, str) and _is_block(value):
        yield f"{prefix} {'|' if value.endswith(chr(10)) else '|-'}"
        yield from (" " * indent + line if line else "" for line in value.rstrip("\n").split("\n"))
    else:
        yield f"{prefix} {_scalar(value)}"


def _is_block(text: str) -> bool:
    """Whether a literal block reproduces the text exactly."""
    body = text.removesuffix("\n")
    lines = body.split("\n")
    return (
        len(lines) > 1
        and not lines[0].startswith((" ", "\t"))
        and all(line == line.rstrip() and line.isprintable() and "\t" not in line for line in lines)
        and bool(lines[0])
        and bool(lines[-1])
        and "\ufeff" not in text
    )


def _scalar(value: Any) -> str:
    if isinstance(value, dict | list):
        return "{}" if isinstance(value, dict) else "[]"
    odd = isinstance(value, str) and not value.isprintable()  # line breaks and the like: quoted and escaped
    style = '"' if odd else None
    text = yaml.safe_dump(value, width=float("inf"), default_style=style, allow_unicode=not odd)
    return text.removesuffix("...\n").rstrip("\n")
