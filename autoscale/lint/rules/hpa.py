"""Rules on scalers themselves: what an API server refuses, bounds, what they scale, several in each other's way."""

from __future__ import annotations

import re
from collections.abc import Iterator

from analysis.errors import BadInput
from autoscale.hpa.manifest import stored_spec
from autoscale.kube.kinds import LWS_API, LWS_NAME, SCALABLE
from autoscale.kube.objects import mapping
from autoscale.kube.scaler import Hpa
from autoscale.kube.selectors import object_selects
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding, Key, Located, Severity
from autoscale.lint.scalers import Scaler

MANY = 50  # workloads under one label; more are not compared
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
        yield from _workload(scaler, facts)
        if not Hpa(scaler.source.object).made_by:
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
        return  # lint.rules.keda_object
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
        code, severity, fix = refusal(sentence, scaler)
        yield source.finding(
            severity,
            code,
            named_field(sentence),
            sentence + ("" if sentence.endswith(".") else "."),
            "An API server refuses the object: nothing scales."
            if severity == "error"
            else "Servers without the HPAScaleToZero gate (on from 1.37) refuse the object.",
            fix,
        )


def refusal(sentence: str, scaler: Scaler) -> tuple[str, Severity, str]:
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


def named_field(sentence: str) -> tuple[Key, ...]:
    """The path that a refusal names at its start."""
    found = re.search(r'(?:unknown field ")?((?:spec|metadata|kind|apiVersion)[\w.\[\]]*)', sentence)
    parts = re.findall(r"[^.\[\]]+", found[1].rstrip(".")) if found else []
    return tuple(int(part) if part.isdigit() else part for part in parts)


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
    source = scaler.source
    if source.kind != "ScaledObject" and scaler.low == scaler.high > 0:
        yield source.finding(
            "warning",
            "nothing-to-scale",
            ("spec", "maxReplicas"),
            f"minReplicas and maxReplicas are both {scaler.low}.",
            "The HPA can never change the number of replicas.",
            "Raise maxReplicas, or delete the HPA.",
        )


def _workload(scaler: Scaler, facts: Facts) -> Iterator[Finding]:
    source, path = scaler.source, scaler.target_path
    group = _group_of(scaler, facts)
    if scaler.kind == "StatefulSet" and group:
        held = "the leaders" if group == scaler.name else "workers"
        yield source.finding(
            "error",
            "scales-leader-statefulset",
            (*path, "kind"),
            f"StatefulSet {scaler.name} holds {held} of LeaderWorkerSet {group}.",
            "The LeaderWorkerSet undoes every change at once: nothing scales.",
            "Target the LeaderWorkerSet (leaderworkerset.x-k8s.io/v1).",
        )
        return
    if not scaler.name or scaler.kind not in SCALABLE or scaler.key in facts.templates_by_owner:
        return
    elsewhere = facts.by_name(scaler.kind, scaler.name)
    if scaler.kind in facts.unseen or any(other.namespace == source.namespace for other in elsewhere):
        return
    orphans = [owner for owner in facts.unscaled if owner.namespace == source.namespace]
    if elsewhere:
        yield source.finding(
            "error",
            "target-namespace",
            ("metadata", "namespace"),
            f"{scaler.kind} {scaler.name} is in namespace {elsewhere[0].namespace}, this scaler in {source.namespace}.",
            "An HPA only finds targets in its own namespace: FailedGetScale.",
            f"Write namespace: {elsewhere[0].namespace}.",
        )
    elif orphans:
        yield source.finding(
            "error",
            "target-missing",
            path,
            f"No {scaler.kind} {scaler.name} here, but {orphans[0].kind} {orphans[0].name} that nothing scales.",
            "The HPA reports FailedGetScale and never scales.",
            f"Target {orphans[0].api} {orphans[0].kind} {orphans[0].name}.",
        )
    else:
        yield source.finding(
            "warning",
            "target-not-in-set",
            path,
            f"{scaler.kind} {scaler.name} is not among the objects that were given.",
            "Metric, labels, ports and nodes could not be compared with it.",
            "Lint the workload together with its HPA.",
        )


def _group_of(scaler: Scaler, facts: Facts) -> str:
    """The LeaderWorkerSet of the scaler's namespace that makes the StatefulSet it scales, "" for none."""
    space = scaler.source.namespace
    for located in facts.by_name("StatefulSet", scaler.name):
        if located.namespace == space and (group := mapping(located.metadata.get("labels")).get(LWS_NAME)):
            return str(group)
    groups = facts.by_name("LeaderWorkerSet", scaler.name)
    return scaler.name if any(group.namespace == space for group in groups) else ""


# --- several scalers -------------------------------------------------------------------------------------------------


def _overlapping(facts: Facts) -> Iterator[Finding]:
    """Two workloads of one namespace whose selectors choose the same pods."""
    owners = [
        o
        for o in facts.of("Deployment", "StatefulSet", "ReplicaSet")
        if not o.metadata.get("ownerReferences")
    ]
    templates = {
        (o.kind, o.namespace, o.name): facts.templates_by_owner[o.kind, o.namespace, o.name][0]
        for o in owners
    }
    by_labels: dict[tuple[str, str, str], list[Located]] = {}
    for owner in owners:
        for key, value in templates[owner.kind, owner.namespace, owner.name].labels.items():
            by_labels.setdefault((owner.namespace, key, str(value)), []).append(owner)
    for owner in owners:
        selector = mapping(owner.spec.get("selector"))
        wanted = list(mapping(selector.get("matchLabels")).items())
        near = by_labels.get((owner.namespace, str(wanted[0][0]), str(wanted[0][1])), []) if wanted else []
        for other in near[:MANY]:
            same = (other.kind, other.name) == (owner.kind, owner.name)
            if not same and object_selects(
                selector, templates[other.kind, other.namespace, other.name].labels
            ):
                yield from _shared(owner, other, facts)
                break


def _shared(owner: Located, other: Located, facts: Facts) -> Iterator[Finding]:
    """`owner` also selects the pods of `other`: what follows depends on which of them is scaled."""
    scaler = facts.scaler_of.get((owner.kind, owner.namespace, owner.name))
    both = scaler is not None and (other.kind, other.namespace, other.name) in facts.scaler_of
    serving = any((o.kind, o.namespace, o.name) in facts.servers_by_owner for o in (owner, other))
    if scaler is None and not serving:
        return  # neither is ours to judge
    consequence = (
        "Both HPAs report AmbiguousSelector and nothing scales."
        if both
        else f"The HPA counts the pods of {other.name} as replicas of {owner.name}: its mean and its steps are wrong."
        if scaler
        else "The two controllers may take each other's pods, and an HPA on either counts both."
    )
    yield (scaler.source if scaler else owner).finding(
        "error" if scaler else "warning",
        "overlapping-selectors",
        scaler.target_path if scaler else ("spec", "selector"),
        f"{owner.name}'s selector also selects the pods of {other.name}.",
        consequence,
        "Give each workload a label of its own.",
    )
