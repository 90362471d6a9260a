"""Token-count distributions."""

import numpy as np
import pytest

from analysis.errors import BadInput
from loadgen.plan.lengths import parse_lengths


@pytest.mark.parametrize(
    ("text", "mean", "p99"),
    [
        ("fixed:512", 512, 512),
        ("uniform:100,900", 500, 892),
        ("normal:500,100", 500, 500 + 2.326 * 100),
        ("normal:10,20", None, 10 + 2.326 * 20),  # a third of the draws is clipped at 1
        ("lognormal:129,0.9", 129 * np.exp(0.405), 129 * np.exp(0.9 * 2.3263)),
        ("lognormal:1020,1.0,4000", None, 4000),
        ("lognormal:7,0", 7, 7),
        ("quantiles:10,20,100,1000", (15 + 60 + 550) / 3, 973),
    ],
)
def test_draws_have_the_stated_mean_and_p99(text, mean, p99):
    lengths = parse_lengths(text)
    drawn = lengths.draw(np.random.default_rng(1), 400_000)
    assert drawn.dtype == np.int32
    assert drawn.min() >= 1
    assert drawn.mean() == pytest.approx(lengths.mean(), rel=0.01)
    assert np.percentile(drawn, 99) == pytest.approx(lengths.p99(), rel=0.02)
    assert lengths.p99() == pytest.approx(p99, rel=1e-3)
    if mean is not None:
        assert lengths.mean() == pytest.approx(mean, rel=1e-3)
    assert str(parse_lengths(str(lengths))) == str(lengths)


def test_the_median_of_a_lognormal_is_its_first_number():
    drawn = parse_lengths("lognormal:1020,1.0").draw(np.random.default_rng(2), 100_000)
    assert np.median(drawn) == pytest.approx(1020, rel=0.015)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lognorm:3,1", "unknown length distribution: 'lognorm:3,1'; expected .* Did you mean lognormal:M,S"),
        ("fixed:1e30", "at least 1, each at most 1,073,741,824"),
        ("fixed:0", "'fixed:0'; expected fixed:N with a whole number of tokens of at least 1"),
        ("fixed:1.5", "fixed:N"),
        ("fixed", "fixed:N"),
        ("uniform:9,3", "1 <= A <= B"),
        ("normal:5", "normal:MEAN,DEVIATION"),
        ("lognormal:5,x", "lognormal:MEDIAN,SIGMA"),
        ("quantiles:5", "at least two lengths"),
        ("quantiles:5,4", "none below the one before"),
        ("lognormal:5,50", "sigma of the log <= 5"),
        ("fixed:nan", "fixed:N"),
        ("trace:3", "trace alone"),
        ("", "unknown length distribution"),
    ],
)
def test_a_bad_distribution_is_answered_with_the_form_expected(text, sentence):
    with pytest.raises(BadInput, match=sentence):
        parse_lengths(text)


def test_many_quantiles_are_told_by_mean_and_p99():
    many = parse_lengths(
        "quantiles:" + ",".join(str(10 * k) for k in range(1, 102))
    )  # evenly from 10 to 1,010
    assert many.in_words == "mean 510, p99 1,000"
    for told in ("quantiles:1,90,400,7000", "fixed:512", "lognormal:600,1"):
        assert parse_lengths(told).in_words == told
