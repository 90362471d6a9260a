"""Recording and alert rules of a set: what goes wrong silently when a target no longer fits.

Written for Managed Prometheus (Rules) or the Prometheus operator (PrometheusRule); both wrap the same groups. Alerts on
the HPA need kube-state-metrics, as GKE serves it too.
"""

from __future__ import annotations

from typing import Any

from analysis.run import SIGNALS
from autoscale.deploy import sizing
from autoscale.deploy.meta import meta
from autoscale.deploy.monitoring import managed
from autoscale.deploy.scaling import vllm_metric
from autoscale.deploy.targets import Plan, decimal
from autoscale.deploy.yaml_out import Note
from autoscale.kube.objects import Object
from autoscale.kube.vllm_names import MetricsPath
from autoscale.profiles import Profile
from autoscale.profiles.trigger_queries import pods_pattern
from autoscale.signal_target import SignalTarget

INTERVAL = "30s"
RECORDS = {
    "waiting": "autoscale:waiting:sum",
    "running": "autoscale:running:sum",
    "kv_usage": "autoscale:kv_usage:avg",
}
SERVING = "autoscale:replicas_serving:count"
TTFT_P95 = "autoscale:ttft_seconds:p95"


def alert_rules(profile: Profile, path: MetricsPath, plan: Plan) -> Object:
    """The Rules or PrometheusRule object of this set."""
    deploy = profile.deploy
    api, kind = ("monitoring.coreos.com/v1", "PrometheusRule")
    if managed(path):
        api, kind = ("monitoring.googleapis.com/v1", "Rules")
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": meta(profile, f"{deploy.name}-autoscale"),
        "spec": {"groups": groups(profile, plan)},
    }


def groups(profile: Profile, plan: Plan) -> list[Object]:
    """Two rule groups in Prometheus' own format: what is recorded, and what is alerted on."""
    name = profile.deploy.name
    return [
        {"name": f"{name}-records", "interval": INTERVAL, "rules": _records(profile)},
        {"name": f"{name}-alerts", "interval": INTERVAL, "rules": _alerts(profile, plan)},
    ]


def _records(profile: Profile) -> list[Object]:
    def series(metric: str) -> str:
        return f"{metric}{{{_pods(profile)}}}"

    found = [
        {
            "record": RECORDS[signal],
            "expr": f"{'avg' if signal == 'kv_usage' else 'sum'} by (namespace) ({series(vllm_metric(profile, signal))})",
        }
        for signal in SIGNALS
    ]
    running = series(vllm_metric(profile, "running"))
    buckets = series("vllm:time_to_first_token_seconds_bucket")
    return [
        *found,
        {"record": SERVING, "expr": f"count by (namespace) (count by (namespace, pod) ({running}))"},
        {
            "record": TTFT_P95,
            "expr": Note(
                "Coarse: the buckets overstate long waits. Good for an alert, not for an SLO report.",
                f"histogram_quantile(0.95, sum by (namespace, le) (rate({buckets}[5m])))",
            ),
        },
    ]


def _pods(profile: Profile) -> str:
    return f'namespace="{profile.deploy.namespace}",pod=~"{pods_pattern(profile)}"'


def _alerts(profile: Profile, plan: Plan) -> list[Object]:
    alerts = _scaling_alerts(profile) if plan.autoscales else []
    bound_s = sizing.ttft_bound_s(profile)
    if bound_s is not None and all(target.signal in RECORDS for target in plan.targets):
        calm = " ".join(f"and on (namespace) {_below_target(target)}" for target in plan.targets)
        alerts.append(
            _alert(
                "AutoscaleTargetDrifted",
                f"{TTFT_P95} > {bound_s:g} {calm}".strip(),
                "30m",
                "warning",
                "TTFT breaks the SLO while every scaling metric is below its target",
                "The HPA sees no reason to act: requests, model or vLLM changed since the target was derived. Measure a "
                "run again and derive it anew with `autoscale recommend`.",
            )
        )
    return alerts


def _scaling_alerts(profile: Profile) -> list[Object]:
    hpa = f'namespace="{profile.deploy.namespace}",horizontalpodautoscaler="{profile.deploy.hpa_name}"'
    state = "kube_horizontalpodautoscaler_"
    desired = f"max by (namespace) ({state}status_desired_replicas{{{hpa}}})"
    highest = f"max by (namespace) ({state}spec_max_replicas{{{hpa}}})"
    condition = f'{state}status_condition{{{hpa},condition="ScalingActive",status=~"false|unknown"}}'
    loading = sizing.loading(profile)
    return [
        _alert(
            "AutoscaleAtMaxWhileWaitingGrows",
            f"({desired} >= {highest}) and on (namespace) (deriv({RECORDS['waiting']}[10m]) > 0) "
            f"and on (namespace) ({RECORDS['waiting']} > 0)",
            "5m",
            "critical",
            "The HPA is at maxReplicas and the queue still grows",
            "Raise maxReplicas together with the node pool's maximum and the quota, or shed load.",
        ),
        _alert(
            "AutoscaleMetricUnreadable",
            f"max by (namespace) ({condition}) > 0",
            "3m",
            "critical",
            "The HPA cannot read its metric and does not scale",
            "Follow the path: the pod's /metrics, scraping, the adapter, the metrics API. `autoscale check --preflight` "
            "names the broken hop.",
        ),
        _alert(
            "AutoscaleReplicaLoadingTooLong",
            f"{desired} > on (namespace) ({SERVING} or on (namespace) {desired} * 0)",
            Note(f"{loading.how}.", f"{loading.value}s"),
            "warning",
            "A replica that was asked for does not serve after the time that loading takes",
            "Look for a node that did not come (FailedScheduling, NotTriggerScaleUp), a slow download or a restart loop.",
        ),
    ]


def _below_target(target: SignalTarget) -> str:
    value = decimal(target.quantity)
    record = RECORDS[target.signal]
    return (
        f"({record} < {value})"
        if target.signal == "kv_usage"
        else f"({record} / on (namespace) {SERVING} < {value})"
    )


def _alert(name: str, expr: str, wait: Any, severity: str, summary: str, description: str) -> Object:
    return {
        "alert": name,
        "expr": expr,
        "for": wait,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": description},
    }
