"""The kinds that we meet: where the API server keeps them, labels of a LeaderWorkerSet's pods, accelerators."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from analysis.errors import BadInput

LWS_API = "leaderworkerset.x-k8s.io/v1"  # the API group; labels use LWS_LABEL, which is not the same
LWS_LABEL = "leaderworkerset.sigs.k8s.io"
LWS_NAME, LWS_GROUP_INDEX, LWS_WORKER_INDEX = (
    f"{LWS_LABEL}/{part}" for part in ("name", "group-index", "worker-index")
)
METRICS_GROUP, EXTERNAL_GROUP = "custom.metrics.k8s.io", "external.metrics.k8s.io"
ACCELERATORS = ("nvidia.com/gpu", "google.com/tpu", "amd.com/gpu")  # resources of a pod, in whole chips


class Kind(NamedTuple):
    """Where one kind is served: apiVersion, plural, and whether it lives in a namespace."""

    api: str
    plural: str
    namespaced: bool = True


KINDS: dict[str, Kind] = {
    "APIService": Kind("apiregistration.k8s.io/v1", "apiservices", False),
    "AutoscalingMetric": Kind("autoscaling.gke.io/v1beta1", "autoscalingmetrics"),
    "ClusterPodMonitoring": Kind("monitoring.googleapis.com/v1", "clusterpodmonitorings", False),
    "ClusterRole": Kind("rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": Kind("rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "ComputeClass": Kind("cloud.google.com/v1", "computeclasses", False),
    "ConfigMap": Kind("v1", "configmaps"),
    "CustomResourceDefinition": Kind("apiextensions.k8s.io/v1", "customresourcedefinitions", False),
    "Deployment": Kind("apps/v1", "deployments"),
    "Event": Kind("v1", "events"),
    "Gateway": Kind("gateway.networking.k8s.io/v1", "gateways"),
    "HTTPRoute": Kind("gateway.networking.k8s.io/v1", "httproutes"),
    "HorizontalPodAutoscaler": Kind("autoscaling/v2", "horizontalpodautoscalers"),
    "InferencePool": Kind("inference.networking.k8s.io/v1", "inferencepools"),
    "Job": Kind("batch/v1", "jobs"),
    "LeaderWorkerSet": Kind(LWS_API, "leaderworkersets"),
    "Namespace": Kind("v1", "namespaces", False),
    "Node": Kind("v1", "nodes", False),
    "NodePool": Kind("karpenter.sh/v1", "nodepools", False),
    "PersistentVolume": Kind("v1", "persistentvolumes", False),
    "PersistentVolumeClaim": Kind("v1", "persistentvolumeclaims"),
    "Pod": Kind("v1", "pods"),
    "PodDisruptionBudget": Kind("policy/v1", "poddisruptionbudgets"),
    "PodMonitor": Kind("monitoring.coreos.com/v1", "podmonitors"),
    "PodMonitoring": Kind("monitoring.googleapis.com/v1", "podmonitorings"),
    "PriorityClass": Kind("scheduling.k8s.io/v1", "priorityclasses", False),
    "PrometheusRule": Kind("monitoring.coreos.com/v1", "prometheusrules"),
    "ReplicaSet": Kind("apps/v1", "replicasets"),
    "ResourceQuota": Kind("v1", "resourcequotas"),
    "Role": Kind("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": Kind("rbac.authorization.k8s.io/v1", "rolebindings"),
    "Rules": Kind("monitoring.googleapis.com/v1", "rules"),
    "ScaledObject": Kind("keda.sh/v1alpha1", "scaledobjects"),
    "Service": Kind("v1", "services"),
    "ServiceAccount": Kind("v1", "serviceaccounts"),
    "ServiceMonitor": Kind("monitoring.coreos.com/v1", "servicemonitors"),
    "StatefulSet": Kind("apps/v1", "statefulsets"),
    "StorageClass": Kind("storage.k8s.io/v1", "storageclasses", False),
}
CLUSTER_WIDE = frozenset(name for name, kind in KINDS.items() if not kind.namespaced)
SCALABLE = ("Deployment", "LeaderWorkerSet", "StatefulSet", "ReplicaSet")  # kinds with a scale subresource
SCALED = ("Deployment", "LeaderWorkerSet", "StatefulSet")  # those that an HPA of ours scales
BY_PLURAL = {kind.plural: kind for kind in KINDS.values()}


def plural_of(kind: str) -> str:
    """The plural of a kind, "" for one that is not known."""
    return KINDS[kind].plural if kind in KINDS else ""


def collection_path(kind: Kind, namespace: str | None = None, *, api: str = "") -> str:
    """The API path of a kind's objects, in one namespace or in all; `api` when an object names another version."""
    api = api or kind.api
    root = f"/apis/{api}" if "/" in api else f"/api/{api}"
    scope = f"/namespaces/{quote(namespace, safe='')}" if namespace and kind.namespaced else ""
    return f"{root}{scope}/{kind.plural}"


def resource_path(plural: str, namespace: str | None) -> str:
    """The API path of the objects of a plural resource name. Raises BadInput for one that is not known."""
    if plural not in BY_PLURAL:
        raise BadInput("unknown resource", value=plural, expected=", ".join(sorted(BY_PLURAL)))
    return collection_path(BY_PLURAL[plural], namespace)


def object_path(kind: str, name: str, namespace: str | None, *, api: str = "") -> str:
    """The API path of one object. Raises BadInput for a kind that is not known."""
    if kind not in KINDS:
        raise BadInput("unknown kind", value=kind, expected=f"one of {', '.join(KINDS)}")
    found = KINDS[kind]
    space = (namespace or "default") if found.namespaced else None
    return f"{collection_path(found, space, api=api)}/{quote(name, safe='')}"
