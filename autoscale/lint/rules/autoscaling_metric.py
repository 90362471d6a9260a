"""Rules on GKE's AutoscalingMetric, which reads the pods by itself: its name, limits, pods and endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoscale.kube.objects import items, mapping
from autoscale.kube.selectors import object_selects
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding, Located
from autoscale.lint.parts import Path, VllmServer
from autoscale.lint.rules.metric_name import UNREADABLE, exported
from autoscale.lint.scalers import Metric, Scaler

GKE_NAME = re.compile(r"[a-z]([a-z0-9_-]{0,61}[a-z0-9])?")
GKE_MOST = 20


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every AutoscalingMetric and on the names that scalers expect of them."""
    count = 0
    for located in facts.of("AutoscalingMetric"):
        yield from _pods(located, facts)
        gauges = list(_gauges(located))
        for path, pod, gauge in gauges:
            yield from _gauge(located, path, pod, gauge, facts)
        count += len(gauges)
        if count > GKE_MOST:
            yield located.finding(
                "error",
                "autoscalingmetric-limit",
                ("spec", "metrics"),
                f"{count} gauges; a cluster takes {GKE_MOST}.",
                "The last ones are not read.",
                "Keep what the HPAs use.",
            )
    for scaler in facts.scalers:
        for metric in scaler.metrics:
            if metric.route == "autoscalingmetric":
                yield from _gke_name(scaler, metric, facts)


def _pods(located: Located, facts: Facts) -> Iterator[Finding]:
    near = facts.servers_by_space.get(located.namespace, [])
    for i, entry in enumerate(items(located.spec.get("metrics"))):
        pod = mapping(mapping(entry).get("pod"))
        selected = [s for s in near if object_selects(pod.get("selector"), s.template.labels)]
        path: Path = ("spec", "metrics", i, "pod")
        if facts.servers and not selected:
            yield located.finding(
                "error",
                "scrape-selector",
                (*path, "selector"),
                f"The selector chooses no vLLM pod in namespace {located.namespace}.",
                UNREADABLE,
                "Use labels of the pods that serve HTTP.",
            )
        for j, container in enumerate(items(pod.get("containers"))):
            endpoint = mapping(mapping(container).get("endpoint"))
            for server in selected[:1]:
                yield from _endpoint(located, (*path, "containers", j, "endpoint"), endpoint, server)


def _endpoint(
    located: Located, path: Path, endpoint: dict[str, object], server: VllmServer
) -> Iterator[Finding]:
    if server.listens_at(endpoint.get("port")) is False:
        yield located.finding(
            "error",
            "scrape-port",
            (*path, "port"),
            f"Port {endpoint.get('port')} is read; vLLM listens on {server.port}.",
            UNREADABLE,
            f"Write port: {server.port}.",
        )
    if endpoint.get("path", "/metrics") != "/metrics":
        yield located.finding(
            "error",
            "scrape-path",
            (*path, "path"),
            f"Path {endpoint.get('path')} is read; vLLM serves /metrics.",
            UNREADABLE,
            "Write path: /metrics.",
        )


def _gauge(
    located: Located, path: Path, pod: dict[str, object], gauge: dict[str, object], facts: Facts
) -> Iterator[Finding]:
    name = str(gauge.get("name") or "")
    series = str(gauge.get("prometheusMetricName") or gauge.get("name") or "")
    if gauge.get("name") is not None and not GKE_NAME.fullmatch(name):
        yield located.finding(
            "error",
            "autoscalingmetric-name",
            (*path, "name"),
            f"{name} is not lower-case letters, digits and dashes, at most 63.",
            "The API server refuses the object.",
            "Write a name such as num-requests-waiting.",
        )
    near = facts.servers_by_space.get(located.namespace, [])
    servers = [s for s in near if object_selects(pod.get("selector"), s.template.labels)] or near
    yield from exported(
        located, (*path, "prometheusMetricName"), series, servers[0] if servers else None, "error"
    )


def _gke_name(scaler: Scaler, metric: Metric, facts: Facts) -> Iterator[Finding]:
    parts = metric.name.split("|")
    name, gauge = (parts[1], parts[2]) if len(parts) == 3 else ("", "")
    own = [
        o for o in facts.of("AutoscalingMetric") if o.name == name and o.namespace == scaler.source.namespace
    ]
    gauges = [str(g.get("name") or g.get("prometheusMetricName")) for o in own for _, _, g in _gauges(o)]
    if len(parts) == 3 and (gauge in gauges or "AutoscalingMetric" in facts.unseen):
        return
    elsewhere = [o.namespace for o in facts.of("AutoscalingMetric") if o.name == name]
    if len(parts) != 3:
        problem, fix = f"{metric.name} is not autoscaling.gke.io|OBJECT|NAME.", "Write all three parts."
    elif own:
        problem = f"AutoscalingMetric {name} has no gauge {gauge}, only {', '.join(gauges) or 'none'}."
        fix = f"Name {gauges[0]}." if gauges else "Add the gauge."
    elif elsewhere:
        problem = f"AutoscalingMetric {name} is in namespace {elsewhere[0]}, not {scaler.source.namespace}."
        fix = "Put both into one namespace."
    else:
        problem, fix = f"There is no AutoscalingMetric {name}.", "Add it, or use its name."
    yield scaler.source.finding("error", "autoscalingmetric-missing", metric.path, problem, UNREADABLE, fix)


def _gauges(located: Located) -> Iterator[tuple[Path, dict[str, object], dict[str, object]]]:
    """(path, pod, gauge) of every gauge."""
    for i, entry in enumerate(items(located.spec.get("metrics"))):
        pod = mapping(mapping(entry).get("pod"))
        for j, container in enumerate(items(pod.get("containers"))):
            for k, metric in enumerate(items(mapping(container).get("metrics"))):
                path: Path = ("spec", "metrics", i, "pod", "containers", j, "metrics", k, "gauge")
                yield path, pod, mapping(mapping(metric).get("gauge"))
