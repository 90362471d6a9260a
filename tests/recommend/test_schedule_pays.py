"""A schedule is learned on the first days and judged on the next: where the day repeats it pays, where it does not it says so."""

import pytest

from analysis.errors import BadInput
from autoscale.profiles import load, overlay
from autoscale.recommend import scenario_of
from autoscale.recommend.answer import Decision, Point
from autoscale.recommend.billing import WITH_SCHEDULE, bill
from autoscale.recommend.choice.judging import confirm
from autoscale.recommend.choice.settings import Behavior, Candidate
from autoscale.recommend.schedule import judge, learn
from autoscale.recommend.schedule.judge import halves_s, schedule_of
from autoscale.recommend.schedule.week import Week
from autoscale.sim.engine.replicas import EngineParams
from loadgen.plan.parts import between
from loadgen.plan.traffic import LoadPlan

# four requests of ten tokens at a time, four seconds a token: one replica serves about 0.1 requests/s, and is quickly simulated
SLOW = EngineParams(
    base_s=4.0, per_sequence_s=0.0, per_kv_token_s=0.0, per_prefill_token_s=0.0, num_blocks=401, max_num_seqs=4,
    max_num_batched_tokens=2048,
)  # fmt: skip
STARTS = {"cold_start": {"node": {"median_s": 1500, "p95_s": 1500}}}
OFFICE = "0.02:28800,0.22:43200,0.02:14400"  # of a day: night, 8 to 20, night


def scenario(folder, stages: str):
    file = folder / "load.yaml"
    file.write_text(f"load: [{{stages: '{stages}'}}]\nprompt_tokens: fixed:50\noutput_tokens: fixed:10\n")
    profile = overlay(load("llama-3.1-8b-1xl4"), STARTS)
    return scenario_of(profile, traffic=file, engine=SLOW, slo="ttft_p95=60s")


def decision(asked, base):
    judged = confirm(asked, [base], [1])[0]
    return Decision("autoscale", (), Point(0.08, 1.0, 3.0, 0.1, "ttft_p95"), chosen=judged, best_hpa=judged)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(learn, "SEARCH_S", 2.0)
    monkeypatch.setattr(judge, "own_seeds", lambda *_: range(500, 503))


@pytest.mark.timeout(600)  # on a machine that may be busy
@pytest.mark.usefixtures("quick")
def test_office_hours_are_found_and_pay(tmp_path) -> None:
    asked = scenario(tmp_path, f"{OFFICE},{OFFICE}")
    base = Candidate(
        (("running", 2.0),), Behavior(3600), 4, 5
    )  # at least four at night, too: the morning comes too fast
    made = schedule_of(asked, decision(asked, base), halves_s(asked.plan), 1)
    found = made.told
    assert found.recommended, found.sentence
    assert found.holds
    assert found.otherwise < 4
    (window,) = found.windows
    assert window.from_minute < 8 * 60
    assert window.to_minute >= 19 * 60
    assert found.accelerator_hours < 0.9 * found.plain_accelerator_hours
    assert found.learned_s[1] == found.judged_s[0] == 86_400
    settings = bill(asked, decision(asked, base), "", made).settings
    plain, timed = settings["recommended"], settings[WITH_SCHEDULE]
    saved = 1 - found.accelerator_hours / found.plain_accelerator_hours
    assert timed.accelerator_hours == pytest.approx((1 - saved) * plain.accelerator_hours)
    assert plain.by_hour[3] == pytest.approx(4.0, rel=0.01)  # what it keeps at night, too
    assert timed.by_hour[3] == pytest.approx(found.otherwise, rel=0.1)
    assert timed.setting.endswith(f"else {found.otherwise}")


@pytest.mark.timeout(600)  # on a machine that may be busy
@pytest.mark.usefixtures("quick")
def test_a_day_that_does_not_repeat_gets_no_schedule(tmp_path) -> None:
    asked = scenario(tmp_path, f"{OFFICE},0.22:28800,0.02:43200,0.22:14400")
    base = Candidate((("running", 2.0),), Behavior(3600), 4, 5)
    made = schedule_of(asked, decision(asked, base), halves_s(asked.plan), 1)
    assert not made.told.recommended
    assert made.told.sentence.startswith("no schedule: ")
    assert WITH_SCHEDULE not in bill(asked, decision(asked, base), "", made).settings


@pytest.mark.usefixtures("quick")
def test_what_is_cheapest_without_a_schedule_is_found_among_schedules(tmp_path) -> None:
    asked = scenario(tmp_path, "0.05:86400,0.05:86400")
    base = Candidate((("running", 2.0),), Behavior(3600), 1, 3)
    made = schedule_of(asked, decision(asked, base), halves_s(asked.plan), 1)
    assert made.told.sentence.startswith("no schedule: the best minimum is the same at all hours")
    assert made.told.accelerator_hours <= 1.01 * made.told.plain_accelerator_hours


@pytest.mark.parametrize(
    ("days", "learn_days"), [(2, 1), (3, 1), (5, 2), (13, 6), (13.99, 7), (14, 7), (20, 7), (28, 14)]
)
def test_what_is_learned_from_is_half_of_the_days_or_weeks(days, learn_days) -> None:
    plan = LoadPlan.from_options(rate=1.0, duration_s=days * 86_400.0)
    assert halves_s(plan) == learn_days * 86_400


def test_a_day_is_too_little() -> None:
    with pytest.raises(BadInput, match="two days"):
        halves_s(LoadPlan.from_options(rate=1.0, duration_s=86_400.0))


def test_the_parts_of_a_plan_hold_what_the_whole_does(tmp_path) -> None:
    file = tmp_path / "load.yaml"
    file.write_text(
        "load:\n  - sum:\n    - ramp: {from_rps: 0, to_rps: 4, duration_s: 3600}\n"
        "    - sine: {mean_rps: 2, amplitude_rps: 1, period_s: 700, duration_s: 3000}\n"
    )
    whole = LoadPlan.from_file(file)
    first, second = between(whole, 0, 1234), between(whole, 1234, 3600)
    assert first.expected_requests + second.expected_requests == pytest.approx(whole.expected_requests)
    for at_s in (0, 100, 1500, 2365):
        assert second.rate(at_s) == pytest.approx(whole.rate(at_s + 1234))
    assert second.begins_s == 1234


def test_a_schedule_is_never_judged_on_what_it_learned(tmp_path) -> None:
    asked = scenario(tmp_path, f"{OFFICE},{OFFICE}")
    assert judge.halves_s(asked.plan) == 86_400
    parts = between(asked.plan, 0, 86_400), between(asked.plan, 86_400, 172_800)
    assert [part.duration_s for part in parts] == [86_400, 86_400]


def test_what_is_confirmed_lies_apart_and_ends_with_the_setting_without_windows() -> None:
    base = Candidate((("running", 2.0),), Behavior(), 1, 5)

    def timed(replicas: int) -> learn.Timed:
        return learn.Timed(base, Week(((1,) * 8 + (replicas,) * 12 + (1,) * 4,)))

    plain = learn.Timed(base, Week(((1,) * 24,)))
    hours = {timed(2): 100.0, timed(3): 100.5, timed(4): 101.2, timed(5): 102.0, plain: 140.0}
    assert learn.finalists(hours) == [timed(2), timed(4), plain]
    many = {timed(2 + k): 100.0 * 1.02**k for k in range(30)} | {plain: 400.0}
    found = learn.finalists(many)
    assert len(found) == learn.FINALISTS + 1
    assert found[-1] == plain
