"""The Events of a simulated fleet, in the words of the component that reports them on a real cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

from autoscale.hpa import HpaDecision
from autoscale.sim.fleet.replica import FleetReplica, pod_name
from autoscale.sim.http.kubernetes_objects import UNSCHEDULABLE, KubernetesObject, KubernetesObjects


class KubernetesEvents:
    """Hands Events to `emit(time_s, resource, type, object)`; the same Event again is counted, not repeated."""

    def __init__(
        self, objects: KubernetesObjects, emit: Callable[[float, str, str, KubernetesObject], None]
    ) -> None:
        self.objects, self.emit = objects, emit
        self.deploy = objects.profile.deploy
        self._counts: dict[tuple[str, str, str], int] = {}
        self._first_seen: dict[tuple[str, str, str], str] = {}

    def _name(self, replica: FleetReplica, member: int = 0) -> str:
        return pod_name(self.objects.profile, replica, member)

    def created(self, now_s: float, replica: FleetReplica, member: int) -> None:
        """A pod was created."""
        name = self._name(replica, member)
        if self.objects.lws:
            owner = self.deploy.name + (f"-{replica.slot}" if member else "")
            message = f"Create Pod {name} in StatefulSet {owner} successful"
            self._event(now_s, "StatefulSet", owner, "SuccessfulCreate", message, "statefulset-controller")
        else:
            owner, message = self.objects.replica_set, f"Created pod: {name}"
            self._event(now_s, "ReplicaSet", owner, "SuccessfulCreate", message, "replicaset-controller")

    def pending(self, now_s: float, replica: FleetReplica, member: int) -> None:
        """A pod found no node, and one was asked for."""
        name = self._name(replica, member)
        why = UNSCHEDULABLE.format(resource=self.objects.resource)
        self._event(now_s, "Pod", name, "FailedScheduling", why, "default-scheduler", warning=True)
        pool = self.deploy.node_pool or "accelerators"
        asked = f"pod triggered scale-up: [{{{pool} 1}}]"
        self._event(now_s, "Pod", name, "TriggeredScaleUp", asked, "cluster-autoscaler")

    def scheduled(self, now_s: float, replica: FleetReplica, member: int, node: str) -> None:
        """A pod got its node."""
        name = self._name(replica, member)
        message = f"Successfully assigned {self.objects.namespace}/{name} to {node}"
        self._event(now_s, "Pod", name, "Scheduled", message, "default-scheduler")

    def pulling(self, now_s: float, replica: FleetReplica, member: int) -> None:
        """The image is on its way."""
        message = f'Pulling image "{self.deploy.image}"'
        self._event(now_s, "Pod", self._name(replica, member), "Pulling", message, "kubelet")

    def started(self, now_s: float, replica: FleetReplica, member: int) -> None:
        """The image is there, and the container runs."""
        name, pulled_s = self._name(replica, member), now_s - replica.member_scheduled_s[member]
        message = f'Successfully pulled image "{self.deploy.image}" in {pulled_s:.3f}s'
        self._event(now_s, "Pod", name, "Pulled", message, "kubelet")
        self._event(now_s, "Pod", name, "Created", "Created container: vllm", "kubelet")
        self._event(now_s, "Pod", name, "Started", "Started container vllm", "kubelet")

    def recreated(self, now_s: float, replica: FleetReplica) -> None:
        """A group starts over."""
        message = f"Group {replica.slot} is recreated: its pods did not find each other in time"
        self._event(now_s, "LeaderWorkerSet", self.deploy.name, "RecreateGroup", message, "leaderworkerset")

    def deleted(self, now_s: float, replica: FleetReplica) -> None:
        """A replica was asked to go."""
        name = self._name(replica)
        if self.objects.lws:
            owner = self.deploy.name
            message = f"Delete Pod {name} in StatefulSet {owner} successful"
            self._event(now_s, "StatefulSet", owner, "SuccessfulDelete", message, "statefulset-controller")
        else:
            owner, message = self.objects.replica_set, f"Deleted pod: {name}"
            self._event(now_s, "ReplicaSet", owner, "SuccessfulDelete", message, "replicaset-controller")

    def killing(self, now_s: float, replica: FleetReplica, member: int) -> None:
        """A container is told to stop."""
        name = self._name(replica, member)
        self._event(now_s, "Pod", name, "Killing", "Stopping container vllm", "kubelet")

    def scaled(self, now_s: float, before: int, after: int) -> None:
        """A Deployment's size was written; a LeaderWorkerSet says nothing."""
        if not self.objects.lws:
            word = "up" if after > before else "down"
            message = f"Scaled {word} replica set {self.objects.replica_set} from {before} to {after}"
            self._event(
                now_s, "Deployment", self.deploy.name, "ScalingReplicaSet", message, "deployment-controller"
            )

    def decided(self, now_s: float, decision: HpaDecision) -> None:
        """The Events of one sync of the HPA."""
        for event in decision.events:
            self._event(
                now_s, "HorizontalPodAutoscaler", self.objects.hpa_name, event.reason, event.message,
                "horizontal-pod-autoscaler", warning=event.type == "Warning",
            )  # fmt: skip

    def _event(
        self,
        now_s: float,
        kind: str,
        name: str,
        reason: str,
        message: str,
        component: str,
        *,
        warning: bool = False,
    ) -> None:
        key = (name, reason, message)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        stamp = self.objects.stamp(now_s)
        first = self._first_seen.setdefault(key, stamp)
        digest = hashlib.sha1("".join(key).encode(), usedforsecurity=False).hexdigest()[:16]
        event: KubernetesObject = {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": self.objects.meta(f"{name}.{digest}", now_s),
            "involvedObject": {"kind": kind, "namespace": self.objects.namespace, "name": name},
            "reason": reason,
            "message": message,
            "type": "Warning" if warning else "Normal",
            "reportingComponent": component,
        }
        if component == "default-scheduler":  # events of the newer API: no lastTimestamp, no count
            at = datetime.fromtimestamp(self.objects.started_at + now_s, UTC)
            event |= {"firstTimestamp": None, "lastTimestamp": None}
            event |= {"eventTime": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "source": {}}
        else:
            event |= {"firstTimestamp": first, "lastTimestamp": stamp, "count": count}
            event |= {"eventTime": None, "source": {"component": component}}
        self.emit(now_s, "events", "ADDED" if count == 1 else "MODIFIED", event)
