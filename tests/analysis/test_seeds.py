"""Intervals over seeds: possible values, honest ones, and none from too few."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.numbers import mean_interval, seeds_too_few

SHARE, POSITIVE = (0.0, 1.0), (0.0, math.inf)
ROWS = [
    ("shares of 86 % on average reach to 100 %, not beyond", (1.0, 0.98, 0.6), SHARE),
    ("shares near 0 stay above it", (0.0, 0.001, 0.02), SHARE),
    ("a p99 of which one seed saw a burst is a time", (0.4, 0.5, 240.0), POSITIVE),
    ("replicas started in vain in one seed of four", (0, 0, 0, 3), POSITIVE),
    ("a margin of either sign", (-0.02, 0.01, 0.03), (-1.0, 1.0)),
]


@pytest.mark.parametrize(("values", "bounds"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_the_ends_are_possible_values_around_the_mean(values, bounds):
    low, high = mean_interval(values, *bounds)
    assert bounds[0] <= low < np.mean(values) < high <= bounds[1]


@pytest.mark.parametrize("values", [(), (0.9,), (0.9, 0.95), (0.9, 0.95, math.nan)])
def test_too_few_or_unknown_values_have_no_interval(values):
    assert np.isnan(mean_interval(values, *SHARE)).all()


def test_too_few_seeds_say_so():
    assert [seeds_too_few(n) for n in (1, 2, 3)] == ["1 seed: too few", "2 seeds: too few", ""]


def test_values_that_are_all_alike_are_the_interval():
    assert mean_interval((1.0, 1.0, 1.0), *SHARE) == (1.0, 1.0)
    assert mean_interval((0, 0, 0, 0), *POSITIVE) == (0.0, 0.0)


def test_without_bounds_it_is_the_t_interval():
    values = (3.0, 4.0, 8.0)
    ends = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert mean_interval(values) == pytest.approx(ends)


@pytest.mark.parametrize(
    ("draw", "truth", "bounds"),
    [
        pytest.param(lambda g: g.beta(30, 1, 8), 30 / 31, SHARE, id="attainment of 97 % over 8 seeds"),
        pytest.param(lambda g: g.gamma(2, 3, 8), 6.0, POSITIVE, id="times that differ by 70 %"),
    ],
)
def test_nineteen_of_twenty_intervals_hold_the_mean(draw, truth, bounds):
    rng = np.random.default_rng(1)
    held = [low <= truth <= high for low, high in (mean_interval(draw(rng), *bounds) for _ in range(2000))]
    assert 0.90 < np.mean(held) < 0.98
