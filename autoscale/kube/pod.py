"""A Pod as an object: its place in a group, what its status tells, and the accelerators that a pod spec asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoscale.kube.cluster import stamp_or_none
from autoscale.kube.kinds import ACCELERATORS, LWS_GROUP_INDEX, LWS_WORKER_INDEX
from autoscale.kube.objects import Object, conditions, items, mapping
from autoscale.kube.quantity import whole_of

STUCK = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CrashLoopBackOff")


@dataclass(frozen=True)
class Pod:
    """The object, read on demand."""

    object: Object

    @property
    def name(self) -> str:
        """metadata.name."""
        return str(mapping(self.object.get("metadata")).get("name") or "")

    @property
    def labels(self) -> dict[str, str]:
        """metadata.labels."""
        given = mapping(mapping(self.object.get("metadata")).get("labels"))
        return {key: value for key, value in given.items() if isinstance(value, str)}

    @property
    def leads(self) -> bool:
        """Whether it leads its group, or has none."""
        return self.labels.get(LWS_WORKER_INDEX, "0") == "0"

    @property
    def group(self) -> str:
        """The index of its group, "" without one."""
        return self.labels.get(LWS_GROUP_INDEX, "")

    @property
    def phase(self) -> str:
        """status.phase, "" where it is not told."""
        return str(mapping(self.object.get("status")).get("phase") or "")

    @property
    def runs(self) -> bool:
        """Whether its phase is Running."""
        return self.phase == "Running"

    @property
    def deleted(self) -> bool:
        """Whether it was asked to stop."""
        return bool(mapping(self.object.get("metadata")).get("deletionTimestamp"))

    @property
    def ready(self) -> bool:
        """Whether its condition Ready holds."""
        return self._condition("Ready").get("status") == "True"

    @property
    def unready_s(self) -> float | None:
        """Since when its condition Ready does not hold, unix s; None where it holds or was never written."""
        return None if self.ready else stamp_or_none(self._condition("Ready").get("lastTransitionTime"))

    @property
    def node(self) -> str:
        """The node it runs on, "" before it was scheduled."""
        return str(mapping(self.object.get("spec")).get("nodeName") or "")

    @property
    def without_node(self) -> str:
        """Why the scheduler found no node, "" when it did or does not say."""
        scheduled = self._condition("PodScheduled")
        if scheduled.get("status") != "False":
            return ""
        return str(scheduled.get("message") or scheduled.get("reason") or "")

    @property
    def initialized_s(self) -> float | None:
        """When its containers could start, unix s."""
        return stamp_or_none(self._condition("Initialized").get("lastTransitionTime"))

    def stuck(self) -> Iterator[tuple[str, str]]:
        """(reason, message) of every container that cannot be started."""
        for container in map(mapping, items(mapping(self.object.get("status")).get("containerStatuses"))):
            waiting = mapping(mapping(container.get("state")).get("waiting"))
            if waiting.get("reason") in STUCK:
                yield str(waiting["reason"]), str(waiting.get("message") or "")

    def _condition(self, kind: str) -> Object:
        return conditions(self.object).get(kind, {})


def accelerators_of(spec: Object) -> dict[str, int]:
    """Accelerator -> chips that a pod spec's containers ask for; without those it does not ask for."""
    limits = [
        mapping(mapping(c.get("resources")).get("limits"))
        for c in map(mapping, items(spec.get("containers")))
    ]
    asked = {kind: sum(whole_of(limit.get(kind)) for limit in limits) for kind in ACCELERATORS}
    return {kind: chips for kind, chips in asked.items() if chips}
