"""Whether the nodes that are there hold maxReplicas."""

from __future__ import annotations

from collections.abc import Iterator

from autoscale.check.snapshot import Snapshot
from autoscale.kube.node import Node
from autoscale.kube.objects import Object, mapping
from autoscale.kube.quantity import whole_of
from autoscale.kube.scaler import Hpa
from autoscale.lint.findings import Finding, Located


def rules(now: Snapshot, hpa: Hpa) -> Iterator[Finding]:
    """A warning with the number that fits, where nodes are seen and too few; a node pool may still grow."""
    target = now.target(hpa)
    if target is None or not now.all("nodes"):
        return
    for need in target.node_needs():
        fitting = [node for node in now.all("nodes") if _fits(node, need.node_labels)]
        room = sum(_chips(node, need.accelerator) // need.per_pod for node in fitting)
        needed = hpa.max_replicas * need.pods
        if room < needed:
            yield Located(hpa.object).finding(
                "warning",
                "node-supply",
                ("spec", "maxReplicas"),
                f"maxReplicas {hpa.max_replicas} needs room for {needed} pods of {need.per_pod} {need.accelerator}; "
                f"the {len(fitting)} matching nodes hold {room}",
                "",
                "make sure that the node pool can grow to it (autoscaling maximum, quota, zone), or lower maxReplicas to "
                f"{room // need.pods}",
                {"needed": needed, "have": room},
            )


def _fits(node: Object, labels: tuple[tuple[str, str], ...]) -> bool:
    have = mapping(mapping(node.get("metadata")).get("labels"))
    open_to_pods = Node(node).ready and not mapping(node.get("spec")).get("unschedulable")
    return open_to_pods and all(have.get(key) == value for key, value in labels)


def _chips(node: Object, accelerator: str) -> int:
    return whole_of(mapping(mapping(node.get("status")).get("allocatable")).get(accelerator))
