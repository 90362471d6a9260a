"""The chosen ScaledObject as the file that is applied: every number with where it comes from, in comments."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

import yaml

from autoscale.kube.scaling_signals import SCALING_SIGNALS
from autoscale.recommend.choice.keda.scaled_object import threshold_text
from autoscale.recommendation import Forecast, Recommendation

WIDTH = 110


def scaled_object_text(made: Recommendation) -> str:
    """The YAML of a recommendation's ScaledObject; the comment of a trigger stands above it."""
    content = made.as_json()["scaled_object"]
    triggers = content["spec"].pop("triggers")
    head = yaml.safe_dump(content, sort_keys=False)
    lines = [*_commented(_of_object(made), ""), head.rstrip("\n"), "  triggers:"]
    for of, (trigger, why) in enumerate(zip(triggers, _of_triggers(made), strict=True)):
        text = yaml.safe_dump([trigger], sort_keys=False, width=1000).rstrip("\n")
        lines += [*_commented(why, "  "), *(f"  {line}" for line in text.split("\n"))]
        assert made.metrics[of].metric.startswith(f"s{of}-")  # KEDA names them by their place
    return "\n".join(lines) + "\n"


def _of_object(made: Recommendation) -> str:
    spec = made.scaled_object["spec"] if made.scaled_object else {}
    text = f"Derived for {made.profile}, SLO {made.slo.text}, traffic: {made.provenance.traffic}.{_kept(made.predicted)} "
    text += f"pollingInterval {spec.get('pollingInterval')} s: it decides of steps to and from zero alone; the HPA asks every 15 s. "
    if "cooldownPeriod" in spec:
        text += f"cooldownPeriod {spec['cooldownPeriod']} s: the shortest of those tried that held for least; it counts from the last poll with anything active. "
    else:
        text += "No cooldownPeriod: with a minimum above 0 it has no effect. "
    return text + "serverAddress is to be replaced by your Prometheus."


def _kept(found: Forecast | None) -> str:
    if found is None or not found.periods:
        return ""
    return (
        f" Simulated: {found.slo_attainment.value:.2%} of the requests in bounds, {found.days_kept.value:.1%} of {found.periods} "
        f"periods kept, {found.accelerator_hours.value:,.1f} accelerator-hours."
    )


def _of_triggers(made: Recommendation) -> Iterator[str]:
    spec = made.scaled_object["spec"] if made.scaled_object else {}
    alike = spec.get("minReplicaCount") == spec.get("maxReplicaCount")
    for target in made.metrics:
        low, high = (threshold_text(milli / 1000) for milli in target.interval_milli)
        signal = SCALING_SIGNALS[target.signal]
        text = f"{target.signal}: {signal.unit}{'' if signal.metric_type == 'Value' else ' per replica'}. "
        if low == high:
            text += "An alarm beside the other trigger: chosen from a few, no interval. "
        else:
            text += (
                f"The best threshold lies between {low} and {high} (95 % interval of the replica's speed). "
            )
        if alike:
            text += "Minimum and maximum are one: it only tells whether anything is active. "
        if signal.metric_type == "Value":
            text += "Value, since it does not grow with the fleet: under AverageValue it could never ask for more than a few replicas. "
        else:
            text += "AverageValue of a sum: the HPA divides by the replicas. "
        yield text + "activationThreshold 0: a single request counts as activity."


def _commented(text: str, indent: str) -> Iterator[str]:
    return (f"{indent}# {line}" for line in wrap(text, WIDTH - len(indent)))
