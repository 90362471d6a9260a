"""Rules on any object: tokens, wrong API groups and label prefixes, ORed node terms, selectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autoscale.kube.kinds import LWS_API, LWS_LABEL
from autoscale.kube.objects import items, mapping
from autoscale.kube.selectors import object_selects
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding, Located
from autoscale.lint.parts import Path
from autoscale.lint.rules.text import TOKEN, inline

LWS_GROUP = LWS_API.split("/")[0]


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every object by itself, and on selectors against templates."""
    for located in facts.objects:
        yield from _strings(located)
        yield from _object(located)
    for template in facts.templates:
        if mapping(template.owner.spec.get("selector")) and template.owner.kind != "Job":
            yield from _selects_itself(template.owner, template.labels)


# --- walking every text ----------------------------------------------------------------------------------------------


def _strings(located: Located) -> Iterator[Finding]:
    """Tokens in any text, and the LeaderWorkerSet's two names in the wrong place, wherever they stand."""
    stack: list[tuple[Path, Any]] = [((), located.object)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            if len(path) > 1 and "nodeSelectorTerms" in value:
                yield from _ored(located, (*path, "nodeSelectorTerms"), value["nodeSelectorTerms"])
            for key, item in value.items():
                if isinstance(key, str) and key.startswith(f"{LWS_GROUP}/"):
                    yield _label(located, (*path, key), key)
                stack.append(((*path, str(key)), item))
        elif isinstance(value, list):
            stack += [((*path, index), item) for index, item in enumerate(value)]
        elif isinstance(value, str):
            if len(value) > 18 and TOKEN.search(value):
                yield inline(located, path, str(path[-1]) if path else "text")
            if (
                LWS_GROUP in value
                and value.startswith(f"{LWS_GROUP}/")
                and value != LWS_API
                and path[-1] in ("key", "topologyKey")
            ):
                yield _label(located, path, value)
            if value.startswith(LWS_LABEL) and (
                "apiVersion" in path[-1:] or "apiGroups" in path or "apiGroup" in path[-1:]
            ):
                yield located.finding(
                    "error",
                    "lws-api-group",
                    path,
                    f"{value} is the label prefix, not the API group.",
                    "The API server knows no such group: the object or the reference is refused.",
                    f"Write {LWS_API if path[-1] == 'apiVersion' else LWS_GROUP}.",
                )


def _label(located: Located, path: Path, key: str) -> Finding:
    right = key.replace(LWS_GROUP, LWS_LABEL)
    return located.finding(
        "error",
        "lws-label-prefix",
        path,
        f"{key} has the API group as its prefix.",
        "No pod carries this label: the selector chooses nothing.",
        f"Write {right}.",
    )


def _ored(located: Located, path: Path, terms: Any) -> Iterator[Finding]:
    keys = [
        {
            str(mapping(e).get("key"))
            for part in ("matchExpressions", "matchFields")
            for e in items(mapping(term).get(part))
        }
        for term in items(terms)
    ]
    if len(keys) > 1 and any(not first & second for first in keys for second in keys if first is not second):
        yield located.finding(
            "error",
            "node-terms-ored",
            path,
            f"{len(keys)} nodeSelectorTerms ask for {', '.join(sorted(set().union(*keys)))}: terms are ORed.",
            "A node that fits one of them is enough: the pod lands in the wrong zone or on the wrong machine.",
            "Put all matchExpressions into one term.",
        )


# --- objects of a known kind -----------------------------------------------------------------------------------------


def _object(located: Located) -> Iterator[Finding]:
    if located.kind == "LeaderWorkerSet" and located.api != LWS_API and not located.api.startswith(LWS_LABEL):
        yield located.finding(
            "error", "lws-api-group", ("apiVersion",), f"apiVersion {located.api} serves no LeaderWorkerSet.",
            "The API server refuses the object.", f"Write apiVersion: {LWS_API}.",
        )  # fmt: skip


def _selects_itself(owner: Located, labels: dict[str, str | None]) -> Iterator[Finding]:
    own = owner.kind in ("Deployment", "StatefulSet", "ReplicaSet", "DaemonSet")
    if own and not object_selects(owner.spec.get("selector"), labels):
        yield owner.finding(
            "error",
            "selector-template-mismatch",
            ("spec", "selector"),
            "The selector does not select the workload's own pods.",
            "An API server refuses the object.",
            "Give the template's labels and the selector the same pairs.",
        )
