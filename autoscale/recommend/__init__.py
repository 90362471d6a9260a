"""From a run to a recommendation: learn the replica, decide, write."""

from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.pipeline import Recommendation, recommend

__all__ = ["Recommendation", "recommend", "scenario_of"]
