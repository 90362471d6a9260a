"""Which pod an inference gateway sends a request to: the largest weighted sum of scores, ties at random; compiled.

Source: llm-d-router pkg/epp, scorers of queue, KV cache and prefix cache, no-hit-lru, and the max-score picker.
"""

from __future__ import annotations

from autoscale.sim.engine.routing import draw
from autoscale.sim.engine.state import State, compiled, inlined

PREFIX_BLOCK = 64  # tokens; the gateway's memory of prefixes is no finer


@compiled
def queue_score(waiting: int, least: int, most: int) -> float:
    """1 for the shortest queue of the pool, 0 for the longest, 1 when all are alike."""
    return 1.0 if most == least else (most - waiting) / (most - least)


@compiled
def prefix_score(prefix: int, warm: int, prompt: int) -> float:
    """Share of the prompt's whole blocks that were sent to the pod before."""
    return float(min(prefix, warm) // PREFIX_BLOCK / max(prompt // PREFIX_BLOCK, 1))


@inlined
def _lru_score(s: State, slot: int) -> float:
    """1 for the pod that has waited longest for a request without a known prefix, 0 for the last one used."""
    n, older = s.clock[0].open_slots, 0
    for j in range(n):
        older += s.seen[s.open_list[j]].used < s.seen[slot].used
    return 1.0 - older / (n - 1) if n > 1 else 1.0


@compiled
def best_slot(s: State, r: int) -> int:
    """The open slot with the highest score for request `r`, by what was seen last; it is remembered who got it."""
    c, g, q = s.clock[0], s.gate[0], s.requests[r]
    n = c.open_slots
    least = most = s.seen[s.open_list[0]].waiting
    known = 0.0
    for j in range(n):
        pod = s.seen[s.open_list[j]]
        least, most = min(least, pod.waiting), max(most, pod.waiting)
        known = max(known, prefix_score(q.prefix, pod.warm, q.prompt))
    best, highest, ties = s.open_list[0], -1.0, 0
    for j in range(n):
        slot = s.open_list[j]
        pod = s.seen[slot]
        score = (
            g.queue_weight * queue_score(pod.waiting, least, most)
            + g.kv_weight * (1.0 - pod.kv_usage)
            + g.prefix_weight * prefix_score(q.prefix, pod.warm, q.prompt)
        )
        if g.lru_weight > 0:
            score += g.lru_weight * (0.5 if known > 0 else _lru_score(s, slot))
        if score > highest:
            best, highest, ties = slot, score, 1
        elif score == highest:
            ties += 1
            if draw(c, ties) == 0:
                best = slot
    chosen = s.seen[best]
    chosen.warm = max(chosen.warm, q.prefix)
    if known == 0:
        g.uses += 1
        chosen.used = g.uses
    return int(best)
