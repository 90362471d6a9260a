"""Rate programmes, arrival processes, plans, slices and the load file."""

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from analysis.errors import BadInput
from loadgen.plan import load_file, rates
from loadgen.plan.traffic import UNTIL_STOPPED_S, Arrivals, LoadPlan, parse_arrivals
from loadgen.run.options import LoadOptions

ROOT = Path(__file__).parents[2]


def everything(plan: LoadPlan, n: int = 65_536) -> Arrivals:
    chunks = list(plan.arrivals(n))
    return Arrivals(*(np.concatenate([chunk[i] for chunk in chunks]) for i in range(5)))


# --- rate programmes -------------------------------------------------------------------------------------------------

PROGRAMMES = {
    "a constant": rates.constant(3, 50),
    "a ramp from nothing": rates.ramp(0, 4, 50),
    "a ramp to nothing": rates.ramp(4, 0, 50),
    "steps with a silence between": rates.steps([(1, 10), (0, 10), (5, 10)]),
    "a spike with flanks": rates.spike(1, 9, at_s=10, hold_s=5, duration_s=40, rise_s=2, fall_s=4),
    "a spike from silence without flanks": rates.spike(0, 9, at_s=10, hold_s=5, duration_s=40),
    "a sine that touches zero": rates.sine(2, 2, 13, 60),
    "a sine with a phase, from the middle of a period": rates.sine(5, 3, 7, 20, phase_rad=2.5),
    "a compressed day": rates.diurnal(6, 100, start_hour=7.3, day_s=48),
    "a sum of waves, ramp and a shorter spike": rates.summed(
        [rates.sine(2, 1, 9, 60), rates.ramp(0, 3, 60), rates.spike(0, 5, 3, 4, 12), rates.sine(1, 1, 4, 30)]
    ),
    "waves joined after a ramp": rates.joined(
        [rates.ramp(1, 3, 8), rates.sine(2, 1.5, 6, 25), rates.constant(1, 5)]
    ),
}


@pytest.mark.parametrize("rate", PROGRAMMES.values(), ids=PROGRAMMES)
def test_the_integral_is_the_area_under_the_rate(rate):
    for end in np.linspace(0, rate.duration_s, 7)[1:]:
        breaks = [e for e in rate.edges_s if 0 < e < end]
        area = integrate.quad(lambda t: float(rate.rate(t)), 0, end, points=breaks or None, limit=400)[0]
        assert float(rate.integral(end)) == pytest.approx(area, abs=1e-5)


@pytest.mark.parametrize("rate", PROGRAMMES.values(), ids=PROGRAMMES)
def test_the_inverse_undoes_the_integral_and_keeps_order(rate):
    u = np.linspace(0, rate.requests, 5001)[:-1]
    t = rate.inverse(u)
    assert np.allclose(rate.integral(t), u, atol=1e-7)
    assert (np.diff(t) >= -1e-9).all()
    assert rate.inverse(rate.requests + 1) == rate.duration_s


@pytest.mark.parametrize("rate", PROGRAMMES.values(), ids=PROGRAMMES)
def test_a_programme_cut_short_offers_what_it_offered_until_then(rate):
    for end in np.linspace(0, rate.duration_s, 9)[1:-1]:
        assert rate.until(end).requests == pytest.approx(float(rate.integral(end)))
        assert rate.until(end).duration_s == end


def shapes():
    number = st.floats(0, 50)
    length = st.floats(0.5, 500)
    return st.one_of(
        st.builds(rates.constant, number, length),
        st.builds(rates.ramp, number, number, length),
        st.builds(
            lambda mean, part, period, d, phase: rates.sine(mean, mean * part, period, d, phase),
            *(number, st.floats(-1, 1), st.floats(0.5, 300), length, st.floats(0, 6)),
        ),
        st.builds(
            lambda peak, d, hour: rates.diurnal(peak, d, hour, day_s=100), number, length, st.floats(0, 23.9)
        ),
    )


@settings(max_examples=120, deadline=None)
@given(
    st.lists(shapes(), min_size=1, max_size=4),
    st.sampled_from([rates.joined, rates.summed]),
    st.floats(0, 0.999999),
)
def test_any_programme_is_inverted_where_it_offers_anything(parts, combine, share):
    rate = combine(parts)
    if rate.requests > 1e-3:
        u = share * rate.requests
        assert float(rate.integral(rate.inverse(u))) == pytest.approx(u, abs=1e-6 * max(1, rate.requests))


@settings(max_examples=60, deadline=None)
@given(st.lists(shapes(), min_size=1, max_size=3), st.floats(0.01, 1))
def test_a_sum_offers_what_its_parts_offer_at_every_time(parts, share):
    whole = rates.summed(parts)
    t = share * whole.duration_s
    assert float(whole.rate(t)) == pytest.approx(sum(float(p.rate(t)) for p in parts), abs=1e-6)
    assert float(whole.integral(t)) == pytest.approx(
        sum(float(p.integral(t)) for p in parts), rel=1e-9, abs=1e-6
    )


def test_a_day_peaks_at_its_peak_and_repeats():
    day = rates.diurnal(10, 2 * 86_400)
    assert float(day.rate(14.5 * 3600)) == pytest.approx(10)  # the middle of the busiest hour, 14-15 h
    assert float(day.rate(22.5 * 3600)) == pytest.approx(10 * 0.47 / 1.66)
    assert float(day.rate(9 * 3600)) == pytest.approx(float(day.rate(33 * 3600)))
    assert day.requests / day.duration_s == pytest.approx(0.62 * 10, rel=0.01)


def test_the_day_follows_the_public_week(shared_dir):
    file = shared_dir / "traces" / "azure2024_conv_rate_digitised_15min.csv.gz"
    hourly = np.loadtxt(file, delimiter=",", skiprows=1)[:, 1].reshape(7, 24, 4).mean(axis=2)
    relative = hourly / hourly.mean()
    assert relative.max() == pytest.approx(max(rates.DAY_SHAPE), abs=0.01)
    assert relative.min() == pytest.approx(min(rates.DAY_SHAPE), abs=0.01)
    working = hourly[1:6].mean(axis=0)  # the week begins on a Sunday
    assert np.corrcoef(working, rates.DAY_SHAPE)[0, 1] > 0.999  # an affine map of it


# --- arrivals --------------------------------------------------------------------------------------------------------


def gap_test(process: str, u: np.ndarray) -> float:
    """p value of the Kolmogorov-Smirnov test of gaps in operational time against the process's distribution."""
    gaps = np.diff(u)
    if process == "constant":  # a distribution of one point: the gaps are all 1, up to rounding
        return float(np.abs(gaps - 1).max() < 1e-6)
    cv = parse_arrivals(process).cv
    return stats.kstest(gaps, stats.gamma(1 / cv**2, scale=cv**2).cdf).pvalue


@pytest.mark.parametrize("process", ["constant", "poisson", "gamma:0.5", "gamma:1", "gamma:2"])
@pytest.mark.parametrize(
    "rate", [rates.constant(50, 400), rates.sine(50, 30, 60, 400)], ids=["flat", "under a sine"]
)
@pytest.mark.parametrize("seed", [1, 2])
def test_gaps_follow_the_process_in_operational_time(process, rate, seed):
    plan = LoadPlan(rate, parse_arrivals(process), seed=seed)
    due = everything(plan).due_s
    assert gap_test(process, rate.integral(due)) > 0.01
    assert due[0] >= 0
    assert due[-1] < rate.duration_s


@pytest.mark.parametrize("cv", [3, 6])
def test_very_bursty_gaps_follow_their_gamma_before_times_are_rounded(cv):
    # One gap in 25 of a gamma of CV 3 is below 4e-12, the resolution of a float at 20,000: drawn gaps are tested.
    gaps = parse_arrivals(f"gamma:{cv}").gaps(np.random.default_rng(4), 50_000)
    assert stats.kstest(gaps, stats.gamma(1 / cv**2, scale=cv**2).cdf).pvalue > 0.01


@pytest.mark.parametrize("process", ["constant", "poisson", "gamma:4"])
def test_the_expected_count_is_the_integral_without_bias(process):
    # Gaps of CV 4 started with a whole gap would give (CV^2 - 1) / 2 = 7.5 requests too many in every plan.
    plan = LoadPlan(rates.constant(2, 100), parse_arrivals(process))
    counts = [
        sum(len(c.due_s) for c in LoadPlan(plan.programme, plan.process, seed=seed).arrivals())
        for seed in range(800)
    ]
    sd = max(plan.process.cv * math.sqrt(200), 0.1)
    assert np.mean(counts) == pytest.approx(200, abs=4 * sd / math.sqrt(800))


def test_constant_arrivals_are_evenly_spaced_and_complete():
    due = everything(LoadPlan.from_options(rate=5, arrivals="constant", duration_s=60)).due_s
    assert np.allclose(due, np.arange(300) / 5)


@pytest.mark.parametrize(
    ("plan", "window", "area"),
    [
        (LoadPlan.from_options(stages="100:30,400:30", arrivals="constant"), (30, 60), 400 * 30),
        (LoadPlan(rates.spike(50, 800, 20, 10, 60), parse_arrivals("constant")), (20, 30), 800 * 10),
        (
            LoadPlan(rates.spike(50, 800, 20, 10, 60, 4, 4), parse_arrivals("constant")),
            (20, 38),
            8000 + 2 * 4 * 425,
        ),
    ],
    ids=["a step", "a spike", "a spike with flanks"],
)
def test_steps_and_spikes_hold_their_area_and_leave_no_gap(plan, window, area):
    due = everything(plan).due_s
    inside = due[(due >= window[0]) & (due < window[1])]
    assert len(inside) == pytest.approx(area, rel=0.002)
    assert (
        np.diff(due).max() <= 0.021
    )  # never longer than a gap at the lowest rate, 1/50 s: no hole at the joint


# --- plans -----------------------------------------------------------------------------------------------------------

PLAN = LoadPlan.from_options(
    stages="20:100,60:100",
    arrivals="gamma:2",
    prompt_tokens="lognormal:300,0.8",
    output_tokens="uniform:10,200",
    seed=9,
)


def test_a_chunk_holds_equally_long_columns_of_the_named_types_in_order():
    chunk = next(PLAN.arrivals())
    assert [column.dtype.name for column in chunk[:5]] == ["float64", "int32", "int32", "int32", "int64"]
    assert len({len(column) for column in chunk[:5]}) == 1
    assert (np.diff(chunk.due_s) >= 0).all()


@pytest.mark.parametrize("n", [1, 7, 1000, 10**6])
def test_the_same_seed_gives_the_same_bytes_whatever_the_chunk_size(n):
    short = PLAN.until(20)
    for left, right in zip(everything(short, n)[:5], everything(short)[:5], strict=True):
        assert left.tobytes() == right.tobytes()


def test_another_seed_gives_another_load():
    other = LoadPlan(PLAN.programme, PLAN.process, PLAN.prompt, PLAN.output, seed=10)
    assert everything(other).due_s[:5].tolist() != everything(PLAN).due_s[:5].tolist()


def test_a_longer_plan_begins_with_the_shorter_one():
    short, long = everything(PLAN.until(50)), everything(PLAN)
    assert np.allclose(short.due_s, long.due_s[: len(short.due_s)])
    assert (short.prompt_tokens == long.prompt_tokens[: len(short.due_s)]).all()


@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_slices_are_disjoint_and_together_the_whole_plan(of):
    whole = everything(PLAN)
    parts = [everything(PLAN.slice(i, of)) for i in range(of)]
    ids = np.concatenate([part.request_id for part in parts])
    assert len(ids) == len(set(ids.tolist())) == len(whole.request_id)
    order = np.argsort(ids)
    for column in range(5):
        assert (np.concatenate([part[column] for part in parts])[order] == whole[column]).all()


def test_a_slice_of_a_slice_is_a_slice():
    whole = PLAN.slice(1, 6)
    assert (
        everything(PLAN.slice(1, 2).slice(0, 3)).request_id.tolist() == everything(whole).request_id.tolist()
    )


def test_a_week_is_drawn_in_the_memory_of_a_few_chunks():
    plan = LoadPlan.default_traffic(8, duration_s=7 * 86_400)
    next(plan.arrivals(4096))
    tracemalloc.start()
    count = sum(len(chunk.due_s) for chunk in plan.arrivals(4096))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count > 2_500_000  # 70 MB as arrays
    assert peak < 3e6


def test_stages_are_the_pieces_of_the_programme():
    assert PLAN.stages == [
        {"stage": 0, "start_s": 0.0, "end_s": 100.0, "rate": 20.0},
        {"stage": 1, "start_s": 100.0, "end_s": 200.0, "rate": 60.0},
    ]
    assert PLAN.stage_of([0, 99.9, 100, 199]).tolist() == [0, 0, 1, 1]
    json.dumps(PLAN.describe())


def test_a_rate_without_an_end_lasts_until_stopped():
    plan = LoadPlan.from_options(rate=5)
    assert plan.duration_s == UNTIL_STOPPED_S
    assert len(next(plan.arrivals(100)).due_s) == 100
    assert plan.until(60).stages == [{"stage": 0, "start_s": 0.0, "end_s": 60.0, "rate": 5.0}]


def test_the_shared_prefix_leaves_at_least_one_token_of_the_prompts_own():
    plan = LoadPlan.from_options(
        rate=50, duration_s=20, prompt_tokens="uniform:1,200", shared_prefix_tokens=100
    )
    chunk = everything(plan)
    assert (chunk.prefix_tokens == np.minimum(chunk.prompt_tokens - 1, 100)).all()


@pytest.mark.parametrize("n", [5, 1000])
def test_each_turn_contains_its_conversation_so_far(n):
    plan = LoadPlan(rates.constant(10, 30), turns=3, conversations=4, seed=3)
    c = everything(plan, n)
    for i in range(200):
        turn = i // 4 % 3
        before = c.prompt_tokens[i - 4] + c.output_tokens[i - 4] if turn else 0
        assert c.prompt_tokens[i] == before + 512
        assert c.prefix_tokens[i] == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"stages": "1:0"},
            r"stage 1 of --stages 1:0: '1:0'; expected RATE:SECONDS .* above 0 s\. Write for example",
        ),
        ({"stages": "1:60,-2:60"}, r"stage 2 .* '-2:60'; expected"),
        ({"stages": "1:60,x"}, "stage 2 .* 'x'"),
        ({"stages": "0:60"}, "offers nothing"),
        ({"rate": -1}, "--rate: -1; expected requests/s above 0"),
        ({"rate": math.nan}, "--rate: nan"),
        ({"rate": 1, "arrivals": "poison"}, "'poison'; expected .* Did you mean poisson"),
        ({"rate": 1, "arrivals": "gamma"}, "'gamma'; expected gamma:CV with"),
        ({"rate": 1, "arrivals": "gamma:-1"}, "'gamma:-1'"),
        ({"rate": 1, "prompt_tokens": "trace"}, "without a trace"),
        ({"rate": 1, "stages": "1:2"}, "several loads are named: '--rate and --stages'"),
        ({}, "no load is named; expected exactly one of --rate"),
        ({"rate": 1, "seed": -1}, "seed: -1"),
        ({"rate": 1, "duration_s": 0}, "duration"),
        ({"load_file": "/nowhere.yaml"}, "cannot read the load file: .*nowhere"),
    ],
)
def test_bad_options_are_answered_with_the_value_and_what_was_expected(options, sentence):
    with pytest.raises(BadInput, match=sentence):
        LoadPlan.from_options(**options)


# --- the load file ---------------------------------------------------------------------------------------------------

LOAD = """\
seed: 7
arrivals: gamma:3
prompt_tokens: lognormal:1020,1.0
repeat: 2
load:
  - stages: 1:60,2:60
  - ramp: {from_rps: 2, to_rps: 8, duration_s: 300}
  - spike: {base_rps: 2, peak_rps: 20, at_s: 60, hold_s: 30, duration_s: 300}
  - curve: {points: [[0, 1], [60, 5]]}
  - sum:
      - diurnal: {peak_rps: 10, duration_s: 3600}
      - sine: {mean_rps: 2, amplitude_rps: 1, period_s: 600, duration_s: 3600}
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "load.yaml"
    file.write_text(text)
    return file


def test_stages_in_pieces_take_turns():
    plan = LoadPlan.from_options(stages="1:60,2:60,4:60,6:60,8:60", interleave_s=20)
    rows = plan.stages
    assert [row["stage"] for row in rows] == list(range(15))
    assert [row["end_s"] - row["start_s"] for row in rows] == pytest.approx([20] * 15)
    rounds = [[row["rate"] for row in rows[i : i + 5]] for i in (0, 5, 10)]
    assert all(sorted(turn) == [1, 2, 4, 6, 8] for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) == 3
    assert plan.expected_requests == pytest.approx(60 * 21)
    due_s = everything(plan).due_s
    for row in rows:
        inside = int(np.sum((due_s >= row["start_s"]) & (due_s < row["end_s"])))
        assert inside == pytest.approx(20 * row["rate"], abs=5 * math.sqrt(20 * row["rate"]))
    other = LoadPlan.from_options(stages="1:60,2:60,4:60,6:60,8:60", interleave_s=20, seed=1)
    assert [row["rate"] for row in other.stages] != [row["rate"] for row in rows]


def test_pieces_of_a_stage_are_equally_long_and_short_stages_take_fewer_turns():
    rate = rates.interleaved(rates.steps([(1, 50), (2, 20), (3, 30)]), 20, seed=3)
    pieces = list(zip(rate.level_rps.tolist(), np.diff(rate.edges_s).tolist(), strict=True))
    assert sorted(pieces) == pytest.approx(np.array([(1, 50 / 3)] * 3 + [(2, 20)] + [(3, 15)] * 2))
    assert sorted(level for level, _ in pieces[:3]) == [1, 2, 3]


def test_a_drift_of_the_server_meets_all_rates_alike_when_stages_take_turns():
    # the mean time at which a rate is offered, over 40 seeds: the middle of the run, for every rate
    stages = rates.steps([(rate, 60) for rate in (1, 2, 4, 6, 8)])
    middles = {rate: [] for rate in (1.0, 2.0, 4.0, 6.0, 8.0)}
    for seed in range(40):
        rate = rates.interleaved(stages, 20, seed)
        for level, start_s in zip(rate.level_rps.tolist(), rate.edges_s[:-1].tolist(), strict=True):
            middles[level].append(start_s + 10)
    # a piece lies within its round of 100 s: sd 28 s, of the mean of 120 pieces 2.6 s
    assert [float(np.mean(times)) for times in middles.values()] == pytest.approx([150] * 5, abs=4 * 2.6)


def test_stages_of_a_load_file_take_turns_as_those_of_the_command_line(tmp_path):
    text = "seed: 5\nload:\n  - stages: 1:60,2:60\n    interleave_s: 20\n"
    plan = LoadPlan.from_options(load_file=written(tmp_path, text))
    assert plan.stages == LoadPlan.from_options(stages="1:60,2:60", interleave_s=20, seed=5).stages


NO_TURNS = [
    ({"rate": 3.0, "interleave": "20s"}, "--interleave without --stages"),
    ({"interleave": "20s"}, "--interleave without --stages"),
    ({"stages": "1:60,2:60", "interleave": "soon"}, "--interleave: 'soon'; expected a length above 0 s"),
    ({"stages": "1:60,2:60", "interleave": "60s"}, "nothing is cut.*60 s.*Name more stages or shorter pieces"),
    ({"stages": "1:60", "interleave": "20s"}, "at least two stages"),
    ({"stages": "1:60,2:60", "interleave": "1e-9"}, "pieces with a rate of their own"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), NO_TURNS)
def test_what_cannot_take_turns_is_refused(options, said):
    with pytest.raises(BadInput, match=said):
        LoadOptions(**options).plan()


def test_interleave_s_goes_with_stages_only(tmp_path):
    text = "load:\n  - constant: {rate_rps: 1, duration_s: 60}\n    interleave_s: 20\n"
    with pytest.raises(BadInput, match="interleave_s goes with stages only"):
        LoadPlan.from_options(load_file=written(tmp_path, text))


def test_a_load_file_joins_its_parts_without_gaps(tmp_path):
    plan = LoadPlan.from_options(load_file=written(tmp_path, LOAD))
    assert plan.duration_s == 2 * (120 + 300 + 300 + 60 + 3600)
    starts, ends = ([s[key] for s in plan.stages] for key in ("start_s", "end_s"))
    assert starts[1:] == ends[:-1]
    # 60 + 120, (2 + 8) / 2 * 300, 2 * 270 + 20 * 30, 3 * 60, and the first hour: 10 req/s * half of the hour at
    # 0.52..0.83 (middle of 23 h and of 0 h), half at 0.83..0.98, plus 2 req/s of the sine (6 whole periods)
    shape = np.array(rates.DAY_SHAPE) / 1.66
    first_hour = 10 * (1800 * (shape[23] / 4 + shape[0] * 3 / 4) + 1800 * (shape[0] * 3 / 4 + shape[1] / 4))
    assert plan.expected_requests == pytest.approx(2 * (180 + 1500 + 1140 + 180 + first_hour + 7200))
    assert str(plan.process) == "gamma:3"
    assert str(plan.prompt) == "lognormal:1020,1"
    assert str(plan.output) == "fixed:128"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "to_rps: 8",
            "to_rsp: 8",
            "load.yaml line 7, field load.1.ramp.to_rsp: unknown field. Did you mean to_rps",
        ),
        ("- ramp", "- rmap", "line 7, field load.1.rmap: unknown field. Did you mean ramp"),
        ("to_rps: 8", "to_rps: -8", "line 7, field load.1.ramp.to_rps: .*greater than or equal to 0: -8"),
        ("to_rps: 8, ", "", "line 7, field load.1.ramp.to_rps: Field required"),
        (
            "amplitude_rps: 1",
            "amplitude_rps: 3",
            "load.yaml: amplitude_rps of a sine: 3.0; expected at most mean_rps 2",
        ),
        ("at_s: 60", "at_s: 600", "a spike does not fit"),
        (
            "to_rps: 8, duration_s: 300",
            "to_rps: 8, duration_s: 5e-324",
            "a rate changes within no time: '4.94066e-324 s'",
        ),
        ("load:", "load", "line 6, column 11 is not valid YAML|line 6"),
        ("gamma:3", "gama:3", "'gama:3'; expected .* Did you mean gamma:CV"),
        ("1:60,", "1:0,", "stage 1 of stages 1:0,2:60: '1:0'"),
        ("seed: 7", "seed: x", "line 1, field seed: .*'x'"),
        ("seed: 7", "trace: {path: a.csv}", "exactly one of load, trace"),
        (LOAD, "- 1", "holds a list; expected a mapping"),
        (LOAD, "", "is empty; expected a mapping"),
        (
            LOAD,
            "trace: {path: a.csv, formt: azure}",
            "line 1, field trace.formt: unknown field. Did you mean format",
        ),
        (LOAD, "trace: {path: a.csv}", "cannot read the trace"),
    ],
)
def test_a_bad_load_file_is_answered_with_file_line_and_field(tmp_path, old, new, sentence):
    with pytest.raises(BadInput, match=sentence):
        LoadPlan.from_file(written(tmp_path, LOAD.replace(old, new)))


@pytest.mark.parametrize("stages", ["10:1", "10:1.5", "10:30,20:59", "'10:1'", "0.5:60", "1e1:60"])
def test_stages_need_no_quotes(tmp_path, stages):
    plan = LoadPlan.from_file(written(tmp_path, f"load:\n  - stages: {stages}\nseed: 12\n"))
    expected = LoadPlan.from_options(stages=stages.strip("'"), seed=12)
    assert plan.stages == expected.stages
    assert plan.seed == 12


def test_a_load_file_replays_a_trace_that_lies_beside_it(tmp_path):
    rows = "".join(
        f'{{"timestamp": {i * 100}, "input_length": 40, "output_length": 7, "hash_ids": [1]}}\n'
        for i in range(100)
    )
    (tmp_path / "trace.jsonl").write_text(rows)
    text = (
        "trace: {path: trace.jsonl, from_s: 2, to_s: 6, time_scale: 0.5}\nrepeat: 3\noutput_tokens: fixed:9\n"
    )
    plan = LoadPlan.from_file(written(tmp_path, text))
    got = everything(plan)
    assert got.due_s == pytest.approx(np.arange(120) * 0.05)  # 40 requests of 4 s, in 2 s, three times
    assert set(got.prompt_tokens.tolist()) == {40}
    assert set(got.output_tokens.tolist()) == {9}
    assert plan.stages == [{"stage": 0, "start_s": 0.0, "end_s": 6.0, "rate": 20.0}]
    assert plan.prompt_options() == {"turns": 1, "conversations": 1, "block_tokens": 512}


def test_a_load_file_holds_conversations(tmp_path):
    text = "load: [{constant: {rate_rps: 5, duration_s: 20}}]\nconversations: {turns: 3, concurrent: 2}\n"
    plan = LoadPlan.from_file(written(tmp_path, text))
    assert plan.prompt_options() == {"turns": 3, "conversations": 2}
    assert everything(plan).prompt_tokens[:6].tolist() == [512, 512, 1152, 1152, 1792, 1792]


def test_the_schema_in_docs_is_that_of_the_model():
    committed = json.loads((ROOT / "docs" / "load-file.schema.json").read_text())
    assert committed == load_file.schema(), (
        "write it anew: python -c 'import json; from loadgen.plan.load_file import schema; print(json.dumps(schema(), indent=2))'"
        " > docs/load-file.schema.json"
    )
