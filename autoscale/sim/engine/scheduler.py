"""The compiled scheduler: how one vLLM engine moves from step to step, and many of them through one virtual time.

A step of an engine is formed at the end of the one before: running sequences get one token each, then prompts are
prefilled in chunks (vLLM V1, `Scheduler.schedule`). While a step only decodes and nothing can be admitted, the next ones
look the same, and the engine jumps over them:

    end of the i-th step after an anchor     E(i) = anchor + i * first + growth * i (i - 1) / 2

`growth` is the time that the sequences' next tokens add to a step by the KV cache they leave behind. A jump ends before
the first of: a completion (a heap of finish steps), a request that enters, a step whose new blocks are not free. New
blocks per step come from a table: how many decoding sequences open a block when `steps % block_size` has a given value.
Ends are always computed from the anchor, so results do not depend on how often the caller looks.
"""

from __future__ import annotations

import math
from typing import Any

from autoscale.sim.engine.lifecycle import complete, preempt_last
from autoscale.sim.engine.linked import append_running, blocks_for, remove_waiting, sift_down, sift_up
from autoscale.sim.engine.state import DECODE, NONE, PREFILL, WAITING, State, compiled
from autoscale.sim.engine.step_time import pairs_of, stage_s


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
        sift_down(heap, e.heap_size, 0, heap[e.heap_size])
        e.decoding -= 1
        e.kv_tokens -= q.prompt + q.target
        s.phases[i, (1 + q.finish_step - q.prompt - q.target) % p.block_size] -= 1
        complete(s, i, r, at_s)
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
            complete(s, i, r, at_s)
        else:
            q.state = DECODE
            q.finish_step = e.steps + q.target - q.out
            sift_up(heap, e.heap_size, (q.finish_step << 32) | r)
            e.heap_size += 1
            e.decoding += 1
            e.kv_tokens += q.prompt + q.out
            s.phases[i, (1 + q.finish_step - q.prompt - q.target) % p.block_size] += 1
        r = after
    e.shown_waiting = e.waiting_formed
    e.shown_running = e.running
    e.shown_free = e.free_blocks + e.late_blocks


@compiled
def _time_step(
    p: Any, e: Any, at_s: float, sequences: int, tokens: int, largest: int, context: int, pairs: float
) -> None:
    """When the step ends: `sequences` in all, `tokens` of prompts in it, the longest chunk and the tokens behind them.

    Micro-batches move through the stages in lockstep: a pass takes every stage as long as the fullest one needs.
    """
    lane = (sequences + p.stages - 1) // p.stages
    share = lane / sequences
    prefill = max((tokens + p.stages - 1) // p.stages, min(largest, p.token_budget))
    lane_pairs = pairs * prefill / tokens if tokens > 0 else 0.0
    time_s = stage_s(
        p, lane, e.decoding * share + prefill, prefill, lane_pairs, (e.kv_tokens + context) * share
    )
    e.anchor_s, e.anchor_steps = at_s, e.steps
    e.first_s = p.stages * time_s
    e.growth_s = p.stages * p.per_kv_token_s * share * e.decoding
    e.end_s = at_s + e.first_s


@compiled
def _form_step(s: State, i: int, at_s: float, known: int) -> bool:
    """Schedule one step at `at_s`, with the first `known` waiting requests as candidates; False when it is empty."""
    p, e, requests = s.params[0], s.engines[i], s.requests
    size = p.block_size
    preemptions = e.preemptions
    need = s.phases[i, e.steps % size]
    while need > e.free_blocks:
        need -= preempt_last(s, i)
    e.free_blocks -= need
    budget = p.token_budget * p.stages - e.decoding
    sequences, tokens, largest, context, pairs = e.decoding, 0, 0, 0, 0.0
    r = e.first_prefill
    if r != NONE:
        q = requests[r]
        chunk = min(q.prompt + q.out - q.computed, budget)
        blocks = blocks_for(q.computed + chunk, size) - blocks_for(q.computed, size)
        if blocks > e.free_blocks:
            preempt_last(s, i)
        else:
            e.free_blocks -= blocks
            q.computed += chunk
            budget -= chunk
            sequences, tokens, largest, context = sequences + 1, chunk, chunk, q.computed
            pairs = pairs_of(chunk, q.computed)
    if e.preemptions == preemptions:
        while known > 0 and budget > 0 and e.running + e.late_seats < p.max_num_seqs:
            r = e.wait_head
            q = requests[r]
            full = q.prompt + q.out
            if blocks_for(full, size) > e.free_blocks:
                break
            cached = min(q.prefix, full - 1) // size * size
            chunk = min(full - cached, budget)
            q.computed = cached + chunk
            e.free_blocks -= blocks_for(q.computed, size)
            budget -= chunk
            remove_waiting(e, requests, r)
            append_running(e, requests, r)
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
            pairs += pairs_of(chunk, q.computed)
    if sequences == 0:
        return False
    _time_step(p, e, at_s, sequences, tokens, largest, context, pairs)
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
        e.shown_waiting, e.shown_running, e.shown_free = 0, 0, e.free_blocks  # what was aborted has left
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
