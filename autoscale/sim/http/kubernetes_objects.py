"""The objects of a simulated fleet as an API server would return them: pods and workload, and what all share.

Shapes and order follow recordings of a real v1.36 control plane. Times are the fleet's control time: `started_at +
control seconds`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from analysis.numbers import known
from autoscale.hpa import HpaSpec
from autoscale.profiles.profile import Profile
from autoscale.sim.fleet.replica import FleetReplica, pod_name, template_hash

GPU, TPU = "nvidia.com/gpu", "google.com/tpu"
GRACE_S = 45  # terminationGracePeriodSeconds: 15 s more than a removed replica may take for its requests
IDLE = (
    "until curl -s localhost:{port}/metrics | grep -q 'num_requests_running.* 0'; do sleep 1; done"  # preStop
)
LWS = "leaderworkerset.sigs.k8s.io"
UNSCHEDULABLE = "0/1 nodes are available: 1 Insufficient {resource}. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."

KubernetesObject = dict[str, Any]  # as JSON holds it: the shapes are Kubernetes', not this project's


class KubernetesObjects:
    """Makes the objects of one fleet; counts resource versions and remembers since when a condition has its status."""

    def __init__(self, profile: Profile, spec: HpaSpec | None, started_at: float) -> None:
        self.profile, self.spec, self.started_at = profile, spec, started_at
        self.namespace = profile.deploy.namespace
        self.lws = profile.deploy.kind == "LeaderWorkerSet"
        self.resource = TPU if profile.deploy.platform == "gke-tpu" else GPU
        self.replica_set = f"{profile.deploy.name}-{template_hash(profile)}"
        self.hpa_name = spec.name if spec else profile.deploy.hpa_name
        self._version = 100
        self._transitions: dict[str, tuple[str, str]] = {}  # condition -> status, since

    @property
    def selector(self) -> str:
        """The selector by which the HPA finds its pods."""
        if self.lws:
            return f"{LWS}/name={self.profile.deploy.name},{LWS}/worker-index=0"
        return ",".join(f"{k}={v}" for k, v in self.profile.deploy.labels.items())

    def stamp(self, control_s: float) -> str:
        """A Kubernetes time: whole seconds, UTC."""
        return datetime.fromtimestamp(self.started_at + control_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def meta(self, name: str, created_s: float, labels: Mapping[str, str] | None = None) -> KubernetesObject:
        """Metadata with the next resource version."""
        self._version += 1
        meta: KubernetesObject = {
            "name": name,
            "namespace": self.namespace,
            "uid": _uid(self.namespace, name, created_s),
            "resourceVersion": str(self._version),
            "creationTimestamp": self.stamp(created_s),
        }
        if labels:
            meta["labels"] = dict(labels)
        return meta

    def condition(self, now_s: float, kind: str, status: str, reason: str, message: str) -> KubernetesObject:
        """A condition of the workload or the HPA; it keeps the time of its last change of status."""
        before = self._transitions.get(kind)
        since = before[1] if before and before[0] == status else self.stamp(now_s)
        self._transitions[kind] = (status, since)
        return {
            "type": kind,
            "status": status,
            "lastTransitionTime": since,
            "reason": reason,
            "message": message,
        }

    # --- pods -------------------------------------------------------------------------------------------------------

    def pod(
        self, now_s: float, replica: FleetReplica, member: int, node: str | None, *, deleted: bool
    ) -> KubernetesObject:
        """One pod of a replica; `node` is the name of the node that it was given."""
        meta = self.meta(
            pod_name(self.profile, replica, member), replica.attempt_s, self._pod_labels(replica, member)
        )
        owner = ("StatefulSet", self.profile.deploy.name) if self.lws else ("ReplicaSet", self.replica_set)
        meta["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": owner[0], "name": owner[1], "controller": True}
        ]
        if known(replica.deleting_s):
            grace_s = 0 if deleted else GRACE_S
            meta["deletionTimestamp"] = self.stamp(now_s if deleted else replica.deleting_s + grace_s)
            meta["deletionGracePeriodSeconds"] = grace_s
        spec = self._pod_spec(serves=member == 0)
        if node:
            spec["nodeName"] = node
        status = self._pod_status(replica, member)
        return {"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": spec, "status": status}

    def _pod_labels(self, replica: FleetReplica, member: int) -> dict[str, str]:
        deploy = self.profile.deploy
        if not self.lws:
            return {**deploy.labels, "pod-template-hash": template_hash(self.profile)}
        return {
            f"{LWS}/name": deploy.name,
            f"{LWS}/group-index": str(replica.slot),
            f"{LWS}/worker-index": str(member),
            **({"role": "leader"} if member == 0 else {}),
        }

    def _pod_spec(self, *, serves: bool) -> KubernetesObject:
        """The pod spec of the template; group members other than the leader serve nothing."""
        deploy = self.profile.deploy
        container: KubernetesObject = {
            "name": "vllm",
            "image": deploy.image,
            "resources": {"limits": {self.resource: str(self.profile.replica.chips_per_node)}},
        }
        if serves:
            container["ports"] = [{"containerPort": deploy.port, "protocol": "TCP"}]
            container["readinessProbe"] = {"httpGet": {"path": "/health", "port": deploy.port}}
            wait = ["sh", "-c", IDLE.format(port=deploy.port)]
            container["lifecycle"] = {"preStop": {"exec": {"command": wait}}}
        spec: KubernetesObject = {
            "containers": [container],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": GRACE_S,
        }
        if deploy.node_selector:
            spec["nodeSelector"] = dict(deploy.node_selector)
        return spec

    def _pod_status(self, replica: FleetReplica, member: int) -> KubernetesObject:
        scheduled_s, started_s = replica.member_scheduled_s[member], replica.member_started_s[member]
        if not known(scheduled_s):
            return self._pending_status(replica, member)
        running = known(started_s)
        ready_s = replica.ready_s if member == 0 else started_s
        ready = known(ready_s)
        since = self.stamp(ready_s if ready else started_s if running else scheduled_s)
        not_ready: KubernetesObject = (
            {}
            if ready
            else {"reason": "ContainersNotReady", "message": "containers with unready status: [vllm]"}
        )
        word = "True" if ready else "False"
        at = self.stamp(started_s if running else scheduled_s)
        state = {"running": {"startedAt": at}} if running else {"waiting": {"reason": "ContainerCreating"}}
        return {
            "phase": "Running" if running else "Pending",
            "conditions": [
                _pod_condition("PodReadyToStartContainers", "True" if running else "False", at),
                _pod_condition("Initialized", "True", self.stamp(scheduled_s)),
                _pod_condition("Ready", word, since) | not_ready,
                _pod_condition("ContainersReady", word, since) | not_ready,
                _pod_condition("PodScheduled", "True", self.stamp(scheduled_s)),
            ],
            "startTime": self.stamp(scheduled_s),
            "containerStatuses": [
                {
                    "name": "vllm",
                    "state": state,
                    "ready": ready,
                    "started": running,
                    "restartCount": 0,
                    "image": self.profile.deploy.image,
                }
            ],
            "qosClass": "Burstable",
        }

    def _pending_status(self, replica: FleetReplica, member: int) -> KubernetesObject:
        status: KubernetesObject = {"phase": "Pending", "qosClass": "Burstable"}
        if replica.ordinal >= 0 and replica.member_node_s[member] > replica.attempt_s:
            unscheduled = _pod_condition("PodScheduled", "False", self.stamp(replica.attempt_s))
            why = {"reason": "Unschedulable", "message": UNSCHEDULABLE.format(resource=self.resource)}
            status["conditions"] = [unscheduled | why]
        return status

    # --- the workload -----------------------------------------------------------------------------------------------

    def workload(
        self, now_s: float, replicas: Iterable[FleetReplica], desired: int, generation: int
    ) -> KubernetesObject:
        """The Deployment or LeaderWorkerSet with these replicas, after so many changes of its spec."""
        all_of_them = list(replicas)
        living = [r for r in all_of_them if not known(r.deleting_s)]
        ready = sum(r.ready for r in living)
        meta = self.meta(self.profile.deploy.name, 0.0, self.profile.deploy.labels) | {
            "generation": generation
        }
        if self.lws:
            return self._leader_worker_set(now_s, meta, desired, len(all_of_them), ready)
        counts = {
            "observedGeneration": generation,
            "replicas": len(living),
            "updatedReplicas": len(living),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": max(0, desired - ready),
        }
        shown = {name: count for name, count in counts.items() if count != 0}
        shown["terminatingReplicas"] = len(all_of_them) - len(living)
        return self._deployment(now_s, meta, desired, shown, short=ready < desired)

    def _leader_worker_set(
        self, now_s: float, meta: KubernetesObject, desired: int, existing: int, ready: int
    ) -> KubernetesObject:
        done = ready == desired == existing
        conditions = [
            self.condition(
                now_s, "Progressing", str(not done), "GroupsProgressing", "Replicas are progressing"
            ),
            self.condition(now_s, "Available", str(done), "AllGroupsReady", "All replicas are ready"),
        ]
        template = {
            "size": self.profile.replica.nodes,
            "restartPolicy": "RecreateGroupOnPodRestart",
            "leaderTemplate": {
                "metadata": {"labels": {"role": "leader"}},
                "spec": self._pod_spec(serves=True),
            },
            "workerTemplate": {"spec": self._pod_spec(serves=False)},
        }
        return {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": meta,
            "spec": {
                "replicas": desired,
                "startupPolicy": "LeaderCreated",
                "leaderWorkerTemplate": template,
            },
            "status": {
                "replicas": existing,
                "readyReplicas": ready,
                "updatedReplicas": existing,
                "hpaPodSelector": self.selector,
                "conditions": conditions,
            },
        }

    def _deployment(
        self, now_s: float, meta: KubernetesObject, desired: int, counts: Mapping[str, int], *, short: bool
    ) -> KubernetesObject:
        labels = self.profile.deploy.labels
        conditions = [
            self.condition(
                now_s,
                "Progressing",
                "True",
                "NewReplicaSetAvailable",
                f'ReplicaSet "{self.replica_set}" has successfully progressed.',
            ),
            self.condition(
                now_s,
                "Available",
                "False" if short else "True",
                "MinimumReplicasUnavailable" if short else "MinimumReplicasAvailable",
                f"Deployment {'does not have' if short else 'has'} minimum availability.",
            ),
        ]
        return {
            "kind": "Deployment",
            "apiVersion": "apps/v1",
            "metadata": meta,
            "spec": {
                "replicas": desired,
                "selector": {"matchLabels": dict(labels)},
                "template": {"metadata": {"labels": dict(labels)}, "spec": self._pod_spec(serves=True)},
            },
            "status": {**counts, "conditions": conditions},
        }


def _pod_condition(kind: str, status: str, since: str) -> KubernetesObject:
    return {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": since}


def _uid(*parts: object) -> str:
    digest = hashlib.sha1("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"
