"""Cron windows against a look at every minute, and the clock changes that only a table of cases can tell."""

from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.keda.cron import NEVER, CronTrigger, parse_schedule
from autoscale.keda.prometheus_trigger import TriggerValue

UTC = ZoneInfo("UTC")
START = datetime(2026, 6, 1, tzinfo=UTC)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[str, set[int], set[int], set[int]]:
    """An expression over minutes, hours and week days, and the values that it names."""
    minutes = draw(st.sets(st.integers(0, 59), min_size=1, max_size=3))
    first = draw(st.integers(0, 23))
    last, step = draw(st.integers(first, 23)), draw(st.integers(1, 6))
    days = draw(st.sets(st.integers(0, 6), min_size=1))
    text = f"{','.join(map(str, minutes))} {first}-{last}/{step} * * {','.join(map(str, days))}"
    return text, minutes, set(range(first, last + 1, step)), days


@settings(max_examples=60, deadline=None)
@given(schedules(), st.integers(0, 7 * 24 * 60 * 60))
def test_the_next_time_is_the_first_minute_that_matches(
    schedule: tuple[str, set[int], set[int], set[int]], second: int
) -> None:
    text, minutes, hours, days = schedule
    now = START + timedelta(seconds=second)
    at = now.replace(second=0) + timedelta(minutes=1)
    while not (at.minute in minutes and at.hour in hours and at.isoweekday() % 7 in days):
        at += timedelta(minutes=1)
    assert parse_schedule(text).next_s(now.timestamp(), UTC) == at.timestamp()


def window(start: str, end: str, zone: str = "UTC") -> CronTrigger:
    metadata = {"timezone": zone, "start": start, "end": end, "desiredReplicas": "4"}
    return CronTrigger.from_trigger(0, "", "", metadata)


def active(trigger: CronTrigger, at: datetime) -> bool:
    value = trigger.value(at.timestamp())
    assert isinstance(value, TriggerValue)
    assert value.milli == (4000 if value.active else 0)
    return value.active


def test_a_window_holds_its_first_second_and_not_its_last() -> None:
    day = window("0 8 * * *", "0 18 * * *")
    at = START.replace(hour=8)
    assert [active(day, at + timedelta(seconds=s)) for s in (-1, 0, 1)] == [False, True, True]
    assert [active(day, at.replace(hour=18) + timedelta(seconds=s)) for s in (-1, 0)] == [True, False]


def test_a_window_in_a_zone_keeps_its_wall_time_over_a_clock_change() -> None:
    zone = ZoneInfo("America/New_York")
    office = window("30 8 * * *", "0 17 * * *", "America/New_York")
    for day in (
        datetime(2026, 3, 7, tzinfo=zone),
        datetime(2026, 3, 9, tzinfo=zone),
    ):  # the clocks change on the 8th
        assert [active(office, day.replace(hour=8, minute=m)) for m in (29, 30)] == [False, True]


def test_the_same_time_in_other_words_is_a_whole_day() -> None:
    assert active(window("0 8 * * *", "00 8 * * *"), START.replace(hour=3))


def test_a_schedule_steps_through_a_year_in_order() -> None:
    schedule, at = parse_schedule("0 0 29 2 *"), datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert schedule.next_s(at, UTC) == datetime(2028, 2, 29, tzinfo=UTC).timestamp()
    times = [at]
    for _ in range(40):
        times.append(parse_schedule("15 2 * * *").next_s(times[-1], ZoneInfo("Europe/Berlin")))
    assert all(later - earlier >= 23 * 3600 for earlier, later in pairwise(times[1:]))


def test_a_date_that_does_not_come_is_told() -> None:
    assert parse_schedule("0 0 31 2 *").next_s(START.timestamp(), UTC) == NEVER


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0 8 * *", "expected exactly 5 fields, found 4"),
        ("60 8 * * *", "end of range .60. above maximum .59."),
        ("0 8 0 * *", "beginning of range .0. below minimum .1."),
        ("5-3 * * * *", "beyond end of range"),
        ("*/0 * * * *", "step of range should be a positive number"),
        ("1-2-3 * * * *", "too many hyphens"),
        ("1/2/3 * * * *", "too many slashes"),
        ("0 8 * * MONDAY", "failed to parse int from MONDAY"),
        ("0 8 * * 7", "above maximum"),
        ("@daily", "does not accept descriptors"),
    ],
)
def test_a_schedule_that_is_none_is_refused_as_keda_does(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_schedule(text)
