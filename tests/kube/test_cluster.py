"""Small readings of Kubernetes objects, and evidence files."""

import gzip
import json
import os

import pytest

from analysis.errors import BadInput, BadRun, SourceUnavailable
from autoscale.kube.cluster import (
    ClusterError,
    Observation,
    log_phase,
    read_observations,
    slim,
    timestamp_s,
)
from autoscale.kube.quantity import milli
from autoscale.kube.selectors import selector_text, selects


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("5500m", 5500),
        ("5", 5000),
        ("34.972", 34972),
        ("1k", 1_000_000),
        ("850m", 850),
        (7, 7000),
        ("1u", 1),
        ("2Ki", 2_048_000),
        ("1e3", 1_000_000),
        ("0", 0),
    ],
    ids=[
        "milli",
        "whole",
        "decimal",
        "kilo",
        "fraction",
        "a number",
        "rounds up",
        "binary",
        "exponent",
        "zero",
    ],
)
def test_a_quantity_in_milli_units(quantity, expected):
    assert milli(quantity) == expected


@pytest.mark.parametrize("text", ["\u0665", "5\u0665m", "5 0", "1e\u0663", "1_0", "\uff15"])
def test_digits_that_kubernetes_refuses_are_no_quantity(text):
    with pytest.raises(BadInput, match="not a quantity: "):
        milli(text)


def test_what_is_no_quantity_is_refused():
    with pytest.raises(BadInput, match="not a quantity: '70%'"):
        milli("70%")


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ("", {"a": "1"}, True),
        ("a=1", {"a": "1"}, True),
        ("a=1,b=2", {"a": "1"}, False),
        ("a==1", {"a": "1"}, True),
        ("a!=1", {}, True),
        ("leaderworkerset.sigs.k8s.io/name=vllm,leaderworkerset.sigs.k8s.io/worker-index=0",
         {"leaderworkerset.sigs.k8s.io/name": "vllm", "leaderworkerset.sigs.k8s.io/worker-index": "1"}, False),
        ("a in (1, 2),b", {"a": "2", "b": ""}, True),
        ("a notin (1,2)", {"a": "2"}, False),
        ("a notin (1,2)", {}, True),
        ("!a", {}, True),
        ("a", {}, False),
        ("a=1", None, False),
    ],
)  # fmt: skip
def test_selectors_match_as_the_api_server_matches(selector, labels, expected):
    assert selects(selector, labels) is expected


def test_a_selector_object_becomes_its_text():
    selector = {
        "matchLabels": {"app": "x"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "old", "operator": "DoesNotExist"},
        ],
    }
    assert selector_text(selector) == "app=x,tier in (a,b),!old"
    assert selects(selector_text(selector), {"app": "x", "tier": "b"})
    assert selector_text(None) == ""


def test_times_with_and_without_fraction():
    assert timestamp_s("1970-01-01T00:00:10Z") == 10.0
    assert timestamp_s("1970-01-01T00:00:10.250000Z") == 10.25
    assert timestamp_s(None) is None


def test_bulk_is_dropped_and_the_rest_kept():
    node = {
        "metadata": {
            "name": "n",
            "managedFields": [1],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "x": "y"},
        },
        "status": {"images": [1, 2], "allocatable": {"cpu": "1"}},
    }
    assert slim("nodes", node) == {
        "metadata": {"name": "n", "annotations": {"x": "y"}},
        "status": {"allocatable": {"cpu": "1"}},
    }
    assert "images" in node["status"], "the object itself is not changed"


def test_log_lines_tell_the_end_of_a_phase():
    assert log_phase("INFO Loading weights took 12.3 seconds") == "weights"
    assert log_phase("INFO: Application startup complete.") == "engine_start"
    assert log_phase("INFO something else") is None


def test_evidence_that_was_cut_off_is_read_up_to_the_cut(tmp_path):
    rows = [Observation(float(k), "pods", "ADDED", {"metadata": {"name": str(k)}}) for k in range(200)]
    file = tmp_path / "observations.jsonl.gz"
    with gzip.open(file, "wt") as out:
        for row in rows:
            out.write(json.dumps(row.as_dict()) + "\n")
    assert list(read_observations(file)) == rows
    file.write_bytes(file.read_bytes()[:-40])
    some = list(read_observations(file))
    assert some == rows[: len(some)]
    plain = tmp_path / "observations.jsonl"
    plain.write_text("".join(json.dumps(row.as_dict()) + "\n" for row in rows[:3]) + '{"time_s": 4, "reso')
    assert list(read_observations(plain)) == rows[:3]


SPOILT = [
    ("bytes that gzip cannot unpack", lambda packed, _: packed[:60] + b"\xff" * 30 + packed[90:]),
    ("another checksum", lambda packed, _: packed[:-8] + bytes(8)),
    ("no gzip at all", lambda _, plain: plain),
    ("lines that are no text", lambda _, plain: gzip.compress(plain[:40] + b"\xff\xfe\n" + plain[40:])),
]


@pytest.mark.parametrize("spoil", [row[1] for row in SPOILT], ids=[row[0] for row in SPOILT])
def test_evidence_that_was_spoilt_is_a_sentence(tmp_path, spoil):
    row = {"time_s": 1.0, "resource": "pods", "type": "ADDED", "object": {"metadata": {"name": "a"}}}
    plain = b"".join(json.dumps(row | {"time_s": n / 7}).encode() + b"\n" for n in range(200))
    file = tmp_path / "observations.jsonl.gz"
    file.write_bytes(spoil(gzip.compress(plain), plain))
    with pytest.raises(BadRun, match="cannot read the observations"):
        list(read_observations(file))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(BadRun, match="are no file"):
        list(read_observations(file))


def test_a_line_in_the_middle_that_is_no_observation_is_named(tmp_path):
    file = tmp_path / "o.jsonl"
    file.write_text('{"time_s": 1}\n{"time_s": 1, "resource": "pods", "type": "ADDED", "object": {}}\n')
    with pytest.raises(BadRun, match="line 1 is not an observation"):
        list(read_observations(file))
    file.write_text('{"time_s": 1%s, "resource": "pods", "type": "ADDED", "object": {}}\n{}\n' % ("0" * 400))
    with pytest.raises(BadRun, match="line 1 is not an observation"):
        list(read_observations(file))
    with pytest.raises(BadRun, match="cannot read the observations"):
        list(read_observations(tmp_path / "none.jsonl"))


def test_a_cluster_error_is_a_source_that_is_not_available():
    error = ClusterError("no", status=403)
    assert isinstance(error, SourceUnavailable)
    assert (error.status, error.absent, error.exit_code) == (403, False, 3)
