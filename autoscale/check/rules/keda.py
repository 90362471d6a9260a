"""What KEDA says of the ScaledObject behind an HPA: ready, active, paused, fallen back, and the triggers that fail.

Source: kedacore/keda pkg/scaling/executor, pkg/fallback and apis/keda/v1alpha1 (2.20.2).
"""

from __future__ import annotations

from collections.abc import Iterator

from autoscale.check.snapshot import Snapshot
from autoscale.kube.objects import Object, conditions, items, mapping
from autoscale.kube.scaler import Hpa
from autoscale.lint.findings import Finding, Located

CONDITIONS = ("status", "conditions")


def rules(now: Snapshot, hpa: Hpa) -> Iterator[Finding]:
    """Findings on the ScaledObject that an HPA was made of; none for an HPA that somebody wrote."""
    if not hpa.made_by:
        return
    found = now.objects.get("scaledobjects", {}).get(hpa.made_by)
    if found is None:
        yield from _missing(now, hpa)
        return
    about = Located(found)
    told = conditions(found)
    yield from _ready(about, told.get("Ready", {}))
    yield from _paused(about, told.get("Paused", {}))
    yield from _fallback(about, told.get("Fallback", {}))
    yield from _active(about, hpa, told.get("Active", {}))
    yield from _failing(about)


def _missing(now: Snapshot, hpa: Hpa) -> Iterator[Finding]:
    if "scaledobjects" in now.unseen_plurals:
        yield Located(hpa.object).finding(
            "warning",
            "keda-object-not-seen",
            ("metadata", "ownerReferences"),
            f"KEDA made this HPA of ScaledObject {hpa.made_by}, which the check may not list: its triggers, pauses and "
            "its step to and from zero stay unknown",
            "",
            "grant get, list and watch on scaledobjects of keda.sh",
        )
        return
    yield Located(hpa.object).finding(
        "error",
        "keda-object-missing",
        ("metadata", "ownerReferences"),
        f"KEDA made this HPA of ScaledObject {hpa.made_by}, which is not there: KEDA answers none of its metrics",
        "",
        "apply the ScaledObject again, or delete this HPA",
    )


def _ready(about: Located, ready: Object) -> Iterator[Finding]:
    """Ready False: the object or every trigger fails; Unknown: some triggers do. True only says that the spec is valid."""
    reason, message = str(ready.get("reason") or ""), str(ready.get("message") or "")
    if ready.get("status") == "True" or not reason or reason == "Unknown":
        return
    broken = ready.get("status") == "False"
    consequence = "nothing scales" if broken else "it still scales up on the others, but never down"
    yield about.finding(
        "error" if broken else "warning",
        "keda-not-ready",
        CONDITIONS,
        f"KEDA says {reason} of ScaledObject {about.name}{': ' + message if message else ''}: {consequence}",
        "",
        "ask Prometheus the trigger's query itself; kubectl describe scaledobject and the logs of keda-operator name the cause",
        {"reason": reason, "message": message},
    )


def _paused(about: Located, paused: Object) -> Iterator[Finding]:
    if paused.get("status") != "True":
        return
    annotations = mapping(about.metadata.get("annotations"))
    keys = [key for key in annotations if key.startswith("autoscaling.keda.sh/paused")]
    yield about.finding(
        "warning",
        "keda-paused",
        CONDITIONS,
        f"KEDA has paused ScaledObject {about.name} ({', '.join(keys) or paused.get('reason')})",
        "No replica is added, whatever the load.",
        "delete the annotation when the work that needed it is done",
    )


def _fallback(about: Located, fallback: Object) -> Iterator[Finding]:
    if fallback.get("status") != "True":
        return
    replicas = mapping(about.spec.get("fallback")).get("replicas")
    yield about.finding(
        "warning",
        "keda-fallback",
        CONDITIONS,
        f"a trigger of ScaledObject {about.name} cannot be read: KEDA asks for the {replicas} replicas of its fallback, "
        "whatever the load",
        "",
        "repair the trigger's query or its Prometheus; a fallback also keeps the workload from going to zero",
        {"replicas": replicas},
    )


def _active(about: Located, hpa: Hpa, active: Object) -> Iterator[Finding]:
    """At zero replicas the HPA is at rest: what counts is whether a trigger is above its activation threshold."""
    if hpa.active_reason != "ScalingDisabled" or active.get("status") == "True":
        return
    yield about.finding(
        "note",
        "keda-at-zero",
        CONDITIONS,
        f"{hpa.target_kind}/{hpa.target_name} has 0 replicas, and KEDA sees no trigger above its activationThreshold "
        f"({_queries(about)})",
        "",
        "normal without load; the next poll after a request that a trigger counts starts a replica",
        {"reason": active.get("reason")},
    )


def _queries(about: Located) -> str:
    triggers = [mapping(trigger) for trigger in items(about.spec.get("triggers"))]
    return "; ".join(str(mapping(t.get("metadata")).get("query") or t.get("type")) for t in triggers)


def _failing(about: Located) -> Iterator[Finding]:
    """Triggers whose reads fail; KEDA counts them only where there is a fallback."""
    triggers = items(about.spec.get("triggers"))
    for name, entry in mapping(mapping(about.object.get("status")).get("health")).items():
        health = mapping(entry)
        if health.get("status") != "Failing":
            continue
        number = name[1:].partition("-")[0]
        index = int(number) if number.isdecimal() and int(number) < len(triggers) else None
        query = "" if index is None else mapping(mapping(triggers[index]).get("metadata")).get("query")
        yield about.finding(
            "error",
            "keda-trigger-failing",
            ("status", "health", name) if index is None else ("spec", "triggers", index),
            f"KEDA failed {health.get('numberOfFailures')} times in a row to read {name}{f', {query}' if query else ''}",
            "",
            "ask Prometheus that query: it must give one element",
            {"failures": health.get("numberOfFailures"), "query": query},
        )
