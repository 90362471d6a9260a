"""The Horizontal Pod Autoscaler, run as a pure function: `HpaSpec.from_manifest` and `decide`."""

from autoscale.hpa.calculator import MetricError, PodMetric, Proposal
from autoscale.hpa.limits import Condition, Memory
from autoscale.hpa.rules import Event, HpaDecision, decide
from autoscale.hpa.spec import Behavior, HpaSpec, MetricTarget, Policy, ScalingRules
from autoscale.kube.quantity import Quantity, format_milli
from autoscale.kube.quantity import parse as parse_quantity

__all__ = [
    "Behavior",
    "Condition",
    "Event",
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
    "decide",
    "format_milli",
    "parse_quantity",
]
