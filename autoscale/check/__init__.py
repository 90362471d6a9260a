"""Prove a scale-out: preflight of an HPA, watch, verdict phase by phase.

`diagnose` tells of what `take` saw what stands in an HPA's way; `prove` watches a cluster or a fleet through the door
(`autoscale.observe`) and judges; `judge_again` judges recorded evidence again.
"""

from __future__ import annotations

from autoscale.check.criteria.criterion import Criterion
from autoscale.check.expectation import Expectation
from autoscale.check.figures import Figures, figures_of
from autoscale.check.live_view import WatchState
from autoscale.check.preflight import diagnose
from autoscale.check.snapshot import take
from autoscale.check.verdict import Judgement
from autoscale.check.watch import CheckResult, judge_again, prove

__all__ = [
    "CheckResult",
    "Criterion",
    "Expectation",
    "Figures",
    "Judgement",
    "WatchState",
    "diagnose",
    "figures_of",
    "judge_again",
    "prove",
    "take",
]
