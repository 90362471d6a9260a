"""The compiled scheduler: how one vLLM engine moves from step to step, and many of them through one virtual time.

A step of an engine is formed at the end of the one before: running sequences get one token each, then prompts are
prefilled in chunks (vLLM V1, `Scheduler.schedule`). While a step only decodes and nothing can be admitted, the next ones
look the same, and the engine jumps over them:

    end of the i-th step after an anchor     E(i) = anchor + i * first + growth * i (i - 1) / 2

`growth` is the time that the sequences' next tokens add to a step by the KV cache they leave behind. A jump ends before
the first of: a completion (a heap of finish steps), a request that enters, a step whose new blocks are not free. New
blocks per step come from a table: how many decoding sequences open a block when `steps % block_size` has a given value.
Ends are always computed from the anchor, so results do not depend on how often the caller looks.

State lies in record arrays: `engines`, `requests` (a table of those in flight, linked into lists by index) and
`clock` (one record). Lists are doubly linked through `before` and `after`; NONE ends them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from autoscale.sim.routing import LEAST_REQUESTS, compiled, pick_slot

NONE = -1
FREE, GATEWAY, TRANSIT, WAITING, PREFILL, DECODE = range(6)  # states of a request
OK, HTTP_ERROR, TIMEOUT, CANCELLED = 0, 1, 2, 5  # positions in analysis.run.STATUSES

PARAMS = np.dtype(
    [
        ("base_s", "f8"),
        ("per_sequence_s", "f8"),
        ("per_kv_token_s", "f8"),
        ("per_prefill_token_s", "f8"),
        ("request_overhead_s", "f8"),
        ("request_timeout_s", "f8"),
        ("num_blocks", "i8"),
        ("stages", "i8"),
        ("data_parallel", "i8"),
        ("max_num_seqs", "i8"),
        ("token_budget", "i8"),
        ("block_size", "i8"),
        ("async_scheduling", "i8"),
        ("routing", "i8"),
        ("wait_for_ready", "i8"),
    ],
    align=True,
)
ENGINE = np.dtype(
    [
        ("end_s", "f8"),  # end of the step in progress; inf = idle
        ("anchor_s", "f8"),
        ("first_s", "f8"),
        ("growth_s", "f8"),
        ("anchor_steps", "i8"),
        ("steps", "i8"),  # completed
        ("free_blocks", "i8"),
        ("late_blocks", "i8"),  # freed by the last step, seen one step later (asynchronous scheduling)
        ("late_seats", "i8"),
        ("kv_tokens", "i8"),  # of decoding sequences, the one being computed included
        ("decoding", "i8"),
        ("running", "i8"),
        ("waiting", "i8"),
        ("waiting_formed", "i8"),  # left waiting when the step in progress was formed
        ("shown_waiting", "i8"),  # gauges: as of the last completed step
        ("shown_running", "i8"),
        ("shown_free", "i8"),
        ("preemptions", "i8"),
        ("prompt_tokens", "i8"),
        ("generation_tokens", "i8"),
        ("completed", "i8"),
        ("in_flight", "i8"),
        ("heap_size", "i8"),
        ("run_head", "i4"),
        ("run_tail", "i4"),
        ("first_prefill", "i4"),  # sequences being prefilled are the tail of the running list from here
        ("wait_head", "i4"),
        ("wait_tail", "i4"),
        (
            "first_transit",
            "i4",
        ),  # requests not yet in the scheduler are the tail of the waiting list from here
        ("stable", "i4"),  # the step in progress only decodes, and nothing but an event changes that
    ],
    align=True,
)
REQUEST = np.dtype(
    [
        ("request_id", "i8"),
        ("due_s", "f8"),
        ("sent_s", "f8"),
        ("enter_s", "f8"),
        ("first_s", "f8"),
        ("finish_step", "i8"),
        ("prompt", "i4"),
        ("target", "i4"),
        ("prefix", "i4"),
        ("out", "i4"),  # tokens generated before the current prefill or decode run
        ("computed", "i4"),  # tokens whose KV is computed, while being prefilled
        ("state", "i4"),
        ("engine", "i4"),
        ("before", "i4"),
        ("after", "i4"),
        ("older", "i4"),  # all requests in flight in the order they were due
        ("newer", "i4"),
    ],
    align=True,
)
CLOCK = np.dtype(
    [
        ("now_s", "f8"),
        ("random", "u8"),
        ("turn", "i8"),
        ("open_slots", "i8"),
        ("in_flight", "i8"),
        ("gateway", "i8"),
        ("finished", "i8"),
        ("free_head", "i4"),
        ("oldest", "i4"),
        ("newest", "i4"),
        ("gateway_head", "i4"),
        ("gateway_tail", "i4"),
    ],
    align=True,
)
FINISHED = np.dtype(
    [
        ("request_id", "i8"),
        ("due_s", "f8"),
        ("sent_s", "f8"),
        ("first_token_s", "f8"),
        ("last_token_s", "f8"),
        ("end_s", "f8"),
        ("prompt_tokens", "i4"),
        ("output_tokens", "i4"),
        ("slot", "i4"),
        ("status", "i4"),
    ],
    align=True,
)


class State(NamedTuple):
    """Everything a set of replicas consists of, as arrays; `heaps` holds finish step << 32 | request, per engine."""

    params: Any
    clock: Any
    is_open: Any
    open_list: Any  # numbers of the open slots
    connections: Any  # slot of each keep-alive connection
    engines: Any
    heaps: Any
    phases: (
        Any  # per engine: decoding sequences by the value of steps % block_size at which they need a block
    )
    requests: Any
    finished: Any


# --- lists and heaps -------------------------------------------------------------------------------------------------


@compiled
def _blocks(tokens: int, size: int) -> int:
    return (tokens + size - 1) // size


@compiled
def _append_running(e: Any, requests: Any, r: int) -> None:
    requests[r].before = e.run_tail
    requests[r].after = NONE
    if e.run_tail == NONE:
        e.run_head = r
    else:
        requests[e.run_tail].after = r
    e.run_tail = r


@compiled
def _remove_running(e: Any, requests: Any, r: int) -> None:
    before, after = requests[r].before, requests[r].after
    if e.first_prefill == r:
        e.first_prefill = after
    if before == NONE:
        e.run_head = after
    else:
        requests[before].after = after
    if after == NONE:
        e.run_tail = before
    else:
        requests[after].before = before


@compiled
def _append_waiting(e: Any, requests: Any, r: int) -> None:
    requests[r].before = e.wait_tail
    requests[r].after = NONE
    if e.wait_tail == NONE:
        e.wait_head = r
    else:
        requests[e.wait_tail].after = r
    e.wait_tail = r


@compiled
def _prepend_waiting(e: Any, requests: Any, r: int) -> None:
    requests[r].before = NONE
    requests[r].after = e.wait_head
    if e.wait_head == NONE:
        e.wait_tail = r
    else:
        requests[e.wait_head].before = r
    e.wait_head = r


@compiled
def _remove_waiting(e: Any, requests: Any, r: int) -> None:
    before, after = requests[r].before, requests[r].after
    if e.first_transit == r:
        e.first_transit = after
    if before == NONE:
        e.wait_head = after
    else:
        requests[before].after = after
    if after == NONE:
        e.wait_tail = before
    else:
        requests[after].before = before


@compiled
def _sift_up(heap: Any, i: int, key: int) -> None:
    while i > 0:
        parent = (i - 1) >> 1
        if heap[parent] <= key:
            break
        heap[i] = heap[parent]
        i = parent
    heap[i] = key


@compiled
def _sift_down(heap: Any, size: int, i: int, key: int) -> None:
    child = 2 * i + 1
    while child < size:
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[i] = heap[child]
        i = child
        child = 2 * i + 1
    heap[i] = key


@compiled
def _heap_remove(heap: Any, size: int, key: int) -> None:
    """Take out any key; a scan of the keys, needed only when a request is preempted or aborted."""
    i = 0
    while heap[i] != key:
        i += 1
    last = heap[size - 1]
    if last == key:
        return
    if i > 0 and heap[(i - 1) >> 1] > last:
        _sift_up(heap, i, last)
    else:
        _sift_down(heap, size - 1, i, last)


# --- requests --------------------------------------------------------------------------------------------------------


@compiled
def _new_request(s: State, request_id: int, due_s: float, prompt: int, target: int, prefix: int) -> int:
    c = s.clock[0]
    r = c.free_head
    q = s.requests[r]
    c.free_head = q.after
    q.request_id, q.due_s, q.sent_s, q.enter_s, q.first_s = request_id, due_s, math.nan, math.nan, math.nan
    q.prompt, q.target, q.prefix, q.out, q.computed = max(prompt, 1), max(target, 1), prefix, 0, 0
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
def _end_request(s: State, r: int, tokens: int, last_s: float, end_s: float, status: int) -> None:
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
    _heap_remove(s.heaps[i], e.heap_size, (q.finish_step << 32) | r)
    e.heap_size -= 1
    e.decoding -= 1
    e.kv_tokens -= tokens
    s.phases[i, (1 + q.finish_step - q.prompt - q.target) % p.block_size] -= 1
    return tokens


@compiled
def _preempt_last(s: State, i: int) -> int:
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
    _remove_running(e, s.requests, r)
    e.running -= 1
    e.free_blocks += _blocks(held, p.block_size)
    e.preemptions += 1
    q.computed = 0
    q.state = WAITING
    _prepend_waiting(e, s.requests, r)
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
        _end_request(s, r, 0, math.nan, at_s, status)
        return
    e = s.engines[q.engine]
    tokens = tokens_out(e, q)
    if q.state == TRANSIT or q.state == WAITING:
        _remove_waiting(e, s.requests, r)
        if q.state == WAITING:
            e.waiting -= 1
    else:
        held = _leave_decode(s, q.engine, r) if q.state == DECODE else q.computed
        e.free_blocks += _blocks(held, s.params[0].block_size)
        _remove_running(e, s.requests, r)
        e.running -= 1
    e.in_flight -= 1
    e.stable = 0
    _end_request(s, r, tokens, math.nan, at_s, status)


@compiled
def _complete(s: State, i: int, r: int, at_s: float) -> None:
    """The last token of a running request came out at `at_s`."""
    p, e, q = s.params[0], s.engines[i], s.requests[r]
    held = _blocks(q.prompt + q.target - 1, p.block_size)
    if p.async_scheduling:
        e.late_blocks += held
        e.late_seats += 1
    else:
        e.free_blocks += held
    _remove_running(e, s.requests, r)
    e.running -= 1
    e.completed += 1
    e.in_flight -= 1
    _end_request(s, r, q.target, at_s, at_s, OK)


# --- one engine ------------------------------------------------------------------------------------------------------


@compiled
def _finish_step(s: State, i: int) -> None:
    """Hand out the tokens of the step in progress, let completed requests go, move the gauges."""
    p, e = s.params[0], s.engines[i]
    heap = s.heaps[i]
    at_s = e.end_s
    e.steps += 1
    e.generation_tokens += e.decoding
    e.kv_tokens += e.decoding
    while e.heap_size > 0 and heap[0] >> 32 == e.steps:
        r = heap[0] & 0xFFFFFFFF
        q = s.requests[r]
        e.heap_size -= 1
        _sift_down(heap, e.heap_size, 0, heap[e.heap_size])
        e.decoding -= 1
        e.kv_tokens -= q.prompt + q.target
        s.phases[i, (1 + q.finish_step - q.prompt - q.target) % p.block_size] -= 1
        _complete(s, i, r, at_s)
    r = e.first_prefill
    while r != NONE:
        q = s.requests[r]
        after = q.after
        if q.computed < q.prompt + q.out:
            break  # a prompt in chunks: only the last of the list
        e.first_prefill = after
        q.out += 1
        e.generation_tokens += 1
        if math.isnan(q.first_s):
            q.first_s = at_s
            e.prompt_tokens += q.prompt
        if q.out == q.target:
            _complete(s, i, r, at_s)
        else:
            q.state = DECODE
            q.finish_step = e.steps + q.target - q.out
            _sift_up(heap, e.heap_size, (q.finish_step << 32) | r)
            e.heap_size += 1
            e.decoding += 1
            e.kv_tokens += q.prompt + q.out
            s.phases[i, (1 + q.finish_step - q.prompt - q.target) % p.block_size] += 1
        r = after
    e.shown_waiting = e.waiting_formed
    e.shown_running = e.running
    e.shown_free = e.free_blocks + e.late_blocks


@compiled
def _form_step(s: State, i: int, at_s: float, known: int) -> bool:
    """Schedule one step at `at_s`, with the first `known` waiting requests as candidates; False when it is empty."""
    p, e, requests = s.params[0], s.engines[i], s.requests
    size = p.block_size
    preemptions = e.preemptions
    need = s.phases[i, e.steps % size]
    while need > e.free_blocks:
        need -= _preempt_last(s, i)
    e.free_blocks -= need
    budget = p.token_budget * p.stages - e.decoding
    sequences, tokens, largest, context = e.decoding, 0, 0, 0
    r = e.first_prefill
    if r != NONE:
        q = requests[r]
        chunk = min(q.prompt + q.out - q.computed, budget)
        blocks = _blocks(q.computed + chunk, size) - _blocks(q.computed, size)
        if blocks > e.free_blocks:
            _preempt_last(s, i)
        else:
            e.free_blocks -= blocks
            q.computed += chunk
            budget -= chunk
            sequences, tokens, largest, context = sequences + 1, chunk, chunk, q.computed
    if e.preemptions == preemptions:
        while known > 0 and budget > 0 and e.running + e.late_seats < p.max_num_seqs:
            r = e.wait_head
            q = requests[r]
            full = q.prompt + q.out
            if _blocks(full, size) > e.free_blocks:
                break
            cached = min(q.prefix, full - 1) // size * size
            chunk = min(full - cached, budget)
            q.computed = cached + chunk
            e.free_blocks -= _blocks(q.computed, size)
            budget -= chunk
            _remove_waiting(e, requests, r)
            _append_running(e, requests, r)
            if e.first_prefill == NONE:
                e.first_prefill = r
            q.state = PREFILL
            known -= 1
            e.waiting -= 1
            e.running += 1
            sequences += 1
            tokens += chunk
            largest = max(largest, chunk)
            context += q.computed
    if sequences == 0:
        return False
    # Micro-batches move through the stages in lockstep: a pass takes every stage as long as the fullest one needs.
    lane = (sequences + p.stages - 1) // p.stages
    share = lane / sequences
    lane_tokens = max((tokens + p.stages - 1) // p.stages, min(largest, p.token_budget))
    stage_s = (
        p.base_s
        + p.per_sequence_s * lane
        + p.per_kv_token_s * (e.kv_tokens + context) * share
        + p.per_prefill_token_s * lane_tokens
    )
    e.anchor_s, e.anchor_steps = at_s, e.steps
    e.first_s = p.stages * stage_s
    e.growth_s = p.stages * p.per_kv_token_s * share * e.decoding
    e.end_s = at_s + e.first_s
    e.stable = 1 if tokens == 0 and e.preemptions == preemptions and e.late_seats == 0 else 0
    e.waiting_formed = e.waiting
    return True


@compiled
def _next_step(s: State, i: int, at_s: float) -> None:
    """Form the step that starts at `at_s`, or fall idle."""
    e = s.engines[i]
    # Asynchronous scheduling decided this step when the last one began: it knows who waited then, and not yet what the
    # last step freed.
    known = min(e.waiting, e.waiting_formed) if s.params[0].async_scheduling else e.waiting
    unknown = e.waiting - known
    some = _form_step(s, i, at_s, known)
    e.free_blocks += e.late_blocks
    e.late_blocks = 0
    e.late_seats = 0
    while not some and e.waiting > 0:
        some = _form_step(s, i, at_s, e.waiting)
    if not some:
        e.end_s = math.inf
        e.stable = 0
        e.waiting_formed = 0
    elif unknown > 0:
        e.stable = 0


@compiled
def _end_of(e: Any, i: int) -> float:
    return e.anchor_s + i * e.first_s + e.growth_s * (0.5 * i * (i - 1))


@compiled
def _jump(s: State, k: int, until_s: float) -> bool:
    """Complete all steps of engine `k` that end before `until_s` and look like the one in progress; False if none."""
    e = s.engines[k]
    most = (s.heaps[k, 0] >> 32) - 1 - e.steps
    if most <= 0:
        return False
    i = e.steps - e.anchor_steps + 1  # the step in progress, counted from the anchor
    if _end_of(e, i + most - 1) >= until_s:
        left = until_s - e.anchor_s
        if e.growth_s * left > 1e-9 * e.first_s * e.first_s:
            b = e.first_s - 0.5 * e.growth_s
            last = int((math.sqrt(b * b + 2.0 * e.growth_s * left) - b) / e.growth_s)
        else:
            last = int(left / e.first_s)
        last = max(min(last, i + most - 1), i - 1)
        while last >= i and _end_of(e, last) >= until_s:
            last -= 1
        while last + 1 < i + most and _end_of(e, last + 1) < until_s:
            last += 1
        most = last - i + 1
        if most <= 0:
            return False
    # Every decoding sequence opens one block in `size` steps; then the rest step by step until blocks run out.
    size = s.params[0].block_size
    rounds = min(most // size, e.free_blocks // e.decoding)
    free = e.free_blocks - rounds * e.decoding
    done = rounds * size
    newest = s.phases[k, (e.steps + done) % size]
    while done < most:
        opened = s.phases[k, (e.steps + done + 1) % size]
        if opened > free:
            break
        free -= opened
        newest = opened
        done += 1
    if done == 0:
        return False
    e.steps += done
    e.free_blocks = free
    e.kv_tokens += done * e.decoding
    e.generation_tokens += done * e.decoding
    e.end_s = _end_of(e, i + done)
    e.shown_waiting = e.waiting_formed
    e.shown_running = e.running
    e.shown_free = free + newest
    return True


@compiled
def run_engine(s: State, i: int, until_s: float) -> None:
    """Everything that happens on engine `i` before `until_s`."""
    e = s.engines[i]
    while True:
        enter_s = math.inf
        if e.first_transit != NONE:
            enter_s = s.requests[e.first_transit].enter_s
        if enter_s <= e.end_s:
            if enter_s >= until_s:
                return
            while e.first_transit != NONE and s.requests[e.first_transit].enter_s == enter_s:
                q = s.requests[e.first_transit]
                q.state = WAITING
                e.first_transit = q.after
                e.waiting += 1
            if math.isinf(e.end_s):
                _next_step(s, i, enter_s)
        else:
            if e.end_s >= until_s:
                return
            jumped = False
            if e.stable == 1 and e.waiting == e.waiting_formed:
                jumped = _jump(s, i, min(until_s, enter_s))
            if not jumped:
                at_s = e.end_s
                _finish_step(s, i)
                _next_step(s, i, at_s)


# --- all engines -----------------------------------------------------------------------------------------------------


@compiled
def _fits(p: Any, prompt: int, target: int) -> bool:
    """Whether the cache could ever hold the request (vLLM refuses at start-up or with a 400 otherwise)."""
    return _blocks(max(prompt, 1) + max(target, 1) - 1, p.block_size) <= p.num_blocks - 1


@compiled
def _send(s: State, r: int, at_s: float) -> None:
    """Route request `r` to an open slot and, in the slot, to the engine with least work."""
    p, q = s.params[0], s.requests[r]
    q.sent_s = at_s
    if p.routing == LEAST_REQUESTS:
        for j in range(s.clock[0].open_slots):
            slot = s.open_list[j]
            for i in range(slot * p.data_parallel, (slot + 1) * p.data_parallel):
                run_engine(s, i, at_s)
    slot = pick_slot(p.routing, s.clock[0], s.is_open, s.open_list, s.connections, s.engines, p.data_parallel)
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
    _append_waiting(e, s.requests, r)
    if e.first_transit == NONE:
        e.first_transit = r
    e.in_flight += 1


@compiled
def _arrive(s: State, request_id: int, due_s: float, prompt: int, target: int, prefix: int) -> None:
    p, c = s.params[0], s.clock[0]
    r = _new_request(s, request_id, due_s, prompt, target, prefix)
    if not _fits(p, prompt, target):
        _end_request(s, r, 0, math.nan, due_s, HTTP_ERROR)
    elif c.open_slots > 0:
        _send(s, r, due_s)
    elif p.wait_for_ready == 0:
        _end_request(s, r, 0, math.nan, due_s, HTTP_ERROR)
    else:
        q = s.requests[r]
        q.before = c.gateway_tail
        if c.gateway_tail == NONE:
            c.gateway_head = r
        else:
            s.requests[c.gateway_tail].after = r
        c.gateway_tail = r
        c.gateway += 1


@compiled
def advance(
    s: State,
    request_id: Any,
    due_s: Any,
    prompt: Any,
    target: Any,
    prefix: Any,
    start: int,
    stop: int,
    more: bool,
    until_s: float,
) -> int:
    """Everything before `until_s`, with arrivals start..stop; returns the first arrival that is not yet due.

    With `more` (arrivals follow in another call) it returns when these are used up, without going on to `until_s`.
    """
    c = s.clock[0]
    timeout_s = s.params[0].request_timeout_s
    while True:
        if more and start == stop:
            return start
        arrival_s = due_s[start] if start < stop else math.inf
        deadline_s = s.requests[c.oldest].due_s + timeout_s if c.oldest != NONE else math.inf
        if min(arrival_s, deadline_s) >= until_s:
            break
        if deadline_s <= arrival_s:
            r = c.oldest
            if s.requests[r].engine != NONE:
                run_engine(s, s.requests[r].engine, deadline_s)
            if c.oldest == r:
                remove_request(s, r, deadline_s, TIMEOUT)
        else:
            _arrive(s, request_id[start], arrival_s, prompt[start], target[start], prefix[start])
            start += 1
    for i in range(len(s.engines)):
        run_engine(s, i, until_s)
    c.now_s = until_s
    return start


@compiled
def flush_gateway(s: State) -> None:
    """Send on what waited for a replica, oldest first."""
    c = s.clock[0]
    while c.gateway_head != NONE:
        r = c.gateway_head
        c.gateway_head = s.requests[r].after
        c.gateway -= 1
        _send(s, r, c.now_s)
    c.gateway_tail = NONE


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
        e.anchor_s, e.first_s, e.growth_s, e.anchor_steps, e.steps = 0.0, 0.0, 0.0, 0, 0
        e.free_blocks, e.shown_free = p.num_blocks - 1, p.num_blocks - 1
        e.late_blocks, e.late_seats, e.kv_tokens, e.decoding, e.running, e.waiting = 0, 0, 0, 0, 0, 0
        e.waiting_formed, e.shown_waiting, e.shown_running = 0, 0, 0
        e.preemptions, e.prompt_tokens, e.generation_tokens, e.completed, e.in_flight = 0, 0, 0, 0, 0
        e.heap_size, e.stable = 0, 0
        e.run_head, e.run_tail, e.first_prefill = NONE, NONE, NONE
        e.wait_head, e.wait_tail, e.first_transit = NONE, NONE, NONE
        s.phases[i, :] = 0


@compiled
def next_event_s(s: State) -> float:
    """When the next step ends, request enters a scheduler, or deadline passes; inf when nothing is under way."""
    c = s.clock[0]
    soonest = s.requests[c.oldest].due_s + s.params[0].request_timeout_s if c.oldest != NONE else math.inf
    for i in range(len(s.engines)):
        e = s.engines[i]
        soonest = min(soonest, e.end_s)
        if e.first_transit != NONE:
            soonest = min(soonest, s.requests[e.first_transit].enter_s)
    return soonest


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
            o.tokens_out = tokens_out(s.engines[q.engine], q)
            n += 1
        r = q.newer
    return n
