"""What the custom metrics API answers for the HPA's metrics, and what the HPA says of them."""

from __future__ import annotations

from collections.abc import Iterator

from autoscale.check.snapshot import Snapshot
from autoscale.kube.objects import items, mapping
from autoscale.kube.scaler import UNREADABLE_REASON, Hpa
from autoscale.lint.findings import Finding, Located

NOTHING_RETURNED = "no metrics returned from custom metrics API"


def rules(now: Snapshot, hpa: Hpa) -> Iterator[Finding]:
    """Findings on every metric of type Pods: why it cannot be read, or whose values it has."""
    failed = dict(_failed(now, hpa))
    names = hpa.metric_names("Pods")
    for metric in names:
        answer = now.answer(hpa, metric)
        if answer and answer.values_milli and metric not in failed:
            yield from _whose(now, hpa, metric, answer.values_milli)
    yield from failed.values()
    own_fault = [name for name, each in failed.items() if not each.code.startswith("metrics-api")]
    if own_fault and len(failed) < len(hpa.metrics):
        yield Located(hpa.object).finding(
            "error",
            "metric-partial",
            ("spec", "metrics"),
            f"{len(failed)} of {len(hpa.metrics)} metrics cannot be read ({', '.join(failed)}): the HPA still scales up on "
            "the others, but it never scales down",
            "",
            "repair that metric, or take it out of the HPA",
            {"unreadable": list(failed)},
        )


def all_answered(now: Snapshot, hpa: Hpa) -> bool:
    """Whether the metrics API has a value of every metric for some pod that the HPA counts."""
    names, counted = hpa.metric_names("Pods"), {pod.name for pod in now.counted_pods(hpa)}
    answers = [now.answer(hpa, name) for name in names]
    return bool(names) and all(
        each is not None and counted & set(each.values_milli or ()) for each in answers
    )


def _failed(now: Snapshot, hpa: Hpa) -> Iterator[tuple[str, Finding]]:
    """(metric, why it cannot be read): by the HPA's condition, else by the API's answer, else by the HPA's status."""
    names, told = hpa.metric_names("Pods"), set()
    if UNREADABLE_REASON.fullmatch(hpa.active_reason):
        message = str(hpa.conditions["ScalingActive"].get("message", ""))
        every = [metric.name for metric in hpa.metrics]
        metric = next((name for name in every if name in message), every[0] if every else "")
        told.add(metric)
        yield metric, _unreadable(hpa, metric, message=message)
    for metric in names:
        answer = now.answer(hpa, metric)
        if metric in told or answer is None or answer.values_milli:
            continue
        told.add(metric)
        if answer.values_milli is None:
            yield metric, _unreadable(hpa, metric, answer.status, answer.absent, answer.message)
        else:
            yield metric, _unreadable(hpa, metric, message=NOTHING_RETURNED)
    shown = items(hpa.status.get("currentMetrics"))
    for read, entry in zip(hpa.metrics, shown, strict=False):
        if mapping(entry).get("type") == "" and read.name not in told:
            yield read.name, _unreadable(hpa, read.name, message=_last_warning(now, hpa, read.name))


def _unreadable(
    hpa: Hpa, metric: str, status: int | None = None, absent: bool = False, message: str = ""
) -> Finding:
    """Why a metric cannot be read, from the API's status or the words of the HPA."""
    code, problem, fix = (
        _cause(metric, status, absent, message)
        if metric in hpa.metric_names("Pods")
        else _not_a_pods_metric(metric, message)
    )
    return Located(hpa.object).finding(
        "warning" if code == "rbac-missing" else "error",
        code,
        ("spec", "metrics"),
        problem,
        "",
        fix,
        {"metric": metric, "status": status, "message": message},
    )


def _cause(metric: str, status: int | None, absent: bool, message: str) -> tuple[str, str, str]:
    """Code, sentence and fix."""
    if absent or "no custom metrics API" in message:
        return (
            "metrics-api-absent",
            "no custom metrics API (custom.metrics.k8s.io) is registered in this cluster",
            "install the adapter: custom-metrics-stackdriver-adapter on GKE, prometheus-adapter elsewhere",
        )
    down = ("no known available metric versions", "unable to handle the request")
    if status in (502, 503, 504) or any(words in message for words in down):
        return (
            "metrics-api-down",
            "the custom metrics API is registered, but its server does not answer",
            "look at the adapter: kubectl get apiservice | grep custom.metrics, then the pods and logs of its service",
        )
    if status == 403 or "forbidden" in message:
        return (
            "rbac-missing",
            f"not allowed to read {metric} from the custom metrics API",
            "grant get and list on pods/* of custom.metrics.k8s.io; the HPA has its own permission",
        )
    if "no metrics returned" in message:
        return (
            "metric-empty",
            f"the custom metrics API knows {metric} but has no value for the target's pods",
            "nothing scrapes these pods, or the pod label was dropped by relabelling: check PodMonitoring (same namespace, "
            "selector, port) and that a pod's /metrics shows the metric",
        )
    if status == 404 or "could not find the metric" in message:
        return (
            "metric-not-found",
            f"the custom metrics API does not know the metric {metric}",
            "check the name letter by letter (prometheus.googleapis.com|vllm:num_requests_waiting|gauge), the vLLM version's "
            "metric names, and wait up to 10 minutes for a brand-new metric",
        )
    return _unexplained(metric, message, "custom.metrics.k8s.io/v1beta2")


def _not_a_pods_metric(metric: str, message: str) -> tuple[str, str, str]:
    """As `_cause`, for metrics that other APIs answer, which the check does not ask."""
    external = "external metric" in message
    return _unexplained(metric, message, f"{'external.' if external else ''}metrics.k8s.io/v1beta1")


def _unexplained(metric: str, message: str, api: str) -> tuple[str, str, str]:
    return (
        "metric-unreadable",
        f"the HPA cannot read {metric}: {message or 'it does not say why'}",
        f"kubectl describe hpa, then ask the API: kubectl get --raw /apis/{api}",
    )


def _last_warning(now: Snapshot, hpa: Hpa, metric: str) -> str:
    told = [
        e
        for e in now.all("events")
        if e.get("reason") == "FailedGetPodsMetric"
        and mapping(e.get("involvedObject")).get("name") == hpa.name
        and metric in str(e.get("message", ""))
    ]
    told.sort(key=lambda e: str(e.get("lastTimestamp") or ""))
    return str(told[-1]["message"]) if told else ""


def _whose(now: Snapshot, hpa: Hpa, metric: str, values: dict[str, int]) -> Iterator[Finding]:
    """Running pods without a value, and values of pods that the HPA does not count."""
    about, path = Located(hpa.object), ("spec", "metrics")
    pods = {pod.name: pod for pod in now.counted_pods(hpa)}
    if not pods:
        return
    running = {name for name, pod in pods.items() if pod.runs and not pod.deleted}
    silent, strangers = sorted(running - set(values)), sorted(set(values) - set(pods))
    if silent and len(silent) == len(running):
        yield about.finding(
            "error",
            "metric-for-other-pods",
            path,
            f"{metric} has values, but for none of the target's pods",
            "",
            "the pod label of the series must be the pod's name: check relabelling and the adapter's rule",
            {"pods": sorted(running), "answered": sorted(values)},
        )
    elif silent:
        yield about.finding(
            "warning",
            "metric-pods-missing",
            path,
            f"{len(silent)} of {len(running)} running pods have no {metric} ({silent[0]}): "
            "the HPA counts them as 0 when it scales up",
            "",
            "normal while a replica loads; otherwise check its scraping",
            {"silent": silent},
        )
    if strangers:
        yield about.finding(
            "warning",
            "metric-of-strangers",
            path,
            f"{metric} also answers for pods that the HPA does not count ({strangers[0]}): "
            "they change the average",
            "",
            "wait 5 minutes after a pod went away; otherwise narrow the selector",
            {"strangers": strangers},
        )
