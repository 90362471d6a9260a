"""What an HPA scales, as an object: a Deployment, StatefulSet or LeaderWorkerSet, its pods, and the nodes they need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from autoscale.kube.objects import Object, mapping
from autoscale.kube.pod import Pod, accelerators_of
from autoscale.kube.selectors import selector_text, selects

GROUPED = "LeaderWorkerSet"


class NodeNeed(NamedTuple):
    """Pods of one replica that ask for the same: an accelerator, on nodes with these labels."""

    accelerator: str
    node_labels: tuple[tuple[str, str], ...]
    per_pod: int
    pods: int


@dataclass(frozen=True)
class ScaledWorkload:
    """The object, read on demand."""

    object: Object

    @property
    def kind(self) -> str:
        """The object's kind."""
        return str(self.object.get("kind") or "")

    @property
    def spec(self) -> Object:
        """The spec."""
        return mapping(self.object.get("spec"))

    @property
    def size(self) -> int:
        """Pods of one replica."""
        size = mapping(self.spec.get("leaderWorkerTemplate")).get("size")
        return size if isinstance(size, int) and size > 1 else 1

    @property
    def scale_selector(self) -> str:
        """The selector that its scale subresource shows to the HPA; "" when it has none."""
        if self.kind == GROUPED:
            return str(mapping(self.object.get("status")).get("hpaPodSelector") or "")
        return selector_text(mapping(self.spec.get("selector")))

    def counts(self, pod: Pod) -> bool:
        """Whether an HPA counts the pod: the scale subresource's selector matches it."""
        return bool(self.scale_selector) and selects(self.scale_selector, pod.labels)

    def node_needs(self) -> list[NodeNeed]:
        """What one replica asks of nodes, pods that ask for the same added together."""
        pods: dict[tuple[str, tuple[tuple[str, str], ...], int], int] = {}
        for spec, count in self._templates():
            labels = tuple(sorted(mapping(spec.get("nodeSelector")).items()))
            for accelerator, chips in accelerators_of(spec).items() if count else ():
                key = (accelerator, labels, chips)
                pods[key] = pods.get(key, 0) + count
        return [NodeNeed(*key, count) for key, count in pods.items()]

    def _templates(self) -> Iterator[tuple[Object, int]]:
        """(pod spec, pods of it in one replica)."""
        group = mapping(self.spec.get("leaderWorkerTemplate"))
        if not group:
            yield mapping(mapping(self.spec.get("template")).get("spec")), 1
            return
        leader = mapping(mapping(group.get("leaderTemplate")).get("spec"))
        if leader:
            yield leader, 1
        yield mapping(mapping(group.get("workerTemplate")).get("spec")), self.size - bool(leader)
