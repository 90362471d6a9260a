"""The system that a recommendation is for, out of the recommendation itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from analysis.errors import BadInput
from autoscale.profiles import Profile, from_content
from autoscale.recommendation import Recommendation
from autoscale.sim.engine.replicas import EngineParams


@dataclass(frozen=True)
class SystemBehind:
    """Its profile, and the replica as fitted and as uncertain as it is."""

    profile: Profile
    engine: EngineParams
    slower: float


def system_behind(recommendation: Recommendation) -> SystemBehind:
    """The system behind a recommendation. Raises BadInput when it does not hold it."""
    system = recommendation.system
    again = "run `autoscale recommend` again"
    if system is None:
        raise BadInput(
            "the recommendation does not hold the system that it is for: an older version wrote it",
            expected="a recommendation.json with `system`",
            next_step=again,
        )
    profile = from_content(system.content, "the recommendation's system")
    given = {one.name: recommendation.model_error.engine.get(one.name) for one in fields(EngineParams)}
    told = {name: math.inf if value is None else value for name, value in given.items()}
    try:  # null stands for what is not finite: a client that never gives up
        engine = EngineParams(**told)  # type: ignore[arg-type]
    except TypeError:
        raise BadInput("the recommendation's model_error.engine is none", next_step=again) from None
    return SystemBehind(profile, engine, system.slower)
