"""The other side of the door: a fleet over HTTP, as a `Cluster`. Its servers are simulated, or real ones, as it tells.

The fleet emits what a Kubernetes watcher would have seen (GET /fleet/observations, numbered NDJSON that stays open), so
listing is a fold over what it has emitted. Its times are control time: `started_at` plus seconds that run `speed` times
as fast as the wall clock.
"""

# ruff: noqa: ARG002  # the signatures are those of a live cluster; a fleet has one namespace and one HPA
from __future__ import annotations

import builtins
import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from analysis.errors import BadInput
from analysis.redact import redact, remember_query
from autoscale.kube.cluster import ClusterError, Observation
from autoscale.kube.quantity import milli
from autoscale.kube.scaler import ScalerMetric
from autoscale.kube.selectors import selects
from autoscale.observe.fleet_answers import (
    TIMEOUT_S,
    ask_fleet,
    fleet_facts,
    fleet_json,
    fleet_rows,
    lost_because,
)

SILENCE_S = 15.0  # the stream may be quiet for longer: it is asked again from the last number
RETRY_S = 0.5
GIVE_UP_S = 30.0
REAL = "real"  # as GET /fleet names servers that are not simulated


class FleetDoor:
    """A fleet at `url`. Raises ClusterError when it does not answer, BadInput when it is something else."""

    tells_queries = True

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        remember_query(urlsplit(url).query)
        if not self.url.startswith(("http://", "https://")):
            raise BadInput("the fleet's address", value=url, expected="http://HOST:PORT")
        facts = fleet_facts(self.url)
        self.speed, self.started_at = float(facts["speed"]), float(facts["started_at"])
        self.simulated = facts.get("servers") != REAL
        self.namespace = str(facts.get("namespace") or "default")
        self._lock = threading.Lock()
        self._since = 0
        self._objects: dict[str, dict[str, dict[str, Any]]] = {}
        self._answers: dict[str, dict[str, Any]] = {}
        control_s = float(facts.get("control_s") or 0.0)
        self._ahead_s = self.started_at + control_s - time.perf_counter() * self.speed

    def now_s(self) -> float:
        """The fleet's control time, unix s."""
        return time.perf_counter() * self.speed + self._ahead_s

    def facts(self) -> dict[str, Any]:
        """What GET /fleet tells: profile, speed, HPA, replicas with their metrics URLs."""
        return fleet_facts(self.url)

    def truth(self) -> dict[str, Any]:
        """The true times of every replica's life."""
        told = fleet_json(self.url, "/fleet/truth")
        return told if isinstance(told, dict) else {}

    def metrics_urls(self) -> dict[str, str]:
        """Pod name -> where its metrics are scraped, for the replicas that serve."""
        return {r["name"]: r["metrics_url"] for r in self.facts()["replicas"] if r.get("metrics_url")}

    def list(
        self, resource: str, namespace: str | None = None, selector: str = ""
    ) -> builtins.list[dict[str, Any]]:
        """Current objects of one resource, from all that the fleet has emitted."""
        self._catch_up()
        if resource not in self._objects and resource not in ("pods", "events", "horizontalpodautoscalers"):
            raise ClusterError(f"a fleet has no {resource}", status=404)
        found = self._objects.get(resource, {}).values()
        return [o for o in found if selects(selector, o["metadata"].get("labels"))]

    def observe(
        self, resources: builtins.list[str], namespace: str, stop: threading.Event
    ) -> Iterator[Observation]:
        """Everything from the fleet's first observation on, until `stop` is set or the fleet is gone for good."""
        wanted = {*resources, "custommetrics", "logs"}
        since, silent_since_s = 0, time.monotonic()
        while not stop.is_set():
            try:
                for number, seen in self._rows(since, follow=True, stop=stop):
                    since, silent_since_s = number + 1, time.monotonic()
                    if seen.resource in wanted:
                        yield seen
                    if stop.is_set():
                        return
                silent_since_s = time.monotonic()
            except ClusterError:
                if time.monotonic() - silent_since_s > GIVE_UP_S:
                    return
                stop.wait(RETRY_S)

    def custom_metric(self, namespace: str, metric: str, selector: str) -> dict[str, int]:
        """The values that the fleet's HPA read last. Raises ClusterError with status 404 before there are any."""
        self._catch_up()
        values = (self._answers.get(metric) or {}).get("values")
        if values is None:
            raise ClusterError(f"the fleet's HPA has no value of {metric}", status=404)
        try:
            return {pod: milli(value) for pod, value in values.items()}
        except (BadInput, ValueError, TypeError, AttributeError):
            raise ClusterError(f"the fleet's value of {metric} is no quantity") from None

    def single_metric(self, namespace: str, metric: ScalerMetric) -> builtins.list[int]:
        """The values of an External or Object metric that the fleet's HPA read last. Raises ClusterError as above."""
        return builtins.list(self.custom_metric(namespace, metric.name, metric.selector).values())

    def scale(self, hpa: dict[str, Any], replicas: int) -> None:
        """Write the fleet's scale subresource."""
        fleet_json(self.url, f"/fleet/scale?replicas={replicas}", "POST")

    def _catch_up(self) -> None:
        """Fold what was emitted since the last call into the current objects."""
        with self._lock:
            for number, seen in self._rows(self._since, follow=False):
                self._since = number + 1
                if seen.resource == "custommetrics":
                    self._answers[str(seen.object.get("metric"))] = seen.object
                    continue
                if seen.resource == "logs":
                    continue
                found = self._objects.setdefault(seen.resource, {})
                name = seen.object["metadata"]["name"]
                if seen.type == "DELETED":
                    found.pop(name, None)
                else:
                    found[name] = seen.object

    # --- requests ---

    def _rows(
        self, since: int, *, follow: bool, stop: threading.Event | None = None
    ) -> Iterator[tuple[int, Observation]]:
        query = f"/fleet/observations?since={since}" + ("" if follow else "&follow=false")
        try:
            with ask_fleet(self.url, query, SILENCE_S if follow else TIMEOUT_S) as answer:
                if stop is not None:
                    threading.Thread(target=_close_when, args=(stop, answer), daemon=True).start()
                yield from fleet_rows(answer, self.url)
        except TimeoutError:
            return  # quiet, not gone
        except (OSError, http.client.HTTPException, ValueError) as error:
            if stop is not None and stop.is_set():
                return
            raise ClusterError(f"the fleet at {redact(self.url)} went away: {lost_because(error)}") from None


def _close_when(stop: threading.Event, answer: Any) -> None:
    """Make a blocked read return once `stop` is set; ends by itself when the answer is closed."""
    while not answer.isclosed():
        if stop.wait(0.2):
            with suppress(OSError, AttributeError, ValueError):
                answer.fp.raw._sock.shutdown(2)
            return
