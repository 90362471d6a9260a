"""How a request comes to a replica and leaves it: places in the table, seats, blocks; compiled."""

from __future__ import annotations

import math
from typing import Any

from autoscale.sim.engine.arrivals import Columns
from autoscale.sim.engine.linked import (
    blocks_for,
    heap_remove,
    prepend_waiting,
    remove_running,
    remove_waiting,
)
from autoscale.sim.engine.state import (
    DECODE,
    FREE,
    GATEWAY,
    NONE,
    OK,
    TRANSIT,
    WAITING,
    State,
    compiled,
    inlined,
)


@compiled
def no_pod_s(c: Any, at_s: float) -> float:
    """How long, up to `at_s`, no slot was open."""
    return float(c.no_pod_s + (at_s - c.no_pod_since_s if c.open_slots == 0 else 0.0))


@inlined
def new_request(s: State, chunk: Columns, k: int, answer: int) -> int:
    """A place in the table for arrival `k`, which is answered with so many tokens."""
    c = s.clock[0]
    r = c.free_head
    q = s.requests[r]
    c.free_head = q.after
    q.request_id, q.due_s, q.prefix = chunk.request_id[k], chunk.due_s[k], chunk.prefix_tokens[k]
    q.sent_s, q.enter_s, q.first_s = math.nan, math.nan, math.nan
    q.prompt, q.target = max(chunk.prompt_tokens[k], 1), max(answer, 1)
    q.out, q.computed, q.batch, q.stale = 0, 0, 0, 0
    q.lane, q.first_step, q.finish_step = NONE, 1, 0
    q.band, q.no_pod_s, q.held_s = 0, no_pod_s(c, q.due_s), 0.0
    q.state, q.engine, q.before, q.after = GATEWAY, NONE, NONE, NONE
    q.older, q.newer = c.newest, NONE
    if c.newest == NONE:
        c.oldest = r
    else:
        s.requests[c.newest].newer = r
    c.newest = r
    c.in_flight += 1
    return r


@inlined
def end_request(s: State, r: int, tokens: int, last_s: float, end_s: float, status: int) -> None:
    """Write the record of a request that left its engine, and give its place in the table back."""
    c, q = s.clock[0], s.requests[r]
    f = s.finished[c.finished]
    c.finished += 1
    f.request_id, f.due_s, f.sent_s, f.first_token_s = q.request_id, q.due_s, q.sent_s, q.first_s
    f.last_token_s, f.end_s, f.prompt_tokens, f.output_tokens = last_s, end_s, q.prompt, tokens
    f.held_s = q.held_s
    f.slot = NONE if q.engine == NONE else q.engine // s.params[0].data_parallel
    f.status = status
    if q.older == NONE:
        c.oldest = q.newer
    else:
        s.requests[q.older].newer = q.newer
    if q.newer == NONE:
        c.newest = q.older
    else:
        s.requests[q.newer].older = q.older
    if q.engine != NONE:
        s.bands[q.band].running -= 1
    q.state = FREE
    q.after = c.free_head
    c.free_head = r
    c.in_flight -= 1


@compiled
def tokens_out(lanes: Any, q: Any) -> int:
    """Output tokens that request `q` has produced by now."""
    if q.state != DECODE:
        return int(q.out)
    return int(max(q.out, q.target - (q.finish_step - lanes[q.lane].steps)))


@compiled
def _held_tokens(lanes: Any, q: Any) -> int:
    """Tokens of a running request that have been given blocks."""
    if q.state != DECODE:
        return int(q.computed)
    return int(q.prompt + q.target - 1 - max(q.finish_step - lanes[q.lane].formed, 0))


@compiled
def _leave_running(s: State, i: int, r: int) -> None:
    """Take a request from its lane, seat and blocks."""
    p, e, q = s.params[0], s.engines[i], s.requests[r]
    held = _held_tokens(s.lanes, q)
    lane = s.lanes[q.lane]
    if q.state == DECODE and q.finish_step > lane.formed:
        heap_remove(s.heaps[q.lane], lane.decoding, (q.finish_step << 32) | r)
        lane.decoding -= 1
        lane.kv_tokens -= held + 1
        s.phases[q.lane, (1 + q.finish_step - q.prompt - q.target) % p.block_size] -= 1
    remove_running(e, s.requests, r)
    e.running -= 1
    e.free_blocks += blocks_for(held, p.block_size)


@compiled
def brings_token(b: Any, q: Any) -> bool:
    """Whether a batch in flight computes an output token of the request."""
    return b.lane == q.lane and q.first_step <= b.step <= q.finish_step


@compiled
def _not_ending(requests: Any, b: Any, r: int) -> None:
    """The request does not end with this batch after all."""
    before, other = NONE, b.ends_head
    while other != NONE and other != r:
        before, other = other, requests[other].ends_with
    if other == NONE:
        return
    after = requests[r].ends_with
    if before == NONE:
        b.ends_head = after
    else:
        requests[before].ends_with = after
    if after == NONE:
        b.ends_tail = before


@compiled
def preempt_last(s: State, i: int, lane: int) -> int:
    """Evict the last running request to the head of the queue; returns 1 when the lane's next batch needed a block for it.

    What batches in flight compute of it is still delivered, and it is not resumed before.
    """
    p, e = s.params[0], s.engines[i]
    r = e.run_tail
    q = s.requests[r]
    formed = s.lanes[q.lane].formed
    decodes = q.state == DECODE and q.lane == lane and q.finish_step > formed
    needed = 1 if decodes and _held_tokens(s.lanes, q) % p.block_size == 0 else 0
    out = tokens_out(s.lanes, q)
    _leave_running(s, i, r)
    q.stale = 0
    for k in range(e.queued):
        b = s.batches[i, (e.oldest + k) % p.max_batches]
        if b.number == q.batch or brings_token(b, q):
            q.stale = b.number
            _not_ending(s.requests, b, r)
    if q.stale:
        e.stale += 1
    q.finish_step = min(q.finish_step, formed)
    q.out, q.computed = out, 0
    q.state = WAITING
    prepend_waiting(e, s.requests, r)
    e.waiting += 1
    e.preemptions += 1
    return needed


@inlined
def enter_gateway(s: State, r: int) -> None:
    """The request waits in its band, behind those that came before."""
    q = s.requests[r]
    band = s.bands[q.band]
    q.before = band.tail
    if band.tail == NONE:
        band.head = r
    else:
        s.requests[band.tail].after = r
    band.tail = r
    band.waiting += 1
    s.clock[0].gateway += 1


@inlined
def leave_gateway(s: State, r: int, at_s: float) -> None:
    """It waits no more."""
    c, q = s.clock[0], s.requests[r]
    band = s.bands[q.band]
    if q.before == NONE:
        band.head = q.after
    else:
        s.requests[q.before].after = q.after
    if q.after == NONE:
        band.tail = q.before
    else:
        s.requests[q.after].before = q.before
    band.waiting -= 1
    c.gateway -= 1
    q.held_s = max(0.0, at_s - q.due_s - (no_pod_s(c, at_s) - q.no_pod_s))


@compiled
def remove_request(s: State, r: int, at_s: float, status: int) -> None:
    """End a request wherever it is (client abort, timeout, closed replica): seat and blocks are free at once."""
    q = s.requests[r]
    if q.state == GATEWAY:
        leave_gateway(s, r, at_s)
        end_request(s, r, 0, math.nan, at_s, status)
        return
    i = q.engine
    e = s.engines[i]
    tokens = tokens_out(s.lanes, q)
    for k in range(e.queued):
        b = s.batches[i, (e.oldest + k) % s.params[0].max_batches]
        if brings_token(b, q):
            b.tokens -= 1
            _not_ending(s.requests, b, r)
    if q.state != TRANSIT:
        e.untold = 1
    if q.state == TRANSIT or q.state == WAITING:
        remove_waiting(e, s.requests, r)
        if q.state == WAITING:
            e.waiting -= 1
        if q.stale:
            e.stale -= 1
    else:
        _leave_running(s, i, r)
    e.in_flight -= 1
    e.stable = 0
    end_request(s, r, tokens, math.nan, at_s, status)


@inlined
def complete(s: State, i: int, r: int, at_s: float) -> None:
    """The last token of a request came out at `at_s`; it was running, or preempted meanwhile."""
    p, e, q = s.params[0], s.engines[i], s.requests[r]
    if q.state == WAITING:
        remove_waiting(e, s.requests, r)
        e.waiting -= 1
    else:
        held = blocks_for(q.prompt + q.target - 1, p.block_size)
        if p.async_scheduling and p.stages == 1:
            e.late_blocks += held
            e.late_seats += 1
        else:
            e.free_blocks += held
        remove_running(e, s.requests, r)
        e.running -= 1
    e.untold = 1
    e.completed += 1
    e.in_flight -= 1
    end_request(s, r, q.target, at_s, at_s, OK)
