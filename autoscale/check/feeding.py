"""One watch of a cluster: two threads feed, one loop folds, records and tells."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from analysis import run as runs
from analysis.errors import BadRun, SourceUnavailable
from autoscale.check import evidence
from autoscale.check.live_view import WatchState, settled, state_of
from autoscale.check.scaleout import History, history
from autoscale.check.snapshot import ask
from autoscale.check.timeline import Timeline
from autoscale.kube.cluster import Cluster, ClusterError, Observation
from autoscale.kube.objects import Object
from autoscale.kube.scaler import Hpa
from autoscale.kube.workload import ScaledWorkload

RESOURCES = (
    "horizontalpodautoscalers",
    "deployments",
    "leaderworkersets",
    "statefulsets",
    "pods",
    "nodes",
    "events",
)
QUEUE_SIZE = 10_000
TICK_S = 0.25  # how often the live view is told, and the ends are looked at
FASTEST_SAMPLE_S = 0.25  # a compressed control plane is sampled as often as its clock asks, but not more
METRIC_ROWS = 5_000  # rows of scraped metrics that are held before they are written
LOST = "the source went away"


class ClusterWatch:
    """One watch: two feeding threads, one queue, one loop that folds, records and tells."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        run_dir: Path,
        clock: tuple[float, float, float],  # zero of the run in unix s, rate and lead of the cluster's clock
        timeline: Timeline,
        stop: threading.Event,
        sample_s: float | None,
        scrape: Callable[[], Sequence[Mapping[str, Any]]] | None,
        progress: Callable[[WatchState], None] | None,
    ) -> None:
        self.cluster, self.namespace, self.run_dir, self.clock = cluster, namespace, run_dir, clock
        self.timeline, self.stop, self.scrape, self.progress = timeline, stop, scrape, progress
        self.sample_s = sample_s
        self.found: queue.Queue[Observation | None] = queue.Queue(maxsize=QUEUE_SIZE)
        self.over = threading.Event()
        self.rows: list[Mapping[str, Any]] = []
        self.parts = 0
        self.told = 0
        self.past = History((), (), ())
        self.error: BaseException | None = None

    def run(
        self, timeout_s: float, settle_s: float | None, scale_to: int | None, hpa: Hpa | None, loaded: bool
    ) -> str:
        """Until one of the ends; returns which. `loaded` says that load comes with the watch."""
        feeders = [threading.Thread(target=self._feed, daemon=True)]
        if self.sample_s and (self.scrape or not self.cluster.tells_queries):
            feeders.append(threading.Thread(target=self._keep_sampling, daemon=True))
        for feeder in feeders:
            feeder.start()
        begun_s = time.monotonic()
        ended = "timeout"
        try:
            with evidence.Recorder(self.run_dir) as recorder:
                if scale_to is not None and hpa is not None:
                    self._scale(hpa.object, scale_to)
                ended = self._loop(recorder, begun_s, timeout_s, settle_s, loaded)
        finally:
            self.over.set()
            for feeder in feeders:
                feeder.join(timeout=5.0)
            self._write_rows()
        if self.error is not None and not isinstance(self.error, ClusterError):
            raise self.error
        return ended

    def _loop(
        self,
        recorder: evidence.Recorder,
        begun_s: float,
        timeout_s: float,
        settle_s: float | None,
        loaded: bool,
    ) -> str:
        looked_s = judged_s = -math.inf
        while True:
            now_s = time.monotonic()
            if now_s - looked_s >= TICK_S:
                looked_s = now_s
                if now_s - judged_s >= 2.0 and (self.progress or settle_s is not None):
                    judged_s = now_s
                    self.past = history(self.timeline)
                self._tell(now_s - begun_s)
                if self.stop.is_set():
                    return "stopped"
                if now_s - begun_s > timeout_s:
                    return f"timeout of {timeout_s:g} s"
                now = self.timeline.first_s, self.cluster.now_s()
                if hindered := self.timeline.hindrance.ended(*now, loaded):
                    return hindered
                if settle_s is not None and settled(self.timeline, self.past, settle_s, self.cluster.now_s()):
                    return f"the scale-out was absorbed {settle_s:g} s ago"
            try:
                seen = self.found.get(timeout=TICK_S)
            except queue.Empty:
                continue
            if seen is None:
                return LOST if self.error else "the source ended"
            recorder.write(seen, now_s)
            try:
                self.timeline.add(seen)
            except BadRun as error:  # one odd object is no reason to lose sight of the others
                self.timeline.note(seen.time_s, "watch", str(error))

    def _tell(self, elapsed_s: float) -> None:
        timeline = self.timeline
        fresh = min(timeline.logged - self.told, len(timeline.log))
        for line in list(timeline.log)[len(timeline.log) - fresh :]:
            facts = {key: value for key, value in line.items() if key not in ("time_s", "kind", "message")}
            runs.append_event(
                self.run_dir,
                evidence.run_time_s(line["time_s"], *self.clock),
                line["kind"],
                line["message"],
                **facts,
            )
        self.told = timeline.logged
        if self.progress:
            self.progress(state_of(timeline, self.past, self.cluster.now_s(), elapsed_s))

    def _scale(self, hpa: Object, replicas: int) -> None:
        now_s = self.cluster.now_s()
        self.cluster.scale(hpa, replicas)
        runs.append_event(
            self.run_dir,
            evidence.run_time_s(now_s, *self.clock),
            "scale_to",
            f"asked the target for {replicas} replicas",
        )

    # --- the two threads ---

    def _feed(self) -> None:
        try:
            for seen in self.cluster.observe([*RESOURCES], self.namespace, self.over):
                if self.over.is_set() or not self._put(seen):
                    return
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits, which raises it
            self.error = error
        self._put(None)

    def _put(self, seen: Observation | None) -> bool:
        while not self.over.is_set():
            try:
                self.found.put(seen, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def _keep_sampling(self) -> None:
        try:
            self._sample()
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits, which raises it
            self.error = error
            self._put(None)

    def _sample(self) -> None:
        assert self.sample_s is not None
        every_s = max(self.sample_s / self.clock[1], min(self.sample_s, FASTEST_SAMPLE_S))
        begun_s, k = time.monotonic(), 0
        while not self.over.wait(max(0.0, begun_s + k * every_s - time.monotonic())):
            k = max(k + 1, int((time.monotonic() - begun_s) / every_s))
            if not self.cluster.tells_queries:
                for seen in self._ask():
                    self._put(seen)
            if self.scrape:
                with suppress(SourceUnavailable):  # the next round may find it again
                    self.rows.extend(self.scrape())
                if len(self.rows) >= METRIC_ROWS:
                    self._write_rows()

    def _ask(self) -> list[Observation]:
        """What the metrics APIs answer for each metric of the HPA, as an observation."""
        timeline, answers = self.timeline, []
        own = ScaledWorkload(timeline.target).scale_selector
        if not timeline.hpa or not own:
            return []
        for metric in Hpa(timeline.hpa).served:
            selector = own if metric.kind == "Pods" else metric.selector
            found = ask(self.cluster, self.namespace, metric, selector)
            answer: dict[str, Any] = {
                "namespace": self.namespace,
                "metric": metric.name,
                "labelSelector": selector,
                "values": None,
            }
            if metric.kind != "Pods":
                answer["type"] = metric.kind
            if found.values_milli is None:
                answer |= {"answer": found.status, "absent": found.absent, "message": found.message}
            else:
                answer["values"] = {pod: f"{value}m" for pod, value in found.values_milli.items()}
            answers.append(Observation(self.cluster.now_s(), "custommetrics", "QUERY", answer))
        return answers

    def _write_rows(self) -> None:
        rows, self.rows = self.rows, []
        if not rows:
            return
        columns: dict[str, list[Any]] = {
            name: [row.get(name) for row in rows]
            for name in runs.TABLES["metrics"]
            if any(name in r for r in rows)
        }
        columns["time_s"] = [float(row["time_s"]) - self.clock[0] for row in rows]
        runs.write_table(self.run_dir, "metrics", columns, part=f"check.{self.parts:05d}")
        self.parts += 1
