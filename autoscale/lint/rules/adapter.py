"""Rules on what stands between Prometheus and the HPA: prometheus-adapter, Stackdriver's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from analysis.documents import Problem, documents
from autoscale.kube.objects import items, mapping
from autoscale.lint.facts import SCRAPES, Facts
from autoscale.lint.findings import Finding, Located
from autoscale.lint.parts import Path
from autoscale.lint.rules.metric_name import UNREADABLE, exported, underscored
from autoscale.lint.sources import AdapterRule, adapter_configs

STACKDRIVER, PROMETHEUS = "custom-metrics-stackdriver-adapter", "prometheus-adapter"


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on adapters and on the names that scalers expect of them."""
    yield from _two_adapters(facts)
    yield from _adapter_rules(facts)


# --- which adapter ---------------------------------------------------------------------------------------------------


def _two_adapters(facts: Facts) -> Iterator[Finding]:
    """The metrics APIs have one server each: both adapters, or names of both, cannot live in one cluster."""
    present: dict[str, tuple[Located, Path]] = {}
    for template in facts.templates:
        images = [str(container.get("image") or "") for _, container in template.containers()]
        for name in (STACKDRIVER, PROMETHEUS):
            if template.owner.name == name or any(name in image for image in images):
                present.setdefault(name, (template.owner, ("metadata", "name")))
    for service in facts.of("APIService"):
        name = str(mapping(service.spec.get("service")).get("name") or "")
        if service.spec.get("group") in ("custom.metrics.k8s.io", "external.metrics.k8s.io"):
            for known in (STACKDRIVER, PROMETHEUS):
                if known in name:
                    present.setdefault(known, (service, ("spec", "service", "name")))
    for rule in facts.adapter_rules[:1]:
        present.setdefault(PROMETHEUS, (rule.source, ()))
    routes: dict[str, tuple[Located, Path]] = {}
    for scaler in facts.scalers:
        for metric in scaler.metrics:
            if metric.kind in ("Pods", "Object") and metric.route in ("stackdriver", "adapter"):
                routes.setdefault(metric.route, (scaler.source, metric.path))
    if {STACKDRIVER, PROMETHEUS} <= set(present):
        located, path = present[PROMETHEUS]
        problem = "The Stackdriver adapter and prometheus-adapter are both in the set."
    elif PROMETHEUS in present and "stackdriver" in routes:
        located, path = routes["stackdriver"]
        problem = "The metric's name is for the Stackdriver adapter, the rules are for prometheus-adapter."
    elif len(routes) == 2:
        located, path = routes["adapter"]
        problem = "Some metrics are named for the Stackdriver adapter, others for prometheus-adapter."
    elif STACKDRIVER in present and "adapter" in routes:
        located, path = routes["adapter"]
        problem = "The metric's name is for prometheus-adapter, the set installs the Stackdriver adapter."
    else:
        return
    yield located.finding(
        "error",
        "two-adapters",
        path,
        problem,
        "Both register custom.metrics.k8s.io: the last one wins, and the other's metrics read <unknown>.",
        "Use one adapter per cluster, and its names everywhere.",
    )


# --- prometheus-adapter ----------------------------------------------------------------------------------------------


def _adapter_rules(facts: Facts) -> Iterator[Finding]:
    for located, path, text in adapter_configs(facts.of("ConfigMap")):
        yield from _unreadable(located, path, text)
    server = facts.servers[0] if facts.servers else None
    for rule in facts.adapter_rules:
        if rule.series.startswith("vllm:"):
            yield from exported(rule.source, (*rule.path, "seriesQuery"), rule.series, server, "error")
        for name in dict.fromkeys([rule.series, *(selector.name for selector in rule.query.selectors)]):
            yield from underscored(rule.source, (*rule.path, "seriesQuery"), name, facts)
        yield from _resources(rule, facts)
        yield from _query(rule, facts)
    made = {rule.makes for rule in facts.adapter_rules} - {""}
    for scaler in facts.scalers if made else []:
        for metric in scaler.metrics:
            if metric.route == "adapter" and metric.kind in ("Pods", "Object") and metric.name not in made:
                yield scaler.source.finding(
                    "error",
                    "adapter-rule-missing",
                    metric.path,
                    f"No rule of prometheus-adapter makes {metric.name}; they make {', '.join(sorted(made))}.",
                    UNREADABLE,
                    "Use one of these names, or add a rule.",
                )


def _unreadable(located: Located, path: Path, text: str) -> Iterator[Finding]:
    for document in documents(text, {}):
        if isinstance(document, Problem):
            yield located.finding(
                "error",
                "adapter-config-broken",
                path,
                f"The configuration is not YAML: {document.text} (its line {document.line}).",
                f"prometheus-adapter does not start. {UNREADABLE}",
                "Correct the text of the ConfigMap.",
            )
        elif not mapping(document.value) and document.value is not None:
            yield located.finding(
                "error",
                "adapter-config-broken",
                path,
                f"The configuration is a {type(document.value).__name__}, not a mapping with rules.",
                f"prometheus-adapter does not start. {UNREADABLE}",
                "Put the list under the key rules.",
            )


def _asked_of(rule: AdapterRule, facts: Facts) -> set[str]:
    """The resources for which scalers ask a rule's metric: pod, or the kind of a described object in lower case."""
    found = set()
    for scaler in facts.scalers:
        for metric in scaler.metrics:
            if metric.name == rule.makes and metric.kind in ("Pods", "Object"):
                found.add("pod" if metric.kind == "Pods" else metric.described.lower())
    return found


def _resources(rule: AdapterRule, facts: Facts) -> Iterator[Finding]:
    """The labels that make a series' value that of a pod, or of the object that a scaler names."""
    if rule.external:
        return
    asked = _asked_of(rule, facts)
    shown, path = rule.series or "a series", (*rule.path, "resources")
    for resource in sorted(asked - set(rule.labels) if not rule.has_template else set()):
        yield rule.source.finding(
            "error",
            "adapter-rule-resources",
            path,
            f"The rule for {shown} maps no label to {resource}s.",
            UNREADABLE,
            f"Add resources.overrides: namespace and {resource}, each with its resource.",
        )
    if not asked and not rule.labels and not rule.has_template:
        yield rule.source.finding(
            "error",
            "adapter-rule-resources",
            path,
            f"The rule for {shown} maps no label to pods.",
            UNREADABLE,
            "Add resources.overrides: namespace and pod, each with its resource.",
        )
    given = _scraped_labels(facts)
    for resource in sorted((asked or {"pod"}) & {"pod"} & set(rule.labels) if given is not None else set()):
        label = rule.labels[resource]
        if given is not None and label not in given:
            yield rule.source.finding(
                "error",
                "adapter-rule-label",
                path,
                f"The rule takes the {resource} from label {label}; scraping here gives {', '.join(sorted(given))}.",
                UNREADABLE,
                f"Map {resource} instead, or relabel {label} onto the series.",
            )


def _scraped_labels(facts: Facts) -> set[str] | None:
    """Labels that name the target of a scraped series; None when the set does not tell all of them."""
    monitors = [m for m in facts.of("PodMonitor", "ServiceMonitor") if facts.servers]
    if not monitors:
        return None
    found = {"pod", "namespace", "container", "job", "instance", "endpoint", "service", "node"}
    for monitor in monitors:
        key, after = SCRAPES[monitor.kind]
        for endpoint in map(mapping, items(monitor.spec.get(key))):
            if endpoint.get("honorLabels"):
                return None
            for rule in map(mapping, items(endpoint.get("relabelings")) + items(endpoint.get(after))):
                if str(rule.get("action", "replace")).lower() == "labelmap":
                    return None
                found.add(str(rule.get("targetLabel") or "pod"))
        for name in ("targetLabels", "podTargetLabels"):
            found |= {re.sub(r"\W", "_", str(label)) for label in items(monitor.spec.get(name))}
    return found


def _query(rule: AdapterRule, facts: Facts) -> Iterator[Finding]:
    """What the query leaves of the labels that a value needs, and counters that nothing turns into a rate."""
    path: Path = (*rule.path, "metricsQuery")
    template = re.sub(r"<<\s*(\.\w+)\s*>>", r"<<\1>>", rule.template)
    if template and not rule.external:
        asked = _asked_of(rule, facts) or set(rule.labels) & {"pod"} or set(rule.labels) or {"pod"}
        needed = {rule.labels.get(resource, resource) for resource in asked}
        by = set(re.findall(r"\w+", " ".join(re.findall(r"\bby\s*\(([^)]*)\)", template))))
        aggregated = re.search(r"\b(sum|avg|max|min|count|quantile)\b", template)
        grouped = "<<.GroupBy>>" in template or needed <= by or not aggregated or "without" in template
        if not grouped:
            yield rule.source.finding(
                "error",
                "adapter-rule-query",
                path,
                f"metricsQuery lacks <<.GroupBy>> and drops the label {', '.join(sorted(needed))}.",
                "The value belongs to no object. " + UNREADABLE,
                "Write sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>).",
            )
        elif "<<.LabelMatchers>>" not in template and "namespace" not in by | needed:
            yield rule.source.finding(
                "warning",
                "adapter-rule-query",
                path,
                "metricsQuery lacks <<.LabelMatchers>>.",
                "Pods of the same name in other namespaces are added, and every query reads all pods.",
                "Write sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>).",
            )
    for selector in rule.query.selectors:
        if selector.counts_up:
            yield rule.source.finding(
                "error",
                "counter-without-rate",
                path,
                f"{selector.name} is a counter, and nothing takes its rate.",
                "It only grows: replicas are added up to the maximum and never removed.",
                f"Write rate({selector.name}{{...}}[2m]) inside the sum.",
            )
