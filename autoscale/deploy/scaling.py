"""What scales the workload: targets, metric names on each path, and the HPA or ScaledObject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from analysis.errors import BadInput, NotAchieved
from autoscale.deploy import sizing
from autoscale.deploy.choices import MetricsPath, Options
from autoscale.deploy.meta import meta
from autoscale.deploy.workload import LWS_API
from autoscale.deploy.yaml_out import Note, plain
from autoscale.hpa import HpaSpec, format_milli
from autoscale.hpa import parse_quantity as parse
from autoscale.profiles import Profile
from autoscale.profiles.signals import SIGNALS, hpa_metric_name, prometheus_name

Object = dict[str, Any]

KEDA_POLL_S = 15
AUTOSCALING_METRIC = "vllm"  # name of the AutoscalingMetric object: it is part of the HPA's metric names


@dataclass(frozen=True)
class Target:
    """One metric and its averageValue (a Kubernetes quantity); `interval` is the range that meets the SLO as well."""

    signal: str
    quantity: str
    interval: tuple[str, str] | None = None


@dataclass(frozen=True)
class Plan:
    """What scales between which bounds, and where the numbers come from. No targets: a fixed number of replicas."""

    targets: list[Target]
    min_replicas: int
    max_replicas: int
    behavior: Object | None
    source: str

    @property
    def autoscales(self) -> bool:
        """Whether an HPA is written at all."""
        return bool(self.targets)


def plan(profile: Profile, recommendation: Mapping[str, Any] | None) -> Plan:
    """The recommendation as targets and bounds; without one, the tutorial's target, named as such.

    Raises BadInput for a recommendation that cannot be written as an HPA, NotAchieved for an infeasible one.
    """
    deploy = profile.deploy
    if recommendation is None:
        target = Target("waiting", canonical(deploy.tutorial_target))
        source = (
            f"averageValue {target.quantity} is the tutorial's number, derived from nothing: measure this system under "
            "load and run `autoscale recommend` to derive a target, its interval and a behavior block for your SLO."
        )
        return Plan([target], deploy.min_replicas, deploy.max_replicas, None, source)
    match answer := recommendation.get("answer"):
        case "infeasible":
            raise NotAchieved(
                "the recommendation says that this SLO cannot be met on this replica, so there is no HPA to write",
                next_step="relax the SLO or choose a profile with a faster replica",
            )
        case "need_more_data":
            raise NotAchieved(
                "the recommendation asks for more data, so there is no HPA to write",
                next_step="measure what its reasons name, or leave the recommendation out for the tutorial's target",
            )
        case "do_not_autoscale":
            low, high = _bounds(recommendation, deploy.min_replicas, deploy.max_replicas)
            source = f"The recommendation is not to autoscale: {low} replicas stay up, scale-out would come too late."
            return Plan([], low, low, None, source)
        case "autoscale":
            low, high = _bounds(recommendation, deploy.min_replicas, deploy.max_replicas)
            targets = [_target(entry) for entry in recommendation.get("metrics") or []]
            if not targets:
                raise BadInput(
                    "recommendation says autoscale but has no metrics", expected="at least one metric"
                )
            if len({target.signal for target in targets}) < len(targets):
                raise BadInput("recommendation names a metric twice", value=[t.signal for t in targets])
            source = "Derived from a measured or simulated run of this system; see recommendation.json."
            return Plan(targets, low, high, recommendation.get("behavior"), source)
    raise BadInput(
        "recommendation answer", value=answer, expected="autoscale, do_not_autoscale or infeasible"
    )


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
    spec: Object = {
        "scaleTargetRef": _scale_target(profile),
        "minReplicas": plan.min_replicas,
        "maxReplicas": Note(_pool(profile, plan.max_replicas), plan.max_replicas),
        "metrics": [_pods_metric(profile, path, target, plan) for target in plan.targets],
    }
    if behavior := _behavior(options, plan):
        spec["behavior"] = behavior
    manifest = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": meta(profile, profile.deploy.hpa_name),
        "spec": spec,
    }
    HpaSpec.from_manifest(plain(manifest))  # what an API server would refuse is refused here
    return manifest


def scaled_object(profile: Profile, options: Options, plan: Plan) -> Object:
    """The KEDA ScaledObject: KEDA creates the HPA itself and reads Prometheus for it."""
    hpa(
        profile, options, "prometheus-adapter", plan
    )  # KEDA would create it with the same behavior: refused here, not there
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
            "maxReplicaCount": Note(_pool(profile, plan.max_replicas), plan.max_replicas),
            "advanced": {"horizontalPodAutoscalerConfig": config},
            "triggers": [_trigger(profile, options, target, plan) for target in plan.targets],
        },
    }


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


def _why(target: Target, plan: Plan) -> str:
    interval = f" Interval {target.interval[0]} to {target.interval[1]}." if target.interval else ""
    return plan.source + interval


def _pods_metric(profile: Profile, path: MetricsPath, target: Target, plan: Plan) -> Object:
    quantity, why = target.quantity, _why(target, plan)
    engines = profile.replica.data_parallel
    if target.signal == "kv_usage":
        why += " A fraction of the KV cache, not a percentage."
        if engines > 1 and path == "stackdriver":
            quantity = format_milli(parse(quantity).milli * engines)
            why += f" The adapter adds the {engines} engines of a pod, so the target is {engines} times {target.quantity}."
    return {
        "type": "Pods",
        "pods": {
            "metric": {"name": metric_name(profile, path, target.signal)},
            "target": {"type": "AverageValue", "averageValue": Note(why, quantity)},
        },
    }


def _trigger(profile: Profile, options: Options, target: Target, plan: Plan) -> Object:
    return {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": options.prometheus_url,
            "query": Note(
                "One series: the sum over the pods. KEDA divides it by the replicas.",
                query(profile, target.signal),
            ),
            "threshold": Note(_why(target, plan), decimal(target.quantity)),
            "ignoreNullValues": Note("No data is an error that stops scaling, not a load of 0.", "false"),
        },
    }


def query(profile: Profile, signal: str) -> str:
    """PromQL for the sum of a signal over the replicas of this set: always one series, none without data."""
    deploy = profile.deploy
    pods = (
        f"{deploy.name}-[0-9]+" if deploy.kind == "LeaderWorkerSet" else f"{deploy.name}-[a-z0-9]+-[a-z0-9]+"
    )
    series = f'{vllm_metric(profile, signal)}{{namespace="{deploy.namespace}",pod=~"{pods}"}}'
    return f"sum(avg by (pod) ({series}))" if signal == "kv_usage" else f"sum({series})"


def _behavior(options: Options, plan: Plan) -> Any:
    if not options.behavior or not plan.behavior:
        return None
    return Note(
        "From the recommendation: windows and steps that fit this system's cold start.", dict(plan.behavior)
    )


def _bounds(recommendation: Mapping[str, Any], low_default: int, high_default: int) -> tuple[int, int]:
    low = _count(recommendation, "minReplicas", low_default)
    high = _count(recommendation, "maxReplicas", max(low, high_default))
    if high < low:
        raise BadInput(
            "recommendation has maxReplicas below minReplicas", value=high, expected=f"at least {low}"
        )
    return low, high


def _count(recommendation: Mapping[str, Any], key: str, default: int) -> int:
    value = recommendation.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"recommendation {key}", value=value, expected="a whole number of at least 1")
    return value


def _target(entry: Any) -> Target:
    if not isinstance(entry, Mapping) or entry.get("name") not in SIGNALS:
        raise BadInput(
            "recommendation metric", value=entry, expected=f"name {', '.join(SIGNALS)} and averageValue"
        )
    quantity = _quantity(entry.get("averageValue"))
    interval = entry.get("interval")
    if interval is None:
        return Target(entry["name"], quantity)
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        raise BadInput("recommendation interval", value=interval, expected="two quantities, low and high")
    return Target(entry["name"], quantity, (_quantity(interval[0]), _quantity(interval[1])))


def _quantity(value: Any) -> str:
    """The canonical form of a positive quantity. Raises BadInput."""
    text = canonical(value)
    if parse(text).milli <= 0:
        raise BadInput("averageValue", value=value, expected="a quantity of at least 1m")
    return text


def canonical(value: object) -> str:
    """A target as the API server shows it: whole milli-units, 0.504 is 504m. Raises BadInput."""
    return format_milli(parse(value).milli)


def decimal(quantity: str) -> str:
    """The quantity as a plain decimal number, for PromQL and KEDA: 504m is 0.504."""
    return format(Decimal(parse(quantity).milli) / 1000, "f")
