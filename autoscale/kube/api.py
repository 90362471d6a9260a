"""The one door to a Kubernetes API server: connect, ask, list page by page, apply.

Requests go through the `kubernetes` client library's transport and credentials; objects stay as the server sent them.
No discovery: the paths are known (kinds.py), and whoever has no rights on /apis can still start.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from analysis.access import sendable
from analysis.errors import BadInput, SourceUnavailable, printable
from analysis.files import json_value
from analysis.redact import remember
from analysis.run import unix_now_s
from autoscale.kube.clocks import Clocks
from autoscale.kube.cluster import ClusterError
from autoscale.kube.kubeconfig import check_kubeconfig, logged_in
from autoscale.kube.objects import Object

PAGE = 500  # objects per list page: a large namespace never lies in one answer
ANSWER_S = (10.0, 30.0)  # to connect, between two reads
SILENCE_S = 75.0  # a watch without a byte for this long: the connection is dead
SHOWN = 80  # characters of an odd answer
MOST_PAGES = 10_000  # of one list: five million objects
MOST_RESTARTS = 5  # of a list whose pages expire while they are read
CORE = "/api/v1/"  # of the kinds that every cluster has, pods among them
DROPPED = (http.client.HTTPException, OSError, ValueError)
REFUSED_OBJECT = (400, 409, 422)

Query = Sequence[tuple[str, str]]


class Api:
    """An API server. `api_client` is a configured kubernetes.client.ApiClient."""

    def __init__(self, api_client: Any, clock: Callable[[], float] = unix_now_s) -> None:
        from kubernetes.dynamic import DynamicClient

        self._client = DynamicClient(api_client, discoverer=lambda *_: None)
        self._host = str(api_client.configuration.host)
        self._clock = clock
        self.clocks = Clocks()

    def now_s(self) -> float:
        """The observer's clock."""
        return self._clock()

    def request(self, method: str, path: str, query: Query = (), body: Any = None, **options: Any) -> Any:
        """One request; returns the open response. Raises ClusterError."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        asked_s = self._clock()
        try:
            answer = self._client.request(
                method,
                path,
                body=body,
                query_params=[*query],
                serialize=False,
                _request_timeout=options.pop("timeout", (ANSWER_S[0], SILENCE_S)),
                **options,
            )
        except ApiException as error:
            self.clocks.add(asked_s, self._clock(), (error.headers or {}).get("Date"))
            raise _refused(method, path, error) from None
        except (HTTPError, *DROPPED) as error:
            raise ClusterError(
                _unanswered(error, path, self._host),
                next_step="check the kubeconfig's server address and the network",
            ) from None
        self.clocks.add(asked_s, self._clock(), answer.headers.get("Date"))
        return answer

    def get(self, path: str, query: Query = ()) -> Object:
        """One JSON object. Raises ClusterError."""
        return self._json(path, self.request("get", path, query, timeout=ANSWER_S))

    def pages(self, path: str, query: Query = ()) -> tuple[list[Object], Object]:
        """All objects of a collection, each with metadata and a name, and the last page. Raises ClusterError."""
        found: list[Object] = []
        token, tokens, restarts = "", {""}, 0
        while len(tokens) <= MOST_PAGES:
            paging = [("limit", str(PAGE)), *([("continue", token)] if token else [])]
            try:
                page = self.get(path, [*query, *paging])
            except ClusterError as error:
                if error.status == 404 and path.startswith(CORE) and path.endswith("/pods"):
                    raise self.no_api_server(f"GET {path} was answered 404") from None
                if error.status != 410 or not token or restarts == MOST_RESTARTS:
                    raise
                found, token, tokens = [], "", {""}  # the pages expired while they were read
                restarts += 1
                continue
            found += _items(path, page)
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found, page
            if not isinstance(token, str) or token in tokens:
                break
            tokens.add(token)
        raise self.no_api_server(f"the pages of {path} have no end")

    def no_api_server(self, why: str) -> ClusterError:
        """The error for an address where something else answers."""
        return ClusterError(
            f"{urlsplit(self._host).netloc.rpartition('@')[2]} does not answer like a Kubernetes API server: {why}",
            next_step="check the server's address in the kubeconfig",
        )

    def apply(self, path: str, document: Object, owner: str, *, dry_run: bool) -> Object | None:
        """Server-side apply with strict field validation; the object as stored, None where the server has no such path.

        Conflicts with other field managers are forced: whose object it is was decided before. Raises BadInput with the
        server's sentence when it refuses the object, ClusterError for the rest.
        """
        query = [("fieldManager", owner), ("fieldValidation", "Strict"), ("force", "true")]
        try:
            answer = self.request(
                "patch",
                path,
                [*query, *([("dryRun", "All")] if dry_run else [])],
                json.dumps(document),  # JSON is YAML
                content_type="application/apply-patch+yaml",
                timeout=ANSWER_S,
            )
        except ClusterError as error:
            if error.status == 404:
                return None
            if error.status in REFUSED_OBJECT:
                raise BadInput(error.message) from None
            raise
        return kubernetes_object(path, self._json(path, answer))

    @staticmethod
    def _json(path: str, answer: Any) -> Object:
        from urllib3.exceptions import HTTPError

        try:
            found = json_value(answer.read())
        except (HTTPError, *DROPPED) as error:
            raise ClusterError(f"{path} was cut off or is not JSON: {error}") from None
        finally:
            answer.release_conn()
        if not isinstance(found, dict):
            raise ClusterError(f"{path} answered something that is no Kubernetes object: {_shown(found)}")
        return found


def kubernetes_object(path: str, found: Object) -> Object:
    """The object, once it has metadata. Raises ClusterError."""
    if not isinstance(found.get("metadata"), dict):
        raise ClusterError(f"{path} answered something that is no Kubernetes object: {_shown(found)}")
    return found


def _items(path: str, page: Object) -> list[Object]:
    """The objects of a page; servers in Go write null for none."""
    items, metadata = page.get("items"), page.get("metadata")
    sound = isinstance(items, list | None) and isinstance(metadata, dict | None) and "items" in page
    if not sound or not all(_is_named(item) for item in items or []):
        raise ClusterError(f"{path} answered something that is no Kubernetes list: {_shown(page)}")
    return items or []


def _is_named(item: Any) -> bool:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    return isinstance(metadata, dict) and isinstance(metadata.get("name"), str)


def _shown(answer: Any) -> str:
    """The beginning of an answer."""
    return repr(printable(json.dumps(answer, ensure_ascii=False), SHOWN))


def connect(context: str | None = None, kubeconfig: str | None = None) -> Any:
    """The ApiClient of a kubeconfig, or of the pod that this runs in. Raises SourceUnavailable when there is no usable config."""
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    settings = client.Configuration()
    which = check_kubeconfig(kubeconfig)
    try:
        logged_in(
            lambda: config.load_kube_config(
                config_file=kubeconfig, context=context, client_configuration=settings
            )
        )
    except SourceUnavailable:
        raise
    except Exception as error:  # noqa: BLE001  # the library trusts the file: anything may come
        try:
            config.load_incluster_config(client_configuration=settings)
        except ConfigException:
            known = isinstance(error, ConfigException | OSError)
            raise SourceUnavailable(
                f"{which}: {str(error).rstrip('.')}"
                if known
                else f"{which} cannot be used: {type(error).__name__}, {error}",
                next_step="set KUBECONFIG or name a context (gcloud container clusters get-credentials NAME)",
            ) from None
    for name, key in settings.api_key.items():
        settings.api_key[name] = sendable(key, "the token of the kubeconfig")
    remember(settings.password or "")
    try:
        return client.ApiClient(settings)
    except (OSError, ValueError) as error:  # certificates that are none
        raise SourceUnavailable(f"the certificates of the kubeconfig cannot be used: {error}") from None


def _unanswered(error: Exception, path: str, host: str) -> str:
    """What happened, without the words of the client library where nobody listens."""
    from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

    why = error.reason if isinstance(error, MaxRetryError) else error
    asked = urlsplit(host)
    place, pool = asked.netloc.rpartition("@")[2], getattr(error, "pool", None)
    nobody = isinstance(why, NewConnectionError | ConnectTimeoutError)
    port = asked.port or (443 if asked.scheme == "https" else 80)
    if pool is not None and (pool.scheme, pool.host.strip("[]"), pool.port) != (
        asked.scheme,
        asked.hostname,
        port,
    ):
        there = f"{pool.scheme}://{pool.host}:{pool.port}"
        return f"{place} does not answer like a Kubernetes API server: it redirects to {there}" + (
            ", where nobody answers" if nobody else f": {why}"
        )
    if nobody:
        return f"no API server answers at {place}"
    return f"no answer from the API server at {place} to {path}: {why}"


def _refused(method: str, path: str, error: Any) -> ClusterError:
    try:
        message = str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        message = str(error.reason or error.body or "")
    return ClusterError(
        f"{method.upper()} {path} was answered {error.status}: {message}",
        status=error.status,
        message=message,
        retry_after_s=_retry_after_s((error.headers or {}).get("Retry-After")),
    )


def _retry_after_s(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"[0-9]+(\.[0-9]*)?", text) else None
