"""Least privilege for the checker: one account that reads what a scale-out shows and, when asked, may scale."""

from __future__ import annotations

from typing import Any

from autoscale.deploy.choices import Options
from autoscale.deploy.meta import meta
from autoscale.deploy.scaling import external_name, metric_name
from autoscale.deploy.yaml_out import Note
from autoscale.kube.kinds import EXTERNAL_GROUP, LWS_API, METRICS_GROUP
from autoscale.kube.objects import Object
from autoscale.kube.vllm_names import OF_KEDA, MetricsPath
from autoscale.profiles import Profile
from autoscale.signal_target import SignalTarget

ACCOUNT = "autoscale-checker"
READ = ["get", "list", "watch"]
RBAC = "rbac.authorization.k8s.io"
LWS_GROUP = LWS_API.split("/")[0]


def checker(
    profile: Profile, options: Options, path: MetricsPath, targets: list[SignalTarget]
) -> list[Object]:
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
                    "Whether a metrics adapter is registered.",
                    {
                        "apiGroups": ["apiregistration.k8s.io"],
                        "resources": ["apiservices"],
                        "resourceNames": _api_services(path),
                        "verbs": ["get"],
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


def _api_services(path: MetricsPath) -> list[str]:
    if path in OF_KEDA:
        return [f"v1beta1.{EXTERNAL_GROUP}"]
    return [f"{version}.{METRICS_GROUP}" for version in ("v1beta1", "v1beta2")]


def _namespace_rules(
    profile: Profile, options: Options, path: MetricsPath, targets: list[SignalTarget]
) -> list[Any]:
    rules: list[Any] = [
        {"apiGroups": [""], "resources": ["pods", "events"], "verbs": READ},
        {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": READ},
        {"apiGroups": [LWS_GROUP], "resources": ["leaderworkersets"], "verbs": READ},
        {"apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": READ},
        *(
            [
                Note(
                    "What KEDA says of the triggers behind the HPA.",
                    {"apiGroups": ["keda.sh"], "resources": ["scaledobjects"], "verbs": ["list"]},
                )
            ]
            if path in OF_KEDA and targets
            else []
        ),
        Note(
            "Whether and how the pods are scraped.",
            {"apiGroups": ["monitoring.googleapis.com"], "resources": ["podmonitorings"], "verbs": ["list"]},
        ),
        {"apiGroups": ["monitoring.coreos.com"], "resources": ["podmonitors"], "verbs": ["list"]},
    ]
    if options.checker_reads_logs:
        why = "Tells weights, compile and warm-up apart. With request logging on, logs hold prompts: switch this off then."
        rules.append(Note(why, {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}))
    if targets:
        rules.append(Note("The values that the HPA itself reads.", _metrics_rule(profile, path, targets)))
    if options.checker_may_scale:
        rules.append(
            Note("The only write: the scale of this workload, for a scale-out test.", _scale_rule(profile))
        )
    return rules


def _metrics_rule(profile: Profile, path: MetricsPath, targets: list[SignalTarget]) -> Object:
    if path in OF_KEDA:
        group, names = EXTERNAL_GROUP, [external_name(index) for index in range(len(targets))]
    else:
        group, names = METRICS_GROUP, [f"pods/{metric_name(profile, path, one.signal)}" for one in targets]
    return {"apiGroups": [group], "resources": names, "verbs": ["get", "list"]}


def _scale_rule(profile: Profile) -> Object:
    grouped = profile.deploy.kind == "LeaderWorkerSet"
    return {
        "apiGroups": [LWS_GROUP if grouped else "apps"],
        "resources": ["leaderworkersets/scale" if grouped else "deployments/scale"],
        "resourceNames": [profile.deploy.name],
        "verbs": ["get", "update", "patch"],
    }
