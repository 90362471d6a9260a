"""From a run to a recommendation: calibrate, search, decide, write."""

from autoscale.recommend.pipeline import Recommendation, recommend, scenario_of

__all__ = ["Recommendation", "recommend", "scenario_of"]
