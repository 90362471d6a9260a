"""Ticks that change nothing, compiled: scrapes, and syncs of the HPA that keep the size.

The control plane looks at the fleet every few seconds and nearly always decides to stay. Those ticks run here in one
loop with the engines, about a hundred times faster than one by one; a sync that may rescale, or that cannot read its
metrics, is left to `Fleet` and the rules. No rule stands here: the HPA's are those of `hpa.arithmetic`, compiled as they
are, and a test holds whole simulations of both ways against each other.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from analysis.numbers import known
from analysis.run import SIGNALS
from autoscale.hpa import HpaSpec, arithmetic
from autoscale.hpa.arithmetic import NO_PROBLEM, NO_VALUE, US, Band, SizeRecord, Windows
from autoscale.hpa.calculator import band
from autoscale.hpa.limits import Memory, stabilisation_windows
from autoscale.sim.engine.arrivals import Lent
from autoscale.sim.engine.kernels import advance
from autoscale.sim.engine.replicas import Replicas
from autoscale.sim.engine.state import State, compilable, compiled, fingerprint
from autoscale.sim.fleet import metric_path
from autoscale.sim.fleet.control import NOT_REPORTED, Fleet

AHEAD = 512  # sync times known in advance

compilable(
    arithmetic.truncated,
    arithmetic.int32,
    arithmetic.ceiled,
    arithmetic.pods_size,
    arithmetic.stable_size,
    arithmetic.default_limit,
    arithmetic.limited_size,
    metric_path.thousandths,
)

NOW = np.dtype(
    [
        (fingerprint(arithmetic.__file__, metric_path.__file__), "i1"),
        ("until_s", "f8"),
        ("until_empty", "i8"),
        ("current", "i8"),
        ("pods", "i8"),
        ("scrapes", "i8"),  # made so far
        ("sync", "i8"),  # position of the next one in `syncs`
        ("way_first", "i8"),  # ring of scrapes that are not visible yet
        ("way_count", "i8"),
        ("memory_first", "i8"),  # recommendations first..end of `memory` are inside their windows
        ("memory_end", "i8"),
    ],
    align=True,
)
POD = np.dtype([("kind", "i8"), ("slot", "i8"), ("shown_s", "f8")], align=True)  # slot -1: serves nothing
SIZE_RECORD = np.dtype([(name, "i8") for name in SizeRecord._fields], align=True)
TARGET = np.dtype([("signal", "i8"), ("milli", "i8")], align=True)


class Timing(NamedTuple):
    """What never changes: of the metric path and of the HPA."""

    scrape_phase_s: float
    scrape_interval_s: float
    delay_s: float
    window_s: float
    band: Band
    windows: Windows
    least: int
    most: int


class TickState(NamedTuple):
    """A fleet as its ticks see it, in arrays: one row of `pods`, `shown` and `values_milli` per pod."""

    timing: Timing
    now: Any  # one NOW
    targets: Any  # one TARGET per metric
    syncs: Any  # times of the syncs to come
    pods: Any
    shown: Any  # the sample that the adapter shows, by SIGNALS
    values_milli: Any  # scratch: one metric as the HPA reads it
    way_s: Any  # when the scrapes on their way were made
    way: Any  # their samples, per pod and signal
    memory: Any  # SIZE_RECORD, what earlier syncs asked for


@compiled
def _scrape(s: State, t: TickState, now_s: float) -> None:
    """What the serving pods export goes on its way."""
    now, per_slot, blocks = t.now[0], s.params[0].data_parallel, s.params[0].num_blocks - 1
    at = (now.way_first + now.way_count) % len(t.way_s)
    now.way_count += 1
    t.way_s[at] = now_s
    for j in range(now.pods):
        slot = t.pods[j].slot
        if slot < 0:
            t.way[at, j, 0] = math.nan
            continue
        waiting, running, free = 0, 0, 0
        for i in range(slot * per_slot, (slot + 1) * per_slot):
            waiting += s.engines[i].shown_waiting
            running += s.engines[i].shown_running
            free += s.engines[i].shown_free
        t.way[at, j, 0], t.way[at, j, 1] = waiting, running
        t.way[at, j, 2] = per_slot * (1 - free / per_slot / blocks)


@compiled
def _see(t: TickState, now_s: float) -> None:
    """What has become visible by now, and what is too old by now."""
    now, way = t.now[0], t.way
    while now.way_count > 0 and t.way_s[now.way_first] <= now_s - t.timing.delay_s:
        for j in range(now.pods):
            if known(way[now.way_first, j, 0]):
                t.pods[j].shown_s = t.way_s[now.way_first]
                for which in range(t.shown.shape[1]):
                    t.shown[j, which] = way[now.way_first, j, which]
        now.way_first = (now.way_first + 1) % len(t.way_s)
        now.way_count -= 1
    for j in range(now.pods):
        if t.pods[j].shown_s < now_s - t.timing.window_s:
            t.pods[j].shown_s = math.nan


@compiled
def _wanted(t: TickState) -> tuple[int, bool]:
    """The largest size that a metric asks for, and whether every metric could be read."""
    now, wanted = t.now[0], 0
    for k in range(len(t.targets)):
        signal = t.targets[k].signal
        for j in range(now.pods):
            shown = known(t.pods[j].shown_s)
            t.values_milli[j] = metric_path.thousandths(t.shown[j, signal]) if shown else NO_VALUE
        size, _, problem = arithmetic.pods_size(
            t.pods.kind, t.values_milli, now.pods, t.targets[k].milli, now.current, t.timing.band
        )
        if problem != NO_PROBLEM:
            return 0, False
        wanted = max(wanted, size)
    return wanted, True


@compiled
def _stays(t: TickState, wanted: int, now_us: int) -> bool:
    """Whether the size stays; moves the start of what is remembered.

    Policies are not asked: they only hold a move back, so a size that stays without them stays with them.
    """
    now, timing = t.now[0], t.timing
    stable, now.memory_first = arithmetic.stable_size(
        t.memory, now.memory_first, now.memory_end, timing.windows, now.current, wanted, now_us
    )
    limit = timing.most if stable > now.current else timing.least
    if not timing.windows.behavior:
        limit = arithmetic.default_limit(stable, now.current, timing.least)
    return arithmetic.limited_size(stable, now.current, limit, timing.least, timing.most)[0] == now.current


@compiled
def _ticks(s: State, lent: Lent, first: int, t: TickState) -> int:
    """Ticks before `until_s` while the size stays and no more arrivals are needed; returns the first not yet due."""
    now, timing = t.now[0], t.timing
    while True:
        scrape_s = timing.scrape_phase_s + now.scrapes * timing.scrape_interval_s
        sync_s = t.syncs[now.sync]
        now_s = min(scrape_s, sync_s)
        empty = now.until_empty and s.clock[0].in_flight == 0
        if now_s >= now.until_s or lent.follows_s < now_s or empty:
            return first
        if scrape_s <= now_s:
            first = advance(s, lent, first, now_s)
            _scrape(s, t, now_s)
            now.scrapes += 1
        if sync_s > now_s:
            continue
        _see(t, now_s)
        wanted, readable = _wanted(t)
        now_us = int(np.rint(now_s * US))
        if not readable or not _stays(t, wanted, now_us):
            return first
        t.memory[now.memory_end].time_us, t.memory[now.memory_end].replicas = now_us, wanted
        now.memory_end += 1
        now.sync += 1


class Quiet:
    """The quiet ticks of a simulated fleet under an HPA of Pods metrics."""

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
        )
        longest_us = max(timing.windows.up_us, timing.windows.down_us)
        kept = math.ceil(longest_us / US / path.sync_period_s) + 2
        targets = [
            (which, metric.target_milli)
            for (_, which), metric in zip(fleet.signals, spec.metrics, strict=True)
        ]
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
            memory=np.zeros(kept + AHEAD, SIZE_RECORD),
        )

    def run(self, until_s: float, *, until_empty: bool = False) -> None:
        """Through the ticks before `until_s`, or until no request is in flight; up to the first that is not quiet."""
        fleet, timing = self.fleet, self._state.timing
        until_s = min(until_s, fleet.pods.next_s, fleet.poll_s)
        if min(fleet.next_scrape_s, fleet.next_sync_s) >= until_s or fleet.memory is None:
            return
        if not timing.least <= fleet.desired <= timing.most or fleet.desired == 0:
            return
        state = self._pack(fleet.memory, until_s, until_empty)
        lent, first = self.engine.lend()
        self.engine.take_back(_ticks(self.engine.state, lent, first, state))
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
        for j, pod in enumerate(pods):
            serves = fleet.serving.get(pod.slot) is pod
            shown_s, state.shown[j] = path.latest.get(pod.ordinal, NOT_REPORTED)
            kind = arithmetic.kind_of(pod.phase, known(pod.deleting_s))
            state.pods[j] = (kind, pod.slot if serves else -1, shown_s)
        for k, (scraped_s, samples) in enumerate(path.on_the_way):
            state.way_s[k] = scraped_s
            for j, pod in enumerate(pods):
                state.way[k, j] = samples.get(pod.ordinal, NOT_REPORTED[1])
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
        for k in range(now["way_first"], now["way_first"] + now["way_count"]):
            at = k % len(state.way_s)
            rows = zip(ordinals, state.way[at].tolist(), strict=False)
            samples = {ordinal: (row[0], row[1], row[2]) for ordinal, row in rows if known(row[0])}
            path.on_the_way.append((float(state.way_s[at]), samples))
