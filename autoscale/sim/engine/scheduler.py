"""The compiled scheduler: how one vLLM engine moves from step to step, and many of them through one virtual time.

An engine of several stages keeps several batches in flight (`pipeline`). With one stage, a step is formed at the end of the
one before. While it only decodes and nothing can be admitted, the next ones look the same, and the engine jumps over them:

    end of the i-th step after an anchor     E(i) = anchor + i * first + growth * i (i - 1) / 2

`growth` is the time that the sequences' next tokens add to a step by the KV cache they leave behind. A jump ends before
the first of: a completion, a request that enters, a step whose new blocks are not free. Ends are always computed from the
anchor, so results do not depend on how often the caller looks.
"""

from __future__ import annotations

import math
from typing import Any

from autoscale.sim.engine.batches import batch_s, finish_batch, form_batch, step_lane
from autoscale.sim.engine.pipeline import run_pipeline
from autoscale.sim.engine.state import NONE, WAITING, State, compiled, inlined
from autoscale.sim.engine.step_time import growth_s


@compiled
def _time_step(p: Any, e: Any, b: Any, steps: int, at_s: float) -> None:
    """When the step that was formed at `at_s` ends."""
    e.anchor_s, e.anchor_steps = at_s, steps
    e.first_s = batch_s(p, b)
    e.growth_s = growth_s(p, b.decodes)
    e.end_s = at_s + e.first_s


@inlined
def _next_step(s: State, i: int, at_s: float) -> None:
    """Form the step that starts at `at_s`, or fall idle."""
    p, e = s.params[0], s.engines[i]
    # Asynchronous scheduling decided this step when the last one began: it knows who waited then, and not yet what the
    # last step freed.
    known = min(e.waiting, e.waiting_formed) if p.async_scheduling else e.waiting
    unknown, late_seats, preemptions = e.waiting - known, e.late_seats, e.preemptions
    while True:
        some = form_batch(s, i, i, known)
        e.free_blocks += e.late_blocks
        e.late_blocks, e.late_seats = 0, 0
        if some or e.waiting == 0:
            break
        known, unknown, late_seats, preemptions = e.waiting, 0, 0, e.preemptions
    if some:
        b = s.batches[i, 0]
        _time_step(p, e, b, s.lanes[i].steps, at_s)
        e.queued = 1
        plain = b.prefill_tokens == 0 and e.preemptions == preemptions and late_seats == 0
        e.stable = 1 if plain and unknown == 0 else 0
        e.waiting_formed = e.waiting
    else:
        e.end_s = math.inf
        e.stable = 0
        e.waiting_formed = 0
        e.shown_waiting, e.shown_running, e.shown_free = 0, 0, e.free_blocks  # what was aborted has left


@compiled
def _end_of(e: Any, i: int) -> float:
    return e.anchor_s + i * e.first_s + e.growth_s * (0.5 * i * (i - 1))


@inlined
def _jump(s: State, k: int, until_s: float) -> bool:
    """Complete all steps of engine `k` that end before `until_s` and look like the one in progress; False if none."""
    e, lane, b = s.engines[k], s.lanes[k], s.batches[k, 0]
    most = (s.heaps[k, 0] >> 32) - 1 - lane.steps
    if b.ends_head != NONE or most <= 0:
        return False
    i = lane.steps - e.anchor_steps + 1  # the step in progress, counted from the anchor
    if _end_of(e, i + most - 1) >= until_s:
        left = until_s - e.anchor_s
        if e.growth_s * left > 1e-9 * e.first_s * e.first_s:
            half = e.first_s - 0.5 * e.growth_s
            last = int((math.sqrt(half * half + 2.0 * e.growth_s * left) - half) / e.growth_s)
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
    rounds = min(most // size, e.free_blocks // lane.decoding)
    free = e.free_blocks - rounds * lane.decoding
    done = rounds * size
    newest = s.phases[k, (lane.steps + done) % size]
    while done < most:
        opened = s.phases[k, (lane.steps + done + 1) % size]
        if opened > free:
            break
        free -= opened
        newest = opened
        done += 1
    if done == 0:
        return False
    lane.steps += done
    b.step += done
    e.free_blocks = free
    e.generation_tokens += done * lane.decoding
    step_lane(s.params[0], lane, s.heaps[k], s.phases[k], s.requests, b, done)
    e.end_s = _end_of(e, i + done)
    e.shown_waiting = e.waiting_formed
    e.shown_running = e.running
    e.shown_free = free + newest
    return True


@compiled
def run_engine(s: State, i: int, until_s: float) -> None:
    """Everything that happens on engine `i` before `until_s`."""
    if s.params[0].stages > 1:
        run_pipeline(s, i, until_s)
        return
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
            if not math.isinf(e.end_s):
                continue
            at_s = enter_s
        else:
            if e.end_s >= until_s:
                return
            if e.stable == 1 and e.waiting == e.waiting_formed and _jump(s, i, min(until_s, enter_s)):
                continue
            at_s = e.end_s
            s.batches[i, 0].end_s = at_s
            finish_batch(s, i)
            e.shown_waiting, e.shown_running = e.waiting_formed, e.running
            e.shown_free = e.free_blocks + e.late_blocks
        _next_step(s, i, at_s)
