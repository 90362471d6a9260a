"""The control plane of a fleet: pods that come and go, the metric path, the HPA, in order of time.

    every event in order of time:   pods (created .. ready .. gone)  ->  engines open and close
                                    scrape  ->  samples on their way to the adapter
                                    HPA sync  ->  decide(spec, what the adapter shows)  ->  pods.scale

Between two events the engines advance on their own (compiled). A `Fleet` runs on a control clock, its engines at control
time / speed: 1 in a simulation, more where the fleet over HTTP compresses starts and windows, but never tokens.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.errors import BadInput
from analysis.numbers import known
from analysis.run import SIGNALS
from autoscale.hpa import HpaDecision, Memory, PodMetric, decide
from autoscale.hpa.calculator import Reading
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.gateway import InferenceGateway
from autoscale.sim.fleet.around import Engines, FleetWatcher
from autoscale.sim.fleet.metric_path import (
    Sample,
    SamplePath,
    Syncs,
    exported_signal,
    gauge_milli,
    sync_times,
)
from autoscale.sim.fleet.pods import Pods
from autoscale.sim.fleet.replica import UNLIMITED, FleetReplica, Nodes, PodEvent, PodLife
from autoscale.sim.fleet.scalers import Scaler, hpa_of, least_replicas
from autoscale.sim.fleet.signals.external import External
from autoscale.sim.fleet.signals.readings import seen

NOT_REPORTED = (math.nan, (math.nan, math.nan, math.nan))
MOST_REPLICAS = 2000  # of a fleet in virtual time
POLL_S = 1.0  # how often a draining replica is looked at


@dataclass(frozen=True)
class FleetOptions:
    """How the world around the HPA behaves.

    nodes           node supply
    grace_s         how long a removed replica may finish its requests; 0 aborts them at once (vLLM's --shutdown-timeout)
    routing         random (kube-proxy), round_robin or least_requests
    connections     keep-alive connections that requests travel on; 0 makes a new one per request
    no_ready        what happens to a request while no replica is ready: "wait" or "fail"
    warm            whether the first replicas are ready at the start
    drift           whether HPA syncs drift as the real controller's do
    tail_s          how long after the end requests in flight may still finish
    flap_s          a change of direction within this time counts as a flap
    gateway         an inference gateway before the replicas; it routes and holds instead of `routing` and `no_ready`
    patience_s      how long a client waits for the end of its answer
    minima          (s, minReplicas) that somebody patches into the HPA, in order of time
    begins_s        when it begins, in s after a Monday 00:00 UTC, for what goes by the calendar
    start_replicas  at the start at least, of a fleet that is scaled: traffic that goes on from what came before
    """

    nodes: Nodes = UNLIMITED
    grace_s: float = 30.0
    routing: str = "random"
    connections: int = 0
    no_ready: str = "wait"
    warm: bool = True
    drift: bool = True
    tail_s: float = 900.0
    flap_s: float = 900.0
    gateway: InferenceGateway | None = None
    patience_s: float = math.inf
    minima: tuple[tuple[float, int], ...] = ()
    begins_s: float = 0.0
    start_replicas: int = 0


DEFAULTS = FleetOptions()


class Fleet:
    """Replicas of a profile under an HPA (or a fixed number of them). `advance` runs everything up to a control time."""

    def __init__(
        self,
        profile: Profile,
        engine: Engines,
        slots: int,
        *,
        scaler: Scaler | None,
        replicas: int,
        seed: int,
        options: FleetOptions = DEFAULTS,
        speed: float = 1.0,
        watcher: FleetWatcher | None = None,
        pods: Pods | None = None,
    ) -> None:
        self.profile, self.options, self.speed = profile, options, speed
        self.spec = spec = None if scaler is None else hpa_of(scaler)
        self.watcher, self.engine, version = watcher, engine, profile.engine.vllm_version
        self.memory: Memory | None = None
        self.pods = pods or Pods(PodLife.from_profile(profile), seed, options.nodes, slots)
        self.path = SamplePath(profile.metric_path)
        self.signals = [
            (metric.name, SIGNALS.index(exported_signal(metric.name, version, metric.label)))
            for metric in (spec.metrics if spec else ())
            if metric.kind == "Pods"
        ]
        self.minima = deque(options.minima if spec else ())
        least = [0 if scaler is None else least_replicas(scaler)]
        self.least = min(least + [replicas for _, replicas in self.minima])
        self.external: External | None = None
        if scaler is not None and len(self.signals) < len(hpa_of(scaler).metrics):
            phase = float(np.random.Generator(np.random.PCG64([seed, 9008])).random())
            self.external = External(profile, engine, scaler, phase, self.options.begins_s)
        # slot -> replica whose engine is up, draining ones included
        self.serving: dict[int, FleetReplica] = {}
        self.draining: dict[int, tuple[FleetReplica, float]] = {}  # slot -> replica and the end of its grace
        self.now_s = 0.0
        self.last_gauges: Any = None
        rng = np.random.Generator(np.random.PCG64([seed, 9006]))
        interval_s = profile.metric_path.scrape_interval_s
        self.scrape_phase_s = float(rng.random()) * interval_s
        self.scrapes, self.next_scrape_s = 0, self.scrape_phase_s
        self.syncs = Syncs(sync_times(profile.metric_path.sync_period_s, rng, drift=options.drift))
        self.next_sync_s = self.syncs.next_s if spec else math.inf
        self.poll_s = math.inf
        self._handle(self.pods.warm(replicas) if options.warm else self.pods.scale(replicas, 0.0))

    @property
    def next_s(self) -> float:
        """When the control plane has something to do next (control time)."""
        return min(
            self.pods.next_s,
            self.next_scrape_s,
            self.next_sync_s,
            self.poll_s,
            self.next_poll_s,
            self.next_minimum_s,
        )

    @property
    def next_poll_s(self) -> float:
        """KEDA's next poll; inf where there is none."""
        return self.external.next_poll_s if self.external else math.inf

    @property
    def next_minimum_s(self) -> float:
        """When the HPA's minimum changes next; inf when never."""
        return self.minima[0][0] if self.minima else math.inf

    @property
    def desired(self) -> int:
        """Replicas asked for."""
        return self.pods.desired

    def advance(self, until_s: float) -> None:
        """Run the control plane, and the engines with it, through every event up to and including `until_s`."""
        while (now_s := self.next_s) <= until_s:
            self.now_s = now_s
            while self.next_minimum_s <= now_s:
                self.spec = self.spec and replace(self.spec, min_replicas=self.minima.popleft()[1])
            if self.pods.next_s <= now_s:
                self._handle(self.pods.advance(now_s))
            if self.poll_s <= now_s:
                self._drain(now_s)
            if self.next_scrape_s <= now_s:
                self._scrape(now_s)
            if self.external and self.next_poll_s <= now_s:
                step = self.external.poll(self.pods, now_s)
                if step.scale_to is not None:
                    self.scale(
                        step.scale_to, now_s, step.events[-1] if step.events else "below minReplicaCount"
                    )
            if self.next_sync_s <= now_s:
                self.skip(self.scrapes, 1)
                self._sync(now_s)

    def scale(self, replicas: int, now_s: float, why: str = "set by hand") -> None:
        """Write the scale subresource."""
        before = self.pods.desired
        if self.watcher:
            self.watcher.scaled(now_s, before, replicas, why)
        self._handle(self.pods.scale(replicas, now_s))

    def skip(self, scrapes: int, syncs: int) -> None:
        """So many scrapes have been made since the start, and so many syncs since the last call."""
        self.scrapes = scrapes
        self.next_scrape_s = self.scrape_phase_s + scrapes * self.profile.metric_path.scrape_interval_s
        if syncs:
            self.syncs.skip(syncs)
            self.next_sync_s = self.syncs.next_s

    def skip_scrapes(self, until_s: float) -> None:
        """Leave out the scrapes before `until_s`: a fleet of fixed size that nobody watches has no reader for them."""
        interval_s = self.profile.metric_path.scrape_interval_s
        self.skip(max(self.scrapes, math.ceil((until_s - self.scrape_phase_s) / interval_s)), 0)

    def _handle(self, events: list[PodEvent]) -> None:
        for event in events:
            replica = event.replica
            if event.kind == "ready":
                self._engine_to(event.time_s)
                self.engine.open(replica.slot, event.time_s / self.speed)
                self.serving[replica.slot] = replica
            elif event.kind == "deleting" and replica.slot in self.serving:
                self._engine_to(event.time_s)
                abort = self.options.grace_s <= 0
                self.engine.close(replica.slot, event.time_s / self.speed, abort=abort)
                if abort:
                    self._stopped(replica, event.time_s)
                else:  # requests take their true time whatever the speed, so does the grace that they get
                    self.draining[replica.slot] = (replica, event.time_s + self.options.grace_s * self.speed)
                    self.poll_s = min(self.poll_s, event.time_s)
            elif event.kind == "gone":
                self.path.forget(replica.ordinal)
            if self.watcher:
                self.watcher.pod(event)

    def _engine_to(self, now_s: float) -> None:
        self.engine.advance(now_s / self.speed)

    def _drain(self, now_s: float) -> None:
        """Let go of draining replicas that are empty, and end those whose grace is over."""
        self._engine_to(now_s)
        for slot, (replica, deadline_s) in list(self.draining.items()):
            if now_s >= deadline_s:
                self.engine.close(slot, now_s / self.speed, abort=True)
            elif self.engine.in_flight_of(slot) > 0:
                continue
            del self.draining[slot]
            self._stopped(replica, now_s)
        ends = [deadline_s for _, deadline_s in self.draining.values()]
        self.poll_s = min([now_s + POLL_S * self.speed, *ends]) if ends else math.inf

    def _stopped(self, replica: FleetReplica, now_s: float) -> None:
        del self.serving[replica.slot]
        self.pods.release(replica, now_s)

    def _scrape(self, now_s: float) -> None:
        self.skip(self.scrapes + 1, 0)
        self._engine_to(now_s)
        gauges = self.last_gauges = self.engine.gauges()
        waiting, running, kv = (gauges[name].tolist() for name in SIGNALS)
        engines = self.profile.replica.data_parallel  # adapters add the series of a pod, KV usage too
        samples: dict[int, Sample] = {
            replica.ordinal: (waiting[slot], running[slot], engines * kv[slot])
            for slot, replica in self.serving.items()
        }
        self.path.scrape(now_s, samples)
        if self.external:
            rows = [samples[r.ordinal] for r in self.pods.replicas if r.ordinal in samples]
            columns = [[row[which] for row in rows] for which in range(len(SIGNALS))]
            self.external.scrape(now_s, self.pods, self.serving, columns)

    def metrics(self, now_s: float) -> dict[str, list[PodMetric]]:
        """What the custom metrics API answers for every Pods metric of the HPA; the watcher is told."""
        pods = self.pods.replicas
        shown = self.path.read(now_s)
        states = [
            (r.phase, known(r.deleting_s), r.ready, shown.get(r.ordinal, NOT_REPORTED)[1]) for r in pods
        ]
        metrics: dict[str, list[PodMetric]] = {}
        for name, which in self.signals:
            metrics[name] = [
                PodMetric("", phase, deleting, ready, gauge_milli(sample[which]))
                for phase, deleting, ready, sample in states
            ]
            if self.watcher:
                self.watcher.query(now_s, name, metrics[name], pods)
        return metrics

    def _sync(self, now_s: float) -> None:
        decision = self._decision(now_s)
        self.memory = decision.memory
        if self.watcher:
            self.watcher.sync(now_s, decision)
        if decision.rescaled:
            if decision.replicas > MOST_REPLICAS:
                raise BadInput(
                    f"the HPA asks for {decision.replicas:,} replicas at {now_s:,.0f} s",
                    expected=f"at most {MOST_REPLICAS:,}, the largest fleet that is simulated",
                    next_step="lower maxReplicas, raise the target, or offer less",
                )
            self.scale(decision.replicas, now_s, decision.message)

    def _decision(self, now_s: float) -> HpaDecision:
        assert self.spec is not None
        if self.external and self.external.loops:
            self.path.read(now_s)  # what has become visible leaves the queue
            return self.external.sync(self.memory, self.pods, now_s)
        metrics: dict[str, Reading] = {**self.metrics(now_s)}
        if self.external:
            metrics |= self.external.readings(now_s)
        return decide(self.spec, self.memory, self.pods.desired, metrics, now_s, seen(self.pods))
