"""Ticks that change nothing, compiled: scrapes, syncs of the HPA and polls of KEDA that keep the size.

The control plane looks at the fleet every few seconds and nearly always decides to stay. Those ticks run here in one
loop with the engines, about a hundred times faster than one by one; a sync that may rescale, or that cannot read its
metrics, is left to `Fleet` and the rules. No rule stands here: they are those of `hpa.arithmetic` and
`keda.arithmetic`, compiled as they are, and a test holds whole simulations of both ways against each other.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from analysis.numbers import known
from analysis.run import SIGNALS
from autoscale.hpa import arithmetic
from autoscale.hpa.arithmetic import NO_PROBLEM, NO_VALUE, US, Band, SizeRecord, Windows
from autoscale.keda import arithmetic as keda_arithmetic
from autoscale.sim.engine.arrivals import Lent
from autoscale.sim.engine.flow_control import saturation
from autoscale.sim.engine.kernels import advance
from autoscale.sim.engine.state import State, compilable, compiled, fingerprint
from autoscale.sim.fleet import metric_path
from autoscale.sim.fleet.signals import totals
from autoscale.sim.fleet.signals.external import PollTimes
from autoscale.sim.fleet.signals.series import LOOKBACK_S
from autoscale.sim.fleet.signals.totals import PODS, VALUE

QUEUE, SENT = len(SIGNALS), len(SIGNALS) + 1  # columns of the gateway's gauges (totals.COLUMNS)

compilable(
    arithmetic.truncated,
    arithmetic.int32,
    arithmetic.ceiled,
    arithmetic.pods_size,
    arithmetic.external_size,
    arithmetic.value_size,
    arithmetic.stable_size,
    arithmetic.default_limit,
    arithmetic.limited_size,
    metric_path.thousandths,
    totals.aggregated,
    keda_arithmetic.is_active,
    keda_arithmetic.cooling,
)

NOW = np.dtype(
    [
        (
            fingerprint(arithmetic.__file__, metric_path.__file__, totals.__file__, keda_arithmetic.__file__),
            "i1",
        ),
        ("until_s", "f8"),
        ("until_empty", "i8"),
        ("current", "i8"),
        ("replicas", "i8"),  # of the target's status
        ("ready", "i8"),
        ("pods", "i8"),
        ("shown_total_s", "f8"),  # when the scrape that queries see was made
        ("scrapes", "i8"),  # made so far
        ("sync", "i8"),  # position of the next one in `syncs`
        ("polls", "i8"),  # of KEDA, made so far
        ("last_active_s", "f8"),  # by KEDA's clock; NaN: never
        ("way_first", "i8"),  # ring of scrapes that are not visible yet
        ("way_count", "i8"),
        ("memory_first", "i8"),  # recommendations first..end of `memory` are inside their windows
        ("memory_end", "i8"),
    ],
    align=True,
)
POD = np.dtype([("kind", "i8"), ("slot", "i8"), ("shown_s", "f8")], align=True)  # slot -1: serves nothing
SIZE_RECORD = np.dtype([(name, "i8") for name in SizeRecord._fields], align=True)


class Timing(NamedTuple):
    """What never changes: of the metric path, of the HPA, and of KEDA's polls."""

    scrape_phase_s: float
    scrape_interval_s: float
    delay_s: float
    window_s: float
    band: Band
    windows: Windows
    least: int
    most: int
    polls: PollTimes


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
    totals: Any  # what queries see now, one number each
    way_totals: Any  # and will see of the scrapes on their way
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
            for which in range(t.way.shape[2]):
                t.way[at, j, which] = math.nan
            continue
        waiting, running, free = 0, 0, 0
        for i in range(slot * per_slot, (slot + 1) * per_slot):
            waiting += s.engines[i].shown_waiting
            running += s.engines[i].shown_running
            free += s.engines[i].shown_free
        t.way[at, j, 0], t.way[at, j, 1] = waiting, running
        t.way[at, j, 2] = per_slot * (1 - free / per_slot / blocks)


@compiled
def _total(s: State, t: TickState, at: int) -> None:
    """What the queries give on the scrape at place `at` of the way."""
    now = t.now[0]
    for k in range(len(t.targets)):
        target = t.targets[k]
        if target.kind == PODS:
            continue
        value = math.nan
        if target.column < len(SIGNALS):
            value = totals.aggregated(target.aggregate, t.way[at, : now.pods, target.column])
            if target.also != totals.NO_COLUMN:
                value += totals.aggregated(target.aggregate, t.way[at, : now.pods, target.also])
        elif target.column == QUEUE:
            value = s.clock[0].gateway
        elif target.column == SENT:
            value = s.clock[0].in_flight - s.clock[0].gateway
        else:
            value = saturation(s)
        t.way_totals[at, target.total] = value * target.factor if known(value) else target.empty


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
        now.shown_total_s = t.way_s[now.way_first]
        for k in range(len(t.totals)):
            t.totals[k] = t.way_totals[now.way_first, k]
        now.way_first = (now.way_first + 1) % len(t.way_s)
        now.way_count -= 1
    for j in range(now.pods):
        if t.pods[j].shown_s < now_s - t.timing.window_s:
            t.pods[j].shown_s = math.nan


@compiled
def _shown_total(t: TickState, k: int, now_s: float) -> float:
    """What the query of an External or Object metric gives; NaN where it gives no element and that is an error."""
    target, stale = t.targets[k], t.now[0].shown_total_s <= now_s - LOOKBACK_S
    value = target.empty if stale else t.totals[target.total]
    return value if known(value) or target.strict else 0.0


@compiled
def _total_size(t: TickState, k: int, now_s: float) -> int:
    """What an External or Object metric asks for; -1 when its query cannot be read."""
    now, target = t.now[0], t.targets[k]
    value = _shown_total(t, k, now_s)
    if not known(value):
        return -1
    milli = int(np.rint(max(value, 0.0) * 1000)) if target.rounded else metric_path.thousandths(value)
    if target.kind == VALUE:
        return arithmetic.value_size(milli, target.milli, now.current, now.ready, t.timing.band)
    return arithmetic.external_size(milli, target.milli, now.replicas, t.timing.band)[0]


@compiled
def _wanted(t: TickState, now_s: float) -> tuple[int, bool]:
    """The largest size that a metric asks for, and whether every metric could be read."""
    now, wanted = t.now[0], 0
    for k in range(len(t.targets)):
        if t.targets[k].kind != PODS:
            size = _total_size(t, k, now_s)
            if size < 0:
                return 0, False
            wanted = max(wanted, size)
            continue
        signal = t.targets[k].column
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
def _poll_stays(t: TickState, now_s: float) -> bool:
    """Whether KEDA's poll leaves the size; keeps when something was last active."""
    now, timing, active = t.now[0], t.timing, False
    for k in range(len(t.targets)):
        value = _shown_total(t, k, now_s)
        if not known(value):
            return False
        active = active or keda_arithmetic.is_active(value, t.targets[k].active_above)
    clock_s = timing.polls.began_s + now_s
    if now.current == 0:
        return not active
    if active:
        now.last_active_s = math.floor(clock_s)
        return True
    return keda_arithmetic.cooling(
        clock_s, now.last_active_s, timing.polls.cooldown_s, timing.polls.first_rest_s
    )


@compiled
def _sync_stays(t: TickState, now_s: float) -> bool:
    """Whether the HPA's sync leaves the size; keeps what it asked for. At zero it reads nothing."""
    now = t.now[0]
    if now.current == 0:
        return True
    wanted, readable = _wanted(t, now_s)
    now_us = int(np.rint(now_s * US))
    if not readable or not _stays(t, wanted, now_us):
        return False
    t.memory[now.memory_end].time_us, t.memory[now.memory_end].replicas = now_us, wanted
    now.memory_end += 1
    return True


@compiled
def run_ticks(s: State, lent: Lent, first: int, t: TickState) -> int:
    """Ticks before `until_s` while the size stays and no more arrivals are needed; returns the first not yet due."""
    now, timing = t.now[0], t.timing
    while True:
        scrape_s = timing.scrape_phase_s + now.scrapes * timing.scrape_interval_s
        sync_s = t.syncs[now.sync]
        poll_s = timing.polls.first_s + now.polls * timing.polls.every_s
        now_s = min(scrape_s, sync_s, poll_s)
        empty = now.until_empty and s.clock[0].in_flight == 0
        if now_s >= now.until_s or lent.follows_s < now_s or empty:
            return first
        if scrape_s <= now_s:
            first = advance(s, lent, first, now_s)
            _scrape(s, t, now_s)
            now.scrapes += 1
            if len(t.totals) > 0:
                _total(s, t, (now.way_first + now.way_count - 1) % len(t.way_s))
        if min(poll_s, sync_s) > now_s:
            continue
        _see(t, now_s)
        if poll_s <= now_s:
            if not _poll_stays(t, now_s):
                return first
            now.polls += 1
        if sync_s <= now_s:
            if not _sync_stays(t, now_s):
                return first
            now.sync += 1
