"""Rules along the metric's way: scaler <-> workload <-> scraping <-> adapter, each by name, label, port and namespace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoscale.kube.objects import items, mapping
from autoscale.kube.selectors import object_selects
from autoscale.lint.facts import SCRAPES, Facts
from autoscale.lint.findings import Finding, Located
from autoscale.lint.parts import PodTemplate, VllmServer
from autoscale.lint.rules.metric_name import UNREADABLE
from autoscale.lint.scalers import Metric, Scaler

MANY = 50  # scrape objects; above that only those that fit are compared
MANAGED = ("PodMonitoring", "ClusterPodMonitoring")


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every scaler's way to its metric."""
    for scaler in facts.scalers:
        for server in facts.servers_by_owner.get(scaler.key, [])[:1]:
            for metric in scaler.metrics:
                yield from _scraped(scaler, metric, server, facts)


@dataclass(frozen=True)
class _Choice:
    """A scrape object and whether it reaches the server's pods."""

    located: Located
    labels: bool
    space: bool


def _choices(server: VllmServer, facts: Facts) -> list[_Choice]:
    found = []
    namespace = server.owner.namespace
    for located in _scrapes_near(server, facts):
        labels = object_selects(located.spec.get("selector"), server.template.labels)
        if located.kind == "ServiceMonitor":
            labels = any(
                object_selects(located.spec.get("selector"), mapping(s.metadata.get("labels")))
                and object_selects({"matchLabels": s.spec.get("selector")}, server.template.labels)
                for s in facts.of("Service")
                if s.namespace == namespace
            )
        found.append(_Choice(located, labels, namespace in spaces_of(located, namespace)))
    return found


def _scrapes_near(server: VllmServer, facts: Facts) -> list[Located]:
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


def _scraped(scaler: Scaler, metric: Metric, server: VllmServer, facts: Facts) -> Iterator[Finding]:
    """Whether something scrapes the server for the way that this metric takes."""
    if (
        not metric.of_engine
        or metric.route == "autoscalingmetric"
        or (metric.route == "adapter" and "/" in metric.name)
    ):
        return  # AutoscalingMetric scrapes for itself; a name with a slash is refused before
    choices = _choices(server, facts)
    reached = {choice.located.kind for choice in choices if choice.labels and choice.space}
    for_adapter = metric.route == "adapter" and metric.kind == "Pods" and not any(facts.of("AdapterRules"))
    if for_adapter and reached and reached <= set(MANAGED) and not facts.adapter_rules:
        yield scaler.source.finding(
            "error",
            "metric-path-mismatch",
            metric.path,
            f"{metric.name} is a name of prometheus-adapter, but the pods are scraped by {reached.pop()}.",
            UNREADABLE,
            f"Write prometheus.googleapis.com|{metric.series or 'vllm:num_requests_waiting'}|gauge.",
        )
        return
    fitting = [c for c in choices if c.located.kind in MANAGED or metric.route != "stackdriver"]
    if any(choice.labels and choice.space for choice in fitting):
        return
    if {"PodMonitoring", "PodMonitor"} & facts.unseen:
        return
    missed = next((c for c in fitting if c.labels), None) or next(
        (c for c in fitting if c.space and _near(c.located, server.template)), None
    )
    yield from _missed(missed, server) if missed else _not_scraped(scaler, metric, server, choices)


def _missed(near: _Choice, server: VllmServer) -> Iterator[Finding]:
    """A scrape object that was meant for the server and looks elsewhere."""
    namespace = server.owner.namespace
    if near.labels:
        yield near.located.finding(
            "error",
            "scrape-namespace",
            ("metadata", "namespace"),
            f"It looks into {', '.join(spaces_of(near.located, namespace))}; the pods are in {namespace}.",
            f"No pod is scraped. {UNREADABLE}",
            f"Write namespace: {namespace}.",
        )
    else:
        yield near.located.finding(
            "error",
            "scrape-selector",
            ("spec", "selector"),
            f"The selector chooses no pod of {server.owner.kind} {server.owner.name}.",
            f"No pod is scraped. {UNREADABLE}",
            f"Use labels of the pods: {_shown(server.template)}.",
        )


def _not_scraped(
    scaler: Scaler, metric: Metric, server: VllmServer, choices: list[_Choice]
) -> Iterator[Finding]:
    """Nothing scrapes the server for this metric."""
    managed = metric.route == "stackdriver"
    wanted = "PodMonitoring" if managed else "PodMonitor"
    problem = f"No {wanted} scrapes {server.owner.kind} {server.owner.name}."
    if other := next((c for c in choices if c.labels and c.space), None):
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
            problem,
            UNREADABLE,
            f"Add a {wanted} in namespace {server.owner.namespace} that selects {_shown(server.template)}.",
        )
    elif server.template.annotations.get("prometheus.io/scrape") != "true":
        yield scaler.source.finding(
            "warning",
            "scrape-missing",
            metric.path,
            problem,
            f"Unless Prometheus finds the pods otherwise: {UNREADABLE[0].lower()}{UNREADABLE[1:]}",
            f"Add a {wanted} that selects {_shown(server.template)}.",
        )


def _near(located: Located, template: PodTemplate) -> bool:
    """Whether a selector that misses was meant for this template: it shares a key or a value."""
    wanted = mapping(mapping(located.spec.get("selector")).get("matchLabels"))
    shared = set(wanted) & set(template.labels) or set(map(str, wanted.values())) & set(
        map(str, template.labels.values())
    )
    return bool(shared) or (located.kind != "ServiceMonitor" and "vllm" in located.name)


def _shown(template: PodTemplate) -> str:
    return ", ".join(f"{key}: {value}" for key, value in template.labels.items() if value is not None)
