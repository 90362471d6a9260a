"""All replicas in one virtual time, compiled: arrivals, deadlines, routing, and what callers read."""

from __future__ import annotations

import math
from typing import Any

from autoscale.sim.engine.admission import admit, gateway_s, serve_gateway
from autoscale.sim.engine.arrivals import Columns, Lent
from autoscale.sim.engine.flow_control import look
from autoscale.sim.engine.lifecycle import (
    end_request,
    enter_gateway,
    leave_gateway,
    new_request,
    remove_request,
    tokens_out,
)
from autoscale.sim.engine.linked import blocks_for
from autoscale.sim.engine.scheduler import run_engine
from autoscale.sim.engine.sending import send
from autoscale.sim.engine.state import CANCELLED, HTTP_ERROR, NONE, REFUSED, TIMEOUT, State, compiled, inlined


@compiled
def _answer_tokens(p: Any, prompt: int, target: int) -> int:
    """Tokens of the answer that vLLM gives: fewer where the model's length ends it, 0 for a 400."""
    limit = p.max_model_len
    if limit == 0:
        return max(target, 1)
    if prompt >= limit or target > limit:
        return 0
    return min(max(target, 1), limit - max(prompt, 1))


@compiled
def _fits(p: Any, q: Any) -> bool:
    """Whether the cache could ever hold the request (vLLM refuses at start-up or with a 400 otherwise)."""
    return blocks_for(q.prompt + q.target - 1, p.block_size) <= p.num_blocks - 1


@inlined
def _arrive(s: State, chunk: Columns, k: int) -> None:
    """Arrival `k` of a chunk comes in: to a replica, into the gateway, or nowhere."""
    p, c = s.params[0], s.clock[0]
    answer = _answer_tokens(p, chunk.prompt_tokens[k], chunk.output_tokens[k])
    r, due_s = new_request(s, chunk, k, answer), chunk.due_s[k]
    if answer < 1 or not _fits(p, s.requests[r]):
        end_request(s, r, 0, math.nan, due_s, HTTP_ERROR)
        s.finished[c.finished - 1].slot = REFUSED
    elif s.gate[0].on:
        admit(s, r, due_s)
    elif c.open_slots > 0:
        send(s, r, due_s)
    elif p.wait_for_ready == 0:
        end_request(s, r, 0, math.nan, due_s, HTTP_ERROR)
    else:
        enter_gateway(s, r)


@compiled
def advance(s: State, lent: Lent, first: int, until_s: float) -> int:
    """Everything before `until_s`, with the lent arrivals from `first` on; returns the first that is not yet due.

    When more arrivals follow before `until_s` it returns when these are used up, without going on.
    """
    chunk, end, more = lent.chunk, lent.end, lent.follows_s < until_s
    c = s.clock[0]
    timeout_s = s.params[0].request_timeout_s
    while True:
        if more and first == end:
            return first
        arrival_s = chunk.due_s[first] if first < end else math.inf
        deadline_s = s.requests[c.oldest].due_s + timeout_s if c.oldest != NONE else math.inf
        at_gateway_s = gateway_s(s)
        if min(arrival_s, deadline_s, at_gateway_s) >= until_s:
            break
        if at_gateway_s <= min(deadline_s, arrival_s):
            serve_gateway(s, at_gateway_s)
        elif deadline_s <= arrival_s:
            if s.gate[0].on:
                look(s, deadline_s, True)
            r = c.oldest
            if r == NONE or s.requests[r].due_s + timeout_s > deadline_s:
                continue  # it ended meanwhile
            if s.requests[r].engine != NONE:
                run_engine(s, s.requests[r].engine, deadline_s)
            if c.oldest == r:
                remove_request(s, r, deadline_s, TIMEOUT)
        else:
            _arrive(s, chunk, first)
            first += 1
    if s.gate[0].on and until_s < math.inf:
        look(s, until_s, False)
    for i in range(c.engines):
        run_engine(s, i, until_s)
    c.now_s = until_s
    return first


@compiled
def flush_gateway(s: State) -> None:
    """Send on what waited for a replica, oldest first."""
    c = s.clock[0]
    while s.bands[0].head != NONE:
        r = s.bands[0].head
        leave_gateway(s, r, c.now_s)
        send(s, r, c.now_s)


@compiled
def cancel(s: State, request_id: int, slot: int) -> int:
    """Abort the request of that id, or all of a slot (`request_id` NONE); returns how many."""
    c = s.clock[0]
    r, count = c.oldest, 0
    while r != NONE:
        q = s.requests[r]
        newer = q.newer
        in_slot = q.engine != NONE and q.engine // s.params[0].data_parallel == slot
        if q.request_id == request_id if request_id != NONE else in_slot:
            remove_request(s, r, c.now_s, CANCELLED)
            count += 1
        r = newer
    return count


@compiled
def reset_slot(s: State, slot: int) -> None:
    """Fresh, empty engines in a slot."""
    p = s.params[0]
    for i in range(slot * p.data_parallel, (slot + 1) * p.data_parallel):
        e = s.engines[i]
        e.end_s = math.inf
        e.anchor_s, e.first_s, e.growth_s, e.anchor_steps = 0.0, 0.0, 0.0, 0
        e.schedules, e.oldest, e.queued, e.untold, e.stale = 0, 0, 0, 0, 0
        e.free_blocks, e.shown_free = p.num_blocks - 1, p.num_blocks - 1
        e.late_blocks, e.late_seats, e.running, e.waiting = 0, 0, 0, 0
        e.waiting_formed, e.shown_waiting, e.shown_running = 0, 0, 0
        e.preemptions, e.prompt_tokens, e.generation_tokens, e.completed, e.in_flight = 0, 0, 0, 0, 0
        e.stable = 0
        e.run_head, e.run_tail, e.first_prefill = NONE, NONE, NONE
        e.wait_head, e.wait_tail, e.first_transit = NONE, NONE, NONE
        s.stage_ends[i, :] = 0.0
        for k in range(i * p.stages, (i + 1) * p.stages):
            lane = s.lanes[k]
            lane.end_s, lane.formed, lane.steps, lane.decoding, lane.kv_tokens = 0.0, 0, 0, 0, 0
            s.phases[k, :] = 0


@compiled
def next_event_s(s: State) -> float:
    """When the next step ends, request enters an idle scheduler, or deadline passes; inf when nothing is under way."""
    c = s.clock[0]
    soonest = s.requests[c.oldest].due_s + s.params[0].request_timeout_s if c.oldest != NONE else math.inf
    for i in range(c.engines):
        e = s.engines[i]
        if math.isinf(e.end_s) and e.first_transit != NONE:
            soonest = min(soonest, s.requests[e.first_transit].enter_s)
        soonest = min(soonest, e.end_s)
    return min(soonest, gateway_s(s))


@compiled
def read_progress(s: State, out: Any) -> int:
    """Fill `out` with (request_id, slot, tokens_out) of the requests that replicas hold; returns how many."""
    r, n = s.clock[0].oldest, 0
    while r != NONE:
        q = s.requests[r]
        if q.engine != NONE:
            o = out[n]
            o.request_id = q.request_id
            o.slot = q.engine // s.params[0].data_parallel
            o.tokens_out = tokens_out(s.lanes, q)
            n += 1
        r = q.newer
    return n
