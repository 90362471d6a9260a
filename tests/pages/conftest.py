"""Reads a page the way a browser would, and checks what must hold of every page."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

VOID = {"meta", "img", "br", "link", "input", "hr"}
LARGEST = 2_000_000  # bytes of a page


@dataclass
class Page(HTMLParser):
    """A parsed page: its visible text, its tables as rows of cells, its preformatted blocks, its pictures."""

    source: str
    open_tags: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)
    pictures: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()

    @property
    def text(self) -> str:
        """Everything that can be read, with single spaces."""
        return re.sub(r"\s+", " ", " ".join(self.words))

    def table(self, head: str) -> list[list[str]]:
        """The first table with this cell in its first row."""
        return next(rows for rows in self.tables if head in rows[0])

    def handle_starttag(self, tag, attrs):
        assert tag != "script", "a page needs no script"
        for name, value in attrs:
            assert not name.startswith("on"), "a page needs no script"
            assert name not in ("src", "href") or value.startswith("data:"), f"{tag} loads {value}"
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "pre":
            self.blocks.append("")
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "style" in self.open_tags:
            assert "http" not in data
            assert "@import" not in data
            return
        if "pre" in self.open_tags:
            self.blocks[-1] += data
        if "td" in self.open_tags or "th" in self.open_tags:
            cells = self.tables[-1][-1]
            cells[-1] = f"{cells[-1]} {data}".strip()
        self.words.append(data)


@pytest.fixture(scope="session")
def page() -> Callable[[Path], Page]:
    """The page in a file: one file, well formed, no script, nothing loaded from elsewhere, every picture in words too."""

    def read(path: Path) -> Page:
        assert path.stat().st_size < LARGEST
        found = Page(path.read_text(encoding="utf-8"))
        assert not found.open_tags
        assert all(picture["alt"] for picture in found.pictures)
        return found

    return read
