"""Names and labels that every object of a set carries."""

from __future__ import annotations

import re
from typing import Any

from analysis.errors import BadInput
from autoscale.profiles import Profile

MANAGED_BY = "app.kubernetes.io/managed-by"
PART_OF = "app.kubernetes.io/part-of"  # the profile
OWNER = "llm-autoscale"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def meta(profile: Profile, name: str, *, namespaced: bool = True) -> dict[str, Any]:
    """metadata of one object: name, namespace, and the label that says that we wrote it.

    Raises BadInput for a name that the API server would refuse: names also go into queries and commands.
    """
    for part in (name, profile.deploy.namespace):
        if len(part) > 63 or not _NAME.fullmatch(part):
            raise BadInput(
                "not a Kubernetes name",
                value=part,
                expected="lower-case letters, digits and dashes, at most 63",
            )
    return {
        "name": name,
        **({"namespace": profile.deploy.namespace} if namespaced else {}),
        "labels": {MANAGED_BY: OWNER, PART_OF: profile.name},
    }
