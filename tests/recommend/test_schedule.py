"""Minimum replicas by the hour: the week, what it makes of traffic's seconds, and what the fleet does with it."""

import numpy as np
import pytest

from autoscale.recommend.schedule.week import Week, joined_hours
from autoscale.schedule import EVERY_DAY, Window
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.fleet.simulate import simulate
from loadgen.plan.time_units import WEEKDAYS
from tests.sim.test_fleet import L4, SMALL, load_of, manifest

OFFICE = tuple(3 if 8 <= hour < 20 else 1 for hour in range(24))
WEEK = Week((OFFICE, (1,) * 24), lead_minutes=15)
HOUR_S = 3600.0


def test_a_week_in_words_and_windows() -> None:
    assert WEEK.in_words() == "min 3 on weekdays 7:45 to 20:00, else 1"
    assert WEEK.windows() == (1, (Window(WEEKDAYS, 7 * 60 + 45, 20 * 60, 3),))
    assert Week(((2,) * 24,)).in_words() == "min 2"
    assert Week((OFFICE,)).windows()[1][0].days == EVERY_DAY
    assert WEEK.at_most(2).in_words() == "min 2 on weekdays 7:45 to 20:00, else 1"


@pytest.mark.parametrize("begins_h", [0, 7, 7.8, 12, 100, 119, 167])
def test_changes_are_the_minima_of_every_hour(begins_h) -> None:
    changes = WEEK.changes(begins_h * HOUR_S, 8 * 24 * HOUR_S)
    times = np.array([at_s for at_s, _ in changes])
    assert times[0] == 0
    assert (np.diff(times) > 0).all()
    for hour in range(8 * 24):
        at_s = (hour + 0.5) * HOUR_S
        now = changes[int(np.searchsorted(times, at_s, side="right")) - 1][1]
        absolute = begins_h + hour + 0.5
        early = absolute % 24 > 7.75 and absolute % 24 < 8 and int(absolute // 24) % 7 < 5
        expected = 3 if early else WEEK.at_hour(int(absolute))
        assert now == expected


@pytest.mark.parametrize("most", [2, 3, 4])
def test_joined_hours_cover_the_needs_with_few_changes(most) -> None:
    rng = np.random.default_rng(most)
    needs = rng.integers(1, 6, 24).tolist()
    row = joined_hours(needs, most)
    assert all(have >= need for have, need in zip(row, needs, strict=True))
    changes = sum(row[hour] != row[hour - 1] for hour in range(24))
    assert changes <= most
    assert sum(joined_hours(needs, most + 1)) <= sum(row)
    assert joined_hours([1] * 8 + [3] * 12 + [1] * 4, 2) == tuple([1] * 8 + [3] * 12 + [1] * 4)


def course(minima, *, keep):
    """(desired replicas over time, outcome) of a quiet load under minima."""
    options = FleetOptions(minima=minima)
    return simulate(
        L4, manifest(waiting="1000", least=1, most=4), [load_of(0.5, 6 * HOUR_S)], seed=1, duration_s=6 * HOUR_S,
        engine=SMALL, options=options, keep=keep,
    )  # fmt: skip


def test_the_fleet_follows_the_minimum_within_a_sync_and_falls_after_the_window() -> None:
    outcome = course(((0.0, 1), (3600.0, 3), (10_800.0, 2), (14_400.0, 1)), keep=False)
    after = [(at_s, to) for at_s, _, to, _ in outcome.decisions]
    assert [to for _, to in after] == [3, 2, 1]
    for (at_s, _), asked_s, window_s in zip(after, (3600, 10_800, 14_400), (0, 300, 300), strict=True):
        assert asked_s <= at_s <= asked_s + window_s + 31


def test_both_ways_of_simulating_see_the_same_minima() -> None:
    minima = ((0.0, 2), (4000.0, 4), (9000.0, 1))
    quick, kept = course(minima, keep=False), course(minima, keep=True)
    assert quick.decisions == kept.decisions
    assert (quick.replicas, quick.events, quick.attainment) == (kept.replicas, kept.events, kept.attainment)
