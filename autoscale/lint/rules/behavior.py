"""Rules on behavior blocks: what the API server refuses of one that KEDA hands on, scale-out that never comes."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.errors import BadInput
from autoscale.hpa.manifest import MAX_WINDOW_S, stored_spec
from autoscale.kube.objects import mapping
from autoscale.kube.quantity import milli_or_none
from autoscale.kube.scaler import DEFAULT_TOLERANCE, DIRECTIONS
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding
from autoscale.lint.parts import whole_number
from autoscale.lint.rules.hpa import refusal
from autoscale.lint.scalers import Scaler, behavior_of

LATE_S = 600  # a queue that must last so long before it counts has long cost the latency that it stands for


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on the behavior block of every HPA and ScaledObject."""
    for scaler in facts.scalers:
        if scaler.source.kind == "ScaledObject":
            yield from _refused(scaler)
        yield from _up(scaler)
        yield from _tolerance(scaler)


def _refused(scaler: Scaler) -> Iterator[Finding]:
    """KEDA writes the behavior block into an HPA: the same limits hold."""
    path, behavior = behavior_of(scaler.source)
    if not behavior:
        return
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "x"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"},
            "maxReplicas": 1,
            "behavior": behavior,
        },
    }
    try:
        stored_spec(hpa)
    except BadInput as refused:
        code, _, fix = refusal(str(refused), scaler)
        yield scaler.source.finding(
            "error",
            code,
            path,
            f"{refused}.".replace("..", "."),
            "KEDA cannot create its HPA: nothing scales.",
            fix,
        )


def _up(scaler: Scaler) -> Iterator[Finding]:
    path, behavior = behavior_of(scaler.source)
    up = mapping(behavior.get("scaleUp"))
    if up.get("selectPolicy") == "Disabled":
        yield scaler.source.finding(
            "error",
            "scale-up-disabled",
            (*path, "scaleUp", "selectPolicy"),
            "scaleUp.selectPolicy is Disabled.",
            "The HPA never adds a replica, whatever the load.",
            "Write selectPolicy: Max, or leave it out.",
        )
        return
    window_s = whole_number(up.get("stabilizationWindowSeconds"))
    if window_s is not None and LATE_S < window_s <= MAX_WINDOW_S:
        yield scaler.source.finding(
            "warning",
            "scale-up-window",
            (*path, "scaleUp", "stabilizationWindowSeconds"),
            f"scaleUp waits {window_s} s: the smallest proposal of that time counts.",
            f"A burst shorter than {window_s} s never adds a replica, and every other one adds it that much later.",
            "Write 0, or the time that a burst must last before a cold start pays.",
        )


def _tolerance(scaler: Scaler) -> Iterator[Finding]:
    path, behavior = behavior_of(scaler.source)
    for direction in DIRECTIONS:
        given = mapping(behavior.get(direction)).get("tolerance")
        if given is not None and (milli := milli_or_none(given)) is not None:
            yield scaler.source.finding(
                "note",
                "tolerance-set",
                (*path, direction, "tolerance"),
                f"{direction}.tolerance is {milli / 1000:.1%} instead of {DEFAULT_TOLERANCE:.0%}.",
                "It works by default from Kubernetes 1.35; older clusters ignore it.",
                "Nothing, on a cluster that knows the field.",
            )
