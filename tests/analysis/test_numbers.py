"""NaN is "no data" everywhere, and null in JSON; quantiles of the normal distribution stand once."""

import json
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pytest

from analysis.numbers import Z95, Z99, known, parse_seconds, plain, read_number, told_number


@dataclass(frozen=True)
class Record:
    value: float
    rows: tuple[float, ...]
    private: str = "not shown"


@pytest.mark.parametrize(
    ("value", "content"),
    [
        pytest.param(math.nan, None, id="no data is null"),
        pytest.param(-math.inf, None, id="so is what no JSON number can be"),
        pytest.param(np.float32("nan"), None, id="of numpy too"),
        pytest.param(0.0, 0.0, id="zero is a number"),
        pytest.param(np.int64(3), 3, id="a numpy number is a number"),
        pytest.param(np.array([1.0, math.nan]), [1.0, None], id="an array is a list"),
        pytest.param({1: (math.nan, True, "x", None)}, {"1": [None, True, "x", None]}, id="all the way down"),
        pytest.param(Record(math.inf, (1.5,)), {"value": None, "rows": [1.5]}, id="records by their fields"),
    ],
)
def test_plain(value: object, content: object):
    found = plain(value, skip=("private",))
    assert found == content
    assert type(found) is type(content)
    json.dumps(found, allow_nan=False)


def test_known_is_not_nan():
    assert [known(x) for x in (0.0, math.inf, math.nan)] == [True, True, False]


def test_quantiles():
    assert pytest.approx([NormalDist().inv_cdf(p) for p in (0.95, 0.99)], abs=1e-12) == [Z95, Z99]


@pytest.mark.parametrize("text", ["\u0661\u0660", "1_0", "\u0665.5", "\uff11", "1\u0660", ""])
def test_a_number_is_written_in_ascii_digits_without_underscores(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a number|could not convert"):
        read_number(text)
    assert math.isnan(parse_seconds(f"{text}m"))
    assert math.isnan(told_number(text))
    assert read_number(" -1.5e3 ") == -1500.0
