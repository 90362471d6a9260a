"""What is learned from rows and buckets whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import TooLittleData
from autoscale.history.arrivals import came_in
from autoscale.history.burstiness import burstiness
from autoscale.history.token_lengths import lengths_in_buckets
from autoscale.history.traffic_file import curve

BOUNDS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000]


def told(arrivals, leaves, pod, at, before=0.0):
    """What a replica tells at the times `at`, when requests came and left as given."""
    came, gone = np.searchsorted(np.sort(arrivals), at), np.searchsorted(np.sort(leaves), at)
    return pd.DataFrame(
        {"time_s": at, "pod": pod, "engine": "0", "running": came - gone, "waiting": 0.0, "requests_total": gone + before}
    ).assign(prompt_tokens_total=0.0, generation_tokens_total=0.0, preemptions_total=0.0)  # fmt: skip


def arrivals_of(rng, cv, rate, duration_s):
    """Times of a renewal process with gamma gaps whose rate follows a day."""
    u = np.cumsum(rng.gamma(cv**-2, cv**2, int(rate * duration_s * 1.4) + 100))
    t = np.linspace(0, duration_s, 20_000)
    due = np.concatenate([[0], np.cumsum(np.diff(t) * rate * (1 + 0.5 * np.sin(2 * np.pi * t[1:] / 86_400)))])
    return np.interp(u[u < due[-1]], due, t)


@pytest.mark.parametrize("pods", [1, 4, 12])
@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0, 3.0])
def test_requests_and_their_burstiness_are_found_behind_scrapes_of_several_replicas(cv, pods):
    held = []
    for seed in range(4):
        rng = np.random.default_rng([seed, pods])
        came = arrivals_of(rng, cv, 4.0, 30 * 3600.0)
        of, took = rng.integers(0, pods, len(came)), rng.exponential(8.0, len(came))
        frame = pd.concat(
            told(
                came[of == k],
                (came + took)[of == k],
                f"p{k}",
                np.arange(rng.random() * 15, 30 * 3600, 15.0),
                1e4,
            )
            for k in range(pods)
        )
        minutes = came_in(frame, 60.0, {})
        true, _ = np.histogram(came, minutes.start_s + 60.0 * np.arange(len(minutes.counts) + 1))
        assert minutes.counts.sum() == pytest.approx(true.sum(), rel=1e-3)
        assert not minutes.gap.any()
        assert minutes.replicas[5:-5] == pytest.approx(pods)
        found = burstiness(came_in(frame, 15.0 / 4, {}))
        assert found.cv == pytest.approx(cv, rel=0.12)
        held.append(found.low <= cv <= found.high)
        points = curve(minutes, found.cv)
        offered = np.trapezoid([r for _, r in points], [t for t, _ in points])
        assert offered == pytest.approx(minutes.counts.sum(), rel=0.005)
    assert sum(held) >= 3


def test_replicas_that_start_end_and_restart_lose_and_invent_nothing():
    rng = np.random.default_rng(1)
    came = arrivals_of(rng, 1.0, 3.0, 4 * 3600.0)
    second = (came > 3600) & (came < 3 * 3600) & (rng.random(len(came)) < 0.5)
    gone = came + 5.0
    first = told(came[~second], gone[~second], "a", np.arange(3.0, 4 * 3600, 15.0), before=5000.0)
    at = np.arange(3611.0, 3 * 3600 + 60, 15.0)
    other = told(came[second], gone[second], "b", at)
    restarted = first["time_s"] > 2 * 3600
    first.loc[restarted, "requests_total"] -= first.loc[restarted, "requests_total"].iloc[0]
    minutes = came_in(pd.concat([first, other]), 60.0, {})
    assert minutes.counts.sum() == pytest.approx(len(came), rel=0.01)
    assert any("a restarted" in note for note in minutes.notes)
    hours, _ = np.histogram(came, minutes.start_s + 3600.0 * np.arange(4))
    assert minutes.counts[:180].reshape(3, 60).sum(axis=1) == pytest.approx(hours, rel=0.02)


@pytest.mark.parametrize(
    ("born", "said"),
    [
        ({}, "a restarted, or a new pod has its name"),
        ({"a": [-500.0]}, "a restarted: what it held"),
        ({"a": [-500.0, 3650.0]}, "a came back as a new pod of its name: what the one before held"),
        ({"a": [-500.0, 3750.0]}, "a restarted: what it held"),
    ],
    ids=["nothing is told", "the pod of before", "a pod made meanwhile", "a pod made later"],
)
def test_a_counter_that_falls_is_a_restart_or_a_new_pod_of_the_name(born, said):
    """Pods of a LeaderWorkerSet come back under their names; between 3600 and 3700 s nobody was scraped."""
    came = np.arange(0.0, 7200.0, 0.5)
    at = np.arange(0.0, 7200.0, 15.0)
    frame = told(came, came + 1.0, "a", at[(at <= 3600) | (at > 3700)])
    again = frame["time_s"] > 3600
    frame.loc[again, "requests_total"] -= frame.loc[again, "requests_total"].iloc[0]
    (note,) = came_in(frame, 60.0, born).notes
    assert note.startswith(said)


def test_a_silence_is_a_gap_and_keeps_what_came_in_it():
    came = np.arange(0.0, 7200.0, 0.5)
    at = np.arange(0.0, 7200.0, 15.0)
    frame = told(came, came + 1.0, "a", at[(at < 3000) | (at > 3600)])
    minutes = came_in(frame, 60.0, {})
    assert minutes.gap.sum() == 12, "bins of which a part lies between 2985 and 3615 s"
    assert minutes.counts.sum() == pytest.approx(len(came), rel=0.01)
    assert minutes.counts[52] == pytest.approx(120, rel=0.02)


def test_what_a_replica_had_that_started_in_a_silence_came_in_the_silence():
    came = np.arange(0.0, 7200.0, 0.5)
    at = np.arange(0.0, 7200.0, 15.0)
    scraped = at[(at < 3000) | (at > 3600)]
    second = (came > 3300) & (np.arange(len(came)) % 2 == 1)
    first = told(came[~second], came[~second] + 1.0, "a", scraped)
    other = told(came[second], came[second] + 1.0, "b", scraped[scraped > 3600] + 4.0)
    minutes = came_in(pd.concat([first, other]), 60.0, {})
    assert minutes.counts.sum() == pytest.approx(2 * 60 * len(minutes.counts), rel=0.005)
    # 2985 to 3615 s: 1260 requests, of which "b" had those of 3300 s on, every second: 315, spread from the last scrape on
    assert minutes.counts[50:60].sum() == pytest.approx(1200, rel=0.03)


def test_one_scrape_is_too_little():
    with pytest.raises(TooLittleData, match="two scrapes"):
        came_in(told(np.arange(5.0), np.arange(5.0) + 1, "a", np.array([3.0])), 60.0, {})


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("lognormal", lambda rng: np.exp(rng.normal(np.log(1020), 1.0, 100_000))),
        ("normal", lambda rng: rng.normal(500, 100, 100_000)),
        ("uniform", lambda rng: rng.uniform(100, 900, 100_000)),
        ("quantiles", lambda rng: rng.exponential(700, 100_000)),
        ("fixed", lambda rng: np.full(100, 5.0)),
    ],
)
def test_a_distribution_comes_back_from_its_buckets(name, draw):
    tokens = np.maximum(np.rint(draw(np.random.default_rng(3))), 1)
    counts = np.histogram(tokens, [0, *(bound + 0.5 for bound in BOUNDS), 1e9])[0]
    found = lengths_in_buckets(BOUNDS, counts, tokens.mean(), 131_072)
    assert found.kind in (name, "uniform" if name == "fixed" else name)
    assert found.mean() == pytest.approx(tokens.mean(), rel=0.01 if name != "fixed" else 0.15)
    if name != "fixed":
        drawn = found.draw(np.random.default_rng(4), 100_000)
        for q in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99):
            assert np.quantile(drawn, q) == pytest.approx(np.quantile(tokens, q), rel=0.05, abs=1)


@pytest.mark.parametrize("count", [9_000, 150_000])
def test_lengths_that_a_server_refuses_are_not_interpolated_to_the_end_of_their_bucket(count):
    rng = np.random.default_rng(5)
    tokens = np.maximum(np.rint(np.exp(rng.normal(np.log(1020), 1.0, count))), 1)
    tokens = tokens[tokens + np.exp(rng.normal(np.log(129), 0.9, count)) <= 4096]
    counts = np.histogram(tokens, [0, *(bound + 0.5 for bound in BOUNDS), 1e9])[0]
    found = lengths_in_buckets(BOUNDS, counts, tokens.mean(), 131_072)
    assert found.mean() == pytest.approx(tokens.mean(), rel=0.01)
    drawn = found.draw(np.random.default_rng(4), 100_000)
    for q in (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99):
        assert np.quantile(drawn, q) == pytest.approx(np.quantile(tokens, q), rel=0.05, abs=1), q


def test_nothing_counted_is_no_distribution():
    assert lengths_in_buckets(BOUNDS, [0] * 15, float("nan"), 1000) is None
