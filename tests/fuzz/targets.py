"""What is fuzzed: every reader of what others wrote. Each target takes one input and answers, or raises an AutoscaleError."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from hypothesis import strategies as st

from analysis import run as runs
from analysis.errors import AutoscaleError
from autoscale import profiles
from autoscale.hpa import HpaSpec
from autoscale.keda.formula import FormulaError, compile_formula
from autoscale.keda.hpa_made import hpa_made
from autoscale.keda.query_parser import parse_query
from autoscale.keda.scaled_object import ScaledObject
from autoscale.kube.scaler import Hpa
from autoscale.lint.linter import lint_files, lint_objects
from autoscale.observe.vllm_metrics import fault, parse_exposition, read_page
from autoscale.recommendation import read_recommendation
from loadgen.plan.load_file import read_load_file
from loadgen.plan.traces import Trace
from loadgen.wire.stream import parse_answer
from tests.fuzz.mutations import spoilt_bytes, spoilt_document, spoilt_text
from tests.fuzz.run_targets import (
    checked,
    spoilt,
    swept,
    take_analysed,
    take_learnt,
    take_replayed,
    take_reported,
)
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


# --- scalers of KEDA ---------------------------------------------------------------------------------------------------


@cache
def scaled_objects() -> list[Any]:
    """The ScaledObjects of the seeds."""
    return [content for content in manifests() if content.get("kind") == "ScaledObject"]


def take_scaled_object(content: Any) -> object:
    """A ScaledObject as KEDA reads it, and the HPA that it makes."""
    return hpa_made(ScaledObject.from_manifest(content))


def take_query(text: str) -> object:
    """A PromQL query, matched by shape."""
    return parse_query(text)


def take_formula(text: str) -> None:
    """A formula of scalingModifiers, compiled and worked out, or refused as KEDA's operator would."""
    with suppress(FormulaError):
        compile_formula(text, ("queue", "busy")).result({"queue": 1.0, "busy": 2.5})


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
    "scaled objects": Target(spoilt_document(scaled_objects()), take_scaled_object),
    "queries": Target(spoilt_text(seeds("queries")), take_query),
    "formulas": Target(spoilt_text(seeds("formulas")), take_formula),
    "runs": Target(spoilt(swept), take_analysed),
    "learnt runs": Target(spoilt(swept), take_learnt),
    "reported runs": Target(spoilt(swept), take_reported),
    "replayed checks": Target(spoilt(checked), take_replayed),
}  # fmt: skip
