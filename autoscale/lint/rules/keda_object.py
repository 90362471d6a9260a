"""Rules on a ScaledObject as a whole: what KEDA refuses, its way to zero and back, its fallback, what pauses it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoscale.keda.cron import CronTrigger
from autoscale.keda.fallback import has_valid_fallback
from autoscale.keda.metadata import boolean
from autoscale.keda.prometheus_trigger import QueryFailed
from autoscale.keda.refusal import KedaRefusal
from autoscale.keda.scaled_object import FORCED, PAUSED, PAUSED_IN, PAUSED_OUT, PAUSED_REPLICAS, ScaledObject
from autoscale.keda.schema import decoded_object
from autoscale.kube.endpoint_picker import REQUEST_TTL_S
from autoscale.kube.objects import mapping
from autoscale.lint.as_keda_reads import as_keda_reads, judged_by_the_crd
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding, Located
from autoscale.lint.parts import Path, whole_number
from autoscale.lint.rules.hpa import named_field
from autoscale.lint.scalers import Scaler, formula_of
from autoscale.lint.waking import OTHER_ENGINES, activation_of, needs_two, saturation_of_none, wakes_at_zero

NIL = "scalingModifiers"  # the fallback by which a failing trigger is nil for the formula


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every ScaledObject."""
    for scaler in facts.scalers:
        if scaler.source.kind == "ScaledObject":
            scaled, refusals = _judged(scaler.source)
            yield from refusals
            if scaled is not None:
                yield from _time_zones(scaler, scaled)
                yield from _fallback(scaler, scaled)
            yield from _bounds(scaler)
            yield from _zero(scaler)
            yield from _paused(scaler)


# --- refused ---------------------------------------------------------------------------------------------------------


def _judged(source: Located) -> tuple[ScaledObject | None, list[Finding]]:
    """The object as KEDA reads it, or what an API server or KEDA refuses; other rules speak of behavior, of bounds, of
    numbers for text and of a trigger's address, query and threshold."""
    try:
        decoded_object(judged_by_the_crd(source))
    except KedaRefusal as refusal:
        if source.metadata.get("resourceVersion") or source.metadata.get("uid"):
            return None, []  # a cluster holds it: a field that is not known here is of a newer KEDA
        unknown = refusal.problem.startswith("unknown field")
        consequence = (
            "kubectl refuses it; a client that does not validate drops it, and its value counts for nothing."
            if unknown
            else "The API server refuses the object: nothing scales."
        )
        return None, _refusal(source, refusal, consequence)
    consequence = "KEDA refuses the object: it is not Ready, there is no HPA, and nothing scales."
    try:
        return as_keda_reads(source), []
    except KedaRefusal as refusal:
        return None, _refusal(source, refusal, consequence)


def _refusal(source: Located, refusal: KedaRefusal, consequence: str) -> list[Finding]:
    of_bounds = ("less than or equal to maxReplicaCount", "must be less than MaxReplicaCount")
    if any(words in refusal.problem for words in of_bounds) or "$" in str(refusal):
        return []  # another rule's, or a variable that is put in later
    unknown = refusal.problem.startswith("unknown field")
    given = "" if refusal.value is None else f": {refusal.value!r}"
    of_idle = "Write a minReplicaCount above it." if refusal.field == "spec.idleReplicaCount" else ""
    fix = (
        refusal.next_step
        or of_idle
        or (f"Write {refusal.expected}." if refusal.expected else "Correct the field.")
    )
    annotation = refusal.field.removeprefix("metadata.annotations.")
    return [
        source.finding(
            "error",
            "api-refused",
            named_field(f"{refusal.field} ")
            if annotation == refusal.field
            else ("metadata", "annotations", annotation),
            f"{refusal.field} is no field of a ScaledObject."
            if unknown
            else f"{refusal.field}: {'; '.join(refusal.problem.splitlines())}{given}.",
            consequence,
            fix[:1].upper() + fix[1:] + ("" if fix[-1] in ".?" else "."),
        )
    ]


# --- triggers that fail ----------------------------------------------------------------------------------------------


def _time_zones(scaler: Scaler, scaled: ScaledObject) -> Iterator[Finding]:
    for trigger in scaled.triggers:
        if isinstance(trigger, CronTrigger) and isinstance(trigger.value(0.0), QueryFailed):
            yield scaler.source.finding(
                "error",
                "keda-time-zone",
                ("spec", "triggers", trigger.index, "metadata", "timezone"),
                f"No time zone is called {trigger.timezone!r}.",
                "KEDA cannot read the schedule: its replicas never come, and "
                + ("the HPA removes none" if len(scaled.triggers) > 1 else "nothing scales")
                + ".",
                "Write a name of the tz database, such as Europe/Berlin or Etc/UTC.",
            )


def _fallback(scaler: Scaler, scaled: ScaledObject) -> Iterator[Finding]:
    """A fallback that KEDA never uses, and a formula that waits for a nil which never comes."""
    fallback, modifiers = scaled.fallback, scaled.modifiers
    if modifiers is None:
        return
    place: Path = ("spec", "advanced", "scalingModifiers")
    if fallback is not None and not has_valid_fallback(scaled):
        yield scaler.source.finding(
            "warning",
            "keda-fallback-off",
            (*place, "target"),
            f"The formula's target is {modifiers.target!r}, and KEDA takes a fallback only beside a whole number.",
            "The fallback counts for nothing: while a query fails, the size stays as it is.",
            "Write a whole number, and multiply the formula to fit: target '15' for ten times the value.",
        )
    elif "??" in modifiers.formula.text and (fallback is None or fallback.behavior != NIL):
        behavior = "there is no fallback" if fallback is None else f"fallback.behavior is {fallback.behavior}"
        yield scaler.source.finding(
            "warning",
            "keda-fallback-off",
            (*place, "formula"),
            f"?? in the formula stands for a trigger that fails, and {behavior}.",
            "The formula never sees nil: while any trigger fails, "
            + (
                "the size stays as it is."
                if fallback is None
                else f"the fallback of {fallback.replicas} replicas takes the place of the whole formula."
            ),
            f"Write a fallback with behavior: {NIL}, or leave ?? out.",
        )


# --- bounds ----------------------------------------------------------------------------------------------------------


def _bounds(scaler: Scaler) -> Iterator[Finding]:
    source, low = scaler.source, max(1, scaler.low)
    if scaler.high < low:
        yield source.finding(
            "error",
            "api-refused",
            ("spec", "maxReplicaCount"),
            f"maxReplicaCount {scaler.high} is below minReplicaCount {scaler.low}.",
            "KEDA refuses the object: nothing scales.",
            "Write maxReplicaCount of at least minReplicaCount.",
        )
    idle = whole_number(source.spec.get("idleReplicaCount"))
    if idle is not None and 0 < idle < scaler.low:
        yield source.finding(
            "warning",
            "keda-idle-count",
            ("spec", "idleReplicaCount"),
            f"idleReplicaCount is {idle}; KEDA supports no other than 0.",
            f"The HPA lifts the workload to {scaler.low} at every sync and KEDA puts it back to {idle} at every quiet "
            "poll: replicas start and stop as long as no load comes.",
            f"Leave it out and write minReplicaCount: {idle}, or write idleReplicaCount: 0 with a trigger on a gateway's "
            "or router's queue.",
        )


# --- zero ------------------------------------------------------------------------------------------------------------


def _zero(scaler: Scaler) -> Iterator[Finding]:
    """Zero replicas need a trigger whose series is there without any pod, and is quiet without any request."""
    spec = scaler.source.spec
    idle = whole_number(spec.get("idleReplicaCount"))
    if (scaler.low if idle is None else idle) != 0:
        return
    if scaler.metrics and all(metric.route == "resource" for metric in scaler.metrics) and scaler.low == 0:
        yield scaler.source.finding(
            "error",
            "api-refused",
            ("spec", "minReplicaCount"),
            "minReplicaCount is 0, which is also KEDA's default, and all triggers are on cpu or memory.",
            "KEDA refuses the object, since such triggers are always active: nothing scales.",
            "Write minReplicaCount: 1, or add a trigger on a gateway's or router's queue.",
        )
        return
    if restless := next(_restless(scaler), None):
        yield restless
        return
    plain = formula_of(spec) is None
    wakes = [
        metric
        for metric in scaler.metrics
        if wakes_at_zero(metric, scaler.name) and not (plain and saturation_of_none(metric) is not None)
    ]
    if not wakes:
        yield _asleep(scaler, "minReplicaCount" if idle is None else "idleReplicaCount")
    elif plain and all(needs_two(spec, metric) for metric in wakes):
        yield scaler.source.finding(
            "warning",
            "keda-activation",
            (*wakes[0].path[:-1], "activationThreshold"),
            "activationThreshold is 1 or more for a number of requests, and KEDA wakes the workload above it.",
            "At 0 replicas a lone request waits until another comes, or is given up.",
            "Write activationThreshold: '0', or leave it out.",
        )
    every_s = whole_number(spec.get("pollingInterval"))
    if every_s is not None and every_s > REQUEST_TTL_S and any(metric.query for metric in wakes):
        yield scaler.source.finding(
            "warning",
            "keda-polling",
            ("spec", "pollingInterval"),
            f"pollingInterval is {every_s} s, and only a poll wakes the workload at 0 replicas.",
            f"The first request waits up to {every_s} s before a replica is even started; a gateway gives it up after "
            f"{REQUEST_TTL_S:g} s unless its TTL is set.",
            "Write pollingInterval: 15.",
        )


def _restless(scaler: Scaler) -> Iterator[Finding]:
    """Why KEDA takes the workload for active at 0 replicas, whatever the load."""
    source, spec = scaler.source, scaler.source.spec
    forced = mapping(source.metadata.get("annotations")).get(FORCED)
    if forced is not None and boolean(str(forced)) is not False:
        yield source.finding(
            "warning",
            "zero-never-stays",
            ("metadata", "annotations", FORCED),
            f"Annotation {FORCED} is {forced!r}.",
            "KEDA takes the workload for active at every poll: it never stays at 0 replicas.",
            "Delete the annotation, or write minReplicaCount: 1.",
        )
    if scaler.metrics and all(metric.route == "resource" for metric in scaler.metrics):
        yield source.finding(
            "error",
            "zero-never-stays",
            ("spec", "idleReplicaCount"),
            "idleReplicaCount is 0, and all triggers are on cpu or memory.",
            "Such triggers are always active: the workload never goes to 0 replicas.",
            "Leave idleReplicaCount out, or add a trigger on a gateway's or router's queue.",
        )
    for metric in scaler.metrics if formula_of(spec) is None else ():
        empty = saturation_of_none(metric)
        if empty is not None and activation_of(spec, metric) < empty:
            yield source.finding(
                "error",
                "zero-never-stays",
                metric.path,
                "The pool's saturation is a trigger of a workload that goes to 0 replicas.",
                "A pool without pods has saturation 1: KEDA takes it for active and starts a replica at the "
                "next poll, for ever.",
                "Write minReplicaCount: 1, or leave the trigger out.",
            )


def _asleep(scaler: Scaler, field: str) -> Finding:
    """No trigger wakes the workload: the finding says what its triggers read, and why that is silent."""
    read = [s for metric in scaler.metrics if metric.query for s in metric.query.selectors]
    foreign = bool(read) and all(s.name.startswith(OTHER_ENGINES) for s in read)
    silent = next((s.name for s in read if not s.of_engine), "")
    return scaler.source.finding(
        "warning" if foreign else "error",
        "min-replicas-zero",
        ("spec", field),
        "minReplicaCount is 0, which is also KEDA's default."
        if field == "minReplicaCount"
        else "idleReplicaCount is 0: KEDA takes the workload to no replica when it is idle.",
        (f"At 0 replicas {silent} is 0 or absent" if silent else "At 0 replicas no pod exports the metric")
        + ": nothing wakes the model up, and a start takes long.",
        ("Write minReplicaCount: 1" if field == "minReplicaCount" else "Leave idleReplicaCount out")
        + ", or add a trigger on a gateway's or router's queue.",
    )


# --- paused ----------------------------------------------------------------------------------------------------------


def _paused(scaler: Scaler) -> Iterator[Finding]:
    annotations = mapping(scaler.source.metadata.get("annotations"))
    for key in (PAUSED, PAUSED_REPLICAS, PAUSED_OUT, PAUSED_IN):
        given = str(annotations.get(key))
        says = re.fullmatch(r"[+-]?[0-9]+", given) if key == PAUSED_REPLICAS else boolean(given) is not False
        if key in annotations and says:
            yield scaler.source.finding(
                "warning",
                "keda-paused",
                ("metadata", "annotations", key),
                f"Annotation {key} is {annotations[key]!r}.",
                "No replica is removed, however little the load."
                if key == PAUSED_IN
                else "No replica is added, whatever the load.",
                "Delete the annotation when the work that needed it is done.",
            )
