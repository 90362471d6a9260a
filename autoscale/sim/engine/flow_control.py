"""What an inference gateway knows of its pods, and when it holds requests back; compiled.

The endpoint picker looks at every pod's metrics each `refresh_s`. Between two looks it decides on what it saw, so whatever
may go goes at once. Source: llm-d-router pkg/epp, flow control and saturation detectors.
"""

from __future__ import annotations

import math

from autoscale.sim.engine.scheduler import run_engine
from autoscale.sim.engine.state import State, compiled, inlined

UTILIZATION, CONCURRENCY = range(2)
DETECTORS = ("utilization", "concurrency")


@inlined
def next_look_s(s: State) -> float:
    """When the gateway looks at the pods again; inf while there are none."""
    g = s.gate[0]
    return float((g.look + 1) * g.refresh_s) if s.clock[0].open_slots > 0 else math.inf


@compiled
def look(s: State, at_s: float, itself: bool) -> None:
    """See the pods as they were at the last look before `at_s`, or at it `itself`; what was held meanwhile is counted."""
    c, g, p = s.clock[0], s.gate[0], s.params[0]
    k = int(at_s / g.refresh_s) + 1
    while k * g.refresh_s > at_s or (k * g.refresh_s == at_s and not itself):
        k -= 1
    if k <= g.look:
        return
    g.look = k
    seen_s = k * g.refresh_s
    room, most = 0, 0
    for j in range(c.open_slots):
        slot = s.open_list[j]
        waiting, free = 0, 0
        for i in range(slot * p.data_parallel, (slot + 1) * p.data_parallel):
            run_engine(s, i, seen_s)
            waiting += s.engines[i].shown_waiting
            free += s.engines[i].shown_free
        pod = s.seen[slot]
        pod.fresh, pod.waiting = 1, waiting
        pod.kv_usage = 1 - free / p.data_parallel / (p.num_blocks - 1)
        most = max(most, waiting)
        if fullness(s, slot) < 1.0:
            room += 1
    if c.gateway > 0 and c.open_slots > 0:
        g.held_s += g.refresh_s
        g.room_s += g.refresh_s * room / c.open_slots
        g.most_on_one = max(g.most_on_one, most)


@inlined
def in_flight_of(s: State, slot: int) -> int:
    """Requests that were sent to the slot and have not ended."""
    per_slot, load = s.params[0].data_parallel, 0
    for i in range(slot * per_slot, (slot + 1) * per_slot):
        load += s.engines[i].in_flight
    return load


@inlined
def fullness(s: State, slot: int) -> float:
    """How full one pod is, 1 at its limits; not cut off above. What was not seen lately counts as full."""
    g, pod = s.gate[0], s.seen[slot]
    if g.detector == CONCURRENCY:
        return float(in_flight_of(s, slot) / g.capacity)
    if pod.fresh == 0 or g.refresh_s >= g.stale_s:
        return 1.0
    return float(max(pod.waiting / g.queue_depth, pod.kv_usage / g.kv_usage))


@inlined
def saturation(s: State) -> float:
    """The plain mean over the pods of how full they are; 1 without any pod."""
    open_slots, total = s.clock[0].open_slots, 0.0
    for j in range(open_slots):
        total += fullness(s, s.open_list[j])
    return total / open_slots if open_slots > 0 else 1.0


@inlined
def end_of_wait_s(s: State, r: int) -> float:
    """When the time to live of a waiting request is over: a new one begins whenever pods come, or the last one goes."""
    g = s.gate[0]
    ttl_s = g.ttl_s if s.clock[0].open_slots > 0 else g.no_endpoint_ttl_s
    return float(max(s.requests[r].due_s, g.regime_s) + ttl_s)
