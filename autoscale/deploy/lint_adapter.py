"""Rules on what stands between Prometheus and the HPA: prometheus-adapter, AutoscalingMetric, KEDA, Stackdriver."""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoscale.deploy.lint_facts import Facts
from autoscale.deploy.lint_parts import Metric, Path, Scaler, Server, matches
from autoscale.deploy.lint_path import UNREADABLE, exported
from autoscale.deploy.lint_report import Finding, Located, items, mapping

STACKDRIVER, PROMETHEUS = "custom-metrics-stackdriver-adapter", "prometheus-adapter"
GKE_NAME = re.compile(r"[a-z]([a-z0-9_-]{0,61}[a-z0-9])?")
GKE_MOST = 20


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on adapters and on the names that scalers expect of them."""
    yield from _two_adapters(facts)
    yield from _adapter_rules(facts)
    yield from _autoscaling_metrics(facts)
    for scaler in facts.scalers:
        servers = facts.servers_by_owner.get(scaler.key, [])
        for metric in scaler.metrics:
            if metric.route == "autoscalingmetric":
                yield from _gke_name(scaler, metric, facts)
            elif metric.route == "keda":
                yield from _trigger(scaler, metric, servers[0] if servers else None)


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
    for located, _, _ in facts.adapter_rules[:1]:
        present.setdefault(PROMETHEUS, (located, ()))
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
    rules_ = facts.adapter_rules
    if not rules_:
        return
    made: set[str] = set()
    server = facts.servers[0] if facts.servers else None
    for located, path, rule in rules_:
        series = re.split(r"[{\s]", str(rule.get("seriesQuery") or ""))[0]
        made.add(_made(rule, series))
        if series.startswith("vllm:"):
            yield from exported(located, (*path, "seriesQuery"), series, server, "error")
        external = "external" in path
        resources = mapping(rule.get("resources"))
        kinds = {mapping(entry).get("resource") for entry in mapping(resources.get("overrides")).values()}
        if not external and "template" not in resources and not {"pod", "pods"} & kinds:
            yield located.finding(
                "error",
                "adapter-rule-resources",
                (*path, "resources"),
                f"The rule for {series or 'a series'} maps no label to pods.",
                UNREADABLE,
                "Add resources.overrides: namespace and pod, each with its resource.",
            )
        query = str(rule.get("metricsQuery") or "")
        for word in ("<<.Series>>", "<<.LabelMatchers>>", "<<.GroupBy>>"):
            if query and word not in query and not (external and word == "<<.GroupBy>>"):
                yield located.finding(
                    "error",
                    "adapter-rule-query",
                    (*path, "metricsQuery"),
                    f"metricsQuery lacks {word}.",
                    "The adapter returns values of other pods, or none.",
                    "Write sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>).",
                )
    for scaler in facts.scalers:
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


def _made(rule: dict[str, object], series: str) -> str:
    """The name under which a rule serves its series."""
    name = mapping(rule.get("name"))
    pattern, replacement = str(name.get("matches") or ""), name.get("as")
    try:
        found = re.search(pattern, series) if pattern else None
    except re.error:
        found = None
    if replacement is None:
        return found[1] if found and found.groups() else series
    if found:
        return re.sub(pattern, re.sub(r"\$\{?(\d+)\}?", r"\\\1", str(replacement)), series)
    return str(replacement) if not pattern else series


# --- AutoscalingMetric -----------------------------------------------------------------------------------------------


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


def _autoscaling_metrics(facts: Facts) -> Iterator[Finding]:
    count = 0
    for located in facts.of("AutoscalingMetric"):
        near = facts.servers_by_space.get(located.namespace, [])
        for i, entry in enumerate(items(located.spec.get("metrics"))):
            pod = mapping(mapping(entry).get("pod"))
            selected = [s for s in near if matches(pod.get("selector"), s.template.labels)]
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
                    if server.listens_at(endpoint.get("port")) is False:
                        yield located.finding(
                            "error",
                            "scrape-port",
                            (*path, "containers", j, "endpoint", "port"),
                            f"Port {endpoint.get('port')} is read; vLLM listens on {server.port}.",
                            UNREADABLE,
                            f"Write port: {server.port}.",
                        )
                    if endpoint.get("path", "/metrics") != "/metrics":
                        yield located.finding(
                            "error",
                            "scrape-path",
                            (*path, "containers", j, "endpoint", "path"),
                            f"Path {endpoint.get('path')} is read; vLLM serves /metrics.",
                            UNREADABLE,
                            "Write path: /metrics.",
                        )
        for path, pod, gauge in _gauges(located):
            count += 1
            name, series = (
                str(gauge.get("name") or ""),
                str(gauge.get("prometheusMetricName") or gauge.get("name") or ""),
            )
            if gauge.get("name") is not None and not GKE_NAME.fullmatch(name):
                yield located.finding(
                    "error",
                    "autoscalingmetric-name",
                    (*path, "name"),
                    f"{name} is not lower-case letters, digits and dashes, at most 63.",
                    "The API server refuses the object.",
                    "Write a name such as num-requests-waiting.",
                )
            servers = [s for s in near if matches(pod.get("selector"), s.template.labels)] or near
            yield from exported(
                located, (*path, "prometheusMetricName"), series, servers[0] if servers else None, "error"
            )
        if count > GKE_MOST:
            yield located.finding(
                "error",
                "autoscalingmetric-limit",
                ("spec", "metrics"),
                f"{count} gauges; a cluster takes {GKE_MOST}.",
                "The last ones are not read.",
                "Keep what the HPAs use.",
            )


# --- KEDA ------------------------------------------------------------------------------------------------------------


def _trigger(scaler: Scaler, metric: Metric, server: Server | None) -> Iterator[Finding]:
    source, query, path = scaler.source, metric.name, metric.path
    index = path[2]
    trigger = mapping(items(source.spec.get("triggers"))[int(index)])
    metadata = mapping(trigger.get("metadata"))
    if trigger.get("type") != "prometheus":
        return
    outer = re.match(r"\s*(sum|avg|max|min|count|scalar)\s*(by|without)?\s*\(", query, re.I)
    grouped = outer and (outer[2] or re.search(r"\)\s*(by|without)\s*\([^)]*\)\s*$", query, re.I))
    if not outer or grouped:
        yield source.finding(
            "error",
            "keda-many-series",
            path,
            "The query returns one series per pod." if query else "The query is missing.",
            "KEDA refuses an answer of several series: with the second pod scaling stops.",
            f"Write sum({metric.series or 'vllm:num_requests_waiting'}{{...}}).",
        )
    if trigger.get("metricType", "AverageValue") != "AverageValue":
        yield source.finding(
            "error",
            "keda-metric-type",
            (*path[:3], "metricType"),
            f"metricType {trigger.get('metricType')} compares the sum over all pods with the threshold.",
            "Every added replica raises the sum's meaning, not the share: it scales to the maximum.",
            "Write metricType: AverageValue.",
        )
    threshold = metadata.get("threshold")
    if not re.fullmatch(
        r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", str(threshold if threshold is not None else "")
    ):
        yield source.finding(
            "error",
            "keda-threshold",
            metric.target_path,
            f"Threshold {threshold!r} is not a plain number.",
            "KEDA cannot read the trigger: nothing scales.",
            "Write a decimal such as '5' or '0.504'.",
        )
    if not metadata.get("serverAddress"):
        yield source.finding(
            "error", "keda-server-address", path[:-1], "serverAddress is missing.",
            "KEDA cannot ask Prometheus: nothing scales.", "Write the address of Prometheus.",
        )  # fmt: skip
    if str(metadata.get("ignoreNullValues", "true")).lower() == "true":
        yield source.finding(
            "warning",
            "keda-null-is-zero",
            (*path[:-1], "ignoreNullValues"),
            "No data counts as 0, which is KEDA's default.",
            "When scraping breaks, KEDA scales in to the minimum under full load.",
            'Write ignoreNullValues: "false".',
        )
    if server:
        yield from _query_selects(scaler, path, query, server)


def _query_selects(scaler: Scaler, path: Path, query: str, server: Server) -> Iterator[Finding]:
    """Whether the label matchers of a query fit the names that the pods will have."""
    owner = server.owner
    pods = {"LeaderWorkerSet": f"{owner.name}-0", "StatefulSet": f"{owner.name}-0"}
    pod = pods.get(owner.kind, f"{owner.name}-5d8f7c9b6d-x2x4z")
    served = server.served[0] if len(server.served) == 1 else None
    truth = {
        "namespace": owner.namespace,
        "pod": pod,
        "container": str(server.container.get("name") or ""),
        "model_name": served,
    }
    for label, operator, wanted in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', query):
        have = truth.get(label)
        if not have:
            continue
        try:
            hit = re.fullmatch(wanted, have) is not None if "~" in operator else wanted == have
        except re.error:
            hit = False
        if hit == operator.startswith("!"):
            yield scaler.source.finding(
                "error",
                "query-selects-nothing",
                path,
                f'The query asks for {label}{operator}"{wanted}"; the pods have {label}="{have}".',
                "The query returns nothing: nothing scales.",
                f'Write {label}="{have}"' + (" or a pattern that fits it." if label == "pod" else "."),
            )
