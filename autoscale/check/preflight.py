"""Can this HPA work, and if not, why? The linter's rules over the objects that the cluster shows, and the rules on what
only a live cluster tells: conditions, the metrics API, pods, nodes, permissions. Pure over a snapshot.

Both speak in findings of one kind (`autoscale.lint.findings`). Where both name one thing, the cluster's words stand; and
a value that the metrics API does answer takes its weight from a finding that says it cannot arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from autoscale.check.rules import keda, metrics, nodes, pods, reach, scaling
from autoscale.check.snapshot import Snapshot, fold
from autoscale.kube.cluster import MISSHAPEN, Observation
from autoscale.kube.kinds import plural_of
from autoscale.kube.objects import mapping
from autoscale.kube.scaler import Hpa
from autoscale.kube.selectors import object_selects
from autoscale.lint.facts import Facts
from autoscale.lint.findings import RANK, Finding, Located
from autoscale.lint.linter import lint_objects
from autoscale.lint.live import READ, of_interest
from autoscale.lint.rules.metric_name import UNREADABLE

STATUS_RULES: tuple[Callable[[Snapshot, Hpa], Iterator[Finding]], ...] = (
    scaling.rules,
    metrics.rules,
    keda.rules,
    pods.rules,
    nodes.rules,
)
SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")


def diagnose_observations(observations: Iterable[Observation], hpa_name: str) -> tuple[Finding, ...]:
    """The findings for one HPA from a recorded stream."""
    return diagnose(fold(observations), hpa_name)


def diagnose(now: Snapshot, hpa_name: str) -> tuple[Finding, ...]:
    """The findings for one HPA, errors first; an empty result means nothing stands in its way."""
    hpa = now.hpa(hpa_name)
    found = [*reach.permissions(now, hpa)]
    if hpa is None:
        found += reach.no_hpa(now, hpa_name)
    else:
        for rules in STATUS_RULES:
            found += _judged(rules, now, hpa)
        found += _not_told(_judged(object_findings, now, hpa), found, now)
    once = {(each.code, each.object, each.field, each.cause): each for each in found}
    return tuple(sorted(once.values(), key=lambda each: RANK[each.severity]))


def _judged(rules: Callable[[Snapshot, Hpa], Iterable[Finding]], now: Snapshot, hpa: Hpa) -> list[Finding]:
    """What the rules find; where an object is not of the shape of its kind, that they could not look: the others still do."""
    found: list[Finding] = []
    try:
        found.extend(rules(now, hpa))
    except MISSHAPEN as error:
        found.append(reach.not_judged(hpa, error))
    return found


def object_findings(now: Snapshot, hpa: Hpa) -> list[Finding]:
    """What the linter says of the objects of one HPA: itself, its target, its rivals, and what serves or measures them."""
    seen = (Located(found) for kind in READ for found in now.all(plural_of(kind)))
    target = (hpa.target_kind, hpa.target_name)
    objects = [located for located in seen if of_interest(located) or (located.kind, located.name) == target]
    facts = Facts(objects)
    report = lint_objects(objects, unseen=now.unseen(READ))
    findings = [each for each in report.findings if _concerns(each, hpa, facts)]
    if metrics.all_answered(now, hpa):
        findings = [_arrives(each) for each in findings]
    return findings


def _concerns(finding: Finding, hpa: Hpa, facts: Facts) -> bool:
    """Whether a finding is about this HPA: not on another scaler or workload, nor on what selects only another's pods."""
    kind, name = hpa.target_kind, hpa.target_name
    owners = {template.owner.kind for template in facts.templates}
    if finding.kind in SCALERS:
        same = [s for s in facts.scalers if (s.kind, s.name) == (kind, name)]
        return finding.name == hpa.name or finding.name in {scaler.source.name for scaler in same}
    if finding.kind in owners:
        return (finding.kind, finding.name) == (kind, name)
    chosen = {
        (template.owner.kind, template.owner.name)
        for located in facts.by_name(finding.kind, finding.name)
        for template in facts.templates
        if _selects(located, template.labels)
    }
    return not chosen or (kind, name) in chosen


def _selects(located: Located, labels: dict[str, str | None]) -> bool:
    """Whether an object chooses pods, and these labels are among them."""
    selector = mapping(located.spec.get("selector"))
    wrapped = {"matchLabels": selector} if located.kind == "Service" else selector
    return bool(selector) and object_selects(wrapped, labels)


def _arrives(finding: Finding) -> Finding:
    """A finding while the metrics API has the metrics' values: the cluster knows better than a tag, a name or a label."""
    if UNREADABLE not in finding.consequence:
        return finding
    if finding.code == "metric-not-exported":
        return replace(finding, severity="warning", consequence="It arrives now: an upgrade breaks the HPA.")
    return replace(finding, severity="note", consequence="The metrics API has its value all the same.")


def _not_told(objects: list[Finding], status: list[Finding], now: Snapshot) -> Iterator[Finding]:
    """The findings on objects that the status rules have not given in the cluster's own words."""
    told = {finding.code for finding in status}
    if "target-missing" in told:
        told.add("target-not-in-set")
    if now.all("nodes"):
        told.add("nodes-not-known")
    yield from (finding for finding in objects if finding.code not in told)
