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

from autoscale.sim.engine.batches import finish_batch, form_batch
from autoscale.sim.engine.state import NONE, WAITING, State, compiled
from autoscale.sim.engine.step_time import stage_s


@compiled
def _next_lane(s: State, i: int) -> int:
    """The lane of the next call of the scheduler: that which has sequences and is not in flight, if there is one."""
    p, e = s.params[0], s.engines[i]
    first = i * p.stages
    if p.async_scheduling:
        return first + (e.schedules + 1) % p.stages
    free = NONE
    for k in range(first, first + p.stages):
        if s.lanes[k].formed == s.lanes[k].steps:
            if s.lanes[k].decoding > 0:
                return k
            free = k
    return free


@compiled
def _schedule(s: State, i: int, at_s: float) -> None:
    """Form one batch and send it through the stages."""
    p, e = s.params[0], s.engines[i]
    e.untold = 0
    k = _next_lane(s, i)
    if form_batch(s, i, k, e.waiting):
        b, lane = s.batches[i, (e.oldest + e.queued) % p.max_batches], s.lanes[k]
        end_s = max(at_s, lane.end_s) if b.decodes > 0 else at_s
        needed_s = stage_s(p, b.sequences, b.kv_tokens, b.prefill_tokens)
        for j in range(p.stages):
            end_s = max(end_s, s.stage_ends[i, j]) + needed_s
            s.stage_ends[i, j] = end_s
        b.end_s, lane.end_s = end_s, end_s
    e.queued += 1


@compiled
def _show(s: State, i: int) -> None:
    e = s.engines[i]
    e.shown_waiting, e.shown_running, e.shown_free = e.waiting, e.running, e.free_blocks


@compiled
def _fill_queue(s: State, i: int, at_s: float) -> None:
    """Schedule until the queue is full and its oldest batch takes time, or nothing is left to do."""
    p, e = s.params[0], s.engines[i]
    while True:
        if e.running + e.waiting > 0 or e.untold == 1:
            _schedule(s, i, at_s)
            if e.queued < p.max_batches and e.running + e.waiting > 0:
                continue
        elif e.queued == 0:
            e.end_s = math.inf
            return
        oldest = s.batches[i, e.oldest]
        if oldest.lane != NONE:
            e.end_s = oldest.end_s
            return
        e.oldest = (e.oldest + 1) % p.max_batches
        e.queued -= 1
        _show(s, i)


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
        if not idle:
            finish_batch(s, i)
            _show(s, i)
        while e.first_transit != NONE and requests[e.first_transit].enter_s <= at_s:
            q = requests[e.first_transit]
            q.state = WAITING
            e.first_transit = q.after
            e.waiting += 1
        _fill_queue(s, i, at_s)
