"""The Horizontal Pod Autoscaler, run as a pure function: `HpaSpec.from_manifest` and `decide`."""

from autoscale.hpa.calculator import MetricError, PodMetric, Proposal, external_proposal, pods_proposal
from autoscale.hpa.limits import Condition, Memory
from autoscale.hpa.rules import Decision, Event, decide
from autoscale.hpa.spec import Behavior, HpaSpec, MetricTarget, Policy, ScalingRules
from autoscale.kube.quantity import Quantity, format_milli
from autoscale.kube.quantity import parse as parse_quantity

__all__ = [
    "Behavior",
    "Condition",
    "Decision",
    "Event",
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
    "external_proposal",
    "format_milli",
    "parse_quantity",
    "pods_proposal",
]
