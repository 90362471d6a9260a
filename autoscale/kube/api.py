"""The one door to a Kubernetes API server: connect, ask, list page by page, apply.

Requests go through the `kubernetes` client library's transport and credentials; objects stay as the server sent them.
No discovery: the paths are known (kinds.py), and whoever has no rights on /apis can still start.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from analysis.errors import BadInput, SourceUnavailable
from analysis.redact import remember
from analysis.run import unix_now_s
from autoscale.kube.clocks import Clocks
from autoscale.kube.cluster import ClusterError
from autoscale.kube.objects import Object

PAGE = 500  # objects per list page: a large namespace never lies in one answer
ANSWER_S = (10.0, 30.0)  # to connect, between two reads
SILENCE_S = 75.0  # a watch without a byte for this long: the connection is dead
DROPPED = (http.client.HTTPException, OSError, ValueError)
REFUSED_OBJECT = (400, 409, 422)

Query = Sequence[tuple[str, str]]


class Api:
    """An API server. `api_client` is a configured kubernetes.client.ApiClient."""

    def __init__(self, api_client: Any, clock: Callable[[], float] = unix_now_s) -> None:
        from kubernetes.dynamic import DynamicClient

        self._client = DynamicClient(api_client, discoverer=lambda *_: None)
        self._place = urlsplit(api_client.configuration.host).netloc.rpartition("@")[2]
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
                _unanswered(error, path, self._place),
                next_step="check the kubeconfig's server address and the network",
            ) from None
        self.clocks.add(asked_s, self._clock(), answer.headers.get("Date"))
        return answer

    def get(self, path: str, query: Query = ()) -> Object:
        """One JSON object. Raises ClusterError."""
        return self._json(path, self.request("get", path, query, timeout=ANSWER_S))

    def pages(self, path: str, query: Query = ()) -> tuple[list[Object], Object]:
        """All objects of a collection, and the last page. Raises ClusterError."""
        found: list[Object] = []
        token = ""
        while True:
            paging = [("limit", str(PAGE)), *([("continue", token)] if token else [])]
            try:
                page = self.get(path, [*query, *paging])
            except ClusterError as error:
                if error.status != 410 or not token:
                    raise
                found, token = [], ""  # the pages expired while they were read
                continue
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found, page

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
        return self._json(path, answer)

    @staticmethod
    def _json(path: str, answer: Any) -> Object:
        try:
            found: Object = json.loads(answer.read())
            return found
        except DROPPED as error:
            raise ClusterError(f"{path} was cut off or is not JSON: {error}") from None
        finally:
            answer.release_conn()


def connect(context: str | None = None, kubeconfig: str | None = None) -> Any:
    """The ApiClient of a kubeconfig, or of the pod that this runs in. Raises SourceUnavailable when there is no usable config."""
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    settings = client.Configuration()
    try:
        config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=settings)
    except (ConfigException, TypeError, OSError) as error:
        try:
            config.load_incluster_config(client_configuration=settings)
        except ConfigException:
            raise SourceUnavailable(
                f"no usable kubeconfig: {error}",
                next_step="set KUBECONFIG or name a context (gcloud container clusters get-credentials NAME)",
            ) from None
    keys = (key for key in [*settings.api_key.values(), settings.password or ""] if key)
    remember(*(key.removeprefix("Bearer ") for key in keys))
    return client.ApiClient(settings)


def _unanswered(error: Exception, path: str, place: str) -> str:
    """What happened, without the words of the client library where nobody listens."""
    from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

    why = error.reason if isinstance(error, MaxRetryError) else error
    if isinstance(why, NewConnectionError | ConnectTimeoutError):
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
    return float(text) if text and text.replace(".", "", 1).isdigit() else None
