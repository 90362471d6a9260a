"""One batch of an engine: what the scheduler puts into it, and what becomes of it when it is over; compiled.

A batch decodes the sequences of one lane and computes prompts in chunks (vLLM V1, `Scheduler.schedule`). A sequence joins the
lane of the batch that computes the end of its prompt. Which batch brings which token is known when it is formed: the lane's
steps from `first_step` to `finish_step`; a heap gives the sequences that are scheduled for the last time. New blocks per batch
come from a table: how many decoding sequences open a block when `formed % block_size` has a given value.
"""

from __future__ import annotations

import math
from typing import Any

from autoscale.sim.engine.lifecycle import brings_token, complete, preempt_last
from autoscale.sim.engine.linked import append_running, blocks_for, remove_waiting, sift_down, sift_up
from autoscale.sim.engine.state import DECODE, NONE, PREFILL, State, compiled, inlined
from autoscale.sim.engine.step_time import pairs_of, stage_s


@compiled
def batch_s(p: Any, b: Any) -> float:
    """Seconds of one stage for the batch."""
    return float(
        stage_s(p, b.sequences, b.decodes + b.prefill_tokens, b.prefill_tokens, b.prefill_pairs, b.kv_tokens)
    )


@compiled
def _admit(p: Any, e: Any, requests: Any, b: Any, known: int, budget: int) -> int:
    """Prompts of the first `known` waiting requests as far as seats, blocks and `budget` go; returns the first, or NONE."""
    size, first = p.block_size, NONE
    r = e.wait_head
    while known > 0 and budget > 0 and e.running + e.late_seats < p.max_num_seqs:
        q = requests[r]
        after = q.after
        known -= 1
        if q.stale:
            r = after
            continue
        full = q.prompt + q.out
        if blocks_for(full, size) > e.free_blocks:
            break
        cached = min(q.prefix, full - 1) // size * size
        chunk = min(full - cached, budget)
        q.computed, q.batch, q.state = cached + chunk, b.number, PREFILL
        e.free_blocks -= blocks_for(q.computed, size)
        budget -= chunk
        remove_waiting(e, requests, r)
        append_running(e, requests, r)
        if e.first_prefill == NONE:
            e.first_prefill = r
        if first == NONE:
            first = r
        e.waiting -= 1
        e.running += 1
        b.sequences += 1
        b.prefill_tokens += chunk
        b.prefill_pairs += pairs_of(chunk, q.computed)
        b.kv_tokens += q.computed
        r = after
    return first


@compiled
def _next_chunk(p: Any, e: Any, q: Any, b: Any) -> bool:
    """The next chunk of a prompt that has begun; False when there are no blocks for it."""
    chunk = min(q.prompt + q.out - q.computed, p.token_budget - b.decodes)
    blocks = blocks_for(q.computed + chunk, p.block_size) - blocks_for(q.computed, p.block_size)
    if blocks > e.free_blocks:
        return False
    e.free_blocks -= blocks
    q.computed += chunk
    q.batch = b.number
    b.sequences += 1
    b.prefill_tokens += chunk
    b.prefill_pairs += pairs_of(chunk, q.computed)
    b.kv_tokens += q.computed
    return True


@compiled
def _append_end(requests: Any, b: Any, r: int) -> None:
    requests[r].ends_with = NONE
    if b.ends_tail == NONE:
        b.ends_head = r
    else:
        requests[b.ends_tail].ends_with = r
    b.ends_tail = r


@compiled
def _join_lane(p: Any, lane: Any, heap: Any, phases: Any, requests: Any, b: Any, r: int) -> None:
    """The batch computes the last of the request's prompt, and so brings its next token."""
    q = requests[r]
    q.state, q.lane, q.first_step = DECODE, b.lane, b.step
    q.finish_step = b.step + q.target - q.out - 1
    b.tokens += 1
    if q.finish_step == b.step:
        _append_end(requests, b, r)
        return
    sift_up(heap, lane.decoding, (q.finish_step << 32) | r)
    lane.decoding += 1
    lane.kv_tokens += q.prompt + q.out + 1
    phases[(1 + q.finish_step - q.prompt - q.target) % p.block_size] += 1


@compiled
def step_lane(p: Any, lane: Any, heap: Any, phases: Any, requests: Any, b: Any, steps: int) -> None:
    """The batch's lane has been scheduled so many times more, the last time for some of its sequences."""
    lane.formed += steps
    lane.kv_tokens += steps * lane.decoding
    while lane.decoding > 0 and heap[0] >> 32 == lane.formed:
        r = heap[0] & 0xFFFFFFFF
        q = requests[r]
        lane.decoding -= 1
        sift_down(heap, lane.decoding, 0, heap[lane.decoding])
        lane.kv_tokens -= q.prompt + q.target
        phases[(1 + q.finish_step - q.prompt - q.target) % p.block_size] -= 1
        _append_end(requests, b, r)


@compiled
def behind(p: Any, e: Any) -> int:
    """The place behind the batches in flight."""
    place = e.oldest + e.queued
    return int(place - p.max_batches if place >= p.max_batches else place)


@compiled
def drop_oldest(p: Any, e: Any) -> None:
    e.oldest = e.oldest + 1 if e.oldest + 1 < p.max_batches else 0
    e.queued -= 1


@inlined
def form_batch(s: State, i: int, k: int, known: int) -> bool:
    """Schedule once: the sequences of lane `k`, then chunks of prompts, the first `known` waiting requests as candidates.

    The batch is the one behind those in flight; False when it is empty.
    """
    p, e, lane, requests, phases = s.params[0], s.engines[i], s.lanes[k], s.requests, s.phases[k]
    preemptions = e.preemptions
    need = phases[lane.formed % p.block_size]
    while need > e.free_blocks:
        need -= preempt_last(s, i, k)
    e.free_blocks -= need
    e.schedules += 1
    b = s.batches[i, behind(p, e)]
    b.number, b.lane, b.ends_head, b.ends_tail = e.schedules, NONE, NONE, NONE
    b.sequences, b.decodes, b.tokens = lane.decoding, lane.decoding, lane.decoding
    b.kv_tokens, b.prefill_tokens, b.prefill_pairs = lane.kv_tokens, 0, 0.0
    first = e.run_tail
    if first != NONE and (requests[first].state != PREFILL or not _next_chunk(p, e, requests[first], b)):
        if requests[first].state == PREFILL:
            preempt_last(s, i, k)
        first = NONE
    if e.preemptions == preemptions and e.waiting > 0:
        admitted = _admit(p, e, requests, b, known, p.token_budget - b.decodes - b.prefill_tokens)
        first = admitted if first == NONE else first
    if b.sequences == 0:
        return False
    b.lane, b.step = k, lane.formed + 1
    step_lane(p, lane, s.heaps[k], phases, requests, b, 1)
    while first != NONE:  # what got a chunk is the end of the running list
        q = requests[first]
        if q.computed == q.prompt + q.out:
            _join_lane(p, lane, s.heaps[k], phases, requests, b, first)
        first = q.after
    return True


@compiled
def _deliver_stale(s: State, i: int, b: Any) -> None:
    """Tokens for requests that were preempted while the batch was in flight."""
    e = s.engines[i]
    r, left = e.wait_head, e.stale
    while left > 0:
        q = s.requests[r]
        after = q.after
        if q.stale:
            left -= 1
            if brings_token(b, q):
                q.out += 1
                if math.isnan(q.first_s):
                    q.first_s = b.end_s
                    e.prompt_tokens += q.prompt
            if q.stale == b.number:
                q.stale = 0
                e.stale -= 1
                if q.out == q.target:
                    complete(s, i, r, b.end_s)
        r = after


@inlined
def finish_batch(s: State, i: int) -> None:
    """The oldest batch in flight is over: hand out its tokens and let completed requests go."""
    p, e = s.params[0], s.engines[i]
    b = s.batches[i, e.oldest]
    s.lanes[b.lane].steps += 1
    e.generation_tokens += b.tokens
    if e.stale > 0:
        _deliver_stale(s, i, b)
    r = e.first_prefill
    while r != NONE and s.requests[r].state == DECODE and s.requests[r].batch == b.number:
        q = s.requests[r]
        if math.isnan(q.first_s):
            q.first_s = b.end_s
            e.prompt_tokens += q.prompt
        r = q.after
    e.first_prefill = r
    r = b.ends_head
    while r != NONE:
        after = s.requests[r].ends_with
        complete(s, i, r, b.end_s)
        r = after
    drop_oldest(p, e)
