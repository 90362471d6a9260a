"""A live cluster: what a check needs from it, over the API's one door."""

from __future__ import annotations

import builtins
import math
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

from analysis.errors import BadInput
from analysis.run import unix_now_s
from autoscale.kube.api import Api
from autoscale.kube.cluster import MISSHAPEN, ClusterError, Observation, log_phase, slim
from autoscale.kube.kinds import (
    CLUSTER_WIDE,
    EXTERNAL_GROUP,
    METRICS_GROUP,
    SCALED,
    object_path,
    plural_of,
    resource_path,
)
from autoscale.kube.objects import Object, items, mapping
from autoscale.kube.quantity import milli
from autoscale.kube.scaler import ScalerMetric
from autoscale.kube.watcher import Watcher

METRICS_VERSIONS = ("v1beta2", "v1beta1")  # the external API has the older one only
LOG_BYTES = 4_000_000
CLOCK_NEWS_S = 0.1


class LiveCluster(Api):
    """A `Cluster` over the real API. `api_client` is a configured kubernetes.client.ApiClient."""

    tells_queries = False
    simulated = False

    def __init__(self, api_client: Any, clock: Callable[[], float] = unix_now_s) -> None:
        super().__init__(api_client, clock)
        self._clock_told: tuple[float, float] = (math.nan, math.nan)
        self._lock = threading.Lock()
        self._metrics_roots: dict[str, str] = {}  # group -> path of its best version

    def list(self, resource: str, namespace: str | None = None, selector: str = "") -> builtins.list[Object]:
        """Current objects of one resource, page by page. Raises ClusterError."""
        return self.list_with_version(resource, namespace, selector)[0]

    def observe(
        self, resources: builtins.list[str], namespace: str, stop: threading.Event
    ) -> Iterator[Observation]:
        """List, then watch the resources until `stop` is set; survives what the module's docstring names."""
        found: queue.Queue[Observation] = queue.Queue(maxsize=10_000)
        ended = threading.Event()
        watchers = [
            Watcher(self, r, namespace, found, lambda: stop.is_set() or ended.is_set()) for r in resources
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
        rest = f"/namespaces/{quote(namespace)}/pods/*/{quote(metric, safe=':')}"
        items = self._metric_items(METRICS_GROUP, rest, [("labelSelector", selector)])
        with _metrics_of(metric):
            return {item["describedObject"]["name"]: milli(item["value"]) for item in items}

    def single_metric(self, namespace: str, metric: ScalerMetric) -> builtins.list[int]:
        """Values in milli-units of an External or Object metric, asked as the HPA asks. Raises ClusterError."""
        name = quote(metric.name, safe=":")
        if metric.kind == "External":
            rest = f"/namespaces/{quote(namespace)}/{name}"
            items = self._metric_items(EXTERNAL_GROUP, rest, [("labelSelector", metric.selector)])
        else:
            about = described_path(*metric.described, namespace)
            items = self._metric_items(
                METRICS_GROUP, about + name, [("metricLabelSelector", metric.selector)]
            )
        with _metrics_of(metric.name):
            return [milli(item["value"]) for item in items]

    def _metric_items(
        self, group: str, rest: str, query: builtins.list[tuple[str, str]]
    ) -> builtins.list[Any]:
        known = group in self._metrics_roots
        root = self._metrics_roots.get(group) or self._find_metrics_root(group)
        try:
            answer = self.get(root + rest, [pair for pair in query if pair[1]])
        except ClusterError as error:
            self._metrics_roots.pop(group, None)
            if known and error.status in (404, 503):
                self._find_metrics_root(group)  # raises the better reason when the whole API went away
            raise
        self._metrics_roots[group] = root
        found = answer.get("items")
        if not isinstance(found, list | None):
            raise ClusterError(f"{root}{rest} answered something that is no list of metrics")
        return found or []

    def scale(self, hpa: Object, replicas: int) -> None:
        """Write the scale subresource of the HPA's target: the only call that changes anything."""
        reference, namespace = hpa["spec"]["scaleTargetRef"], hpa["metadata"]["namespace"]
        if reference["kind"] not in SCALED:
            raise BadInput("cannot scale the kind", value=reference["kind"], expected=", ".join(SCALED))
        path = (
            object_path(reference["kind"], reference["name"], namespace, api=reference["apiVersion"])
            + "/scale"
        )
        self.request(
            "patch", path, body={"spec": {"replicas": replicas}}, content_type="application/merge-patch+json"
        ).release_conn()

    def list_with_version(
        self, resource: str, namespace: str | None, selector: str = ""
    ) -> tuple[builtins.list[Object], str]:
        """The objects and the version from which a watch continues."""
        query = [("labelSelector", selector)] if selector else []
        found, page = self.pages(resource_path(resource, namespace), query)
        kind = str(page.get("kind", "")).removesuffix("List")
        shape = {"kind": kind, "apiVersion": page.get("apiVersion")}
        version = mapping(page.get("metadata")).get("resourceVersion")
        if not version:
            raise ClusterError(f"the list of {resource} has no version: it is no API server's")
        return [slim(resource, shape | o) for o in found], str(version)

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

    def _find_metrics_root(self, group: str) -> str:
        try:
            found = self.get(f"/apis/{group}")
        except ClusterError as error:
            if error.status == 404:
                raise self._no_metrics_api(group) from None
            raise
        versions = [str(mapping(version).get("version")) for version in items(found.get("versions"))]
        best = next((v for v in METRICS_VERSIONS if v in versions), versions[0] if versions else "v1beta1")
        return f"/apis/{group}/{best}"

    def _no_metrics_api(self, group: str) -> ClusterError:
        """Absent, or registered with its server down: the aggregator answers 404 to both."""
        which = "external" if group == EXTERNAL_GROUP else "custom"
        for version in METRICS_VERSIONS:
            with suppress(ClusterError):
                self.get(f"/apis/apiregistration.k8s.io/v1/apiservices/{version}.{group}")
                return ClusterError(
                    f"the {which} metrics API is registered, but its server does not answer", status=503
                )
        return ClusterError(
            f"no {which} metrics API ({group}) is registered",
            status=404,
            absent=True,
            next_step="install KEDA, or the adapter that the metric is of"
            if which == "external"
            else "install custom-metrics-stackdriver-adapter or prometheus-adapter",
        )


def described_path(api: str, kind: str, name: str, namespace: str) -> str:
    """Where the custom metrics API keeps the metrics of one object; a Namespace's have a place of their own.

    Source: k8s.io/metrics pkg/client/custom_metrics/versioned_client.go.
    """
    if (api, kind) == ("v1", "Namespace"):
        return f"/namespaces/{quote(name)}/metrics/"
    group = api.rpartition("/")[0]
    plural = plural_of(kind) or kind.lower() + ("es" if kind.endswith("s") else "s")
    scope = f"/namespaces/{quote(namespace)}" if kind not in CLUSTER_WIDE else ""
    return f"{scope}/{plural}{'.' + group if group else ''}/{quote(name)}/"


@contextmanager
def _metrics_of(name: str) -> Iterator[None]:
    """Raises ClusterError where what a metrics API answered is of another form."""
    try:
        yield
    except (*MISSHAPEN, BadInput) as error:
        raise ClusterError(
            f"the metrics API answered something that is no value of {name}: {error!r:.100}"
        ) from None
