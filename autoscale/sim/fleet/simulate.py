"""A fleet in virtual time: what would happen to a profile under some traffic with this HPA, or a fixed size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.errors import BadInput
from analysis.slo import Slo, parse_slo
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.replicas import EngineParams, Replicas
from autoscale.sim.fleet.control import DEFAULTS, MOST_REPLICAS, Fleet, FleetOptions
from autoscale.sim.fleet.from_zero import FromZero
from autoscale.sim.fleet.held import Held
from autoscale.sim.fleet.outcome import FleetRecorder, Outcome
from autoscale.sim.fleet.quiet import Quiet
from autoscale.sim.fleet.scalers import Scaler, hpa_of, least_replicas, read_scaler
from autoscale.sim.fleet.signals.external import quiet_metrics
from autoscale.sim.fleet.tally import Tally
from loadgen.plan.traffic import Arrivals

HARVEST_TICKS = 128  # scrape intervals between two collections of finished requests, or
LOT = 1 << 20  # requests offered at a time
MOST_IN_FLIGHT = 4_000_000  # about 250 bytes each, three times that while their table grows
EXACT_MILLI = 1 << 52  # larger targets leave the compiled way, which counts in 64 bits


def slots_for(scaler: Scaler | None, replicas: int) -> int:
    """Engine slots that a fleet needs: room for those that drain while others start.

    A maxReplicas beyond MOST_REPLICAS is no reason for more: whoever asks for so many is told (control.Fleet).
    Raises BadInput when the fleet has more than that from the start.
    """
    spec = None if scaler is None else hpa_of(scaler)
    least = max(replicas, spec.min_replicas if spec else 0)
    if least > MOST_REPLICAS:
        raise BadInput("replicas of a simulated fleet", value=least, expected=f"at most {MOST_REPLICAS:,}")
    return 2 * min(max(replicas, spec.max_replicas if spec else 0), MOST_REPLICAS) + 2


def simulate(
    profile: Profile,
    hpa: Mapping[str, Any] | Scaler | None,
    arrivals: Iterable[Arrivals],
    *,
    seed: int,
    duration_s: float,
    engine: EngineParams | None = None,
    static_replicas: int | None = None,
    slo: Slo | str | None = None,
    options: FleetOptions = DEFAULTS,
    slo_cold_start_s: float | None = None,
    keep: bool = False,
    stop: Callable[[Tally], str] | None = None,
) -> Outcome:
    """What would happen to `profile` under the arrivals for `duration_s`, with this scaler or a fixed number of replicas.

    `hpa` is an HPA or a ScaledObject, which starts from its minimum (1 where that is 0), or from `options.start_replicas`. Requests due after the end are left out; those in flight at the end get
    `options.tail_s` to finish, hours are counted to the end. `keep` returns every request and sample (memory grows with
    the trace). `stop` is asked now and then and ends the run with the reason that it returns; the figures are then
    partial.

    `slo_cold_start_s` is the TTFT that a request may have which was due while no replica was ready (FromZero).
    Requests beyond the profile's max_model_len are refused as vLLM does, and counted as rejected.

    Raises BadInput when the HPA does not fit the profile, when neither or both of HPA and static_replicas are given, or
    when more replicas or requests in flight would be needed than are simulated.
    """
    scaler, start = _setting(profile, hpa, static_replicas, duration_s, options.start_replicas)
    objectives = slo if isinstance(slo, Slo) else parse_slo(profile.workload.slo if slo is None else slo)
    recorder = FleetRecorder(profile, keep=keep, replicas=start)
    slots = slots_for(scaler, start)
    replicas = _replicas(profile, engine, options, slots, seed)
    fleet = Fleet(
        profile, replicas, slots, scaler=scaler, replicas=start, seed=seed, options=options, watcher=recorder
    )
    to_zero = scaler is not None and least_replicas(scaler) == 0
    from_zero = FromZero(recorder.replicas, slo_cold_start_s) if to_zero else None
    feed, tally = _Feed(iter(arrivals), duration_s), Tally(objectives, duration_s, from_zero)
    course = _Course(fleet, replicas, recorder, feed, tally, duration_s)
    stopped = course.run(stop)
    fleet.pods.advance(duration_s)
    hours = fleet.pods.replica_s / 3600, fleet.pods.accelerator_s / 3600
    if not stopped:
        course.finish(duration_s + options.tail_s)
    outcome = Outcome.of(
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
        held=Held.by(replicas, tally.turned_away),
    )
    unread = fleet.external.unread if fleet.external else ()
    return replace(outcome, unread=unread, asleep_s=_asleep_s(outcome, from_zero))


def _asleep_s(outcome: Outcome, from_zero: FromZero | None) -> float:
    """How long the fleet stood at 0 at the end, 0 s where it did not or no request came meanwhile."""
    if from_zero is None or not outcome.decisions:
        return 0.0
    at_s, _, after, _ = outcome.decisions[-1]
    missed = outcome.unserved > 0 or from_zero.last_due_s > at_s
    return max(outcome.duration_s - at_s, 0.0) if after == 0 and missed else 0.0


def _replicas(
    profile: Profile, engine: EngineParams | None, options: FleetOptions, slots: int, seed: int
) -> Replicas:
    engine = engine or EngineParams.from_profile(profile)
    params = replace(
        engine,
        max_model_len=profile.engine.max_model_len,
        request_timeout_s=min(options.patience_s, engine.request_timeout_s),
    )
    return Replicas(
        params,
        slots,
        seed=seed,
        routing=options.routing,
        connections=options.connections or None,
        no_ready=options.no_ready,
        gateway=options.gateway,
    )


def _setting(
    profile: Profile,
    hpa: Mapping[str, Any] | Scaler | None,
    static_replicas: int | None,
    duration_s: float,
    at_least: int,
) -> tuple[Scaler | None, int]:
    """The scaler, if there is one, and the number of replicas at the start."""
    if (hpa is None) == (static_replicas is None):
        raise BadInput(
            "a simulation needs either an HPA or a fixed number of replicas", expected="one of the two"
        )
    if static_replicas is not None and static_replicas < 0:
        raise BadInput("a fixed number of replicas", value=static_replicas, expected="0 or more")
    if not duration_s > 0:
        raise BadInput("the duration must be above 0 s", value=duration_s)
    if hpa is None:
        assert static_replicas is not None
        return None, static_replicas
    scaler = read_scaler(profile, hpa) if isinstance(hpa, Mapping) else hpa
    hpa_spec = hpa_of(scaler)
    return scaler, max(1, hpa_spec.min_replicas, min(at_least, hpa_spec.max_replicas))


class _Feed:
    """Gives the engine its arrivals chunk by chunk, no earlier than needed."""

    def __init__(self, chunks: Iterator[Arrivals], end_s: float) -> None:
        self.chunks, self.end_s = chunks, end_s
        self.offered = 0
        self.known_s = -math.inf  # arrivals up to here were offered
        self.rest: Arrivals | None = None

    def until(self, engine: Replicas, now_s: float) -> float:
        """Offer what is due before `now_s`, LOT requests or a little more; returns up to when that is."""
        first = self.offered
        while self.known_s < now_s and self.offered - first < LOT:
            chunk = next(self.chunks, None)
            if chunk is None:
                self.known_s = math.inf
                break
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
        return min(now_s, self.known_s)


class _Course:
    """A simulated fleet on its way through the traffic."""

    def __init__(
        self,
        fleet: Fleet,
        engine: Replicas,
        recorder: FleetRecorder,
        feed: _Feed,
        tally: Tally,
        duration_s: float,
    ) -> None:
        self.fleet, self.engine, self.recorder = fleet, engine, recorder
        self.feed, self.tally, self.duration_s = feed, tally, duration_s
        self.quiet = _quiet(fleet, engine, recorder)

    def run(self, stop: Callable[[Tally], str] | None) -> str:
        """Everything up to the end; returns why it stopped early, or nothing."""
        fleet, tally = self.fleet, self.tally
        every_s = HARVEST_TICKS * fleet.profile.metric_path.scrape_interval_s
        until_s = min(every_s, self.duration_s)
        while True:
            until_s = self.feed.until(self.engine, until_s)
            if self.quiet:
                self.quiet.run(until_s)
            elif fleet.spec is None and not self.recorder.keep:
                fleet.skip_scrapes(until_s)
            if (next_s := fleet.next_s) < until_s:
                self._tick(next_s)
                continue
            self.engine.advance(until_s)
            if until_s >= self.duration_s:
                return ""
            self._harvest()
            tally.least_accelerator_hours = _least_hours(fleet, until_s, self.duration_s)
            if stop and (reason := stop(tally)):
                return reason
            if self.engine.in_flight > MOST_IN_FLIGHT:
                if stop:
                    return "breaches"  # of all that wait, hardly one will keep a bound
                raise _too_many(self.engine.in_flight, until_s, fleet.desired)
            until_s = min(until_s + every_s, self.duration_s)

    def finish(self, until_s: float) -> None:
        """After the end: no more arrivals, the fleet goes on until everything in flight is done or the tail is over."""
        fleet, engine = self.fleet, self.engine
        while engine.in_flight and fleet.next_s < until_s:
            if self.quiet:
                self.quiet.run(until_s, until_empty=True)
            if engine.in_flight and (next_s := fleet.next_s) < until_s:
                self._tick(next_s)
        self._harvest()

    def _tick(self, now_s: float) -> None:
        self.fleet.advance(now_s)
        if self.recorder.keep:
            self.recorder.sample(self.fleet)

    def _harvest(self) -> None:
        """Count the requests that finished."""
        self.recorder.keep_requests(self.tally.add(self.engine.finished()))


def _too_many(in_flight: int, at_s: float, replicas: int) -> BadInput:
    return BadInput(
        f"{in_flight:,} requests are in flight at {at_s:,.0f} s on {replicas:,} replicas",
        expected=f"at most {MOST_IN_FLIGHT:,}",
        next_step="offer less: these replicas serve only a small part of it",
    )


def _quiet(fleet: Fleet, engine: Replicas, recorder: FleetRecorder) -> Quiet | None:
    """The compiled way for an HPA of gauges, unless every sample is to be kept."""
    spec = fleet.spec
    if spec is None or recorder.keep or not quiet_metrics(spec, fleet.external):
        return None
    if any(metric.target_milli >= EXACT_MILLI for metric in spec.metrics):
        return None
    return Quiet(fleet, engine, spec)


def _least_hours(fleet: Fleet, now_s: float, end_s: float) -> float:
    """Accelerator-hours up to now, and of the HPA's minimum from now to the end."""
    pods = fleet.pods
    passed_s = pods.accelerator_s + (now_s - pods.now_s) * pods.accelerators_held
    least = fleet.least
    return (passed_s + (end_s - now_s) * least * pods.cold.size * pods.cold.chips_per_pod) / 3600
