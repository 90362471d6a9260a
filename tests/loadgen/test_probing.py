"""The search for the highest rate that holds an SLO: which rate next, how a probe stands, and what a whole search finds."""

import heapq
import math
import re
from pathlib import Path

import numpy as np
import pytest

from analysis.errors import BadInput
from analysis.histogram import Histogram
from analysis.run import read, read_header
from analysis.slo import parse_slo
from loadgen.plan.traffic import LoadPlan
from loadgen.run import capacity_search as probing
from loadgen.run.capacity_answer import capacity_sentence
from loadgen.run.capacity_search import (
    ProbeRequest,
    Waiting,
    next_rate,
    parse_budget,
    standing,
)
from loadgen.run.options import LoadOptions
from loadgen.run.probes import Probe, Probes
from loadgen.run.summary import summary_table
from loadgen.run.summary_stages import Stage, stage_lines, stages_of

SLO = parse_slo("ttft_p95=1s")

NEXT = [
    ("the first rate is the given one", [], 4),
    ("double while nothing breaks", [(4, "holds"), (8, "holds")], 16),
    ("an unclear probe does not stop the doubling", [(4, "unclear")], 8),
    ("halve when the first one breaks", [(4, "breaks")], 2),
    ("a rate that was not decided twice is left for a lower one", [(3, "unclear"), (3, "unclear"), (6, "breaks")], 1.5),
    ("then bisect", [(4, "holds"), (8, "breaks")], 6),
    ("between the highest that held and the lowest that broke", [(4, "holds"), (8, "breaks"), (6, "holds")], 7),
    ("until 5 % apart, 8 / 7.7; then once more", [(8, "breaks"), (7.7, "holds")], 7.7),
    ("which ends the search", [(8, "breaks"), (7.7, "holds"), (7.7, "holds")], None),
    ("unless it breaks", [(4, "holds"), (8, "breaks"), (7.7, "holds"), (7.7, "breaks")], 5.85),
    ("an unclear middle ends the search", [(4, "holds"), (8, "breaks"), (6, "unclear")], None),
    ("below a 64th of the first rate it gives up", [(4 / 64, "breaks")], None),
]  # fmt: skip


@pytest.mark.parametrize(("tried", "rate"), [n[1:] for n in NEXT], ids=[n[0] for n in NEXT])
def test_the_next_rate(tried, rate):
    assert next_rate(tried, 4) == (None if rate is None else pytest.approx(rate))


RECORDED = Path(__file__).parents[1] / "fixtures" / "vllm" / "run_findcap"
SAID = [
    (
        "nothing below what broke was decided: the client's limit is told from too few requests",
        {},
        "capacity not found (ttft_p95=500ms): 12/s broke it; 3/s was not decided: the client was the limit (requests were "
        "sent late: p95 76 ms after due (bound 12 ms)); 6/s was not decided: 12 requests judged, 20 are needed; the time of "
        "60 s was over. Next: give the client a core of its own or another machine, and search with a longer --find-capacity",
    ),
    (
        "every probe broke",
        {"unclear": "breaks", "bracket": [None, 3.0]},
        "capacity not found (ttft_p95=500ms): every rate down to 3/s broke it; the time of 60 s was over",
    ),
    (
        "held between: what lies below is settled",
        {"holds": 6.0, "bracket": [6.0, 12.0]},
        "highest rate that holds ttft_p95=500ms: 6 requests/s (12/s broke it); the time of 60 s was over",
    ),
    (
        "held below: what lies between was not decided",
        {"holds": 3.0, "bracket": [3.0, 12.0]},
        "highest rate that holds ttft_p95=500ms: 3 requests/s (12/s broke it); 6/s was not decided: 12 requests judged, 20 "
        "are needed; the time of 60 s was over. Next: search with a longer --find-capacity",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "said"), [s[1:] for s in SAID], ids=[s[0] for s in SAID])
def test_a_recorded_search_says_what_is_known(changed, said):
    header = read_header(RECORDED)
    found = header["find_capacity"]
    for probe in found["probes"]:
        if probe["verdict"] == "unclear":
            probe["verdict"] = changed.get("unclear", "unclear")
        if probe["rate"] == changed.get("holds"):
            probe["verdict"] = "holds"
    found["bracket_rps"] = changed.get("bracket", found["bracket_rps"])
    assert capacity_sentence(found, header["client"]["stages"]) == said


def test_finished_is_what_was_answered_within_the_stage():
    recorded = read(RECORDED)
    table = summary_table(recorded).splitlines()
    assert table[2].split()[:4] == ["stage", "offered/s", "sent/s", "finished/s"]
    requests = recorded.requests
    for number, (line, stage) in enumerate(zip(table[3:7], recorded.header["stages"], strict=True)):
        mine = requests[requests["stage"] == number]
        length_s = stage["end_s"] - stage["start_s"]
        ended = requests[
            (requests["status"] == "ok")
            & requests["last_token_s"].between(stage["start_s"], stage["end_s"], "left")
        ]
        _, _, sent, finished = line.split()[:4]
        assert float(finished) == pytest.approx(len(ended) / length_s, abs=0.006)
        assert float(sent) == pytest.approx(mine["sent_s"].notna().sum() / length_s, abs=0.006)


NAN = math.nan
JUDGED = [
    # TTFT, TPOT and E2E of the answers, the lines
    ("each term was judged", [0.1], [0.005], [1.0], ["ttft_p95=1s,tpot_p95=10ms,e2e_p95=9s: holds in every stage that was judged"]),
    ("one token an answer", [0.1], [NAN], [1.0], [
        "ttft_p95=1s,tpot_p95=10ms,e2e_p95=9s: of it ttft_p95 and e2e_p95 hold in every stage that was judged",
        "tpot_p95 was not measured: no streamed answer had two tokens by the server's count"]),
    ("one token an answer, and late", [2.0], [NAN], [3.0], [
        "ttft_p95=1s,tpot_p95=10ms,e2e_p95=9s: ! breaks it",
        "tpot_p95 was not measured: no streamed answer had two tokens by the server's count"]),
    ("not streamed", [NAN], [NAN], [1.0], [
        "ttft_p95=1s,tpot_p95=10ms,e2e_p95=9s: of it e2e_p95 holds in every stage that was judged",
        "ttft_p95 was not measured: no answer was streamed",
        "tpot_p95 was not measured: no streamed answer had two tokens by the server's count"]),
    ("nothing sent", [], [], [], ["ttft_p95=1s,tpot_p95=10ms,e2e_p95=9s: no stage could be judged"]
     + [f"{name}_p95 was not measured: no request was answered" for name in ("ttft", "tpot", "e2e")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("ttft", "tpot", "e2e", "lines"), [j[1:] for j in JUDGED], ids=[j[0] for j in JUDGED]
)
def test_a_term_that_nobody_could_judge_is_not_said_to_hold(ttft, tpot, e2e, lines):
    number = len(ttft)
    times_s = dict(zip(("TTFT", "TPOT", "E2E"), map(np.array, (ttft, tpot, e2e)), strict=True))
    one = Stage(
        number=0, asked="1.00", duration_s=1.0, sent=number, ok=number, failed=0, dropped=0, finished=number, tokens=1.0,
        events=1.0, good=np.ones(number, bool), times_s=times_s, gaps=Histogram(), client="ok",
    )  # fmt: skip
    said = [
        line for line in stage_lines([one], "ttft_p95=1s,tpot_p95=10ms,e2e_p95=9s") if line.startswith("SLO")
    ]
    assert said == [f"SLO {line}" for line in lines]


def test_a_stage_has_one_p95_and_one_screen_suffices():
    recorded = read(RECORDED)
    short, whole = (summary_table(recorded, details=more).splitlines() for more in (False, True))
    assert len(short) <= 24
    assert max(len(line) for line in short if "/" not in line[:40]) <= 80
    slo = parse_slo(recorded.header["slo"])
    for number, stage in enumerate(stages_of(recorded)):
        for name, verdict in stage.verdicts(slo).items():
            metric, percentile = name.upper().split("_P")
            [row] = [line.split() for line in whole if re.match(rf" *{number} +{metric} +[0-9]", line)]
            at = {"50": 2, "95": 3, "99": 4}[percentile]
            assert float(row[at]) == pytest.approx(verdict.value, abs=1e-4)
            shown = f"{verdict.value * 1e3:.3g} ms" if verdict.value < 1 else f"{verdict.value:.3g} s"
            assert any(line.split()[:1] == [str(number)] and shown in line for line in short)


def seen(n, late=0, failed=0, rate=10.0, late_s=2.0, usual_s=0.4, lost=False):
    """`n` requests from 0 s on, of which the last `late` took too long and `failed` more failed, or lost their connection."""
    rows = [ProbeRequest(i / rate, True, usual_s, 0.01, 1.0) for i in range(n - late - failed)]
    rows += [ProbeRequest((n - i) / rate, True, late_s, 0.01, 3.0) for i in range(late)]
    return rows + [ProbeRequest((n - i) / rate, False, math.nan, math.nan, math.nan, lost) for i in range(failed)]  # fmt: skip


FLAT = [(t / 4, 10) for t in range(400)]
GROWING = [(t / 4, 10 + 2 * t // 4) for t in range(400)]

# 10 requests/s from 0 s on; warm-up 2 s, so that of 120 requests until 12 s, 100 are judged.
STANDS = [
    ("far below the bound: 100 without a breach", seen(120), [], FLAT, 12, False, "holds"),
    ("0.9 s of 1 s, no breach of 100: 0.95^100 < 5 %", seen(120, usual_s=0.9), [], FLAT, 12, False, "holds"),
    ("0.9 s of 1 s, no breach of 40: 0.95^40 = 13 %", seen(60, usual_s=0.9), [], FLAT, 6, False, "unclear"),
    ("0.9 s of 1 s, no breach of 40, time over: a p95 needs 59", seen(60, usual_s=0.9), [], FLAT, 6, True, "unclear"),
    ("0.9 s of 1 s, one breach of 100, time over", seen(120, late=1, usual_s=0.9), [], FLAT, 12, True, "holds"),
    ("no breach of 60 in 8 s, which are not ten times 1 s", seen(80, usual_s=0.9), [], FLAT, 8, False, "unclear"),
    ("the same, time over", seen(80, usual_s=0.9), [], FLAT, 8, True, "unclear"),
    ("20 of 100 too late", seen(120, late=20), [], FLAT, 12, False, "breaks"),
    ("20 of 100 failed", seen(120, failed=20), [], FLAT, 12, False, "breaks"),
    ("20 of 100 lost their connection: the server died", seen(120, failed=20, lost=True), [], FLAT, 12, True, "unclear"),
    ("one lost connection is a breach", seen(120, failed=1, lost=True, usual_s=0.9), [], FLAT, 12, True, "holds"),
    ("7 of 100: could be chance", seen(120, late=7), [], FLAT, 12, False, "unclear"),
    ("7 of 100, time over", seen(120, late=7), [], FLAT, 12, True, "breaks"),
    ("20 still without an answer after 2 s", seen(100), [Waiting(8.0, False)] * 20, FLAT, 12, False, "breaks"),
    ("20 that have begun to answer are no breach", seen(120), [Waiting(8.0, True)] * 20, FLAT, 12, False, "holds"),
    ("in flight grows by 2 of 10 per second", seen(500), [], GROWING, 50, False, "breaks"),
    ("15 requests say nothing, even when time is over", seen(35, late=15), [], FLAT, 3.5, True, "unclear"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "waiting", "levels", "now_s", "over", "verdict"), [s[1:] for s in STANDS], ids=[s[0] for s in STANDS]
)  # fmt: skip
def test_how_a_probe_stands(rows, waiting, levels, now_s, over, verdict):
    levels = [level for level in levels if level[0] <= now_s]
    stands = standing(SLO, 10.0, 0.0, now_s, rows, waiting, levels, Histogram(), over=over)
    assert stands.verdict == verdict, stands.reason


def test_a_probe_that_was_too_short_says_how_long_it_should_be():
    few = standing(SLO, 10.0, 0.0, 6.0, seen(60, usual_s=0.9), [], FLAT[:24], Histogram(), over=True)
    assert few.reason == "40 requests judged, 59 are needed: 10 s at this rate"
    short = standing(SLO, 10.0, 0.0, 8.0, seen(80, usual_s=0.9), [], FLAT[:32], Histogram(), over=True)
    assert short.reason == "8 s are less than 10 times what a request takes (1.0 s)"


def test_gaps_are_judged_from_their_histogram():
    slow, fast = Histogram(), Histogram()
    slow.add(np.full(1000, 0.5))
    fast.add(np.full(1000, 0.01))
    slo = parse_slo("itl_p99=100ms")
    assert standing(slo, 10.0, 0.0, 12.0, seen(120), [], FLAT, slow).verdict == "breaks"
    assert standing(slo, 10.0, 0.0, 12.0, seen(120), [], FLAT, fast).verdict == "holds"


def queue(rate, seed, seats=8, service_s=0.2, first_s=0.1, duration_s=60.0):
    """(due, first token, end) of Poisson arrivals at a first-in-first-out queue with so many seats."""
    rng = np.random.default_rng(seed)
    due = np.cumsum(rng.exponential(1 / rate, int(rate * duration_s * 1.2)))
    free = [0.0] * seats
    begun = np.empty_like(due)
    for i, at_s in enumerate(due):
        begun[i] = max(at_s, heapq.heappop(free))
        heapq.heappush(free, begun[i] + service_s)
    return due, begun + first_s, begun + service_s


def probe(rate, seed, limit_s, least_s):
    """The verdict of one probe of the queue, asked each second of virtual time."""
    due, first, end = queue(rate, seed)
    for now_s in np.arange(1.0, limit_s + 1):
        ended = end <= now_s
        rows = [ProbeRequest(d, True, f - d, 0.01, e - d) for d, f, e in zip(due[ended], first[ended], end[ended], strict=True)]  # fmt: skip
        open_ = (due <= now_s) & ~ended
        waiting = [Waiting(d, f <= now_s) for d, f in zip(due[open_], first[open_], strict=True)]
        ticks = np.arange(0.25, now_s + 0.01, 0.25)
        levels = [(t, int(np.sum((due <= t) & (end > t)))) for t in ticks]
        over = now_s >= limit_s
        stands = standing(SLO_OF_QUEUE, rate, 0.0, now_s, rows, waiting, levels, Histogram(), least_s, over)  # fmt: skip
        if over or stands.verdict != "unclear":
            return stands.verdict, now_s
    raise AssertionError


SEEDS = 4
SLO_OF_QUEUE = parse_slo("ttft_p95=300ms")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_search_finds_where_a_queue_breaks(seed):
    # 8 seats of 0.2 s saturate at 40/s; their p95 wait passes 200 ms at about 33/s (1,000 s of each rate).
    truth = [rate for rate in range(30, 37) if long_p95(rate) <= 0.3][-1]
    tried, spent_s = [], 0.0
    while (rate := next_rate(tried, 4.0)) is not None:
        verdict, took_s = probe(rate, seed * 100 + len(tried), 60.0, probing.least_s(tried, 60.0))
        tried.append((rate, verdict))
        spent_s += took_s
    held, broke = probing.bracket(tried)
    assert held == pytest.approx(truth, rel=0.1)
    assert broke / held <= 1.05
    assert spent_s < 600


def long_p95(rate, memory={}):  # noqa: B006 -- computed once per rate
    if rate not in memory:
        due, first, _ = queue(rate, 5, duration_s=1000.0)
        memory[rate] = float(np.quantile(first - due, 0.95))
    return memory[rate]


def test_probes_together_are_the_plan_that_was_offered():
    base = LoadPlan.from_options(rate=1.0, duration_s=600.0)
    one = Probe(0, 20.0, 0.5, 10.5, 0, base)
    two = Probe(1, 40.0, 12.0, 15.0, 300, base)
    [first] = one.arrivals()
    [second] = two.arrivals()
    assert 0.5 <= first.due_s[0] <= first.due_s[-1] < 10.5
    assert first.request_id.tolist() == list(range(len(first.due_s)))
    assert second.request_id[0] == 300
    both = Probes((one, two))
    due = np.concatenate([chunk.due_s for chunk in both.arrivals()])
    assert (np.diff(due) >= 0).all()
    assert (both.stage_of(due) == (due >= 12.0)).all()
    # cut earlier, a probe is the beginning of the longer one
    [cut] = Probe(0, 20.0, 0.5, 5.0, 0, base).arrivals()
    assert (cut.due_s == first.due_s[: len(cut.due_s)]).all()
    assert len(cut.due_s) == np.sum(first.due_s < 5.0)


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("90s", 90), ("600", 600), ("1h", 3600)])
def test_budgets(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["10x", "", "5s", "nan", "-10m", "inf"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(BadInput, match="--find-capacity"):
        parse_budget(text)


WRONG = [
    ({"slo": None}, "without --slo"),
    ({"stages": "1:10"}, "--find-capacity and --stages"),
    ({"interleave": "20s"}, "--find-capacity and --interleave"),
    ({"load": "x.yaml"}, "--find-capacity and --load"),
    ({"run_time": 60}, "--find-capacity and --run-time"),
    ({"stop_when": "slo"}, "--find-capacity and --stop-when"),
    ({"find_capacity": "soon"}, "'soon'; expected a time"),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=[w[1] for w in WRONG])
def test_options_that_do_not_go_with_a_search(given, said):
    values = {
        **dict.fromkeys(("rate", "stages", "load", "trace", "trace_time_unit", "prompt_tokens", "output_tokens", "run_time", "run_dir")),
        **dict.fromkeys(("prompts", "stop_when", "model", "prometheus")),
        "arrivals": "poisson", "shared_prefix_tokens": 0, "seed": 0, "slo": "ttft_p95=2s", "find_capacity": "10m",
        "max_in_flight": 10, "timeout": 10.0, "idle_timeout": 10.0, "grace": 10.0, "reconnect_every": "30s", "stream": True,
    }  # fmt: skip
    LoadOptions(**values).check()
    with pytest.raises(BadInput, match=said):
        LoadOptions(**{**values, **given}).check()
