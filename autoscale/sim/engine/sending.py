"""How a request is sent to a replica, and in it to an engine; compiled."""

from __future__ import annotations

from autoscale.sim.engine.linked import append_waiting
from autoscale.sim.engine.routing import LEAST_REQUESTS, pick_slot
from autoscale.sim.engine.scheduler import run_engine
from autoscale.sim.engine.scorers import best_slot
from autoscale.sim.engine.state import NONE, TRANSIT, State, inlined


@inlined
def send(s: State, r: int, at_s: float) -> None:
    """Route request `r` to an open slot and, in the slot, to the engine with least work."""
    p, q = s.params[0], s.requests[r]
    q.sent_s = at_s
    if p.routing == LEAST_REQUESTS:
        for j in range(s.clock[0].open_slots):
            slot = s.open_list[j]
            for i in range(slot * p.data_parallel, (slot + 1) * p.data_parallel):
                run_engine(s, i, at_s)
    slot = best_slot(s, r) if s.gate[0].on else pick_slot(s)
    best = slot * p.data_parallel
    run_engine(s, best, at_s)
    least = 4 * (s.engines[best].in_flight - s.engines[best].running) + s.engines[best].running
    for i in range(best + 1, (slot + 1) * p.data_parallel):
        run_engine(s, i, at_s)
        load = 4 * (s.engines[i].in_flight - s.engines[i].running) + s.engines[i].running
        if load < least:
            best, least = i, load
    e = s.engines[best]
    q.engine = best
    q.enter_s = at_s + p.request_overhead_s
    q.state = TRANSIT
    append_waiting(e, s.requests, r)
    if e.first_transit == NONE:
        e.first_transit = r
    e.in_flight += 1
    s.bands[q.band].running += 1
