"""What a Kubernetes watcher would have seen of a simulated fleet: pods, workload, HPA, events, metric queries.

Shapes and order follow recordings of a real v1.36 control plane, so that whatever judges a cluster judges a fleet by the
same code. Times are the fleet's control time: `started_at + control seconds`, in the objects and in `time_s` alike; with a
compressed control plane they run faster than the wall clock, and a cold start reads as long as it would really take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from analysis.numbers import known
from autoscale.hpa import HpaDecision, HpaSpec, PodMetric, format_milli
from autoscale.profiles.profile import Profile
from autoscale.sim.fleet.replica import FleetReplica, PodEvent, pod_name
from autoscale.sim.http.kubernetes_events import KubernetesEvents
from autoscale.sim.http.kubernetes_objects import KubernetesObject, KubernetesObjects


class KubernetesView:
    """Turns what happens in a fleet into observations, handed to `emit(time_s, resource, type, object)`."""

    def __init__(
        self,
        profile: Profile,
        spec: HpaSpec | None,
        started_at: float,
        emit: Callable[[float, str, str, KubernetesObject], None],
        scaled_object: Mapping[str, Any] | None = None,
    ) -> None:
        self.profile, self.spec, self.emit = profile, spec, emit
        self.scaled_object = scaled_object  # that KEDA made the HPA of
        self.objects = KubernetesObjects(profile, spec, started_at)
        self.events = KubernetesEvents(self.objects, emit)
        self.replicas: dict[int, FleetReplica] = {}  # ordinal -> those that exist
        self.desired = 0
        self._members = range(profile.replica.nodes)
        self._generation = 1
        self._workload_known = False
        self._hpa_status: KubernetesObject = {"desiredReplicas": 0, "currentMetrics": None}
        self._last_scale: str | None = None
        self._nodes_seen = 0
        self._nodes: dict[tuple[int, int], str] = {}

    def begin(self, replicas: int) -> None:
        """The workload exists with `replicas`, and so does the HPA; nothing was synced yet."""
        self.desired = replicas
        self._workload(0.0)
        if self.scaled_object is not None:
            meta = self.objects.meta(self.scaled_object["metadata"]["name"], 0.0)
            self.emit(0.0, "scaledobjects", "ADDED", {**self.scaled_object, "metadata": meta})
        if self.spec is not None:
            self._hpa(0.0, "ADDED", self.spec)

    # --- what the fleet tells (control.Watcher) ---------------------------------------------------------------------

    def pod(self, event: PodEvent) -> None:
        """A replica made a transition."""
        now_s, replica, member = event.time_s, event.replica, event.member
        match event.kind:
            case "created":
                self._created(now_s, replica)
            case "scheduled":
                self._nodes_seen += 1
                node = self._nodes[(replica.ordinal, member)] = f"node-{self._nodes_seen}"
                self.events.scheduled(now_s, replica, member, node)
                self._pod(now_s, replica, member, "MODIFIED")
                self.events.pulling(now_s, replica, member)
            case "started":
                self.events.started(now_s, replica, member)
                self._pod(now_s, replica, member, "MODIFIED")
            case "ready":
                for m in self._members if replica.ordinal < 0 else (0,):
                    self._pod(now_s, replica, m, "MODIFIED")
                self._workload(now_s)
            case "recreated":
                for m in self._members:
                    self._pod(now_s, replica, m, "DELETED")
                    self._pod(now_s, replica, m, "ADDED")
                self.events.recreated(now_s, replica)
            case "deleting":
                self.events.deleted(now_s, replica)
                for m in self._members:
                    self.events.killing(now_s, replica, m)
                    self._pod(now_s, replica, m, "MODIFIED")
                self._workload(now_s)
            case "gone":
                self._gone(now_s, replica)

    def _created(self, now_s: float, replica: FleetReplica) -> None:
        self.replicas[replica.ordinal] = replica
        for m in self._members:
            self._pod(now_s, replica, m, "ADDED")
            self.events.created(now_s, replica, m)
            if replica.ordinal >= 0 and not known(replica.member_scheduled_s[m]):
                self.events.pending(now_s, replica, m)
        self._workload(now_s)

    def _gone(self, now_s: float, replica: FleetReplica) -> None:
        del self.replicas[replica.ordinal]
        for m in self._members:
            self._pod(now_s, replica, m, "DELETED")
            self._nodes.pop((replica.ordinal, m), None)
        self._workload(now_s)

    def query(self, now_s: float, metric: str, values: list[PodMetric], pods: list[FleetReplica]) -> None:
        """The HPA controller asked the custom metrics API."""
        names = [pod_name(self.profile, replica) for replica in pods]
        found = {
            name: f"{value.value_milli}m"
            for name, value in zip(names, values, strict=True)
            if value.value_milli is not None
        }
        content = {
            "namespace": self.objects.namespace,
            "metric": metric,
            "labelSelector": self.objects.selector,
            "pods": {name: replica.phase for name, replica in zip(names, pods, strict=True)},
            "values": found or None,
        }
        self.emit(now_s, "custommetrics", "QUERY", content)

    def sync(self, now_s: float, decision: HpaDecision) -> None:
        """The HPA controller decided; its status is written when it differs from the one before."""
        assert self.spec is not None
        if decision.rescaled:
            self._last_scale = self.objects.stamp(now_s)
        status = self._status(now_s, self.spec, decision)
        self.events.decided(now_s, decision)
        if status != self._hpa_status:
            self._hpa_status = status
            self._hpa(now_s, "MODIFIED", self.spec)

    def scaled(self, now_s: float, before: int, after: int, _why: str) -> None:
        """The scale subresource was written."""
        self.desired = after
        self._generation += 1
        self._workload(now_s)
        self.events.scaled(now_s, before, after)

    # --- objects ----------------------------------------------------------------------------------------------------

    def workload_object(self, now_s: float) -> KubernetesObject:
        """The Deployment or LeaderWorkerSet as the API server would return it now."""
        return self.objects.workload(now_s, self.replicas.values(), self.desired, self._generation)

    def hpa_object(self) -> KubernetesObject | None:
        """The HPA as the API server would return it now; None without one."""
        return None if self.spec is None else self._hpa_object(self.spec)

    def _pod(self, now_s: float, replica: FleetReplica, member: int, kind: str) -> None:
        node = self._nodes.get((replica.ordinal, member))
        content = self.objects.pod(now_s, replica, member, node, deleted=kind == "DELETED")
        self.emit(now_s, "pods", kind, content)

    def _workload(self, now_s: float) -> None:
        kind, self._workload_known = "MODIFIED" if self._workload_known else "ADDED", True
        resource = "leaderworkersets" if self.objects.lws else "deployments"
        self.emit(now_s, resource, kind, self.workload_object(now_s))

    def _hpa(self, now_s: float, kind: str, spec: HpaSpec) -> None:
        self.emit(now_s, "horizontalpodautoscalers", kind, self._hpa_object(spec))

    def _hpa_object(self, spec: HpaSpec) -> KubernetesObject:
        return {
            "kind": "HorizontalPodAutoscaler",
            "apiVersion": "autoscaling/v2",
            "metadata": self.objects.meta(self.objects.hpa_name, 0.0) | self._owner(),
            "spec": spec.stored,
            "status": self._hpa_status,
        }

    def _owner(self) -> KubernetesObject:
        """What KEDA notes on the HPA that it makes."""
        if self.scaled_object is None:
            return {}
        name = self.scaled_object["metadata"]["name"]
        owner = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": name, "controller": True}
        return {"labels": {"scaledobject.keda.sh/name": name}, "ownerReferences": [owner]}

    def _status(self, now_s: float, spec: HpaSpec, decision: HpaDecision) -> KubernetesObject:
        """The HPA's status after a decision."""
        status: KubernetesObject = {}
        if self._last_scale:
            status["lastScaleTime"] = self._last_scale
        if decision.current_replicas:
            status["currentReplicas"] = decision.current_replicas
        status["desiredReplicas"] = decision.replicas
        status["currentMetrics"] = _current_metrics(spec, decision)
        status["conditions"] = [
            self.objects.condition(now_s, c.type, "True" if c.status else "False", c.reason, c.message)
            for c in decision.conditions.values()
        ]
        return status


def _current_metrics(spec: HpaSpec, decision: HpaDecision) -> list[KubernetesObject]:
    shown: list[KubernetesObject] = []
    for metric in spec.metrics:
        usage = decision.metric_usage_milli.get(metric.name)
        if usage is None:
            shown.append({"type": ""})
            continue
        field = "averageValue" if metric.average else "value"
        current = {"metric": {"name": metric.name}, "current": {field: format_milli(usage)}}
        shown.append({"type": metric.kind, metric.kind.lower(): current})
    return shown
