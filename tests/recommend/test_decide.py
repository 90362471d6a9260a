"""The answers, each with the figures of both sides in its sentences."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from autoscale.profiles import load
from autoscale.recommend.choice import decide, workers
from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.judging import Judged, Trial, shown_over
from autoscale.recommend.choice.reasons import kept_sentence, reasons
from autoscale.recommend.choice.scenario import Kept
from autoscale.recommend.choice.settings import Behavior, Candidate, Given, Standing
from autoscale.recommend.choice.space import build_space
from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.model.one_replica import capacity, idle_verdict, shape
from loadgen.plan.lengths import Lengths

PEAKS = "0.3:900,4:1200,0.3:900"  # a peak that outlives the start twenty times


def sentence(decision, code: str) -> str:
    return next(r.sentence for r in decision.reasons if r.code == code)


@pytest.fixture(scope="module")
def peak(small):
    """The decision on a long peak, with an HPA that is there already."""
    scenario = small(PEAKS, "ttft_p95=10s")
    manifest = Candidate((("waiting", 50),), Behavior(), 1, 4).manifest(scenario.profile)
    return choose_setting(scenario, current=Given(manifest), jobs=1)


def test_a_long_peak_is_worth_scaling_for(peak) -> None:
    """At 4 req/s the peak needs three replicas or more, for two fifths of the time: a fleet would idle in the rest."""
    found = peak
    assert found.answer == "autoscale"
    assert found.chosen is not None
    assert found.static is not None
    assert found.chosen.holds
    assert found.chosen.wasted == 0
    assert found.chosen.cost < 0.95 * found.static.cost
    for signal, (low, high) in found.interval.ends.items():
        assert low <= dict(found.chosen.setting.targets)[signal] <= high  # type: ignore[union-attr]
    assert [a.signal for a in found.alternatives] == ["waiting", "running", "kv_usage"]
    for alternative in found.alternatives:  # none is much cheaper than what was chosen
        assert alternative.judged is None or alternative.judged.cost > 0.95 * found.chosen.cost
    assert "standing replicas" in sentence(found, "saving")


def test_the_luck_of_the_search_costs_nothing(small, monkeypatch) -> None:
    """Only its fifth best is left of what the search found: around that the choice is found again, or as cheap a one."""
    found = decide.search
    scenario = small(PEAKS, "ttft_p95=10s")
    best = choose_setting(scenario, jobs=1).chosen

    def unlucky(*args, **kwargs):
        return found(*args, **kwargs)[4:]

    monkeypatch.setattr(decide, "search", unlucky)
    left = choose_setting(scenario, jobs=1).chosen
    assert best is not None
    assert left is not None
    assert left.cost <= (1 + CHOOSING.alike) * best.cost


def test_where_everything_with_one_minimum_fails_a_higher_one_is_searched(small, monkeypatch) -> None:
    """What the search's few days flatter costs less than anything that holds, and ends every line of more replicas."""
    competes, minima = decide.choose, []

    def choose_among(judge, found, space, *args, **kwargs):
        minima.append(space.min_replicas[0])
        left = found if len(minima) > 2 else []
        return competes(judge, left, space, *args, **kwargs)

    monkeypatch.setattr(decide, "choose", choose_among)
    found = choose_setting(small(PEAKS, "ttft_p95=10s"), jobs=1)
    assert len(minima) == 3
    assert minima[0] == minima[1] < minima[2]
    assert found.best_hpa is not None
    assert found.best_hpa.holds  # three replicas always save too little here beside four standing ones
    assert found.best_hpa.setting.min_replicas >= minima[2]


def test_a_rule_of_others_that_holds_for_less_than_what_was_found_is_the_answer(
    small, peak, monkeypatch
) -> None:
    """A page that recommends standing replicas beside a rule of thumb that keeps the SLO for less contradicts itself."""
    rules = decide.rules_of_others

    def with_a_good_one(scenario, point, cap, seeds, each, keda):
        tutorial, others = rules(scenario, point, cap, seeds, each, keda)
        [good] = shown_over(scenario, [peak.chosen.setting], seeds, each)
        return tutorial, {**others, "a good one": good}

    monkeypatch.setattr(
        decide, "choose", lambda *_args, **_kwargs: []
    )  # nothing that the search found competes
    monkeypatch.setattr(decide, "each_alone", lambda *_args: {})
    monkeypatch.setattr(decide, "rules_of_others", with_a_good_one)
    found = choose_setting(small(PEAKS, "ttft_p95=10s"), jobs=1)
    assert found.answer == "autoscale"
    assert found.chosen is not None
    assert found.chosen.setting == peak.chosen.setting
    assert found.static is not None
    assert len(found.chosen.trials) == len(found.static.trials)  # confirmed over all seeds of its own


def test_short_bursts_under_a_long_start_are_left_to_a_standing_fleet(small) -> None:
    """Two bursts of five minutes against a start of thirty: a new replica would come when its burst is over."""
    found = choose_setting(small("0.3:900,4:300,0.3:900,4:300,0.3:900", cold_s=1800), jobs=1)
    assert found.answer == "do_not_autoscale"
    assert found.chosen == found.static
    assert found.static is not None
    assert isinstance(found.static.setting, Standing)
    assert found.best_hpa is not None
    why = next(r.sentence for r in found.reasons if r.code in ("no_setting_holds", "standing_is_cheaper"))
    assert f"{found.static.setting.replicas} standing replicas take {found.static.cost:.1f}" in why
    assert f"takes {found.best_hpa.cost:.1f}" in why
    assert f"set minReplicas to {found.static.setting.replicas}" in why


def test_a_cheaper_setting_that_could_not_be_confirmed_is_not_called_dearer(small, peak) -> None:
    unconfirmed = replace(peak, answer="do_not_autoscale", chosen=peak.static, best_hpa=peak.chosen)
    why = {r.code: r.sentence for r in reasons(small(PEAKS, "ttft_p95=10s"), unconfirmed)}
    assert "standing_is_cheaper" not in why
    assert "broke the SLO" in why["no_setting_holds"]
    assert f"takes {peak.chosen.cost:.1f}" in why["no_setting_holds"]


def test_an_slo_that_an_idle_replica_misses_is_infeasible(small) -> None:
    """A prompt of 64 tokens needs a step of 50 ms at least: 40 ms cannot be kept."""
    found = choose_setting(small(PEAKS, "ttft_p95=40ms"), jobs=1)
    assert found.answer == "infeasible"
    assert [r.code for r in found.reasons] == ["slo_idle"]
    assert "ttft_p95" in found.reasons[0].sentence


def test_too_small_a_maximum_is_infeasible_and_the_number_needed_is_named(small) -> None:
    found = choose_setting(small(PEAKS), max_replicas=2, jobs=1)
    assert found.answer == "infeasible"
    assert [r.code for r in found.reasons] == ["max_too_few"]
    assert "maxReplicas 2 is too few" in found.reasons[0].sentence
    needed = int(found.reasons[0].sentence.split("; ")[1].split()[0])
    assert 3 <= needed <= 6  # 4 req/s over 1.2 to 1.6 req/s per replica, and one for the bursts


def test_targets_near_what_a_signal_can_reach_are_not_offered(small) -> None:
    """8 seats: at a target of 7.3 and a tolerance of 10 % the mean would have to exceed 8."""
    scenario = small(PEAKS, "ttft_p95=30s")
    space = build_space(scenario, capacity(scenario), 4, 5)
    assert max(space.targets["running"]) <= CHOOSING.fires * 8
    assert max(space.targets["kv_usage"]) * 1.1 < 1


def test_the_attainment_replaces_the_percentiles(small) -> None:
    """Nine tenths of the requests are easier to keep than 95 of 100."""
    strict, loose = (capacity(small(PEAKS, attainment=share)).rate_rps for share in (0.99, 0.80))
    assert strict < loose


def test_an_idle_replica_keeps_a_generous_slo(small) -> None:
    assert idle_verdict(small(PEAKS)) is None


def test_the_shape_of_fixed_lengths_is_the_plans_own(small) -> None:
    assert [str(part) for part in shape(small(PEAKS).plan)] == ["uniform:48,80", "uniform:48,80"]


def test_the_current_hpa_is_judged_beside_the_choice(peak) -> None:
    """Fifty waiting requests per replica take far longer than the 10 s that the SLO allows."""
    assert peak.current is not None
    assert not peak.current.holds
    assert sentence(peak, "current").startswith("the current HPA does not keep the SLO in ")


def test_what_keeps_the_slo_but_starts_replicas_in_vain_is_not_said_to_break_it() -> None:
    """A reader compares the sentence with the attainment beside it."""
    trial = Trial(
        margin=0.04, attainment=0.99, accelerator_hours=9.0, replica_hours=9.0, wasted_scale_outs=0, flaps=0,
        longest_breach_s=0.0, peak_replicas=3, kept=1, periods=1, overrun=0.2,
    )  # fmt: skip
    setting = Standing(3)
    said = [
        kept_sentence(Judged(setting, (*[trial] * 15, last)), "days")
        for last in (
            trial,
            replace(trial, wasted_scale_outs=2),
            replace(trial, kept=0),
            replace(trial, stopped="breaches"),
        )
    ]
    assert said == [
        "keeps the SLO",
        "keeps the SLO but starts replicas in vain (in 1 of 16 days)",
        "does not keep the SLO in 1 of 16 days",
        "does not keep the SLO in 1 of 16 days",
    ]


def test_a_signal_that_cannot_hold_is_given_with_what_it_attains(small) -> None:
    """Every second request finds the batch full at 1.4 req/s: waiting 0.3 s is broken before a queue is seen."""
    found = choose_setting(small(PEAKS, "ttft_p95=300ms", cold_s=240), jobs=1)
    queue = next(a for a in found.alternatives if a.signal == "waiting")
    assert queue.judged is not None
    assert isinstance(queue.judged.setting, Candidate)
    assert not queue.judged.holds
    kept = queue.judged.mean("attainment")
    assert f"{kept:.2%} of the requests within every bound" in queue.sentence


def test_the_answer_does_not_depend_on_the_number_of_processes(small) -> None:
    scenario = small("0.3:300,4:600,0.3:300", "ttft_p95=10s")
    assert choose_setting(scenario, jobs=1) == choose_setting(scenario, jobs=2)


def test_arrivals_that_are_kept_are_drawn_once_and_are_the_plans_own(small) -> None:
    scenario, three = small(PEAKS), Standing(3)
    alone = scenario(three, 1)
    keeping = scenario.keeping()
    assert keeping.kept.under(1) is keeping.kept.under(1)
    assert keeping(three, 1) == alone
    copy = pickle.loads(pickle.dumps(keeping))  # a pickle means the same wherever it is opened
    assert copy.kept.plan is copy.plan
    assert copy(three, 1) == alone
    assert replace(keeping, plan=replace(scenario.plan, shared_prefix_tokens=32))(three, 1) != alone


def test_a_task_of_a_worker_carries_neither_the_plan_nor_what_was_drawn_of_it(small, monkeypatch) -> None:
    scenario, three = small(PEAKS), Standing(3)
    alone, kept = scenario(three, 1), Kept(scenario.plan)
    keeping = replace(scenario, kept=kept)
    list(kept.under(1))
    parcel = workers._parcel((keeping, three, 1), [kept])
    assert b"LoadPlan" in pickle.dumps(keeping)
    assert b"LoadPlan" not in parcel
    monkeypatch.setattr(workers, "_known", {})
    workers._start([Kept(scenario.plan)])
    assert workers._run(parcel) == alone


def test_the_reasons_name_the_pace_and_compare_it_with_the_start(small) -> None:
    found = choose_setting(small(PEAKS, "ttft_p95=10s", cold_s=240), jobs=1)
    assert found.chosen is not None
    said = {}
    for behavior in (Behavior(1800), Behavior(120), Behavior(300, up_window_s=60), Behavior()):
        setting = Candidate((("waiting", 5),), behavior, 1, 4)
        decided = replace(found, answer="autoscale", chosen=replace(found.chosen, setting=setting))
        said[behavior.name] = {r.code: r.sentence for r in reasons(small(PEAKS, cold_s=240), decided)}
    assert "30 min, no shorter than the 4 min that a replica" in said["down 30 min"]["behavior"]
    assert "2 min, shorter than the 4 min that a replica" in said["down 2 min"]["behavior"]
    assert "behavior_up" not in said["down 2 min"]
    assert "lasted 60 s" in said["down 5 min, up after 1 min"]["behavior_up"]
    assert not {"behavior", "behavior_up"} & set(said["default"])


def test_requests_that_are_refused_as_too_long_fill_no_batch():
    profile = load("llama-3.1-70b-v6e8")
    asked = scenario_of(profile, peak_rps=1.0, lengths=("lognormal:1020,1.0", "fixed:100"))
    refused = asked.too_long()
    assert 0.05 < refused < 0.15, "of 4,096 tokens"
    rng = np.random.default_rng(1)
    prompts = np.exp(rng.normal(np.log(1020), 1.0, 100_000))
    knots = np.quantile(prompts[prompts < 4095.5], np.linspace(0.001, 0.999, 201))
    served = replace(
        asked, plan=replace(asked.plan, prompt=Lengths("quantiles", knots=tuple(knots.tolist())))
    )
    taken = capacity(asked).rate_rps * (1 - refused)
    assert taken == pytest.approx(capacity(served).rate_rps, rel=0.04)
