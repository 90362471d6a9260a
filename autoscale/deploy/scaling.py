"""What scales the workload: targets, metric names on each path, and the HPA or ScaledObject."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autoscale.deploy import sizing
from autoscale.deploy.choices import Options
from autoscale.deploy.meta import meta
from autoscale.deploy.targets import Plan, decimal
from autoscale.deploy.timetable import cron_triggers
from autoscale.deploy.yaml_out import Note, plain_yaml
from autoscale.hpa import HpaSpec, format_milli
from autoscale.hpa import parse_quantity as parse
from autoscale.kube.kinds import LWS_API
from autoscale.kube.objects import Object, mapping
from autoscale.kube.scaler import hpa_object, pods_metric
from autoscale.kube.scaling_signals import SCALING_SIGNALS
from autoscale.kube.vllm_names import SIGNAL_NAMES, MetricsPath, hpa_metric_name, prometheus_name
from autoscale.profiles import Profile
from autoscale.profiles.trigger_queries import trigger_query
from autoscale.signal_target import SignalTarget

KEDA_POLL_S = 15
AUTOSCALING_METRIC = "vllm"  # name of the AutoscalingMetric object: it is part of the HPA's metric names


def vllm_metric(profile: Profile, signal: str) -> str:
    """The name under which this vLLM version exports a signal."""
    return prometheus_name(signal, profile.engine.vllm_version)


def metric_name(profile: Profile, path: MetricsPath, signal: str) -> str:
    """The name under which the HPA asks for a signal on a metrics path (KEDA chooses its own)."""
    if path == "autoscalingmetric":
        return f"autoscaling.gke.io|{AUTOSCALING_METRIC}|{gauge_name(profile, signal)}"
    return hpa_metric_name(signal, profile.engine.vllm_version, path)


def gauge_name(profile: Profile, signal: str) -> str:
    """The name of a gauge inside an AutoscalingMetric: lower-case letters, digits and dashes."""
    return vllm_metric(profile, signal).removeprefix("vllm:").replace("_", "-")


def external_name(index: int) -> str:
    """The external metric under which KEDA serves trigger number `index`."""
    return f"s{index}-prometheus"


def hpa(profile: Profile, options: Options, path: MetricsPath, plan: Plan) -> Object:
    """The HorizontalPodAutoscaler (autoscaling/v2). Raises BadInput for a behavior block that an API server refuses."""
    manifest = hpa_object(
        meta(profile, profile.deploy.hpa_name),
        _scale_target(profile),
        (plan.min_replicas, Note(_pool(profile, plan.max_replicas), plan.max_replicas)),
        [_pods_metric(profile, path, target, plan) for target in plan.targets],
        _behavior(options, plan),
    )
    HpaSpec.from_manifest(plain_yaml(manifest))  # what an API server would refuse is refused here
    return manifest


def scaled_object(profile: Profile, options: Options, plan: Plan) -> Object:
    """The KEDA ScaledObject: KEDA creates the HPA itself and reads Prometheus for it."""
    _check_behavior(profile, options, plan)
    config: Object = {"name": Note("The HPA that KEDA creates.", profile.deploy.hpa_name)}
    if behavior := _behavior(options, plan):
        config["behavior"] = behavior
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": meta(profile, profile.deploy.hpa_name),
        "spec": {
            "scaleTargetRef": _scale_target(profile),
            "pollingInterval": KEDA_POLL_S,
            "minReplicaCount": plan.min_replicas,
            **_recommended(plan),
            "maxReplicaCount": Note(_pool(profile, plan.max_replicas), plan.max_replicas),
            "advanced": {"horizontalPodAutoscalerConfig": config},
            "triggers": [
                *(_trigger(profile, options, target, plan) for target in plan.targets),
                *cron_triggers(plan.windows),
            ],
        },
    }


def _check_behavior(profile: Profile, options: Options, plan: Plan) -> None:
    """KEDA would create an HPA with this behavior block: what an API server refuses of it is refused here."""
    of_one = replace(plan, targets=[SignalTarget("waiting", "1")])
    hpa(profile, options, "prometheus-adapter", of_one)


def _recommended(plan: Plan) -> Object:
    """What the recommended ScaledObject says of KEDA's own loop: its polls, and when and how it goes to zero."""
    spec = mapping(mapping(plan.scaled_object).get("spec"))
    names = ("pollingInterval", "cooldownPeriod", "idleReplicaCount", "minReplicaCount")
    return {name: spec[name] for name in names if name in spec}


def autoscaling_metric(profile: Profile, plan: Plan) -> Object:
    """GKE's own path: the metrics agent on the node reads the pods, without Cloud Monitoring between."""
    deploy = profile.deploy
    simple = {key: value for key, value in deploy.labels.items() if "/" not in key} | {"app": deploy.name}
    gauges = [
        {
            "gauge": {
                "name": gauge_name(profile, t.signal),
                "prometheusMetricName": vllm_metric(profile, t.signal),
            }
        }
        for t in plan.targets
    ]
    return {
        "apiVersion": "autoscaling.gke.io/v1beta1",
        "kind": "AutoscalingMetric",
        "metadata": meta(profile, AUTOSCALING_METRIC),
        "spec": {
            "metrics": [
                {
                    "pod": {
                        "selector": Note(
                            "Label names with dots or slashes are not accepted here.", {"matchLabels": simple}
                        ),
                        "containers": [
                            {"endpoint": {"port": deploy.port, "path": "/metrics"}, "metrics": gauges}
                        ],
                    }
                }
            ]
        },
    }


# --- parts -----------------------------------------------------------------------------------------------------------


def _scale_target(profile: Profile) -> Any:
    deploy = profile.deploy
    if deploy.kind == "Deployment":
        return {"apiVersion": "apps/v1", "kind": "Deployment", "name": deploy.name}
    return Note(
        "The LeaderWorkerSet itself: its scale counts groups. The StatefulSet of its leaders looks alike, but scaling "
        "that one is undone at once.",
        {"apiVersion": LWS_API, "kind": "LeaderWorkerSet", "name": deploy.name},
    )


def _pool(profile: Profile, max_replicas: int) -> str:
    nodes, chips = sizing.nodes(profile, max_replicas), sizing.chips(profile, max_replicas)
    return (
        f"{max_replicas} replicas x {profile.replica.nodes} = {nodes} nodes with {chips} chips: the node pool's "
        "maximum and the quota must hold them, or the last replicas stay Pending."
    )


def _why(target: SignalTarget, plan: Plan) -> str:
    interval = f" Interval {target.interval[0]} to {target.interval[1]}." if target.interval else ""
    return plan.source + interval


def _pods_metric(profile: Profile, path: MetricsPath, target: SignalTarget, plan: Plan) -> Object:
    quantity, why = target.quantity, _why(target, plan)
    engines = profile.replica.data_parallel
    if target.signal == "kv_usage":
        why += " A fraction of the KV cache, not a percentage."
        if engines > 1 and path == "stackdriver":
            quantity = format_milli(parse(quantity).milli * engines)
            why += f" The adapter adds the {engines} engines of a pod, so the target is {engines} times {target.quantity}."
    return pods_metric(metric_name(profile, path, target.signal), Note(why, quantity))


def _trigger(profile: Profile, options: Options, target: SignalTarget, plan: Plan) -> Object:
    return {
        "type": "prometheus",
        "metricType": SCALING_SIGNALS[target.signal].metric_type,
        "metadata": {
            "serverAddress": options.prometheus_url,
            "query": Note(_element(target.signal), trigger_query(profile, target.signal)),
            "threshold": Note(_why(target, plan), decimal(target.quantity)),
            **_without_data(target.signal, plan),
        },
    }


def _element(signal: str) -> str:
    if SCALING_SIGNALS[signal].metric_type == "Value":
        return "One series, the same for any number of pods: the HPA multiplies the ready replicas by value / threshold."
    if SCALING_SIGNALS[signal].of_gateway:
        return f"One series: {SCALING_SIGNALS[signal].unit}. KEDA divides it by the replicas."
    return "One series: the sum over the pods. KEDA divides it by the replicas."


def _without_data(signal: str, plan: Plan) -> Object:
    """What KEDA makes of an answer without a series: at zero there are no pods, and a gateway shows a series late."""
    if "cooldownPeriod" in _recommended(plan) or signal not in SIGNAL_NAMES:
        return {}
    return {"ignoreNullValues": Note("No data is an error that stops scaling, not a load of 0.", "false")}


def _behavior(options: Options, plan: Plan) -> Any:
    if not options.behavior or not plan.behavior:
        return None
    return Note(
        "From the recommendation: windows and steps judged with this system's cold start.",
        dict(plan.behavior),
    )
