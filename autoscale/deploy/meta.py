"""Names and labels that every object of a set carries."""

from __future__ import annotations

from typing import Any

from autoscale.profiles import Profile

MANAGED_BY = "app.kubernetes.io/managed-by"
OWNER = "llm-autoscale"


def meta(profile: Profile, name: str, *, namespaced: bool = True) -> dict[str, Any]:
    """metadata of one object: name, namespace, and the label that says that we wrote it."""
    return {
        "name": name,
        **({"namespace": profile.deploy.namespace} if namespaced else {}),
        "labels": {MANAGED_BY: OWNER, "app.kubernetes.io/part-of": profile.name},
    }
