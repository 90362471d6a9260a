"""What a trace or load file may hold: the unit of its clock, conversations, and what no machine should be asked to read."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from analysis.errors import BadInput
from loadgen.plan import text_files
from loadgen.plan.arrivals import Arrivals
from loadgen.plan.prompts import by_ids
from loadgen.plan.request_template import RequestTemplate
from loadgen.plan.time_units import duration
from loadgen.plan.traces import Trace
from loadgen.plan.traffic import LoadPlan

BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def written(tmp_path: Path, content: str | bytes, name: str = "trace.txt") -> Path:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def mooncake(stamps) -> str:
    return "".join(f'{{"timestamp": {t}, "input_length": 10, "output_length": 5}}\n' for t in stamps)


def burst(stamps) -> str:
    return BURST + "".join(f"{t},M,10,5,15,x\n" for t in stamps)


def everything(trace: Trace, seed: int = 0) -> Arrivals:
    chunks = list(trace.chunks(65_536, seed))
    return Arrivals._make(None if c[0] is None else np.concatenate(c) for c in zip(*chunks, strict=True))


# --- the unit of the clock -------------------------------------------------------------------------------------------

SECONDS = (0.0, 0.2, 60.4)  # a trace in seconds with the keys of one in milliseconds


@pytest.mark.parametrize(
    ("text", "given", "unit", "how", "span_s"),
    [
        pytest.param(mooncake(SECONDS), "s", "s", "given", 60.4, id="a unit that is given"),
        pytest.param(mooncake([0, 500, 9000]), None, "ms", "format", 9, id="the format's own unit"),
        pytest.param(burst([0, 5, 9]), None, "s", "format", 9, id="BurstGPT's seconds"),
        pytest.param(burst([0, 5, 9]), "us", "us", "given", 9e-6, id="a given unit is believed, however absurd"),
        pytest.param(mooncake([1.7e9 + k for k in range(9)]), None, "s", "Unix time", 8, id="Unix time in s"),
        pytest.param(burst([1_700_000_000_000 + 500 * k for k in range(9)]), None, "ms", "Unix time", 4, id="in ms"),
        pytest.param(burst([1_700_000_000_000_000_000 + 10**9 * k for k in range(9)]), None, "ns", "Unix time", 8, id="in ns"),
        pytest.param(AZURE + "2023-11-16 18:15:46.5,3,4\n2023-11-16 18:15:48.5,3,4\n", None, None, "", 2, id="dates"),
        pytest.param(AZURE + "2023-11-16 18:15:46+05:30,3,4\n2023-11-16 12:45:48Z,3,4\n2023-11-16 04:45:49.5-08:00,3,4\n", None, None, "", 3.5, id="dates with offsets are one clock"),
    ],
)  # fmt: skip
def test_the_unit_of_the_stamps_is_known_and_said(tmp_path, text, given, unit, how, span_s):
    trace = Trace.open(written(tmp_path, text), time_unit=given)
    assert (trace.time_unit, trace.unit_from) == (unit, how)
    assert trace.span_s == pytest.approx(span_s)
    assert everything(trace).due_s[-1] == pytest.approx(span_s)
    said = {
        "given": f"timestamps in {unit} (given)",
        "Unix time": f"in {unit} (Unix time)",
        "format": f"the unit of {trace.format}",
        "": "times are dates",
    }
    assert said[how] in trace.sentence
    assert f"{trace.requests:.0f} requests over {duration(span_s)}, mean " in trace.sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(
            mooncake(SECONDS),
            r"3 requests within 60.4 ms are 49.7/s; in seconds they would be 0.0497/s over 60.4 s.*time_unit: s.*--trace-time-unit s",
            id="seconds read as milliseconds",
        ),
        pytest.param(
            mooncake(range(0, 60, 3)), "20 requests within 57 ms are 351/s; in seconds", id="whole seconds"
        ),
        pytest.param(
            mooncake(0.37 * k for k in range(9000)), "9,000 requests within 3.33 s", id="an hour in seconds"
        ),
        pytest.param(
            burst(2000 * k for k in range(100)),
            "100 requests within 2.29 days are 0.000505/s; in milliseconds they would be 0.505/s",
            id="milliseconds read as seconds",
        ),
    ],
)
def test_a_rate_that_only_a_wrong_unit_gives_is_refused_with_the_arithmetic(tmp_path, text, sentence):
    with pytest.raises(BadInput, match=sentence):
        Trace.open(written(tmp_path, text))


@pytest.mark.parametrize(
    "stamps",
    [
        pytest.param([60_000 * (k // 100) + 2 * (k % 100) for k in range(1000)], id="bursts of 100 in 0.2 s"),
        pytest.param([4 * k for k in range(2000)], id="250 requests/s for 8 s"),
        pytest.param([0] * 50, id="all at once"),
        pytest.param([0, 3], id="two rows"),
    ],
)
def test_a_burst_is_no_wrong_unit(tmp_path, stamps):
    assert Trace.open(written(tmp_path, mooncake(stamps))).requests == len(stamps)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"trace": "dates", "time_unit": "s"},
            "time_unit of a trace whose times are dates: 's'. Leave it out",
        ),
        (
            {"trace": "numbers", "time_unit": "min"},
            r"time_unit of a trace: 'min'; expected s \| ms \| us \| ns",
        ),
        ({"rate": 1.0, "time_unit": "s"}, "--trace-time-unit without a trace"),
    ],
)
def test_a_unit_that_does_not_fit_is_answered(tmp_path, options, sentence):
    files = {"dates": AZURE + "2023-11-16 18:15:46.5,3,4\n", "numbers": mooncake([0, 900])}
    if name := options.get("trace"):
        options = {**options, "trace": written(tmp_path, files[name])}
    with pytest.raises(BadInput, match=sentence):
        LoadPlan.from_options(**options)


def test_a_load_file_says_the_unit_and_run_json_has_it(tmp_path):
    written(tmp_path, mooncake(SECONDS))
    plan = LoadPlan.from_file(written(tmp_path, "trace: {path: trace.txt, time_unit: s}\n", "load.yaml"))
    assert plan.describe()["trace"]["time_unit"] == "s"
    assert next(plan.arrivals()).due_s == pytest.approx(SECONDS)


# --- conversations ---------------------------------------------------------------------------------------------------

SESSIONS = """
{"session_id": "a", "turn": 1, "timestamp": 1000, "input_length": 1000, "output_length": 40}
{"session_id": "a", "turn": 2, "delay": 5000, "input_length": 150, "output_length": 50}
{"session_id": "a", "turn": 3, "delay": 500.5, "input_length": 10, "output_length": 5}
{"session_id": "b", "timestamp": 1250, "input_length": 200, "output_length": 60}
{"session_id": "b", "timestamp": 3250, "input_length": 9, "output_length": 1}
"""


def test_session_rows_become_conversations_with_pauses(tmp_path):
    trace = Trace.open(written(tmp_path, SESSIONS))
    got = everything(trace)
    assert trace.format == "sessions"
    # a at 0; b 0.25 s later, and by its timestamp 2 s after that; a again 5 s after its first turn, and 0.5005 s later
    assert got.due_s == pytest.approx([0, 0.25, 2.25, 5, 5.5005])
    # what the turns add is put behind the conversation: 1000 + 40 + 150 = 1190, 1190 + 50 + 10; 200 + 60 + 9
    assert got.prompt_tokens.tolist() == [1000, 200, 269, 1190, 1250]
    assert got.prefix_tokens.tolist() == [0, 0, 260, 1040, 1240]
    assert got.output_tokens.tolist() == [40, 60, 1, 50, 5]
    assert "input_length is what a turn adds" in trace.sentence


def test_whole_prompts_are_taken_as_they_are_and_delays_have_the_unit_that_is_given(tmp_path):
    got = everything(Trace.open(written(tmp_path, SESSIONS), turn_tokens="whole", time_unit="s"))
    assert got.due_s == pytest.approx([0, 250, 2250, 5000, 5500.5])
    assert got.prompt_tokens.tolist() == [1000, 200, 9, 150, 10]
    assert got.prefix_tokens.tolist() == [0, 0, 8, 149, 9]  # the last token is always computed


def test_later_prompts_begin_as_the_earlier_ones_of_their_conversation_and_no_other(tmp_path):
    plan = LoadPlan.from_options(trace=written(tmp_path, SESSIONS))
    source = by_ids(RequestTemplate("m"), **plan.prompt_options())
    chunk = next(plan.arrivals())
    a1, b1, b2, a2, a3 = (
        source.prompt(k, int(chunk.prompt_tokens[k]), blocks=chunk.blocks[k]) for k in range(5)
    )
    assert [len(p) for p in (a1, b1, b2, a2, a3)] == [1000, 200, 269, 1190, 1250]
    assert a2[:1000] == a1
    assert a3[:1190] == a2
    assert b2[:200] == b1
    assert a1[:4] != b1[:4]


@pytest.mark.parametrize("scale", [0.5, 2.5])
def test_a_scaled_rate_keeps_conversations_whole(tmp_path, scale):
    rows = "".join(
        f'{{"session_id": {s}, "timestamp": {s * 1000}, "input_length": 5, "output_length": 5}}\n'
        f'{{"session_id": {s}, "delay": 30000, "input_length": 5, "output_length": 5}}\n'
        for s in range(400)
    )
    got = everything(Trace.open(written(tmp_path, rows), rate_scale=scale, jitter_s=4.0, bucket_s=0))
    assert len(got.due_s) == pytest.approx(800 * scale, rel=0.1)
    firsts: dict[int, list[int]] = {}
    for k, blocks in enumerate(got.blocks):
        firsts.setdefault(blocks[0], []).append(k)
    pairs = [rows for rows in firsts.values() if len(rows) == 2]
    assert len(pairs) == len(firsts)  # none lost a turn
    pauses = [got.due_s[later] - got.due_s[first] for first, later in pairs]
    assert np.quantile(pauses, [0.05, 0.95]) == pytest.approx(30)  # some are moved back from the trace's ends
    assert all(got.prefix_tokens[later] == 10 for _, later in pairs)


def test_a_conversation_that_began_before_the_window_has_nothing_cached(tmp_path):
    got = everything(Trace.open(written(tmp_path, SESSIONS), from_s=2))
    assert got.prefix_tokens.tolist() == [0, 0, 1240]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"timestamp": 1250, ', "", "line 5: the first turn of a conversation has no timestamp"),
        ('"delay": 5000', '"delay": -1', r"line 3, column 32 \(delay\): -1; expected a number of at least 0"),
        ('"delay": 5000, ', "", "line 3, field timestamp is missing"),
        ("3250", "1000", "line 6: the turn lies before the one before it: 1000"),
        ('"turn": 3', '"turn": 2', "line 4: turn 2 of a conversation comes after turn 2"),
        ('"session_id": "b"', '"session_id": [1]', "line 5, field session_id"),
        ('"input_length": 10,', '"input_length": 1073741000,', "the conversation has grown to .*turn_tokens: whole"),
    ],
)  # fmt: skip
def test_a_malformed_session_row_is_named(tmp_path, old, new, sentence):
    assert old in SESSIONS
    with pytest.raises(BadInput, match=sentence):
        Trace.open(written(tmp_path, SESSIONS.replace(old, new)))


# --- what no machine should be asked to read -------------------------------------------------------------------------

ROW = mooncake([0])
BAD = {
    "a stamp far away": (burst([1, 1e14]), "line 3: the time lies 3,168,809 years after .*at most 31 days"),
    "a stamp years away": (burst([1, 1e8]), "line 3: the time lies 3 years after"),
    "milliseconds far away": (mooncake([0, 1e15]), "line 2: the time lies 31,688 years after"),
    "an infinite stamp": (burst([1, "1e400"]), r"line 3, column 1 \(Timestamp\): '1e400'"),
    "a year typed wrong": (
        AZURE + "2023-11-16 18:15:46.5,3,4\n4046-11-16 18:15:46.5,3,4\n",
        r"line 3, column 1 \(TIMESTAMP\): '4046-.*between 1970 and 2200",
    ),
    "a year off by one": (
        AZURE + "2023-11-16 18:15:46.5,3,4\n2024-11-16 18:15:46.5,3,4\n",
        "line 3: the time lies 366 days after",
    ),
    "a header alone": (AZURE, "trace.txt holds no request$"),
    "a column twice": (
        "TIMESTAMP,ContextTokens,GeneratedTokens,ContextTokens\n",
        "line 1: column ContextTokens stands twice",
    ),
    "tokens beyond 64 bits": (
        BURST + "1,M,99999999999999999999,5,15,x\n",
        r"line 2, column 3 \(Request tokens\): '9{20}'; expected a whole number .* at most 1,073,741,824",
    ),
    "tokens beyond 32 bits": (ROW.replace("10", str(2**31)), r"column 18 \(input_length\): 2147483648"),
    "nested rows": (ROW + '{"a":' * 100_000, "line 2: nested too deeply"),
    "a nested beginning": ("[" * 100_000, "unknown trace format"),
    "a row that is no object": (ROW + "[1]", "line 2: '\\[1\\]'; expected one JSON object per line"),
    "a NUL byte": (BURST + "1,M,1\0,1,0,x\n", "line 2 holds a NUL byte"),
    "tokens in another script's digits": (BURST + "1,M,\u0661\u0660,1,0,x\n", "line 2, column 3 .*: '\u0661\u0660'; expected a whole number"),
    "tokens with an underscore": (BURST + "1,M,1_0,1,0,x\n", "line 2, column 3 .*: '1_0'; expected a whole number"),
    "a stamp with an underscore": (BURST + "1_0,M,1,1,0,x\n", "line 2, column 1 .*: '1_0'; expected a time"),
    "UTF-16": (burst([1]).encode("utf-16"), "line 1 holds a NUL byte. Save it as UTF-8"),
    "a packed line without end": (gzip.compress(b"a" * 50_000_000), "line 1 is longer than 4,000,000 characters"),
    "packed emptiness": (gzip.compress(BURST.encode() + b"\n" * 1_000_000), "more than 100,000 empty lines"),
    "a window of a million requests/s": (
        "client_id,window_start_s,rate_rps,cv,dist,param1,param2\n0,0,1e6,1,Gamma,1,1\n",
        "add up to 1,000,000/s; expected at most 10,000",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=BAD)
def test_a_trace_that_cannot_be_meant_is_one_sentence(tmp_path, content, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        Trace.open(written(tmp_path, content))
    assert len(str(caught.value)) < 600


def test_a_byte_order_mark_is_left_out(tmp_path):
    trace = Trace.open(written(tmp_path, b"\xef\xbb\xbf" + burst([1, 2]).encode()))
    assert (trace.format, trace.requests) == ("burstgpt", 2)


@pytest.mark.parametrize("what", ["trace", "load_file"])
def test_only_regular_files_are_read(tmp_path, what):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        ("/dev/zero", "a device"),
        (tmp_path / "pipe", "a pipe"),
        (tmp_path, "a directory"),
    ):
        with pytest.raises(BadInput, match=f"{path} is {kind}; expected a regular file"):
            LoadPlan.from_options(**{what: path})


def test_months_without_a_gap_are_counted_in_few_bins(tmp_path, monkeypatch):
    monkeypatch.setattr("loadgen.plan.time_bins.MOST_BINS", 1 << 12)
    stamps = np.arange(0, 120 * 86_400, 600)
    trace = Trace.open(written(tmp_path, burst(stamps)))
    assert trace.rate.requests == pytest.approx(len(stamps))
    assert trace.rate.duration_s == 120 * 86_400
    assert len(trace.rate.level_rps) <= 1 << 12
    assert float(trace.rate.rate(60 * 86_400)) == pytest.approx(1 / 600, rel=0.2)


PART = "load: [{constant: {rate_rps: 1, duration_s: 1}}]\n"
BOMB = (
    "a: &a {constant: {rate_rps: 1, duration_s: 1}}\n"
    + "".join(f"{b}: &{b} {{sum: [{', '.join([f'*{a}'] * 10)}]}}\n" for a, b in zip("abcdef", "bcdefg", strict=True))
    + "load: [*g]\n"
)  # fmt: skip
LOADS = {
    "aliases of aliases": (BOMB, "line 6: more than 100,000 values, aliases followed"),
    "an alias of itself": ("load: &a [*a]\n", r"line 1: \*a refers to nothing complete"),
    "lists in lists": ("load: " + "[" * 50 + "]" * 50, "line 1: nested more than 32 deep"),
    "lists without end": ("load: " + "[" * 100_000, "not valid YAML|nested more than 32 deep"),
    "repeated for decades": (
        "repeat: 1000000000\n" + PART,
        "repeat: 1000000000 times 1 s is 31.7 years; expected at most 5",
    ),
    "a repeated trace": ("repeat: 1000000000\ntrace: {path: trace.txt}\n", "repeat: 1000000000 times 1.8 s is 57"),
    "more pieces than fit": (
        "repeat: 100000\nload: [{diurnal: {peak_rps: 1, duration_s: 100, day_s: 1}}]\n",
        "240,100,000 pieces with a rate of their own; expected at most 2,000,000",
    ),
    "days of a microsecond": ("load: [{diurnal: {peak_rps: 1, duration_s: 1e8, day_s: 1e-6}}]\n", "pieces with a rate"),
    "a duration without end": (PART.replace("duration_s: 1", "duration_s: 1e300"), r"duration of the load in s: 1e\+300"),
    "a rate beyond reason": (PART.replace("rate_rps: 1", "rate_rps: 1e300"), r"rate in requests/s: 1e\+300; expected at most"),
    "a sine of nanoseconds": (
        "load: [{sine: {mean_rps: 1, amplitude_rps: 1, period_s: 1e-9, duration_s: 1e6}}]\n",
        "period of a sine in s: 1e-09",
    ),
    "very many sines": (
        "repeat: 1000\nload: [{sine: {mean_rps: 1, amplitude_rps: 1, period_s: 10, duration_s: 100}}]\n",
        "too many sines",
    ),
    "true for a rate": ("load: [{constant: {rate_rps: true, duration_s: 1}}]\n", "line 1, field load.0.constant.rate_rps: true and false are no numbers"),
    "true for a number of times": ("repeat: true\n" + PART, "repeat: true and false are no numbers"),
    "a load that is said twice": (PART + PART, "line 2: load is there twice, first in line 1"),
    "more conversations than fit": ("conversations: {turns: 2, concurrent: 1000000000000}\n" + PART, "1000000"),
    "a prefix beyond 32 bits": ("shared_prefix_tokens: 100000000000000\n" + PART, "shared_prefix_tokens"),
    "a number of 5,000 digits": ("seed: " + "9" * 5000 + "\n" + PART, "cannot be read"),
    "a thirteenth month": ("load: 2001-13-01\n", "cannot be read"),
    "a NUL byte": ("load: [\0]\n", "not valid YAML"),
    "a megabyte and more": ("#" + "x" * 1_000_000, "is longer than 1,000,000 bytes"),
    "a value of 100,000 letters": ("arrivals: " + "x" * 100_000 + "\n" + PART, "unknown arrival process: 'xxx"),
    "a thousand million copies": ("trace: {path: trace.txt, rate_scale: 1e9}\n", "rate_scale of a trace"),
    "a window that never ends": ("trace: {path: trace.txt, to_s: 1e12}\n", "duration of the load in s"),
    "UTF-16": ("stages: 1:10".encode("utf-16"), "the load file .*load.yaml is not text: byte 0xff at offset 0 is not UTF-8. Save it as UTF-8"),
    "time that stands still": ("trace: {path: trace.txt, time_scale: 1e-300}\n", "rate in requests/s"),
    "a bucket of years": ("trace: {path: trace.txt, bucket_s: 1e9}\n", "bucket_s of a trace"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), LOADS.values(), ids=LOADS)
def test_a_load_file_that_cannot_be_meant_is_one_sentence(tmp_path, text, sentence):
    written(tmp_path, mooncake([0, 900]))
    with pytest.raises(BadInput, match=sentence) as caught:
        LoadPlan.from_file(written(tmp_path, text, "load.yaml"))
    assert len(str(caught.value)) < 700


def test_aliases_within_reason_are_followed(tmp_path):
    text = "load:\n  - &a {constant: {rate_rps: 1, duration_s: 1}}\n  - *a\n  - sum: [*a, *a]\n"
    plan = LoadPlan.from_file(written(tmp_path, text, "load.yaml"))
    assert plan.expected_requests == pytest.approx(4)
    assert plan.duration_s == 3


def test_a_load_file_is_read_alike_without_libyaml(tmp_path):
    import yaml

    class Plain(yaml.SafeLoader):
        yaml_implicit_resolvers = text_files.PlainNumbers.yaml_implicit_resolvers

    text = "seed: 7\nload:\n  - stages: 10:30,20:59\n  - constant: {rate_rps: 1e1, duration_s: .5}\n"
    (_, fast), (_, slow) = (
        text_files.yaml_value("x", text, loader) for loader in (text_files.PlainNumbers, Plain)
    )
    assert (
        fast
        == slow
        == json.loads(
            '{"seed": 7, "load": [{"stages": "10:30,20:59"}, {"constant": {"rate_rps": 10.0, "duration_s": 0.5}}]}'
        )
    )


def test_a_load_file_says_when_in_the_week_it_begins(tmp_path):
    """A Tuesday's morning is 32.5 h after Monday's midnight; what is no such moment is named with the line."""
    text = "load:\n  - constant: {rate_rps: 1, duration_s: 60}\nbegins: "
    plan = LoadPlan.from_file(written(tmp_path, text + "Tue 08:30\n", "load.yaml"))
    assert plan.begins_s == 32.5 * 3600
    assert plan.until(30).begins_s == plan.begins_s
    assert LoadPlan.from_file(written(tmp_path, text + "Sun\n", "load.yaml")).begins_s == 6 * 86_400
    for wrong in ("Tuesday", "tue 08:30", "Tue 24:00", "8", "[1]"):
        with pytest.raises(BadInput, match=r"line 3, field begins"):
            LoadPlan.from_file(written(tmp_path, text + wrong + "\n", "load.yaml"))
