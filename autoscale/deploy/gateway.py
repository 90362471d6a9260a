"""The llm-d shape: an InferencePool behind a GKE Gateway, its endpoint picker (EPP), and KEDA on what the picker counts.

Sources: llm-d v0.9.0's component list (endpoint picker v0.10.0, Gateway API inference extension v1.5.0); llm-d/llm-d-router
config/charts/routerlib (arguments, ports, probes, rights, Recreate); llm-d guides/workload-autoscaling (signals and their
thresholds, which the guide derives from nothing).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from analysis.errors import BadInput
from autoscale.deploy.meta import meta
from autoscale.deploy.targets import Plan
from autoscale.deploy.yaml_out import Note
from autoscale.kube.endpoint_picker import LRU_WEIGHT, SCORERS
from autoscale.kube.objects import Object
from autoscale.profiles import Profile
from autoscale.recommendation import Recommendation
from autoscale.signal_target import SignalTarget

IMAGE = "ghcr.io/llm-d/llm-d-router-endpoint-picker:v0.10.0"
POOL_API, ROUTE_API = "inference.networking.k8s.io/v1", "gateway.networking.k8s.io/v1"
GATEWAY_CLASS = "gke-l7-rilb"
EXT_PROC, HEALTH, METRICS = 9002, 9003, 9090
RBAC = "rbac.authorization.k8s.io"
LISTS = ["get", "list", "watch"]
GUIDE = (SignalTarget("gateway_queue", "1"), SignalTarget("gateway_in_flight", "16"))
USUAL = f"lru_weight={LRU_WEIGHT:g}"  # llm-d's optimized baseline; by its default alone requests herd to what looks empty
OF_GUIDE = (
    f"llm-d's guide, derived from nothing: `autoscale recommend --scaler keda --gateway {USUAL}` derives one for your SLO, "
    f"`autoscale simulate --gateway {USUAL}` shows what this one does to your traffic."
)


def scorers(options: str) -> dict[str, float] | None:
    """Scorer -> weight of the picker that these options of --gateway stand for; None when they say more than weights."""
    weights = dict(SCORERS.values())
    for part in options.split(","):
        name, _, value = part.partition("=")
        if name in SCORERS:
            weights[SCORERS[name][0]] = float(value)
        elif part != "on":
            return None
    return {scorer: weight for scorer, weight in weights.items() if weight}


def _config(options: str) -> str:
    """The picker's configuration, with flow control."""
    weights = scorers(options) or {}
    return "\n".join(
        [
            "apiVersion: llm-d.ai/v1alpha1",
            "kind: EndpointPickerConfig",
            "featureGates: [flowControl]",
            "plugins:",
            *(f"- type: {plugin}" for plugin in [*weights, "max-score-picker"]),
            "schedulingProfiles:",
            "- name: default",
            "  plugins:",
            *(f"  - {{pluginRef: {scorer}, weight: {weight:g}}}" for scorer, weight in weights.items()),
            "  - {pluginRef: max-score-picker}",
            "",
        ]
    )


def picker_name(profile: Profile) -> str:
    """Name of the endpoint picker's objects."""
    return f"{profile.deploy.name}-epp"


def _labels(profile: Profile) -> dict[str, str]:
    return {"llm-d-router": picker_name(profile)}


def refuse_elsewhere(profile: Profile) -> None:
    """Raise BadInput for a profile that this shape is not written for."""
    if profile.deploy.platform != "gke":
        raise BadInput(
            f"metrics path for profile {profile.name}",
            value="llm-d",
            expected="a profile of GPUs on GKE",
            next_step="choose --metrics keda, which needs no gateway",
        )


def plan_behind(plan: Plan, recommendation: Recommendation | None) -> Plan:
    """What scales behind this gateway: a recommendation that was judged behind it, the guide's thresholds without one.

    Raises BadInput for a recommendation that was judged without a gateway, or behind one with other options.
    """
    if recommendation is None:
        return replace(plan, targets=list(GUIDE), source=OF_GUIDE, gateway=USUAL)
    if plan.autoscales and recommendation.gateway is None:
        raise BadInput(
            "this recommendation's targets are of the replicas' own gauges, which mean something else behind a gateway "
            "that holds requests",
            next_step=f"run `autoscale recommend --scaler keda --gateway {USUAL}`, choose --metrics keda for these targets, or leave "
            "the recommendation out for the guide's thresholds",
        )
    options = recommendation.gateway or USUAL
    if scorers(options) is None:
        raise BadInput(
            "the recommendation is for a gateway that this set does not write",
            value=f"--gateway {options}",
            expected=f"--gateway on, or weights of scorers, as in --gateway {USUAL}",
            next_step="choose --metrics keda, beside a gateway of your own",
        )
    return replace(plan, gateway=options)


def pool(profile: Profile) -> list[Object]:
    """The InferencePool, and the Gateway and HTTPRoute that lead to it."""
    deploy = profile.deploy
    reference = {"group": POOL_API.split("/")[0], "kind": "InferencePool", "name": deploy.name}
    return [
        {
            "apiVersion": POOL_API,
            "kind": "InferencePool",
            "metadata": meta(profile, deploy.name),
            "spec": {
                "targetPorts": [{"number": deploy.port}],
                "selector": Note(
                    "The same labels as the Service's: pods that serve HTTP.",
                    {"matchLabels": dict(deploy.labels)},
                ),
                "endpointPickerRef": {
                    "name": picker_name(profile),
                    "port": {"number": EXT_PROC},
                    "failureMode": Note(
                        "FailOpen would send requests past the queue that this set scales on.", "FailClose"
                    ),
                },
            },
        },
        {
            "apiVersion": ROUTE_API,
            "kind": "Gateway",
            "metadata": meta(profile, deploy.name),
            "spec": {
                "gatewayClassName": Note(
                    "Internal. gke-l7-regional-external-managed gives a public address; both need a proxy-only subnet.",
                    GATEWAY_CLASS,
                ),
                "listeners": [{"name": "http", "protocol": "HTTP", "port": 80}],
            },
        },
        {
            "apiVersion": ROUTE_API,
            "kind": "HTTPRoute",
            "metadata": meta(profile, deploy.name),
            "spec": {
                "parentRefs": [{"name": deploy.name}],
                "rules": [
                    {
                        "backendRefs": [reference],
                        "timeouts": Note(
                            "A held request must outlive the start of a replica.", {"request": "0s"}
                        ),
                    }
                ],
            },
        },
    ]


def picker(profile: Profile, options: str) -> list[Object]:
    """The endpoint picker of these options of --gateway: account and rights, configuration, Service and Deployment."""
    name = picker_name(profile)
    reads = [
        {"apiGroups": [POOL_API.split("/")[0]], "resources": ["inferencepools"], "verbs": LISTS},
        {
            "apiGroups": ["inference.networking.x-k8s.io", "llm-d.ai"],
            "resources": ["inferenceobjectives", "inferencemodelrewrites"],
            "verbs": LISTS,
        },
        {"apiGroups": [""], "resources": ["pods"], "verbs": LISTS},
    ]
    subject = {"kind": "ServiceAccount", "name": name, "namespace": profile.deploy.namespace}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(profile, name)},
        {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": meta(profile, name), "rules": reads},
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": meta(profile, name),
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name},
            "subjects": [subject],
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta(profile, name),
            "data": {
                "epp.yaml": Note(
                    f"As --gateway {options} simulates it. Flow control is off unless its gate is named.",
                    _config(options),
                )
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta(profile, name),
            "spec": {
                "selector": _labels(profile),
                "ports": [
                    {"name": "grpc", "port": EXT_PROC, "protocol": "TCP", "appProtocol": "http2"},
                    {"name": "metrics", "port": METRICS, "protocol": "TCP"},
                ],
            },
        },
        _deployment(profile),
    ]


def _deployment(profile: Profile) -> Object:
    name, deploy = picker_name(profile), profile.deploy
    probe: Any = {"grpc": {"port": HEALTH, "service": "inference-extension"}}
    flags = {
        "pool-name": deploy.name,
        "pool-namespace": deploy.namespace,
        "pool-group": POOL_API.split("/")[0],
        "config-file": "/config/epp.yaml",
        "grpc-health-port": HEALTH,
        "metrics-endpoint-auth": "false",
        "tracing": "false",
    }
    container = {
        "name": "epp",
        "image": IMAGE,
        "args": Note(
            "Without metrics-endpoint-auth=false a scrape needs a token.",
            [f"--{flag}={value}" for flag, value in flags.items()],
        ),
        "ports": [
            {"name": "grpc", "containerPort": EXT_PROC},
            {"name": "grpc-health", "containerPort": HEALTH},
            {"name": "metrics", "containerPort": METRICS},
        ],
        "livenessProbe": {**probe, "initialDelaySeconds": 5, "periodSeconds": 10},
        "readinessProbe": {**probe, "periodSeconds": 2},
        "resources": {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "16Gi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/config", "readOnly": True}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta(profile, name),
        "spec": {
            "replicas": Note("Its queue and its memory of prefixes are not shared: one replica.", 1),
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": _labels(profile)},
            "template": {
                "metadata": {"labels": _labels(profile)},
                "spec": {
                    "serviceAccountName": name,
                    "terminationGracePeriodSeconds": 130,
                    "containers": [container],
                    "volumes": [{"name": "config", "configMap": {"name": name}}],
                },
            },
        },
    }


def picker_scrape(profile: Profile) -> Object:
    """The PodMonitor of the endpoint picker."""
    endpoint = {
        "port": "metrics",
        "path": "/metrics",
        "interval": f"{profile.metric_path.scrape_interval_s:g}s",
    }
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": meta(profile, picker_name(profile)),
        "spec": {"selector": {"matchLabels": _labels(profile)}, "podMetricsEndpoints": [endpoint]},
    }
