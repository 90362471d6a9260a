"""What a cluster looks like at one moment: the latest object of each name, the metrics API's answers, what is hidden.

Taken from a cluster (`take`) or folded from a stream of observations (`fold`): a diagnosis cannot tell which.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from autoscale.kube.cluster import Cluster, ClusterError, Observation
from autoscale.kube.kinds import LWS_NAME, LWS_WORKER_INDEX, SCALED, plural_of
from autoscale.kube.quantity import milli
from autoscale.kube.scaler import Hpa
from autoscale.kube.selectors import selector_text, selects

NEEDED = ("horizontalpodautoscalers", "pods")
HELPFUL = ("events", "nodes", "podmonitorings", "podmonitors")


@dataclass(frozen=True)
class Answer:
    """What the custom metrics API said about one metric: values in milli-units, or why there are none."""

    values_milli: dict[str, int] | None
    status: int | None = None
    absent: bool = False
    message: str = ""
    pods: dict[str, str] | None = None  # the pods asked about, name -> phase; None = not told


@dataclass
class Snapshot:
    """Objects by resource and name, answers by (metric, selector), and what could not be listed with its reason."""

    at_s: float
    objects: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    hidden: dict[str, ClusterError] = field(default_factory=dict)

    def all(self, resource: str) -> list[dict[str, Any]]:
        """The objects of one resource."""
        return list(self.objects.get(resource, {}).values())

    def hpa(self, name: str) -> dict[str, Any] | None:
        """The HPA of that name."""
        return self.objects.get("horizontalpodautoscalers", {}).get(name)

    def target(self, hpa: dict[str, Any]) -> dict[str, Any] | None:
        """The object that the HPA scales; None when it was not seen."""
        read = Hpa(hpa)
        return self.objects.get(plural_of(read.target_kind), {}).get(read.target_name)

    def pods_of(self, hpa: dict[str, Any]) -> list[dict[str, Any]]:
        """Every pod of the target, workers included."""
        if Hpa(hpa).target_kind == "LeaderWorkerSet":
            name = Hpa(hpa).target_name
            return [p for p in self.all("pods") if (p["metadata"].get("labels") or {}).get(LWS_NAME) == name]
        return self.counted_pods(hpa)

    def counted_pods(self, hpa: dict[str, Any]) -> list[dict[str, Any]]:
        """The pods that the HPA counts: those that the scale subresource's selector matches."""
        selector = scale_selector(self.target(hpa))
        if not selector:
            return []
        return [p for p in self.all("pods") if selects(selector, p["metadata"].get("labels"))]


def scale_selector(target: dict[str, Any] | None) -> str:
    """The selector that the target's scale subresource shows to the HPA; "" when it has none."""
    if target is None:
        return ""
    if target.get("kind") == "LeaderWorkerSet":
        return str((target.get("status") or {}).get("hpaPodSelector") or "")
    return selector_text((target.get("spec") or {}).get("selector"))


def is_leader(pod: dict[str, Any]) -> bool:
    """Whether a pod leads its group (or has no group)."""
    return (pod["metadata"].get("labels") or {}).get(LWS_WORKER_INDEX, "0") == "0"


def fold(observations: Iterable[Observation], until_s: float = float("inf")) -> Snapshot:
    """The state that a stream tells at `until_s`."""
    now = Snapshot(0.0)
    for seen in observations:
        if seen.time_s > until_s:
            continue
        now.at_s = max(now.at_s, seen.time_s)
        if seen.resource == "custommetrics":
            answer = seen.object
            values = answer.get("values")
            now.answers[answer["metric"], answer.get("labelSelector") or ""] = Answer(
                None if values is None else {pod: milli(value) for pod, value in values.items()},
                answer.get("answer"),
                bool(answer.get("absent")),
                str(answer.get("message") or ""),
                answer.get("pods"),
            )
        elif seen.resource == "gap" and seen.object.get("status"):
            reason = str(seen.object.get("reason", ""))
            now.hidden[seen.object["resource"]] = ClusterError(reason, status=int(seen.object["status"]))
        elif seen.type in ("ADDED", "MODIFIED", "DELETED"):
            found = now.objects.setdefault(seen.resource, {})
            if seen.type == "DELETED":
                found.pop(seen.object["metadata"]["name"], None)
            else:
                found[seen.object["metadata"]["name"]] = seen.object
    return now


def take(cluster: Cluster, namespace: str, hpa_name: str, clock: Callable[[], float] = time.time) -> Snapshot:
    """The state of a live cluster, as far as it may be read. Raises ClusterError when it cannot be reached at all."""
    now = Snapshot(clock())
    for resource in (*NEEDED, *(plural_of(kind) for kind in SCALED), *HELPFUL):
        _list(cluster, now, resource, None if resource == "nodes" else namespace)
    hpa = now.hpa(hpa_name)
    if hpa is None:
        return now
    for metric in Hpa(hpa).metric_names("Pods"):
        selector = scale_selector(now.target(hpa))
        if not selector:
            continue
        pods = {p["metadata"]["name"]: p["status"].get("phase", "") for p in now.counted_pods(hpa)}
        try:
            values = cluster.custom_metric(namespace, metric, selector)
            now.answers[metric, selector] = Answer(values, pods=pods)
        except ClusterError as error:
            now.answers[metric, selector] = Answer(None, error.status, error.absent, str(error), pods)
    return now


def _list(cluster: Cluster, now: Snapshot, resource: str, namespace: str | None) -> None:
    try:
        now.objects[resource] = {o["metadata"]["name"]: o for o in cluster.list(resource, namespace)}
    except ClusterError as error:
        if error.status is None or error.status == 401:
            raise
        now.hidden[resource] = error
