"""How a gauge reaches the HPA: scraping (PodMonitoring or PodMonitor) and the rules of prometheus-adapter."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from autoscale.deploy.choices import MetricsPath
from autoscale.deploy.meta import meta
from autoscale.deploy.scaling import metric_name, vllm_metric
from autoscale.deploy.targets import Plan
from autoscale.deploy.yaml_out import Note
from autoscale.kube.objects import Object
from autoscale.profiles import Profile


def managed(path: MetricsPath) -> bool:
    """Whether Managed Prometheus scrapes (PodMonitoring); otherwise a Prometheus operator does (PodMonitor)."""
    return path in ("stackdriver", "autoscalingmetric")


def scrape(profile: Profile, path: MetricsPath) -> Object:
    """The PodMonitoring or PodMonitor of this set."""
    return _pod_monitoring(profile) if managed(path) else _pod_monitor(profile)


def _selector(profile: Profile) -> Any:
    why = "The same labels as the Service's"
    if profile.deploy.kind == "LeaderWorkerSet":
        why += ": leaders only, workers serve no HTTP and would be failing targets"
    return Note(
        f"{why}. Namespaced: must be in the pods' namespace.", {"matchLabels": dict(profile.deploy.labels)}
    )


def _interval(profile: Profile) -> str:
    return f"{profile.metric_path.scrape_interval_s:g}s"


def _pod_monitoring(profile: Profile) -> Object:
    endpoint = {"port": profile.deploy.port, "path": "/metrics", "interval": _interval(profile)}
    return {
        "apiVersion": "monitoring.googleapis.com/v1",
        "kind": "PodMonitoring",
        "metadata": meta(profile, profile.deploy.name),
        "spec": {
            "selector": _selector(profile),
            "endpoints": Note(
                "Do not drop or rename the label `pod`: the HPA would read <unknown>.", [endpoint]
            ),
        },
    }


def _pod_monitor(profile: Profile) -> Object:
    endpoint = {
        "port": Note("The name of the container's port.", "http"),
        "path": "/metrics",
        "interval": _interval(profile),
    }
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": meta(profile, profile.deploy.name),
        "spec": {
            "selector": _selector(profile),
            "podMetricsEndpoints": Note(
                "Do not drop or rename the label `pod`: the HPA would read <unknown>.", [endpoint]
            ),
        },
    }


def adapter_values(profile: Profile, prometheus_url: str, plan: Plan) -> Object:
    """Helm values of prometheus-adapter: one rule per metric, and nothing else is served."""
    address = urlsplit(prometheus_url)
    rules = []
    for target in plan.targets:
        name = vllm_metric(profile, target.signal)
        fold = "avg" if target.signal == "kv_usage" else "sum"
        why = "Over the engines of a pod, a queue adds up"
        if fold == "avg":
            why = "Over the engines of a pod, a fraction is averaged: the sum of N engines would read up to N"
        rules.append(
            {
                "seriesQuery": f'{name}{{namespace!="",pod!=""}}',
                "resources": {
                    "overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}},
                },
                "name": Note(
                    "The name that the HPA asks for; metric names with a colon do not pass as they are.",
                    {"matches": f"^{name}$", "as": metric_name(profile, "prometheus-adapter", target.signal)},
                ),
                "metricsQuery": Note(
                    f"{why}.", f"{fold}(<<.Series>>{{<<.LabelMatchers>>}}) by (<<.GroupBy>>)"
                ),
            }
        )
    return {
        "prometheus": {
            "url": f"{address.scheme}://{address.hostname}",
            "port": address.port or (443 if address.scheme == "https" else 80),
            "path": address.path,
        },
        "metricsRelistInterval": Note("Must be at least the scrape interval.", "1m"),
        "rules": {"default": False, "custom": rules},
    }
