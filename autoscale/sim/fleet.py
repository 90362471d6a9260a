"""A fleet: replicas that start and go, engines that serve, the metric path and the HPA, in one virtual time.

    every event in order of time:   pods (created .. ready .. gone)  ->  engines open and close
                                    scrape  ->  samples on their way to the adapter
                                    HPA sync  ->  decide(spec, what the adapter shows)  ->  pods.scale

Between two events the engines advance on their own (compiled). A `Fleet` runs on a control clock; its engines run at
control time / speed, which is 1 in a simulation and lets the fleet over HTTP compress cold starts and waiting periods
while tokens take their true time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from analysis.errors import BadInput
from analysis.slo import Slo, parse_slo
from autoscale.hpa import Decision, HpaSpec, PodMetric, decide
from autoscale.profiles.profile import Profile
from autoscale.profiles.signals import SIGNALS
from autoscale.sim.engine import EngineParams, Replicas
from autoscale.sim.metric_path import MetricPath, Sample, milli, signal_of, sync_times
from autoscale.sim.outcome import Outcome, Recorder, Tally
from autoscale.sim.pods import UNLIMITED, ColdStart, Nodes, PodEvent, Pods, Replica
from loadgen.traffic import Arrivals

POLL_S = 1.0  # how often a draining replica is looked at
HARVEST_TICKS = 128  # scrapes between two collections of finished requests


@dataclass(frozen=True)
class Options:
    """How the world around the HPA behaves.

    nodes           node supply
    grace_s         how long a removed replica may finish its requests; 0 aborts them at once, as vLLM does without
                    --shutdown-timeout
    routing         random (kube-proxy), round_robin or least_requests
    connections     keep-alive connections that requests travel on; 0 makes a new one per request
    no_ready        what happens to a request while no replica is ready: "wait" or "fail"
    warm            whether the first replicas are ready at the start
    drift           whether HPA syncs drift as the real controller's do
    tail_s          how long after the end requests in flight may still finish
    flap_s          a change of direction within this time counts as a flap
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


DEFAULTS = Options()


class Watcher(Protocol):
    """Who wants to know what happens; times are control seconds."""

    def pod(self, event: PodEvent) -> None:
        """A replica made a transition."""

    def query(self, now_s: float, metric: str, values: list[PodMetric], pods: list[Replica]) -> None:
        """The HPA read one metric: a value, or none, for each of `pods`."""

    def sync(self, now_s: float, decision: Decision) -> None:
        """The HPA decided."""

    def scaled(self, now_s: float, before: int, after: int, why: str) -> None:
        """The scale subresource was written."""


class Engines(Protocol):
    """The part of engine.Replicas that a fleet needs; times are engine seconds."""

    def open(self, slot: int, at_s: float) -> None:
        """The slot takes traffic from `at_s` on."""

    def close(self, slot: int, at_s: float, abort: bool = False) -> None:
        """No new traffic from `at_s` on; what is in flight drains or is cancelled."""

    def advance(self, until_s: float) -> None:
        """Everything that happens before `until_s`."""

    def gauges(self) -> Any:
        """engine.GAUGES, one row per slot."""


class Fleet:
    """Replicas of a profile under an HPA (or a fixed number of them). `advance` runs everything up to a control time."""

    def __init__(
        self,
        profile: Profile,
        engine: Engines,
        slots: int,
        *,
        spec: HpaSpec | None,
        replicas: int,
        seed: int,
        options: Options = DEFAULTS,
        speed: float = 1.0,
        watcher: Watcher | None = None,
    ) -> None:
        self.profile, self.options, self.speed = profile, options, speed
        self.spec, self.watcher, self.engine = spec, watcher, engine
        self.memory: Any = None
        self.pods = Pods(ColdStart.from_profile(profile), seed, options.nodes, slots)
        self.path = MetricPath(profile.metric_path)
        self.signals = [
            (metric.name, SIGNALS.index(signal_of(metric.name, profile.engine.vllm_version)))
            for metric in (spec.metrics if spec else ())
        ]
        self.serving: dict[int, Replica] = {}  # slot -> replica whose engine is up, draining ones included
        self.draining: dict[int, tuple[Replica, float]] = {}  # slot -> replica and the end of its grace
        self.now_s = 0.0
        self.last_gauges: Any = None
        rng = np.random.Generator(np.random.PCG64([seed, 9006]))
        interval_s = profile.metric_path.scrape_interval_s
        self._scrape_phase_s = float(rng.random()) * interval_s
        self._scrapes = 0
        self._next_scrape_s = self._scrape_phase_s
        self._syncs = sync_times(profile.metric_path.sync_period_s, rng, drift=options.drift)
        self._next_sync_s = next(self._syncs) if spec else math.inf
        self._poll_s = math.inf
        events = self.pods.warm(replicas) if options.warm else self.pods.scale(replicas, 0.0)
        self._handle(events)

    @property
    def next_s(self) -> float:
        """When the control plane has something to do next (control time)."""
        return min(self.pods.next_s, self._next_scrape_s, self._next_sync_s, self._poll_s)

    @property
    def desired(self) -> int:
        """Replicas asked for."""
        return self.pods.desired

    def advance(self, until_s: float) -> None:
        """Run the control plane, and the engines with it, through every event up to and including `until_s`."""
        while (now_s := self.next_s) <= until_s:
            self.now_s = now_s
            if self.pods.next_s <= now_s:
                self._handle(self.pods.advance(now_s))
            if self._poll_s <= now_s:
                self._poll(now_s)
            if self._next_scrape_s <= now_s:
                self._scrape(now_s)
            if self._next_sync_s <= now_s:
                self._next_sync_s = next(self._syncs)
                self._sync(now_s)

    def scale(self, replicas: int, now_s: float, why: str = "set by hand") -> None:
        """Write the scale subresource."""
        before = self.pods.desired
        if self.watcher:
            self.watcher.scaled(now_s, before, replicas, why)
        self._handle(self.pods.scale(replicas, now_s))

    # --- events -----------------------------------------------------------------------------------------------------

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
                    self._poll_s = min(self._poll_s, event.time_s)
            elif event.kind == "gone":
                self.path.forget(replica.ordinal)
            if self.watcher:
                self.watcher.pod(event)

    def _engine_to(self, now_s: float) -> None:
        self.engine.advance(now_s / self.speed)

    def _poll(self, now_s: float) -> None:
        """Let go of draining replicas that are empty, and end those whose grace is over."""
        self._engine_to(now_s)
        gauges = self.engine.gauges()
        for slot, (replica, deadline_s) in list(self.draining.items()):
            if now_s >= deadline_s:
                self.engine.close(slot, now_s / self.speed, abort=True)
            elif gauges["in_flight"][slot] > 0:
                continue
            del self.draining[slot]
            self._stopped(replica, now_s)
        ends = [deadline_s for _, deadline_s in self.draining.values()]
        self._poll_s = min([now_s + POLL_S * self.speed, *ends]) if ends else math.inf

    def _stopped(self, replica: Replica, now_s: float) -> None:
        del self.serving[replica.slot]
        self.pods.release(replica, now_s)

    def _scrape(self, now_s: float) -> None:
        self._scrapes += 1
        self._next_scrape_s = (
            self._scrape_phase_s + self._scrapes * self.profile.metric_path.scrape_interval_s
        )
        self._engine_to(now_s)
        gauges = self.last_gauges = self.engine.gauges()
        waiting, running, kv = (gauges[name].tolist() for name in SIGNALS)
        engines = self.profile.replica.data_parallel  # adapters add the series of a pod, KV usage too
        samples: dict[int, Sample] = {
            replica.ordinal: (waiting[slot], running[slot], engines * kv[slot])
            for slot, replica in self.serving.items()
        }
        self.path.scrape(now_s, samples)

    def _sync(self, now_s: float) -> None:
        assert self.spec is not None
        pods = self.pods.replicas
        shown = self.path.read(now_s)
        metrics: dict[str, list[PodMetric]] = {}
        for name, which in self.signals:
            metrics[name] = [
                PodMetric(
                    "",
                    r.phase,
                    r.deleting_s == r.deleting_s,
                    r.ready,
                    milli(shown[r.ordinal][1][which]) if r.ordinal in shown else None,
                )
                for r in pods
            ]
            if self.watcher:
                self.watcher.query(now_s, name, metrics[name], pods)
        decision = decide(self.spec, self.memory, self.pods.desired, metrics, now_s)
        self.memory = decision.memory
        if self.watcher:
            self.watcher.sync(now_s, decision)
        if decision.rescaled:
            self.scale(decision.replicas, now_s, decision.message)


def slots_for(spec: HpaSpec | None, replicas: int) -> int:
    """Engine slots that a fleet needs: room for those that drain while others start."""
    return 2 * max(replicas, spec.max_replicas if spec else 0) + 2


def read_hpa(profile: Profile, manifest: Mapping[str, Any]) -> HpaSpec:
    """The HPA in `manifest`, checked against the profile's workload.

    Raises BadInput when the API server would refuse it, when it targets something else, or when it scales on a metric
    that the fleet does not export.
    """
    spec = HpaSpec.from_manifest(dict(manifest))
    deploy = profile.deploy
    if (spec.target_kind, spec.target_name) != (deploy.kind, deploy.name):
        raise BadInput(
            "the HPA file targets something else",
            value=f"{spec.target_kind}/{spec.target_name}",
            expected=f"{deploy.kind}/{deploy.name}, the workload of profile {profile.name}",
            next_step=f"write one with `autoscale manifests {profile.name}` or choose the profile that it belongs to",
        )
    for metric in spec.metrics:
        signal_of(metric.name, profile.engine.vllm_version)
    return spec


def simulate(
    profile: Profile,
    hpa: Mapping[str, Any] | HpaSpec | None,
    arrivals: Iterable[Arrivals],
    *,
    seed: int,
    duration_s: float,
    engine: EngineParams | None = None,
    static_replicas: int | None = None,
    start_replicas: int | None = None,
    slo: Slo | str | None = None,
    options: Options = DEFAULTS,
    keep: bool = False,
    stop: Callable[[Tally], str] | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Outcome:
    """What would happen to `profile` under the arrivals for `duration_s`, with this HPA or a fixed number of replicas.

    Requests due after the end are left out; those in flight at the end get `options.tail_s` to finish, hours are
    counted to the end. `keep` returns every request and sample (memory grows with the trace). `stop` is asked now and
    then and ends the run with the reason that it returns; the figures are then partial. `start_replicas` is where the
    HPA starts (its minimum when not given).

    Raises BadInput when the HPA does not fit the profile, or when neither or both of HPA and static_replicas are given.
    """
    if (hpa is None) == (static_replicas is None):
        raise BadInput(
            "a simulation needs either an HPA or a fixed number of replicas", expected="one of the two"
        )
    if not duration_s > 0:
        raise BadInput("the duration must be above 0 s", value=duration_s)
    spec = hpa if hpa is None or isinstance(hpa, HpaSpec) else read_hpa(profile, hpa)
    objectives = (
        parse_slo(profile.workload.slo) if slo is None else parse_slo(slo) if isinstance(slo, str) else slo
    )
    start = static_replicas if spec is None else start_replicas or max(1, spec.min_replicas)
    assert start is not None
    recorder = Recorder(profile, keep=keep)
    recorder.start(start)
    tally = Tally(objectives, duration_s)
    slots = slots_for(spec, start)
    replicas = Replicas(
        engine or EngineParams.from_profile(profile),
        slots,
        seed=seed,
        routing=options.routing,
        connections=options.connections or None,
        no_ready=options.no_ready,
    )
    fleet = Fleet(
        profile, replicas, slots, spec=spec, replicas=start, seed=seed, options=options, watcher=recorder
    )
    feed = _Feed(iter(arrivals), duration_s)
    stopped = _run(fleet, replicas, feed, tally, recorder, duration_s, stop, progress)
    fleet.pods.advance(duration_s)
    hours = fleet.pods.replica_s / 3600, fleet.pods.accelerator_s / 3600
    if not stopped:
        _finish(fleet, replicas, tally, recorder, duration_s + options.tail_s)
    return Outcome.of(
        profile=profile,
        slo=objectives,
        tally=tally,
        recorder=recorder,
        duration_s=duration_s,
        offered=feed.offered,
        hours=hours,
        flap_s=options.flap_s,
        stopped=stopped,
        seed=seed,
    )


class _Feed:
    """Gives the engine its arrivals chunk by chunk, no earlier than needed."""

    def __init__(self, chunks: Iterator[Arrivals], end_s: float) -> None:
        self.chunks, self.end_s = chunks, end_s
        self.offered = 0
        self.known_s = -math.inf  # arrivals up to here were offered
        self.rest: Arrivals | None = None

    def until(self, engine: Replicas, now_s: float) -> None:
        while self.known_s < now_s:
            chunk = next(self.chunks, None)
            if chunk is None:
                self.known_s = math.inf
                return
            if len(chunk.due_s) == 0:
                continue
            last_s = float(chunk.due_s[-1])
            if last_s >= self.end_s:
                chunk = chunk.take(slice(0, int(np.searchsorted(chunk.due_s, self.end_s))))
                self.known_s = math.inf
            else:
                self.known_s = last_s
            self.offered += len(chunk.due_s)
            engine.offer(chunk)


def _run(
    fleet: Fleet,
    engine: Replicas,
    feed: _Feed,
    tally: Tally,
    recorder: Recorder,
    duration_s: float,
    stop: Callable[[Tally], str] | None,
    progress: Callable[[float, str], None] | None,
) -> str:
    """Everything up to the end; returns why it stopped early, or nothing."""
    ticks = 0
    while (next_s := fleet.next_s) < duration_s:
        feed.until(engine, next_s)
        fleet.advance(next_s)
        if recorder.keep:
            recorder.sample(fleet)
        ticks += 1
        if ticks % HARVEST_TICKS == 0:
            recorder.keep_requests(tally.add(engine.finished()))
            tally.accelerator_hours = fleet.pods.accelerator_s / 3600
            if progress:
                progress(next_s / duration_s, f"{tally.requests} requests, {fleet.desired} replicas")
            if stop and (reason := stop(tally)):
                return reason
    feed.until(engine, duration_s)
    engine.advance(duration_s)
    return ""


def _finish(fleet: Fleet, engine: Replicas, tally: Tally, recorder: Recorder, until_s: float) -> None:
    """After the end: no more arrivals, the fleet goes on until everything in flight is done or the tail is over."""
    while engine.in_flight and (next_s := fleet.next_s) < until_s:
        fleet.advance(next_s)
    recorder.keep_requests(tally.add(engine.finished()))
