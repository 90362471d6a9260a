"""Drive a check: preflight, watch with bounded memory, judge; or judge recorded evidence again.

Everything is read-only, unless `scale_to` asks for a scale-out without load.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis import run as runs
from analysis.errors import SourceUnavailable
from analysis.numbers import known
from autoscale.check import evidence
from autoscale.check.measured import overlay
from autoscale.check.preflight import diagnose, diagnose_observations
from autoscale.check.scaleout import History, Load, as_dict, history
from autoscale.check.snapshot import ask, take
from autoscale.check.timeline import Timeline
from autoscale.check.verdict import Expectation, Judgement, judge
from autoscale.kube.cluster import Cluster, ClusterError, Observation
from autoscale.kube.scaler import Hpa
from autoscale.kube.workload import Workload
from autoscale.lint.findings import Finding

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
STOPPERS = {"hpa-not-found", "target-missing", "target-kind-unknown", "target-at-zero"}
FASTEST_SAMPLE_S = 0.25  # a compressed control plane is sampled as often as its clock asks, but not more
METRIC_ROWS = 5_000  # rows of scraped metrics that are held before they are written


@dataclass(frozen=True)
class State:
    """What a live view shows, told several times per second. `past` is judged anew every two seconds."""

    time_s: float
    elapsed_s: float
    timeline: Timeline
    past: History
    next_sync_s: float
    metrics: Mapping[str, tuple[float, float]]  # name -> (usage, target), in the metric's unit
    desired: int | None
    ready: int


@dataclass(frozen=True)
class CheckResult:
    """The answer of a check."""

    run_dir: Path
    findings: tuple[Finding, ...]
    judgement: Judgement
    measured: Mapping[str, Any]
    ended: str  # why the watch ended
    timeline: Timeline = field(repr=False)

    @property
    def passed(self) -> bool:
        """No criterion failed, at least one was met, and nothing stands in the way now."""
        return self.judgement.passed and not any(f.severity == "error" for f in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        return {
            "passed": self.passed,
            "ended": self.ended,
            "findings": [_finding(each) for each in self.findings],
            "measured": dict(self.measured),
            **{key: value for key, value in self.judgement.as_dict().items() if key != "passed"},
        }


def _finding(found: Finding) -> dict[str, Any]:
    """A finding in check.json: what it says, the figures behind it, and the object that it is about."""
    about = {key: getattr(found, key) for key in ("kind", "namespace", "name", "field")}
    said = {"code": found.code, "severity": found.severity, "cause": found.cause, "fix": found.fix}
    return {**said, "evidence": as_dict(dict(found.evidence)), **about}


def check(
    cluster: Cluster,
    namespace: str,
    hpa_name: str,
    run_dir: Path | str,
    *,
    expect: Expectation | None = None,
    load_run: Path | str | None = None,
    slo: str | None = None,
    timeout_s: float = 3600.0,
    settle_s: float | None = 60.0,
    sample_s: float | None = 5.0,
    scrape: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
    scale_to: int | None = None,
    weight_bytes: float | None = None,
    progress: Callable[[State], None] | None = None,
    stop: threading.Event | None = None,
) -> CheckResult:
    """Preflight, watch, judge; the evidence goes to `run_dir` as it comes.

    The watch ends after `timeout_s` of wall time, when `stop` is set, when the source ends, or `settle_s` after a
    scale-out was absorbed (None: never by itself). `sample_s` (on the cluster's clock) is how often the HPA's metrics are asked for, unless the
    cluster tells them by itself; `scrape` returns rows of metrics.parquet (time_s in unix s) and is called as often.
    `load_run` is the run directory of the load (default: `run_dir`). `weight_bytes` is the size of the model's weights,
    which makes a read rate of the time that the log gives them.

    Raises ClusterError when the cluster cannot be reached, BadRun when `run_dir` is taken.
    """
    run_dir = Path(run_dir)
    rate, ahead_s = clock_of(cluster)
    before = take(cluster, namespace, hpa_name, cluster.now_s)
    findings = diagnose(before, hpa_name)
    facts = {
        "namespace": namespace,
        "hpa": hpa_name,
        "clock_rate": rate,
        "clock_ahead_s": ahead_s,
        "slo": slo,
    }
    kind = "simulated" if cluster.tells_queries else "live"
    started_at = evidence.open_run(run_dir, {"kind": kind, "command": "check", "check": facts})
    timeline = Timeline(hpa_name)
    stop = stop or threading.Event()
    ended = "the preflight found nothing to watch"
    if "horizontalpodautoscalers" not in before.hidden and not any(f.code in STOPPERS for f in findings):
        clock = (started_at, rate, ahead_s)
        watch = _Watch(cluster, namespace, run_dir, clock, timeline, stop, sample_s, scrape, progress)
        hpa = before.hpa(hpa_name)
        ended = watch.run(timeout_s, settle_s, scale_to, hpa.object if hpa else None)
        if ended != LOST:  # what stands in the way at the end counts; what went away meanwhile was a start
            findings = diagnose(take(cluster, namespace, hpa_name, cluster.now_s), hpa_name)
    evidence.write_replicas(run_dir, timeline, started_at, rate, ahead_s)
    runs.merge_parts(run_dir, "metrics")
    runs.update(run_dir, ended_at=time.time())
    load = evidence.load_of(Path(load_run) if load_run else run_dir, slo, rate, ahead_s)
    return _answer(run_dir, timeline, load, findings, expect, weight_bytes, ended)


def replay(
    run_dir: Path | str,
    *,
    expect: Expectation | None = None,
    load_run: Path | str | None = None,
    slo: str | None = None,
    weight_bytes: float | None = None,
) -> CheckResult:
    """Judge recorded evidence again, with this version's rules. Raises BadRun when there is none."""
    run_dir = Path(run_dir)
    facts = runs.read_header(run_dir).get("check") or {}
    rate, ahead_s = float(facts.get("clock_rate", 1.0)), float(facts.get("clock_ahead_s", 0.0))
    timeline = Timeline(facts.get("hpa")).extend(evidence.observations(run_dir))
    name = timeline.hpa_name or ""
    findings = diagnose_observations(evidence.observations(run_dir), name)
    load = evidence.load_of(Path(load_run) if load_run else run_dir, slo or facts.get("slo"), rate, ahead_s)
    return _answer(run_dir, timeline, load, findings, expect, weight_bytes, "judged again from its evidence")


def clock_of(cluster: Cluster) -> tuple[float, float]:
    """(rate, ahead_s): the cluster's observations run at wall time * rate + ahead_s."""
    rate = float(getattr(cluster, "speed", 1.0))
    return (1.0, 0.0) if rate == 1.0 else (rate, cluster.now_s() - time.time() * rate)


def _answer(
    run_dir: Path,
    timeline: Timeline,
    load: Load,
    findings: tuple[Finding, ...],
    expect: Expectation | None,
    weight_bytes: float | None,
    ended: str,
) -> CheckResult:
    past = history(timeline, load, evidence.metrics_of(run_dir, load.rate, load.ahead_s))
    judgement = judge(timeline, past, expect)
    result = CheckResult(run_dir, findings, judgement, overlay(past, weight_bytes), ended, timeline)
    evidence.write_answer(run_dir, result.as_dict(), result.measured)
    return result


LOST = "the source went away"


class _Watch:
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
        progress: Callable[[State], None] | None,
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
        self, timeout_s: float, settle_s: float | None, scale_to: int | None, hpa: dict[str, Any] | None
    ) -> str:
        """Until one of the ends; returns which."""
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
                    self._scale(hpa, scale_to)
                ended = self._loop(recorder, begun_s, timeout_s, settle_s)
        finally:
            self.over.set()
            for feeder in feeders:
                feeder.join(timeout=5.0)
            self._write_rows()
        if self.error is not None and not isinstance(self.error, ClusterError):
            raise self.error
        return ended

    def _loop(
        self, recorder: evidence.Recorder, begun_s: float, timeout_s: float, settle_s: float | None
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
                if settle_s is not None and settled(self.timeline, self.past, settle_s, self.cluster.now_s()):
                    return f"the scale-out was absorbed {settle_s:g} s ago"
            try:
                seen = self.found.get(timeout=TICK_S)
            except queue.Empty:
                continue
            if seen is None:
                return LOST if self.error else "the source ended"
            self.timeline.add(seen)
            recorder.write(seen, now_s)

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

    def _scale(self, hpa: dict[str, Any], replicas: int) -> None:
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
        """What the custom metrics API answers for each metric of the HPA, as an observation."""
        timeline, answers = self.timeline, []
        selector = Workload(timeline.target).scale_selector
        if not timeline.hpa or not selector:
            return []
        for metric in Hpa(timeline.hpa).metric_names("Pods"):
            found = ask(self.cluster, self.namespace, metric, selector)
            answer: dict[str, Any] = {
                "namespace": self.namespace,
                "metric": metric,
                "labelSelector": selector,
                "values": None,
            }
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


def state_of(timeline: Timeline, past: History, now_s: float, elapsed_s: float = 0.0) -> State:
    """What a live view shows of a timeline."""
    targets = timeline.targets_milli()
    usage: dict[str, float] = {}
    for sample in reversed(timeline.samples):
        if sample.metric not in usage:
            usage[sample.metric] = sample.usage_milli / 1000
        if len(usage) == len(targets):
            break
    return State(
        time_s=now_s,
        elapsed_s=elapsed_s,
        timeline=timeline,
        past=past,
        next_sync_s=timeline.next_sync_s(now_s),
        metrics={name: (usage.get(name, math.nan), target / 1000) for name, target in targets.items()},
        desired=timeline.size,
        ready=sum(1 for unit in past.replicas if known(unit.ready_s) and not known(unit.deleting_s)),
    )


def settled(timeline: Timeline, past: History, settle_s: float, now_s: float) -> bool:
    """Whether the last scale-out is over: ready, and its metric within the target since `settle_s`."""
    if not past.scale_outs:
        return False
    last = past.scale_outs[-1]
    newest = timeline.decisions[-1]
    since_s = last.absorbed_s if last.by_hpa else last.ready_s
    if newest.time_s != last.decided_s:
        if newest.after > newest.before:
            return False  # another scale-out, since the history was last judged
        if math.isnan(since_s):
            since_s = newest.time_s  # a scale-in came after it: all is said
    return not math.isnan(since_s) and now_s - since_s > settle_s
