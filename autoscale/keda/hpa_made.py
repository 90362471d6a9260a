"""The HPA that KEDA makes of a ScaledObject. Source: kedacore/keda v2.20.2 controllers/keda/hpa.go."""

from __future__ import annotations

import copy
import re
from typing import Any

from analysis.errors import BadInput
from autoscale.hpa import HpaSpec
from autoscale.keda.refusal import KedaRefusal
from autoscale.keda.scaled_object import LONGEST_NAME, PAUSED_IN, PAUSED_OUT, ScaledObject
from autoscale.keda.targets import hpa_target
from autoscale.kube.quantity import format_milli
from autoscale.kube.scaler import hpa_object

VERSION = "2.20.2"
COMPOSITE = "composite-metric"
OWNER_LABEL = "scaledobject.keda.sh/name"
_EXCLUDED = "scaledobject.keda.sh/hpa-excluded-labels"


def hpa_made(scaled: ScaledObject) -> dict[str, Any]:
    """The HorizontalPodAutoscaler as KEDA creates it.

    One External metric for each trigger, or one composite metric with a formula; minReplicas is never 0. `hpa_spec`
    tells what an API server makes of it.
    """
    name = scaled.hpa_name or f"keda-hpa-{scaled.name}"
    low, high = scaled.hpa_min_replicas, scaled.max_replica_count
    if scaled.paused_replicas is not None:
        low = high = scaled.paused_replicas or 1
    excluded = scaled.annotations.get(_EXCLUDED, "").split(",")
    labels = {
        "app.kubernetes.io/name": re.sub(r"[\W_]+$", "", name[:LONGEST_NAME])
        if len(name) > LONGEST_NAME
        else name,
        "app.kubernetes.io/version": VERSION,
        "app.kubernetes.io/part-of": scaled.name,
        "app.kubernetes.io/managed-by": "keda-operator",
        **{key: value for key, value in scaled.labels.items() if key not in excluded},
    }
    metadata: dict[str, Any] = {"name": name, "namespace": scaled.namespace, "labels": labels}
    if scaled.annotations:
        metadata["annotations"] = dict(scaled.annotations)
    target = scaled.target
    reference = {"kind": target.kind, "name": target.name, "apiVersion": target.api_version}
    made = hpa_object(metadata, reference, (low, high), _metrics(scaled))
    behavior = _behavior(scaled)
    if behavior is not None:
        made["spec"]["behavior"] = behavior
    return made


def hpa_spec(scaled: ScaledObject) -> HpaSpec:
    """The same as its controller sees it. Raises KedaRefusal where an API server refuses it (a target that became 0)."""
    try:
        return HpaSpec.from_manifest(hpa_made(scaled))
    except BadInput as problem:
        raise KedaRefusal("spec", f"makes an HPA that the API server refuses: {problem}") from None


def composite_milli(target: str) -> int:
    """The target of a composite metric in milli-units: cut off, where a trigger's threshold is rounded."""
    return int(float(target) * 1000)


def _metrics(scaled: ScaledObject) -> list[dict[str, Any]]:
    modifiers = scaled.modifiers
    if modifiers is not None:
        target = hpa_target(modifiers.metric_type, format_milli(composite_milli(modifiers.target)))
        return [_external(scaled, COMPOSITE, target)]
    return [
        _external(scaled, trigger.metric_name, hpa_target(trigger.metric_type, trigger.target))
        for trigger in scaled.triggers
    ]


def _external(scaled: ScaledObject, name: str, target: dict[str, Any]) -> dict[str, Any]:
    metric = {"name": name, "selector": {"matchLabels": {OWNER_LABEL: scaled.name}}}
    return {"type": "External", "external": {"metric": metric, "target": target}}


def _behavior(scaled: ScaledObject) -> dict[str, Any] | None:
    """As it is written; a paused direction is disabled, which makes a block where there was none."""
    behavior = None if scaled.behavior is None else copy.deepcopy(dict(scaled.behavior))
    for annotation, direction in ((PAUSED_IN, "scaleDown"), (PAUSED_OUT, "scaleUp")):
        if scaled.annotated(annotation):
            behavior = {} if behavior is None else behavior
            behavior.setdefault(direction, {})["selectPolicy"] = "Disabled"
    return behavior
