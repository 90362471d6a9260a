"""Applying a set: the server is asked first, the difference is shown, and only what we wrote is touched.

`apply` says in lines what happens. `preview` asks the API server for a strict server-side dry run of every object and returns what would change. `commit`
does it. An object that exists without our label was written by somebody else, one with another profile's name belongs
to that profile's set: both are refused unless forced.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import quote

import yaml

from analysis.errors import BadInput, NotAchieved, SourceUnavailable
from autoscale.deploy.choices import PLACEHOLDERS
from autoscale.deploy.meta import MANAGED_BY, OWNER, PART_OF

Object = dict[str, Any]
Progress = Callable[[float, str], None]
Action = Literal["create", "update", "unchanged", "refused", "invalid"]

# kind -> plural; cluster-wide kinds are named below
PLURALS = {
    "AutoscalingMetric": "autoscalingmetrics",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Deployment": "deployments",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "Job": "jobs",
    "LeaderWorkerSet": "leaderworkersets",
    "Namespace": "namespaces",
    "PersistentVolume": "persistentvolumes",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Pod": "pods",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "PodMonitor": "podmonitors",
    "PodMonitoring": "podmonitorings",
    "PrometheusRule": "prometheusrules",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Rules": "rules",
    "ScaledObject": "scaledobjects",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "StorageClass": "storageclasses",
}
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "Namespace", "PersistentVolume", "StorageClass"}
SHARED = {"Namespace", "StorageClass"}  # alike in every set: several profiles may use one
SCALED = {"Deployment", "LeaderWorkerSet"}  # their replicas belong to the HPA once they exist
TIMEOUT_S = 30
_NOT_COMPARED = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")


class Server(Protocol):
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
    documents: Sequence[Object], *, dry_run: bool = True, force: bool = False, server: Server | None = None
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


def preview(
    documents: Sequence[Object], server: Server, *, force: bool = False, progress: Progress | None = None
) -> list[Change]:
    """What would change, one Change per object in order; nothing is written."""
    changes = []
    for index, document in enumerate(documents):
        if progress:
            progress(index / len(documents), describe(document))
        changes.append(_preview_one(document, server, force))
    return changes


def commit(
    documents: Sequence[Object], server: Server, *, force: bool = False, progress: Progress | None = None
) -> list[Change]:
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
    for index, (document, change) in enumerate(zip(documents, changes, strict=True)):
        if progress:
            progress(index / len(documents), f"{change.action} {change.name}")
        if change.action != "unchanged":
            path = api_path(document)
            server.apply(path, _wanted(document, server.get(path)), dry_run=False)
    return changes


def describe(document: Object) -> str:
    """kind/namespace/name of an object."""
    meta = document["metadata"]
    return "/".join(part for part in (document["kind"], meta.get("namespace", ""), meta["name"]) if part)


def api_path(document: Object) -> str:
    """The API path of an object. Raises BadInput for a kind that a set never holds."""
    kind, api, meta = document["kind"], document["apiVersion"], document["metadata"]
    if kind not in PLURALS:
        raise BadInput("cannot apply kind", value=kind, expected=f"one of {', '.join(PLURALS)}")
    root = f"/apis/{api}" if "/" in api else f"/api/{api}"
    space = "" if kind in CLUSTER_WIDE else f"/namespaces/{quote(meta.get('namespace', 'default'), safe='')}"
    return f"{root}{space}/{PLURALS[kind]}/{quote(meta['name'], safe='')}"


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


def _preview_one(document: Object, server: Server, force: bool) -> Change:
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
    labels = live["metadata"].get("labels") or {}
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
    if "replicas" in (live.get("spec") or {}):
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
    """The real Server, over the kubernetes client. Raises SourceUnavailable when there is no usable configuration."""

    def __init__(self, kubeconfig: str | None = None, context: str | None = None) -> None:
        from kubernetes import config, dynamic

        try:
            client = config.new_client_from_config(config_file=kubeconfig, context=context)
        except (config.ConfigException, OSError) as error:
            raise SourceUnavailable(f"no usable kubeconfig: {error}") from None
        self._client = dynamic.DynamicClient(
            client, discoverer=lambda *_: None
        )  # paths are known: nothing to discover

    def get(self, path: str) -> Object | None:
        """See Server.get."""
        return self._request("GET", path, None, ())

    def apply(self, path: str, document: Object, *, dry_run: bool) -> Object:
        """See Server.apply."""
        # whose object it is was decided before by its label, so other field managers (kubectl, an editor) do not stop us
        query = [("fieldManager", OWNER), ("fieldValidation", "Strict"), ("force", "true")]
        if dry_run:
            query.append(("dryRun", "All"))
        stored = self._request("PATCH", path, document, query)
        if stored is None:
            raise BadInput(
                f"the API server does not know {path.rsplit('/', 2)[-2]}, or the namespace is missing"
            )
        return stored

    def _request(
        self, method: str, path: str, body: Object | None, query: Sequence[tuple[str, str]]
    ) -> Object | None:
        import urllib3
        from kubernetes.client.exceptions import ApiException

        try:
            answer = self._client.request(
                method,
                path,
                body=None if body is None else json.dumps(body),  # JSON is YAML
                query_params=list(query),
                content_type="application/apply-patch+yaml" if body is not None else None,
                serialize=False,
                _request_timeout=TIMEOUT_S,
            )
        except ApiException as error:
            if error.status == 404:
                return None
            sentence = _message(error.body) or str(error.reason)
            if error.status in (400, 409, 422):
                raise BadInput(sentence) from None
            raise SourceUnavailable(f"{method} {path}: {error.status} {sentence}") from None
        except urllib3.exceptions.HTTPError as error:
            raise SourceUnavailable(f"{method} {path}: {error}") from None
        found: Object = json.loads(answer.data)
        return found


def _message(body: Any) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, TypeError, KeyError):
        return ""
