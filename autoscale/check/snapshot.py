"""What a cluster looks like at one moment: the latest object of each name, the metrics API's answers, what is hidden.

Taken from a cluster (`take`) or folded from a stream of observations (`fold`): a diagnosis cannot tell which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from analysis.run import unix_now_s
from autoscale.kube.cluster import MISSHAPEN, Cluster, ClusterError, Observation, misshapen
from autoscale.kube.kinds import BY_PLURAL, KINDS, LWS_NAME, SCALED, plural_of
from autoscale.kube.objects import Object
from autoscale.kube.pod import Pod
from autoscale.kube.quantity import milli
from autoscale.kube.scaler import Hpa, ScalerMetric
from autoscale.kube.workload import GROUPED, ScaledWorkload
from autoscale.lint.live import READ

NEEDED = ("horizontalpodautoscalers", "pods")
HELPFUL = ("events", "nodes", "podmonitorings", "podmonitors")
FOR_RULES = tuple(map(plural_of, READ))  # what else the linter's rules look at, where the account may list it


@dataclass(frozen=True)
class MetricAnswer:
    """What a metrics API said about one metric: values in milli-units, or why there are none.

    By pod; of an External or Object metric by "", or by number where it has several series.
    """

    values_milli: dict[str, int] | None
    status: int | None = None
    absent: bool = False
    message: str = ""
    pods: dict[str, str] | None = None  # the pods asked about, name -> phase; None = not told


@dataclass
class Snapshot:
    """Objects by resource and name, answers by (metric, selector), and what could not be listed with its reason."""

    at_s: float
    objects: dict[str, dict[str, Object]] = field(default_factory=dict)
    answers: dict[tuple[str, str], MetricAnswer] = field(default_factory=dict)
    hidden: dict[str, ClusterError] = field(default_factory=dict)
    deleted_s: dict[tuple[str, str], float] = field(default_factory=dict)  # (resource, name) -> when, unix s

    def all(self, resource: str) -> list[Object]:
        """The objects of one resource."""
        return list(self.objects.get(resource, {}).values())

    def unseen(self, kinds: Iterable[str]) -> set[str]:
        """Kinds of which nothing is known; one that the cluster does not have is known to be without objects."""
        return {
            kind
            for kind in kinds
            if plural_of(kind) not in self.objects
            and not (plural_of(kind) in self.hidden and self.hidden[plural_of(kind)].status == 404)
        }

    @property
    def unseen_plurals(self) -> set[str]:
        """Resources of `READ` of which nothing is known."""
        return {plural_of(kind) for kind in self.unseen(READ)}

    def hpa(self, name: str) -> Hpa | None:
        """The HPA of that name."""
        found = self.objects.get("horizontalpodautoscalers", {}).get(name)
        return None if found is None else Hpa(found)

    def target(self, hpa: Hpa) -> ScaledWorkload | None:
        """What the HPA scales; None when it was not seen."""
        found = self.objects.get(plural_of(hpa.target_kind), {}).get(hpa.target_name)
        return None if found is None else ScaledWorkload(found)

    def pods_of(self, hpa: Hpa) -> list[Pod]:
        """Every pod of the target, workers included."""
        if hpa.target_kind == GROUPED:
            pods = map(Pod, self.all("pods"))
            return [pod for pod in pods if pod.labels.get(LWS_NAME) == hpa.target_name]
        return self.counted_pods(hpa)

    def counted_pods(self, hpa: Hpa) -> list[Pod]:
        """The pods that the HPA counts: those that the scale subresource's selector matches."""
        target = self.target(hpa)
        return [] if target is None else list(filter(target.counts, map(Pod, self.all("pods"))))

    def answer(self, hpa: Hpa, metric: ScalerMetric) -> MetricAnswer | None:
        """What the metrics API said of a metric, of type Pods for the pods that the HPA counts; None when it was not asked."""
        target = self.target(hpa)
        own = target.scale_selector if target else ""
        return self.answers.get((metric.name, own if metric.kind == "Pods" else metric.selector))


def fold(observations: Iterable[Observation]) -> Snapshot:
    """The state that a stream tells at its end. Raises BadRun for an object that is not of its kind's shape."""
    now = Snapshot(0.0)
    for seen in observations:
        now.at_s = max(now.at_s, seen.time_s)
        try:
            _take(now, seen)
        except MISSHAPEN as error:
            raise misshapen(seen, error) from error
    return now


def _take(now: Snapshot, seen: Observation) -> None:
    if seen.resource == "custommetrics":
        answer = seen.object
        values = answer.get("values")
        now.answers[answer["metric"], answer.get("labelSelector") or ""] = MetricAnswer(
            None if values is None else {pod: milli(value) for pod, value in values.items()},
            answer.get("answer"),
            bool(answer.get("absent")),
            str(answer.get("message") or ""),
            answer.get("pods"),
        )
    elif seen.resource == "gap" and seen.object.get("status"):
        reason = str(seen.object.get("reason", ""))
        now.hidden[seen.object["resource"]] = ClusterError(reason, status=int(seen.object["status"]))
    elif seen.resource == "gap" and seen.object.get("to_s") is not None:
        now.hidden.pop(seen.object["resource"], None)  # it was seen again
    elif seen.type in ("ADDED", "MODIFIED", "DELETED"):
        found = now.objects.setdefault(seen.resource, {})
        now.hidden.pop(seen.resource, None)
        if seen.type == "DELETED":
            found.pop(seen.object["metadata"]["name"], None)
            now.deleted_s[seen.resource, seen.object["metadata"]["name"]] = seen.time_s
        else:
            found[seen.object["metadata"]["name"]] = seen.object


def take(
    cluster: Cluster, namespace: str, hpa_name: str, clock: Callable[[], float] = unix_now_s
) -> Snapshot:
    """The state of a live cluster, as far as it may be read. Raises ClusterError when it cannot be reached at all."""
    now = Snapshot(clock())
    for resource in dict.fromkeys((*NEEDED, *map(plural_of, SCALED), *HELPFUL, *FOR_RULES)):
        _list(cluster, now, resource, namespace if BY_PLURAL[resource].namespaced else None)
    hpa = now.hpa(hpa_name)
    target = now.target(hpa) if hpa else None
    if hpa is None or target is None or not target.scale_selector:
        return now
    pods = {pod.name: pod.phase for pod in now.counted_pods(hpa)}
    for metric in hpa.served:
        asked = target.scale_selector if metric.kind == "Pods" else metric.selector
        now.answers[metric.name, asked] = ask(cluster, namespace, metric, asked, pods)
    return now


def ask(
    cluster: Cluster,
    namespace: str,
    metric: ScalerMetric,
    selector: str,
    pods: dict[str, str] | None = None,
) -> MetricAnswer:
    """What the metrics API of its type answers, as the HPA asks it."""
    of_pods = metric.kind == "Pods"
    told = pods if of_pods else None
    try:
        if of_pods:
            return MetricAnswer(cluster.custom_metric(namespace, metric.name, selector), pods=told)
        values = cluster.single_metric(namespace, metric)
    except ClusterError as error:
        return MetricAnswer(None, error.status, error.absent, str(error), told)
    return MetricAnswer({"" if len(values) == 1 else str(k): value for k, value in enumerate(values)})


def _list(cluster: Cluster, now: Snapshot, resource: str, namespace: str | None) -> None:
    kind = next(name for name, found in KINDS.items() if found.plural == resource)
    shape = {"apiVersion": KINDS[kind].api, "kind": kind}
    try:
        now.objects[resource] = {o["metadata"]["name"]: shape | o for o in cluster.list(resource, namespace)}
    except ClusterError as error:
        if error.status is None or error.status == 401:
            raise
        now.hidden[resource] = error
