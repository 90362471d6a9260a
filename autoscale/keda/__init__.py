"""KEDA 2.20.2, run as pure functions: `ScaledObject.from_manifest`, and `parse_query` for what its triggers ask."""

from autoscale.keda.query_parser import parse_query
from autoscale.keda.refusal import KedaRefusal
from autoscale.keda.scaled_object import ScaledObject

__all__ = ["KedaRefusal", "ScaledObject", "parse_query"]
