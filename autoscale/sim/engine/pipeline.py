"""An engine of several pipeline stages as vLLM V1 runs it (`EngineCore.step_with_batch_queue`); compiled.

The engine core schedules batches until its queue of batches is full, then waits for the oldest of them. A call of the scheduler
takes what is not in flight, so sequences that decode together stay together: a lane. A call that finds nothing to do still
puts an empty batch into the queue; it costs no time. A stage serves batches in their order, one at a time:

    end(k, j) = max(end(k, j - 1), end(k - 1, j)) + stage_s of batch k        j = 0: from when it was scheduled

With asynchronous scheduling there is one batch more than stages in the queue, a sequence is scheduled again in the call that
is so many calls later as there are stages, and its next batch starts when the one before has left the last stage.
"""

from __future__ import annotations

import math
from typing import Any

from autoscale.sim.engine.batches import batch_s, behind, drop_oldest, finish_batch, form_batch
from autoscale.sim.engine.state import NONE, WAITING, State, compiled, inlined


@compiled
def _next_lane(p: Any, e: Any, lanes: Any, first: int) -> int:
    """The lane of the next call of the scheduler: that which has sequences and is not in flight, if there is one."""
    if p.async_scheduling:
        return first + (e.schedules + 1) % p.stages
    free = NONE
    for k in range(first, first + p.stages):
        if lanes[k].formed == lanes[k].steps:
            if lanes[k].decoding > 0:
                return k
            free = k
    return free


@compiled
def _pass_stages(p: Any, stage_ends: Any, b: Any, lane: Any, at_s: float) -> None:
    """When the batch, scheduled at `at_s`, leaves the last stage."""
    needed_s = batch_s(p, b)
    end_s = max(at_s, lane.end_s) if b.decodes > 0 else at_s
    for j in range(p.stages):
        end_s = max(end_s, stage_ends[j]) + needed_s
        stage_ends[j] = end_s
    b.end_s, lane.end_s = end_s, end_s


@compiled
def _show(e: Any) -> None:
    e.shown_waiting, e.shown_running, e.shown_free = e.waiting, e.running, e.free_blocks


@inlined
def _fill_queue(s: State, i: int, at_s: float) -> None:
    """Schedule until the queue is full and its oldest batch takes time, or nothing is left to do."""
    p, e = s.params[0], s.engines[i]
    while True:
        if e.running + e.waiting > 0 or e.untold == 1:
            e.untold = 0
            k = _next_lane(p, e, s.lanes, i * p.stages)
            if form_batch(s, i, k, e.waiting):
                _pass_stages(p, s.stage_ends[i], s.batches[i, behind(p, e)], s.lanes[k], at_s)
            e.queued += 1
            if e.queued < p.max_batches and e.running + e.waiting > 0:
                continue
        elif e.queued == 0:
            e.end_s = math.inf
            return
        oldest = s.batches[i, e.oldest]
        if oldest.lane != NONE:
            e.end_s = oldest.end_s
            return
        drop_oldest(p, e)
        _show(e)


@compiled
def _limit_lanes(p: Any, e: Any, lanes: Any, heaps: Any, first: int) -> bool:
    """Up to which step every lane only decodes, all its sequences go on and their blocks are free; False when none is sure."""
    decoding = 0
    for k in range(first, first + p.stages):
        decoding += lanes[k].decoding
    if decoding == 0 or decoding > e.free_blocks:
        return False
    most = e.free_blocks // decoding * p.block_size - 1  # every sequence opens one block in block_size steps
    for k in range(first, first + p.stages):
        lane = lanes[k]
        lane.before = lane.formed
        lane.limit = lane.formed + most
        if lane.decoding > 0:
            lane.limit = min(lane.limit, (heaps[k, 0] >> 32) - 1)
    return True


@compiled
def _opened(size: int, lane: Any, phases: Any) -> int:
    """Blocks that a lane opened since its limit was set."""
    steps = lane.formed - lane.before
    blocks = steps // size * lane.decoding
    at = lane.before % size
    for _ in range(steps % size):
        blocks += phases[at]
        at = at + 1 if at + 1 < size else 0
    return int(blocks)


@compiled
def _again(b: Any, lane: Any) -> None:
    """The batch's place in the queue goes to the next one of the lane, which only decodes."""
    lane.formed += 1
    b.step, b.kv_tokens, b.prefill_tokens, b.prefill_pairs = lane.formed, lane.kv_tokens, 0, 0.0
    b.sequences, b.decodes, b.tokens = lane.decoding, lane.decoding, lane.decoding
    lane.kv_tokens += lane.decoding


@inlined
def _cycle(s: State, i: int, until_s: float) -> bool:
    """Turns of a full queue before `until_s` that change nothing but tokens; False if there are none.

    What is popped makes place for what is scheduled next, so the ring turns and every batch stays where it is.
    """
    p, e = s.params[0], s.engines[i]
    if e.waiting + e.stale + e.untold > 0 or e.first_prefill != NONE or e.queued < p.max_batches:
        return False
    if s.batches[i, e.oldest].ends_head != NONE or not _limit_lanes(p, e, s.lanes, s.heaps, i * p.stages):
        return False
    slot, at_s, last, stage_ends = e.oldest, e.end_s, NONE, s.stage_ends[i]
    turns = 0
    while True:
        b = s.batches[i, slot]
        k = i * p.stages + (e.schedules + 1) % p.stages if p.async_scheduling else b.lane
        decodes = k != NONE and s.lanes[k].decoding > 0
        if b.lane != NONE and (b.end_s >= until_s or b.ends_head != NONE):
            break
        if decodes and s.lanes[k].formed >= s.lanes[k].limit:
            break
        if b.lane != NONE:
            at_s = b.end_s
            s.lanes[b.lane].steps += 1
            e.generation_tokens += b.tokens
        e.schedules += 1
        b.number = e.schedules
        last = NONE
        if decodes:
            _again(b, s.lanes[k])
            b.lane, last = k, k
            _pass_stages(p, stage_ends, b, s.lanes[k], at_s)
        else:
            b.lane = NONE
        slot = slot + 1 if slot + 1 < p.max_batches else 0
        turns += 1
    if turns == 0:
        return False
    for k in range(i * p.stages, (i + 1) * p.stages):
        e.free_blocks -= _opened(p.block_size, s.lanes[k], s.phases[k])
    e.oldest = slot
    _show(e)
    if last != NONE:  # shown before it was scheduled
        e.shown_free += s.phases[last, (s.lanes[last].formed - 1) % p.block_size]
    e.end_s = s.batches[i, slot].end_s
    if s.batches[i, slot].lane == NONE:
        drop_oldest(p, e)
        _show(e)
        _fill_queue(s, i, at_s)
    return True


@compiled
def run_pipeline(s: State, i: int, until_s: float) -> None:
    """Everything that happens on engine `i` before `until_s`."""
    e, requests = s.engines[i], s.requests
    while True:
        at_s = e.end_s
        idle = math.isinf(at_s)
        if idle and e.first_transit != NONE:
            at_s = requests[e.first_transit].enter_s
        if at_s >= until_s:
            return
        enter_s = requests[e.first_transit].enter_s if e.first_transit != NONE else math.inf
        if not idle and _cycle(s, i, min(until_s, enter_s)):
            continue
        if not idle:
            finish_batch(s, i)
            _show(e)
        while e.first_transit != NONE and requests[e.first_transit].enter_s <= at_s:
            q = requests[e.first_transit]
            q.state = WAITING
            e.first_transit = q.after
            e.waiting += 1
        _fill_queue(s, i, at_s)
