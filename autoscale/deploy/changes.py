"""Applying a set: the server is asked first, the difference is shown, and only what we wrote is touched.

`apply` says in lines what happens. `preview` asks the API server for a strict server-side dry run of every object and returns what would change. `commit`
does it. An object that exists without our label was written by somebody else, one with another profile's name belongs
to that profile's set: both are refused unless forced.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import yaml

from analysis.errors import BadInput, NotAchieved
from autoscale.deploy.choices import PLACEHOLDERS
from autoscale.deploy.meta import MANAGED_BY, OWNER, PART_OF
from autoscale.kube.api import Api, connect, kubernetes_object
from autoscale.kube.cluster import ClusterError
from autoscale.kube.kinds import object_path
from autoscale.kube.objects import Object, mapping

Progress = Callable[[float, str], None]
Action = Literal["create", "update", "unchanged", "refused", "invalid"]

SHARED = {"Namespace", "StorageClass"}  # alike in every set: several profiles may use one
SCALED = {"Deployment", "LeaderWorkerSet"}  # their replicas belong to the HPA once they exist
_NOT_COMPARED = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")


class ApplyServer(Protocol):
    """The two calls that applying needs."""

    def get(self, path: str) -> Object | None:
        """The object at an API path, None when there is none. Raises SourceUnavailable."""
        ...

    def apply(self, path: str, document: Object, *, dry_run: bool) -> Object:
        """Server-side apply with strict field validation; the object as stored. Raises BadInput when it is refused."""
        ...


@dataclass(frozen=True)
class Change:
    """What applying one object does: action, unified diff (empty when unchanged), and why when it will not be done."""

    name: str  # kind/namespace/name
    action: Action
    diff: str
    reason: str = ""


def apply(
    documents: Sequence[Object],
    *,
    dry_run: bool = True,
    force: bool = False,
    server: ApplyServer | None = None,
) -> Iterator[str]:
    """Preview (the default) or apply, as lines to print: per object its action and its diff, then the count.

    `server` None is the cluster of KUBECONFIG. Raises as `preview` and `commit` do; a dry run that finds an object which
    would be refused raises NotAchieved after its lines.
    """
    server = server or ApiServer()
    found = preview(documents, server, force=force) if dry_run else commit(documents, server, force=force)
    for change in found:
        yield f"{change.action:<9} {change.name}" + (f": {change.reason}" if change.reason else "")
        yield from change.diff.splitlines()
    stopped = [change.name for change in found if change.action in ("refused", "invalid")]
    if stopped:
        raise NotAchieved(
            f"{len(stopped)} of {len(found)} objects would not be applied", value=", ".join(stopped)
        )
    if dry_run and (left := placeholders(documents)):
        yield f"Fill in before applying: {', '.join(left)}"
    yield f"{len(found)} objects {'checked by the server, nothing was changed' if dry_run else 'applied'}"


def preview(documents: Sequence[Object], server: ApplyServer, *, force: bool = False) -> list[Change]:
    """What would change, one Change per object in order; nothing is written."""
    return [_preview_one(document, server, force) for document in documents]


def commit(documents: Sequence[Object], server: ApplyServer, *, force: bool = False) -> list[Change]:
    """Apply all objects, after a preview in which none is invalid or refused.

    Raises BadInput while placeholders are left, NotAchieved (before writing anything) when the server refuses an object
    or one belongs to somebody else.
    """
    if left := placeholders(documents):
        raise BadInput(
            "the set still holds placeholders",
            value=", ".join(left),
            next_step="give them: --set project=... --set zone=... --set bucket=... --set disk=...",
        )
    changes = preview(documents, server, force=force)
    for change in changes:
        if change.action in ("refused", "invalid"):
            raise NotAchieved(f"nothing was applied: {change.name} is {change.action}: {change.reason}")
    for document, change in zip(documents, changes, strict=True):
        if change.action != "unchanged":
            path = api_path(document)
            server.apply(path, _wanted(document, server.get(path)), dry_run=False)
    return changes


def describe(document: Object) -> str:
    """kind/namespace/name of an object."""
    meta = document["metadata"]
    return "/".join(part for part in (document["kind"], meta.get("namespace", ""), meta["name"]) if part)


def api_path(document: Object) -> str:
    """The API path of an object. Raises BadInput for a kind that is not known."""
    meta = document["metadata"]
    return object_path(document["kind"], meta["name"], meta.get("namespace"), api=document["apiVersion"])


def placeholders(documents: Sequence[Object]) -> list[str]:
    """Names that the user still has to fill in, in the order of the options."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, str):
            found.update(set(value.split("/")) & set(PLACEHOLDERS))

    walk(list(documents))
    return [word for word in PLACEHOLDERS if word in found]


def _preview_one(document: Object, server: ApplyServer, force: bool) -> Change:
    name, path = describe(document), api_path(document)
    live = server.get(path)
    try:
        after = server.apply(path, _wanted(document, live), dry_run=True)
    except BadInput as error:
        return Change(name, "invalid", "", str(error))
    diff = _diff(live, after, name)
    if live is not None and not force and (reason := _foreign(document, live)):
        return Change(name, "refused", diff, f"{reason}; --force takes it over")
    if live is None:
        return Change(name, "create", diff)
    return Change(name, "update" if diff else "unchanged", diff)


def _foreign(document: Object, live: Object) -> str:
    """Why a live object is not ours to change, "" when it is: who wrote it, and for which profile."""
    labels = mapping(live["metadata"].get("labels"))
    if labels.get(MANAGED_BY) != OWNER:
        return f"it exists without the label {MANAGED_BY}={OWNER}, so somebody else wrote it"
    profile, asked = labels.get(PART_OF), (document["metadata"].get("labels") or {}).get(PART_OF)
    if profile != asked and document["kind"] not in SHARED:
        return f"it belongs to profile {profile or 'unknown'}, this set is {asked}: give one of them another namespace"
    return ""


def _wanted(document: Object, live: Object | None) -> Object:
    """What is sent: the replicas of a workload that exists are left to its HPA."""
    if live is None or document["kind"] not in SCALED:
        return document
    sent = copy.deepcopy(document)
    if "replicas" in mapping(live.get("spec")):
        sent["spec"]["replicas"] = live["spec"]["replicas"]
    return sent


def _diff(before: Object | None, after: Object, name: str) -> str:
    old, new = _comparable(before), _comparable(after)
    return "".join(difflib.unified_diff(old, new, f"live {name}", f"applied {name}"))


def _comparable(document: Object | None) -> list[str]:
    if document is None:
        return []
    shown = {key: value for key, value in document.items() if key != "status"}
    shown["metadata"] = {k: v for k, v in document.get("metadata", {}).items() if k not in _NOT_COMPARED}
    return yaml.safe_dump(shown, sort_keys=True).splitlines(keepends=True)


class ApiServer:
    """The real Server. Raises SourceUnavailable when there is no usable configuration."""

    def __init__(self, kubeconfig: str | None = None) -> None:
        self._api = Api(connect(kubeconfig=kubeconfig))

    def get(self, path: str) -> Object | None:
        """See Server.get."""
        try:
            return kubernetes_object(path, self._api.get(path))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def apply(self, path: str, document: Object, *, dry_run: bool) -> Object:
        """See Server.apply."""
        stored = self._api.apply(path, document, OWNER, dry_run=dry_run)
        if stored is None:
            raise BadInput(
                f"the API server does not know {path.rsplit('/', 2)[-2]}, or the namespace is missing"
            )
        return stored
