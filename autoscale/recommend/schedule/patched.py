"""A schedule that is part of an answer, judged as it runs: its reactive setting, and somebody who patches the minimum by the clock."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

from autoscale.recommend.choice.judging import Trial
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.settings import Given, Manifest, Setting
from autoscale.recommendation import Recommendation
from autoscale.schedule import Scheduled, minimum_changes


@dataclass(frozen=True)
class Patched:
    """The scenario under which an HPA's minimum is the schedule's (judging.Judge)."""

    scenario: Scenario
    schedule: Scheduled

    def __call__(self, setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        """One trial; the setting begins with the minimum of that time."""
        plan, scenario = self.scenario.plan.of_seed(seed), self.scenario
        schedule = self.schedule
        changes = minimum_changes(schedule.windows, schedule.otherwise, plan.begins_s, plan.duration_s)
        content: dict[str, Any] = copy.deepcopy(dict(setting.manifest(scenario.profile) or {}))
        content["spec"]["minReplicas"] = changes[0][1]
        patched = replace(scenario, options=replace(scenario.options, minima=changes))
        return patched(Given(content), seed, cost_limit_h)


def reactive(old: Recommendation) -> Manifest | None:
    """The HPA beside a recommended schedule; None where there is none, or where KEDA's cron triggers hold the minimum."""
    schedule = old.schedule
    if schedule is None or not schedule.recommended or old.hpa is None:
        return None
    content: dict[str, Any] = copy.deepcopy(dict(old.hpa))
    metrics = [
        {
            "type": "Pods",
            "pods": {
                "metric": {"name": target.metric},
                "target": {"type": "AverageValue", "averageValue": target.quantity},
            },
        }
        for target in schedule.metrics
    ]
    content["spec"] |= {"metrics": metrics, "maxReplicas": schedule.max_replicas}
    content["spec"].pop("behavior", None)
    if schedule.behavior is not None:
        content["spec"]["behavior"] = dict(schedule.behavior)
    return content
