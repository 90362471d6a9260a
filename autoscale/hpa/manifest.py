"""What an API server does with a HorizontalPodAutoscaler: decode strictly, fill in defaults, refuse or store.

Source: kubernetes pkg/apis/autoscaling/{v2/defaults.go,validation/validation.go}, checked against recorded answers of a
real API server, v1.36.2 (scale-to-zero off, configurable tolerance on).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from analysis.errors import BadInput, did_you_mean
from autoscale.kube import quantity

MAX_WINDOW_S = 3600
MAX_PERIOD_S = 1800

_MAX_INT32 = 2**31 - 1
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*")

# The autoscaling/v2 schema: dict = object, [x] = list of x, "any" = not looked into
_REFERENCE = {"apiVersion": "string", "kind": "string", "name": "string"}
_SELECTOR = {
    "matchLabels": "labels",
    "matchExpressions": [{"key": "string", "operator": "string", "values": ["string"]}],
}
_METRIC = {"name": "string", "selector": _SELECTOR}
_TARGET = {"type": "string", "value": "quantity", "averageValue": "quantity", "averageUtilization": "integer"}
_RULES = {
    "stabilizationWindowSeconds": "integer",
    "selectPolicy": "string",
    "policies": [{"type": "string", "value": "integer", "periodSeconds": "integer"}],
    "tolerance": "quantity",
}
_SPEC = {
    "scaleTargetRef": _REFERENCE,
    "minReplicas": "integer",
    "maxReplicas": "integer",
    "metrics": [
        {
            "type": "string",
            "object": {"describedObject": _REFERENCE, "target": _TARGET, "metric": _METRIC},
            "pods": {"metric": _METRIC, "target": _TARGET},
            "resource": {"name": "string", "target": _TARGET},
            "containerResource": {"name": "string", "target": _TARGET, "container": "string"},
            "external": {"metric": _METRIC, "target": _TARGET},
        }
    ],
    "behavior": {"scaleUp": _RULES, "scaleDown": _RULES},
}
_OBJECT = {"apiVersion": "string", "kind": "string", "metadata": "any", "spec": _SPEC, "status": "any"}
# Fields that an API server of v1.36.2 drops or refuses unless a gate is on
_NEWER = {
    "spec.metrics[].external.fallback": "alpha in Kubernetes 1.36 (KEP-5679), behind a gate that is off"
}
_SOURCES = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}


def stored_spec(manifest: dict[str, Any], *, scale_to_zero: bool = False) -> dict[str, Any]:
    """The spec as an API server stores it: defaults filled in, quantities rewritten. The argument is left alone.

    `scale_to_zero` is the server's gate HPAScaleToZero: alpha and off from Kubernetes 1.16, beta and on from 1.37. Raises BadInput with the field and the reason when the server would refuse the object.
    """
    if not isinstance(manifest, dict):
        raise BadInput("an HPA manifest is", value=type(manifest).__name__, expected="a mapping")
    if (kind := manifest.get("kind")) != "HorizontalPodAutoscaler":
        raise BadInput("kind", value=kind, expected="HorizontalPodAutoscaler")
    if (version := manifest.get("apiVersion")) != "autoscaling/v2":
        raise BadInput("apiVersion", value=version, expected="autoscaling/v2")
    manifest = _decoded(copy.deepcopy(manifest), _OBJECT, "")
    metadata = manifest.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise BadInput("metadata", value=metadata, expected="a mapping with a name")
    name = metadata.get("name") or metadata.get("generateName")
    if not name:
        raise BadInput("metadata.name: required value", next_step="give the HPA a name")
    if not isinstance(name, str) or len(name) > 253 or not _SUBDOMAIN.fullmatch(name.rstrip("-")):
        raise BadInput("metadata.name", value=name, expected="a lowercase DNS subdomain such as vllm-hpa")
    spec = _defaulted(manifest.get("spec") or {})
    for what, value, problem in _problems(spec, 0 if scale_to_zero else 1):
        raise BadInput(f"{what}: {problem}", value=value)
    return spec


def behavior_fields(given: Any, path: str) -> dict[str, Any]:
    """A behavior block as it is written, without nulls and defaults. Raises BadInput for what is no field of one."""
    return dict(_decoded(given, _SPEC["behavior"], path))


def _decoded(given: Any, schema: Any, path: str) -> Any:
    """The value with quantities as an API server writes them; nulls are absent. Raises BadInput on a strict mismatch."""
    if isinstance(schema, dict):
        if not isinstance(given, dict):
            raise BadInput(path or "manifest", value=given, expected="a mapping")
        decoded = {}
        for key, value in given.items():
            where = f"{path}.{key}" if path else str(key)
            if (since := _NEWER.get(re.sub(r"\[[0-9]+\]", "[]", where))) is not None:
                raise BadInput(f'field "{where}" is not modelled here', expected=f"none of it: {since}")
            if key not in schema:
                raise BadInput(f'unknown field "{where}"', next_step=did_you_mean(str(key), schema))
            if value is not None:
                decoded[key] = _decoded(value, schema[key], where)
        return decoded
    if isinstance(schema, list):
        if not isinstance(given, list):
            raise BadInput(path, value=given, expected="a list")
        return [_decoded(item, schema[0], f"{path}[{i}]") for i, item in enumerate(given)]
    if schema == "quantity":
        try:
            return quantity.parse(given).stored
        except BadInput as refused:
            raise BadInput(f"{path}: {refused}") from None
    if schema == "integer":
        whole = isinstance(given, int) or (isinstance(given, float) and given.is_integer())
        if isinstance(given, bool) or not whole or not -_MAX_INT32 - 1 <= given <= _MAX_INT32:
            raise BadInput(path, value=given, expected="a 32-bit integer")
        return int(given)
    if schema == "string" and not isinstance(given, str):
        raise BadInput(path, value=given, expected="a string")
    if schema == "labels" and not (
        isinstance(given, dict) and all(isinstance(v, str) for v in given.values())
    ):
        raise BadInput(path, value=given, expected="a mapping of strings")
    return given


def _defaulted(spec: dict[str, Any]) -> dict[str, Any]:
    """Defaults of autoscaling/v2; an absent behavior block stays absent, half a block is completed."""
    spec.setdefault("minReplicas", 1)
    if not spec.get("metrics"):
        cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
        spec["metrics"] = [{"type": "Resource", "resource": cpu}]
    if (behavior := spec.get("behavior")) is not None:
        percent = {"type": "Percent", "value": 100, "periodSeconds": 15}
        pods = {"type": "Pods", "value": 4, "periodSeconds": 15}
        up = {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [pods, percent]}
        down = {"selectPolicy": "Max", "policies": [dict(percent)]}
        spec["behavior"] = {
            "scaleUp": up | behavior.get("scaleUp", {}),
            "scaleDown": down | behavior.get("scaleDown", {}),
        }
    return spec


Problem = tuple[str, object, str]  # field, offending value (None: absent), sentence


def _problems(spec: dict[str, Any], least: int) -> Iterator[Problem]:
    """Why the server refuses the spec, in its order."""
    low, high = spec["minReplicas"], spec.get("maxReplicas", 0)
    if low < least:
        yield "spec.minReplicas", low, f"must be greater than or equal to {least}"
    if high == 0:
        yield "spec.maxReplicas", spec.get("maxReplicas"), "must be set and greater than 0"
    elif high < 0:
        yield "spec.maxReplicas", high, "must be greater than or equal to 1"
    if high < low:
        yield "spec.maxReplicas", high, "must be greater than or equal to `minReplicas`"
    yield from _reference_problems(spec.get("scaleTargetRef", {}), "spec.scaleTargetRef")
    for i, metric in enumerate(spec["metrics"]):
        yield from _metric_problems(metric, f"spec.metrics[{i}]")
    if low == 0 and not any(metric.get("type") in ("Object", "External") for metric in spec["metrics"]):
        yield (
            "spec.metrics",
            None,
            "must specify at least one Object or External metric to support scaling to zero replicas",
        )
    for direction, rules in spec.get("behavior", {}).items():
        yield from _rules_problems(rules, f"spec.behavior.{direction}")


def _reference_problems(
    reference: dict[str, Any], path: str, *, core_group: bool = False
) -> Iterator[Problem]:
    """`core_group`: an object of the core group is allowed, as for a described object but not for a scale target
    (pkg/registry/autoscaling/horizontalpodautoscaler/strategy.go, AllowEmptyAPIGroup)."""
    for key in ("kind", "name"):
        if not reference.get(key):
            yield f"{path}.{key}", None, "required value"
        else:
            yield from _segment_problems(reference[key], f"{path}.{key}")
    version = reference.get("apiVersion", "")
    if version.count("/") > 1:
        yield f"{path}.apiVersion", version, "unexpected GroupVersion string"
    elif not core_group and (not version.partition("/")[0] or "/" not in version):
        yield f"{path}.apiVersion", version, "apiVersion must specify API group"


def _segment_problems(name: str, path: str) -> Iterator[Problem]:
    if name in (".", ".."):
        yield path, name, f"may not be '{name}'"
    for character in "/%":
        if character in name:
            yield path, name, f"may not contain '{character}'"


def _metric_problems(metric: dict[str, Any], path: str) -> Iterator[Problem]:
    kind = metric.get("type", "")
    if kind not in _SOURCES:
        supported = ", ".join(_SOURCES)
        yield f"{path}.type", kind or None, f"must be a metric source type: {supported}"
        return
    expected = _SOURCES[kind]
    if expected not in metric:
        yield f"{path}.{expected}", None, "must populate information for the given metric source"
        return
    if extra := sorted(set(metric) & set(_SOURCES.values()) - {expected}):
        yield f"{path}.{extra[0]}", None, "must populate the given metric source only"
    source, path = metric[expected], f"{path}.{expected}"
    if kind in ("Pods", "External", "Object"):
        name = source.get("metric", {}).get("name")
        if not name:
            yield f"{path}.metric.name", None, "must specify a metric name"
        else:
            yield from _segment_problems(name, f"{path}.metric.name")
        yield from _selector_problems(source.get("metric", {}).get("selector", {}), f"{path}.metric.selector")
    elif not source.get("name"):
        yield f"{path}.name", None, "must specify a resource name"
    if kind == "Object":
        yield from _reference_problems(
            source.get("describedObject", {}), f"{path}.describedObject", core_group=True
        )
    if kind == "ContainerResource" and not source.get("container"):
        yield f"{path}.container", None, "must specify a container"
    target = source.get("target", {})
    yield from _target_problems(target, f"{path}.target")
    if kind == "Pods" and "averageValue" not in target:
        yield f"{path}.target.averageValue", None, "must specify a positive target averageValue"
    if kind in ("External", "Object"):
        if not {"value", "averageValue"} & set(target):
            yield (
                f"{path}.target.averageValue",
                None,
                "must set either a target value for metric or a per-pod target",
            )
        elif kind == "External" and {"value", "averageValue"} <= set(target):
            yield (
                f"{path}.target.value",
                None,
                "may not set both a target value for metric and a per-pod target",
            )
    if kind in ("Resource", "ContainerResource"):
        if not {"averageUtilization", "averageValue"} & set(target):
            yield (
                f"{path}.target.averageUtilization",
                None,
                "must set either a target raw value or a target utilization",
            )
        elif {"averageUtilization", "averageValue"} <= set(target):
            yield (
                f"{path}.target.averageValue",
                None,
                "may not set both a target raw value and a target utilization",
            )


def _selector_problems(selector: dict[str, Any], path: str) -> Iterator[Problem]:
    for i, expression in enumerate(selector.get("matchExpressions", [])):
        operator, values = expression.get("operator"), expression.get("values", [])
        where = f"{path}.matchExpressions[{i}]"
        if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            yield f"{where}.operator", operator, "not a valid selector operator"
        elif operator in ("In", "NotIn") and not values:
            yield f"{where}.values", None, "must be specified when `operator` is 'In' or 'NotIn'"
        elif operator in ("Exists", "DoesNotExist") and values:
            yield (
                f"{where}.values",
                values,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )


def _target_problems(target: dict[str, Any], path: str) -> Iterator[Problem]:
    kind = target.get("type", "")
    if kind not in ("Utilization", "Value", "AverageValue"):
        yield f"{path}.type", kind or None, "must be either Utilization, Value, or AverageValue"
    for key in ("value", "averageValue"):
        if key in target and quantity.parse(target[key]).value <= 0:
            yield f"{path}.{key}", target[key], "must be positive"
    if target.get("averageUtilization", 1) < 1:
        yield f"{path}.averageUtilization", target["averageUtilization"], "must be greater than 0"


def _rules_problems(rules: dict[str, Any], path: str) -> Iterator[Problem]:
    window_s = rules.get("stabilizationWindowSeconds", 0)
    if window_s < 0:
        yield f"{path}.stabilizationWindowSeconds", window_s, "must be greater than or equal to zero"
    if window_s > MAX_WINDOW_S:
        yield f"{path}.stabilizationWindowSeconds", window_s, f"must be less than or equal to {MAX_WINDOW_S}"
    if rules["selectPolicy"] not in ("Disabled", "Max", "Min"):
        yield f"{path}.selectPolicy", rules["selectPolicy"], "supported values: Disabled, Max, Min"
    if not rules["policies"]:
        yield f"{path}.policies", None, "must specify at least one Policy"
    for i, policy in enumerate(rules["policies"]):
        where = f"{path}.policies[{i}]"
        if policy.get("type") not in ("Percent", "Pods"):
            yield f"{where}.type", policy.get("type"), "supported values: Percent, Pods"
        for key in ("value", "periodSeconds"):
            if policy.get(key, 0) <= 0:
                yield f"{where}.{key}", policy.get(key, 0), "must be greater than zero"
        if policy.get("periodSeconds", 0) > MAX_PERIOD_S:
            yield (
                f"{where}.periodSeconds",
                policy["periodSeconds"],
                f"must be less than or equal to {MAX_PERIOD_S}",
            )
    if "tolerance" in rules and quantity.parse(rules["tolerance"]).value < 0:
        yield f"{path}.tolerance", rules["tolerance"], "must be greater than or equal to 0"
