"""Rules on what scrapes: port, path, workers, and relabelling that takes the pod's name or the metric away."""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoscale.kube.objects import Object, items, mapping
from autoscale.kube.selectors import object_selects
from autoscale.lint.facts import SCRAPES, Facts
from autoscale.lint.findings import Finding, Located
from autoscale.lint.parts import Path, VllmServer
from autoscale.lint.rules.metric_name import UNREADABLE, exported
from autoscale.lint.rules.path import MANAGED, spaces_of


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every PodMonitoring, PodMonitor and ServiceMonitor, and on rules over what they scrape."""
    for located in facts.of(*SCRAPES):
        yield from _scrape(located, facts)
    versions = {server.version for server in facts.servers}
    for located in facts.of("PrometheusRule", "Rules", "ClusterRules") if len(versions) == 1 else ():
        yield from _alerts(located, facts.servers[0])


def _scrape(located: Located, facts: Facts) -> Iterator[Finding]:
    key, relabel_key = SCRAPES[located.kind]
    targets = [
        server
        for server in facts.selected(located.spec.get("selector"))
        if server.owner.namespace in spaces_of(located, server.owner.namespace)
    ]
    if located.kind == "ServiceMonitor":
        targets = []
    for index, endpoint in enumerate(items(located.spec.get(key))):
        path: Path = ("spec", key, index)
        endpoint = mapping(endpoint)
        for server in targets[:1]:
            yield from _endpoint(located, path, endpoint, server)
        for name in ("relabelings", relabel_key):
            for number, rule in enumerate(items(endpoint.get(name))):
                yield from _relabel(located, (*path, name, number), mapping(rule), facts, targets)
    metadata = mapping(located.spec.get("targetLabels")).get("metadata")
    if targets and isinstance(metadata, list) and "pod" not in metadata and located.kind in MANAGED:
        yield _pod_dropped(
            located, ("spec", "targetLabels", "metadata"), "targetLabels.metadata leaves out pod"
        )
    if targets:
        yield from _workers(located, facts, targets[0])


def _endpoint(located: Located, path: Path, endpoint: Object, server: VllmServer) -> Iterator[Finding]:
    names = [name for name in ("port", "portNumber", "targetPort") if endpoint.get(name) is not None]
    for name in names[:1]:
        if server.listens_at(endpoint[name]) is False:
            yield located.finding(
                "error",
                "scrape-port",
                (*path, name),
                f"Port {endpoint[name]} is scraped; vLLM listens on {server.port}.",
                UNREADABLE,
                f"Write the port, or the name of the container port, that is {server.port}.",
            )
    if not names:
        yield located.finding(
            "error",
            "scrape-port",
            path,
            "The endpoint has no port.",
            UNREADABLE,
            f"Write port: {server.port}.",
        )
    where = endpoint.get("path", "/metrics")
    root = server.flags.get("root-path", "").rstrip("/")
    if where not in ("/metrics", "/metrics/", f"{root}/metrics"):
        yield located.finding(
            "error",
            "scrape-path",
            (*path, "path"),
            f"Path {where} is scraped; vLLM serves /metrics.",
            UNREADABLE,
            "Write path: /metrics.",
        )
    if endpoint.get("scheme") == "https" and "ssl-certfile" not in server.flags:
        yield located.finding(
            "error",
            "scrape-scheme",
            (*path, "scheme"),
            "https is scraped; vLLM has no --ssl-certfile.",
            UNREADABLE,
            "Write scheme: http.",
        )
    interval_s = _duration_s(endpoint.get("interval"))
    if interval_s is not None and interval_s > 60:
        yield located.finding(
            "warning",
            "scrape-interval",
            (*path, "interval"),
            f"Scraped every {endpoint.get('interval')}.",
            "The HPA decides every 15 s on values that old: it reacts late and overshoots.",
            "Write interval: 15s.",
        )


def _duration_s(text: object) -> float | None:
    found = (
        re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:([\d.]+)s)?(?:(\d+)ms)?", text)
        if isinstance(text, str) and text
        else None
    )
    if not found:
        return None
    hours, minutes, seconds, millis = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + millis / 1000


def _relabel(
    located: Located, path: Path, rule: Object, facts: Facts, targets: list[VllmServer]
) -> Iterator[Finding]:
    action = str(rule.get("action", "replace")).lower()
    regex, target = str(rule.get("regex", "(.*)")), rule.get("targetLabel")
    sources = items(rule.get("sourceLabels"))
    if action in ("labeldrop", "labelkeep"):
        for label in ("pod", "namespace"):
            if _full(regex, label) == (action == "labeldrop"):
                yield _pod_dropped(located, path, f"{action} {regex} removes the label {label}", label)
    renames = action in ("replace", "lowercase", "uppercase", "hashmod") and target in ("pod", "namespace")
    same = any("pod_name" in str(s) or s in ("pod", "__meta_kubernetes_namespace") for s in sources)
    if renames and not (action == "replace" and same):
        yield _pod_dropped(located, path, f"The label {target} is overwritten", str(target))
    if action in ("drop", "keep") and sources == ["__name__"]:
        owners = {(s.owner.kind, s.owner.namespace, s.owner.name) for s in targets}
        for metric in (m for scaler in facts.scalers if scaler.key in owners for m in scaler.metrics):
            if metric.series and _full(regex, metric.series) == (action == "drop"):
                yield located.finding(
                    "error",
                    "metric-dropped",
                    path,
                    f"{action} {regex} removes {metric.series}, which the HPA reads.",
                    UNREADABLE,
                    "Let the metric pass.",
                )


def _full(regex: str, text: str) -> bool:
    try:
        return re.fullmatch(regex, text) is not None
    except re.error:
        return False


def _pod_dropped(located: Located, path: Path, problem: str, label: str = "pod") -> Finding:
    return located.finding(
        "error",
        "pod-label-dropped",
        path,
        f"{problem}.",
        f"Without its {label} label a value belongs to no pod. {UNREADABLE}",
        f"Leave the label {label} as it is.",
    )


def _workers(located: Located, facts: Facts, server: VllmServer) -> Iterator[Finding]:
    owner = server.owner
    for template in facts.templates_by_owner[owner.kind, owner.namespace, owner.name]:
        if template.role == "worker" and object_selects(located.spec.get("selector"), template.labels):
            yield located.finding(
                "warning",
                "scrapes-workers",
                ("spec", "selector"),
                f"The selector also chooses the workers of {owner.name}, which serve no HTTP.",
                "Every worker is a failing target, and alerts on scraping fire for ever.",
                "Select the leaders: add role: leader, or leaderworkerset.sigs.k8s.io/worker-index: '0'.",
            )


def _alerts(located: Located, server: VllmServer) -> Iterator[Finding]:
    """Recording and alert rules on metrics that this version does not export are silent for ever."""
    for i, group in enumerate(items(located.spec.get("groups"))):
        for j, rule in enumerate(items(mapping(group).get("rules"))):
            path: Path = ("spec", "groups", i, "rules", j, "expr")
            for series in dict.fromkeys(re.findall(r"vllm:\w+", str(mapping(rule).get("expr") or ""))):
                yield from exported(located, path, series, server, "warning", "The rule never has a value.")
