"""From a run to a recommendation: learn the replica, decide, write."""

from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.pipeline import Recommended, recommend

__all__ = ["Recommended", "recommend", "scenario_of"]
