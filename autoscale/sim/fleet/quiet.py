"""The quiet ticks of a simulated fleet: its state as arrays for the compiled loop (fleet.ticks), and back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from analysis.numbers import known
from analysis.run import SIGNALS
from autoscale.hpa import HpaSpec, arithmetic
from autoscale.hpa.arithmetic import US, SizeRecord
from autoscale.hpa.calculator import band
from autoscale.hpa.limits import Memory, stabilisation_windows
from autoscale.sim.engine.replicas import Replicas
from autoscale.sim.fleet.control import NOT_REPORTED, Fleet
from autoscale.sim.fleet.signals import totals
from autoscale.sim.fleet.signals.external import NO_POLLS
from autoscale.sim.fleet.signals.readings import seen
from autoscale.sim.fleet.signals.totals import AVERAGE_VALUE, PODS, TARGET, VALUE
from autoscale.sim.fleet.ticks import (
    NOW,
    POD,
    SIZE_RECORD,
    TickState,
    Timing,
    run_ticks,
)

AHEAD = 512  # sync times known in advance


class Quiet:
    """The quiet ticks of a simulated fleet under an HPA of gauges."""

    def __init__(self, fleet: Fleet, engine: Replicas, spec: HpaSpec) -> None:
        path = fleet.profile.metric_path
        self.fleet, self.engine = fleet, engine
        self._known: Memory | None = (
            None  # the HPA's memory that the array was filled from, or that was made of it
        )
        longest_s = path.ingestion_delay_s + path.sync_period_s + 1
        scrapes = math.ceil(longest_s / path.scrape_interval_s) + 2
        timing = Timing(
            fleet.scrape_phase_s,
            path.scrape_interval_s,
            path.ingestion_delay_s,
            path.adapter_window_s,
            band(spec),
            stabilisation_windows(spec),
            spec.min_replicas,
            spec.max_replicas,
            fleet.external.poll_times if fleet.external else NO_POLLS,
        )
        longest_us = max(timing.windows.up_us, timing.windows.down_us)
        kept = math.ceil(longest_us / US / path.sync_period_s) + 2
        targets = _targets(fleet, spec)
        gauges = sum(target[1] != PODS for target in targets)
        self._state = TickState(
            timing,
            now=np.zeros(1, NOW),
            targets=np.array(targets, TARGET),
            syncs=np.zeros(0),
            pods=np.zeros(engine.slots, POD),
            shown=np.zeros((engine.slots, len(SIGNALS))),
            values_milli=np.zeros(engine.slots, np.int64),
            way_s=np.zeros(scrapes),
            way=np.zeros((scrapes, engine.slots, len(SIGNALS))),
            totals=np.zeros(gauges),
            way_totals=np.zeros((scrapes, gauges)),
            memory=np.zeros(kept + AHEAD, SIZE_RECORD),
        )

    def run(self, until_s: float, *, until_empty: bool = False) -> None:
        """Through the ticks before `until_s`, or until no request is in flight; up to the first that is not quiet."""
        fleet, timing = self.fleet, self._state.timing
        if fleet.spec is not None and fleet.spec.min_replicas != timing.least:
            timing = timing._replace(least=fleet.spec.min_replicas)
            self._state = self._state._replace(timing=timing)
        until_s = min(until_s, fleet.pods.next_s, fleet.poll_s, fleet.next_minimum_s)
        if not (fleet.external and fleet.external.quiet_polls):
            until_s = min(until_s, fleet.next_poll_s)
        if min(fleet.next_scrape_s, fleet.next_sync_s, fleet.next_poll_s) >= until_s or fleet.memory is None:
            return
        if fleet.desired == 0:
            if not fleet.memory.disabled:
                return
        elif not (timing.least <= fleet.desired <= timing.most and fleet.pods.replicas):
            return
        state = self._pack(fleet.memory, until_s, until_empty)
        lent, first = self.engine.lend()
        self.engine.take_back(run_ticks(self.engine.state, lent, first, state))
        self._unpack(fleet.memory)

    def _pack(self, memory: Memory, until_s: float, until_empty: bool) -> TickState:
        """The fleet as arrays: pods as the HPA sees them, their samples that are known or on their way, the memory."""
        fleet, path, pods = self.fleet, self.fleet.path, self.fleet.pods.replicas
        syncs = fleet.syncs.ahead(AHEAD)
        state = self._state = self._state._replace(syncs=syncs)
        now = state.now[0]
        if self._known is memory:
            kept = state.memory[now["memory_first"] : now["memory_end"]].copy()
        else:
            kept = np.array(list(memory.recommendations), SIZE_RECORD)
        state.memory[: len(kept)] = kept
        now["memory_first"], now["memory_end"] = 0, len(kept)
        now["until_s"], now["until_empty"] = min(until_s, syncs[-1]), until_empty
        now["current"], now["scrapes"], now["sync"] = fleet.desired, fleet.scrapes, 0
        now["pods"], now["way_first"], now["way_count"] = len(pods), 0, len(path.on_the_way)
        now["replicas"], now["ready"] = (number or 0 for number in seen(fleet.pods))
        for j, pod in enumerate(pods):
            serves = fleet.serving.get(pod.slot) is pod
            shown_s, state.shown[j] = path.latest.get(pod.ordinal, NOT_REPORTED)
            kind = arithmetic.kind_of(pod.phase, known(pod.deleting_s))
            state.pods[j] = (kind, pod.slot if serves else -1, shown_s)
        for k, (scraped_s, samples) in enumerate(path.on_the_way):
            state.way_s[k] = scraped_s
            for j, pod in enumerate(pods):
                state.way[k, j] = samples.get(pod.ordinal, NOT_REPORTED[1])
        if fleet.external:
            now["polls"], now["last_active_s"] = fleet.external.polls, fleet.external.last_active_s
        if fleet.external and fleet.external.totals:
            queries = fleet.external.totals
            now["shown_total_s"], state.totals[:] = queries.shown
            seen_already = len(path.on_the_way) - len(queries.on_the_way)
            state.way_totals[:seen_already] = queries.shown[1]
            for k, (_, values) in enumerate(queries.on_the_way, seen_already):
                state.way_totals[k] = values
        return state

    def _unpack(self, memory: Memory) -> None:
        """The arrays back to where the fleet and the rules read them."""
        fleet, path, state = self.fleet, self.fleet.path, self._state
        now = state.now[0]
        fleet.skip(int(now["scrapes"]), int(now["sync"]))
        recent = state.memory[now["memory_first"] : now["memory_end"]].tolist()
        fleet.memory = self._known = replace(memory, recommendations=tuple(map(SizeRecord._make, recent)))
        ordinals = [pod.ordinal for pod in fleet.pods.replicas]
        seen = zip(ordinals, state.pods["shown_s"].tolist(), state.shown.tolist(), strict=False)
        path.latest = {
            ordinal: (shown_s, (sample[0], sample[1], sample[2]))
            for ordinal, shown_s, sample in seen
            if known(shown_s)
        }
        path.on_the_way.clear()
        if fleet.external:
            fleet.external.polled_quietly(int(now["polls"]), float(now["last_active_s"]))
        queries = fleet.external.totals if fleet.external else None
        if queries:
            queries.shown = float(now["shown_total_s"]), state.totals.tolist()
            queries.on_the_way.clear()
        for k in range(now["way_first"], now["way_first"] + now["way_count"]):
            at = k % len(state.way_s)
            rows = zip(ordinals, state.way[at].tolist(), strict=False)
            samples = {ordinal: (row[0], row[1], row[2]) for ordinal, row in rows if known(row[0])}
            path.on_the_way.append((float(state.way_s[at]), samples))
            if queries:
                queries.on_the_way.append((float(state.way_s[at]), state.way_totals[at].tolist()))


def _targets(fleet: Fleet, spec: HpaSpec) -> list[tuple[float, ...]]:
    """The rows of TARGET."""
    signals, external = dict(fleet.signals), fleet.external
    rows: list[tuple[float, ...]] = []
    gauges = external.gauges if external else {}
    for metric in spec.metrics:
        if metric.kind == "Pods":
            rows.append(
                (metric.target_milli, PODS, signals[metric.name], 0, 0, 1.0, 0.0, 0, 0, totals.NO_COLUMN, 0.0)
            )
            continue
        gauge, kind = gauges[metric.name], AVERAGE_VALUE if metric.average else VALUE
        assert external is not None
        place = list(gauges).index(metric.name)
        rounded = int(external.loops is not None)
        strict = int(external.strict(metric.name))
        rows.append(
            (
                metric.target_milli,
                kind,
                gauge.column,
                place,
                gauge.aggregate,
                gauge.factor,
                gauge.empty,
                rounded,
                strict,
                gauge.also,
                external.active_above(metric.name),
            )
        )
    return rows
