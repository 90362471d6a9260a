"""The way of a request through an inference gateway: admitted, held, sent on or turned away; compiled.

Source: llm-d-router pkg/epp, flow control (bands by priority, first come first served, time to live) and, with flow control
off, its older admission.
"""

from __future__ import annotations

import math

import numpy as np

from autoscale.sim.engine.flow_control import end_of_wait_s, look, next_look_s, saturation
from autoscale.sim.engine.lifecycle import end_request, enter_gateway, leave_gateway
from autoscale.sim.engine.sending import send
from autoscale.sim.engine.state import (
    EVICTED_NO_ENDPOINTS,
    EVICTED_TTL,
    HTTP_ERROR,
    NO_ENDPOINTS,
    NO_ROOM,
    NONE,
    SATURATED,
    State,
    compiled,
    inlined,
)

SWEEP_S = 1.0  # how often the gateway looks for requests that have waited too long


@compiled
def _turn_away(s: State, r: int, at_s: float, why: int) -> None:
    """The gateway ends a request that no replica has seen; `why` is the slot of its record."""
    end_request(s, r, 0, math.nan, at_s, HTTP_ERROR)
    s.finished[s.clock[0].finished - 1].slot = why


@compiled
def _dispatch(s: State, at_s: float) -> None:
    """Send on what waits while the pool is not saturated, by priority, then first come first served.

    One band that is blocked blocks those behind it: there is one pool.
    """
    c, g = s.clock[0], s.gate[0]
    for b in range(len(s.bands)):
        while s.bands[b].head != NONE:
            if c.open_slots == 0 or saturation(s) >= 1.0:
                return
            r = s.bands[b].head
            leave_gateway(s, r, at_s)
            send(s, r, at_s)
    g.most_waiting = max(g.most_waiting, c.gateway)


@compiled
def admit(s: State, r: int, at_s: float) -> None:
    """A request comes to the inference gateway."""
    c, g, q = s.clock[0], s.gate[0], s.requests[r]
    look(s, at_s, True)
    share = np.float64(np.uint64(q.request_id) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(11)) / 2.0**53
    while q.band + 1 < len(s.bands) and share >= s.bands[q.band].below:
        q.band += 1
    if g.flow_control:
        if s.bands[q.band].waiting >= g.band_requests:
            _turn_away(s, r, at_s, NO_ROOM if c.open_slots > 0 else NO_ENDPOINTS)
            return
        enter_gateway(s, r)
        _dispatch(s, at_s)
        g.most_waiting = max(g.most_waiting, c.gateway)
    elif c.open_slots == 0:
        _turn_away(s, r, at_s, NO_ENDPOINTS)
    elif s.bands[q.band].priority < 0 and saturation(s) >= 1.0:
        _turn_away(s, r, at_s, SATURATED)
    else:
        send(s, r, at_s)


@compiled
def _evict(s: State, at_s: float) -> None:
    """End those whose time to live is over by now."""
    for b in range(len(s.bands)):
        while s.bands[b].head != NONE and end_of_wait_s(s, s.bands[b].head) <= at_s:
            r = s.bands[b].head
            leave_gateway(s, r, at_s)
            _turn_away(s, r, at_s, EVICTED_TTL if s.clock[0].open_slots > 0 else EVICTED_NO_ENDPOINTS)


@inlined
def _sweep_s(s: State) -> float:
    """The first sweep that ends a wait; inf when nobody waits or nobody's time ends."""
    soonest = math.inf
    for b in range(len(s.bands)):
        if s.bands[b].head != NONE:
            soonest = min(soonest, end_of_wait_s(s, s.bands[b].head))
    return float(math.ceil(soonest / SWEEP_S) * SWEEP_S) if soonest < math.inf else math.inf


@inlined
def gateway_s(s: State) -> float:
    """When the gateway has something to do for those that wait."""
    if s.gate[0].on == 0 or s.clock[0].gateway == 0:
        return math.inf
    return min(next_look_s(s), _sweep_s(s))


@compiled
def serve_gateway(s: State, at_s: float) -> None:
    """The gateway looks at the pods, ends what has waited too long, and sends on what may go."""
    if _sweep_s(s) <= at_s:
        _evict(s, at_s)
    look(s, at_s, True)
    _dispatch(s, at_s)
