"""Least privilege for the checker: one account that reads what a scale-out shows and, when asked, may scale."""

from __future__ import annotations

from typing import Any

from autoscale.deploy.choices import MetricsPath, Options
from autoscale.deploy.meta import meta
from autoscale.deploy.scaling import Target, external_name, metric_name
from autoscale.deploy.workload import LWS_API
from autoscale.deploy.yaml_out import Note
from autoscale.profiles import Profile

Object = dict[str, Any]

ACCOUNT = "autoscale-checker"
READ = ["get", "list", "watch"]
RBAC = "rbac.authorization.k8s.io"


def checker(profile: Profile, options: Options, path: MetricsPath, targets: list[Target]) -> list[Object]:
    """ServiceAccount, Role with binding in the set's namespace, ClusterRole with binding for nodes and API services."""
    namespace = profile.deploy.namespace
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}
    cluster_name = f"{ACCOUNT}-{namespace}"  # cluster-wide names: two namespaces must not share one binding
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": meta(profile, ACCOUNT),
            "automountServiceAccountToken": Note(
                "Tokens are issued on request: kubectl create token.", False
            ),
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "Role",
            "metadata": meta(profile, ACCOUNT),
            "rules": _namespace_rules(profile, options, path, targets),
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": meta(profile, ACCOUNT),
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": ACCOUNT},
            "subjects": [subject],
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": meta(profile, cluster_name, namespaced=False),
            "rules": [
                Note(
                    "Which nodes came, and when.", {"apiGroups": [""], "resources": ["nodes"], "verbs": READ}
                ),
                Note(
                    "Whether a metrics adapter is registered and available.",
                    {
                        "apiGroups": ["apiregistration.k8s.io"],
                        "resources": ["apiservices"],
                        "verbs": ["get", "list"],
                    },
                ),
            ],
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": meta(profile, cluster_name, namespaced=False),
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": cluster_name},
            "subjects": [dict(subject)],
        },
    ]


def _namespace_rules(
    profile: Profile, options: Options, path: MetricsPath, targets: list[Target]
) -> list[Any]:
    grouped = profile.deploy.kind == "LeaderWorkerSet"
    kinds = ["statefulsets"] if grouped else ["deployments", "replicasets"]
    rules: list[Any] = [
        {"apiGroups": [""], "resources": ["pods", "events", "services"], "verbs": READ},
        {"apiGroups": ["apps"], "resources": kinds, "verbs": READ},
        {"apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": READ},
    ]
    workload_group, workload_kind = ("apps", "deployments")
    if grouped:
        workload_group, workload_kind = LWS_API.split("/")[0], "leaderworkersets"
        rules.append({"apiGroups": [workload_group], "resources": [workload_kind], "verbs": READ})
    monitoring = _monitoring_resource(profile, path)
    rules.append({"apiGroups": [monitoring[0]], "resources": [monitoring[1]], "verbs": ["get", "list"]})
    if path == "keda":
        rules.append({"apiGroups": ["keda.sh"], "resources": ["scaledobjects"], "verbs": ["get", "list"]})
        names = [external_name(index) for index in range(len(targets))]
        metrics = {"apiGroups": ["external.metrics.k8s.io"], "resources": names, "verbs": ["get", "list"]}
    else:
        if path == "autoscalingmetric":
            rules.append(
                {
                    "apiGroups": ["autoscaling.gke.io"],
                    "resources": ["autoscalingmetrics"],
                    "verbs": ["get", "list"],
                }
            )
        names = [f"pods/{metric_name(profile, path, target.signal)}" for target in targets]
        metrics = {"apiGroups": ["custom.metrics.k8s.io"], "resources": names, "verbs": ["get", "list"]}
    if names:
        rules.append(Note("The values that the HPA itself reads.", metrics))
    if options.checker_may_scale:
        rules.append(
            Note(
                "The only write: the scale of this workload, for a scale-out test.",
                {
                    "apiGroups": [workload_group],
                    "resources": [f"{workload_kind}/scale"],
                    "resourceNames": [profile.deploy.name],
                    "verbs": ["get", "update", "patch"],
                },
            )
        )
    return rules


def _monitoring_resource(profile: Profile, path: MetricsPath) -> tuple[str, str]:
    if path == "keda" or path == "prometheus-adapter" or profile.deploy.platform == "bare-metal":
        return "monitoring.coreos.com", "podmonitors"
    return "monitoring.googleapis.com", "podmonitorings"
