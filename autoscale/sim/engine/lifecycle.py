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
)


@compiled
def new_request(s: State, chunk: Columns, k: int, answer: int) -> int:
    """A place in the table for arrival `k`, which is answered with so many tokens."""
    c = s.clock[0]
    r = c.free_head
    q = s.requests[r]
    c.free_head = q.after
    q.request_id, q.due_s, q.prefix = chunk.request_id[k], chunk.due_s[k], chunk.prefix_tokens[k]
    q.sent_s, q.enter_s, q.first_s = math.nan, math.nan, math.nan
    q.prompt, q.target = max(chunk.prompt_tokens[k], 1), max(answer, 1)
    q.out, q.computed = 0, 0
    q.state, q.engine, q.before, q.after = GATEWAY, NONE, NONE, NONE
    q.older, q.newer = c.newest, NONE
    if c.newest == NONE:
        c.oldest = r
    else:
        s.requests[c.newest].newer = r
    c.newest = r
    c.in_flight += 1
    return r


@compiled
def end_request(s: State, r: int, tokens: int, last_s: float, end_s: float, status: int) -> None:
    """Write the record of a request that left its engine, and give its place in the table back."""
    c, q = s.clock[0], s.requests[r]
    f = s.finished[c.finished]
    c.finished += 1
    f.request_id, f.due_s, f.sent_s, f.first_token_s = q.request_id, q.due_s, q.sent_s, q.first_s
    f.last_token_s, f.end_s, f.prompt_tokens, f.output_tokens = last_s, end_s, q.prompt, tokens
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
    q.state = FREE
    q.after = c.free_head
    c.free_head = r
    c.in_flight -= 1


@compiled
def tokens_out(e: Any, q: Any) -> int:
    """Output tokens that request `q` of engine `e` has produced by now."""
    return q.target - (q.finish_step - e.steps) if q.state == DECODE else q.out


@compiled
def _leave_decode(s: State, i: int, r: int) -> int:
    """Take a decoding request out of the counts of engine `i`; returns the tokens it has (prompt and output)."""
    p, e, q = s.params[0], s.engines[i], s.requests[r]
    tokens = q.prompt + tokens_out(e, q)
    heap_remove(s.heaps[i], e.heap_size, (q.finish_step << 32) | r)
    e.heap_size -= 1
    e.decoding -= 1
    e.kv_tokens -= tokens
    s.phases[i, (1 + q.finish_step - q.prompt - q.target) % p.block_size] -= 1
    return tokens


@compiled
def preempt_last(s: State, i: int) -> int:
    """Evict the last running request to the head of the queue; returns 1 when it needed a block for this step."""
    p, e = s.params[0], s.engines[i]
    r = e.run_tail
    q = s.requests[r]
    needed = 0
    if q.state == DECODE:
        out = tokens_out(e, q)
        held = _leave_decode(s, i, r) - 1
        needed = 1 if held % p.block_size == 0 else 0
        q.out = out
    else:
        held = q.computed
    remove_running(e, s.requests, r)
    e.running -= 1
    e.free_blocks += blocks_for(held, p.block_size)
    e.preemptions += 1
    q.computed = 0
    q.state = WAITING
    prepend_waiting(e, s.requests, r)
    e.waiting += 1
    return needed


@compiled
def remove_request(s: State, r: int, at_s: float, status: int) -> None:
    """End a request wherever it is (client abort, timeout, closed replica): seat and blocks are free at once."""
    q = s.requests[r]
    c = s.clock[0]
    if q.state == GATEWAY:
        if q.before == NONE:
            c.gateway_head = q.after
        else:
            s.requests[q.before].after = q.after
        if q.after == NONE:
            c.gateway_tail = q.before
        else:
            s.requests[q.after].before = q.before
        c.gateway -= 1
        end_request(s, r, 0, math.nan, at_s, status)
        return
    e = s.engines[q.engine]
    tokens = tokens_out(e, q)
    if q.state == TRANSIT or q.state == WAITING:
        remove_waiting(e, s.requests, r)
        if q.state == WAITING:
            e.waiting -= 1
    else:
        held = _leave_decode(s, q.engine, r) if q.state == DECODE else q.computed
        e.free_blocks += blocks_for(held, s.params[0].block_size)
        remove_running(e, s.requests, r)
        e.running -= 1
    e.in_flight -= 1
    e.stable = 0
    end_request(s, r, tokens, math.nan, at_s, status)


@compiled
def complete(s: State, i: int, r: int, at_s: float) -> None:
    """The last token of a running request came out at `at_s`."""
    p, e, q = s.params[0], s.engines[i], s.requests[r]
    held = blocks_for(q.prompt + q.target - 1, p.block_size)
    if p.async_scheduling:
        e.late_blocks += held
        e.late_seats += 1
    else:
        e.free_blocks += held
    remove_running(e, s.requests, r)
    e.running -= 1
    e.completed += 1
    e.in_flight -= 1
    end_request(s, r, q.target, at_s, at_s, OK)
