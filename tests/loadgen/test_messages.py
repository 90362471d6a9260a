"""What owner and workers tell each other, through the encoding that Locust sends it in."""

import math
from dataclasses import fields

import msgpack
import pytest

from analysis.access import Access
from analysis.errors import BadInput
from analysis.run import TABLES
from loadgen.failing import Failure
from loadgen.run.endpoint.manner import Manner
from loadgen.run.measured import GapCounts, Measured, Pause, RequestRow
from loadgen.run.messages import (
    KINDS,
    Begin,
    ClockMeasured,
    End,
    Failed,
    Finished,
    LastWord,
    Offset,
    Ping,
    Pong,
    Ready,
    Start,
    WorkerReport,
    decode,
    encode,
)
from loadgen.run.options import LoadOptions
from loadgen.run.vitals import ClientSample
from loadgen.wire.target import HttpTarget

NUMBERS = dict.fromkeys(ClientSample._fields, 1)
ROW = RequestRow(7, 0, "w1", 0.5, 0.6, 0.7, 0.8, None, 3, 3, "ok", 200, None, 16, 3, 0, 1.5)
BEGIN = Begin(
    LoadOptions(rate=3.0, slo="ttft_p95=2s", most_tokens=64),
    HttpTarget.from_url("https://host/base?version=2", Access()),
    Manner("model", "/v1/completions"),
    1,
    3,
    "w1",
    12345,
    "abc",
    None,
)
MESSAGES = [
    BEGIN,
    Start(1.7e9),
    End(12.0, 0.0),
    Ping(1.7e9, "family", 12),
    Pong(1.7e9, 1.8e9),
    ClockMeasured("w0", Offset(-3.0, 0.001)),
    Ready("w0"),
    Failed("w0", Failure("why", 2, None)),
    WorkerReport(
        "w0",
        Measured([ROW], {0: GapCounts([3, 9], [1, 2])}, [Pause(0.5, True)]),
        [ClientSample(**NUMBERS)],
    ),
    Finished("w0"),
    LastWord("w0"),
]


def carried(message, **changes):
    """The message as another process reads it, with these fields changed or, where None stands for them, left out."""
    sent = {name: value for name, value in {**encode(message), **changes}.items() if value is not ...}
    data = msgpack.loads(msgpack.dumps(sent), strict_map_key=False)
    return decode(message.kind, data)


@pytest.mark.parametrize("message", MESSAGES, ids=[type(m).__name__ for m in MESSAGES])
def test_a_message_arrives_as_it_was_sent(message):
    arrived = carried(message)
    assert type(arrived) is type(message)
    for field in fields(message):
        sent, got = getattr(message, field.name), getattr(arrived, field.name)
        assert got == sent
        assert type(got) is type(sent)


def test_every_kind_of_message_is_tested():
    assert {type(message) for message in MESSAGES} == set(KINDS.values())


def test_an_unmeasured_clock_travels_as_such():
    offset = carried(ClockMeasured("w0", Offset(0.0, math.nan))).offset
    assert offset.ahead_s == 0.0
    assert math.isnan(offset.uncertainty_s)


def test_a_row_is_one_of_the_requests_table():
    assert RequestRow._fields == tuple(TABLES["requests"])


OTHERS = [
    ("a field that is missing", End(1.0, 1.0), {"cut_s": ...}),
    ("a field that nobody knows", Ready("w0"), {"speed": 3}),
    ("a time that is none", Start(1.0), {"start_unix_s": math.inf}),
    ("a time as text", Start(1.0), {"start_unix_s": "now"}),
    ("a name that is a number", Ready("w0"), {"worker": 3}),
    ("a slice beyond the last", BEGIN, {"index": 3}),
    ("options of another version", BEGIN, {"options": {"rate": 3.0}}),
    ("a manner of another version", BEGIN, {"manner": {"model": "m"}}),
    ("rows with a column less", MESSAGES[8], {"measured": [[ROW[:-1]], {}, []]}),
    ("a bucket beyond the histogram", MESSAGES[8], {"measured": [[], {0: [[10**9], [1]]}, []]}),
    ("a bucket without count", MESSAGES[8], {"measured": [[], {0: [[1, 2], [1]]}, []]}),
    ("samples with a figure more", MESSAGES[8], {"samples": [[1.0] * 17]}),
    ("no process id", MESSAGES[3], {"pid": -1}),
]


@pytest.mark.parametrize(("message", "changes"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_what_a_process_of_another_version_says_is_refused_in_a_sentence(message, changes):
    with pytest.raises(BadInput, match=f"^{message.kind}, .* Start master and workers from the same release"):
        carried(message, **changes)


def test_a_kind_that_this_version_does_not_know_is_refused():
    with pytest.raises(BadInput, match="llm_dance"):
        decode("llm_dance", {})
