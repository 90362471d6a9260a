"""KEDA 2.20.2, run as pure functions: `ScaledObject.from_manifest`, and `parse_query` for what its triggers ask."""

from autoscale.keda.query_parser import parse_query
from autoscale.keda.refusal import Refusal
from autoscale.keda.scaled_object import ScaledObject

__all__ = ["Refusal", "ScaledObject", "parse_query"]
