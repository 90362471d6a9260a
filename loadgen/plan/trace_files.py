"""The rows of trace files: formats, how a file's format is told, and errors that name line and column."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput
from loadgen.plan import conversations, servegen
from loadgen.plan.arrivals import Arrivals
from loadgen.plan.lengths import MOST
from loadgen.plan.text_files import lines
from loadgen.plan.time_units import YEARS, date_seconds

LINES = 16_384  # rows read at a time, or
CHARACTERS = 16_000_000  # when they are long
LATEST = 4.2e18  # a stamp of Unix time in ns, the largest number that a clock of these formats can show


@dataclass(frozen=True)
class Csv:
    """Columns of a comma-separated format: time, prompt and output tokens; and the time's unit (None: dates)."""

    columns: tuple[str, str, str]
    unit: str | None


@dataclass(frozen=True)
class Jsonl:
    """A format with one JSON object per line: the time's unit, tokens per prefix block, whether turns follow turns."""

    unit: str
    block_tokens: int
    sessions: bool = False


def _numbers(text: NDArray[np.str_]) -> NDArray[np.float64]:
    numbers = _of_digits(text).astype(np.float64)
    if not (np.abs(numbers) <= LATEST).all():
        raise ValueError("not a time")
    return numbers


FORMATS: dict[str, Csv | Jsonl | None] = {
    "azure": Csv(("TIMESTAMP", "ContextTokens", "GeneratedTokens"), None),
    "burstgpt": Csv(("Timestamp", "Request tokens", "Response tokens"), "s"),
    "mooncake": Jsonl("ms", 512),
    "qwen": Jsonl("s", 16),
    "sessions": Jsonl("ms", conversations.BLOCK_TOKENS, sessions=True),
    "servegen": None,
}


def detect(path: Path | str) -> str:
    """The format of a trace file, from its first line. Raises BadInput when it is none of FORMATS."""
    _, head = next(lines(path), (0, ""))
    if not head:
        raise BadInput(f"{path}: the trace is empty")
    names = [name.strip() for name in head.split(",")]
    for name, form in FORMATS.items():
        if isinstance(form, Csv) and set(form.columns) <= set(names):
            return name
    if names[: len(servegen.COLUMNS)] == list(servegen.COLUMNS):
        return "servegen"
    try:
        keys = set(json.loads(head))
    except (ValueError, TypeError, RecursionError):
        keys = set()
    if {"session_id", "input_length", "output_length"} <= keys:
        return "sessions"
    if {"timestamp", "input_length", "output_length"} <= keys:
        return "qwen" if "chat_id" in keys else "mooncake"
    raise BadInput(
        f"{path}: unknown trace format, its first line is",
        value=head[:80],
        expected="a header or keys of " + ", ".join(FORMATS),
        next_step="name the format in a load file when the header differs",
    )


def own_unit(format: str) -> str | None:
    """The unit of the format's stamps; None where they are dates, or windows in seconds."""
    form = FORMATS[format]
    return form.unit if form is not None else None


def read_trace(
    path: str, format: str, unit_s: float = 1.0, turn_tokens: str = "added"
) -> Iterator[tuple[list[int], Arrivals]]:
    """Line numbers and rows, due_s in seconds of the file's own clock, whose unit is `unit_s` seconds.

    Rows stand in the order of the file; those of sessions (loadgen.plan.conversations, which reads `turn_tokens`) in the
    order of time. Raises BadInput naming the line, and the column or field, of the first row that cannot be read.
    """
    form = FORMATS[format]
    assert form is not None, "windows are not rows: loadgen.plan.servegen draws them"
    if isinstance(form, Csv):
        return _read_csv(path, form, unit_s)
    if form.sessions:
        return _cut(*conversations.turns(path, _objects(path), unit_s, turn_tokens))
    return _read_jsonl(path, unit_s)


def first_stamp(path: str, format: str) -> float:
    """The first stamp as a number of the file's unit; NaN when there is no row. Raises BadInput as `read` does."""
    if isinstance(FORMATS[format], Jsonl):
        for _, row, field in _objects(path):
            return float(field("timestamp", (int, float))) if "timestamp" in row else math.nan
        return math.nan
    first = next(read_trace(path, format), None)
    return math.nan if first is None else float(first[1].due_s[0])


def _cut(numbers: list[int], whole: Arrivals) -> Iterator[tuple[list[int], Arrivals]]:
    for at in range(0, len(numbers), LINES):
        yield numbers[at : at + LINES], whole.take(slice(at, at + LINES))


def _pieces(path: Path | str) -> Iterator[tuple[list[int], list[str]]]:
    """Line numbers (from 1) and lines that are not blank, LINES at a time or fewer long ones."""
    numbers: list[int] = []
    texts: list[str] = []
    size = 0
    for number, text in lines(path):
        numbers.append(number)
        texts.append(text)
        size += len(text)
        if len(texts) == LINES or size > CHARACTERS:
            yield numbers, texts
            numbers, texts, size = [], [], 0
    if texts:
        yield numbers, texts


def _read_csv(path: str, form: Csv, unit_s: float) -> Iterator[tuple[list[int], Arrivals]]:
    names: list[str] = []
    stamps = date_seconds if form.unit is None else _numbers
    for numbers, texts in _pieces(path):
        if not names:
            names = [name.strip() for name in texts[0].split(",")]
            if missing := [column for column in form.columns if column not in names]:
                raise BadInput(f"{path} line 1: no column {missing[0]}", value=texts[0][:80])
            if twice := [column for column in form.columns if names.count(column) > 1]:
                raise BadInput(f"{path} line 1: column {twice[0]} stands twice", value=texts[0][:80])
            numbers, texts = numbers[1:], texts[1:]
        if not texts:
            continue
        rows = [line.split(",") for line in texts]
        places = [names.index(column) for column in form.columns]
        try:
            columns = [np.array([row[place] for row in rows]) for place in places]
            chunk = arrivals_of(stamps(columns[0]) * unit_s, _tokens(columns[1]), _tokens(columns[2]))
        except (ValueError, IndexError, OverflowError):
            _blame(path, (stamps, _tokens, _tokens), names, places, numbers, rows)
        yield numbers, chunk


def _of_digits(values: NDArray[Any]) -> NDArray[Any]:
    """The texts. Raises ValueError for numbers that only Python reads, with underscores or digits of other scripts."""
    text = "".join(values.tolist())
    if "_" in text or not text.isascii():
        raise ValueError("no ASCII digits")
    return values


def _tokens(values: NDArray[Any]) -> NDArray[np.int64]:
    tokens = _of_digits(values).astype(np.int64)
    if (tokens < 0).any() or (tokens > MOST).any():
        raise ValueError("token count out of range")
    return tokens


def _blame(
    path: str,
    readers: tuple[Callable[[NDArray[Any]], NDArray[Any]], ...],
    names: list[str],
    places: list[int],
    numbers: list[int],
    rows: list[list[str]],
) -> None:
    """Raises BadInput for the first row and column that cannot be read."""
    wanted = (
        f"a time between {YEARS[0]} and {YEARS[1]}" if readers[0] is date_seconds else "a time",
        f"a whole number of tokens of at least 0 and at most {MOST:,}",
        f"a whole number of tokens of at least 0 and at most {MOST:,}",
    )
    for number, row in zip(numbers, rows, strict=True):
        for place, reader, expected in zip(places, readers, wanted, strict=True):
            where = f"{path} line {number}, column {place + 1} ({names[place]})"
            if place >= len(row):
                raise BadInput(
                    f"{where} is missing", value=",".join(row)[:80], expected=f"{len(names)} columns"
                )
            try:
                reader(np.array([row[place]]))
            except (ValueError, OverflowError):
                raise BadInput(where, value=row[place][:60], expected=expected) from None
    raise AssertionError("the rows are readable one by one")


def _objects(path: str) -> Iterator[conversations.Row]:
    """Line number, object and a reader of its fields, per line."""
    for number, line in lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            column = getattr(error, "colno", 1)
            raise BadInput(f"{path} line {number}, column {column}: not JSON", value=line[:60]) from None
        except RecursionError:
            raise BadInput(
                f"{path} line {number}: nested too deeply", expected="one flat object per line"
            ) from None
        if not isinstance(row, dict):
            raise BadInput(f"{path} line {number}", value=line[:60], expected="one JSON object per line")
        yield number, row, partial(_field, path, number, line, row)


def _read_jsonl(path: str, unit_s: float) -> Iterator[tuple[list[int], Arrivals]]:
    rows = _objects(path)
    while piece := _piece(rows):
        numbers, times, prompts, outputs, blocks = zip(*piece, strict=True)
        due_s = np.array(times, dtype=np.float64) * unit_s
        yield list(numbers), arrivals_of(due_s, np.array(prompts), np.array(outputs), list(blocks))


def _piece(rows: Iterator[conversations.Row]) -> list[tuple[int, float, int, int, tuple[int, ...]]]:
    """(line number, stamp, prompt and output tokens, blocks) of the next rows, LINES or fewer with many blocks."""
    piece, named = [], 0
    for number, _, field in rows:
        ids = field("hash_ids", (list,))
        sizes = field("input_length", (int,)), field("output_length", (int,))
        piece.append((number, float(field("timestamp", (int, float))), *sizes, tuple(ids)))
        named += len(ids)
        if len(piece) == LINES or named > CHARACTERS // 8:
            break
    return piece


def _field(
    path: str, number: int, line: str, row: dict[str, object], name: str, kinds: tuple[type, ...]
) -> Any:
    """The value: a time (float), a number of tokens (int), or a list of whole numbers that may be left out (list)."""
    value: Any = row.get(name)
    if list in kinds:
        if value is None or (isinstance(value, list) and all(type(i) is int for i in value)):
            return value or []
        raise BadInput(
            _place(path, number, line, name), value=str(value)[:60], expected="a list of whole numbers"
        )
    most: float = LATEST if float in kinds else MOST
    number_like = isinstance(value, kinds) and not isinstance(value, bool)
    if number_like and 0 <= value <= most:
        return value
    tokens = f"a whole number of tokens of at least 0 and at most {MOST:,}"
    expected = "a number of at least 0" if float in kinds else tokens
    shown = value if value is None or (number_like and not abs(value) >= 1e30) else str(value)[:60]
    raise BadInput(_place(path, number, line, name), value=shown, expected=expected)


def _place(path: str, number: int, line: str, name: str) -> str:
    """Where a field of a JSON line stands, or that it does not."""
    column = line.find(f'"{name}"') + 1
    return f"{path} line {number}, " + (f"column {column} ({name})" if column else f"field {name} is missing")


def arrivals_of(
    due_s: NDArray[np.float64],
    prompt: NDArray[Any],
    output: NDArray[Any],
    blocks: list[tuple[int, ...]] | None = None,
) -> Arrivals:
    named = None
    if blocks is not None:
        named = np.empty(len(blocks), dtype=object)
        named[:] = blocks
    return Arrivals(
        due_s=due_s,
        prompt_tokens=np.maximum(prompt, 1).astype(np.int32),
        output_tokens=np.maximum(output, 1).astype(np.int32),
        prefix_tokens=np.zeros(len(due_s), dtype=np.int32),
        request_id=np.zeros(len(due_s), dtype=np.int64),
        blocks=named,
    )
