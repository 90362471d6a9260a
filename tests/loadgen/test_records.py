"""Batches, parts and accounts of a run directory, without any network."""

import math
import time

import numpy as np
import pytest

from analysis import run
from analysis.errors import BadRun
from analysis.histogram import Histogram
from loadgen.plan.traffic import LoadPlan
from loadgen.run.measured import Batch, measured
from loadgen.run.options import LoadOptions, parse_reconnect
from loadgen.run.records import RunWriter
from loadgen.wire import clock
from loadgen.wire.clock import Clock
from loadgen.wire.exchange import Exchange

EVENT = b'data: {"choices":[{"index":0,"text":"a","finish_reason":null}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def exchange(number: int, due_s: float, stage: int = 0) -> Exchange:
    """Sent 1 ms after due, tokens 50, 60 and 80 ms after that."""
    made = Exchange(number, b"", due_s, lambda _: None, stage, (7, 3), sent_s=due_s + 0.001)
    made.reads = [HEAD, EVENT, EVENT, EVENT, USAGE + b"data: [DONE]\n\n"]
    made.stamps_s = [due_s + 0.001 + t for t in (0.002, 0.05, 0.06, 0.08, 0.0805)]
    return made


def test_latencies_are_from_the_due_time_and_tokens_from_usage():
    done = measured(exchange(1, 100.0))
    assert done.ttft_s == pytest.approx(0.051)
    assert done.e2e_s == pytest.approx(0.081)
    assert done.tpot_s == pytest.approx(0.015)  # 30 ms for the 2 tokens after the first
    assert done.gaps_s == pytest.approx([0.01, 0.02])


def test_a_failed_request_has_no_latency_beyond_what_happened():
    failed = exchange(1, 100.0)
    failed.failure = ("timeout", "late")
    done = measured(failed)
    assert done.ttft_s == pytest.approx(0.051)
    assert math.isnan(done.e2e_s)
    assert math.isnan(done.tpot_s)


def batch(numbers, worker, zero_s=100.0):
    made = Batch()
    for n in numbers:
        made.add(measured(exchange(n, zero_s + n / 10)), worker, Clock(zero_s))
    return made.packed()


def test_a_run_of_three_workers_one_of_them_lost_is_one_directory_with_every_planned_request(tmp_path):
    plan = LoadPlan.from_options(rate=10, arrivals="constant", duration_s=3.0)
    writer = RunWriter(tmp_path / "run", {"kind": "live"})
    writer.add("w0", batch(range(0, 30, 3), "w0"))
    writer.add("w1", batch(range(1, 15, 3), "w1"))
    writer.add("w2", batch(range(2, 30, 3), "w2"))
    assert len(run.read(tmp_path / "run").requests) == 25  # readable while it is written
    lost = writer.account_for(plan, 3.0, {0: "w0", 1: "w1", 2: "w2"}, lambda i: f"worker w{i} was lost")
    requests = writer.finish(ended_at=time.time()).requests
    assert lost == 5
    assert sorted(requests["request_id"]) == list(range(30))
    dropped = requests[requests["status"] == "dropped"]
    assert set(dropped["worker"]) == {"w1"}
    assert set(dropped["error"]) == {"worker w1 was lost"}
    assert dropped["sent_s"].isna().all()
    assert not list((tmp_path / "run").glob("*.part.parquet"))


def test_a_plan_cut_short_accounts_for_nothing_that_was_due_later(tmp_path):
    plan = LoadPlan.from_options(rate=10, arrivals="constant", duration_s=3.0)
    writer = RunWriter(tmp_path / "run", {"kind": "live"})
    assert writer.account_for(plan, 0.95, {0: "local"}, lambda _: "cut") == 10


def test_what_was_due_before_a_request_that_another_worker_still_sent_is_accounted_for(tmp_path):
    """An interrupt reaches w0 two requests later than the others."""
    plan = LoadPlan.from_options(rate=10, arrivals="constant", duration_s=3.0)
    writer = RunWriter(tmp_path / "run", {"kind": "live"})
    writer.add("w0", batch(range(0, 14, 3), "w0"))
    writer.add("w1", batch(range(1, 10, 3), "w1"))
    assert writer.account_for(plan, 0.95, {0: "w0", 1: "w1", 2: "w2"}, lambda _: "lost") == 5
    requests = writer.finish(ended_at=time.time()).requests
    assert sorted(requests["request_id"]) == list(range(13))


def test_a_run_directory_whose_name_is_no_utf8_holds_its_rows(tmp_path):
    writer = RunWriter(tmp_path / "r\udcff", {"kind": "live"})
    writer.add("w0", batch(range(5), "w0"))
    assert len(writer.finish(ended_at=time.time()).requests) == 5


SPOILT = {
    "no JSON": lambda file: file.write_text("{"),
    "empty": lambda file: file.write_text(""),
    "another file's content": lambda file: file.write_text('{"schema_version": 1}'),
    "gone": lambda file: file.unlink(),
}

HUGE = 99999999999999999999999
UNFIT = [
    ("a count beyond 64 bits", "output_tokens", HUGE),
    ("a truth value as count", "prompt_tokens", True),
    ("half a surrogate pair", "error", "\ud800"),
    ("a text as status of HTTP", "http_status", "x"),
]


@pytest.mark.parametrize(("column", "value"), [row[1:] for row in UNFIT], ids=[row[0] for row in UNFIT])
def test_a_row_that_does_not_fit_into_the_table_takes_no_other_with_it(tmp_path, column, value):
    packed = batch(range(5), "w0")
    packed.rows[2] = packed.rows[2]._replace(**{column: value})
    writer = RunWriter(tmp_path / "run", {"kind": "live"})
    writer.add("w0", packed)
    requests = writer.finish(ended_at=time.time()).requests.set_index("request_id")
    assert requests["status"].tolist() == ["ok", "ok", "incomplete", "ok", "ok"]
    assert requests["error"][2].startswith("its record does not fit into the table: ")
    assert requests["due_s"][2] == pytest.approx(0.2)
    assert writer.trouble is None


def test_rows_that_cannot_be_written_are_kept_and_tried_again(tmp_path):
    writer = RunWriter(tmp_path / "run", {"kind": "live"})
    writer.add("w0", batch(range(3), "w0"))
    (tmp_path / "run").rename(tmp_path / "away")
    writer.add("w0", batch(range(3, 5), "w0"))
    assert writer.trouble == f"cannot write the run directory {tmp_path / 'run'}: no such file or directory"
    assert writer.unwritten == 2
    (tmp_path / "away").rename(tmp_path / "run")
    writer.add("w0", batch(range(5, 6), "w0"))
    finished = writer.finish(ended_at=time.time())
    assert sorted(finished.requests["request_id"]) == list(range(6))
    assert finished.header["unwritten"] == 0
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "itl.parquet",
        "requests.parquet",
        "run.json",
    ]


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_header_that_is_spoilt_while_the_run_goes_on_is_written_again_and_said_to_be(tmp_path, spoil):
    writer = RunWriter(tmp_path / "run", {"kind": "live", "started_at": 100.0, "notes": ["it was so"]})
    writer.add("w0", batch(range(3), "w0"))
    spoil(tmp_path / "run" / "run.json")
    finished = writer.finish(ended_at=110.0)
    assert (finished.started_at, finished.header["ended_at"], finished.header["kind"]) == (
        100.0,
        110.0,
        "live",
    )
    assert len(finished.requests) == 3
    assert not list((tmp_path / "run").glob("*.part.parquet"))
    first, second = finished.header["notes"]
    assert first == "it was so"
    assert second.startswith("run.json was spoilt while the run went on, and written again (")
    assert writer.trouble is None


def test_a_directory_with_parts_of_an_older_run_is_refused(tmp_path):
    run.write_table(tmp_path, "requests", {"request_id": [1]}, part="local.000001")
    with pytest.raises(BadRun, match="already holds requests"):
        RunWriter(tmp_path, {"kind": "live"})


def test_gaps_of_workers_merge_exactly(tmp_path):
    writer = RunWriter(tmp_path / "run", {"kind": "live"})
    writer.add("w0", batch(range(5), "w0"))
    writer.add("w1", batch(range(5, 9), "w1"))
    itl = writer.finish(ended_at=time.time()).itl
    histogram = Histogram.from_edges(itl["gap_low_s"].to_numpy(), itl["count"].to_numpy(dtype=np.int64))
    assert len(histogram) == 18
    assert histogram.quantile(0.5) == pytest.approx(0.01, rel=1e-3)
    assert histogram.quantile(0.51) == pytest.approx(0.02, rel=1e-3)


def test_the_clock_of_another_machine_is_found_from_the_shortest_way():
    # the other clock is 5 s ahead; the way there takes 1 ms, back 1 ms, and once a detour of 400 ms on the way back
    exchanges = [(10.0, 15.001, 10.002), (20.0, 25.001, 20.402)]
    assert clock.offset(exchanges) == pytest.approx((5.0, 0.001))


def test_a_run_that_starts_on_another_clock_starts_at_the_same_instant():
    offset_s = 5.0
    master_unix_s = clock.unix_now_s() + offset_s
    assert Clock.starting_at(master_unix_s, offset_s).elapsed(clock.now_s()) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(
    ("text", "age_s", "requests"),
    [("30s", 30.0, math.inf), ("100", math.inf, 100.0), ("never", math.inf, math.inf)],
)
def test_reconnect_is_an_age_a_count_or_never(text, age_s, requests):
    assert parse_reconnect(text) == (age_s, requests)


def options(**given):
    base = dict.fromkeys(
        [
            "rate",
            "stages",
            "load",
            "trace",
            "trace_time_unit",
            "prompt_tokens",
            "output_tokens",
            "prompts",
            "slo",
            "stop_when",
            "find_capacity",
            "run_dir",
            "prometheus",
        ]
    )
    base |= {
        "arrivals": "poisson",
        "shared_prefix_tokens": 0,
        "seed": 0,
        "run_time": None,
        "max_in_flight": 10,
    }
    base |= {"timeout": 1.0, "idle_timeout": 1.0, "grace": 1.0, "reconnect_every": "30s"}
    return LoadOptions(**(base | given))


BAD = [
    ({"stages": "1:0"}, "stage 1 of --stages 1:0"),
    ({"rate": -1.0}, "--rate"),
    ({"rate": 1.0, "stages": "1:1"}, "--rate and --stages"),
    ({"arrivals": "poison", "rate": 1.0}, "did you mean poisson|Did you mean poisson"),
    ({"reconnect_every": "soon"}, "--reconnect-every"),
    ({"max_in_flight": 0}, "--max-in-flight"),
    ({"slo": "ttft=fast"}, "ttft"),
    ({"prompts": "/nowhere.jsonl"}, "--prompts"),
    ({"prompts": __file__}, "test_records.py line 1 is not JSON"),
    ({"prometheus": "host:9090"}, "--prometheus is not a URL: 'host:9090'"),
]


@pytest.mark.parametrize(("given", "said"), BAD, ids=[str(row[0]) for row in BAD])
def test_bad_options_say_what_is_wrong(given, said):
    from analysis.errors import BadInput

    with pytest.raises(BadInput, match=said):
        options(**given).check()
