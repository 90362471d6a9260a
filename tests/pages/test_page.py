import math

import pandas as pd
import pytest

from autoscale.show import over_time, words


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (words.span, 0.0452, "45 ms"),
        (words.span, 40.0, "40 s"),
        (words.span, 3 * 3600.0, "3.0 h"),
        (words.span, math.nan, "–"),
        (words.share, 0.9994, "99.9%"),
        (words.share, 1.0002, "100.0%"),
        (words.share, None, "–"),
        (words.number, math.nan, "–"),
        (words.number, -2.5, "-2.5"),
        (words.clock, 4565.2, "1:16:05"),
        (words.clock, -61.0, "-0:01:01"),
    ],
)
def test_a_number_is_written_for_people_and_what_is_not_known_is_a_dash(form, value, text):
    assert form(value) == text


@pytest.mark.parametrize(
    ("before", "after", "text"), [(2, 3, "+50.0%"), (4, 3, "-25.0%"), (0, 3, "–"), (math.nan, 3, "–")]
)
def test_a_change_is_relative_and_unknown_from_zero_or_nothing(before, after, text):
    assert words.change(before, after) == text


def test_thinning_keeps_the_mean_and_the_span_of_a_long_series():
    series = pd.DataFrame({"time_s": range(10_000), "waiting": [k % 2 for k in range(10_000)]})
    thin = over_time.thinned(series, 100)
    assert len(thin) == 100
    assert thin["waiting"].mean() == pytest.approx(0.5)
    assert thin["time_s"].iloc[0] < 100
    assert thin["time_s"].iloc[-1] > 9_900


def test_a_short_series_stays_as_it_is():
    series = pd.DataFrame({"time_s": [0.0, 1.0], "waiting": [1.0, 2.0]})
    assert over_time.thinned(series) is series


def test_replica_counts_are_held_to_the_end_of_the_picture():
    counts = pd.DataFrame({"time_s": [0.0, 60.0], "ready": [1, 2]})
    held = over_time.held_until(counts, 300.0)
    assert held["time_s"].tolist() == [0.0, 60.0, 300.0]
    assert held["ready"].tolist() == [1, 2, 2]
