"""A Node as an object: whether it is ready, since when, and why not."""

from __future__ import annotations

from dataclasses import dataclass

from autoscale.kube.cluster import stamp_or_none
from autoscale.kube.objects import Object, conditions, mapping


@dataclass(frozen=True)
class Node:
    """The object, read on demand."""

    object: Object

    @property
    def name(self) -> str:
        """metadata.name."""
        return str(mapping(self.object.get("metadata")).get("name") or "")

    @property
    def ready(self) -> bool:
        """Whether its condition Ready holds; a node that does not tell its conditions counts as ready."""
        return self._ready.get("status", "True") == "True"

    @property
    def unready_s(self) -> float | None:
        """Since when it is not ready, unix s; None where it is, or does not say."""
        return None if self.ready else stamp_or_none(self._ready.get("lastTransitionTime"))

    @property
    def reason(self) -> str:
        """Why it is not ready, in the control plane's words."""
        return str(self._ready.get("message") or self._ready.get("reason") or "")

    @property
    def _ready(self) -> Object:
        return conditions(self.object).get("Ready", {})
