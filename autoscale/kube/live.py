"""The live side of the door: a Kubernetes API server through the `kubernetes` client.

One thread per resource lists, then watches from the version of the list. What goes wrong on the way:

    watch ends, connection drops    watch again from the last version; `gap` says how late changes were seen
    410 Gone                        list again; differences become ADDED, MODIFIED and DELETED; `gap` says what is lost
    429, 5xx, no answer             wait (Retry-After, or 0.5 s doubling to 30 s, jittered) and go on
    403, 404                        `gap` names it once; tried again every minute, so that a late grant or CRD is seen

Requests go through the client library's transport and credentials; objects stay as the API server sent them.
"""

from __future__ import annotations

import builtins
import http.client
import json
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from analysis.errors import BadInput
from autoscale.kube.cluster import ClusterError, Observation, log_phase, milli, slim

PATHS = {
    "pods": "/api/v1",
    "nodes": "/api/v1",
    "events": "/api/v1",
    "deployments": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "statefulsets": "/apis/apps/v1",
    "horizontalpodautoscalers": "/apis/autoscaling/v2",
    "leaderworkersets": "/apis/leaderworkerset.x-k8s.io/v1",
    "podmonitorings": "/apis/monitoring.googleapis.com/v1",
    "podmonitors": "/apis/monitoring.coreos.com/v1",
}
CLUSTER_SCOPED = {"nodes"}
SCALED = {"Deployment": "deployments", "StatefulSet": "statefulsets", "LeaderWorkerSet": "leaderworkersets"}
METRICS_GROUP = "custom.metrics.k8s.io"

PAGE = 500  # objects per list page: a large namespace never lies in one answer
WATCH_S = 60  # a watch is renewed this often, so that a dead connection is noticed soon
SILENCE_S = 75.0  # no byte for this long: the connection is dead
HIDDEN_RETRY_S = 60.0
LATE_WORTH_TELLING_S = 2.0
LONGEST_WAIT_S = 30.0
LOG_BYTES = 4_000_000
CLOCK_NEWS_S = 0.1
DROPPED = (http.client.HTTPException, OSError, ValueError)


class Clocks:
    """The observer's clock minus the server's, narrowed by the Date header of every answer.

    A Date is a whole second, so one answer says: low = asked - (date + 1), high = answered - date. The intersection
    over many answers is far narrower than a second; an empty one means that a clock was set, and it starts anew.
    """

    def __init__(self) -> None:
        self.low_s, self.high_s = -math.inf, math.inf

    def add(self, asked_s: float, answered_s: float, date: str | None) -> None:
        """Take the Date header of one answer in."""
        if not date:
            return
        with suppress(ValueError, TypeError):
            stamp_s = parsedate_to_datetime(date).timestamp()
            low_s, high_s = asked_s - stamp_s - 1.0, answered_s - stamp_s
            if low_s > self.high_s or high_s < self.low_s:
                self.low_s, self.high_s = low_s, high_s
            else:
                self.low_s, self.high_s = max(low_s, self.low_s), min(high_s, self.high_s)

    @property
    def offset_s(self) -> float:
        """The middle of what is possible; NaN before the first answer. 0 is possible: exactly 0."""
        if self.low_s <= 0.0 <= self.high_s:
            return 0.0
        return (self.low_s + self.high_s) / 2 if math.isfinite(self.low_s) else math.nan


class LiveCluster:
    """A `Cluster` over the real API. `api_client` is a configured kubernetes.client.ApiClient."""

    tells_queries = False

    def __init__(self, api_client: Any, clock: Callable[[], float] = time.time) -> None:
        from kubernetes.dynamic import DynamicClient

        # no discovery: the paths are known, and a checker without rights on /apis must still start
        self._client = DynamicClient(api_client, discoverer=lambda *_: None)
        self._clock = clock
        self.clocks = Clocks()
        self._clock_told: tuple[float, float] = (math.nan, math.nan)
        self._lock = threading.Lock()
        self._metrics_root: str | None = None

    # --- the door ---

    def list(
        self, resource: str, namespace: str | None = None, selector: str = ""
    ) -> builtins.list[dict[str, Any]]:
        """Current objects of one resource, page by page. Raises ClusterError."""
        return self.list_with_version(resource, namespace, selector)[0]

    def observe(
        self, resources: builtins.list[str], namespace: str, stop: threading.Event
    ) -> Iterator[Observation]:
        """List, then watch the resources until `stop` is set; survives what the module's docstring names."""
        found: queue.Queue[Observation] = queue.Queue(maxsize=10_000)
        ended = threading.Event()
        watchers = [
            _Watcher(self, r, namespace, found, lambda: stop.is_set() or ended.is_set()) for r in resources
        ]
        for watcher in watchers:
            watcher.start()
        try:
            while not stop.is_set():
                with suppress(queue.Empty):
                    yield found.get(timeout=0.1)
            while True:
                yield found.get_nowait()
        except queue.Empty:
            return
        finally:
            ended.set()
            for watcher in watchers:
                watcher.interrupt()
            for watcher in watchers:
                watcher.join(timeout=2.0)

    def custom_metric(self, namespace: str, metric: str, selector: str) -> dict[str, int]:
        """Pod name -> value in milli-units, asked as the HPA asks. Raises ClusterError with the cause in its status."""
        query = [("labelSelector", selector)] if selector else []
        rest = f"/namespaces/{quote(namespace)}/pods/*/{quote(metric, safe=':')}"
        known = self._metrics_root is not None
        root = self._metrics_root or self._find_metrics_root()
        try:
            answer = self.get(root + rest, query)
        except ClusterError as error:
            self._metrics_root = None
            if known and error.status in (404, 503):
                self._find_metrics_root()  # raises the better reason when the whole API went away
            raise
        self._metrics_root = root
        return {item["describedObject"]["name"]: milli(item["value"]) for item in answer.get("items") or []}

    def scale(self, hpa: dict[str, Any], replicas: int) -> None:
        """Write the scale subresource of the HPA's target: the only call that changes anything."""
        reference, namespace = hpa["spec"]["scaleTargetRef"], hpa["metadata"]["namespace"]
        plural = SCALED.get(reference["kind"])
        if plural is None:
            raise BadInput("cannot scale the kind", value=reference["kind"], expected=", ".join(SCALED))
        path = f"/apis/{reference['apiVersion']}/namespaces/{namespace}/{plural}/{reference['name']}/scale"
        self.request(
            "patch", path, body={"spec": {"replicas": replicas}}, content_type="application/merge-patch+json"
        ).release_conn()

    # --- requests ---

    def request(self, method: str, path: str, query: Any = (), body: Any = None, **options: Any) -> Any:
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
                _request_timeout=options.pop("timeout", (10.0, SILENCE_S)),
                **options,
            )
        except ApiException as error:
            self.clocks.add(asked_s, self._clock(), (error.headers or {}).get("Date"))
            raise _refused(method, path, error) from None
        except (HTTPError, *DROPPED) as error:
            raise ClusterError(
                f"no answer from the API server to {path}: {error}",
                next_step="check the kubeconfig's server address and the network",
            ) from None
        self.clocks.add(asked_s, self._clock(), answer.headers.get("Date"))
        return answer

    def get(self, path: str, query: Any = ()) -> dict[str, Any]:
        """One JSON object. Raises ClusterError."""
        answer = self.request("get", path, query, timeout=(10.0, 30.0))
        try:
            return json.loads(answer.read())
        except DROPPED as error:
            raise ClusterError(f"{path} was cut off or is not JSON: {error}") from None
        finally:
            answer.release_conn()

    def list_with_version(
        self, resource: str, namespace: str | None, selector: str = ""
    ) -> tuple[builtins.list[dict[str, Any]], str]:
        """The objects and the version from which a watch continues."""
        items: Any = []
        query = [("labelSelector", selector)] if selector else []
        page: dict[str, Any] = {}
        token = ""
        while True:
            paging = [("limit", str(PAGE)), *([("continue", token)] if token else [])]
            try:
                page = self.get(resource_path(resource, namespace), [*query, *paging])
            except ClusterError as error:
                if error.status != 410 or not token:
                    raise
                items, token = [], ""  # the pages expired while they were read
                continue
            kind = str(page.get("kind", "")).removesuffix("List")
            items += [
                slim(resource, {"kind": kind, "apiVersion": page.get("apiVersion"), **o})
                for o in page["items"]
            ]
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return items, str(page["metadata"]["resourceVersion"])

    def log_lines(self, namespace: str, pod: str, container: str) -> Any:
        """The lines of a container's log that end a start-up phase, as [{time, text}]. Raises ClusterError."""
        query = [("container", container), ("timestamps", "true"), ("limitBytes", str(LOG_BYTES))]
        answer = self.request(
            "get", f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query, timeout=(10.0, 30.0)
        )
        try:
            text = answer.read().decode("utf-8", "replace")
        finally:
            answer.release_conn()
        split = (line.partition(" ") for line in text.splitlines() if log_phase(line))
        return [{"time": stamp, "text": words} for stamp, _, words in split]

    def now_s(self) -> float:
        """The observer's clock."""
        return self._clock()

    def clock_news(self) -> Observation | None:
        """The clock difference, when it is known noticeably better than last told."""
        with self._lock:
            low_s, high_s = self.clocks.low_s, self.clocks.high_s
            told_low_s, told_high_s = self._clock_told
            inside = told_low_s <= low_s and high_s <= told_high_s
            narrowed_s = (told_high_s - told_low_s) - (high_s - low_s)
            if not math.isfinite(low_s) or (inside and narrowed_s < CLOCK_NEWS_S):
                return None
            self._clock_told = (low_s, high_s)
        facts = {
            "offset_s": round(self.clocks.offset_s, 3),
            "low_s": round(low_s, 3),
            "high_s": round(high_s, 3),
        }
        return Observation(self._clock(), "clock", "MEASURED", facts)

    def _find_metrics_root(self) -> str:
        try:
            group = self.get(f"/apis/{METRICS_GROUP}")
        except ClusterError as error:
            if error.status == 404:
                raise self._no_metrics_api() from None
            raise
        versions = [version["version"] for version in group.get("versions") or []]
        best = next(
            (v for v in ("v1beta2", "v1beta1") if v in versions), versions[0] if versions else "v1beta2"
        )
        return f"/apis/{METRICS_GROUP}/{best}"

    def _no_metrics_api(self) -> ClusterError:
        """Absent, or registered with its server down: the aggregator answers 404 to both."""
        for version in ("v1beta2", "v1beta1"):
            with suppress(ClusterError):
                self.get(f"/apis/apiregistration.k8s.io/v1/apiservices/{version}.{METRICS_GROUP}")
                return ClusterError(
                    "the custom metrics API is registered, but its server does not answer", status=503
                )
        return ClusterError(
            f"no custom metrics API ({METRICS_GROUP}) is registered",
            status=404,
            absent=True,
            next_step="install custom-metrics-stackdriver-adapter or prometheus-adapter",
        )


def connect(
    context: str | None = None, kubeconfig: str | None = None, clock: Callable[[], float] = time.time
) -> LiveCluster:
    """The cluster of a kubeconfig (or of the pod that this runs in). Raises BadInput when there is no usable config."""
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    settings = client.Configuration()
    try:
        config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=settings)
    except (ConfigException, TypeError, OSError) as error:
        try:
            config.load_incluster_config(client_configuration=settings)
        except ConfigException:
            raise BadInput(
                f"no usable kubeconfig: {error}",
                next_step="set KUBECONFIG or name a context (gcloud container clusters get-credentials NAME)",
            ) from None
    return LiveCluster(client.ApiClient(settings), clock)


def resource_path(resource: str, namespace: str | None) -> str:
    """The path of a resource's collection."""
    if resource not in PATHS:
        raise BadInput("unknown resource", value=resource, expected=", ".join(sorted(PATHS)))
    scope = f"/namespaces/{quote(namespace)}" if namespace and resource not in CLUSTER_SCOPED else ""
    return f"{PATHS[resource]}{scope}/{resource}"


def _refused(method: str, path: str, error: Any) -> ClusterError:
    try:
        message = json.loads(error.body)["message"]
    except (ValueError, KeyError, TypeError):
        message = str(error.reason or error.body or "")
    refusal = ClusterError(
        f"{method.upper()} {path} was answered {error.status}: {message}", status=error.status
    )
    refusal.retry_after_s = _retry_after_s((error.headers or {}).get("Retry-After"))  # type: ignore[attr-defined]  # a fact of this side of the door only
    return refusal


def _retry_after_s(text: str | None) -> float | None:
    return float(text) if text and text.replace(".", "", 1).isdigit() else None


class _Watcher(threading.Thread):
    """Lists and watches one resource for ever; hands observations to a queue."""

    def __init__(
        self,
        cluster: LiveCluster,
        resource: str,
        namespace: str,
        found: queue.Queue[Observation],
        done: Callable[[], bool],
    ) -> None:
        super().__init__(name=f"watch-{resource}", daemon=True)
        self.cluster, self.resource, self.namespace, self.found, self.done = (
            cluster,
            resource,
            namespace,
            found,
            done,
        )
        self.version: str | None = None
        self.known: dict[
            str, dict[str, Any]
        ] = {}  # key -> object as last seen (for events: its version only)
        self.seen_once = False
        self.blind_since_s: float | None = None
        self.reason = ""
        self.failures = 0
        self.hidden = False
        self.read_logs: set[str] = set()
        self._answer: Any = None

    def run(self) -> None:
        while not self.done():
            try:
                if self.version is None:
                    self._list()
                self._watch()
            except ClusterError as error:
                self._blind(str(error))
                self._wait_after(error)
            except DROPPED as error:
                self._blind(f"the connection dropped: {error}")
                self._wait(self._backoff_s())

    def interrupt(self) -> None:
        """Make a blocked read return."""
        answer = self._answer
        if answer is not None:
            with suppress(*DROPPED, AttributeError):
                answer.shutdown()

    # --- one round ---

    def _list(self) -> None:
        objects, version = self.cluster.list_with_version(self.resource, self.namespace)
        self._seeing_again(lost=True)
        current = {_key(o): o for o in objects}
        for key in [key for key in self.known if key not in current]:
            gone = self.known.pop(key)
            if self.resource != "events":  # events expire: nothing happened
                self._tell("DELETED", gone)
        for key, found in current.items():
            before = self.known.get(key)
            if before is None or _version(before) != _version(found):
                self._tell("ADDED" if before is None else "MODIFIED", found)
        self.version, self.seen_once = version, True

    def _watch(self) -> None:
        query = [
            ("watch", "true"),
            ("resourceVersion", str(self.version)),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(WATCH_S + random.randint(0, 10))),
        ]
        answer = self.cluster.request("get", resource_path(self.resource, self.namespace), query)
        self._answer = answer
        self._seeing_again(lost=False)
        heard_s, opened_s, lines = self.cluster.now_s(), time.monotonic(), 0
        try:
            for line in _lines(answer):
                lines += 1
                heard_s = self.cluster.now_s()
                self._event(json.loads(line))
                self.failures = 0
            if not lines and time.monotonic() - opened_s < 1.0:
                self._wait(
                    self._backoff_s()
                )  # a server that ends watches at once is not asked in a tight loop
        except Exception as error:
            from urllib3.exceptions import HTTPError

            if (
                isinstance(error, HTTPError | http.client.HTTPException | OSError | ValueError)
                and not self.done()
            ):
                self._blind(f"the connection dropped: {error}", heard_s)
                self._wait(self._backoff_s())
            elif not isinstance(error, HTTPError | http.client.HTTPException | OSError | ValueError):
                raise
        finally:
            self._answer = None
            with suppress(*DROPPED):
                answer.close()

    def _event(self, event: dict[str, Any]) -> None:
        kind, found = event["type"], event["object"]
        if kind == "ERROR":
            raise ClusterError(
                f"the watch of {self.resource} ended: {found.get('message')}", status=found.get("code")
            )
        if kind != "BOOKMARK":
            self._tell(kind, slim(self.resource, found))
        self.version = _version(found) or self.version

    # --- telling ---

    def _tell(self, kind: str, found: dict[str, Any]) -> None:
        key = _key(found)
        if kind == "DELETED":
            self.known.pop(key, None)
        else:
            self.known[key] = (
                {"metadata": {"resourceVersion": _version(found)}} if self.resource == "events" else found
            )
            if self.resource == "events" and len(self.known) > 20_000:
                self.known.pop(next(iter(self.known)))
        self._put(Observation(self.cluster.now_s(), self.resource, kind, found))
        if news := self.cluster.clock_news():
            self._put(news)
        if self.resource == "pods":
            self._read_log(found)

    def _read_log(self, pod: dict[str, Any]) -> None:
        """Once a pod got ready, its log tells weights and compile apart; without the right to read it, they stay one."""
        name, ready = pod["metadata"]["name"], _is_ready(pod)
        if not ready or not self.seen_once or pod["metadata"].get("uid") in self.read_logs:
            return
        self.read_logs.add(str(pod["metadata"].get("uid")))
        with suppress(ClusterError, *DROPPED):
            lines = self.cluster.log_lines(self.namespace, name, pod["spec"]["containers"][0]["name"])
            if lines:
                self._put(Observation(self.cluster.now_s(), "logs", "READ", {"pod": name, "lines": lines}))

    def _blind(self, reason: str, since_s: float | None = None) -> None:
        self.reason = reason
        if self.blind_since_s is None:
            self.blind_since_s = self.cluster.now_s() if since_s is None else since_s

    def _seeing_again(self, *, lost: bool) -> None:
        """Say what was not seen, now that the server answers again."""
        since_s, self.blind_since_s, self.hidden = self.blind_since_s, None, False
        now_s = self.cluster.now_s()
        if since_s is not None and self.seen_once and (lost or now_s - since_s >= LATE_WORTH_TELLING_S):
            self._gap(since_s, now_s, lost=lost)

    def _gap(self, from_s: float, to_s: float, *, lost: bool, status: int | None = None) -> None:
        facts: dict[str, Any] = {
            "resource": self.resource,
            "from_s": from_s,
            "to_s": to_s,
            "lost": lost,
            "reason": self.reason,
        }
        self._put(Observation(to_s, "gap", "MISSED", facts | ({"status": status} if status else {})))

    def _put(self, seen: Observation) -> None:
        while not self.done():
            with suppress(queue.Full):
                self.found.put(seen, timeout=0.5)
                return

    # --- waiting ---

    def _wait_after(self, error: ClusterError) -> None:
        if error.status == 410:
            self.version = None
            if self.failures:
                self._wait(self._backoff_s())
            self.failures += 1
        elif error.status in (403, 404, 405):
            if not self.hidden:
                now_s = self.cluster.now_s()
                self._gap(self.blind_since_s or now_s, now_s, lost=True, status=error.status)
            self.hidden, self.version = True, None
            self._wait(HIDDEN_RETRY_S)
        else:
            asked_s = getattr(error, "retry_after_s", None)
            self._wait(asked_s if asked_s is not None else self._backoff_s())

    def _backoff_s(self) -> float:
        self.failures += 1
        return min(LONGEST_WAIT_S, 0.5 * 2 ** min(self.failures - 1, 10)) * random.uniform(0.5, 1.0)

    def _wait(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while not self.done() and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(0.1, left_s))


def _lines(answer: Any) -> Iterator[bytes]:
    """Whole lines of a chunked answer; a half line at a broken end is dropped."""
    held = b""
    for chunk in answer.stream(None, decode_content=False):
        *lines, held = (held + chunk).split(b"\n")
        yield from filter(None, lines)


def _key(found: dict[str, Any]) -> str:
    metadata = found["metadata"]
    return str(metadata.get("uid") or metadata["name"])


def _version(found: dict[str, Any]) -> str:
    return str((found.get("metadata") or {}).get("resourceVersion") or "")


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
