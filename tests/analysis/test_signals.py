import numpy as np
import pandas as pd
import pytest

from analysis import run, signals
from analysis.latency import latencies


def scrapes(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["time_s", "pod", "engine", "waiting", "running", "kv_usage"])


def test_the_hpa_sees_the_mean_over_pods_and_a_pod_sums_its_engines() -> None:
    nan = float("nan")
    rows = [
        (t, pod, engine, *values)
        for t in (0.0, 1.0)
        for pod, engine, values in (
            ("a", "0", (4, 10, 0.5)),
            ("a", "1", (2, 6, 0.7)),
            ("b", "0", (0, 8, 0.2)),
            ("c", "0", (nan, nan, nan)),
        )
    ]
    at = signals.fleet(scrapes(rows)).iloc[0]
    # pod a waits 4 + 2, runs 10 + 6 and uses (0.5 + 0.7) / 2; pod c does not report and is not zero
    assert (at.waiting, at.running, at.pods, at.in_system) == (3, 12, 2, 30)
    assert at.kv_usage == pytest.approx(0.4)
    assert at.full == 0.5


def test_a_missing_scrape_is_bridged_and_a_silence_is_missing() -> None:
    rows = [(float(t), "a", "0", 1.0, 1.0, 0.1) for t in (*range(10), 11, *range(30, 40))]
    times = signals.fleet(scrapes(rows))["time_s"].tolist()
    assert 10.0 in times  # one scrape missing
    assert 13.0 in times  # two steps after the last
    assert not any(14 <= t < 30 for t in times)


OFFSETS = [-300.0, -60.0, 60.0, 300.0, 900.0]


@pytest.mark.parametrize("offset_s", OFFSETS, ids=lambda v: f"metrics stamped {v:+.0f} s")
@pytest.mark.parametrize("name", ["sweep_A", "sweep_D"])
def test_a_clock_offset_is_found_to_the_second(sweep_run, name: str, offset_s: float) -> None:
    recorded = run.read(sweep_run(name))
    moved = recorded.metrics.assign(time_s=recorded.metrics["time_s"] + offset_s)
    found = signals.clock_offset(latencies(recorded.requests), moved)
    assert found.offset_s == pytest.approx(offset_s, abs=1.0)
    assert ("ahead of" if offset_s > 0 else "behind") in str(found)


def test_clocks_that_agree_are_left_alone_and_silence_proves_nothing(sweep_run) -> None:
    recorded = run.read(sweep_run("sweep_A"))
    table = latencies(recorded.requests)
    assert signals.clock_offset(table, recorded.metrics).offset_s == 0
    flat = recorded.metrics.assign(waiting=0.0, running=0.0)
    assert np.isnan(signals.clock_offset(table, flat).correlation)
