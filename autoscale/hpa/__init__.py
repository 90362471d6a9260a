"""The Horizontal Pod Autoscaler, run as a pure function: `HpaSpec.from_manifest` and `decide`."""

from autoscale.hpa.calculator import MetricError, PodMetric, Proposal, Seen
from autoscale.hpa.limits import Condition, Memory
from autoscale.hpa.rules import Event, HpaDecision, decide
from autoscale.hpa.spec import HpaBehavior, HpaSpec, MetricTarget, Policy, ScalingRules
from autoscale.kube.quantity import Quantity, format_milli
from autoscale.kube.quantity import parse as parse_quantity

__all__ = [
    "Condition",
    "Event",
    "HpaBehavior",
    "HpaDecision",
    "HpaSpec",
    "Memory",
    "MetricError",
    "MetricTarget",
    "PodMetric",
    "Policy",
    "Proposal",
    "Quantity",
    "ScalingRules",
    "Seen",
    "decide",
    "format_milli",
    "parse_quantity",
]
