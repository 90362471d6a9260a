"""Rules on the name of a scaler's metric: whether the metrics API can know it and this version of vLLM exports it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from analysis.errors import nearest
from autoscale.kube.objects import items, mapping
from autoscale.kube.vllm_names import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    NEWEST,
    V0_GAUGES,
    V0_GONE_IN,
    SignalName,
    may_export,
    metric_of,
    of_router,
    prometheus_name,
    signal_names,
    signal_of,
    type_of,
)
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding, Located, Severity
from autoscale.lint.parts import Path, VllmServer
from autoscale.lint.query import Selector
from autoscale.lint.scalers import Metric, Scaler

UNREADABLE = "The HPA reads <unknown> and never scales."
NO_ANSWER = "The answer is empty, which KEDA takes for 0 by default: this trigger adds no replica."


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on the name of every scaler's metrics."""
    for scaler in facts.scalers:
        servers = facts.servers_by_owner.get(scaler.key, [])
        for metric in scaler.metrics:
            yield from _name(scaler, metric, servers)
            for selector in metric.query.selectors if metric.query else ():
                yield from underscored(scaler.source, metric.path, selector.name, facts)
                if "model" not in facts.added_labels:
                    yield from _label(scaler, metric.path, selector)


def _name(scaler: Scaler, metric: Metric, servers: list[VllmServer]) -> Iterator[Finding]:
    source, server = scaler.source, servers[0] if servers else None
    if metric.route == "stackdriver":
        yield from _stackdriver_name(source, metric)
    elif metric.route == "adapter" and "/" not in metric.name and metric.name.count("|"):
        yield source.finding(
            "error",
            "metric-prefix",
            metric.path,
            f"{metric.name} has pipes but not the prefix prometheus.googleapis.com| or autoscaling.gke.io|.",
            UNREADABLE,
            "Write prometheus.googleapis.com|vllm:num_requests_waiting|gauge.",
        )
    found = re.findall(r"vllm:\w+", metric.name) if metric.route == "keda" else [metric.series]
    if not metric.series and metric.signal is None and metric.route == "adapter" and server:
        found = ["vllm:" + metric.name.removeprefix("vllm_")] if metric.name.startswith("vllm_") else []
    nim = (
        "vllm" not in metric.name and server is None
    )  # NIM has the older name, without a prefix, in every version
    if metric.route == "adapter" and not metric.series and "cache_usage_perc" in metric.name and not nim:
        found = ["vllm:" + re.sub(r"^.*vllm_", "", metric.name)]
    for series in dict.fromkeys(name for name in found if name):
        if (names := signal_names(series)) and names[1].series != series and names[1].series in found:
            continue  # beside its newer name: right in every version
        unread = NO_ANSWER if metric.route == "keda" else UNREADABLE
        yield from exported(source, metric.path, series, server, "error", unread)


def exported(
    source: Located,
    path: Path,
    series: str,
    server: VllmServer | None,
    most: str,
    consequence: str = UNREADABLE,
) -> Iterator[Finding]:
    """A finding when the server's vLLM version does not export a series; at most of severity `most`."""
    env = (
        {str(e.get("name")): str(e.get("value")) for e in map(mapping, items(server.container.get("env")))}
        if server
        else {}
    )
    answer = _not_exported(
        series,
        server.version if server else None,
        server.argv if server else [],
        env.get("VLLM_USE_V1") == "1",
    )
    if answer:
        severity, sentence, fix = answer
        if severity == "warning" and most == "error":
            consequence = (
                "An upgrade of the image silently breaks the HPA."
                if "deprecated" in sentence or "gone" in sentence
                else consequence
            )
        severity = "warning" if most == "warning" else severity
        yield source.finding(severity, "metric-not-exported", path, sentence, consequence, fix)


def underscored(source: Located, path: Path, name: str, facts: Facts) -> Iterator[Finding]:
    """A warning for a query on vllm_... where vLLM exports vllm:..., unless something in the set renames it."""
    right = "vllm:" + name.removeprefix("vllm_")
    used, newest = signal_names(right) or (None, None)
    if name.startswith("vllm_") and type_of(right) is not None and name not in facts.renamed:
        yield source.finding(
            "warning",
            "query-underscore-name",
            path,
            f"The query asks Prometheus for {name}; vLLM exports {right}.",
            "Unless something outside this set renames the series, the answer is empty: nothing scales.",
            f"Write {right}."
            + (f" From vLLM 0.12 on it is {newest.series}." if newest and used != newest else ""),
        )


def _label(scaler: Scaler, path: Path, selector: Selector) -> Iterator[Finding]:
    """vLLM's label is model_name; `model` is what other servers call it."""
    if selector.of_engine and selector.asks("model") and not selector.asks("model_name"):
        yield scaler.source.finding(
            "warning",
            "query-selects-nothing",
            path,
            f"The query selects {selector.name} by the label model; vLLM's own is model_name.",
            "Unless something outside this set adds the label, the query returns nothing: nothing scales.",
            "Write model_name.",
        )


def _stackdriver_name(source: Located, metric: Metric) -> Iterator[Finding]:
    parts = metric.name.split("|")
    suffix = parts[2] if len(parts) == 3 else ""
    kind = type_of(parts[1]) if len(parts) > 1 else None
    right = {"gauge": ("gauge", "unknown"), "counter": ("counter",), "histogram": ("histogram",)}.get(
        kind or "", ()
    )
    if len(parts) != 3 or suffix not in (
        "gauge",
        "counter",
        "unknown",
        "histogram",
        "summary",
        "unknown:counter",
    ):
        name = parts[1] if len(parts) > 1 and parts[1] else "vllm:num_requests_waiting"
        yield source.finding(
            "error",
            "metric-kind-suffix",
            metric.path,
            f"{metric.name} is not prometheus.googleapis.com|NAME|KIND.",
            UNREADABLE,
            f"Write prometheus.googleapis.com|{name}|{kind or 'gauge'}.",
        )
    elif right and suffix not in right:
        yield source.finding(
            "error",
            "metric-kind-suffix",
            metric.path,
            f"{parts[1]} is a {kind}, the name says {suffix}.",
            UNREADABLE,
            f"End the name with |{kind}.",
        )
    elif kind == "histogram":
        yield source.finding(
            "error",
            "metric-kind-suffix",
            metric.path,
            f"{parts[1]} is a histogram: it has no value per pod.",
            UNREADABLE,
            "Scale on a gauge such as vllm:num_requests_waiting.",
        )


def _not_exported(
    series: str, version: tuple[int, ...] | None, argv: list[str], v1: bool
) -> tuple[Severity, str, str] | None:
    """Severity, sentence and fix when this version does not export the metric as written; None when it does.

    `version` None: unknown. `v1`: the environment chooses the V1 engine.
    """
    if not series.startswith("vllm:") or of_router(series):
        return None
    name, shown = metric_of(series), ".".join(map(str, version or ()))
    shown = "latest" if version == NEWEST else shown
    if names := signal_names(series):
        return _name_of_another_version(*names, version, shown, argv)
    if name in V0_GAUGES:
        gone = v1 or (version is not None and version >= V0_GONE_IN)
        return (
            "error" if gone else "warning",
            f"{series} exists in the V0 engine only.",
            "Use vllm:num_requests_waiting or running.",
        )
    if not may_export(series):
        if near := nearest(name, GAUGES | {f"{counter}_total" for counter in COUNTERS} | HISTOGRAMS):
            _, newest = signal_names(f"vllm:{near}") or (None, SignalName(near))
            return "error", f"vLLM exports no {series}.", f"Did you mean {newest.series}?"
        return (
            "warning",
            f"{series} is not a metric that vLLM is known to export.",
            "Check /metrics of a pod.",
        )
    return None


def _name_of_another_version(
    used: SignalName, newest: SignalName, version: tuple[int, ...] | None, shown: str, argv: list[str]
) -> tuple[Severity, str, str] | None:
    """As _not_exported, for a signal's name."""
    since, gone = (".".join(map(str, each)) for each in (newest.since, used.gone_in))
    if version is not None and version < used.since:
        came = ".".join(map(str, used.since))
        right = prometheus_name(signal_of(used.series) or "", shown)
        return (
            "error",
            f"{used.series} does not exist in vLLM {shown}: it came with {came}.",
            f"Write {right}.",
        )
    if used == newest:
        return None
    if version is None:
        return (
            "warning",
            f"{used.series} is gone from vLLM {gone} on; the image's version is not known.",
            f"Use {newest.series}.",
        )
    write = f"Write {newest.series}."
    if version >= used.gone_in:
        return "error", f"{used.series} does not exist in vLLM {shown}: removed in {gone}.", write
    if version >= used.hidden_in and not any("show-hidden-metrics" in word for word in argv):
        return "error", f"{used.series} is hidden in vLLM {shown}.", write
    if version >= newest.since:
        return "warning", f"{used.series} is deprecated since {since} and gone in {gone}.", write
    return None
