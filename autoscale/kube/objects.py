"""Reading a Kubernetes object as far as it can be read: what is missing or of another type is empty."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]  # an object of the API server, or a mapping within one


def mapping(value: object) -> Object:
    """The value when it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """The value when it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def conditions(found: Object) -> dict[str, Object]:
    """Condition type -> condition of an HPA or a pod."""
    return {
        str(c["type"]): c
        for c in map(mapping, items(mapping(found.get("status")).get("conditions")))
        if "type" in c
    }


def members(value: Object) -> list[Any] | None:
    """What a List of objects holds, each with its kind and apiVersion; None for anything else."""
    kind, found = value.get("kind"), value.get("items")
    if not isinstance(kind, str) or not kind.endswith("List") or not isinstance(found, list):
        return None
    for item in found:
        if isinstance(item, dict):
            item.setdefault("kind", kind.removesuffix("List") or None)
            item.setdefault("apiVersion", value.get("apiVersion"))
    return found
