"""Rules on one scaler: what an API server refuses, and targets and limits that cannot do what they should."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from analysis.errors import BadInput
from autoscale.deploy.lint_facts import Facts
from autoscale.deploy.lint_parts import Metric, Path, Scaler, Server, matches, milli
from autoscale.deploy.lint_report import Finding, Key, items, mapping
from autoscale.deploy.workload import LWS_API
from autoscale.hpa import format_milli, parse_quantity
from autoscale.hpa.manifest import stored_spec

DEFAULT_SEATS = 1024  # vLLM's largest default of --max-num-seqs, on H100-class chips
TOLERANCE = 0.1  # the controller manager's flag
API_GROUPS = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "LeaderWorkerSet": LWS_API,
}


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every HPA and ScaledObject."""
    by_target: dict[tuple[str, str, str], list[Scaler]] = {}
    for scaler in facts.scalers:
        yield from _refused(scaler)
        yield from _reference(scaler)
        yield from _bounds(scaler)
        yield from _targets(scaler, facts)
        if not _made_by_keda(scaler):
            by_target.setdefault(scaler.key, []).append(scaler)
    for same in by_target.values():
        names = sorted({s.source.name for s in same})
        shown = " and ".join(names[:3]) + (" and others" if len(names) > 3 else "")
        for scaler in same[1:] if len({(s.source.kind, s.source.name) for s in same}) > 1 else []:
            yield scaler.source.finding(
                "error",
                "two-scalers-one-target",
                scaler.target_path,
                f"{scaler.kind} {scaler.name} is scaled by {shown}.",
                "Both HPAs report AmbiguousSelector and nothing scales.",
                "Keep one HPA and put all its metrics there.",
            )
    yield from _overlapping(facts)


# --- what the API server refuses -------------------------------------------------------------------------------------


def _refused(scaler: Scaler) -> Iterator[Finding]:
    source = scaler.source
    if source.kind == "ScaledObject":
        yield from _keda_behavior(scaler)
        return
    if source.api != "autoscaling/v2":
        old = source.api in ("autoscaling/v2beta1", "autoscaling/v2beta2")
        yield source.finding(
            "error",
            "hpa-api-version",
            ("apiVersion",),
            f"apiVersion {source.api or 'missing'}: custom metrics need autoscaling/v2.",
            "API servers removed it." if old else "Only CPU is scaled on: vLLM's queue is never read.",
            "Write apiVersion: autoscaling/v2.",
        )
        return
    try:
        stored_spec({**source.object, "metadata": source.metadata})
    except BadInput as refused:
        sentence = str(refused)
        code, severity, fix = _refusal(sentence, scaler)
        yield source.finding(
            severity,  # type: ignore[arg-type]  # one of the severities
            code,
            _field(sentence),
            sentence + ("" if sentence.endswith(".") else "."),
            "An API server refuses the object: nothing scales."
            if severity == "error"
            else "Servers without the HPAScaleToZero gate (on from 1.37) refuse the object.",
            fix,
        )


def _refusal(sentence: str, scaler: Scaler) -> tuple[str, str, str]:
    """Code, severity and fix for a sentence of the API server's rules."""
    if sentence.startswith("spec.minReplicas") and scaler.low == 0:
        wakes = any(metric.kind in ("Object", "External") for metric in scaler.metrics)
        fix = "Write minReplicas: 1, or scale on an Object or External metric with the gate on."
        return "min-replicas-zero", "warning" if wakes else "error", fix
    if "stabilizationWindowSeconds" in sentence or "periodSeconds" in sentence:
        return "behavior-limit", "error", "Windows end at 3600 s, policy periods at 1800 s."
    if "must be positive" in sentence and "target" in sentence:
        return "target-never-fires", "error", "Write a target above 0, such as '5' or 504m."
    return "api-refused", "error", "Correct the field."


def _field(sentence: str) -> tuple[Key, ...]:
    """The path that a refusal names at its start."""
    found = re.search(r'(?:unknown field ")?((?:spec|metadata|kind|apiVersion)[\w.\[\]]*)', sentence)
    parts = re.findall(r"[^.\[\]]+", found[1].rstrip(".")) if found else []
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _keda_behavior(scaler: Scaler) -> Iterator[Finding]:
    """KEDA writes the behavior block into an HPA: the same limits hold."""
    path: Path = ("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior")
    value: Any = scaler.source.object
    for key in path:
        value = mapping(value).get(str(key))
    if not isinstance(value, dict):
        return
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"},
        "maxReplicas": 1,
        "behavior": value,
    }
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "x"},
        "spec": spec,
    }
    try:
        stored_spec(hpa)
    except BadInput as refused:
        code, _, fix = _refusal(str(refused), scaler)
        yield scaler.source.finding(
            "error",
            code,
            path,
            f"{refused}.".replace("..", "."),
            "KEDA cannot create its HPA: nothing scales.",
            fix,
        )


def _reference(scaler: Scaler) -> Iterator[Finding]:
    right = API_GROUPS.get(scaler.kind)
    if (
        right
        and scaler.api
        and scaler.api != right
        and not scaler.api.startswith("leaderworkerset.sigs.k8s.io")
    ):
        yield scaler.source.finding(
            "error",
            "target-api-version",
            (*scaler.target_path, "apiVersion"),
            f"{scaler.kind} is in {right}, not in {scaler.api}.",
            "The HPA reports FailedGetScale and never scales.",
            f"Write apiVersion: {right}.",
        )


def _bounds(scaler: Scaler) -> Iterator[Finding]:
    source, keda = scaler.source, scaler.source.kind == "ScaledObject"
    if not keda and scaler.low == scaler.high > 0:
        yield source.finding(
            "warning",
            "nothing-to-scale",
            ("spec", "maxReplicas"),
            f"minReplicas and maxReplicas are both {scaler.low}.",
            "The HPA can never change the number of replicas.",
            "Raise maxReplicas, or delete the HPA.",
        )
    if not keda:
        return
    if scaler.low == 0 and "idleReplicaCount" not in source.spec:
        yield source.finding(
            "error",
            "min-replicas-zero",
            ("spec", "minReplicaCount"),
            "minReplicaCount is 0, which is also KEDA's default.",
            "At 0 replicas no pod exports the metric: nothing wakes the model up, and a start takes long.",
            "Write minReplicaCount: 1.",
        )
    if scaler.high < max(1, scaler.low):
        yield source.finding(
            "error",
            "api-refused",
            ("spec", "maxReplicaCount"),
            f"maxReplicaCount {scaler.high} is below minReplicaCount {scaler.low}.",
            "KEDA refuses the object: nothing scales.",
            "Write maxReplicaCount of at least minReplicaCount.",
        )


# --- targets ---------------------------------------------------------------------------------------------------------


def _targets(scaler: Scaler, facts: Facts) -> Iterator[Finding]:
    servers = facts.servers_by_owner.get(scaler.key, [])
    server = servers[0] if servers else None
    if not scaler.metrics and scaler.source.api in ("autoscaling/v2", "keda.sh/v1alpha1"):
        yield scaler.source.finding(
            "error",
            "no-metrics",
            ("spec",),
            "No metric is given.",
            "An API server scales on 80 % CPU instead, which says nothing about a queue on an accelerator.",
            "Scale on vllm:num_requests_waiting or vllm:kv_cache_usage_perc.",
        )
    for metric in scaler.metrics:
        if metric.route == "resource" and server:
            yield scaler.source.finding(
                "warning",
                "cpu-metric",
                metric.path,
                f"{metric.name or 'a resource'} is the metric of a vLLM server.",
                "CPU and memory do not follow the load of an accelerator: it scales at the wrong times.",
                "Scale on vllm:num_requests_waiting, running or kv_cache_usage_perc.",
            )
        if metric.route == "external" and metric.name != metric.name.lower():
            yield scaler.source.finding(
                "error",
                "external-metric-capitals",
                metric.path,
                f"External metric {metric.name} has capitals.",
                "The metrics API lower-cases External names: the metric is never found.",
                "Serve it under a lower-case name.",
            )
        if metric.milli is not None:
            yield from _target(scaler, metric, server)


def _target(scaler: Scaler, metric: Metric, server: Server | None) -> Iterator[Finding]:
    value, engines = metric.milli or 0, server.engines if server else 1
    shown = format_milli(value)
    factor = 1 + _tolerance_up(scaler)

    def never(problem: str, fix: str, code: str = "target-never-fires") -> Finding:
        return scaler.source.finding(
            "error",
            code,
            metric.target_path,
            problem,
            "The metric cannot reach it: scale-out never happens.",
            fix,
        )

    if value <= 0 and scaler.source.kind == "ScaledObject":
        yield never("The threshold is 0.", "Write a threshold above 0.")
        return
    if metric.signal == "kv_usage" and value > 0:
        summed = engines if metric.route == "stackdriver" else 1
        if value > 2000 * summed and value <= 100_000 * summed:
            fraction = format_milli(max(1, value // 100))
            yield never(
                f"KV target {shown} is a percentage; the metric is a fraction from 0 to {summed}.",
                f"Write {fraction}.",
                "target-percentage",
            )
        elif value * factor >= 1000 * summed:
            more = f" over {summed} engines" if summed > 1 else ""
            yield never(
                f"KV target {shown}: usage ends at {summed}{more}, and scale-out needs more than {factor:g} x target.",
                f"Write less than {format_milli(int(1000 * summed / factor))}, such as {format_milli(700 * summed)}.",
            )
    if metric.signal == "running" and value > 0:
        given = server.number("max-num-seqs") if server else None
        seats = (given or DEFAULT_SEATS) * engines
        if value * factor >= seats * 1000:
            known = f"--max-num-seqs {given}" if given else f"vLLM's largest default, {DEFAULT_SEATS}"
            yield never(
                f"Running target {shown}: {known} is all that runs, and scale-out needs more than {factor:g} x target.",
                f"Write less than {format_milli(int(seats * 1000 / factor))}.",
            )
    if metric.signal == "waiting" and 0 < value <= 1000 and metric.kind != "External":
        yield scaler.source.finding(
            "warning",
            "target-inside-one-request",
            metric.target_path,
            f"Waiting target {shown}: queues are whole numbers and the tolerance is {TOLERANCE:g}.",
            "The queue jumps past [0.9, 1.1] x target with one request: replicas flap.",
            "Choose 2 or more, by `autoscale recommend`.",
        )


def _tolerance_up(scaler: Scaler) -> float:
    behavior = mapping(scaler.source.spec.get("behavior"))
    given = mapping(behavior.get("scaleUp")).get("tolerance")
    if given is None:
        return TOLERANCE
    value = milli(given)
    return TOLERANCE if value is None else float(parse_quantity(given).value)


# --- several scalers -------------------------------------------------------------------------------------------------


def _made_by_keda(scaler: Scaler) -> bool:
    owners = map(mapping, items(scaler.source.metadata.get("ownerReferences")))
    return any(owner.get("kind") == "ScaledObject" for owner in owners)


def _overlapping(facts: Facts) -> Iterator[Finding]:
    """Two scaled workloads whose selectors choose the same pods."""
    scaled = [
        (scaler, templates[0])
        for scaler in facts.scalers
        if scaler.kind in ("Deployment", "StatefulSet", "ReplicaSet")
        and (templates := facts.templates_by_owner.get(scaler.key))
    ]
    by_labels: dict[tuple[str, str, str], list[tuple[Scaler, Any]]] = {}
    for scaler, template in scaled:
        for key, value in template.labels.items():
            by_labels.setdefault((template.owner.namespace, key, str(value)), []).append((scaler, template))
    for scaler, template in scaled:
        selector = mapping(template.owner.spec.get("selector"))
        wanted = list(mapping(selector.get("matchLabels")).items())
        if not wanted:
            continue
        near = by_labels.get((template.owner.namespace, str(wanted[0][0]), str(wanted[0][1])), [])
        for other, pods in near[:50]:
            if pods.owner.name != template.owner.name and matches(selector, pods.labels):
                yield scaler.source.finding(
                    "error",
                    "overlapping-selectors",
                    scaler.target_path,
                    f"{scaler.name}'s selector also selects the pods of {other.name}.",
                    "Both HPAs report AmbiguousSelector and nothing scales.",
                    "Give each workload a label of its own.",
                )
                break
