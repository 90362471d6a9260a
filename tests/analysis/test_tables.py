"""Columns as a run's tables hold them."""

import pyarrow as pa
import pytest

from analysis import run


@pytest.mark.parametrize(
    ("column", "given", "held"),
    [
        pytest.param("request_id", [7, None, 9], [7, None, 9], id="an int that is not there"),
        pytest.param("request_id", [2**53 + 1], [2**53 + 1], id="an int that no float holds"),
        pytest.param("due_s", [1.5, None, float("nan")], [1.5, None, None], id="nan is nothing"),
        pytest.param("due_s", [1, 2.5], [1.0, 2.5], id="an int among floats"),
        pytest.param("due_s", [None] * 9, [None] * 9, id="more than a byte of nothing"),
        pytest.param("due_s", [], [], id="no row"),
    ],
)
def test_numbers_of_a_list_are_held_as_they_are(column, given, held):
    table = run.arrow_table("requests", {column: given})
    table.validate(full=True)
    assert table[column].to_pylist() == held
    assert table[column].null_count == held.count(None)
    assert table["error"].to_pylist() == [None] * len(given)


@pytest.mark.parametrize(
    "given", [pytest.param([2**63], id="beyond 64 bits"), pytest.param(["x"], id="a text")]
)
def test_what_does_not_fit_is_refused(given):
    with pytest.raises((pa.ArrowException, OverflowError, ValueError, TypeError)):
        run.arrow_table("requests", {"request_id": given})
