"""The interval of the target, on judges whose truth is a formula and on a small replica that may be slower than fitted."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from autoscale.recommend.choice.circumstances import at_speed
from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.interval import best_targets, target_interval
from autoscale.recommend.choice.judging import Judged, Trial, confirm
from autoscale.recommend.choice.settings import Behavior, Candidate, Setting
from autoscale.recommend.choice.space import Line, build_space
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.model.one_replica import capacity

LINE = Line(tuple(Candidate((("running", float(k)),), Behavior(300), 1, 4) for k in range(1, 41)))
PEAKS = "0.3:900,4:1200,0.3:900"


@dataclass(frozen=True)
class Formula:
    """Targets up to `limit` hold; an hour falls off a hundred with every step, but no more from `flat` on."""

    limit: float
    flat: float = math.inf

    def __call__(self, setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        assert isinstance(setting, Candidate)
        value = setting.targets[-1][1]
        hours = 100 - min(value, self.flat)
        stopped = "cost" if cost_limit_h is not None and hours > cost_limit_h else ""
        margin = 0.01 if value <= self.limit else -0.01
        kept = int(margin >= 0)
        return Trial(margin, 0.95 + margin, hours, hours, 0, 0, 0.0, 4, kept, 1, 0.0, stopped=stopped)


@pytest.mark.parametrize("near", [1, 12, 20, 40])
@pytest.mark.parametrize(
    ("judge", "tight", "best"),
    [
        pytest.param(Formula(20), 19, 20, id="one hour more than 80 is within 2 %, two are not"),
        pytest.param(Formula(40, flat=25), 24, 25, id="all looser ones cost the same: the tightest of them"),
        pytest.param(Formula(1), 1, 1, id="the tightest of the line"),
    ],
)
def test_the_best_target_is_the_loosest_that_holds_and_saves(judge, tight, best, near) -> None:
    assert CHOOSING.same == pytest.approx(1.02)
    assert CHOOSING.flat < 1.01
    assert [end[0].targets[-1][1] for end in best_targets(LINE, near, judge, 7)] == [tight, best]


def test_where_no_target_holds_there_is_no_best() -> None:
    assert best_targets(LINE, 10, Formula(0), 7) == (None, None)


@pytest.fixture(scope="module")
def decided(small):
    """A setting for the replica as fitted, and what may be chosen around it."""
    scenario = small(PEAKS, "ttft_p95=10s")
    found = choose_setting(scenario, jobs=1)
    space = build_space(
        scenario, capacity(scenario), found.static.setting.replicas, found.static.setting.replicas + 1
    )
    return scenario, found.chosen, space


def test_the_interval_grows_with_what_is_unknown_about_the_replica(decided) -> None:
    scenario, best, space = decided
    assert isinstance(best, Judged)
    signal, value = "running", 5.0  # its best queue target hardly matters: any may be the best
    chosen = replace(best, setting=replace(best.setting, targets=((signal, value),)))
    ends = [target_interval(scenario, chosen, space, scale, 2).ends[signal] for scale in (0.0, 0.05, 0.3)]
    for (low, high), (lower, higher) in pairwise(ends):
        assert lower <= low <= value <= high <= higher
    assert ends[2] != ends[0]


def test_the_choice_holds_for_a_replica_as_slow_as_the_run_allows(small, decided) -> None:
    scenario = small(PEAKS, "ttft_p95=10s")
    careful = choose_setting(scenario, jobs=1, step_scale=0.2)
    assert careful.slower == pytest.approx(CHOOSING.one_sided * 0.2)
    assert careful.chosen is not None
    assert careful.expected is not None
    assert careful.chosen.cost > decided[1].cost  # slow replicas are needed for longer
    assert careful.expected.mean("margin") >= careful.chosen.mean("margin") - 0.001
    assert careful.expected.wasted == 0
    settings = [careful.chosen.setting, decided[1].setting]
    held, broken = confirm(at_speed(scenario, careful.slower), settings, range(90, 102))
    assert held.mean("margin") > max(broken.mean("margin"), -0.01)
    said = next(r.sentence for r in careful.reasons if r.code == "careful")
    assert "16.8% slower than fitted" in said
    assert f"{careful.expected.mean('attainment'):.2%}" in said


def test_when_nothing_holds_for_the_slow_replica_the_answer_is_of_the_fitted_one_and_says_so(small) -> None:
    """An idle replica answers within 60 ms; at four times the step it misses 150 ms whatever the fleet."""
    scenario = small("0.2:600,0.8:900,0.2:600", "ttft_p95=150ms")
    found = choose_setting(scenario, jobs=1, step_scale=3.0)
    assert found.thin
    assert found.slower == 0
    assert found.chosen is not None
    assert found.expected is None
    assert "thin" in [r.code for r in found.reasons]
    assert found.answer in ("autoscale", "do_not_autoscale")
