"""The CRD of a ScaledObject, KEDA 2.20.2: which fields there are, of which type, within which bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.errors import BadInput, did_you_mean
from autoscale.hpa.manifest import behavior_fields
from autoscale.keda.refusal import KedaRefusal, refused
from autoscale.kube.scaler import KEDA_MAX_REPLICAS

FALLBACK_BEHAVIORS = (
    "static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower", "scalingModifiers",
)  # fmt: skip
METRIC_TYPES = ("AverageValue", "Value")
_KIND = "ScaledObject"
_MAX_INT32 = 2**31 - 1

# dict = object, [x] = list of x, a tuple = one of these words, a number = a 32-bit integer of at least that, None = any integer
_TRIGGER = {
    "type": "string",
    "name": "string",
    "useCachedMetrics": "boolean",
    "metadata": "strings",
    "authenticationRef": {"name": "string", "kind": "string"},
    "metricType": "string",
}
_SPEC: dict[str, Any] = {
    "scaleTargetRef": {
        "name": "string",
        "apiVersion": "string",
        "kind": "string",
        "envSourceContainerName": "string",
    },
    "pollingInterval": 1,
    "initialCooldownPeriod": 0,
    "cooldownPeriod": 0,
    "idleReplicaCount": 0,
    "minReplicaCount": 0,
    "maxReplicaCount": 1,
    "advanced": {
        "horizontalPodAutoscalerConfig": {"name": "string", "behavior": "behavior"},
        "restoreToOriginalReplicaCount": "boolean",
        "scalingModifiers": {
            "formula": "string",
            "target": "string",
            "activationTarget": "string",
            "metricType": METRIC_TYPES,
        },
    },
    "triggers": [_TRIGGER],
    "fallback": {"failureThreshold": None, "replicas": None, "behavior": FALLBACK_BEHAVIORS},
}
_REQUIRED = {
    "spec": ("scaleTargetRef", "triggers"),
    "spec.scaleTargetRef": ("name",),
    "spec.fallback": ("failureThreshold", "replicas"),
    "spec.triggers": ("type", "metadata"),
    "authenticationRef": ("name",),
}


def decoded_object(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """metadata and spec as an API server stores them, without nulls. Raises KedaRefusal naming the field."""
    if not isinstance(manifest, Mapping):
        raise KedaRefusal(
            "manifest", "is no object", value=type(manifest).__name__, expected=f"a mapping with kind {_KIND}"
        )
    for key, wanted in (("kind", _KIND), ("apiVersion", "keda.sh/v1alpha1")):
        if manifest.get(key) != wanted:
            raise KedaRefusal(key, f"is no {wanted}", value=manifest.get(key), expected=wanted)
    for key in manifest:
        if key not in ("apiVersion", "kind", "metadata", "spec", "status"):
            raise _unknown("", str(key), ("apiVersion", "kind", "metadata", "spec"))
    metadata = manifest.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        raise KedaRefusal("metadata.name", "required value", next_step="give the ScaledObject a name")
    for key in ("labels", "annotations"):
        if metadata.get(key) is not None:
            _decoded(metadata[key], "strings", f"metadata.{key}")
    spec = _decoded(manifest.get("spec") or {}, _SPEC, "spec")
    if not spec["triggers"]:
        raise refused("spec.triggers", "spec.triggers in body should have at least 1 items")
    low, high = spec.get("minReplicaCount"), spec.get("maxReplicaCount", KEDA_MAX_REPLICAS)
    if low is not None and low > high:
        raise refused("spec.minReplicaCount", "minReplicaCount must be less than or equal to maxReplicaCount")
    return {"metadata": dict(metadata), "spec": spec}


def _decoded(given: Any, schema: Any, path: str) -> Any:
    if isinstance(schema, dict):
        return _object(given, schema, path)
    if isinstance(schema, list):
        if not isinstance(given, list):
            raise KedaRefusal(path, "is no list", value=given, expected="a list")
        return [_decoded(each, schema[0], f"{path}[{i}]") for i, each in enumerate(given)]
    if isinstance(schema, tuple):
        if given not in schema and given != "":
            allowed = ", ".join(f'"{word}"' for word in schema)
            raise refused(path, f'Unsupported value: "{given}": supported values: {allowed}')
    elif schema is None or isinstance(schema, int):
        _integer(given, schema, path)
    elif schema == "behavior":
        try:
            return behavior_fields(given, path)
        except BadInput as problem:
            raise KedaRefusal(path, str(problem)) from None
    elif schema == "strings":
        _strings(given, path)
    elif schema == "boolean" and not isinstance(given, bool):
        raise KedaRefusal(path, "is no boolean", value=given, expected="true or false, without quotes")
    elif schema == "string" and not isinstance(given, str):
        raise KedaRefusal(path, "is no string", value=given, expected=f'text: write "{given}" with quotes')
    return given


def _object(given: Any, schema: dict[str, Any], path: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise KedaRefusal(path, "is no mapping", value=given, expected=f"fields {', '.join(schema)}")
    for key in given:
        if key not in schema:
            raise _unknown(f"{path}.", str(key), tuple(schema))
    found = {
        key: _decoded(value, schema[key], f"{path}.{key}")
        for key, value in given.items()
        if value is not None
    }
    for name in _REQUIRED.get(
        path, _REQUIRED.get(path.split("[")[0] if path[-1] == "]" else path.split(".")[-1], ())
    ):
        if name not in found or found[name] == "":
            raise refused(f"{path}.{name}", "Required value")
    return found


def _integer(given: Any, least: int | None, path: str) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or abs(given) > _MAX_INT32:
        raise KedaRefusal(
            path, "is no 32-bit integer", value=given, expected="a whole number, without quotes"
        )
    if least is not None and given < least:
        said = f"Invalid value: {given}: {path} in body should be greater than or equal to {least}"
        raise refused(path, said)


def _strings(given: Any, path: str) -> None:
    if not isinstance(given, Mapping):
        raise KedaRefusal(path, "is no mapping", value=given, expected="a mapping of strings")
    for key, value in given.items():
        if not isinstance(value, str):
            raise KedaRefusal(
                f"{path}.{key}",
                "is no string",
                value=value,
                expected="text in quotes: every value of this mapping is text",
            )


def _unknown(path: str, key: str, known: tuple[str, ...]) -> KedaRefusal:
    said = f'unknown field "{path}{key}"'
    return KedaRefusal(f"{path}{key}", said, said=said, next_step=did_you_mean(key, known))
