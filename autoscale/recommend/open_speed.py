"""How wide an answer from production must be: what binds may be known less well than what a full batch takes.

A TTFT bound hangs on the longest prompts and on what a token of them costs, which production's means tell less well than the
time of a step, and near what an idle replica takes already the capacity falls by many times what the speed does. So the
speed's interval is that of whatever binds at the SLO, with the error of lengths that are known by buckets only; and the
capacity's interval is that of capacities simulated at its ends, not the speed's.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from analysis.numbers import Z975
from autoscale.recommend.choice.circumstances import at_speed
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.model.one_replica import idle_verdict, roughly_holding_rps, weights_at
from autoscale.recommend.model.production import BASIS
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommendation import Recommendation
from autoscale.sim.engine.params import COEFFICIENTS

LENGTHS = 0.05  # half width of the 95 % interval of a quantile of prompts between buckets' bounds
PREFILL = COEFFICIENTS.index("per_prefill_token_s")
DRAWS = 20_000

Interval = tuple[float, float]


def speed_at_the_slo(model: ReplicaModel, scenario: Scenario, spread: Interval) -> Interval:
    """The 95 % interval of the replica's speed, of what binds where that is wider than `spread`, the full batch's.

    That of the full batch for a model of runs, and where an idle replica breaks the SLO.
    """
    if model.basis != BASIS or idle_verdict(scenario) is not None:
        return spread
    weights = weights_at(scenario, roughly_holding_rps(scenario))
    rng = np.random.default_rng(0)
    slowness = model.usual.along(weights).draw(rng, DRAWS)
    own = math.hypot(model.error, weights[PREFILL] * LENGTHS / Z975)
    low, middle, high = np.exp(-np.quantile(slowness + own * rng.standard_normal(DRAWS), [0.975, 0.5, 0.025]))
    return min(spread[0], float(low / middle)), max(spread[1], float(high / middle))


def capacity_between(scenario: Scenario, speed: Interval) -> Interval:
    """The capacity under the SLO at both ends of the speed's interval, relative to that in the middle; 0 where an idle replica
    breaks it, (1, 1) where one does so in the middle."""

    def rate(factor: float) -> float:
        other = at_speed(scenario, 1 / factor - 1)
        return 0.0 if idle_verdict(other) is not None else roughly_holding_rps(other)

    middle = rate(1.0)
    if not middle:
        return 1.0, 1.0
    return min(speed[0], rate(speed[0]) / middle), max(speed[1], rate(speed[1]) / middle)


def with_its_capacity(
    made: Recommendation, scenario: Scenario, model: ReplicaModel, speed: Interval
) -> Recommendation:
    """The document with the capacity's interval by simulation where the replica was learned from production."""
    modelled = made.capacity_rps.model
    if model.basis != BASIS or modelled is None:
        return made
    low, high = capacity_between(scenario, speed)
    modelled = replace(modelled, low=low * modelled.value, high=high * modelled.value)
    return replace(made, capacity_rps=replace(made.capacity_rps, model=modelled))


def idle_in_doubt(scenario: Scenario, model: ReplicaModel, spread: Interval) -> list[str]:
    """A note where an idle replica breaks the SLO as learned, and would keep it at the quicker end of what is known."""
    quicker = 1 / (spread[1] * (1 + LENGTHS)) - 1
    if (
        model.basis != BASIS
        or idle_verdict(scenario) is None
        or idle_verdict(at_speed(scenario, quicker)) is not None
    ):
        return []
    return [
        "an idle replica breaks the SLO by less than what is not known of it: its capacity lies between nothing and that of a "
        "replica that keeps it; a load test tells (autoscale load), or a bound that is not met by chance"
    ]
