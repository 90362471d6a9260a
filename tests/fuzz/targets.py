"""What is fuzzed: every reader of what others wrote. Each target takes one input and answers, or raises an AutoscaleError."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

from analysis import run as runs
from analysis.capacity import analyse
from analysis.errors import AutoscaleError
from analysis.slo import parse_slo
from autoscale import profiles
from autoscale.hpa import HpaSpec
from autoscale.kube.scaler import Hpa
from autoscale.lint.linter import lint_files, lint_objects
from autoscale.observe.vllm_metrics import fault, parse_exposition, read_page
from autoscale.recommendation import read_recommendation
from loadgen.plan.load_file import read_load_file
from loadgen.plan.traces import Trace
from loadgen.wire.stream import parse_answer
from tests.fuzz.mutations import spoilt_bytes, spoilt_document
from tests.test_recommendation import MADE

CORPUS = Path(__file__).parent / "corpus"


class Target(NamedTuple):
    """Inputs, and what is done with one."""

    inputs: st.SearchStrategy[Any]
    take: Callable[[Any], object]


def seeds(kind: str) -> list[bytes]:
    """The committed seeds of one kind."""
    return [file.read_bytes() for file in sorted((CORPUS / kind).iterdir())]


def taken(target: Target, given: Any) -> None:
    """One input taken; an AutoscaleError with a sentence is an answer, too."""
    try:
        target.take(given)
    except AutoscaleError as error:
        if not str(error).strip():
            raise AssertionError("an error without a sentence") from error


def in_file(name: str, content: bytes | str, read: Callable[[Path], object]) -> object:
    """What `read` makes of a file of this content."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return read(file)


# --- what servers send -----------------------------------------------------------------------------------------------


def take_answer(given: tuple[bytes, list[int]]) -> None:
    """An HTTP answer in reads of any size: always an answer with a status."""
    data, cuts = given
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reads = [data[a:b] for a, b in itertools.pairwise(edges)]
    answer = parse_answer(np.arange(len(reads), dtype=float), reads)
    assert answer.status in runs.STATUSES
    assert answer.status == "ok" or answer.error


def take_page(data: bytes) -> None:
    """A metrics page: rows, or the reason why there are none."""
    text = data.decode("utf-8", "replace")
    reading = read_page(parse_exposition(text), "m", "http://h/metrics")
    if not reading.rows:
        assert fault(text, reading, "m")[0]


# --- what people write -----------------------------------------------------------------------------------------------


@cache
def manifests() -> list[Any]:
    """The objects of the seeds."""
    return [document for data in seeds("manifests") for document in yaml.safe_load_all(data) if document]


def take_manifest(content: Any) -> None:
    """An object that kubectl may have been given: findings, an HPA that can be read, or a sentence."""
    if not isinstance(content, dict):
        return
    report = lint_objects([content])
    json.dumps(report.to_json())
    json.dumps(report.sarif())
    hpa = Hpa(content)
    for part in ("min_replicas", "max_replicas", "metrics", "conditions", "active_reason", "targets_milli", "usage_milli"):  # fmt: skip
        getattr(hpa, part)
    HpaSpec.from_manifest(content)


def take_manifest_text(data: bytes) -> object:
    """A file for the linter."""
    return in_file("a.yaml", data, lambda file: lint_files([file]))


def take_trace(given: tuple[str, bytes]) -> object:
    """A recorded trace, read to its end."""
    name, data = given

    def read(file: Path) -> None:
        trace = Trace.open(file)
        for _, chunk in zip(range(4), trace.chunks(1000, 0), strict=False):
            assert (np.diff(chunk.due_s) >= 0).all()

    return in_file(name, data, read)


def take_load(content: Any) -> object:
    """A load file and the rates that it asks for."""

    def read(file: Path) -> None:
        programme = read_load_file(file).programme()
        if programme is not None:
            assert programme.duration_s > 0

    return in_file("load.yaml", content if isinstance(content, bytes) else _yaml(content), read)


def take_profile(content: Any) -> object:
    """A profile."""
    return in_file("p.yaml", _yaml(content), lambda file: profiles.load(str(file)))


def take_recommendation(content: Any) -> object:
    """A recommendation.json, and what is said of it again."""
    return in_file(
        "recommendation.json", json.dumps(content), lambda file: read_recommendation(file).as_json()
    )


def _yaml(content: Any) -> str:
    return json.dumps(content) if not isinstance(content, dict) else yaml.safe_dump(content)


# --- run directories -------------------------------------------------------------------------------------------------

RUN_HEADER = {
    "schema_version": 1,
    "kind": "live",
    "started_at": 1.78e9,
    "ended_at": 1.78e9 + 120,
    "model": "m",
    "slo": "ttft_p95=2s",
    "stages": [{"stage": k, "start_s": 40.0 * k, "end_s": 40.0 * k + 40, "rate": k + 1.0} for k in range(3)],
}
VALUES = (-1e9, -1.0, 0.0, 0.5, 1e9, 1e300, float("inf"), float("nan"))


@cache
def tables() -> dict[str, pd.DataFrame]:
    """A small sound run: three stages of 1, 2 and 3 requests/s."""
    due = np.concatenate([40.0 * k + np.arange(0, 40, 1 / (k + 1)) for k in range(3)])
    count = len(due)
    requests = pd.DataFrame(
        {
            "request_id": np.arange(count), "stage": (due // 40).astype(int), "worker": "w", "due_s": due, "sent_s": due + 1e-3,
            "first_token_s": due + 0.1, "last_token_s": due + 1.0, "prompt_tokens": 100, "output_tokens": 20, "events": 20,
            "status": "ok", "http_status": 200, "error": None, "prompt_tokens_asked": 100, "output_tokens_asked": 20,
        }
    )  # fmt: skip
    times = np.arange(0.0, 120.0)
    metrics = pd.DataFrame(
        {
            "time_s": times, "pod": "a", "engine": "0", "waiting": 0.0, "running": 1 + times // 40, "kv_usage": 0.1,
            "preemptions_total": 0.0, "prompt_tokens_total": times * 100, "generation_tokens_total": times * 20, "requests_total": times,
        }
    )  # fmt: skip
    return {"requests": requests, "metrics": metrics}


@st.composite
def spoilt_runs(draw: st.DrawFn) -> tuple[Any, dict[str, pd.DataFrame], dict[str, tuple[int, bytes]]]:
    """A header, tables with changed columns, and bytes to put into their files."""
    header = draw(st.one_of(st.just(RUN_HEADER), spoilt_document([RUN_HEADER])))
    found = {name: frame.copy() for name, frame in tables().items()}
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(sorted(found)))
        frame = found[name]
        column = draw(st.sampled_from(sorted(frame.columns))) if len(frame.columns) else None
        how = draw(st.integers(0, 6))
        if column is None or how == 0:
            found[name] = frame.drop(columns=[column] if column else [])
        elif how == 1:
            frame[column] = frame[column].astype(str)
        elif how == 2:
            frame[column] = [draw(st.sampled_from(VALUES))] * len(frame)
        elif how == 3:
            frame[column] = draw(
                st.sampled_from(["", "timeout", "\x00", "=1+1", "a" * 3000, None, 2**62, -5])
            )
        elif how == 4:
            frame[column] = frame[column].to_numpy()[::-1]
        elif how == 5:
            frame[column] = frame[column].astype(object)
            frame.loc[:: draw(st.integers(1, 50)), column] = None
        else:
            found[name] = frame.head(draw(st.integers(0, 200)))
    torn = draw(st.dictionaries(st.sampled_from(["requests", "metrics"]), st.tuples(st.integers(0, 4000), st.binary(max_size=3)), max_size=1))  # fmt: skip
    return header, found, torn if draw(st.integers(0, 4)) == 0 else {}


def run_of(seed: bytes) -> tuple[Any, dict[str, pd.DataFrame], dict[str, tuple[int, bytes]]]:
    """A committed finding: parts of the header and columns of the sound run's tables replaced, `rows` of them kept."""
    changed = json.loads(seed)
    found = {name: frame.copy() for name, frame in tables().items()}
    for name, frame in found.items():
        columns = dict(changed.get(name, {}))
        found[name] = frame.head(columns.pop("rows", len(frame))).assign(**columns)
    return RUN_HEADER | changed.get("header", {}), found, {}


def take_run(given: tuple[Any, dict[str, pd.DataFrame], dict[str, tuple[int, bytes]]]) -> None:
    """A run directory, looked at and analysed with and without an SLO."""
    header, found, torn = given
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / runs.HEADER).write_text(json.dumps(header), encoding="utf-8", errors="surrogatepass")
        for table, frame in found.items():
            try:
                pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / f"{table}.parquet")
            except (pa.ArrowException, OverflowError):
                continue  # no writer could have written it
            if table in torn:
                at, piece = torn[table]
                data = (folder / f"{table}.parquet").read_bytes()
                (folder / f"{table}.parquet").write_bytes(data[:at] + piece)
        run = runs.read(folder)
        runs.validate(run)
        for slo in (None, parse_slo("ttft_p95=2s,tpot_p95=100ms")):
            analyse(run, slo)


PROFILE = yaml.safe_load(
    (Path(profiles.__file__).parent / "llama-3.1-8b-1xl4.yaml").read_text(encoding="utf-8")
)
TRACES: Sequence[tuple[str, bytes]] = [
    (file.name, file.read_bytes()) for file in sorted((CORPUS / "traces").iterdir())
]
LOAD = (CORPUS / "loads" / "load.yaml").read_bytes()
TARGETS = {
    "answers": Target(st.tuples(spoilt_bytes(seeds("answers")), st.lists(st.integers(0, 400), max_size=5)), take_answer),
    "pages": Target(spoilt_bytes(seeds("pages")), take_page),
    "manifests": Target(spoilt_document(manifests()), take_manifest),
    "manifest files": Target(spoilt_bytes(seeds("manifests")), take_manifest_text),
    "traces": Target(st.sampled_from(TRACES).flatmap(lambda seed: st.tuples(st.just(seed[0]), spoilt_bytes([seed[1]]))), take_trace),
    "load files": Target(st.one_of(spoilt_bytes(seeds("loads")), spoilt_document([yaml.safe_load(LOAD)])), take_load),
    "profiles": Target(spoilt_document([PROFILE]), take_profile),
    "recommendations": Target(spoilt_document([json.loads(json.dumps(MADE.as_json()))]), take_recommendation),
    "runs": Target(spoilt_runs(), take_run),
}  # fmt: skip
