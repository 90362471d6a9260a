"""The search finds the cheapest setting that holds, on a judge whose truth is a formula."""

import math
from dataclasses import dataclass, replace

import pytest

from autoscale.recommend.choice import confirming
from autoscale.recommend.choice.choice import choose
from autoscale.recommend.choice.confirming import Confirming, Trials
from autoscale.recommend.choice.judging import Judged, Trial, confirm, shown_over
from autoscale.recommend.choice.panel import Panel, hardest_first
from autoscale.recommend.choice.search import loosest, search, static_fleet
from autoscale.recommend.choice.settings import Behavior, Candidate, Setting, Standing, behaviors, quantity
from autoscale.recommend.choice.space import Space


def trial(margin: float, cost: float, *, wasted: int = 0, stopped: str = "") -> Trial:
    return Trial(
        margin=margin,
        attainment=0.95 + margin,
        accelerator_hours=cost,
        replica_hours=cost,
        wasted_scale_outs=wasted,
        flaps=0,
        longest_breach_s=0.0,
        peak_replicas=1,
        kept=int(margin >= 0),
        periods=1,
        overrun=1 - margin / 0.05,
        stopped=stopped,
    )


@dataclass(frozen=True)
class Formula:
    """Cost falls and breaches grow with the target; KV is the better signal by construction."""

    best_kv: float = 0.61
    best_waiting: float = 8.0

    def __call__(self, setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        if isinstance(setting, Standing):
            return trial(0.01 if setting.replicas >= 5 else -0.1, 24.0 * setting.replicas)
        signal, value = setting.targets[-1]
        limit = {"kv_usage": self.best_kv, "waiting": self.best_waiting}[signal]
        floor = {"kv_usage": 50.0, "waiting": 70.0}[signal]
        cost = floor + 20 * (1 - value / limit) + 10 * (setting.min_replicas - 1)
        if cost_limit_h is not None and cost > cost_limit_h:
            return trial(math.nan, cost, stopped="cost")
        if value > limit:
            return trial(-0.01, cost, stopped="breaches")
        return trial(0.001, cost, wasted=setting.behavior.down_window_s is None)


SPACE = Space(
    targets={"kv_usage": tuple(k / 20 for k in range(2, 20)), "waiting": (1, 2, 4, 8, 16, 32)},
    behaviors=(Behavior(), Behavior(1800)),
    min_replicas=(1, 2),
    max_replicas=8,
)


def test_what_lies_above_a_minimum_begins_with_one_replica_more_and_ends_below_the_maximum() -> None:
    space = replace(SPACE, min_replicas=(1, 4), beginnings=((Behavior(), 1, 8), (Behavior(), 4, 5)))
    above = space.above(2)
    assert above is not None
    assert above.min_replicas == (3, 4)
    assert above.beginnings == ((Behavior(), 3, 8), (Behavior(), 4, 5))
    assert space.above(7) is None  # eight replicas, always


def test_the_static_fleet_is_the_smallest_that_holds() -> None:
    count, tried = static_fleet(Formula(), start=3, limit=16)
    assert count == 5
    assert not tried[4].holds


def test_no_static_fleet_holds_within_the_limit() -> None:
    assert static_fleet(Formula(), start=2, limit=4)[0] is None


def test_bisection_finds_the_loosest_target_that_holds() -> None:
    line = SPACE.line(((), "kv_usage"), SPACE.behaviors[1], 1)
    best, tried = loosest(Formula(), line, math.inf)
    assert best is not None
    assert best.targets == (("kv_usage", 0.6),)  # 0.65 breaks the limit of 0.61
    assert len(tried) <= 5  # 18 targets: at most ceil(log2(19)) trials


def test_a_line_dearer_than_the_limit_holds_nothing() -> None:
    assert loosest(Formula(), SPACE.line(((), "waiting"), SPACE.behaviors[1], 1), cost_limit_h=60)[0] is None


def test_the_search_ends_at_the_cheapest_setting_that_wastes_nothing() -> None:
    best, outcome = search(Formula(), SPACE, static_cost_h=120.0)[0]
    assert best == Candidate((("kv_usage", 0.6),), SPACE.behaviors[1], 1, 8)
    assert outcome.wasted_scale_outs == 0


def test_confirming_uses_the_same_seeds_for_every_setting() -> None:
    seeds: list[tuple[object, int]] = []

    def judge(setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        seeds.append((setting, seed))
        return trial(0.01 * seed, 10)

    three, four = Standing(3), Standing(4)
    judged = confirm(judge, [three, four], seeds=[1, 2, 3])
    assert seeds == [(three, 1), (three, 2), (three, 3), (four, 1), (four, 2), (four, 3)]
    assert judged[0].mean("margin") == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("broken", "of", "holds"),
    [
        pytest.param(0, 3, True, id="three seeds speak against nothing"),
        pytest.param(1, 3, False, id="one of three does"),
        pytest.param(0, 59, True, id="0.95^59 is below 5 %"),
        pytest.param(1, 64, False, id="64 seeds allow no failure"),
        pytest.param(1, 93, True, id="0.95^93 + 93 * 0.05 * 0.95^92 is below 5 %"),
        pytest.param(4, 200, True, id="four of 200: the binomial's tail is 2.6 %"),
        pytest.param(5, 200, False, id="five of 200: 6.2 %"),
    ],
)
def test_a_setting_holds_when_its_seeds_show_the_days_that_are_kept(
    broken: int, of: int, holds: bool
) -> None:
    margins = [-0.02] * broken + [0.01] * (of - broken)
    assert Judged(Standing(1), tuple(trial(m, 10) for m in margins)).holds is holds


def test_a_setting_whose_worst_days_break_by_far_does_not_hold() -> None:
    """Four of 200 days break, as few as 95 % of the days allow; but with most of their requests over the bound."""
    margins = [-0.9] * 4 + [0.01] * 196
    assert not Judged(Standing(1), tuple(trial(m, 10) for m in margins)).holds


def test_few_replicas_may_be_started_in_vain() -> None:
    judged = [Judged(Standing(1), tuple(trial(0.01, 10, wasted=k < n) for k in range(64))) for n in (3, 4)]
    assert [j.holds for j in judged] == [True, False]  # 5 % of 64 are 3.2


def test_few_replicas_may_be_started_in_vain_in_the_days_of_long_traffic() -> None:
    """Four simulations of 20 days with one or two starts in vain in each: 5 % of 80 days are 4."""
    of = [replace(trial(0.01, 10, wasted=1), kept=20, periods=20, wasted_scale_outs=n) for n in (1, 2)]
    assert [Judged(Standing(1), (one,) * 4).holds for one in of] == [True, False]


@pytest.mark.parametrize(
    ("value", "text"),
    [(5, "5"), (5.5, "5500m"), (0.504, "504m"), (0.85, "850m"), (5.0, "5"), (1000, "1000")],
)
def test_targets_are_written_as_quantities(value: float, text: str) -> None:
    assert quantity(value) == text


@pytest.mark.parametrize(
    ("cold_start_s", "windows"),
    [
        pytest.param(120, [120, 240, 300, 600, 1800, 3600], id="two minutes: a window of four outlives it"),
        pytest.param(1200, [120, 300, 600, 1560, 1800, 3600], id="twenty minutes"),
        pytest.param(
            5400, [120, 300, 600, 1800, 3600], id="ninety minutes do not fit the API's longest window"
        ),
    ],
)
def test_behaviours_include_a_window_that_outlives_the_start(cold_start_s: float, windows: list[int]) -> None:
    assert [b.down_window_s for b in behaviors(cold_start_s)] == [None, *windows]


@dataclass(frozen=True)
class Lucky:
    """Holds up to KV 0.6 on the search's seeds, on the confirming ones (below 1000) only up to 0.5."""

    def __call__(self, setting: Candidate, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        value = setting.targets[-1][1]
        limit = 0.6 if seed >= 1000 else 0.5
        return trial(0.001 if value <= limit else -0.001, 100 * (1 - value))


def test_a_choice_that_was_only_lucky_gives_way_to_its_next_tighter_target() -> None:
    line = SPACE.line(((), "kv_usage"), SPACE.behaviors[1], 1)
    judge = Lucky()
    found = [(s, judge(s, 1000)) for s in line.settings if s.targets[-1][1] >= 0.55]
    judged = choose(judge, found, SPACE, seeds=range(1, 5))
    assert judged[0].holds
    assert judged[0].setting.targets == (("kv_usage", 0.5),)
    assert len(judged[0].trials) == 4
    assert [len(j.trials) for j in judged if not j.holds] == [2, 2]  # hopeless after two seeds


def test_settings_that_did_the_same_are_judged_once_and_as_the_simplest() -> None:
    """A queue target that never decided anything adds nothing to the other signal."""
    alone = Candidate((("kv_usage", 0.5),), SPACE.behaviors[1], 1, 8)
    beside = Candidate((("waiting", 16), ("kv_usage", 0.5)), SPACE.behaviors[1], 1, 8)
    found = [(setting, Lucky()(setting, 1000)) for setting in (beside, alone)]
    assert [j.setting for j in choose(Lucky(), found, SPACE, seeds=range(1, 5), widen=False)] == [alone]


def test_what_holds_leads_to_what_costs_less() -> None:
    """The search left off at 0.3 with two replicas at least: one replica and 0.5 hold, too."""

    def judge(setting: Candidate, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        return Lucky()(setting, seed) if setting.min_replicas == 1 else trial(0.002, 90)

    start = Candidate((("kv_usage", 0.3),), SPACE.behaviors[1], 2, 8)
    found = [(start, judge(start, 1000))]
    judged = choose(judge, found, SPACE, seeds=range(1, 5))
    assert judged[0].setting == Candidate((("kv_usage", 0.5),), SPACE.behaviors[1], 1, 8)
    assert [j.setting for j in choose(judge, found, SPACE, seeds=range(1, 5), widen=False)] == [start]


def confirmed(
    judge, judged, near=(21, 22), own=range(101, 165), also=None, further=(), fitted=None, worth_h=math.inf
) -> Judged | None:
    fitted = own if fitted is None else fitted
    trials = Trials(
        judge, [judge], range(1, 9), near, own, also=also, further=further, fitted=fitted, worth_h=worth_h
    )
    return Confirming(SPACE, trials).best(judged)


def test_the_choice_holds_over_seeds_that_it_was_not_chosen_on(monkeypatch) -> None:
    """Up to seed 8 everything to 0.6 holds, beyond it 0.5 is the loosest: 0.6 and 0.55 were lucky."""

    def judge(setting: Candidate, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        value = setting.targets[-1][1]
        return trial(0.001 if value <= (0.6 if seed <= 8 else 0.5) else -0.004, 100 * (1 - value))

    line = SPACE.line(((), "kv_usage"), SPACE.behaviors[1], 1)
    loose = [s for s in line.settings if s.targets[-1][1] in (0.6, 0.55)]
    judged = confirm(judge, loose, range(1, 9))
    best = confirmed(judge, judged)
    assert best is not None
    assert best.setting.targets == (("kv_usage", 0.5),)
    assert len(best.trials) == 64
    monkeypatch.setattr(confirming, "CHOOSING", replace(confirming.CHOOSING, confirmed_at_most=2))
    assert confirmed(judge, judged) is None


def test_of_settings_that_cost_the_same_the_one_with_steady_neighbours_is_chosen() -> None:
    """0.5 holds and is the cheapest, but 0.55 breaks; what is tighter costs a per mille more, and 10 % looser it holds."""

    def judge(setting: Candidate, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        value, low = setting.targets[-1][1], setting.min_replicas
        edge = 0.5 if low == 1 else 0.7
        return trial(0.001 if value <= edge else -0.01, 100 + 2 * (low - 1) - value)

    start = Candidate((("kv_usage", 0.5),), SPACE.behaviors[1], 1, 8)
    best = confirmed(judge, confirm(judge, [start], range(1, 9)))
    assert best is not None
    assert 1.1 * best.setting.targets[-1][1] <= 0.5


def test_what_would_not_be_chosen_at_its_cost_is_not_confirmed() -> None:
    """0.5 costs 55: nothing that costs as much is tried on seeds of its own; below 55 and a bit it is, and 0.45, which is steadier and dearer, is not."""
    seen = []

    def judge(setting: Candidate, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        value = setting.targets[-1][1]
        seen.append((value, seed))
        return trial(0.001 if value <= 0.5 else -0.01, 100 - 90 * value + 5 * (setting.min_replicas - 1))

    start = Candidate((("kv_usage", 0.5),), SPACE.behaviors[1], 1, 8)
    judged = confirm(judge, [start], range(1, 9))
    assert confirmed(judge, judged, worth_h=55.0) is None
    assert {seed for _, seed in seen} == set(range(1, 9))
    best = confirmed(judge, judged, worth_h=55.0 + 1e-6)
    assert best is not None
    assert best.setting == start
    assert (0.45, 101) not in seen


def test_long_traffic_is_looked_at_as_fitted_over_the_hardest_seeds_alone() -> None:
    """64 days allow no failure: one among the sixteen hardest rules 0.6 out, which the slower replica holds on all."""
    seen = []

    def fitted(setting: Candidate, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        seen.append(seed)
        return trial(0.001 if setting.targets[-1][1] <= 0.5 or seed != 110 else -0.001, 90)

    def slower(setting: Candidate, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        return trial(0.001 if setting.targets[-1][1] <= 0.6 else -0.001, 100 * (1 - setting.targets[-1][1]))

    start = Candidate((("kv_usage", 0.6),), SPACE.behaviors[1], 1, 8)
    best = confirmed(slower, confirm(slower, [start], range(1, 9)), also=fitted, fitted=range(101, 117))
    assert best is not None
    assert best.setting.targets[-1][1] <= 0.5
    assert len(best.trials) == 64
    assert set(seen) <= set(range(101, 117))


def test_a_failure_that_eight_seeds_did_not_show_is_found_on_the_own_ones() -> None:
    """Every twelfth seed breaks: what was judged over seeds 1 to 8 held."""

    def judge(setting: Candidate, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        value = setting.targets[-1][1]
        kept = value <= 0.5 or seed % 12
        return trial(0.03 if kept else -0.08, 100 * (1 - value) + 5 * setting.min_replicas)

    setting = Candidate((("kv_usage", 0.6),), SPACE.behaviors[1], 1, 8)
    judged = confirm(judge, [setting], range(1, 9))
    assert judged[0].holds
    best = confirmed(judge, judged)
    assert best is not None
    assert best.setting.targets == (("kv_usage", 0.5),)


def test_what_replaces_a_choice_holds_over_as_many_seeds_more() -> None:
    """0.6 is lucky on all of its own 64 seeds, and breaks every twelfth of those beyond."""

    def judge(setting: Candidate, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        value = setting.targets[-1][1]
        kept = value <= 0.5 or seed < 165 or seed % 12
        return trial(0.03 if kept else -0.08, 100 * (1 - value) + 5 * setting.min_replicas)

    setting = Candidate((("kv_usage", 0.6),), SPACE.behaviors[1], 1, 8)
    judged = confirm(judge, [setting], range(1, 9))
    for further, target in (((), 0.6), (range(165, 229), 0.5)):
        best = confirmed(judge, judged, further=further)
        assert best is not None
        assert best.setting.targets == (("kv_usage", target),)
        assert len(best.trials) == 64  # its figures are over the seeds of all rows


@pytest.mark.parametrize("wide", [True, False])
def test_what_is_alike_is_tried_on_the_seed_that_broke_the_latest_and_no_further(wide: bool) -> None:
    """0.6 breaks on its first two own seeds, so does 0.55: the second of them tells, where trials take long of what is tighter, too."""
    seen = set()

    def judge(setting: Candidate, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        value = setting.targets[-1][1]
        seen.add((value, setting.min_replicas, seed))
        return trial(-0.001 if value > 0.5 and seed in (101, 102) else 0.001, 100 * (1 - value))

    line = SPACE.line(((), "kv_usage"), SPACE.behaviors[1], 1)
    judged = confirm(judge, [s for s in line.settings if s.targets[-1][1] in (0.6, 0.55)], range(1, 9))
    trials = Trials(judge, [judge], range(1, 9), (21, 22), range(101, 165), fitted=range(101, 165))
    best = Confirming(replace(SPACE, wide=wide), trials).best(judged)
    assert best is not None
    assert best.setting.targets == (("kv_usage", 0.5),)
    assert {(0.6, 1, 101), (0.6, 1, 102), (0.55, 1, 102)} <= seen
    assert (0.55, 1, 101) not in seen


def edged(setting: Candidate, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
    """Cheaper with the target, up to an edge that a few seeds draw nearer, and that lies farther where growth waits."""
    value, calm = setting.targets[-1][1], setting.behavior.up_window_s > 0
    edge = (0.71 if calm else 0.51) - 0.05 * (seed % 40 == 0)  # of 311 seeds eight: nine may break
    return trial(edge - value, 100 - 40 * value + 10 * setting.min_replicas + seed % 7)


OWN = Trials(edged, [edged], range(1, 9), (21, 22), range(101, 412))


def test_what_the_search_left_behind_is_found_around_the_choice() -> None:
    start = Candidate((("kv_usage", 0.4),), SPACE.behaviors[1], 1, 8)
    best = Confirming(SPACE, OWN).cheaper(confirm(edged, [start], OWN.own)[0], None)
    assert best is not None
    assert best.setting == replace(start, targets=(("kv_usage", 0.7),), behavior=best.setting.behavior)
    assert best.setting.behavior.up_window_s > 0
    assert (len(best.trials), best.broken, best.holds) == (311, 8, True)
    again = Confirming(SPACE, OWN).cheaper(best, None)
    assert again is not None
    assert again.setting == best.setting


def test_without_a_choice_one_is_looked_for_around_what_failed_least_and_only_for_what_it_is_worth() -> None:
    start = Candidate((("kv_usage", 0.6),), SPACE.behaviors[1], 1, 8)
    for worth_h, found in ((90.0, 0.7), (80.0, None)):
        confirming = Confirming(SPACE, replace(OWN, worth_h=worth_h))
        assert confirming.sure(start) is None
        best = confirming.cheaper(None, None)
        assert (best and best.setting.targets[-1][1]) == found
    assert Confirming(SPACE, OWN).cheaper(None, None) is None


def test_how_bad_the_worst_days_are_decides_not_that_one_was_stopped() -> None:
    """One day of 311 breaks the SLO by far: its trial is run to the end, and the sixteen worst are bounded on average."""

    def judge(setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        if seed == 200:
            return trial(-0.2, 10, stopped="" if cost_limit_h is None else "breaches")
        return trial(0.01, 10)

    shown = shown_over(judge, [Standing(4)], range(311))[0]
    assert (shown.given_up, shown.broken, shown.holds) == (False, 1, True)
    assert shown.worst == pytest.approx((5 + 15 * 0.8) / 16)


def test_rows_see_the_same_seeds_until_they_cannot_hold() -> None:
    def judge(setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        return trial(0.01 if setting == Standing(4) or seed < 20 else -0.01, 10)

    good, bad = shown_over(judge, [Standing(4), Standing(3)], range(64))
    assert (len(good.trials), good.holds) == (64, True)
    assert (len(bad.trials), bad.holds) == (32, False)  # 2, 8, 16, 32: seed 20 is among the last sixteen


def test_the_hardest_seeds_come_first_and_then_one_more_may_break() -> None:
    """153 seeds allow three failures: two of the first two are given up, unless these are the hardest of all."""

    def judge(setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        return trial(-0.01 if seed < 3 else 0.01 * seed, 10)

    seeds = range(153)
    assert len(shown_over(judge, [Standing(4)], seeds)[0].trials) == 2
    whole = shown_over(judge, [Standing(4)], seeds, hardest=True)[0]
    assert (len(whole.trials), whole.holds) == (153, True)
    order = hardest_first(confirm(judge, [Standing(3)], range(5, 0, -1))[0], range(5, 0, -1))
    assert order == (1, 2, 3, 4, 5)


def test_what_an_easier_panel_tried_is_not_tried_again() -> None:
    """What held by 0.002 holds no more where 0.004 is asked; what was stopped for its cost may be cheap enough now."""
    before, now = Panel(Formula(), 1), Panel(Formula(), 1, caution=1.0, spread=0.004)
    by = {
        Standing(n): made
        for n, made in enumerate([trial(0.006, 9), trial(0.002, 9), trial(0.0, 9, stopped="cost")])
    }
    seen = now.seen_before(by, before)
    assert [(s.replicas, made.holds) for s, made in seen.items()] == [(0, True), (1, False)]
    line = SPACE.line(((), "kv_usage"), SPACE.behaviors[1], 1)
    known = {s: trial(0.01 if s.targets[-1][1] <= 0.3 else -0.01, 50) for s in line.settings}
    alone = replace(
        SPACE,
        targets={"kv_usage": SPACE.targets["kv_usage"]},
        behaviors=SPACE.behaviors[1:],
        min_replicas=(1,),
    )
    best = search(Formula(), alone, 120.0, known=known)[0][0]
    assert best.targets == (("kv_usage", 0.3),)


def test_a_panel_has_the_margin_of_its_worst_seed_and_counts_every_waste() -> None:
    def judge(setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        return trial(0.01 * (seed % 10), 10.0 + seed % 10, wasted=1)

    one = Panel(judge, 3)(Standing(4), seed=0, cost_limit_h=None)
    assert one.margin == pytest.approx(0)  # 0, 0.01, 0.02
    assert one.accelerator_hours == pytest.approx(11)
    assert one.wasted_scale_outs == 3
    careful = Panel(judge, 3, caution=0.5, spread=0.004)
    assert careful(Standing(4), seed=0, cost_limit_h=None).margin == pytest.approx(-0.002)


def test_a_panel_ends_with_a_seed_that_breaks_the_slo() -> None:
    seeds: list[int] = []

    def judge(setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        seeds.append(seed)
        return trial(-0.1, 10.0)

    assert not Panel(judge, 3)(Standing(4), seed=0).holds
    assert len(seeds) == 1


def test_lines_beside_a_setting_change_one_choice_each() -> None:
    setting = Candidate((("kv_usage", 0.5),), SPACE.behaviors[0], 1, 8)
    changed = [line.settings[0] for line in SPACE.beside(setting)]
    calmer = Behavior(300, up_window_s=60)
    assert {(c.behavior, c.min_replicas, c.max_replicas) for c in changed} == {
        (SPACE.behaviors[1], 1, 8),
        (calmer, 1, 8),
        (SPACE.behaviors[0], 2, 8),
    }


def test_no_line_beside_a_setting_has_a_fixed_size() -> None:
    """A standing fleet is judged as one, not as an HPA that cannot move."""
    setting = Candidate((("kv_usage", 0.5),), SPACE.behaviors[0], 1, 2)
    changed = [line.settings[0] for line in SPACE.beside(setting)]
    assert all(c.min_replicas < c.max_replicas for c in changed)


@dataclass(frozen=True)
class Wasting:
    """As the formula, but everything looser than `until` starts replicas in vain."""

    until: float

    def __call__(self, setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        assert isinstance(setting, Candidate)
        found = Formula()(setting, seed, cost_limit_h)
        return replace(found, wasted_scale_outs=int(setting.targets[-1][1] > self.until))


def test_what_is_confirmed_must_hold_under_the_other_judge_too() -> None:
    setting = SPACE.line(((), "kv_usage"), SPACE.behaviors[1], 1).settings[10]  # 0.6
    judged = confirm(Formula(), [setting], range(4))
    alone = confirmed(Formula(), judged)
    assert alone is not None
    assert alone.setting == setting
    both = confirmed(Formula(), judged, also=Wasting(0.52))
    assert both is not None
    assert isinstance(both.setting, Candidate)
    assert both.setting.targets == (("kv_usage", 0.5),)
