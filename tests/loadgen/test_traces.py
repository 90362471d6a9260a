"""Trace readers, on rows written here and on the public traces where they are present."""

import gzip
import json
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from analysis.errors import BadInput
from loadgen.plan import trace_files
from loadgen.plan.arrivals import Arrivals
from loadgen.plan.trace_files import detect
from loadgen.plan.traces import Trace
from loadgen.plan.traffic import LoadPlan

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55
"""
AZURE_2024 = (
    AZURE.replace("6805900,", "680590+00:00,")
    .replace("9951690,", "995169+00:00,")
    .replace("2224670,", "222467+00:00,")
)
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,230,1317,API log
45.5,GPT-4,417,0,417,API log
"""
BURST_12 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,,1.5,ChatGPT,472,18,490,Conversation log
45,7,2.0,GPT-4,1087,230,1317,API log
45.5,7,0.1,GPT-4,417,0,417,API log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]}
{"timestamp": 250, "input_length": 1300, "output_length": 6, "hash_ids": [0, 1, 3]}
{"timestamp": 900, "input_length": 1100, "output_length": 7, "hash_ids": [0, 1, 2]}
{"timestamp": 990, "input_length": 600, "output_length": 8, "hash_ids": [4, 5]}
"""
QWEN = """{"chat_id": 1, "parent_chat_id": -1, "timestamp": 61.1, "input_length": 40, "output_length": 5, "type": "text", "turn": 1, "hash_ids": [8, 9, 10]}
{"chat_id": 2, "parent_chat_id": 1, "timestamp": 63.6, "input_length": 70, "output_length": 9, "type": "text", "turn": 2, "hash_ids": [8, 9, 11, 12, 13]}
"""
SERVEGEN = """client_id,window_start_s,rate_rps,cv,dist,param1,param2
0,0,2.0,1.5,Gamma,0.5,1.0
1,0,0.5,1.0,Weibull,0.8,1.0
0,600,1.0,3.0,Weibull,0.5,0.4
"""


def written(tmp_path, text, name="trace.txt"):
    file = tmp_path / name
    file.write_text(text)
    return file


def everything(trace, seed=0, n=65_536) -> Arrivals:
    chunks = list(trace.chunks(n, seed))
    return Arrivals._make(None if c[0] is None else np.concatenate(c) for c in zip(*chunks, strict=True))


@pytest.mark.parametrize(
    ("text", "format", "due_s", "prompt", "output"),
    [
        (AZURE, "azure", [0, 4.314579, 4.541877], [374, 396, 879], [44, 109, 55]),
        (AZURE_2024, "azure", [0, 4.314579, 4.541877], [374, 396, 879], [44, 109, 55]),
        (BURST, "burstgpt", [0, 40, 40.5], [472, 1087, 417], [18, 230, 1]),
        (BURST_12, "burstgpt", [0, 40, 40.5], [472, 1087, 417], [18, 230, 1]),
        (MOONCAKE, "mooncake", [0, 0.25, 0.9, 0.99], [1100, 1300, 1100, 600], [5, 6, 7, 8]),
        (QWEN, "qwen", [0, 2.5], [40, 70], [5, 9]),
    ],
    ids=[
        "Azure 2023",
        "Azure 2024 with a zone",
        "BurstGPT 1.0",
        "BurstGPT 1.2",
        "Mooncake in ms",
        "Qwen-Bailian in s",
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_a_trace_is_recognised_and_read(tmp_path, text, format, due_s, prompt, output, packed):
    file = written(tmp_path, text)
    if packed:
        file.write_bytes(gzip.compress(text.encode()))
    trace = Trace.open(file)
    got = everything(trace)
    assert trace.format == format
    assert got.due_s == pytest.approx(due_s, abs=1e-6)
    assert got.prompt_tokens.tolist() == prompt
    assert got.output_tokens.tolist() == output
    assert got.request_id.tolist() == list(range(len(due_s)))
    assert trace.rate.requests == pytest.approx(len(due_s))
    json.dumps(trace.describe())


@pytest.mark.parametrize(
    ("text", "old", "new", "sentence"),
    [
        (
            AZURE,
            ",396,",
            ",39x6,",
            r"line 3, column 2 \(ContextTokens\): '39x6'; expected a whole number of tokens",
        ),
        (AZURE, ",109", "", r"line 3, column 3 \(GeneratedTokens\) is missing"),
        (AZURE, ",109", ",-109", r"line 3, column 3 \(GeneratedTokens\): '-109'"),
        (AZURE, "2023-11-16 18:15:50", "2023-11-36 18:15:50", r"line 3, column 1 \(TIMESTAMP\): '2023-11-36"),
        (AZURE, "18:15:51", "18:15:41", "line 4: the time lies before that of the line above. Sort"),
        (BURST, "1087,230", "1087,230.5", r"line 3, column 4 \(Response tokens\): '230.5'"),
        (BURST, "45.5", "nope", r"line 4, column 1 \(Timestamp\): 'nope'"),
        (BURST, "45.5", "nan", r"line 4, column 1 \(Timestamp\): 'nan'"),
        (
            MOONCAKE,
            '"input_length": 1300',
            '"input_length": "x"',
            r"line 2, column 20 \(input_length\): 'x'; expected a whole",
        ),
        (MOONCAKE, '"output_length": 6, ', "", "line 2, field output_length is missing"),
        (MOONCAKE, "250, ", "250 ", "line 2, column 19: not JSON"),
        (MOONCAKE, "[0, 1, 3]", "[0, 1, null]", r"line 2, column \d+ \(hash_ids\)"),
        (QWEN, "63.6", "-1", r"line 2, column \d+ \(timestamp\): -1; expected a number of at least 0"),
        (SERVEGEN, "0.5,1.0,Weibull", "x,1.0,Weibull", r"line 3, column 3 \(rate_rps\): 'x'"),
        (
            SERVEGEN,
            "1.0,Weibull",
            "1.0,Normal",
            r"line 3, column 5 \(dist\): 'Normal'; expected Gamma or Weibull",
        ),
        (
            SERVEGEN,
            "1,0,0.5,1.0,Weibull,0.8,1.0",
            "1,0,0.5",
            r"line 3, column 4 \(cv\) is missing: '1,0,0.5'; expected client_id",
        ),
        (
            AZURE,
            AZURE,
            "a,b,c\n1,2,3\n",
            "unknown trace format, its first line is: 'a,b,c'; expected .*burstgpt",
        ),
        (SERVEGEN, "1,0,0.5", "1,1e30,0.5", r"line 3, column 2 \(window_start_s\): '1e30'"),
        (MOONCAKE, '"timestamp": 0', '"timestamp": NaN', r"line 1, column \d+ \(timestamp\): nan"),
        (AZURE, AZURE, "", "the trace is empty"),
        (AZURE, AZURE, AZURE.splitlines()[0] + "\n", "holds no request"),
    ],
)
def test_a_malformed_row_is_named_by_line_and_column(tmp_path, text, old, new, sentence):
    assert old in text
    with pytest.raises(BadInput, match=sentence):
        Trace.open(written(tmp_path, text.replace(old, new, 1)))


def test_a_missing_or_damaged_file_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read the trace.*nothere"):
        Trace.open(tmp_path / "nothere.csv")
    short = tmp_path / "short.csv.gz"
    short.write_bytes(gzip.compress((AZURE * 50).encode())[:-20])
    with pytest.raises(BadInput, match="cannot read the trace"):
        Trace.open(short)


def test_a_malformed_row_far_into_the_file_keeps_its_line_number(tmp_path):
    rows = [f"{i},M,10,20,30,x" for i in range(40_000)]
    rows[33_333] = "33333,M,ten,20,30,x"
    with pytest.raises(BadInput, match=r"line 33335, column 3 \(Request tokens\): 'ten'"):
        Trace.open(written(tmp_path, BURST.splitlines()[0] + "\n" + "\n".join(rows)))


def test_the_format_can_be_named_and_must_be_known(tmp_path):
    with pytest.raises(BadInput, match="line 1: no column Timestamp"):
        Trace.open(written(tmp_path, AZURE), format="burstgpt")
    with pytest.raises(BadInput, match="trace format: 'azur'; expected azure"):
        Trace.open(written(tmp_path, AZURE), format="azur")


def test_prefixes_are_the_leading_blocks_that_were_seen_before(tmp_path):
    got = everything(Trace.open(written(tmp_path, MOONCAKE)))
    # first: nothing; second: blocks 0 and 1; third: all of its 1100 tokens but the last; fourth: nothing
    assert got.prefix_tokens.tolist() == [0, 1024, 1099, 0]
    assert got.blocks[1] == (0, 1, 3)
    assert everything(Trace.open(written(tmp_path, QWEN))).prefix_tokens.tolist() == [0, 32]


# --- reshaping -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A BurstGPT-like file of 20,000 requests whose rate is 4 req/s for 2,000 s and 12 req/s for 1,000 s."""
    rng = np.random.default_rng(5)
    times = np.sort(np.concatenate([rng.uniform(0, 2000, 8000), rng.uniform(2000, 3000, 12_000)]))
    rows = "\n".join(f"{t:.6f},M,{100 + i % 50},20,0,x" for i, t in enumerate(times))
    file = tmp_path_factory.mktemp("uneven") / "trace.csv"
    file.write_text(BURST.splitlines()[0] + "\n" + rows)
    return file


def test_a_window_is_cut_and_time_is_scaled(uneven):
    trace = Trace.open(uneven, from_s=1500, to_s=2500, time_scale=0.5)
    due = everything(trace).due_s
    assert trace.rate.duration_s == 500
    assert len(due) == pytest.approx(2000 + 6000, rel=0.05)
    assert np.count_nonzero(due < 250) == pytest.approx(2000, rel=0.05)
    assert trace.rate.requests == pytest.approx(len(due))
    assert float(trace.rate.rate(400)) == pytest.approx(24, rel=0.2)  # twice as fast


@pytest.mark.parametrize("scale", [0.25, 1.0, 2.5])
def test_the_rate_is_scaled_and_keeps_its_shape(uneven, scale):
    trace = Trace.open(uneven, rate_scale=scale)
    due = everything(trace).due_s
    assert len(due) == pytest.approx(20_000 * scale, rel=0.03)
    assert (np.diff(due) >= 0).all()
    assert due[-1] < trace.rate.duration_s
    assert np.count_nonzero(due < 2000) / len(due) == pytest.approx(0.4, abs=0.015)
    assert stats.kstest(due[due < 1900] / 1900, "uniform").statistic < 0.03


def test_a_shared_prefix_goes_with_a_trace_that_has_none_of_its_own(tmp_path):
    plan = LoadPlan.from_options(trace=written(tmp_path, AZURE), shared_prefix_tokens=380)
    assert next(plan.arrivals()).prefix_tokens.tolist() == [373, 380, 380]
    with pytest.raises(BadInput, match="a trace with prefixes of its own"):
        LoadPlan.from_options(trace=written(tmp_path, MOONCAKE), shared_prefix_tokens=380)
    plan = LoadPlan.from_options(
        trace=written(tmp_path, MOONCAKE), shared_prefix_tokens=9, prompt_tokens="fixed:50"
    )
    assert next(plan.arrivals()).prefix_tokens.tolist() == [9, 9, 9, 9]
    assert next(plan.arrivals()).blocks is None


def test_copies_share_no_prefix_with_their_original(tmp_path):
    got = everything(Trace.open(written(tmp_path, MOONCAKE), rate_scale=2, jitter_s=0.1, repeat=2))
    assert len(got.due_s) == 16
    assert len({ids[0] for ids in got.blocks if len(ids) == 3}) == 4  # block 0 by copy and pass


def test_a_repeated_trace_continues_where_it_ended(uneven):
    once, twice = Trace.open(uneven), Trace.open(uneven, repeat=2)
    due = everything(twice).due_s
    assert twice.rate.duration_s == 2 * once.rate.duration_s
    assert due[20_000:] == pytest.approx(due[:20_000] + once.rate.duration_s)
    assert everything(twice).request_id.tolist() == list(range(40_000))


def test_a_cut_trace_ends_at_its_duration(uneven):
    plan = LoadPlan.from_options(trace=uneven, duration_s=100)
    got = everything(plan.trace)
    assert plan.duration_s == 100
    assert len(got.due_s) == pytest.approx(plan.expected_requests, rel=0.05)
    assert got.due_s[-1] < 100
    assert len(plan.stages) == 1


@pytest.mark.parametrize("n", [1, 999, 10**6])
def test_the_same_seed_gives_the_same_bytes_whatever_the_chunk_size(uneven, n):
    trace = Trace.open(uneven, rate_scale=1.5, to_s=300)
    for left, right in zip(everything(trace, 3, n)[:5], everything(trace, 3)[:5], strict=True):
        assert left.tobytes() == right.tobytes()
    assert everything(trace, 4).due_s.tobytes() != everything(trace, 3).due_s.tobytes()


def test_slices_of_a_trace_are_disjoint_and_together_the_whole(uneven):
    plan = LoadPlan.from_options(trace=uneven, duration_s=300, output_tokens="uniform:1,500")
    whole = {
        int(i): int(o) for c in plan.arrivals() for i, o in zip(c.request_id, c.output_tokens, strict=True)
    }
    parts = [
        (int(i), int(o))
        for k in range(3)
        for c in plan.slice(k, 3).arrivals()
        for i, o in zip(c.request_id, c.output_tokens, strict=True)
    ]
    assert len(parts) == len(whole)
    assert dict(parts) == whole


def test_coarse_stamps_are_spread_inside_their_bucket(tmp_path):
    rows = "\n".join(f"{i // 12 * 3},M,10,20,0,x" for i in range(6000))  # 12 requests every 3 s
    file = written(tmp_path, BURST.splitlines()[0] + "\n" + rows)
    trace = Trace.open(file)
    due = everything(trace).due_s
    assert trace.bucket_s == 3
    assert (np.floor(due / 3).astype(int) == np.arange(6000) // 12).all()
    assert stats.kstest(due % 3 / 3, "uniform").pvalue > 0.01
    assert everything(Trace.open(file, bucket_s=0)).due_s.tolist() == [i // 12 * 3 for i in range(6000)]


def test_a_trace_six_times_as_long_is_replayed_in_the_same_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_files, "LINES", 1000)

    def peak_bytes(rows: int) -> int:
        lines = "".join(f"{i / 7},M,10,20,0,x\n" for i in range(rows))
        file = written(tmp_path, BURST.splitlines()[0] + "\n" + lines)
        tracemalloc.start()
        trace = Trace.open(file, rate_scale=1.5)
        assert sum(len(chunk.due_s) for chunk in trace.chunks(500, 0)) > rows
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(24_000) < 1.3 * peak_bytes(4_000)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"time_scale": 0}, "time_scale of a trace: 0"),
        ({"rate_scale": -1}, "rate_scale of a trace: -1"),
        ({"from_s": 5, "to_s": 5}, "window of a trace"),
        ({"from_s": 90_000}, "holds no request in its window"),
    ],
)
def test_bad_options_are_answered(uneven, options, sentence):
    with pytest.raises(BadInput, match=sentence):
        Trace.open(uneven, **options)


# --- ServeGen --------------------------------------------------------------------------------------------------------


def test_servegen_windows_are_drawn_at_their_rates(tmp_path):
    trace = Trace.open(written(tmp_path, SERVEGEN))
    assert detect(trace.path) == "servegen"
    assert trace.rate.requests == pytest.approx((2.5 + 1.0) * 600)
    halves = np.mean(
        [[np.count_nonzero(d < 600), len(d)] for d in (everything(trace, s).due_s for s in range(40))], 0
    )
    assert halves[0] == pytest.approx(1500, rel=0.03)
    assert halves[1] - halves[0] == pytest.approx(600, rel=0.06)


def test_servegen_without_lengths_asks_for_them(tmp_path):
    file = written(tmp_path, SERVEGEN)
    with pytest.raises(BadInput, match=r"holds no lengths\. Name prompt and output lengths"):
        LoadPlan.from_options(trace=file)
    assert (
        LoadPlan.from_options(trace=file, prompt_tokens="fixed:9", output_tokens="fixed:9").duration_s == 1200
    )


def test_servegen_lengths_come_from_the_histogram_beside_it(tmp_path):
    file = written(tmp_path, SERVEGEN, "x_client_windows.csv")
    written(
        tmp_path, "kind,tokens,weight_requests\ninput,10,1\ninput,30,3\noutput,7,2\n", "x_length_hist.csv"
    )
    got = everything(Trace.open(file))
    assert set(got.output_tokens.tolist()) == {7}
    assert got.prompt_tokens.mean() == pytest.approx(25, rel=0.05)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("inptu,10,1", r"line 2, column 1 \(kind\): 'inptu'; expected input or output"),
        ("input,10", r"line 2, column 3 \(weight_requests\) is missing"),
        ("input,ten,1", r"line 2, column 2 \(tokens\): 'ten'"),
        ("input,10,-1", r"line 2, column 3 \(weight_requests\): '-1'"),
        ("output,10,1", "no input lengths with a weight above 0"),
    ],
)
def test_a_malformed_length_of_servegen_is_named_by_line_and_column(tmp_path, row, sentence):
    file = written(tmp_path, SERVEGEN, "x_client_windows.csv")
    written(tmp_path, f"kind,tokens,weight_requests\n{row}\noutput,7,2\n", "x_length_hist.csv")
    with pytest.raises(BadInput, match=sentence):
        everything(Trace.open(file))


# --- the public traces -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("azure2023_conv.csv.gz", "azure2023_conv"),
        ("azure2023_code.csv.gz", "azure2023_code"),
        ("mooncake_fast25_conversation_trace.jsonl.gz", "mooncake_conversation"),
        ("mooncake_fast25_synthetic_trace.jsonl.gz", "mooncake_synthetic"),
    ],
)
def test_a_public_trace_has_its_published_statistics(shared_dir, name, key):
    said = json.loads((shared_dir / "traces" / "STATS.json").read_text())[key]
    got = everything(Trace.open(shared_dir / "traces" / name, bucket_s=0))
    gaps = np.diff(got.due_s)
    assert len(got.due_s) == said["n"]
    assert got.due_s[-1] == pytest.approx(said["span_s"], abs=0.06)
    assert gaps.std() / gaps.mean() == pytest.approx(said["iat_cv"], abs=0.002)
    for tokens, side in ((got.prompt_tokens, "in"), (got.output_tokens, "out")):
        assert tokens.mean() == pytest.approx(said[side]["mean"], abs=0.06)
        assert np.percentile(tokens, 99) == pytest.approx(said[side]["p99"], abs=0.06)
    if "prefix_hit_token_frac_infinite_cache" in said:
        share = got.prefix_tokens.sum() / got.prompt_tokens.sum()
        assert share == pytest.approx(said["prefix_hit_token_frac_infinite_cache"], abs=0.0002)


def test_mooncakes_three_second_stamps_lose_their_false_bursts(shared_dir):
    trace = Trace.open(shared_dir / "traces" / "mooncake_fast25_conversation_trace.jsonl.gz")
    gaps = np.diff(everything(trace).due_s)
    assert trace.bucket_s == pytest.approx(3, abs=0.01)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)  # 3.03 as stamped


def test_servegens_windows_have_their_published_mean(shared_dir):
    said = json.loads((shared_dir / "traces" / "SERVEGEN_STATS.json").read_text())["m-large"]
    trace = Trace.open(shared_dir / "traces" / "servegen_m-large_client_windows.csv.gz")
    assert trace.rate.requests == pytest.approx(said["total_requests"], rel=1e-4)
    first = trace.until(3600)
    got = everything(first)
    assert len(got.due_s) == pytest.approx(first.rate.requests, rel=0.05)
    assert got.prompt_tokens.mean() == pytest.approx(said["input"]["mean"], rel=0.02)
    assert got.output_tokens.mean() == pytest.approx(said["output"]["mean"], rel=0.02)
