"""Prove a scale-out: preflight of an HPA, watch, verdict phase by phase.

`preflight` tells what stands in an HPA's way; `check` watches a cluster or a fleet through the door
(`autoscale.observe`) and judges; `replay` judges recorded evidence again.
"""

from __future__ import annotations

from autoscale.check.preflight import preflight
from autoscale.check.verdict import Criterion, Expectation, Judgement
from autoscale.check.watch import CheckResult, State, check, replay

__all__ = [
    "CheckResult",
    "Criterion",
    "Expectation",
    "Judgement",
    "State",
    "check",
    "preflight",
    "replay",
]
