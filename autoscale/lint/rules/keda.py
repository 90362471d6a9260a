"""Rules on the triggers of KEDA's ScaledObjects: what KEDA reads, refuses, or takes for no load."""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoscale.keda.metadata import Metadata
from autoscale.keda.prometheus_trigger import printed
from autoscale.keda.queries import counts_up
from autoscale.kube.objects import Object, items, mapping
from autoscale.kube.vllm_names import type_of
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding
from autoscale.lint.parts import Path, VllmServer
from autoscale.lint.query import Query, Selector
from autoscale.lint.scalers import Metric, Scaler, formula_of

AUTHENTICATION = "TriggerAuthentication"
CREDENTIALS = {  # what KEDA's Prometheus scaler asks for, by a word of authModes
    "bearer": ("bearerToken",),
    "basic": ("username",),
    "tls": ("cert", "key"),
    "custom": ("customAuthHeader", "customAuthValue"),
}
_OR_ZERO = re.compile(r"\bor\s+(on\s*\(\)\s*)?vector\s*\(", re.I)


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every ScaledObject and its triggers on Prometheus."""
    for scaler in facts.scalers:
        if scaler.source.kind != "ScaledObject":
            continue
        servers = facts.servers_by_owner.get(scaler.key, [])
        for metric in scaler.metrics:
            if metric.query is not None:
                yield from _answer(scaler, metric, metric.query)
                yield from _metadata(scaler, metric)
                yield from _authentication(scaler, metric, facts)
                for selector in metric.query.selectors:
                    yield from _counter(scaler, metric.path, selector)
                    if servers and selector.of_engine:
                        yield from _selects(scaler, metric.path, selector, servers[0])


# --- the answer of the query -----------------------------------------------------------------------------------------


def _answer(scaler: Scaler, metric: Metric, query: Query) -> Iterator[Finding]:
    source, path = scaler.source, metric.path
    if not query.text.strip():
        yield source.finding(
            "error",
            "keda-many-series",
            path,
            "The query is missing.",
            "KEDA cannot read the trigger: nothing scales.",
            "Write sum(vllm:num_requests_waiting{...}).",
        )
    elif query.mistyped:
        of_window = "window" in query.mistyped
        yield source.finding(
            "warning" if of_window else "error",
            "query-mistyped",
            path,
            f"The query is no PromQL: {query.mistyped}.",
            "Prometheus refuses it and the trigger fails: nothing scales."
            + (" Only VictoriaMetrics takes it." if of_window else ""),
            "Write a window inside rate() or avg_over_time() and nowhere else."
            if of_window
            else "Close every parenthesis.",
        )
    elif query.shape == "many":
        per_pod = any(selector.of_engine for selector in query.selectors)
        name = next((selector.name for selector in query.selectors if selector.name), "")
        yield source.finding(
            "error" if per_pod else "warning",
            "keda-many-series",
            path,
            "The query returns one series per pod." if per_pod else f"Nothing makes one series of {name}.",
            "KEDA refuses an answer of several series: with the second "
            + ("pod scaling stops." if per_pod else "series scaling stops."),
            f"Write {_of_all_pods(name or 'vllm:num_requests_waiting')}.",
        )
    elif query.shape == "scalar":
        yield source.finding(
            "error",
            "keda-scalar",
            path,
            "The query returns a scalar.",
            "KEDA reads vectors only and fails on it: nothing scales.",
            "Leave scalar() out.",
        )
    if metric.target_type == "Value" and query.shape == "total":
        yield source.finding(
            "error",
            "keda-metric-type",
            (*path[:3], "metricType"),
            "metricType Value compares a sum over all pods with the threshold: desired = ceil(sum / threshold "
            "x ready pods).",
            "As long as the sum is above the threshold every sync multiplies the replicas, up to the maximum.",
            "Write metricType: AverageValue, with the threshold that one replica should have.",
        )


def _metadata(scaler: Scaler, metric: Metric) -> Iterator[Finding]:
    source, path = scaler.source, metric.path
    trigger = mapping(items(source.spec.get("triggers"))[int(path[2])])
    metadata = mapping(trigger.get("metadata"))
    yield from _threshold(scaler, metric, metadata)
    if not metadata.get("serverAddress"):
        yield source.finding(
            "error",
            "keda-server-address",
            path[:-1],
            "serverAddress is missing.",
            "KEDA cannot ask Prometheus: nothing scales.",
            "Write the address of Prometheus.",
        )
    ignored = str(metadata.get("ignoreNullValues", "true")).lower() == "true"
    if (ignored or _OR_ZERO.search(metric.name)) and metric.of_engine and scaler.low > 0:
        yield source.finding(
            "warning",
            "keda-null-is-zero",
            (*path[:-1], "ignoreNullValues"),
            "No data counts as 0, which is KEDA's default." if ignored else "The query makes no data a 0.",
            "When scraping breaks, KEDA scales in to the minimum under full load.",
            'Write ignoreNullValues: "false", without `or vector(0)`.',
        )
    inside = metadata.get("metricType")
    if inside is not None and inside != trigger.get("metricType", "AverageValue"):
        yield source.finding(
            "warning",
            "keda-metric-type",
            (*path[:-1], "metricType"),
            f"metricType {inside} stands inside metadata, where KEDA ignores it.",
            f"{trigger.get('metricType', 'AverageValue')} is used.",
            "Move metricType out of metadata, beside type.",
        )


def _threshold(scaler: Scaler, metric: Metric, metadata: Object) -> Iterator[Finding]:
    if formula_of(scaler.source.spec) is not None:  # the formula has a target of its own
        return
    threshold = metadata.get("threshold")
    text = "" if threshold is None else str(threshold)
    read = Metadata({"threshold": text})
    value = read.number("threshold")
    if read.problems:
        problem, consequence = (
            f"Threshold {threshold!r} is not a plain number.",
            "KEDA cannot read the trigger",
        )
    elif value > 0 and float(printed(value)) == 0:
        problem, consequence = f"Threshold {text} becomes 0: KEDA keeps three decimals.", "The HPA is refused"
    else:
        return
    yield scaler.source.finding(
        "error",
        "keda-threshold",
        metric.target_path,
        problem,
        f"{consequence}: nothing scales.",
        "Write a decimal such as '5' or '0.504'.",
    )


def _authentication(scaler: Scaler, metric: Metric, facts: Facts) -> Iterator[Finding]:
    """Whether a known way of authentication has what it needs, as far as the set tells."""
    source, at = scaler.source, metric.path[:3]
    trigger = mapping(items(source.spec.get("triggers"))[int(metric.path[2])])
    metadata, reference = mapping(trigger.get("metadata")), mapping(trigger.get("authenticationRef"))
    kind, name = str(reference.get("kind") or AUTHENTICATION), str(reference.get("name") or "")
    held = [
        set(_parameters(one.spec))
        for one in facts.by_name(kind, name)
        if kind != AUTHENTICATION or one.namespace == source.namespace
    ]
    for mode in re.split(r"\s*,\s*", str(metadata.get("authModes") or "").strip()):
        needed = [one for one in CREDENTIALS.get(mode, ()) if f"{one}FromEnv" not in metadata]
        missing = [one for one in needed if not name or (held and one not in held[0])]
        if missing:
            yield source.finding(
                "error",
                "keda-authentication",
                (*at, "metadata", "authModes"),
                f"authModes {mode} needs {' and '.join(missing)}, "
                + (
                    f"which {kind} {name} does not give."
                    if name
                    else "and the trigger has no authenticationRef."
                ),
                "KEDA cannot build the trigger: it is not Ready, there is no HPA, and nothing scales.",
                f"Give {' and '.join(missing)} by a TriggerAuthentication, or leave authModes out, as with a pod identity.",
            )


def _parameters(value: object) -> Iterator[str]:
    """The parameters that a TriggerAuthentication gives, from wherever it has them."""
    for key, part in mapping(value).items():
        if key == "parameter":
            yield str(part)
        for each in (part, *items(part)):
            yield from _parameters(each)


def _of_all_pods(name: str) -> str:
    """A query that makes one number of a series of every pod."""
    if name.endswith("_bucket"):
        return f"histogram_quantile(0.95, sum by (le) (rate({name}{{...}}[5m])))"
    grows = name.endswith("_total") or counts_up(re.sub("^vllm_", "vllm:", name))
    return f"sum(rate({name}{{...}}[2m]))" if grows else f"sum({name}{{...}})"


# --- the series ------------------------------------------------------------------------------------------------------


def _counter(scaler: Scaler, path: Path, selector: Selector) -> Iterator[Finding]:
    rated = next((name for name in ("rate", "irate", "increase") if name in selector.inside), None)
    if rated and selector.of_engine and type_of(selector.colon_name) == "gauge":
        yield scaler.source.finding(
            "error",
            "gauge-with-rate",
            path,
            f"{selector.name} is a gauge, and {rated}() is of counters: it takes every fall for a restart.",
            "The answer follows how often the gauge moves, not how high it is: replicas come at the wrong times.",
            f"Write sum({selector.name}{{...}}), or avg_over_time of it.",
        )
    if selector.counts_up:
        yield scaler.source.finding(
            "error" if selector.of_engine else "warning",
            "counter-without-rate",
            path,
            f"{selector.name} is a counter, and nothing takes its rate.",
            "It only grows: replicas are added up to the maximum and never removed.",
            f"Write {_of_all_pods(selector.name)}.",
        )


def _selects(scaler: Scaler, path: Path, selector: Selector, server: VllmServer) -> Iterator[Finding]:
    """Whether the label matchers of a series fit the names that the pods will have."""
    owner = server.owner
    pods = {"LeaderWorkerSet": f"{owner.name}-0", "StatefulSet": f"{owner.name}-0"}
    pod = pods.get(owner.kind, f"{owner.name}-5d8f7c9b6d-x2x4z")
    truth = {
        "namespace": owner.namespace,
        "pod": pod,
        "container": str(server.container.get("name") or ""),
        "model_name": server.served[0] if len(server.served) == 1 else None,
    }
    for label, operator, wanted in selector.matchers:
        have = truth.get(label)
        if not have or "$" in wanted:  # a variable of envsubst or Helm
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
