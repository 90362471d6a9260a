"""What the web page shows of a load: the form's fields, what is refused of them, latencies over time."""

import argparse
import itertools
import math

import numpy as np
import pytest

from analysis.run import read
from loadgen.in_locust import form
from loadgen.run.measured import RequestRow
from loadgen.run.option_table import FIRST_IN_FORM, add_arguments, in_form
from loadgen.run.sending import MOST_INTERVALS, LatencyCourse
from tests.loadgen.test_probing import RECORDED


def parsed():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return argparse.Namespace(**vars(parser.parse_args([])), run_time=None)


def test_the_form_begins_with_the_few_that_most_loads_need_and_shows_each_option_once():
    names = [name for name, *_ in form.fields()]
    assert tuple(names[: len(FIRST_IN_FORM)]) == FIRST_IN_FORM
    assert sorted(names) == sorted(name for name, shown in in_form().items() if shown)
    groups = [group for _, group, _ in form.fields()]
    assert sum(a != b for a, b in itertools.pairwise(groups)) == len(set(groups)) - 1
    assert not any("%%" in text or "help" in name for name, _, text in form.fields())


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"stages": "1:60", "slo": "ttft_p95=2s", "stream": "true"}, None),
        ({"rate": ""}, None),
        ({"stages": "1"}, "--stages"),
        ({"timeout": "soon"}, "--timeout: 'soon'; expected a number"),
        ({"seed": "1.5"}, "--seed: '1.5'; expected a whole number"),
        ({"stream": "false", "slo": "ttft_p95=2s", "rate": "1"}, "--no-stream and --slo"),
        ({"find_capacity": "10m"}, "--find-capacity without --slo"),
    ],
)
def test_an_entry_that_is_wrong_is_a_sentence(entries, said):
    found = form.problem(entries, parsed())
    assert found is None if said is None else said in found


def rows_of(recorded):
    names = [name for name in RequestRow._fields if name in recorded.requests]
    for row in (
        recorded.requests[names]
        .astype(object)
        .where(recorded.requests[names].notna(), None)
        .to_dict("records")
    ):
        times = {
            k: math.nan if row.get(k) is None else row[k]
            for k in ("due_s", "sent_s", "first_token_s", "last_token_s", "given_up_s")
        }
        yield RequestRow(**{**dict.fromkeys(RequestRow._fields), **row, **times})


def test_the_course_has_the_percentiles_of_the_recorded_answers():
    recorded = read(RECORDED)
    course = LatencyCourse()
    course.add(rows_of(recorded))
    ok = recorded.requests[recorded.requests["status"] == "ok"]
    ttft = (ok["first_token_s"] - ok["due_s"]).groupby((ok["last_token_s"] // 1).astype(int))
    shown = {round(row.end_s) - 1: row for row in course.rows("TTFT")}
    assert set(shown) == set(ttft.groups)
    for second, values in ttft:
        for value, fraction in ((shown[second].p50_s, 0.5), (shown[second].p95_s, 0.95)):
            exact = np.quantile(values.astype(float), fraction, method="inverted_cdf")
            assert value == pytest.approx(exact, rel=0.06)  # two digits
    assert {row.end_s for row in course.rows("TPOT")} <= {row.end_s for row in course.rows("TTFT")}


def test_a_long_run_has_no_more_intervals_than_a_chart_can_show():
    course = LatencyCourse()
    first = next(row for row in rows_of(read(RECORDED)) if row.status == "ok")
    for hour in range(8):
        at_s = 3600.0 * hour
        course.add([first._replace(due_s=at_s, first_token_s=at_s + 1, last_token_s=at_s + 2)])
    rows = course.rows("TTFT")
    assert len(rows) == 8
    assert rows[-1].end_s <= MOST_INTERVALS * 256
    assert {row.p50_s for row in rows} == {1.0}
