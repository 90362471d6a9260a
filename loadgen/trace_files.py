"""The rows of trace files: formats, how a file's format is told, and errors that name line and column."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput
from loadgen import servegen
from loadgen.arrivals import Arrivals
from loadgen.lengths import MOST
from loadgen.text_files import opened, readable

LINES = 16_384  # rows read at a time


@dataclass(frozen=True)
class Csv:
    """Columns of a comma-separated format: time, prompt and output tokens, and how times are read."""

    columns: tuple[str, str, str]
    seconds: Callable[[NDArray[np.str_]], NDArray[np.float64]]


@dataclass(frozen=True)
class Jsonl:
    """A format with one JSON object per line: seconds per time unit, tokens per prefix block."""

    unit_s: float
    block_tokens: int


def _date_seconds(text: NDArray[np.str_]) -> NDArray[np.float64]:
    utc = np.char.rstrip(np.char.partition(text, "+")[:, 0], "Z")  # 2024 stamps end in +00:00
    stamps = utc.astype("datetime64[ns]")
    if np.isnat(stamps).any():
        raise ValueError("not a time")
    return stamps.astype(np.int64) / 1e9


def _seconds(text: NDArray[np.str_]) -> NDArray[np.float64]:
    seconds = text.astype(np.float64)
    if not np.isfinite(seconds).all():
        raise ValueError("not a number of seconds")
    return seconds


FORMATS: dict[str, Csv | Jsonl | None] = {
    "azure": Csv(("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _date_seconds),
    "burstgpt": Csv(("Timestamp", "Request tokens", "Response tokens"), _seconds),
    "mooncake": Jsonl(1e-3, 512),
    "qwen": Jsonl(1.0, 16),
    "servegen": None,
}


def detect(path: Path | str) -> str:
    """The format of a trace file, from its first line. Raises BadInput when it is none of FORMATS."""
    with opened(path) as file, readable(path):
        head = file.readline().strip()
    if not head:
        raise BadInput(f"{path}: the trace is empty or begins with an empty line")
    names = [name.strip() for name in head.split(",")]
    for name, form in FORMATS.items():
        if isinstance(form, Csv) and set(form.columns) <= set(names):
            return name
    if names[: len(servegen.COLUMNS)] == list(servegen.COLUMNS):
        return "servegen"
    try:
        keys = set(json.loads(head))
    except (ValueError, TypeError):
        keys = set()
    if {"timestamp", "input_length", "output_length"} <= keys:
        return "qwen" if "chat_id" in keys else "mooncake"
    raise BadInput(
        f"{path}: unknown trace format, its first line is",
        value=head[:80],
        expected="a header or keys of " + ", ".join(FORMATS),
        next_step="name the format in a load file when the header differs",
    )


def read(path: str, format: str) -> Iterator[tuple[list[int], Arrivals]]:
    """Line numbers and rows as they stand in the file, due_s in seconds of the file's own clock.

    Raises BadInput naming the line, and the column or field, of the first row that cannot be read.
    """
    form = FORMATS[format]
    assert form is not None, "windows are not rows: loadgen.servegen draws them"
    return _read_csv(path, form) if isinstance(form, Csv) else _read_jsonl(path, form)


def _lines(path: Path | str) -> Iterator[tuple[list[int], list[str]]]:
    """Line numbers (from 1) and lines that are not blank, LINES at a time."""
    with opened(path) as file, readable(path):
        numbered = ((number, text) for number, line in enumerate(file, 1) if (text := line.strip()))
        while piece := list(islice(numbered, LINES)):
            numbers, texts = zip(*piece, strict=True)
            yield list(numbers), list(texts)


def _read_csv(path: str, form: Csv) -> Iterator[tuple[list[int], Arrivals]]:
    names: list[str] = []
    for numbers, lines in _lines(path):
        if not names:
            names = [name.strip() for name in lines[0].split(",")]
            if missing := [column for column in form.columns if column not in names]:
                raise BadInput(f"{path} line 1: no column {missing[0]}", value=lines[0][:80])
            numbers, lines = numbers[1:], lines[1:]
        if not lines:
            continue
        rows = [line.split(",") for line in lines]
        places = [names.index(column) for column in form.columns]
        try:
            columns = [np.array([row[place] for row in rows]) for place in places]
            chunk = arrivals(form.seconds(columns[0]), _tokens(columns[1]), _tokens(columns[2]))
        except (ValueError, IndexError):
            _blame(path, form, names, places, numbers, rows)
        yield numbers, chunk


def _tokens(values: NDArray[Any]) -> NDArray[np.int64]:
    tokens = values.astype(np.int64)
    if (tokens < 0).any() or (tokens > MOST).any():
        raise ValueError("token count out of range")
    return tokens


def _blame(
    path: str, form: Csv, names: list[str], places: list[int], numbers: list[int], rows: list[list[str]]
) -> None:
    """Raises BadInput for the first row and column that cannot be read."""
    readers = (form.seconds, _tokens, _tokens)
    wanted = (
        "a time",
        "a whole number of tokens of at least 0",
        "a whole number of tokens of at least 0",
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
            except ValueError:
                raise BadInput(where, value=row[place], expected=expected) from None
    raise AssertionError("the rows are readable one by one")


def _read_jsonl(path: str, form: Jsonl) -> Iterator[tuple[list[int], Arrivals]]:
    for numbers, lines in _lines(path):
        times, prompts, outputs, blocks = [], [], [], []
        for number, line in zip(numbers, lines, strict=True):
            try:
                row = json.loads(line)
            except ValueError as error:
                column = getattr(error, "colno", 1)
                raise BadInput(f"{path} line {number}, column {column}: not JSON", value=line[:60]) from None
            times.append(_field(path, number, line, row, "timestamp", (int, float)))
            prompts.append(_field(path, number, line, row, "input_length", (int,)))
            outputs.append(_field(path, number, line, row, "output_length", (int,)))
            ids = row.get("hash_ids")
            if ids is not None and not (isinstance(ids, list) and all(type(i) is int for i in ids)):
                where = _place(path, number, line, "hash_ids")
                raise BadInput(where, value=str(ids)[:60], expected="a list of whole numbers")
            blocks.append(tuple(ids or ()))
        yield (
            numbers,
            arrivals(
                np.array(times, dtype=np.float64) * form.unit_s, np.array(prompts), np.array(outputs), blocks
            ),
        )


def _field(path: str, number: int, line: str, row: Any, name: str, kinds: tuple[type, ...]) -> Any:
    value: Any = row.get(name) if isinstance(row, dict) else None
    most: float = 1e15 if float in kinds else MOST
    number_like = isinstance(value, kinds) and not isinstance(value, bool)
    if number_like and 0 <= value <= most:
        return value
    expected = "a number of at least 0" if float in kinds else "a whole number of tokens of at least 0"
    raise BadInput(_place(path, number, line, name), value=value, expected=expected)


def _place(path: str, number: int, line: str, name: str) -> str:
    """Where a field of a JSON line stands, or that it does not."""
    column = line.find(f'"{name}"') + 1
    return f"{path} line {number}, " + (f"column {column} ({name})" if column else f"field {name} is missing")


def arrivals(
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
