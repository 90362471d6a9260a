"""Traffic out of access logs: as gateways, proxies and OpenTelemetry write them, with what is broken in them named."""

import csv
import gzip
import json
from datetime import UTC, datetime

import numpy as np
import pytest

from analysis.errors import BadInput, TooLittleData
from autoscale.history.access_log import learn_log, log_columns
from loadgen.plan import rates
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.traffic import LoadPlan, parse_arrivals

START = datetime(2026, 11, 10, 8, 30, tzinfo=UTC).timestamp()  # a Tuesday


@pytest.fixture(scope="module")
def requests():
    """Six hours of bursty requests: unix s, prompt and output tokens."""
    plan = LoadPlan(
        rates.ramp(1.0, 3.0, 6 * 3600.0),
        parse_arrivals("gamma:2"),
        parse_lengths("lognormal:800,0.8"),
        parse_lengths("uniform:20,200"),
        seed=4,
    )
    chunks = list(plan.arrivals())
    columns = (np.concatenate([getattr(c, n) for c in chunks]) for n in ("due_s", "prompt_tokens", "output_tokens"))  # fmt: skip
    due_s, prompt, output = columns
    return START + due_s, prompt, output


def openai(time_s, prompt, output):
    """A gateway's JSON lines: the usage object of the answer."""
    when = datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"timestamp": when, "model": "m", "response": {"usage": {"prompt_tokens": int(prompt), "completion_tokens": int(output)}}})  # fmt: skip


def otel(time_s, prompt, output):
    """A span's attributes, flat, in nanoseconds."""
    return json.dumps({"startTime": int(time_s * 1e9), "gen_ai.usage.input_tokens": int(prompt), "gen_ai.usage.output_tokens": int(output)})  # fmt: skip


WRITERS = {"openai": openai, "otel": otel}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_was_sent_comes_out(requests, tmp_path, writer):
    time_s, prompt, output = requests
    file = tmp_path / "access.jsonl.gz"
    with gzip.open(file, "wt") as opened:
        opened.writelines(WRITERS[writer](*row) + "\n" for row in zip(*requests, strict=True))
    learned = learn_log(file)
    assert learned.came.counts.sum() == pytest.approx(len(time_s), rel=0.005)  # the last minute is not whole
    assert learned.window[0] == pytest.approx(time_s[0], abs=1e-3)
    assert learned.burstiness.low <= 2.0 <= learned.burstiness.high
    assert learned.prompt.mean == pytest.approx(prompt.mean(), rel=1e-6)
    for share in (0.5, 0.95, 0.99):
        for tokens, seen in ((learned.prompt, prompt), (learned.output, output)):
            at = np.interp(share, np.linspace(0, 1, len(tokens.lengths.knots)), tokens.lengths.knots)
            assert at == pytest.approx(np.quantile(seen, share), rel=0.01)
    written = tmp_path / "traffic.yaml"
    written.write_text(learned.yaml())
    plan = LoadPlan.from_file(written)
    assert plan.expected_requests == pytest.approx(len(time_s), rel=0.01)
    assert plan.begins_s == pytest.approx(86_400 + 8.5 * 3600, abs=120)


def test_a_csv_with_names_of_its_own_and_times_of_the_end(requests, tmp_path):
    """nginx's time at the end of a request, how long it took, and other columns; three lines are broken."""
    file = tmp_path / "access.csv"
    with file.open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["when", "seconds", "in", "out", "path"])
        for k, (time_s, prompt, output) in enumerate(zip(*requests, strict=True)):
            end = datetime.fromtimestamp(time_s + 30, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
            broken = {10: "not a date", 20: ""}.get(k, end)
            rows.writerow([broken, 30, -5 if k == 30 else prompt, output, "/v1/completions"])
    named = log_columns("time=when,took=seconds,prompt=in,output=out")
    learned = learn_log(file, columns=named, last_s=3 * 3600)
    assert learned.window[0] == pytest.approx(requests[0][-1] - 3 * 3600, abs=5)
    assert any("3 lines were not read; the first: line 12" in note for note in learned.notes)
    with pytest.raises(BadInput, match=r"line 2 has no field that says when.*--columns"):
        learn_log(file)
    with pytest.raises(BadInput, match=r"no field 'who' for model"):
        learn_log(file, columns=named | {"model": "who"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("", r"has no request.*Is it an access log", id="empty"),
        pytest.param("hello\nworld\nagain\n", r"no field that says when", id="prose"),
        pytest.param('{"time": 1}\n{broken\n{"time": 2}\n[1]\n', r"lines cannot be read.*line 2", id="half broken"),
        pytest.param('{"time": 1, "model": "a"}\n{"time": 2, "model": "b"}\n', r"several models.*a, b.*--model", id="two models"),
        pytest.param('{"time": 1e400}\n', r"lines cannot be read|not a", id="no time"),
        pytest.param(f'{{"time": 1}}\n{{"time": {START}}}\n', r"covers 20,767 days, from line 1 \(1970-01-01\) to line 2 \(2026-11-10\); expected at most 800", id="an early stamp makes no log of years"),
        pytest.param(f'{{"time": "2150-01-01"}}\n{{"time": {START}}}\n' * 2, r"days, from line 2 .* to line 3 \(2150-01-01\)", id="a late stamp makes no log of years"),
        pytest.param('{"time": "9999-12-31"}\n', r"line 1: not a time between 1970 and 2200", id="a year that no log is of"),
        pytest.param('{"time": "0001-01-01T00:00:00Z"}\n', r"line 1: not a time between 1970 and 2200", id="a time that was never set"),
        pytest.param('time,prompt_tokens\n1,1.234\n', r"line 2: not a whole number of tokens: '1.234'", id="thousands with a point"),
        pytest.param('{"time": 1, "prompt_tokens": 9.7}\n', r"line 1: not a whole number of tokens: '9.7'", id="parts of a token"),
        pytest.param('time,prompt_tokens,prompt_tokens\n1,2,3\n', r"line 1 has 2 columns of one name: 'prompt_tokens'", id="a column twice"),
        pytest.param('{"time": "2026-01-01T23:59:60Z"}\n', r"line 1: not a time: '2026-01-01T23:59:60Z'.*Correct or leave out", id="a second too many"),
        pytest.param('{"time": "2026-01-01T23:59:00+99:00"}\n', r"line 1: not a time: '2026-01-01T23:59:00.99:00'", id="an offset that is none"),
        pytest.param('{"time": 1, "prompt_tokens": -5}\n', r"line 1: not a count of tokens from 0 to .*: '-5'", id="tokens below 0"),
        pytest.param('time,prompt_tokens\n1,1_0\n', r"line 2: not a number: '1_0'", id="an underscore in a number"),
        pytest.param('{"time": true}\n', r"lines cannot be read", id="a truth value"),
    ],
)  # fmt: skip
def test_what_is_no_access_log_is_a_sentence(tmp_path, text, sentence):
    file = tmp_path / "log"
    file.write_text(text)
    with pytest.raises(BadInput, match=sentence):
        learn_log(file)


def test_too_little_time_and_a_wrong_column_are_named(tmp_path):
    file = tmp_path / "log"
    file.write_text("".join(f'{{"time": {START + k}, "model": "a"}}\n' for k in range(60)))
    with pytest.raises(TooLittleData, match=r"to line 60 \(2026-11-10\): '59 s.*two minutes"):
        learn_log(file)
    with pytest.raises(BadInput, match=r"has no request of b.*It has a"):
        learn_log(file, model="b")
    file.write_text("".join(f'{{"time": {START + k}, "model": 7}}\n' for k in range(300)))
    assert learn_log(file, model="7").model == "7"
    with pytest.raises(BadInput, match=r"has no request of 8.*It has 7"):
        learn_log(file, model="8")
    file.write_text('{"time": 1}\n')
    with pytest.raises(BadInput, match=r"line 1 has no field that says the model.*--columns"):
        learn_log(file, model="b")
    with pytest.raises(BadInput, match=r"--columns: 'when=x'.*time, prompt"):
        log_columns("when=x")
