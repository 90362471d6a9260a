"""The bill of a setting: a month of hours, money by the user's price, tokens, and the words in which both are shown."""

import math

import pytest

from analysis.errors import BadInput
from autoscale.bill import MONTH_H, Bill
from autoscale.cli.inputs import price_of
from autoscale.profiles import load, overlay
from autoscale.recommend import scenario_of
from autoscale.recommend.answer import Decision
from autoscale.recommend.billing import bill, billed_setting
from autoscale.recommend.choice.judging import confirm
from autoscale.recommend.choice.settings import Behavior, Candidate, Standing
from autoscale.show.bill_rows import bill_note, bill_rows, hour_rows, hours_are

L4 = load("llama-3.1-8b-1xl4")
TWO_HOURS = """
load:
  - stages: 0.3:3600,2:3600
prompt_tokens: fixed:200
output_tokens: fixed:100
"""


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    file = tmp_path_factory.mktemp("bill") / "load.yaml"
    file.write_text(TWO_HOURS)
    return scenario_of(overlay(L4, {"accelerator": {"price_per_chip_hour": 2.5}}), traffic=file)


@pytest.fixture(scope="module")
def decision(scenario):
    chosen, static = confirm(
        scenario, [Candidate((("running", 20.0),), Behavior(300), 1, 3), Standing(2)], range(1, 4)
    )
    return Decision("autoscale", (), None, chosen=chosen, static=static)


def test_a_standing_fleet_costs_its_accelerators_all_month(scenario) -> None:
    outcome = scenario.outcome(Standing(2), 1)
    made = billed_setting("two", [outcome], 0.0)
    assert made.accelerator_hours == pytest.approx(2 * MONTH_H)
    assert made.cost == pytest.approx(2 * 2.5 * MONTH_H)
    assert made.cost_by_hour[:2] == pytest.approx((5.0, 5.0))
    assert math.isnan(made.by_hour[2])
    tokens = outcome.output_tokens  # of two hours, which cost 2 x 2 x 2.5
    assert made.cost_per_million_output_tokens == pytest.approx(10.0 / tokens * 1e6)
    assert made.starting == made.wasted == 0
    assert 0 < made.idle < made.accelerator_hours


def test_the_bill_has_the_hours_that_the_comparison_has(scenario, decision) -> None:
    made = bill(scenario, decision, "EUR")
    assert set(made.settings) == {"recommended", "standing fleet"}
    for name, judged in (("recommended", decision.chosen), ("standing fleet", decision.static)):
        assert made.settings[name].accelerator_hours == pytest.approx(judged.cost * MONTH_H / 2)
    chosen = made.settings["recommended"]
    assert sum(chosen.by_hour[:2]) / 2 * MONTH_H == pytest.approx(chosen.accelerator_hours, rel=1e-6)


def test_no_answer_no_bill(scenario) -> None:
    assert bill(scenario, Decision("infeasible", (), None), "") is None


def test_a_standing_fleet_that_is_recommended_is_billed_once(scenario, decision) -> None:
    kept = Decision("do_not_autoscale", (), None, chosen=decision.static, static=decision.static)
    assert list(bill(scenario, kept, "").settings) == ["recommended"]


def test_terminal_and_page_show_the_same_rows(scenario, decision) -> None:
    made = bill(scenario, decision, "EUR")
    rows = {row[0]: row[1:] for row in bill_rows(made.settings, made.currency)}
    standing = made.settings["standing fleet"]
    assert rows["accelerator-hours"][1] == "1,461.0" == f"{standing.accelerator_hours:,.1f}"
    assert rows["cost (EUR)"][1] == "3,652"
    assert [row[0] for row in hour_rows(made)] == ["00:00", "01:00"]
    assert "EUR" in hours_are(made)
    assert "2.5 EUR per accelerator-hour" in bill_note(made)
    assert "as if every hour were like these 2" in bill_note(made)


def test_without_a_price_there_is_no_money(scenario, decision) -> None:
    free = bill(scenario.__class__(L4, scenario.engine, scenario.plan, scenario.slo), decision, "")
    assert not any("cost" in row[0] for row in bill_rows(free.settings, free.currency))
    assert "--price" in bill_note(free)
    assert isinstance(free, Bill)


@pytest.mark.parametrize(
    ("text", "price", "currency"), [("2.5", 2.5, ""), ("2.5 EUR", 2.5, "EUR"), ("0", 0.0, "")]
)
def test_a_price_is_a_number_and_a_word(text, price, currency) -> None:
    made = price_of(text)
    assert (made.per_accelerator_hour, made.currency) == (price, currency)


@pytest.mark.parametrize(
    "text", ["EUR 2.5", "-1", "nan", "inf EUR", "", "2,5", "1 a word that is far too long", "1 \x1b[31m"]
)
def test_what_is_no_price_is_refused(text) -> None:
    with pytest.raises(BadInput, match="--price"):
        price_of(text)
