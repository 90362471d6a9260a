"""One question of a check with its answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# not_judged: it was asked and could not be answered; not_asked: it does not concern this check
Outcome = Literal["pass", "fail", "not_judged", "not_asked"]

MORE_LOAD = "offer more than the replicas hold, for longer: --load with a higher --rate or --stages"


@dataclass(frozen=True)
class Criterion:
    """One question, its answer, the sentence for people, the figures behind it, and what would prove it where that is open."""

    code: str
    outcome: Outcome
    sentence: str
    figures: Mapping[str, object] = field(default_factory=dict)
    proof: str = ""


QUESTIONS = {
    "hpa_as_recommended": "The HPA in place is the recommended one",
    "scaled_when_it_should": "It decided as soon as its metric asked",
    "decided_as_predicted": "It decided as soon as predicted",
    "scaled_to_prediction": "It reached as many replicas as predicted",
    "became_ready": "New replicas became ready in time",
    "group_on_own_nodes": "Each pod of a group has a node of its own",
    "new_replica_gets_its_share": "New replicas carry their share of the load",
    "requests_in_bounds": "As many requests kept the SLO as predicted",
    "slo_recovered": "The SLO held again in time",
    "no_flapping": "No decision was taken back",
    "no_wasted_replica": "No replica was started in vain",
    "no_request_lost_at_scale_in": "No request was lost when replicas went",
}


def span_text(interval: tuple[float, float], form: str = "g") -> str:
    """An interval as text, one number where both ends are equal; an open end is called that."""
    low, high = interval
    if math.isinf(low):
        return "not within the watch"
    if math.isinf(high):
        return f"{low:{form}} or more"
    return f"{low:{form}}" if f"{low:{form}}" == f"{high:{form}}" else f"{low:{form}} to {high:{form}}"
