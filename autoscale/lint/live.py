"""The objects of a live cluster for the linter: lists, nothing else; what may not be read is said, not guessed."""

from __future__ import annotations

import json
from typing import Any

from analysis.errors import SourceUnavailable
from autoscale.lint.findings import Located

# kind -> API path, plural, namespaced. Secrets are never read.
READ: dict[str, tuple[str, str, bool]] = {
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers", True),
    "Deployment": ("/apis/apps/v1", "deployments", True),
    "StatefulSet": ("/apis/apps/v1", "statefulsets", True),
    "Job": ("/apis/batch/v1", "jobs", True),
    "Service": ("/api/v1", "services", True),
    "ConfigMap": ("/api/v1", "configmaps", True),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims", True),
    "ResourceQuota": ("/api/v1", "resourcequotas", True),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets", True),
    "LeaderWorkerSet": ("/apis/leaderworkerset.x-k8s.io/v1", "leaderworkersets", True),
    "PodMonitoring": ("/apis/monitoring.googleapis.com/v1", "podmonitorings", True),
    "ClusterPodMonitoring": ("/apis/monitoring.googleapis.com/v1", "clusterpodmonitorings", False),
    "PodMonitor": ("/apis/monitoring.coreos.com/v1", "podmonitors", True),
    "ServiceMonitor": ("/apis/monitoring.coreos.com/v1", "servicemonitors", True),
    "AutoscalingMetric": ("/apis/autoscaling.gke.io/v1beta1", "autoscalingmetrics", True),
    "ScaledObject": ("/apis/keda.sh/v1alpha1", "scaledobjects", True),
    "APIService": ("/apis/apiregistration.k8s.io/v1", "apiservices", False),
    "PersistentVolume": ("/api/v1", "persistentvolumes", False),
}
PAGE = 500
TIMEOUT_S = 30
SYSTEM = ("kube-system", "kube-public", "kube-node-lease", "gmp-system", "gke-managed-system")
_ADAPTERS = ("custom-metrics", "prometheus-adapter")


def connect(context: str | None = None) -> Any:
    """An ApiClient for a context of KUBECONFIG, or for the cluster that this runs in. Raises SourceUnavailable."""
    from kubernetes import client, config

    try:
        return config.new_client_from_config(context=context)
    except (config.ConfigException, OSError) as error:
        if context is None:
            try:
                config.load_incluster_config()
                return client.ApiClient()
            except config.ConfigException:
                pass
        raise SourceUnavailable(f"no usable kubeconfig: {error}") from None


def snapshot(api_client: Any, namespace: str | None) -> tuple[list[Located], set[str], list[str]]:
    """(objects, kinds that were not seen, notes about them). Raises SourceUnavailable when nothing answers."""
    from kubernetes.client.exceptions import ApiException
    from kubernetes.dynamic import DynamicClient

    client = DynamicClient(api_client, discoverer=lambda *_: None)  # paths are known: nothing to discover
    objects: list[Located] = []
    unseen: set[str] = set()
    notes: list[str] = []
    for kind, (root, plural, namespaced) in READ.items():
        where = f"/namespaces/{namespace}" if namespaced and namespace else ""
        try:
            found = _list(client, f"{root}{where}/{plural}")
        except ApiException as error:
            if error.status == 404:  # the cluster has no such kind: there are no objects of it
                continue
            if error.status not in (401, 403):
                raise SourceUnavailable(
                    f"GET {root}{where}/{plural}: {error.status} {error.reason}"
                ) from None
            unseen.add(kind)
            notes.append(f"{plural} were not seen: the server answered {error.status}; grant list on them")
            continue
        for item in found:
            located = Located({"apiVersion": root.split("/", 2)[2], **item, "kind": kind})
            if _is_of_interest(located):
                objects.append(located)
    if len(unseen) == len(READ):
        raise SourceUnavailable(
            "the cluster lets this account read nothing", next_step="grant list, or use another context"
        )
    return objects, unseen, notes


def _list(client: Any, path: str) -> list[dict[str, Any]]:
    """All objects of a path, page by page."""
    import urllib3

    found: list[dict[str, Any]] = []
    token = ""
    while True:
        query = [("limit", str(PAGE))] + ([("continue", token)] if token else [])
        try:
            answer = client.request(
                "GET", path, query_params=query, serialize=False, _request_timeout=TIMEOUT_S
            )
        except urllib3.exceptions.HTTPError as error:
            raise SourceUnavailable(f"GET {path}: {error}") from None
        page = json.loads(answer.data)
        found += page.get("items") or []
        token = (page.get("metadata") or {}).get("continue") or ""
        if not token:
            return found


def _is_of_interest(located: Located) -> bool:
    """Not what the cluster runs for itself, unless it serves metrics."""
    if located.namespace in SYSTEM:
        return any(word in located.name for word in _ADAPTERS)
    if located.kind == "ConfigMap" and located.name == "kube-root-ca.crt":
        return False
    owners = located.metadata.get("ownerReferences") or []
    return not (located.kind == "StatefulSet" and any(o.get("kind") == "LeaderWorkerSet" for o in owners))
