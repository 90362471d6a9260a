"""What the HPA's own conditions and status say: its target, its rivals, its bounds, its tolerance."""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoscale.check.snapshot import Snapshot
from autoscale.kube.kinds import plural_of
from autoscale.kube.objects import mapping
from autoscale.kube.scaler import Hpa
from autoscale.kube.workload import GROUPED, ScaledWorkload
from autoscale.lint.findings import Finding, Located

CONDITIONS = ("status", "conditions")


def rules(now: Snapshot, hpa: Hpa) -> Iterator[Finding]:
    """Findings on what the controller reports of this HPA."""
    if not hpa.conditions:
        yield Located(hpa.object).finding(
            "note",
            "hpa-not-synced",
            CONDITIONS,
            "the HPA has not acted yet: the controller looks at a new one after its sync period of 15 s",
            "",
            "wait 20 s; if it stays so, the kube-controller-manager does not run",
        )
    yield from _able(now, hpa)
    yield from _selector(now, hpa)
    yield from _rivals(hpa)
    yield from _bounds(hpa)
    yield from _inside_tolerance(hpa)


def _named(hpa: Hpa) -> str:
    return f"{hpa.target_kind}/{hpa.target_name}"


def _able(now: Snapshot, hpa: Hpa) -> Iterator[Finding]:
    """Whether the controller can read and write the target's scale."""
    about, able = Located(hpa.object), mapping(hpa.conditions.get("AbleToScale"))
    message = str(able.get("message", ""))
    if able.get("reason") == "FailedGetScale":
        if "no matches for kind" in message:
            yield about.finding(
                "error",
                "target-kind-unknown",
                ("spec", "scaleTargetRef"),
                f"the HPA scales {_named(hpa)} of {hpa.target_api}, a kind that this cluster does not know",
                "",
                "install its CRD, or correct apiVersion and kind of scaleTargetRef "
                "(leaderworkerset.x-k8s.io/v1 LeaderWorkerSet, apps/v1 Deployment)",
                {"message": message},
            )
        elif "not found" in message:
            yield about.finding(
                "error",
                "target-missing",
                ("spec", "scaleTargetRef"),
                f"the HPA scales {_named(hpa)}, which does not exist",
                "",
                "correct scaleTargetRef.name, or apply the workload in the HPA's namespace",
                {"message": message, "have": sorted(now.objects.get(plural_of(hpa.target_kind), {}))},
            )
        else:
            yield about.finding(
                "error",
                "scale-unreadable",
                CONDITIONS,
                f"the HPA cannot read the scale of {_named(hpa)}: {message}",
                "",
                "check that the target has a scale subresource and that the API server answers",
                {"message": message},
            )
    if able.get("reason") == "FailedUpdateScale":
        yield about.finding(
            "error",
            "scale-not-writable",
            CONDITIONS,
            f"the HPA cannot change {_named(hpa)}: {able.get('message')}",
            "",
            "check admission webhooks and quotas on the target",
        )
    if hpa.active_reason == "ScalingDisabled" and not _keda_goes_to_zero(now, hpa):
        yield about.finding(
            "error",
            "target-at-zero",
            CONDITIONS,
            f"{_named(hpa)} has 0 replicas: an HPA never scales a target up from 0",
            "",
            f"kubectl scale {hpa.target_kind.lower()}/{hpa.target_name} --replicas=1",
        )


def _keda_goes_to_zero(now: Snapshot, hpa: Hpa) -> bool:
    """Whether the size of 0 is that of a ScaledObject, which KEDA leaves by itself."""
    found = now.objects.get("scaledobjects", {}).get(hpa.made_by) if hpa.made_by else None
    spec = mapping(mapping(found).get("spec"))
    return found is not None and (not spec.get("minReplicaCount") or spec.get("idleReplicaCount") == 0)


def _selector(now: Snapshot, hpa: Hpa) -> Iterator[Finding]:
    """Whether the selector of the target's scale subresource tells the pods that count."""
    about, target, group = Located(hpa.object), now.target(hpa), hpa.target_kind == GROUPED
    selector = target.scale_selector if target else ""
    if hpa.active_reason == "InvalidSelector" or (target is not None and not selector):
        shown = (
            "status.hpaPodSelector is empty: the LeaderWorkerSet controller does not run or is too old"
            if group
            else "its scale subresource shows no selector"
        )
        yield about.finding(
            "error",
            "selector-missing",
            CONDITIONS,
            f"the HPA does not know which pods belong to {_named(hpa)}: {shown}",
            "",
            "install or update the LeaderWorkerSet controller (kubectl -n lws-system get pods)"
            if group
            else "give the target's scale subresource a labelSelectorPath",
        )
    elif target is not None and group and "worker-index=0" not in selector:
        yield about.finding(
            "error",
            "workers-counted",
            ("spec", "scaleTargetRef"),
            f"the selector of {_named(hpa)} matches workers too: {selector}",
            "",
            "update the LeaderWorkerSet controller: only leaders may count",
        )
    if target is not None and _should_have_pods(now, hpa, target) and not now.counted_pods(hpa):
        yield about.finding(
            "error",
            "no-pods-matched",
            ("spec", "scaleTargetRef"),
            f"no pod matches the selector of {_named(hpa)}: {selector}",
            "",
            "check that the workload could create pods (kubectl describe), quota and admission",
        )


def _should_have_pods(now: Snapshot, hpa: Hpa, target: ScaledWorkload) -> bool:
    at_zero = hpa.active_reason == "ScalingDisabled"
    return bool(target.scale_selector) and not at_zero and "pods" not in now.hidden


def _rivals(hpa: Hpa) -> Iterator[Finding]:
    """Several HPAs on the same pods, as the controller found them; the objects tell of those on one target."""
    if hpa.active_reason != "AmbiguousSelector":
        return
    message = str(hpa.conditions["ScalingActive"].get("message", ""))
    told = re.findall(r"[\w.-]+/[\w.-]+", message)
    rivals = sorted({each.split("/")[-1] for each in told} - {hpa.name})
    yield Located(hpa.object).finding(
        "error",
        "two-scalers-one-target",
        CONDITIONS,
        f"{', '.join(rivals) or 'another HPA'} scales the same pods: two HPAs on one target freeze each other",
        "",
        f"keep one: kubectl delete hpa {rivals[0] if rivals else 'NAME'}; several metrics belong into one HPA, which "
        "takes the largest",
        {"rivals": rivals},
    )


def _bounds(hpa: Hpa) -> Iterator[Finding]:
    limited, active = (mapping(hpa.conditions.get(kind)) for kind in ("ScalingLimited", "ScalingActive"))
    if limited.get("reason") == "TooManyReplicas" and active.get("status") == "True":
        yield Located(hpa.object).finding(
            "warning",
            "at-max-replicas",
            ("spec", "maxReplicas"),
            f"the metric asks for more than maxReplicas {hpa.max_replicas}: the queue grows from here on",
            "",
            "raise maxReplicas together with the node pool, or accept the limit and shed load",
            {"maxReplicas": hpa.max_replicas},
        )


def _inside_tolerance(hpa: Hpa) -> Iterator[Finding]:
    up = hpa.tolerance("scaleUp")
    for metric, usage in hpa.usage_milli().items():
        target = hpa.targets_milli().get(metric, 0)
        if target and target < usage <= target * (1 + up) + 1e-9:
            yield Located(hpa.object).finding(
                "note",
                "inside-tolerance",
                ("status", "currentMetrics"),
                f"{metric} is {usage / 1000:g} against {target / 1000:g}, a ratio of {usage / target:.3g}: "
                f"inside the tolerance of {up:.0%} the HPA does nothing",
                "",
                "normal; lower the averageValue or set behavior.scaleUp.tolerance (Kubernetes 1.35+) to react sooner",
                {"ratio": usage / target},
            )
