"""Traffic out of an access log: when each request came and how long it was, from JSON lines or CSV with a header.

Fields are found by the names that gateways, proxies and OpenTelemetry give them, at any depth of a JSON object, or named
(`time=start_time,prompt=usage.prompt_tokens`). A time is a date with or without zone (UTC then), nginx's, or a number since 1970
in s, ms, us or ns. `took` are the seconds that a request took, where the log's time is that of its end.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput, TooLittleData, did_you_mean
from autoscale.history.arrivals import CameIn
from autoscale.history.burstiness import burstiness
from autoscale.history.learned import BIN_S, LearnedTraffic
from autoscale.history.log_values import (
    EARLIEST_S,
    TOO_LATE_S,
    finite_number,
    flat_object,
    token_count,
    unix_time,
)
from autoscale.history.token_counts import DAY_HOURS, HOUR_S, TokenCounts
from autoscale.history.token_lengths import KNOTS
from loadgen.plan.lengths import Lengths
from loadgen.plan.text_files import lines
from loadgen.plan.time_units import YEARS

NAMES: Mapping[str, tuple[str, ...]] = {
    "time": (
        *("start_time", "starttime", "request_start", "received_at", "arrived_at", "startTime", "time", "timestamp"),
        *("@timestamp", "ts", "time_iso8601", "time_local", "msec", "date", "datetime", "created", "TIMESTAMP"),
    ),
    "prompt": (
        *("prompt_tokens", "input_tokens", "prompt_token_count", "num_prompt_tokens", "tokens_in", "ContextTokens"),
        *("gen_ai.usage.input_tokens", "llm.token_count.prompt", "promptTokens", "inputTokens", "input_length"),
    ),
    "output": (
        *("completion_tokens", "output_tokens", "generated_tokens", "num_output_tokens", "tokens_out", "GeneratedTokens"),
        *("gen_ai.usage.output_tokens", "llm.token_count.completion", "completionTokens", "outputTokens", "output_length"),
    ),
    "model": ("model", "model_name", "gen_ai.request.model", "modelName"),
    "took": (),
}  # fmt: skip
FINE_S = 5.0  # bins in which burstiness is looked for
MOST_UNREAD = 0.1  # share of the lines; more, and the file is not what it is taken for
LONGEST_DAYS = 800  # of a log; its bins of FINE_S take 110 MB then

Row = Mapping[str, Any]


@dataclass
class _Rows:
    """What was read, in the file's order; tokens are NaN where a line has none."""

    time_s: list[float] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    prompt: list[float] = field(default_factory=list)
    output: list[float] = field(default_factory=list)
    models: dict[str, int] = field(default_factory=dict)
    unread: int = 0
    first_unread: str = ""
    understood: bool = False  # its fields were found, and one of them holds what it cannot


def log_columns(text: str) -> dict[str, str]:
    """What `time=start_time,prompt=usage.prompt_tokens` names. Raises BadInput."""
    named: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, column = part.partition("=")
        if not (equals and column and name in NAMES):
            expected = f"NAME=FIELD, NAME one of {', '.join(NAMES)}"
            raise BadInput("--columns", value=part, expected=expected, next_step=did_you_mean(name, NAMES))
        named[name] = column
    return named


def learn_log(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    model: str | None = None,
    last_s: float = math.inf,
    until: float | None = None,
) -> LearnedTraffic:
    """The traffic of the last `last_s` seconds before `until` (unix s; the newest line without).

    Raises BadInput naming line and field, and for several models without one chosen; TooLittleData for a log of less than
    two minutes.
    """
    found = _read(path, dict(columns or {}), model)
    _one_model(path, found, model)
    order = np.argsort(np.array(found.time_s), kind="stable")
    time_s = np.array(found.time_s)[order]
    end = float(time_s[-1]) + 1e-3 if until is None else until
    kept = (time_s >= end - last_s) & (time_s < end)
    if not kept.any():
        raise TooLittleData(f"{path} has no request in that time", next_step="ask for a longer one")
    time_s, tokens = time_s[kept], [np.array(some)[order][kept] for some in (found.prompt, found.output)]
    _sound_span(path, time_s, np.array(found.lines)[order][kept])
    window, fine = _bins(time_s)
    notes = [
        "when requests came is read off the log, so nothing is known of replicas, prefix cache and aborts"
    ]
    if found.unread:
        notes.append(f"{found.unread:,} lines were not read; the first: {found.first_unread}")
    prompt, output = (_counts(some, time_s) for some in tokens)
    return LearnedTraffic(
        source=path.name,
        model=model or next(iter(found.models), "a model without a name"),
        window=window,
        came=fine.wider(BIN_S),
        burstiness=burstiness(fine),
        prompt=prompt,
        output=output,
        prefix_hit_share=math.nan,
        aborted_share=math.nan,
        notes=tuple(notes),
    )


def _sound_span(path: Path, time_s: NDArray[np.float64], lines_: NDArray[np.int64]) -> None:
    """Raises BadInput and TooLittleData, naming the lines: one wrong stamp makes a log of years, or hides all others."""
    span_s = float(time_s[-1] - time_s[0])
    first, last = (
        f"line {lines_[at]} ({datetime.fromtimestamp(time_s[at], UTC):%Y-%m-%d})" for at in (0, -1)
    )
    if span_s > LONGEST_DAYS * DAY_HOURS * HOUR_S:
        raise BadInput(
            f"{path} covers {span_s / DAY_HOURS / HOUR_S:,.0f} days, from {first} to {last}",
            expected=f"at most {LONGEST_DAYS}",
            next_step="give a shorter --last, or look at the times of these lines",
        )
    if span_s < 2 * BIN_S:
        raise TooLittleData(
            f"{path} covers too little time, to {last}",
            value=f"{span_s:.0f} s",
            expected="two minutes or more",
        )


def _bins(time_s: NDArray[np.float64]) -> tuple[tuple[float, float], CameIn]:
    """The window, in whole minutes from the first request on, and the requests in bins of FINE_S."""
    minutes = int((time_s[-1] - time_s[0]) // BIN_S)
    window = float(time_s[0]), float(time_s[0]) + BIN_S * minutes
    edges = window[0] + FINE_S * np.arange(round(BIN_S / FINE_S) * minutes + 1)
    counts = np.histogram(time_s, edges)[0].astype(float)
    unknown = np.full(len(counts), math.nan)
    none = np.zeros(len(counts), bool)
    return window, CameIn(0.0, FINE_S, counts, none, none, unknown, 0.0)


def _counts(tokens: NDArray[np.float64], time_s: NDArray[np.float64]) -> TokenCounts | None:
    """The distribution at KNOTS of its quantiles; None where no line has any."""
    known = np.isfinite(tokens)
    if not known.any():
        return None
    hour = ((time_s[known] % (DAY_HOURS * HOUR_S)) // HOUR_S).astype(int)
    with np.errstate(invalid="ignore"):
        by_hour = np.bincount(hour, tokens[known], DAY_HOURS) / np.bincount(hour, minlength=DAY_HOURS)
    knots = np.maximum(np.quantile(tokens[known], np.linspace(0, 1, KNOTS)), 1.0)
    return TokenCounts(
        Lengths("quantiles", knots=tuple(np.round(knots, 1).tolist())), float(tokens[known].mean()), by_hour
    )


def _one_model(path: Path, found: _Rows, model: str | None) -> None:
    if model is None and len(found.models) > 1:
        raise BadInput(
            f"{path} has requests of several models",
            value=", ".join(sorted(found.models, key=lambda one: -found.models[one])[:5]),
            next_step="name one with --model",
        )
    if not found.time_s:
        near = f"it has {', '.join(sorted(found.models)[:5])}" if found.models else "is it an access log?"
        raise BadInput(f"{path} has no request" + (f" of {model}" if model else ""), next_step=near)


def _read(path: Path, named: dict[str, str], model: str | None) -> _Rows:
    """All requests of the file. Raises BadInput for a missing field and when too many lines cannot be read."""
    found, number = _Rows(), 0
    places: dict[str, str] = {}
    for number, row in _rows(path, named):
        if row is None:
            _unread(found, number, "no JSON object, and no row of the header's columns")
            continue
        if not places:
            places = _places(path, number, row, named)
        name = row.get(places["model"]) if "model" in places else None
        if name is not None:
            found.models[str(name)[:200]] = found.models.get(str(name)[:200], 0) + 1
        if model is not None and "model" not in places:
            raise _missing(path, number, "that says the model", row)
        if model is not None and str(name) != model:
            continue
        try:
            time_s = unix_time(row.get(places["time"])) - finite_number(row.get(places.get("took", "")), 0.0)
            if not EARLIEST_S <= time_s < TOO_LATE_S:
                raise ValueError(f"not a time between {YEARS[0]} and {YEARS[1]}")
            tokens = [token_count(row.get(places.get(what, ""))) for what in ("prompt", "output")]
        except (ValueError, TypeError, OverflowError) as error:
            _unread(found, number, str(error))
            found.understood |= found.unread == 1
            continue
        found.time_s.append(time_s)
        found.lines.append(number)
        found.prompt.append(tokens[0])
        found.output.append(tokens[1])
    read = len(found.time_s)
    if found.unread > MOST_UNREAD * (read + found.unread):
        raise BadInput(
            f"{path}: {found.unread:,} of {read + found.unread:,} lines cannot be read", value=found.first_unread,
            expected=None if found.understood else "JSON lines, or CSV with a header",
            next_step="correct or leave out such lines, or name other fields with --columns" if found.understood else "name the fields with --columns",
        )  # fmt: skip
    return found


def _unread(found: _Rows, number: int, why: str) -> None:
    """The line itself is not shown: logs hold keys and prompts."""
    found.unread += 1
    if not found.first_unread:
        found.first_unread = f"line {number}: {why}"


def _rows(path: Path, named: Mapping[str, str]) -> Iterator[tuple[int, Row | None]]:
    """Line number and row of every line but the header; None for a row that is none."""
    header: list[str] | None = None
    for number, line in lines(path, "the access log"):
        if header is None and not line.startswith("{"):
            header = [name.strip().strip('"') for name in next(csv.reader([line]))]
            _no_twins(path, number, header, named)
            continue
        if header is None:
            yield number, flat_object(line)
            continue
        try:
            cells = next(csv.reader([line], strict=True))
        except csv.Error:
            cells = []
        yield number, dict(zip(header, cells, strict=True)) if len(cells) == len(header) else None


def _no_twins(path: Path, number: int, header: list[str], named: Mapping[str, str]) -> None:
    """Raises BadInput for a column that may be read and stands twice."""
    wanted = {*named.values(), *(name for names in NAMES.values() for name in names)}
    for name, count in Counter(header).items():
        if count > 1 and (name in wanted or name.rpartition(".")[2] in wanted):
            raise BadInput(
                f"{path} line {number} has {count} columns of one name",
                value=name,
                next_step="rename or remove one",
            )


def _places(path: Path, number: int, row: Row, named: Mapping[str, str]) -> dict[str, str]:
    """Which field is what: as named, else the first of NAMES that the row has, at its top or below."""
    places: dict[str, str] = {}
    for what, names in NAMES.items():
        if what in named:
            if named[what] not in row:
                raise _missing(path, number, f"{named[what]!r} for {what}", row)
            places[what] = named[what]
            continue
        for name in names:
            ends = [one for one in row if one == name or one.endswith(f".{name}")]
            if ends:
                places[what] = min(ends, key=len)
                break
    if "time" not in places:
        raise _missing(path, number, "that says when the request came", row)
    return places


def _missing(path: Path, number: int, what: str, row: Row) -> BadInput:
    return BadInput(
        f"{path} line {number} has no field {what}",
        value=", ".join(sorted(map(str, row))[:12])[:200],
        next_step="name it with --columns, such as time=FIELD,prompt=FIELD,output=FIELD",
    )
