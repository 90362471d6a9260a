"""What scales a fleet, one type for both: an HPA that somebody wrote, or a ScaledObject with the HPA that KEDA makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from analysis.errors import BadInput
from autoscale.hpa import HpaSpec, MetricTarget
from autoscale.keda import ScaledObject, parse_query
from autoscale.keda.cron import CronTrigger
from autoscale.keda.loops import Loops
from autoscale.keda.prometheus_trigger import PrometheusTrigger, TriggerValue
from autoscale.keda.queries import (
    SHARED_LABELS,
    Aggregation,
    Expression,
    Instant,
    OverWindow,
    QueryMatcher,
    origin_of,
    parts,
)
from autoscale.kube.gateway_names import gateway_metric
from autoscale.kube.selectors import Requirement
from autoscale.kube.vllm_names import exported_names, prometheus_name, series_of, signal_of
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.gateway import InferenceGateway
from autoscale.sim.fleet.metric_path import exported_signal
from autoscale.sim.fleet.signals.exports import LABELS

Scaler = HpaSpec | ScaledObject
MONDAY_S = 1_767_571_200.0  # 2026-01-05 00:00 UTC, where a simulation begins for what goes by the calendar
LOOKS = 500  # at a schedule


def read_scaler(profile: Profile, manifest: Mapping[str, Any]) -> Scaler:
    """The HPA or ScaledObject in `manifest`, checked against the profile's workload; its name does not matter (foreign_name).

    A minReplicas of 0 is taken as Kubernetes 1.37 takes it. Raises BadInput when the API server or KEDA would refuse the
    object, when it targets another kind of workload (the leaders' StatefulSet of a LeaderWorkerSet counts the same pods,
    but its scale is undone at once), or when it scales on a metric that the fleet does not export.
    """
    scaler: Scaler
    if manifest.get("kind") == "ScaledObject":
        scaler = ScaledObject.from_manifest(manifest)
    else:
        scaler = HpaSpec.from_manifest(dict(manifest), scale_to_zero=True)
    spec, deploy = hpa_of(scaler), profile.deploy
    if spec.target_kind != deploy.kind:
        raise BadInput(
            f"spec.scaleTargetRef.kind: the {_kind(scaler)} targets another kind of workload",
            value=f"{spec.target_kind}/{spec.target_name}",
            expected=f"a {deploy.kind} such as {deploy.name}, the workload of profile {profile.name}",
            next_step="choose the profile that it belongs to, or say deploy.kind in a profile of your own",
        )
    places = _places(scaler)
    for metric in spec.metrics:
        if metric.kind == "Pods":
            exported_signal(metric.name, profile.engine.vllm_version, places[metric.name])
            _refuse_parts_of_pods(metric, places[metric.name])
    for name, query in queries_of(scaler).items():
        read = list(series_in(query))
        for series in read:
            _refuse_absent(places[name], series, {each.name for each in read}, profile)
    return scaler


def _places(scaler: Scaler) -> dict[str, str]:
    """Metric name -> the field that says what is read for it."""
    if isinstance(scaler, HpaSpec):
        return {
            metric.name: f"spec.metrics[{index}].{metric.kind.lower()}.metric.name"
            for index, metric in enumerate(scaler.metrics)
        }
    return {
        trigger.metric_name: f"spec.triggers[{trigger.index}].metadata.query" for trigger in scaler.triggers
    }


def _refuse_absent(where: str, series: Instant | OverWindow, beside: set[str], profile: Profile) -> None:
    """A series that this vLLM does not export, or that no replica has with these labels: the query would answer nothing.

    `beside`: all names that the query reads; an older name may stand beside the newer one.
    """
    version, signal = profile.engine.vllm_version, signal_of(series.name)
    if origin_of(series.name) is None:
        raise BadInput(
            f"{where}: reads a series that nothing in this fleet exports",
            value=series.name,
            expected=f"one of {', '.join(exported_names(version))}, another series of vLLM, one of an inference gateway, "
            "or kube_deployment_status_replicas",
        )
    older = (
        signal is not None and series.name.startswith("vllm:") and series.name not in exported_names(version)
    )
    if older and prometheus_name(signal or "", version) not in beside:
        raise BadInput(
            f"{where}: reads a series that vLLM {version}, the profile's, does not export",
            value=series.name,
            next_step=f"use {prometheus_name(signal or '', version)}",
        )
    for matcher in series.matchers:
        if matcher.label not in SHARED_LABELS | LABELS and not matcher.takes(""):
            raise BadInput(
                f"{where}: selects {series.name} by a label that is not simulated",
                value=matcher.label,
                expected="none, or one that all replicas share, such as namespace, job, service or app",
                next_step="leave the label out where all replicas have it",
            )


def _kind(scaler: Scaler) -> str:
    return "HPA" if isinstance(scaler, HpaSpec) else "ScaledObject"


def foreign_name(profile: Profile, scaler: Scaler) -> str | None:
    """A note when the object (of read_scaler) scales a workload of another name than the profile's; else None."""
    deploy, spec = profile.deploy, hpa_of(scaler)
    if spec.target_name == deploy.name:
        return None
    return (
        f"{_kind(scaler)} {scaler.name} scales {spec.target_kind}/{spec.target_name}, and profile {profile.name} is of "
        f"{deploy.kind}/{deploy.name}: it is simulated on that profile's replicas; a profile of your own "
        f"(extends: {profile.name}) says deploy.name"
    )


def gate_note(scaler: Scaler) -> str | None:
    """A note when an HPA that somebody wrote goes to zero, which not every cluster allows; else None."""
    if not isinstance(scaler, HpaSpec) or scaler.min_replicas > 0:
        return None
    return f"HPA {scaler.name} has minReplicas 0: Kubernetes refuses it before 1.37 unless the gate HPAScaleToZero is on"


def clock_note(scaler: Scaler, begins_s: float, duration_s: float) -> str | None:
    """A note on the clock by which cron triggers go, and how much of the load falls into their windows; else None.

    The load begins `begins_s` after a Monday 00:00 UTC.
    """
    triggers = scaler.triggers if isinstance(scaler, ScaledObject) else ()
    crons = [trigger for trigger in triggers if isinstance(trigger, CronTrigger)]
    if not crons:
        return None
    began_s = MONDAY_S + begins_s
    looks_s = [began_s + duration_s * (look + 0.5) / LOOKS for look in range(LOOKS)]
    shares = [
        sum(isinstance(read, TriggerValue) and read.active for read in map(cron.value, looks_s)) / LOOKS
        for cron in crons
    ]
    windows = ", ".join(
        f"the window of spec.triggers[{cron.index}] is open for {share:.0%} of it"
        for cron, share in zip(crons, shares, strict=True)
    )
    return f"the load begins on {datetime.fromtimestamp(began_s, UTC):%A %Y-%m-%d %H:%M} UTC: {windows}"


def hpa_of(scaler: Scaler) -> HpaSpec:
    """The HPA at work: the scaler itself, or the one that KEDA makes of it."""
    if isinstance(scaler, HpaSpec):
        return scaler
    spec = Loops.started(scaler, 0.0).hpa
    if spec is None:
        raise BadInput(
            f"metadata.annotations: ScaledObject {scaler.name} is paused: KEDA has deleted its HPA and nothing scales",
            next_step="remove the annotation autoscaling.keda.sh/paused, or simulate --static instead",
        )
    return spec


def least_replicas(scaler: Scaler) -> int:
    """The smallest size that the scaler leaves: an idle count, or the minimum."""
    if isinstance(scaler, HpaSpec):
        return scaler.min_replicas
    idle = scaler.idle_replica_count
    return scaler.min_replicas if idle is None else idle


def queries_of(scaler: Scaler) -> dict[str, Expression]:
    """Metric name -> the query behind it, of External and Object metrics; those of cron triggers have none."""
    if isinstance(scaler, HpaSpec):
        return {metric.name: _by_name(metric) for metric in scaler.metrics if metric.kind != "Pods"}
    places = _places(scaler)
    return {
        trigger.metric_name: parse_query(trigger.query, places[trigger.metric_name])
        for trigger in scaler.triggers
        if isinstance(trigger, PrometheusTrigger)
    }


def check_gateway(scaler: Scaler, gateway: InferenceGateway | None) -> None:
    """Raises BadInput when a query reads what only an inference gateway exports, and there is none."""
    if gateway is not None:
        return
    places = _places(scaler)
    for name, query in queries_of(scaler).items():
        for series in series_in(query):
            if gateway_metric(series.name):
                raise BadInput(
                    f"{places[name]}: reads a series that only an inference gateway exports",
                    value=series.name,
                    next_step="switch the gateway on with --gateway",
                )


def series_in(expression: Expression) -> Iterator[Instant | OverWindow]:
    """The series that a query reads, in the order in which they are written."""
    if isinstance(expression, Instant | OverWindow):
        yield expression
    for part in parts(expression):
        yield from series_in(part)


def _by_name(metric: MetricTarget) -> Expression:
    """The sum of the series that a metrics API serves under the name of an HPA's metric."""
    return Aggregation(
        "sum", Instant(series_of(metric.name) or metric.name, tuple(map(_matcher, metric.terms)))
    )


def _matcher(term: Requirement) -> QueryMatcher:
    """A term of a label selector as adapters hand it to Prometheus."""
    joined = "|".join(map(re.escape, term.values))
    match term.operator:
        case "Equals":
            return QueryMatcher(term.key, "=", term.values[0])
        case "In":
            return QueryMatcher(term.key, "=~", joined)
        case "NotIn":
            return QueryMatcher(term.key, "!~", joined)
        case "Exists":
            return QueryMatcher(term.key, "=~", ".+")
    return QueryMatcher(term.key, "=", "")


def _refuse_parts_of_pods(metric: MetricTarget, place: str) -> None:
    """The selector of a Pods metric may only name what all of a fleet's series share: each pod shows its whole gauge."""
    for term in metric.terms:
        if term.key.rsplit(".", 1)[-1] not in SHARED_LABELS:
            raise BadInput(
                f"{place.removesuffix('name')}selector: selects series by a label that is not simulated",
                value=term.text,
                expected=f"none, or one of {', '.join(sorted(SHARED_LABELS))}",
            )
