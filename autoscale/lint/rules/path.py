"""Rules along the metric's way: scaler <-> workload <-> scraping <-> adapter, each by name, label, port and namespace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from autoscale.lint import metrics
from autoscale.lint.facts import SCRAPES, Facts
from autoscale.lint.findings import Finding, Located, items, mapping
from autoscale.lint.parts import SCALABLE, Path, Server, Template, matches
from autoscale.lint.scalers import Metric, Scaler

MANY = 50  # scrape objects; above that only those that fit are compared
MANAGED = ("PodMonitoring", "ClusterPodMonitoring")
UNREADABLE = "The HPA reads <unknown> and never scales."


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every scaler's way to its metric."""
    for scaler in facts.scalers:
        yield from _target(scaler, facts)
        servers = facts.servers_by_owner.get(scaler.key, [])
        for metric in scaler.metrics:
            yield from _name(scaler, metric, servers)
            for selector in metric.query.selectors if metric.query else ():
                yield from underscored(scaler.source, metric.path, selector.name, facts)
            for server in servers[:1]:
                yield from _scraped(scaler, metric, server, facts)


# --- scaler <-> workload ---------------------------------------------------------------------------------------------


def _target(scaler: Scaler, facts: Facts) -> Iterator[Finding]:
    source, path = scaler.source, scaler.target_path
    groups = [g for g in facts.by_name("LeaderWorkerSet", scaler.name) if g.namespace == source.namespace]
    if scaler.kind == "StatefulSet" and groups:
        yield source.finding(
            "error",
            "scales-leader-statefulset",
            (*path, "kind"),
            f"StatefulSet {scaler.name} holds the leaders of LeaderWorkerSet {scaler.name}.",
            "The LeaderWorkerSet undoes every change at once: nothing scales.",
            "Target the LeaderWorkerSet (leaderworkerset.x-k8s.io/v1).",
        )
        return
    if not scaler.name or scaler.kind not in SCALABLE or scaler.key in facts.templates_by_owner:
        return
    same_name = facts.by_name(scaler.kind, scaler.name)
    if any(other.namespace == source.namespace for other in same_name):
        return
    elsewhere = same_name
    orphans = [owner for owner in facts.unscaled if owner.namespace == source.namespace]
    if elsewhere:
        yield source.finding(
            "error",
            "target-namespace",
            ("metadata", "namespace"),
            f"{scaler.kind} {scaler.name} is in namespace {elsewhere[0].namespace}, this scaler in {source.namespace}.",
            "An HPA only finds targets in its own namespace: FailedGetScale.",
            f"Write namespace: {elsewhere[0].namespace}.",
        )
    elif orphans:
        yield source.finding(
            "error",
            "target-missing",
            path,
            f"No {scaler.kind} {scaler.name} here, but {orphans[0].kind} {orphans[0].name} that nothing scales.",
            "The HPA reports FailedGetScale and never scales.",
            f"Target {orphans[0].api} {orphans[0].kind} {orphans[0].name}.",
        )
    elif scaler.kind not in facts.unseen:
        yield source.finding(
            "warning",
            "target-not-in-set",
            path,
            f"{scaler.kind} {scaler.name} is not among the objects that were given.",
            "Metric, labels, ports and nodes could not be compared with it.",
            "Lint the workload together with its HPA.",
        )


# --- the metric's name -----------------------------------------------------------------------------------------------


def _name(scaler: Scaler, metric: Metric, servers: list[Server]) -> Iterator[Finding]:
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
    if metric.route == "adapter" and not metric.series and "cache_usage_perc" in metric.name:
        found = ["vllm:" + re.sub(r"^.*vllm_", "", metric.name)]
    for series in dict.fromkeys(name for name in found if name):
        yield from exported(source, metric.path, series, server, "error")


def exported(
    source: Located, path: Path, series: str, server: Server | None, most: str, consequence: str = UNREADABLE
) -> Iterator[Finding]:
    """A finding when the server's vLLM version does not export a series; at most of severity `most`."""
    env = (
        {str(e.get("name")): str(e.get("value")) for e in map(mapping, items(server.container.get("env")))}
        if server
        else {}
    )
    answer = metrics.problem(
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
        yield source.finding(severity, "metric-not-exported", path, sentence, consequence, fix)  # type: ignore[arg-type]


def underscored(source: Located, path: Path, name: str, facts: Facts) -> Iterator[Finding]:
    """A warning for a query on vllm_... where vLLM exports vllm:..., unless something in the set renames it."""
    right = "vllm:" + name.removeprefix("vllm_")
    if name.startswith("vllm_") and metrics.kind_of(right) is not None and name not in facts.renamed:
        yield source.finding(
            "warning",
            "query-underscore-name",
            path,
            f"The query asks Prometheus for {name}; vLLM exports {right}.",
            "Unless something outside this set renames the series, the answer is empty: nothing scales.",
            f"Write {right}.",
        )


def _stackdriver_name(source: Located, metric: Metric) -> Iterator[Finding]:
    parts = metric.name.split("|")
    suffix = parts[2] if len(parts) == 3 else ""
    kind = metrics.kind_of(parts[1]) if len(parts) > 1 else None
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


# --- scraping --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Choice:
    """A scrape object and whether it reaches the server's pods."""

    located: Located
    labels: bool
    space: bool


def _choices(server: Server, facts: Facts) -> list[_Choice]:
    found = []
    namespace = server.owner.namespace
    for located in _scrapes_near(server, facts):
        labels = matches(located.spec.get("selector"), server.template.labels)
        if located.kind == "ServiceMonitor":
            labels = any(
                matches(located.spec.get("selector"), mapping(s.metadata.get("labels")))
                and matches({"matchLabels": s.spec.get("selector")}, server.template.labels)
                for s in facts.of("Service")
                if s.namespace == namespace
            )
        found.append(_Choice(located, labels, namespace in spaces_of(located, namespace)))
    return found


def _scrapes_near(server: Server, facts: Facts) -> list[Located]:
    """Scrape objects that may mean this server; in a large set only those whose first label fits it."""
    everything = list(facts.of(*SCRAPES)) if facts.count(*SCRAPES) <= MANY else None
    if everything is not None:
        return everything
    index = facts.by_first_label(SCRAPES)
    found = [o for pair in server.template.labels.items() for o in index.get(pair, [])]
    return (found + index.get(("", None), []))[:MANY]


def spaces_of(located: Located, namespace: str) -> tuple[str, ...]:
    """The namespaces that a scrape object looks into, as far as `namespace` is concerned."""
    if located.kind == "ClusterPodMonitoring":
        return (namespace,)
    selector = mapping(located.spec.get("namespaceSelector"))
    if located.kind in ("PodMonitor", "ServiceMonitor") and selector:
        return (namespace,) if selector.get("any") else tuple(map(str, items(selector.get("matchNames"))))
    return (located.namespace,)


def _scraped(scaler: Scaler, metric: Metric, server: Server, facts: Facts) -> Iterator[Finding]:
    """Whether something scrapes the server for the way that this metric takes."""
    if (
        not metric.of_engine
        or metric.route == "autoscalingmetric"
        or (metric.route == "adapter" and "/" in metric.name)
    ):
        return  # AutoscalingMetric scrapes for itself; a name with a slash is refused before
    choices = _choices(server, facts)
    managed = metric.route == "stackdriver"
    if metric.route == "adapter" and not any(facts.of("AdapterRules")) and metric.kind == "Pods":
        kinds = {choice.located.kind for choice in choices if choice.labels and choice.space}
        if kinds and kinds <= set(MANAGED) and not facts.adapter_rules:
            yield scaler.source.finding(
                "error",
                "metric-path-mismatch",
                metric.path,
                f"{metric.name} is a name of prometheus-adapter, but the pods are scraped by {kinds.pop()}.",
                UNREADABLE,
                f"Write prometheus.googleapis.com|{metric.series or 'vllm:num_requests_waiting'}|gauge.",
            )
            return
    fitting = [
        c for c in choices if (c.located.kind in MANAGED) == managed or metric.route == "keda" or not managed
    ]
    if any(choice.labels and choice.space for choice in fitting):
        return
    wanted = "PodMonitoring" if managed else "PodMonitor"
    if {"PodMonitoring", "PodMonitor"} & facts.unseen:
        return
    namespace = server.owner.namespace
    if near := next((c for c in fitting if c.labels), None):
        yield near.located.finding(
            "error",
            "scrape-namespace",
            ("metadata", "namespace"),
            f"It looks into {', '.join(spaces_of(near.located, namespace))}; the pods are in {namespace}.",
            f"No pod is scraped. {UNREADABLE}",
            f"Write namespace: {namespace}.",
        )
    elif near := next((c for c in fitting if c.space and _near(c.located, server.template)), None):
        yield near.located.finding(
            "error",
            "scrape-selector",
            ("spec", "selector"),
            f"The selector chooses no pod of {server.owner.kind} {server.owner.name}.",
            f"No pod is scraped. {UNREADABLE}",
            f"Use labels of the pods: {_shown(server.template)}.",
        )
    elif other := next((c for c in choices if c.labels and c.space), None):
        yield scaler.source.finding(
            "error",
            "metric-path-mismatch",
            metric.path,
            f"{metric.name} comes through Managed Prometheus, but a {other.located.kind} scrapes the pods.",
            UNREADABLE,
            f"Write a {wanted}, or use prometheus-adapter's name.",
        )
    elif managed:
        yield scaler.source.finding(
            "error",
            "scrape-missing",
            metric.path,
            f"No {wanted} scrapes {server.owner.kind} {server.owner.name}.",
            UNREADABLE,
            f"Add a {wanted} in namespace {namespace} that selects {_shown(server.template)}.",
        )
    elif server.template.annotations.get("prometheus.io/scrape") != "true":
        yield scaler.source.finding(
            "warning",
            "scrape-missing",
            metric.path,
            f"No {wanted} scrapes {server.owner.kind} {server.owner.name}.",
            f"Unless Prometheus finds the pods otherwise: {UNREADABLE[0].lower()}{UNREADABLE[1:]}",
            f"Add a {wanted} that selects {_shown(server.template)}.",
        )


def _near(located: Located, template: Template) -> bool:
    """Whether a selector that misses was meant for this template: it shares a key or a value."""
    wanted = mapping(mapping(located.spec.get("selector")).get("matchLabels"))
    shared = set(wanted) & set(template.labels) or set(map(str, wanted.values())) & set(
        map(str, template.labels.values())
    )
    return bool(shared) or (located.kind != "ServiceMonitor" and "vllm" in located.name)


def _shown(template: Template) -> str:
    return ", ".join(f"{key}: {value}" for key, value in template.labels.items() if value is not None)
