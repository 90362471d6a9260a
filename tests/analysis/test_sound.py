"""Run directories that cannot be, as `report` and `predict` meet them: a sentence or a page, never a crash or a hang."""

import json
import math
import os
import re
import shutil

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from analysis.errors import AutoscaleError, BadInput
from analysis.sound import told_count
from autoscale.cli import app

LENGTHS = ["--prompt-tokens", "fixed:64", "--output-tokens", "fixed:16"]


def header(**fields):
    def spoil(run):
        content = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(content | fields))

    return spoil


def column(name, value):
    def spoil(run):
        frame = pq.read_table(run / "requests.parquet").to_pandas()
        frame[name] = value(frame[name]) if callable(value) else value
        frame.to_parquet(run / "requests.parquet")

    return spoil


def without(name):
    def spoil(run):
        frame = pq.read_table(run / "requests.parquet").to_pandas()
        frame.drop(columns=[name]).to_parquet(run / "requests.parquet")

    return spoil


def content(name, data):
    return lambda run: (run / name).write_bytes(data)


def bits(run):
    data = bytearray((run / "requests.parquet").read_bytes())
    data[len(data) // 2 :: 97] = bytes(b ^ 0x10 for b in data[len(data) // 2 :: 97])
    (run / "requests.parquet").write_bytes(data)


def cut(run):
    data = (run / "requests.parquet").read_bytes()
    (run / "requests.parquet").write_bytes(data[: len(data) // 2])


def pipe(run):
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")


def loop(run):
    (run / "run.json").unlink()
    (run / "run.json").symlink_to(run / "run.json")


# what was done to a sound run: what `report` says; None: a page is made
SPOILT = {
    "a client that is text": (header(client="x"), "client"),
    "versions that are text": (header(versions="x"), "versions"),
    "notes that are numbers": (header(notes=[7]), r"notes\[0\]"),
    "an expected number that is none": (header(load={"expected_requests": "x"}), "load.expected_requests"),
    "a verdict without stage": (header(client={"stages": [{"verdict": "ok", "reasons": []}]}), r"client.stages\[0\].stage"),
    "reasons without sentence": (header(client={"stages": [{"stage": 0, "verdict": "x", "reasons": [{}]}]}), r"reasons\[0\].sentence"),
    "a count of 429 that is a list": (header(client={"rate_limited": []}), "client.rate_limited"),
    "neither stages nor client nor lengths": (header(stages=None, client=None, lengths=None, notes=None), None),
    "events at no time": (content("events.jsonl", b'{"message":"a","time_s":"soon"}\n{"message":"b","time_s":1e400}\n'), None),
    "events that are a pipe": (lambda run: os.mkfifo(run / "events.jsonl"), None),
    "an end that is text": (header(ended_at="soon"), "ended_at"),
    "an end that is no time": (header(ended_at=math.inf), "ended_at"),
    "more output tokens than overflow can hold": (column("output_tokens", 2**62), "at most 1e\\+18"),
    "an engine that is text": (header(engine="x"), "engine"),
    "blocks that are text": (header(engine={"num_blocks": "many"}), "engine.num_blocks"),
    "seats below zero": (header(engine={"max_num_seqs": -1}), "from 0 to"),
    "more blocks than there is memory": (header(engine={"num_blocks": 10**15}), "from 0 to"),
    "an SLO that is a number": (header(slo=7), "slo"),
    "a start that is NaN": (header(started_at=math.nan), "started_at"),
    "a start in milliseconds": (header(started_at=1.78e12), "started_at"),
    "a rate beyond any float": (header(stages=[{"stage": 0, "start_s": 0, "end_s": 9, "rate": 10**400}]), r"stages\[0\].rate"),
    "two stages of one number": (header(stages=[{"stage": 0, "start_s": 0, "end_s": 9}] * 2), r"stages\[1\].stage is not one of a run: 0; expected a number that no other"),
    "stages that are texts": (header(stages=["a"]), r"stages\[0\]"),
    "a later form": (header(schema_version=99), "schema_version"),
    "a header nested without end": (content("run.json", b"[" * 200_000), "nested"),
    "a header that is empty": (content("run.json", b""), "run.json"),
    "a header that is a pipe": (pipe, "run.json|not a run"),
    "a header that leads to itself": (loop, "run.json|not a run"),
    "events that are no text": (content("events.jsonl", b"\xff\xfe\x00"), None),
    "events that are numbers": (content("events.jsonl", b"7\n[1]\n"), None),
    "due times that are infinite": (column("due_s", math.inf), "due_s"),
    "due times before everything": (column("due_s", -1e12), "due_s"),
    "due times that are NaN": (column("due_s", math.nan), "due_s"),
    "times that are texts": (column("due_s", lambda old: old.astype(str) + "x"), "requests table"),
    "no due times": (without("due_s"), "due_s"),
    "no status": (without("status"), None),
    "requests cut off": (cut, "requests.parquet"),
    "requests that are empty": (content("requests.parquet", b""), "requests.parquet"),
    "flipped bits": (bits, "requests.parquet|"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "said"), SPOILT.values(), ids=SPOILT)
def test_a_run_that_cannot_be_is_a_sentence_or_a_page(sweep_run, tmp_path, spoil, said):
    run = tmp_path / "run"
    shutil.copytree(sweep_run("sweep_D"), run)
    spoil(run)
    report = CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "page.html")])
    told = [report, CliRunner().invoke(app, ["report", str(run), "--details"])]
    if said is not None:
        told.append(CliRunner().invoke(app, ["predict", str(run), *LENGTHS]))
    for done in told:
        assert isinstance(done.exception, AutoscaleError | SystemExit | None), repr(done.exception)
    if said is None:
        assert report.exit_code == 0
    elif not said.endswith("|"):
        assert isinstance(report.exception, BadInput)
    if said is not None and report.exception is not None:
        assert report.exception.exit_code == 2
        assert re.search(said, str(report.exception)), report.exception
        assert "\n" not in str(report.exception)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0), ("016", 16), ("1000000000", 10**9), ("1000000001", None), ("9" * 5000, None), ("0" * 5000 + "7", 7),
        ("", None), ("-1", None), ("1.5", None), ("²", None), ("٣", None),
    ],
)  # fmt: skip
def test_a_told_count_is_one_that_a_server_can_have(text, count):
    assert told_count(text) == count
