"""Pods of the target that do not serve: without a node, without an image, crashing, loading, or half a group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from autoscale.check.snapshot import Snapshot
from autoscale.kube.node import Node
from autoscale.kube.objects import mapping
from autoscale.kube.pod import Pod
from autoscale.kube.scaler import Hpa
from autoscale.kube.workload import GROUPED
from autoscale.lint.findings import Finding, Located

SLOW_READY_S = 60.0


def rules(now: Snapshot, hpa: Hpa) -> Iterator[Finding]:
    """Findings on the target's pods."""
    pods = [pod for pod in now.pods_of(hpa) if not pod.deleted]
    yield from _without_node(now, hpa, pods)
    for pod in pods:
        yield from _stuck(pod)
    lost = {each.name: each for each in map(Node, now.all("nodes")) if not each.ready}
    yield from _on_lost_nodes(now, hpa, pods, lost)
    yield from _loading(now, hpa, [pod for pod in pods if not _lost(now, pod, lost)])
    yield from _groups(now, hpa)


def _without_node(now: Snapshot, hpa: Hpa, pods: list[Pod]) -> Iterator[Finding]:
    waiting = {pod.name: pod.without_node for pod in pods if pod.without_node}
    if not waiting:
        return
    name, reason = next(iter(waiting.items()))
    refused = _event(now, name, "NotTriggerScaleUp")
    yield Located(hpa.object).finding(
        "error",
        "pods-unschedulable",
        ("spec", "scaleTargetRef"),
        f"{len(waiting)} of {len(pods)} pods find no node: {name}: {reason}"
        + (f"; the node autoscaler refuses: {refused}" if refused else ""),
        "",
        "add nodes or raise the node pool's maximum, check quota, or lower maxReplicas to what the nodes can hold",
        {"pods": waiting},
    )


def _event(now: Snapshot, name: str, reason: str) -> str:
    """The last message of a reason about a pod, "" for none."""
    found = [
        event
        for event in now.all("events")
        if event.get("reason") == reason and mapping(event.get("involvedObject")).get("name") == name
    ]
    return str(found[-1].get("message", "")) if found else ""


def _stuck(pod: Pod) -> Iterator[Finding]:
    for reason, message in pod.stuck():
        image = "Image" in reason
        yield Located(pod.object).finding(
            "error",
            "image-not-pulled" if image else "pod-crashing",
            ("status", "containerStatuses"),
            f"{pod.name} does not start: {reason} {message}".rstrip(),
            "",
            "check image name and pull secret"
            if image
            else "kubectl logs --previous, then the memory and the arguments",
            {"pod": pod.name},
        )


def _lost(now: Snapshot, pod: Pod, lost: Mapping[str, Node]) -> bool:
    """Whether its node went away: by the node's condition, or where nodes may not be seen by the pod's event."""
    if pod.ready:
        return False
    return pod.node in lost if now.all("nodes") else bool(_event(now, pod.name, "NodeNotReady"))


def _on_lost_nodes(now: Snapshot, hpa: Hpa, pods: list[Pod], lost: Mapping[str, Node]) -> Iterator[Finding]:
    """Pods that cannot be ready because their node is not; one finding per node."""
    stranded: dict[str, list[str]] = {}
    for pod in pods:
        if pod.node and _lost(now, pod, lost):
            stranded.setdefault(pod.node, []).append(pod.name)
    for name, names in stranded.items():
        node = lost.get(name)
        since = f" for {now.at_s - node.unready_s:.0f} s" if node and node.unready_s else ""
        yield Located(hpa.object).finding(
            "error",
            "node-not-ready",
            ("spec", "scaleTargetRef"),
            f"node {name} is not ready{since}{f': {node.reason}' if node and node.reason else ''}; its pods "
            f"({', '.join(names)}) serve nothing",
            "",
            f"kubectl describe node {name}; pods of a lost node are replaced after their toleration, 300 s by default",
            {"node": name, "pods": names},
        )


def _loading(now: Snapshot, hpa: Hpa, pods: list[Pod]) -> Iterator[Finding]:
    """Pods that run and are not ready: the HPA counts them fully once they report, as 0 before."""
    valued = {name for answer in now.answers.values() for name in answer.values_milli or {}}
    loading = [pod for pod in pods if pod.runs and pod.leads and not pod.ready]
    for counted, how in (
        (True, "report the metric, and the HPA counts them fully: readiness is not looked at"),
        (False, "have no value yet and count as 0 when the HPA scales up"),
    ):
        ages_s = {
            pod.name: now.at_s - (pod.unready_s or pod.initialized_s or now.at_s)
            for pod in loading
            if (pod.name in valued) == counted
        }
        if ages_s and (counted or max(ages_s.values()) > SLOW_READY_S):
            oldest = max(ages_s, key=lambda name: ages_s[name])
            yield Located(hpa.object).finding(
                "warning",
                "pods-not-ready",
                ("spec", "scaleTargetRef"),
                f"{len(ages_s)} pods run and are not ready ({oldest} for {ages_s[oldest]:.0f} s); they {how}",
                "",
                "normal while weights load (20-90 minutes for large models); otherwise check the readiness probe's "
                "port and path",
                {"running_s": ages_s},
            )


def _groups(now: Snapshot, hpa: Hpa) -> Iterator[Finding]:
    """Running leaders without all their workers."""
    target = now.target(hpa)
    if target is None or target.kind != GROUPED:
        return
    groups: dict[str, list[Pod]] = {}
    for pod in now.pods_of(hpa):
        groups.setdefault(pod.group, []).append(pod)
    broken = {}
    for index, pods in groups.items():
        running = [pod for pod in pods if pod.runs]
        if any(pod.leads for pod in running) and len(running) < target.size:
            missing = [pod.name for pod in pods if not pod.runs]
            broken[index] = missing or [f"{target.size - len(pods)} pods not created"]
    if broken:
        index, missing = next(iter(broken.items()))
        yield Located(hpa.object).finding(
            "error",
            "group-incomplete",
            ("spec", "scaleTargetRef"),
            f"group {index} has a running leader without its workers ({', '.join(missing)}): the HPA counts the leader "
            "as a whole replica, but it serves nothing",
            "",
            f"each group needs {target.size} nodes at once: add nodes, or lower maxReplicas; all-or-nothing placement "
            "(a gang scheduler or a queue) keeps half groups from holding accelerators",
            {"groups": broken},
        )
