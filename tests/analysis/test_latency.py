import numpy as np
import pandas as pd
import pytest

from analysis.latency import (
    gaps_within,
    in_flight,
    latencies,
    percentile,
    percentile_of_gaps,
)
from analysis.slo import parse_slo, requests_needed, samples_needed, stage_needed_s


def requests(**columns: list) -> pd.DataFrame:
    base = {
        "stage": [0],
        "due_s": [1.0],
        "sent_s": [1.5],
        "first_token_s": [2.0],
        "last_token_s": [4.0],
        "prompt_tokens": [10],
        "output_tokens": [5],
        "status": ["ok"],
    }
    length = len(next(iter(columns.values()))) if columns else 1
    return pd.DataFrame({name: columns.get(name, values * length) for name, values in base.items()})


def test_latencies_count_from_the_due_time_and_from_the_send_time() -> None:
    row = latencies(requests()).iloc[0]
    # due 1, sent 1.5, first 2, last 4, 5 tokens = 4 gaps in 2 s
    assert (row.ttft_s, row.e2e_s, row.ttft_sent_s, row.e2e_sent_s, row.tpot_s) == (1, 3, 0.5, 2.5, 0.5)


NO_LATENCY = {
    "a failed request, even with a first token": ("http_error", 5, ["ttft_s", "e2e_s", "tpot_s"]),
    "a dropped request": ("dropped", 5, ["ttft_s", "e2e_s", "tpot_s"]),
    "a single token has no time per further token": ("ok", 1, ["tpot_s"]),
    "unknown tokens give no TPOT": ("ok", None, ["tpot_s"]),
}


@pytest.mark.parametrize(("status", "tokens", "missing"), NO_LATENCY.values(), ids=NO_LATENCY.keys())
def test_no_latency_is_nan_never_zero(status: str, tokens: int | None, missing: list[str]) -> None:
    row = latencies(requests(status=[status], output_tokens=[tokens])).iloc[0]
    assert [name for name in ("ttft_s", "e2e_s", "tpot_s") if np.isnan(row[name])] == missing


SHORTEST = [
    ("ten times what a request takes, where requests are many", 6.0, 50.0, "ttft_p95=2s", 60.0),
    ("59 requests for a p95 after a third of warm-up: 88.5 at 1/s", 0.2, 1.0, "ttft_p95=2s", 88.5),
    ("299 for a p99", 0.2, 1.0, "ttft_p50=2s,e2e_p99=9s", 448.5),
    ("gaps are plenty in few requests: a p50 needs 5", 0.2, 1.0, "itl_p99=100ms,ttft_p50=1s", 7.5),
    ("a goodput of 95 % is a p95 of requests", 0.2, 1.0, "ttft=2s,goodput=0.95", 88.5),
]  # fmt: skip


@pytest.mark.parametrize(("life_s", "rate_rps", "slo", "shortest_s"), [s[1:] for s in SHORTEST], ids=[s[0] for s in SHORTEST])  # fmt: skip
def test_how_long_a_stage_must_be(life_s: float, rate_rps: float, slo: str, shortest_s: float) -> None:
    assert stage_needed_s(life_s, rate_rps, parse_slo(slo)) == pytest.approx(shortest_s)


def test_no_stage_is_asked_for_every_request() -> None:
    assert requests_needed(parse_slo("ttft=2s,goodput=1")) == samples_needed(99.9)
    assert requests_needed(None) == samples_needed(50)


def test_samples_needed_are_the_textbook_numbers() -> None:
    # smallest n with 0.95^n <= 0.05, 0.99^n <= 0.05; 459 is the 99 % number of Wilks
    assert [samples_needed(p) for p in (50, 95, 99)] == [5, 59, 299]


def test_too_few_samples_give_no_number_and_say_so() -> None:
    p99 = percentile(np.arange(100), 99)
    assert np.isnan(p99.value)
    assert str(p99) == "too few samples for p99: 100 of 299"


def test_percentile_is_an_observed_sample_and_its_interval_covers_at_its_level() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        known = percentile(rng.exponential(size=300), 95)
        inside += known.low <= -np.log(0.05) <= known.high  # true p95 of an exponential
    assert 0.93 <= inside / 400 <= 0.99
    assert percentile(np.arange(1, 101), 50).value == 50


def test_gap_percentiles_come_from_the_buckets() -> None:
    itl = pd.DataFrame(
        {
            "stage": [0, 0, 1],
            "gap_low_s": [0.010, 0.100, 0.010],
            "gap_high_s": [0.012, 0.120, 0.012],
            "count": [600, 20, 380],
        }
    )
    assert percentile_of_gaps(itl, 50).value == pytest.approx(0.011)
    assert percentile_of_gaps(itl, 99).value == pytest.approx(0.11)  # 980 of 1000 are short
    assert gaps_within(itl, 0.05) == (0.98, 1000)
    assert np.isnan(percentile_of_gaps(itl.head(0), 50).value)
    assert gaps_within(itl.head(0), 1)[1] == 0


def test_in_flight_counts_open_intervals() -> None:
    assert in_flight([0, 1, np.nan], [2, np.nan, 3], [-1, 0, 1, 2, 9]).tolist() == [0, 1, 2, 1, 1]
