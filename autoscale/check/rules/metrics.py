"""What the custom and the external metrics API answer for the HPA's metrics, and what the HPA says of them."""

from __future__ import annotations

from collections.abc import Iterator

from autoscale.check.snapshot import Snapshot
from autoscale.kube.objects import items, mapping
from autoscale.kube.scaler import SERVED, UNREADABLE_REASON, Hpa, ScalerMetric
from autoscale.lint.findings import Finding, Located

NOTHING_RETURNED = "no metrics returned from custom metrics API"


def rules(now: Snapshot, hpa: Hpa) -> Iterator[Finding]:
    """Findings on every metric: why it cannot be read, or whose values it has."""
    failed = dict(_failed(now, hpa))
    for metric in hpa.served:
        answer = now.answer(hpa, metric)
        if metric.kind == "Pods" and answer and answer.values_milli and metric.name not in failed:
            yield from _whose(now, hpa, metric.name, answer.values_milli)
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
    """Whether the metrics APIs have a value of every metric, of type Pods for some pod that the HPA counts."""
    counted = {pod.name for pod in now.counted_pods(hpa)}
    return bool(hpa.served) and all(_answered(now, hpa, metric, counted) for metric in hpa.served)


def _answered(now: Snapshot, hpa: Hpa, metric: ScalerMetric, counted: set[str]) -> bool:
    answer = now.answer(hpa, metric)
    values = set((answer and answer.values_milli) or ())
    return bool(counted & values if metric.kind == "Pods" else values)


def _failed(now: Snapshot, hpa: Hpa) -> Iterator[tuple[str, Finding]]:
    """(metric, why it cannot be read): by the HPA's condition, else by the API's answer, else by the HPA's status."""
    told = set()
    if UNREADABLE_REASON.fullmatch(hpa.active_reason) and hpa.metrics:
        message = str(hpa.conditions["ScalingActive"].get("message", ""))
        metric = next((each for each in hpa.metrics if each.name in message), hpa.metrics[0])
        told.add(metric.name)
        yield metric.name, _unreadable(hpa, metric, message=message)
    for metric in hpa.served:
        answer = now.answer(hpa, metric)
        if metric.name in told or answer is None or answer.values_milli:
            continue
        told.add(metric.name)
        if answer.values_milli is None:
            yield metric.name, _unreadable(hpa, metric, answer.status, answer.absent, answer.message)
        else:
            yield metric.name, _unreadable(hpa, metric, message=NOTHING_RETURNED)
    shown = items(hpa.status.get("currentMetrics"))
    for read, entry in zip(hpa.metrics, shown, strict=False):
        if mapping(entry).get("type") == "" and read.name not in told:
            yield read.name, _unreadable(hpa, read, message=_last_warning(now, hpa, read))


def _unreadable(
    hpa: Hpa, metric: ScalerMetric, status: int | None = None, absent: bool = False, message: str = ""
) -> Finding:
    """Why a metric cannot be read, from the API's status or the words of the HPA."""
    code, problem, fix = _cause(metric, status, absent, message, bool(hpa.made_by))
    return Located(hpa.object).finding(
        "warning" if code == "rbac-missing" else "error",
        code,
        ("spec", "metrics"),
        problem,
        "",
        fix,
        {"metric": metric.name, "status": status, "message": message},
    )


def _cause(
    metric: ScalerMetric, status: int | None, absent: bool, message: str, of_keda: bool
) -> tuple[str, str, str]:
    """Code, sentence and fix."""
    which = "external" if metric.kind == "External" else "custom"
    group, name = f"{which}.metrics.k8s.io", metric.name
    if metric.kind not in SERVED:
        return _unexplained(name, message, "metrics.k8s.io/v1beta1")
    if absent or f"no {which} metrics API" in message:
        adapter = "custom-metrics-stackdriver-adapter on GKE, prometheus-adapter elsewhere"
        if which == "external":
            adapter = "KEDA for one that it made" if of_keda else "the one whose metric it is, or KEDA"
        return (
            "metrics-api-absent",
            f"no {which} metrics API ({group}) is registered in this cluster",
            f"install the adapter: {adapter}",
        )
    down = ("no known available metric versions", "unable to handle the request")
    if status in (502, 503, 504) or any(words in message for words in down):
        return (
            "metrics-api-down",
            f"the {which} metrics API is registered, but its server does not answer",
            f"look at the adapter: kubectl get apiservice | grep {which}.metrics, then the pods and logs of its service",
        )
    if status == 403 or "forbidden" in message:
        paths = {"Pods": "pods/*", "Object": "the described object's kind", "External": f"{name}"}
        return (
            "rbac-missing",
            f"not allowed to read {name} from the {which} metrics API",
            f"grant get and list on {paths[metric.kind]} of {group}; the HPA has its own permission",
        )
    if metric.kind != "Pods":
        return _of_one_value(metric, status, message, f"{group}/v1beta1", of_keda)
    if "no metrics returned" in message:
        return (
            "metric-empty",
            f"the custom metrics API knows {name} but has no value for the target's pods",
            "nothing scrapes these pods, or the pod label was dropped by relabelling: check PodMonitoring (same namespace, "
            "selector, port) and that a pod's /metrics shows the metric",
        )
    if status == 404 or "could not find the metric" in message:
        return (
            "metric-not-found",
            f"the custom metrics API does not know the metric {name}",
            "check the name letter by letter (prometheus.googleapis.com|vllm:num_requests_waiting|gauge), the vLLM version's "
            "metric names, and wait up to 10 minutes for a brand-new metric",
        )
    return _unexplained(name, message, f"{group}/v1beta2")


def _of_one_value(
    metric: ScalerMetric, status: int | None, message: str, api: str, of_keda: bool
) -> tuple[str, str, str]:
    """As `_cause`, for an External or Object metric: its series need not come from the pods."""
    which = "external" if metric.kind == "External" else "custom"
    about = f" of {metric.described[1]} {metric.described[2]}" if metric.kind == "Object" else ""
    labels = f" with {metric.selector}" if metric.selector else ""
    if "no metrics returned" in message:
        return (
            "metric-empty",
            f"the {which} metrics API knows {metric.name}{about}{labels} but has no value",
            "whoever exports the series (a gateway, a router, the pods) may be idle or not scraped: ask Prometheus for it",
        )
    if of_keda:
        return (
            "metric-unreadable",
            f"KEDA cannot answer {metric.name}: {message or 'it does not say why'}",
            "ask Prometheus the trigger's query: it must give one element; kubectl describe scaledobject names the error",
        )
    if status == 404 or "could not find the metric" in message:
        return (
            "metric-not-found",
            f"the {which} metrics API does not know the metric {metric.name}{about}{labels}",
            "check the name letter by letter against kubectl get --raw /apis/"
            + (api if which == "external" else "custom.metrics.k8s.io/v1beta2")
            + " and the adapter's rules",
        )
    return _unexplained(metric.name, message, api)


def _unexplained(metric: str, message: str, api: str) -> tuple[str, str, str]:
    return (
        "metric-unreadable",
        f"the HPA cannot read {metric}: {message or 'it does not say why'}",
        f"kubectl describe hpa, then ask the API: kubectl get --raw /apis/{api}",
    )


def _last_warning(now: Snapshot, hpa: Hpa, metric: ScalerMetric) -> str:
    told = [
        e
        for e in now.all("events")
        if e.get("reason") == f"FailedGet{metric.kind}Metric"
        and mapping(e.get("involvedObject")).get("name") == hpa.name
        and metric.name in str(e.get("message", ""))
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
