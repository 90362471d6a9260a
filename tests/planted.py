"""Looks for planted secrets in everything that a program left behind: a secret must be nowhere, however it is spelt."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus


def found(secrets: Iterable[str], *places: Path | str | bytes) -> list[str]:
    """Where a secret turned up, as "secret: place: its surroundings"; `places` are texts, files and folders.

    Tables in Parquet and compressed files are read as what they hold. A file that cannot be read counts as a find.
    """
    finds = []
    texts = [text for place in places for text in _texts(place)]
    for secret in secrets:
        for spelling in spellings(secret):
            for where, text in texts:
                at = text.find(spelling)
                if at >= 0:
                    finds.append(f"{secret}: {where}: {text[max(0, at - 60) : at + len(spelling) + 20]!r}")
    return finds


def spellings(secret: str) -> set[str]:
    """The secret as it is, and as URLs, pages, JSON and basic authorization spell it."""
    encoded = {base64.b64encode(part.encode()).decode().rstrip("=") for part in (secret, f"user:{secret}")}
    return {
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        html.escape(secret),
        json.dumps(secret)[1:-1],
    } | encoded


def _texts(place: Path | str | bytes) -> Iterator[tuple[str, str]]:
    if isinstance(place, bytes):
        yield "text", place.decode("utf-8", "replace")
    elif isinstance(place, str):
        yield "text", place
    elif place.is_dir():
        for file in sorted(place.rglob("*")):
            if file.is_file():
                yield from _texts(file)
    else:
        yield str(place), f"{place.name}\n{_content(place)}"


def _content(file: Path) -> str:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(file)
        return f"{table.schema.metadata}\n{json.dumps(table.to_pydict(), default=str, ensure_ascii=False)}"
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return data.decode("utf-8", "replace")
