"""Ticks that change nothing, compiled: scrapes, and syncs of the HPA that keep the size.

The control plane looks at the fleet every few seconds and nearly always decides to stay. Those ticks run here in one
loop with the engines, about a hundred times faster than one by one; a sync that would rescale, or that cannot read its
metrics, is left to `Fleet` and the rules in `autoscale.hpa`. Nothing else is decided here: the arithmetic is that of
`hpa.calculator.pods_proposal` and `hpa.limits.stabilise`, and a test holds whole simulations of both ways against each
other.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from autoscale.hpa.limits import US
from autoscale.kube.vllm_names import SIGNALS
from autoscale.sim.engine.kernels import advance
from autoscale.sim.engine.replicas import Replicas
from autoscale.sim.engine.state import State, compiled
from autoscale.sim.fleet.control import NOT_REPORTED, Fleet

AHEAD = 512  # sync times known in advance
PENDING, RUNNING, DELETING = range(3)
NO_PROPOSAL = -1

TICKS = np.dtype(
    [
        ("until_s", "f8"),
        ("scrape_phase_s", "f8"),
        ("scrape_interval_s", "f8"),
        ("delay_s", "f8"),
        ("window_s", "f8"),
        ("tolerance_up", "f8"),
        ("tolerance_down", "f8"),
        ("up_window_us", "i8"),
        ("down_window_us", "i8"),
        ("behavior", "i8"),
        ("until_empty", "i8"),
        ("min_replicas", "i8"),
        ("max_replicas", "i8"),
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


@compiled
def _proposal(c: Any, kinds: Any, shown_s: Any, shown: Any, which: int, target: int) -> int:
    """hpa.calculator.pods_proposal: replicas, or NO_PROPOSAL when it would be an error."""
    total, valued, counted, unready, missing, any_value = 0, 0, 0, 0, 0, False
    for j in range(c.pods):
        known = shown_s[j] == shown_s[j]
        any_value = any_value or known
        if kinds[j] == DELETING:
            continue
        if kinds[j] == PENDING:
            unready += 1
        elif not known:
            missing += 1
        else:
            counted += 1
            valued += 1
            total += int(shown[j, which] * 1000 + 1e-9)
    if valued == 0 or not any_value:
        return NO_PROPOSAL
    ratio = (total // valued) / target
    fill_unready = unready > 0 and ratio > 1.0
    low, high = 1.0 - c.tolerance_down, 1.0 + c.tolerance_up
    if not fill_unready and missing == 0:
        return c.current if low <= ratio <= high else math.ceil(ratio * counted)
    if missing > 0 and ratio != 1.0:
        valued += missing
        if ratio < 1.0:
            total += missing * target
    if fill_unready:
        valued += unready
    filled = (total // valued) / target
    if (ratio < 1.0 < filled) or (filled < 1.0 < ratio) or low <= filled <= high:
        return c.current
    replicas = math.ceil(filled * valued)
    against = (filled < 1.0 and replicas > c.current) or (filled > 1.0 and replicas < c.current)
    return c.current if against else replicas


@compiled
def _stays(c: Any, wanted: int, now_us: int, memory: Any) -> bool:
    """hpa.limits: whether the size stays after stabilisation, policies, min and max; moves the window's start."""
    up_cutoff, down_cutoff = now_us - c.up_window_us, now_us - c.down_window_us
    cutoff = min(up_cutoff, down_cutoff) if c.behavior else down_cutoff
    while c.memory_first < c.memory_end and memory[c.memory_first, 0] < cutoff:
        c.memory_first += 1
    lowest, highest = wanted, wanted
    for j in range(c.memory_first, c.memory_end):
        if memory[j, 0] > up_cutoff:
            lowest = min(lowest, memory[j, 1])
        if memory[j, 0] > down_cutoff or not c.behavior:
            highest = max(highest, memory[j, 1])
    if not c.behavior:
        ceiling = min(c.max_replicas, max(2 * c.current, 4))
        return max(c.min_replicas, min(highest, ceiling)) == c.current
    stable = min(max(c.current, lowest), highest)
    if stable > c.current:
        return c.current == c.max_replicas
    return stable == c.current or c.current == c.min_replicas


@compiled
def _scrape(s: State, c: Any, slots: Any, way: Any, way_s: Any, now_s: float) -> None:
    """What the serving pods export goes on its way."""
    per_slot, blocks = s.params[0].data_parallel, s.params[0].num_blocks - 1
    at = (c.way_first + c.way_count) % len(way_s)
    c.way_count += 1
    way_s[at] = now_s
    for j in range(c.pods):
        if slots[j] < 0:
            way[at, j, 0] = math.nan
            continue
        waiting, running, free = 0, 0, 0
        for i in range(slots[j] * per_slot, (slots[j] + 1) * per_slot):
            waiting += s.engines[i].shown_waiting
            running += s.engines[i].shown_running
            free += s.engines[i].shown_free
        way[at, j, 0], way[at, j, 1] = waiting, running
        way[at, j, 2] = per_slot * (1 - free / per_slot / blocks)


@compiled
def _see(c: Any, way: Any, way_s: Any, shown: Any, shown_s: Any, now_s: float) -> None:
    """What has become visible by now, and what is too old by now."""
    while c.way_count > 0 and way_s[c.way_first] <= now_s - c.delay_s:
        for j in range(c.pods):
            if way[c.way_first, j, 0] == way[c.way_first, j, 0]:
                shown_s[j] = way_s[c.way_first]
                for which in range(shown.shape[1]):
                    shown[j, which] = way[c.way_first, j, which]
        c.way_first = (c.way_first + 1) % len(way_s)
        c.way_count -= 1
    for j in range(c.pods):
        if shown_s[j] < now_s - c.window_s:
            shown_s[j] = math.nan


@compiled
def _ticks(
    s: State,
    request_id: Any,
    due_s: Any,
    prompt: Any,
    output: Any,
    prefix: Any,
    start: int,
    stop: int,
    follows_s: float,
    c: Any,
    syncs: Any,
    signals: Any,
    targets: Any,
    kinds: Any,
    slots: Any,
    shown_s: Any,
    shown: Any,
    way_s: Any,
    way: Any,
    memory: Any,
) -> int:
    """Ticks before `until_s` while the size stays and no more arrivals are needed; returns the first not yet due."""
    while True:
        scrape_s = c.scrape_phase_s + c.scrapes * c.scrape_interval_s
        sync_s = syncs[c.sync]
        now_s = min(scrape_s, sync_s)
        if now_s >= c.until_s or follows_s < now_s or (c.until_empty and s.clock[0].in_flight == 0):
            return start
        if scrape_s <= now_s:
            start = advance(s, request_id, due_s, prompt, output, prefix, start, stop, False, now_s)
            _scrape(s, c, slots, way, way_s, now_s)
            c.scrapes += 1
        if sync_s > now_s:
            continue
        _see(c, way, way_s, shown, shown_s, now_s)
        wanted = 0
        for k in range(len(signals)):
            proposal = _proposal(c, kinds, shown_s, shown, signals[k], targets[k])
            if proposal == NO_PROPOSAL:
                return start
            wanted = max(wanted, proposal)
        now_us = int(np.rint(now_s * US))
        if not _stays(c, wanted, now_us, memory):
            return start
        memory[c.memory_end, 0], memory[c.memory_end, 1] = now_us, wanted
        c.memory_end += 1
        c.sync += 1


class Quiet:
    """The quiet ticks of a simulated fleet under an HPA of Pods metrics."""

    def __init__(self, fleet: Fleet, engine: Replicas) -> None:
        spec, timing = fleet.spec, fleet.profile.metric_path
        assert spec is not None
        self.fleet, self.engine = fleet, engine
        longest_s = timing.ingestion_delay_s + timing.sync_period_s + 1
        most = math.ceil(longest_s / timing.scrape_interval_s) + 2
        self._way_s, self._way = np.zeros(most), np.zeros((most, engine.slots, len(SIGNALS)))
        self._shown_s, self._shown = np.zeros(engine.slots), np.zeros((engine.slots, len(SIGNALS)))
        self._kinds, self._slots = np.zeros(engine.slots, np.int64), np.zeros(engine.slots, np.int64)
        self._signals = np.array([which for _, which in fleet.signals], np.int64)
        self._targets = np.array([metric.target_milli for metric in spec.metrics], np.int64)
        self._known: Any = None  # the HPA's memory that `_memory` was filled from
        self._c = c = np.zeros(1, TICKS)[0]
        c["scrape_phase_s"], c["scrape_interval_s"] = fleet.scrape_phase_s, timing.scrape_interval_s
        c["delay_s"], c["window_s"] = timing.ingestion_delay_s, timing.adapter_window_s
        c["tolerance_up"], c["tolerance_down"] = spec.tolerance_up, spec.tolerance_down
        c["min_replicas"], c["max_replicas"] = spec.min_replicas, spec.max_replicas
        up_s, down_s = 0, None
        if spec.behavior:
            up_s, down_s = spec.behavior.scale_up.window_s or 0, spec.behavior.scale_down.window_s
        down_s = spec.downscale_stabilization_s if down_s is None else down_s
        c["behavior"], c["up_window_us"], c["down_window_us"] = bool(spec.behavior), up_s * US, down_s * US
        kept = math.ceil(max(up_s, down_s) / timing.sync_period_s) + 2
        self._memory = np.zeros((kept + AHEAD, 2), np.int64)

    def run(self, until_s: float, *, until_empty: bool = False) -> None:
        """Through the ticks before `until_s`, or until no request is in flight; up to the first that is not quiet."""
        fleet, c = self.fleet, self._c
        until_s = min(until_s, fleet.pods.next_s, fleet.poll_s)
        if min(fleet.next_scrape_s, fleet.next_sync_s) >= until_s or fleet.memory is None:
            return
        if not c["min_replicas"] <= fleet.desired <= c["max_replicas"] or fleet.desired == 0:
            return
        syncs = fleet.syncs.ahead(AHEAD)
        c["until_s"], c["until_empty"] = min(until_s, syncs[-1]), until_empty
        c["current"], c["scrapes"], c["sync"] = fleet.desired, fleet.scrapes, 0
        self._remember()
        self._look()
        chunk, start, stop, follows_s = self.engine.lend()
        start = _ticks(
            self.engine.state, *chunk, start, stop, follows_s, c, syncs, self._signals, self._targets, self._kinds,
            self._slots, self._shown_s, self._shown, self._way_s, self._way, self._memory,
        )  # fmt: skip
        self.engine.take_back(start)
        fleet.skip(int(c["scrapes"]), int(c["sync"]))
        self._hand_back()

    def settle(self) -> None:
        """Give the rules the recommendations made here; to be called before they decide."""
        if self._known is self.fleet.memory and self._known is not None:
            first, end = int(self._c["memory_first"]), int(self._c["memory_end"])
            recommendations = tuple(map(tuple, self._memory[first:end].tolist()))
            self.fleet.memory = self._known = replace(self._known, recommendations=recommendations)

    def _remember(self) -> None:
        """The recommendations of the last sync that the rules decided, or those made here, at the array's start."""
        c, memory = self._c, self.fleet.memory
        if self._known is memory:
            kept = self._memory[c["memory_first"] : c["memory_end"]].copy()
        else:
            kept = np.array(memory.recommendations, np.int64).reshape(-1, 2)
            self._known = memory
        self._memory[: len(kept)] = kept
        c["memory_first"], c["memory_end"] = 0, len(kept)

    def _look(self) -> None:
        """Pods as the HPA sees them, their engines, and the samples that are known or on their way."""
        fleet, c = self.fleet, self._c
        pods, path = fleet.pods.replicas, fleet.path
        c["pods"], c["way_first"], c["way_count"] = len(pods), 0, len(path.on_the_way)
        for j, pod in enumerate(pods):
            kind = RUNNING if pod.phase == "Running" else PENDING
            self._kinds[j] = DELETING if pod.deleting_s == pod.deleting_s else kind
            self._slots[j] = pod.slot if fleet.serving.get(pod.slot) is pod else -1
            self._shown_s[j], self._shown[j] = path.latest.get(pod.ordinal, NOT_REPORTED)
        for k, (scraped_s, samples) in enumerate(path.on_the_way):
            self._way_s[k] = scraped_s
            for j, pod in enumerate(pods):
                self._way[k, j] = samples.get(pod.ordinal, NOT_REPORTED[1])

    def _hand_back(self) -> None:
        """The samples to where the rules read them."""
        c, path = self._c, self.fleet.path
        ordinals = [pod.ordinal for pod in self.fleet.pods.replicas]
        seen = zip(ordinals, self._shown_s.tolist(), self._shown.tolist(), strict=False)
        path.latest = {
            o: (scraped_s, (sample[0], sample[1], sample[2]))
            for o, scraped_s, sample in seen
            if scraped_s == scraped_s
        }
        path.on_the_way.clear()
        for k in range(c["way_first"], c["way_first"] + c["way_count"]):
            at = k % len(self._way_s)
            rows = zip(ordinals, self._way[at].tolist(), strict=False)
            samples = {ordinal: (row[0], row[1], row[2]) for ordinal, row in rows if row[0] == row[0]}
            path.on_the_way.append((float(self._way_s[at]), samples))
