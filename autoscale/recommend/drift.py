"""Whether an older recommendation still holds on what is known now."""

from __future__ import annotations

from pathlib import Path

from analysis.errors import BadInput
from autoscale.recommend.answer import Decision
from autoscale.recommend.behind import system_behind
from autoscale.recommend.choice.circumstances import at_speed
from autoscale.recommend.choice.judging import Judged, shown_over
from autoscale.recommend.choice.promise import Promise
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.seeds import own_seeds
from autoscale.recommend.choice.settings import Given, Setting, Standing
from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.days import by_days
from autoscale.recommend.progress import Tell, unheard
from autoscale.recommend.schedule.patched import Patched, reactive
from autoscale.recommendation import Drift, Recommendation
from autoscale.schedule import Scheduled


def drift(scenario: Scenario, old: Recommendation, decision: Decision) -> Drift:
    """Whether an older recommendation still holds on what is known now, with its figures and a sentence."""
    if old.scaler is None:
        return Drift(None, sentence=f"the old answer was {old.answer}: it has no target to test")
    judged, slow = _judged(scenario, Given(old.scaler), decision.slower)
    new = decision.expected or decision.chosen
    cost = (
        ""
        if new is None or not new.cost
        else f", {judged.cost / new.cost - 1:+.0%} accelerator-hours against the new one"
    )
    return _drift(old, judged, slow, cost)


def still_holds(old: Recommendation, traffic: Path, tell: Tell = unheard) -> tuple[Scenario, Drift]:
    """Whether what a recommendation says, a target or a standing fleet, keeps its own SLO under this traffic, on its own
    system. Raises BadInput when it recommends nothing, or does not hold its system."""
    if old.scaler is None and old.answer != "do_not_autoscale":
        raise BadInput(
            "the recommendation has nothing that could still hold",
            value=old.answer,
            expected="one to autoscale, or to keep a fleet standing",
        )
    behind, slo = system_behind(old), old.slo
    promise = Promise() if slo.days_kept is None else Promise(slo.days_kept, slo.longest_breach_s)
    scenario = by_days(
        scenario_of(
            behind.profile, traffic=traffic, slo=slo.text, attainment=slo.attainment, promise=promise,
            engine=behind.engine, tell=tell,
        )
    )  # fmt: skip
    setting: Setting = Given(old.scaler) if old.scaler else Standing(old.min_replicas or 1)
    beside = reactive(old)
    schedule = old.schedule if beside else None
    judged, slow = _judged(scenario, Given(beside) if beside else setting, old.slower_than_fitted, schedule)
    return scenario, _drift(old, judged, slow, f", {judged.cost:,.3g} accelerator-hours", schedule)


def _judged(
    scenario: Scenario, setting: Setting, slower: float, schedule: Scheduled | None = None
) -> tuple[Judged[Setting], Judged[Setting]]:
    """A setting on replicas as fitted, and slower by that share; with a schedule where there is one."""
    fitted, seeds = scenario.keeping(), own_seeds(scenario.plan, scenario.promise)

    def over(judge: Scenario) -> Judged[Setting]:
        return shown_over(Patched(judge, schedule) if schedule else judge, [setting], seeds)[0]

    judged = over(fitted)
    return judged, over(at_speed(fitted, slower)) if slower else judged


def _drift(
    old: Recommendation,
    judged: Judged[Setting],
    slow: Judged[Setting],
    cost: str,
    schedule: Scheduled | None = None,
) -> Drift:
    verb = "still holds" if slow.holds else "just about holds" if judged.holds else "does not hold any more"
    targets = ", ".join(f"{t.signal} {t.quantity}" for t in (schedule.metrics if schedule else old.metrics))
    what = f"target ({targets})" if targets else f"fleet of {old.min_replicas}"
    if schedule:
        what = f"schedule ({', '.join(map(str, schedule.windows))}, else {schedule.otherwise}) with {what}"
    attainment = judged.mean("attainment")
    sentence = f"the old {what} {verb}: {attainment:.2%} within every bound{cost}"
    return Drift(judged.holds, slow.holds, sentence, attainment, judged.cost)
