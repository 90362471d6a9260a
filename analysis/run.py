"""The run directory: the pipe between load, collection, analysis and recommendation.

    run.json          header: schema_version, kind live|simulated, started_at (unix s), ended_at, command, versions,
                      target, model, load plan (stages), lengths, seed, engine facts, client verdict
    requests.parquet  one row per planned request (sent or dropped)
    itl.parquet       histogram of the gaps between streamed events, per stage
    metrics.parquet   one row per scrape that exists, per pod and engine
    replicas.parquet  desired, created, scheduled, ready over time
    events.jsonl      what happened, with its time

Every time column is seconds since `started_at`; NaN means "did not happen" or "not reported", never zero.
While a run is being written, each writer appends parts named `<table>.<writer>.<n>.part.parquet`; `merge_parts` folds
them into the final table at the end, and readers accept either, so an interrupted run stays readable.
Importing this module loads neither pandas nor pyarrow: both are imported by the functions that need them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import BadInput, BadRun
from analysis.files import json_text, json_value, read_json, replacing
from analysis.redact import redacted
from analysis.sound import LONGEST_S, header_problems, table_problem, within

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCHEMA_VERSION = 1
HEADER = "run.json"
EVENTS = "events.jsonl"

# The server's gauges that an HPA can scale on. Everything else of a signal hangs on its name here.
SIGNALS = ("waiting", "running", "kv_usage")  # requests, requests, fraction 0-1 of one engine
STATUSES = ("ok", "http_error", "timeout", "connection_error", "incomplete", "cancelled", "dropped")

# table -> column -> Arrow type name. Columns after those of the fixed interface are additive and may be absent in old runs.
TABLES: dict[str, dict[str, str]] = {
    "requests": {
        "request_id": "int64",
        "stage": "int32",
        "worker": "string",
        "due_s": "float64",
        "sent_s": "float64",
        "first_token_s": "float64",
        "last_token_s": "float64",
        "prompt_tokens": "int64",  # null = the server's usage did not arrive
        "output_tokens": "int64",
        "events": "int32",
        "status": "string",
        "http_status": "int16",
        "error": "string",
        "prompt_tokens_asked": "int32",
        "output_tokens_asked": "int32",
        "hidden_tokens": "int64",  # of output_tokens: reasoning that was not streamed; null = none known
        "given_up_s": "float64",  # when the client gave it up (timeout, cancelled); null = it did not, or nobody noted
    },
    "itl": {"stage": "int32", "gap_low_s": "float64", "gap_high_s": "float64", "count": "int64"},
    "metrics": {
        "time_s": "float64",
        "pod": "string",
        "engine": "string",
        **dict.fromkeys(SIGNALS, "float64"),
        "preemptions_total": "float64",
        "prompt_tokens_total": "float64",
        "generation_tokens_total": "float64",
        "requests_total": "float64",
    },
    "replicas": {
        "time_s": "float64",
        "desired": "float64",
        "created": "float64",
        "scheduled": "float64",
        "ready": "float64",
    },
}
METRIC_COLUMNS = tuple(name for name in TABLES["metrics"] if name not in ("time_s", "pod", "engine"))
SORT_KEYS = {
    "requests": ["due_s", "request_id"],
    "itl": ["stage", "gap_low_s"],
    "metrics": ["time_s"],
    "replicas": ["time_s"],
}


def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema of `table`; every column is nullable."""
    import pyarrow as pa

    return pa.schema([(name, getattr(pa, kind)()) for name, kind in TABLES[table].items()])


# --- writing ---------------------------------------------------------------------------------------------------------


def create(path: Path | str, header: Mapping[str, Any]) -> Path:
    """Make the directory and write its header; returns the path.

    Raises BadRun when the directory already holds a run, or parts of one: nothing measured is ever overwritten or mixed.
    """
    path = Path(path)
    check_unused(path)
    path.mkdir(parents=True, exist_ok=True)
    write_header(path, header)
    return path


def write_header(path: Path | str, header: Mapping[str, Any]) -> None:
    """Write run.json (atomically), whatever was there."""
    _write_json(
        Path(path) / HEADER,
        {"schema_version": SCHEMA_VERSION, "started_at": unix_now_s(), **redacted(header)},
    )


def check_unused(path: Path | str) -> None:
    """Raises BadRun when the directory holds a run, or requests of one whose header is gone: they would become this run's."""
    path = Path(path)
    older = [path / HEADER] if (path / HEADER).exists() else []
    for table in ("requests", "itl"):
        older += [file for file in (path / f"{table}.parquet", *_parts(path, table)) if file.exists()]
    if older:
        what = "a run" if older[0].name == HEADER else f"{older[0].name}, of an older run"
        raise BadRun(
            f"the run directory already holds {what}", value=str(path), next_step="choose another --run-dir"
        )


def update(path: Path | str, **changes: Any) -> None:
    """Set top-level keys of run.json (atomically)."""
    header = read_header(path)
    header.update(redacted(changes))
    _write_json(Path(path) / HEADER, header)


def write_table(
    path: Path | str,
    table: str,
    columns: Mapping[str, Any] | pd.DataFrame | pa.Table,
    part: str | None = None,
) -> Path:
    """Write one table, or one part of it (`part` = "<writer>.<n>"), atomically; returns the file's path.

    `columns` maps column names to equally long sequences; missing columns become null, unknown ones raise KeyError.
    """
    import pyarrow.parquet as pq

    arrow = arrow_table(table, columns)
    target = Path(path) / (f"{table}.{part}.part.parquet" if part else f"{table}.parquet")
    with replacing(target) as temporary, open(temporary, "wb") as file:  # Arrow knows names in UTF-8 only
        pq.write_table(arrow, file, compression="zstd")
    return target


def arrow_table(table: str, columns: Mapping[str, Any] | pd.DataFrame | pa.Table) -> pa.Table:
    """These columns with the schema of `table`; see `write_table`. Raises what Arrow raises for a value that does not fit."""
    import pyarrow as pa

    schema = arrow_schema(table)
    if isinstance(columns, pa.Table):
        return columns.cast(schema)
    given: dict[str, Any] = dict(columns.items())  # type: ignore[arg-type]  # a DataFrame's labels are our column names
    if unknown := sorted(set(given) - set(schema.names)):
        raise KeyError(f"table {table} has no column {unknown}")
    length = len(next(iter(given.values()))) if given else 0
    return pa.table(
        {
            f.name: _arrow_array(given[f.name], f.type) if f.name in given else pa.nulls(length, f.type)
            for f in schema
        },
        schema=schema,
    )


def _arrow_array(values: Any, kind: pa.DataType) -> pa.Array:
    """One column. A list of floats, or of ints, goes in by its buffer: `pa.array` imports pandas (90 MB) to see what it is."""
    import numpy as np
    import pyarrow as pa

    own = int if pa.types.is_int64(kind) else float if pa.types.is_float64(kind) else None
    if (
        not own
        or not isinstance(values, list)
        or not all(value is None or type(value) is own for value in values)
    ):
        return pa.array(values, type=kind, from_pandas=True)
    numbers = np.array([0 if value is None else value for value in values], dtype=kind.to_pandas_dtype())
    here = np.array([value is not None for value in values], dtype=bool) & ~np.isnan(numbers)
    bits = np.packbits(here, bitorder="little")
    return pa.Array.from_buffers(kind, len(values), [pa.py_buffer(bits), pa.py_buffer(numbers)])


@dataclass(frozen=True)
class StageSpan:
    """A stage of a run, s since its start, and what the plan says of it (nothing where there is no plan)."""

    number: int
    start_s: float
    end_s: float
    plan: Mapping[str, Any]


def load_over_s(header: Mapping[str, Any], requests: pd.DataFrame) -> float:
    """When the load of a run was over, s since its start; where it was killed, or goes on, when its last request was due."""
    ended = header.get("ended_at")
    return float(ended) - float(header["started_at"]) if ended else float(requests["due_s"].max())


def planned_stages(header: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The stages of the plan as the header has them; those that were offered, where both are there."""
    return header.get("stages") or (header.get("load") or {}).get("stages") or []


def spans_of(header: Mapping[str, Any], requests: pd.DataFrame | None) -> list[StageSpan]:
    """The plan's stages that began, cut where the load was over; without any, what the requests of each span.

    `requests` has at least stage and due_s; None where nothing was recorded: then the plan stands as it is.
    """
    last_s = math.inf if requests is None else load_over_s(header, requests)
    found = [
        StageSpan(int(one.get("stage", k)), float(one["start_s"]), min(float(one["end_s"]), last_s), one)
        for k, one in enumerate(planned_stages(header))
        if one.get("start_s") is not None and one.get("end_s") is not None
    ]
    found = [stage for stage in found if stage.end_s > stage.start_s]
    return found if found or requests is None else requested_spans(requests)


def requested_spans(requests: pd.DataFrame) -> list[StageSpan]:
    """The stages that the requests name, each from when its first to when its last one was due."""
    spans = requests.dropna(subset="stage").groupby("stage")["due_s"].agg(["min", "max"])
    return [
        StageSpan(int(k), float(start_s), max(float(end_s), float(start_s) + 1e-3), {})
        for k, start_s, end_s in spans.itertuples()
    ]


def merge_parts(path: Path | str, table: str) -> None:
    """Fold all parts of `table` into its final file, sorted, and remove them; does nothing without parts."""
    parts = _parts(Path(path), table)
    if not parts:
        return
    arrow = _read_arrow(Path(path), table)
    order = [(key, "ascending") for key in SORT_KEYS[table]]
    write_table(path, table, arrow.sort_by(order))
    for part in parts:
        part.unlink()


def append_event(path: Path | str, time_s: float, kind: str, message: str, **facts: Any) -> None:
    """Append one line to events.jsonl: time_s (since started_at), kind, message and any facts."""
    said = redacted({"kind": kind, "message": message, **facts})
    line = json_text({"time_s": round(time_s, 6), **said})
    with open(Path(path) / EVENTS, "a", encoding="utf-8") as file:
        file.write(line + "\n")


# --- time ---------------------------------------------------------------------------------------------------------------

# Unix time that goes on evenly though the machine's clock is set meanwhile: all moments of one run are on one clock
_zero_s = time.time() - time.perf_counter()


def unix_now_s() -> float:
    """Unix time in s by the machine's clock as it was when it was last read, and the time that has passed since."""
    return _zero_s + time.perf_counter()


def read_unix_clock() -> None:
    """Read the machine's clock anew: before a run begins, never in one."""
    global _zero_s
    _zero_s = time.time() - time.perf_counter()


def clock_was_set_by_s() -> float:
    """Seconds by which the machine's clock was set since it was last read, or has run away from even time."""
    return time.time() - unix_now_s()


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run directory, read lazily. Table properties raise BadRun, naming the file, when the table is absent."""

    path: Path
    header: dict[str, Any]

    @property
    def started_at(self) -> float:
        """Unix time in s of the zero of every time column."""
        return float(self.header["started_at"])

    @property
    def watched(self) -> bool:
        """Whether a check made it: the load that it watched has a run directory of its own."""
        return bool(self.header.get("check"))

    @property
    def clock_rate(self) -> float:
        """Seconds of the watched cluster in one of the run's: above 1 where a check watched a simulated fleet."""
        return float((self.header.get("check") or {}).get("clock_rate", 1.0))

    def has(self, table: str) -> bool:
        """Whether the table, or a part of it, was written."""
        return (self.path / f"{table}.parquet").exists() or bool(_parts(self.path, table))

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per planned request; see TABLES["requests"]."""
        return _read_frame(self.path, "requests")

    @cached_property
    def itl(self) -> pd.DataFrame:
        """Histogram of event gaps per stage: counts of gaps in [gap_low_s, gap_high_s)."""
        frame = _read_frame(self.path, "itl")
        return frame.groupby(["stage", "gap_low_s", "gap_high_s"], as_index=False)[["count"]].sum()

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per scrape, pod and engine; see TABLES["metrics"]."""
        return _read_frame(self.path, "metrics")

    @cached_property
    def replicas(self) -> pd.DataFrame:
        """Replica counts over time; see TABLES["replicas"]."""
        return _read_frame(self.path, "replicas")

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The lines of events.jsonl in file order; a half-written last line is left out, and one without a time of a run."""
        return [e for e in _json_lines(self.path / EVENTS) if within(e.get("time_s") or 0.0, LONGEST_S)]


def read(path: Path | str) -> Run:
    """The run in `path`. Raises BadRun when there is none or its header cannot be read."""
    return Run(Path(path), read_header(path))


def read_header(path: Path | str) -> dict[str, Any]:
    """The header (run.json) as a dict, without secrets that a hand wrote into it. Raises BadRun with the reason when it is absent or unreadable."""
    file = Path(path) / HEADER
    if not os.path.isfile(file):
        raise BadRun("not a run directory", value=str(path), expected=f"a directory with {HEADER}")
    try:
        header = read_json(file, "run header")
    except BadInput as error:
        raise BadRun(str(error)) from None
    if "started_at" not in header:
        raise BadRun(f"{file} is not a run header", expected="a JSON object with started_at in unix seconds")
    if (version := header.get("schema_version")) != SCHEMA_VERSION:
        raise BadRun(f"{file} has schema_version", value=version, expected=str(SCHEMA_VERSION))
    for field, value, expected in header_problems(header):
        raise BadRun(f"{file}: {field} is not one of a run", value=value, expected=expected)
    return dict(redacted(header))


def newest() -> Path | None:
    """The run directory below runs/ that started last, or None."""
    started: list[tuple[float, Path]] = []
    for file in Path("runs").glob(f"*/{HEADER}"):
        with suppress(BadRun):
            started.append((read_header(file.parent)["started_at"], file.parent))
    return max(started)[1] if started else None


def validate(run: Run) -> list[str]:
    """What is wrong or missing in a run, one sentence each; an empty list means complete and consistent."""
    problems = []
    if run.header.get("ended_at") is None:
        problems.append("the run was interrupted: run.json has no ended_at")
    if not run.has("requests"):
        if not run.watched:
            problems.append("requests.parquet is missing: no load was recorded")
    else:
        problems += _request_problems(run.requests)
    if not run.has("metrics"):
        problems.append("metrics.parquet is missing: run `autoscale collect` on this directory")
    elif run.metrics.empty:
        problems.append("metrics.parquet is empty: no scrape fell into the run's window")
    return problems


def _request_problems(requests: pd.DataFrame) -> Iterator[str]:
    if requests.empty:
        yield "requests.parquet is empty: no request was planned"
        return
    if unknown := set(requests["status"].dropna()) - set(STATUSES):
        yield f"requests.parquet has unknown statuses {sorted(unknown)}"
    if requests["request_id"].duplicated().any():
        yield "requests.parquet has duplicate request_id values"
    for earlier, later in (
        ("due_s", "sent_s"),
        ("sent_s", "first_token_s"),
        ("first_token_s", "last_token_s"),
    ):
        wrong = int((requests[later] < requests[earlier] - 1e-3).sum())
        if wrong:
            yield f"{wrong} requests have {later} before {earlier}"


def _read_frame(path: Path, table: str) -> pd.DataFrame:
    frame = _read_arrow(path, table).to_pandas(types_mapper=_nullable_integers)
    if problem := table_problem(frame):
        column, value, expected = problem
        raise BadRun(f"{column} in the {table} table of {path}", value=value, expected=expected)
    return frame.sort_values(SORT_KEYS[table], kind="stable", ignore_index=True)


def _nullable_integers(arrow_type: Any) -> Any:
    import pandas as pd
    import pyarrow as pa

    return {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype(), pa.int16(): pd.Int16Dtype()}.get(
        arrow_type
    )


def _read_arrow(path: Path, table: str) -> pa.Table:
    import pyarrow as pa

    final = path / f"{table}.parquet"
    files = ([final] if final.exists() else []) + _parts(path, table)
    if not files:
        raise BadRun(f"{path} has no {table}.parquet", next_step=_HOW_TO_GET[table])
    try:
        schema = arrow_schema(table)
        return pa.concat_tables([_conform(_table_in(file), schema) for file in files])
    except (pa.ArrowException, OSError) as error:
        raise BadRun(f"cannot read the {table} table of {path}: {error}") from None


def _table_in(file: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(file, "rb") as opened:  # Arrow knows names in UTF-8 only
        try:
            return pq.read_table(opened)
        except pa.ArrowException as error:
            raise pa.ArrowInvalid(f"{file.name}: {error}") from None


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns = [
        table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(len(table), f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


_HOW_TO_GET = {
    "requests": "send load with `autoscale load --run-dir DIR`",
    "itl": "send streamed load with `autoscale load --run-dir DIR`",
    "metrics": "run `autoscale collect DIR --prometheus URL` or `--scrape URL`",
    "replicas": "watch a fleet or cluster with `autoscale check`",
}


def _parts(path: Path, table: str) -> list[Path]:
    return sorted(path.glob(f"{table}.*.part.parquet"))


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    if not file.is_file():  # nor a pipe
        return
    with open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError):
                if isinstance(content := json_value(line), dict):
                    yield content


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    with replacing(file) as temporary:
        temporary.write_text(json_text(content, indent=2) + "\n", encoding="utf-8")
