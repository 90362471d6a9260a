"""A day that nobody scraped, in a real Prometheus: when its requests came is taken from other days."""

import numpy as np
import pytest

from autoscale.history.arrivals import CameIn
from autoscale.history.learned import learn_traffic
from autoscale.history.service import find_service
from autoscale.history.silences import with_stand_ins
from benchmarks import backfill
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.traffic import LoadPlan
from tests.history.test_learned import needs_prometheus

DAY_S, DAYS = 86_400.0, 14
MONDAY = 1_790_000_000.0 // (7 * DAY_S) * 7 * DAY_S + 4 * DAY_S
SILENT = 9  # the second Wednesday
BETWEEN_S = 120.0


def rate_rps(at_s):
    """Busy from 8 to 20 on weekdays, on Wednesdays by half as much again; quiet on weekends."""
    day, hour = at_s // DAY_S % 7, at_s % DAY_S // 3600
    busy = (day < 5) & (hour >= 8) & (hour < 20)
    return np.where(busy, np.where(day == 2, 3.0, 2.0), 0.2)


def past(folder, *, replaced):
    """One pod at a time over a fortnight, scraped every two minutes but on the silent day; in it the pod may be replaced."""
    at_s = np.arange(BETWEEN_S, DAYS * DAY_S, BETWEEN_S)
    came = np.cumsum(rate_rps(at_s - BETWEEN_S / 2) * BETWEEN_S)
    rows = {
        "vllm:request_success_total": [],
        "vllm:num_requests_running": [],
        "vllm:num_requests_waiting": [],
    }
    new = came[np.searchsorted(at_s, (SILENT + 0.5) * DAY_S)]
    for t, total in zip(at_s[(at_s // DAY_S) != SILENT], came[(at_s // DAY_S) != SILENT], strict=True):
        other = replaced and t > SILENT * DAY_S
        labels = f'{{model_name="m",pod="vllm-{"b" if other else "a"}"}}'
        for name, of_name in rows.items():
            value = total - new * other if name.endswith("total") else 0
            of_name.append(f"{name}{labels} {value:.0f} {MONDAY + t:.0f}")
    lines = [
        line
        for name, of_name in rows.items()
        for line in (
            f"# TYPE {name.removesuffix('_total')} {'counter' if 'total' in name else 'gauge'}",
            *of_name,
        )
    ]
    (folder / "text").write_text("\n".join([*lines, "# EOF", ""]))
    return folder / "text"


@pytest.mark.parametrize(
    ("replaced", "said"),
    [
        (False, "by the counters 138,276 requests came, taken to have come when they do on the same"),
        (
            True,
            "replicas ended or restarted meanwhile: 138,276 requests are taken to have come, as on the same",
        ),
    ],
    ids=["the pod outlives it", "the pod is replaced in it"],
)
def test_a_day_that_nobody_scraped_is_as_the_other_weeks_day(tmp_path, replaced, said):
    # a Wednesday has 12 h at 3/s and 12 h at 0.2/s: 138,240 requests; the silence is three minutes longer, at 0.2/s
    needs_prometheus()
    with backfill.prometheus(past(tmp_path, replaced=replaced), tmp_path) as url:
        learned = learn_traffic(find_service(url, DAYS * DAY_S, until=MONDAY + DAYS * DAY_S), [])
    assert learned.came.lost.any() == replaced
    assert learned.gap_share == pytest.approx(1 / DAYS, abs=0.005)
    (told,) = [one for one in learned.sentences() if one.startswith("nothing was scraped from")]
    assert "from 2026-09-29 23:58 to 2026-10-01 00:01 UTC (24.1 h)" in told
    assert f"{said} weekday's other weeks" in told
    (tmp_path / "traffic.yaml").write_text(learned.yaml(parse_lengths("300"), parse_lengths("60")))
    plan = LoadPlan.from_options(load_file=tmp_path / "traffic.yaml")
    hours = SILENT * DAY_S + 3600.0 * np.arange(24)
    inside = (hours[:, None] + np.arange(900.0, 2700.0, 60.0)).ravel()
    assert plan.rate(inside) == pytest.approx(plan.rate(inside - 7 * DAY_S), rel=0.03)
    assert learned.came.mean_replicas == pytest.approx(1.0, abs=0.01)


def came_in_hours(counts, gap, lost=()):
    gap = np.isin(np.arange(len(counts)), gap)
    return CameIn(0.0, 3600.0, np.asarray(counts, float), gap, gap & bool(lost), np.ones(len(counts)), 15.0)


@pytest.mark.parametrize(
    ("days", "gap", "lost", "expected", "said"),
    [
        # Mon, Tue, Wed of 24 hours at 1 to 24; Tue from 6 to 12 told as 6 x 15
        (3, range(30, 36), False, np.arange(7, 13) * 90 / 57, "the other days of its kind"),
        (3, range(30, 36), True, np.arange(7, 13) * 90 / 57, "replicas ended or restarted"),  # 57 < 90
        (1, range(6, 12), False, np.full(6, 15.0), "no other day tells the whole of that time"),
    ],
    ids=["as on weekdays, no more than the counters grew", "at least what is told", "no other day"],
)
def test_a_silence_of_hours_has_the_course_of_other_days(days, gap, lost, expected, said):
    counts = np.tile(np.arange(1.0, 25.0), days)
    counts[list(gap)] = 15.0
    (came, notes) = with_stand_ins(came_in_hours(counts, gap, [lost] * lost), MONDAY)
    assert came.counts[list(gap)] == pytest.approx(expected)
    assert said in notes[0]
    others = np.setdiff1d(np.arange(len(counts)), gap)
    assert (came.counts[others] == counts[others]).all()


def test_where_a_replica_ended_as_many_are_taken_as_on_other_days():
    counts = np.tile(np.full(24, 10.0), 3)
    counts[30:36] = 2.0
    came, _ = with_stand_ins(came_in_hours(counts, range(30, 36), [True]), MONDAY)
    assert came.counts[30:36] == pytest.approx(10.0)
