"""Whether an older recommendation still holds on what is known now."""

from __future__ import annotations

from autoscale.recommend.answer import Decision
from autoscale.recommend.choice.circumstances import at_speed
from autoscale.recommend.choice.judging import shown_over
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.seeds import own_seeds
from autoscale.recommend.choice.settings import Given
from autoscale.recommendation import Drift, Recommendation


def drift(scenario: Scenario, old: Recommendation, decision: Decision) -> Drift:
    """Whether an older recommendation still holds on what is known now, with its figures and a sentence."""
    if old.scaler is None:
        return Drift(None, sentence=f"the old answer was {old.answer}: it has no target to test")
    fitted, setting, seeds = scenario.keeping(), Given(old.scaler), own_seeds(scenario.plan, scenario.promise)
    judged = shown_over(fitted, [setting], seeds)[0]
    slow = shown_over(at_speed(fitted, decision.slower), [setting], seeds)[0]
    new = decision.expected or decision.chosen
    cost = (
        ""
        if new is None or not new.cost
        else f", {judged.cost / new.cost - 1:+.0%} accelerator-hours against the new one"
    )
    verb = "still holds" if slow.holds else "just about holds" if judged.holds else "does not hold any more"
    targets = ", ".join(f"{target.signal} {target.quantity}" for target in old.metrics)
    attainment = judged.mean("attainment")
    sentence = f"the old target ({targets}) {verb}: {attainment:.2%} within every bound{cost}"
    return Drift(judged.holds, slow.holds, sentence, attainment, judged.cost)
