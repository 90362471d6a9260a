"""Offered against sent load, as the web UI and the HTML report show it."""

import re

import numpy as np
import pytest

from loadgen.in_locust import rate_chart
from loadgen.plan.traffic import LoadPlan
from loadgen.run.sending import DueCounter

RATES = [(1.0, 20.0, 20.0), (2.0, 60.0, 45.0), (2.5, 0.0, 0.0)]


@pytest.mark.parametrize("highest", [0.3, 1.0, 7.0, 60.0, 480.0, 86_400.0])
def test_the_ticks_of_an_axis_are_few_round_and_inside(highest):
    ticks = rate_chart.ticks(highest)
    assert 3 <= len(ticks) <= 7
    assert ticks[0] == 0
    assert 0.6 * highest < ticks[-1] <= highest
    assert re.fullmatch(r"[125]0*", f"{ticks[1]:.10f}".replace(".", "").strip("0") or "1")


def test_a_chart_has_a_step_per_interval_and_rate():
    lines = re.findall(r'points="([^"]*)"', rate_chart.chart(RATES))
    offered, sent = ([tuple(map(float, p.split(","))) for p in line.split()] for line in lines)
    assert [x for x, _ in offered] == [x for x, _ in sent]
    heights = [offered[-1][1] - y for _, y in offered]  # 0, 20 and 60 requests/s above the axis
    assert heights[0] == heights[1] == pytest.approx(heights[2] / 3, abs=0.1)
    assert heights[-1] == 0
    assert sent[2][1] > offered[2][1]  # 45 lies below 60


def test_the_table_counts_what_is_missing_and_divides_by_no_zero():
    assert [row["missing"] for row in rate_chart.rate_rows(RATES)] == [100.0, 75.0, "-"]
    names = [row["name"] for row in rate_chart.rate_rows(RATES)]
    assert sorted(names) == names[::-1]  # Locust sorts by name: the newest first


@pytest.mark.parametrize("stages", ["20:3,60:2", "0.5:9", "50:2.5"])
def test_due_requests_are_counted_as_drawn(stages):
    plan = LoadPlan.from_options(stages=stages)
    due_s = np.concatenate([chunk.due_s for chunk in plan.arrivals()])
    edges_s = np.append(np.arange(0.0, plan.duration_s), plan.duration_s)
    counter = DueCounter(plan)
    assert counter.until(edges_s[:2]).tolist() == [
        0,
        np.sum(due_s < 1),
    ]  # drawn no further than asked, then on
    assert counter.until(edges_s).tolist() == [np.sum(due_s < edge) for edge in edges_s]
