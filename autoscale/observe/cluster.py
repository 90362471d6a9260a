"""The door to the cluster: one Protocol, two sides of it (live Kubernetes and the simulated fleet).

Whoever watches a cluster sees a stream of observations: Kubernetes-shaped objects with the time at which they were
received. The live side takes them from list and watch calls, the simulated fleet emits the same shapes over HTTP, a
recording is a file of them. Everything that judges (check/scaleout.py) is a pure function of such a stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing seen.

    time_s    unix seconds when it was received, on the observer's clock
    resource  plural resource name (horizontalpodautoscalers, deployments, leaderworkersets, statefulsets, replicasets,
              pods, nodes, events), `custommetrics` (what the custom metrics API answered) or `gap` (what was not seen)
    type      ADDED, MODIFIED, DELETED as in a watch; QUERY for custommetrics; MISSED for gap
    object    the object as the API server sent it (managedFields dropped)
    """

    time_s: float
    resource: str
    type: str
    object: dict[str, Any]


class Cluster(Protocol):
    """What preflight and the scale-out check need from a cluster, live or simulated."""

    def list(self, resource: str, namespace: str | None = None, selector: str = "") -> list[dict[str, Any]]:
        """Current objects of one resource. Raises SourceUnavailable; Forbidden is a SourceUnavailable with status 403."""
        ...

    def observe(self, resources: list[str], namespace: str, stop: Event) -> Iterator[Observation]:
        """List, then watch the resources until `stop` is set; survives expired versions and dropped connections."""
        ...

    def custom_metric(self, namespace: str, metric: str, selector: str) -> dict[str, int]:
        """Pod name -> value in milli-units, as the custom metrics API answers an HPA. Raises SourceUnavailable."""
        ...

    def scale(self, hpa: dict[str, Any], replicas: int) -> None:
        """Write the scale subresource of the HPA's target: the only call that changes anything."""
        ...
