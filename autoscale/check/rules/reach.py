"""Whether the check may look, and whether the HPA is there."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.errors import nearest, printable
from autoscale.check.snapshot import Snapshot
from autoscale.kube.cluster import utc_text
from autoscale.kube.kinds import SCALED, plural_of
from autoscale.kube.scaler import KIND, Hpa
from autoscale.lint.findings import Finding, Located, Severity

LONGEST_ERROR = 120
NEEDED = ("horizontalpodautoscalers", "pods")
BLIND = {
    "nodes": "node supply and node arrivals cannot be judged",
    "events": "image pulls, node autoscaler and the reasons of the HPA stay unknown",
    "podmonitorings": "the check cannot see what it is about",
    "podmonitors": "the check cannot see what it is about",
}


def permissions(now: Snapshot, hpa: Hpa | None) -> Iterator[Finding]:
    """What may not be listed: an error for what the check needs, a note for what only the object rules read."""
    target = plural_of(hpa.target_kind) if hpa else None
    refused = [resource for resource, error in now.hidden.items() if error.status == 403]
    others = []
    for resource in refused:
        if resource in NEEDED or resource == target:
            yield _missing(resource, "error", "the check cannot see what it is about")
        elif resource in BLIND:
            yield _missing(resource, "warning", BLIND[resource])
        elif resource not in map(plural_of, SCALED):
            others.append(resource)
    if others:
        yield _refused(
            "note",
            f"not allowed to list {', '.join(others)}: the linter's rules on them were not asked; the scale-out is "
            "judged without them",
            "nothing for the check: the written account may not list them on purpose; run `autoscale lint` on the "
            "manifests' files instead",
            {"resources": others},
        )


def _missing(resource: str, severity: Severity, blind: str) -> Finding:
    return _refused(
        severity,
        f"not allowed to list {resource}: {blind}",
        f"grant get, list and watch on {resource}: kubectl create clusterrole autoscale-check-{resource} "
        f"--verb=get,list,watch --resource={resource}, and bind it to the user of this kubeconfig",
        {"resource": resource},
    )


def _refused(severity: Severity, problem: str, fix: str, evidence: dict[str, object]) -> Finding:
    return Finding(severity, "rbac-missing", "", "", "", "", problem, "", fix, evidence=evidence)


def no_hpa(now: Snapshot, name: str) -> Iterator[Finding]:
    """An HPA that is not there any more, or never was, with the name that comes near."""
    if "horizontalpodautoscalers" in now.hidden:
        return
    names = sorted(now.objects.get("horizontalpodautoscalers", {}))
    about = Located({"kind": KIND, "metadata": {"name": name}})
    if deleted_s := now.deleted_s.get(("horizontalpodautoscalers", name)):
        yield about.finding(
            "error",
            "hpa-deleted",
            (),
            f"HorizontalPodAutoscaler {name!r} was deleted at {utc_text(deleted_s)}, while it was watched",
            "",
            "apply its manifest again, and find out who deleted it: a controller (KEDA, Argo CD) may do it once more",
            {"deleted_s": deleted_s},
        )
        return
    near = nearest(name, names)
    yield about.finding(
        "error",
        "hpa-not-found",
        (),
        f"there is no HorizontalPodAutoscaler {name!r} in this namespace; it has {', '.join(names) or 'none'}",
        "",
        f"use --hpa {near}" if near else "apply the manifests first, or check --namespace",
        {"names": names},
    )


def not_judged(hpa: Hpa, error: Exception) -> Finding:
    """That an object is not of the shape of its kind (kube.cluster.MISSHAPEN), and that rules could not look."""
    return Located(hpa.object).finding(
        "warning",
        "object-misshapen",
        (),
        f"An object of the cluster is not of the shape of its kind: {printable(str(error), LONGEST_ERROR)}.",
        "What hangs on it was not looked at.",
        "look at the objects of this HPA with kubectl get -o yaml",
    )
