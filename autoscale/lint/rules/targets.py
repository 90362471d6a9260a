"""Rules on the targets of scalers: values that cannot be reached, and totals or means that are divided wrongly.

| metric and target | desired replicas (before tolerance) |
|---|---|
| Pods AverageValue | ceil(mean over the pods / target x pods) |
| Object, External or KEDA AverageValue | ceil(value / target), however many pods there are |
| Object, External or KEDA Value | ceil(value / target x ready pods) |

Source: kubernetes pkg/controller/podautoscaler/replica_calculator.go. So a total over the pods goes with AverageValue, a
level (a mean, a maximum, a percentile) with Value.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from autoscale.hpa import format_milli
from autoscale.kube.objects import items, mapping
from autoscale.kube.quantity import milli_or_none
from autoscale.kube.scaler import DEFAULT_TOLERANCE
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding
from autoscale.lint.parts import VllmServer
from autoscale.lint.scalers import Metric, Scaler, behavior_of

DEFAULT_SEATS = 1024  # vLLM's largest default of --max-num-seqs, on H100-class chips
RESOURCES = ("cpu", "memory")  # what a metrics server measures of a pod
ROUNDS = 4  # a queue of so many times the seats waits for as many generations: no client does

# limit of the engine in a recommendation -> its flag, and vLLM's defaults, which are not written down
MEASURED = {
    "max_num_seqs": ("max-num-seqs", (256, DEFAULT_SEATS)),
    "max_num_batched_tokens": ("max-num-batched-tokens", (2048, 8192, 16384)),
    "block_size": ("block-size", (16,)),
    "num_blocks": ("num-gpu-blocks-override", None),  # None: by memory, unless it is given
}


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on the metrics and targets of every HPA and ScaledObject."""
    for scaler in facts.scalers:
        yield from _targets(scaler, facts)
        for server in facts.servers_by_owner.get(scaler.key, ()):
            yield from _of_another_system(server, facts)
            yield from _as_measured(server, facts)
        for metric in scaler.metrics:
            yield from _divided(scaler, metric, facts)
            yield from _whose(scaler, metric, facts)


def _targets(scaler: Scaler, facts: Facts) -> Iterator[Finding]:
    servers = facts.servers_by_owner.get(scaler.key, [])
    server = servers[0] if servers else None
    if not scaler.metrics and scaler.source.api == "autoscaling/v2":
        yield scaler.source.finding(
            "error",
            "no-metrics",
            ("spec",),
            "No metric is given.",
            "An API server scales on 80 % CPU instead, which says nothing about a queue on an accelerator.",
            "Scale on vllm:num_requests_waiting or vllm:kv_cache_usage_perc.",
        )
    for metric in scaler.metrics:
        hpa_resource = metric.kind in ("Resource", "ContainerResource")
        if hpa_resource and metric.name not in RESOURCES:
            yield scaler.source.finding(
                "error",
                "resource-unknown",
                metric.path,
                f"{metric.name or 'a resource'} is no metric of metrics.k8s.io, which has {' and '.join(RESOURCES)} alone.",
                "The HPA never reads it: it adds no replica by it, and with other metrics beside it removes none.",
                "Serve the gauge through a metrics adapter, and scale on it as a Pods metric.",
            )
        elif metric.route == "resource" and server:
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


def _target(scaler: Scaler, metric: Metric, server: VllmServer | None) -> Iterator[Finding]:
    value, engines = round((metric.milli or 0) / metric.factor), server.engines if server else 1
    shown = format_milli(metric.milli or 0)
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

    if (metric.milli or 0) <= 0 and scaler.source.kind == "ScaledObject":
        yield never("The threshold is 0.", "Write a threshold above 0.")
        return
    if metric.signal == "kv_usage" and value > 0:
        summed = engines if metric.route == "stackdriver" else 1
        end = f"{summed * metric.factor:g}"
        if value > 2000 * summed and value <= 100_000 * summed and metric.factor == 1:
            yield never(
                f"KV target {shown} is a percentage; the metric is a fraction from 0 to {end}.",
                f"Write {_written(scaler, metric, max(1, value // 100))}.",
                "target-percentage",
            )
        elif value * factor >= 1000 * summed:
            more = f" over {summed} engines" if summed > 1 else ""
            least, such = (
                _written(scaler, metric, milli) for milli in (int(1000 * summed / factor), 700 * summed)
            )
            yield never(
                f"KV target {shown}: usage ends at {end}{more}, and scale-out needs more than {factor:g} x target.",
                f"Write less than {least}, such as {such}.",
            )
    if metric.signal == "running" and value > 0:
        given = server.number("max-num-seqs") if server else None
        seats = (given or DEFAULT_SEATS) * engines
        if value * factor >= seats * 1000:
            known = f"--max-num-seqs {given}" if given else f"vLLM's largest default, {DEFAULT_SEATS}"
            yield never(
                f"Running target {shown}: {known} is all that runs, and scale-out needs more than {factor:g} x target.",
                f"Write less than {_written(scaler, metric, int(seats * 1000 / factor))}.",
            )
    if metric.signal == "waiting" and value > 0:
        yield from _queue(scaler, metric, server, value)


def _written(scaler: Scaler, metric: Metric, milli: int) -> str:
    """A value of the signal as it is written in the target: KEDA takes decimals, an HPA quantities."""
    there = round(milli * metric.factor)
    return f"{there / 1000:g}" if scaler.source.kind == "ScaledObject" else format_milli(there)


def _queue(scaler: Scaler, metric: Metric, server: VllmServer | None, value: int) -> Iterator[Finding]:
    """A queue target so long that its requests give up before the server is as busy, or within one request."""
    shown = format_milli(metric.milli or 0)
    given = server.number("max-num-seqs") if server else None
    seats = (given or DEFAULT_SEATS) * (server.engines if server else 1)
    rounds = ROUNDS if given else 1
    if value > seats * rounds * 1000:
        yield scaler.source.finding(
            "warning",
            "target-queue-unreached",
            metric.target_path,
            f"Waiting target {shown} with {seats} seats"
            + (f" (--max-num-seqs {given})." if given else ", vLLM's largest default."),
            f"The last in such a queue waits for {value / 1000 / seats:.0f} generations one after the other: clients "
            "give up before a replica is added.",
            f"Write a target well below the seats, such as {max(2, seats // 20)}, by `autoscale recommend`.",
        )
    if value <= 1000 and metric.kind != "External":
        yield scaler.source.finding(
            "warning",
            "target-inside-one-request",
            metric.target_path,
            f"Waiting target {shown}: queues are whole numbers and the tolerance is {DEFAULT_TOLERANCE:g}.",
            "The queue jumps past [0.9, 1.1] x target with one request: replicas flap.",
            "Choose 2 or more, by `autoscale recommend`.",
        )


def _tolerance_up(scaler: Scaler) -> float:
    given = milli_or_none(mapping(behavior_of(scaler.source)[1].get("scaleUp")).get("tolerance"))
    return DEFAULT_TOLERANCE if given is None else given / 1000


# --- totals and levels -----------------------------------------------------------------------------------------------


def _divided(scaler: Scaler, metric: Metric, facts: Facts) -> Iterator[Finding]:
    """A level that is divided by the replicas once more, and a total that is multiplied by them."""
    if metric.kind in ("Pods", "Resource", "ContainerResource") or metric.milli is None or metric.milli <= 0:
        return
    shape = facts.shape_of(metric)
    if shape == "level" and metric.target_type == "AverageValue":
        yield _mean_divided(scaler, metric)
    added = (
        metric.route == "stackdriver" and metric.kind == "External"
    )  # the HPA adds the series of an answer
    level = metric.signal in ("waiting", "running")
    total = shape == "total" or (added and level)
    if metric.query is None and metric.target_type == "Value" and (total or (shape == "unknown" and level)):
        shown = format_milli(metric.milli)
        yield scaler.source.finding(
            "error" if total else "warning",
            "target-value-multiplies",
            (*metric.target_path[:-1], "type"),
            f"target.type Value multiplies: desired = ceil({metric.name} / {shown} x ready pods).",
            f"While the total stays above {shown} every sync multiplies the replicas, up to the maximum; "
            "below it divides them.",
            f"Write type: AverageValue with averageValue: '{shown}', what one replica should have.",
        )


def _mean_divided(scaler: Scaler, metric: Metric) -> Finding:
    shown = f"{(metric.milli or 0) / 1000:g}"
    others = [m for m in scaler.metrics if m is not metric and m.target_type != "" and m.route != "resource"]
    if metric.signal == "kv_usage":
        end, most = f"{metric.factor:g}", ceil(1000 * metric.factor / (metric.milli or 1))
        limit = (
            f"Usage ends at {end}, so it never asks for more than ceil({end} / {shown}) = {most} replicas."
        )
    else:
        limit = f"A value of {shown} per replica asks for 1 replica, twice as much for 2, also when 8 are running."
    where = (*metric.path[:3], "metricType") if metric.query else (*metric.target_path[:-1], "type")
    return scaler.source.finding(
        "warning" if others else "error",
        "mean-divided",
        where,
        f"AverageValue divides a mean or percentile once more: desired = ceil(value / {shown}), "
        "however many replicas run.",
        limit,
        "Write metricType: Value, or sum instead of the mean."
        if metric.query
        else "Write type: Value, or serve a sum.",
    )


def _whose(scaler: Scaler, metric: Metric, facts: Facts) -> Iterator[Finding]:
    """An External metric without a selector is everything of that name."""
    if metric.kind != "External":
        return
    source = mapping(mapping(items(scaler.source.spec.get("metrics"))[int(metric.path[2])]).get("external"))
    rule = facts.rule_of(metric)
    narrowed = rule is not None and ('="' in rule.template or "=~" in rule.template)
    if not mapping(mapping(source.get("metric")).get("selector")) and not narrowed:
        everything = (
            "every cluster and namespace of the project" if "|" in metric.name else "every model of that name"
        )
        yield scaler.source.finding(
            "warning",
            "external-no-selector",
            (*metric.path[:-1], "selector"),
            f"External metric {metric.name} has no selector: the name alone chooses the series.",
            f"The series of {everything} are added up: another model's load scales this one.",
            "Add metric.selector.matchLabels that only this model's series carry.",
        )


def _of_another_system(server: VllmServer, facts: Facts) -> Iterator[Finding]:
    """A target is of one model on one accelerator."""
    nodes, selected = (
        mapping(facts.measured.get("node_selector")),
        mapping(server.template.spec.get("nodeSelector")),
    )
    told = [
        (f"nodes with {label}", nodes[label], selected[label])
        for label in nodes
        if "accelerator" in label and label in selected
    ]
    if server.model and not server.model.startswith(("/", "$", ".")) and facts.measured.get("model"):
        told.insert(0, ("model", facts.measured["model"], server.model))
    for what, recommended, here in told:
        if recommended != here:
            yield server.owner.finding(
                "error",
                "of-another-system",
                server.path,
                f"The recommendation is for {what} {recommended}, and here it is {here}.",
                "Its target, bounds and windows say nothing of this server.",
                "Take this system's recommendation, or measure it and run `autoscale recommend` on that run.",
            )
            return


def _as_measured(server: VllmServer, facts: Facts) -> Iterator[Finding]:
    """A target holds for the server that was measured: its seats, token budget and blocks."""
    for name, (flag, defaults) in MEASURED.items():
        measured, given = facts.measured.get(name), server.number(flag)
        if not isinstance(measured, int) or given == measured:
            continue
        if given is None and (defaults is None or measured in defaults):
            continue
        yield server.owner.finding(
            "warning",
            "not-as-measured",
            server.path,
            f"The recommendation is for a server with {name} {measured}; "
            + (f"--{flag} is {given} here." if given is not None else f"--{flag} is not given here."),
            "Target and forecast hold for another server: replicas come too early or too late.",
            f"Pass --{flag} {measured}, or measure this server and run `autoscale recommend` on that run.",
        )
