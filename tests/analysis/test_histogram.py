"""The mergeable histogram against plain numpy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.histogram import BUCKETS, EDGES_S, Histogram

SHAPES = {
    "lognormal gaps": lambda rng: rng.lognormal(math.log(0.02), 0.8, 200_000),
    "two modes a thousand times apart": lambda rng: np.where(rng.random(200_000) < 0.99, 5e-3, 5.0) * rng.uniform(0.9, 1.1, 200_000),
    "uniform": lambda rng: rng.uniform(1e-4, 1.0, 200_000),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.99, 0.999])
def test_quantiles_are_within_a_tenth_of_a_percent_of_the_exact_ones(shape, fraction):
    values = SHAPES[shape](np.random.default_rng(1))
    histogram = Histogram()
    histogram.add(values)
    exact = np.quantile(values, fraction, method="inverted_cdf")
    assert histogram.quantile(fraction) == pytest.approx(exact, rel=1e-3)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=200), st.integers(1, 5))
def test_merging_parts_in_any_division_is_the_same_as_counting_at_once(values, parts):
    whole, merged = Histogram(), Histogram()
    whole.add(values)
    for k in range(parts):
        part = Histogram()
        part.add(values[k::parts])
        merged.merge(Histogram.from_sparse(*part.sparse()))
    assert np.array_equal(whole.counts, merged.counts)
    assert len(merged) == len(values)


def test_a_table_read_back_gives_the_same_counts():
    histogram = Histogram()
    histogram.add(np.random.default_rng(2).lognormal(-4, 2, 10_000))
    table = histogram.table()
    assert np.array_equal(Histogram.from_edges(table["gap_low_s"], table["count"]).counts, histogram.counts)
    assert np.all(table["gap_high_s"] > table["gap_low_s"])


def test_every_edge_falls_into_the_bucket_that_it_opens_or_its_neighbour():
    histogram = Histogram()
    histogram.add(EDGES_S[1:-1] * 1.0005)
    assert np.array_equal(histogram.counts[1:], np.ones(BUCKETS - 1))


def test_nothing_counted_has_no_quantile():
    assert math.isnan(Histogram().quantile(0.99))


@pytest.mark.parametrize("value", [math.nan, -1e-9], ids=["NaN", "negative"])
def test_what_is_not_a_duration_is_refused(value):
    with pytest.raises(ValueError, match="negative or NaN"):
        Histogram().add([0.1, value])
