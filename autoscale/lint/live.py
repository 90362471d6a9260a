"""The objects of a live cluster for the linter: lists, nothing else; what may not be read is said, not guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.errors import BadInput, SourceUnavailable
from autoscale.kube.cluster import ClusterError
from autoscale.kube.kinds import KINDS, collection_path
from autoscale.kube.objects import items, mapping
from autoscale.lint.findings import Located

if TYPE_CHECKING:
    from autoscale.kube.api import Api

# What is read. Secrets never are.
READ = (
    "HorizontalPodAutoscaler", "Deployment", "StatefulSet", "Job", "Service", "ConfigMap", "PersistentVolumeClaim",
    "ResourceQuota", "PodDisruptionBudget", "LeaderWorkerSet", "PodMonitoring", "ClusterPodMonitoring", "PodMonitor",
    "ServiceMonitor", "AutoscalingMetric", "ScaledObject", "APIService", "PersistentVolume",
)  # fmt: skip
LOOKED_FOR = (
    "HorizontalPodAutoscaler", "ScaledObject", "Deployment", "StatefulSet", "LeaderWorkerSet", "Job",
)  # fmt: skip
SYSTEM = ("kube-system", "kube-public", "kube-node-lease", "gmp-system", "gke-managed-system")
_ADAPTERS = ("custom-metrics", "prometheus-adapter")


def snapshot(api: Api, namespace: str | None) -> tuple[list[Located], set[str], list[str]]:
    """(objects, kinds that were not seen, notes about them). Raises SourceUnavailable when nothing answers, BadInput when
    there is nothing to look at."""
    objects: list[Located] = []
    unseen: set[str] = set()
    absent: set[str] = set()
    notes: list[str] = []
    for name in READ:
        kind = KINDS[name]
        try:
            found, _ = api.pages(collection_path(kind, namespace))
        except ClusterError as error:
            if error.status == 404:  # the cluster has no such kind: there are no objects of it
                absent.add(name)
                continue
            if error.status not in (401, 403):
                raise
            unseen.add(name)
            notes.append(
                f"{kind.plural} were not seen: the server answered {error.status}; grant list on them"
            )
            continue
        located = (Located({"apiVersion": kind.api, **item, "kind": name}) for item in found)
        objects += filter(of_interest, located)
    if len(absent) == len(READ):  # Services, say, are in every cluster
        raise api.no_api_server("it answers 404 to every kind")
    if len(unseen) == len(READ):
        raise SourceUnavailable(
            "the cluster lets this account read nothing", next_step="grant list, or use another context"
        )
    if not any(located.kind in LOOKED_FOR for located in objects):
        where = f"in namespace {namespace}" if namespace else "in the cluster"
        why = f" ({'; '.join(notes)})" if notes else ""
        raise BadInput(
            f"no HPA, ScaledObject or workload {where}: nothing to lint{why}",
            next_step="name another one with --namespace or --context",
        )
    return objects, unseen, notes


def of_interest(located: Located) -> bool:
    """Whether rules look at an object of a live cluster: not what it runs for itself, unless that serves metrics."""
    if located.namespace in SYSTEM:
        return any(word in located.name for word in _ADAPTERS)
    if located.kind == "ConfigMap" and located.name == "kube-root-ca.crt":
        return False
    owners = map(mapping, items(located.metadata.get("ownerReferences")))
    return not (located.kind == "StatefulSet" and any(o.get("kind") == "LeaderWorkerSet" for o in owners))
