"""Which replica a request goes to, compiled: random per connection (kube-proxy), round robin, least requests (a gateway)."""

from __future__ import annotations

from typing import Any

import numpy as np

from autoscale.sim.engine.state import State, compiled, inlined

RANDOM, ROUND_ROBIN, LEAST_REQUESTS = range(3)
ROUTINGS = ("random", "round_robin", "least_requests")


@compiled
def draw(clock: Any, n: int) -> Any:
    """A uniform number in 0..n-1 from the state in `clock` (splitmix64; the bias of the remainder is below n / 2^63)."""
    clock.random += np.uint64(0x9E3779B97F4A7C15)
    z = clock.random
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.int64(z >> np.uint64(1)) % n


@inlined
def pick_slot(s: State) -> int:
    """The open slot for the next request; at least one slot is open.

    With `connections`, a request travels on a random one of them, and a connection stays with the slot that it was given
    when it was made, until that slot closes: new replicas see traffic only as connections are made anew.
    """
    clock, routing, open_list, connections = s.clock[0], s.params[0].routing, s.open_list, s.connections
    n = clock.open_slots
    if routing == RANDOM:
        if len(connections) == 0:
            return open_list[draw(clock, n)]
        j = draw(clock, len(connections))
        if connections[j] < 0 or s.is_open[connections[j]] == 0:
            connections[j] = open_list[draw(clock, n)]
        return connections[j]
    start = clock.turn % n
    clock.turn += 1
    if routing == ROUND_ROBIN:
        return open_list[start]
    per_slot = s.params[0].data_parallel
    best, least = open_list[start], -1
    for k in range(n):
        slot = open_list[(start + k) % n]
        load = 0
        for i in range(slot * per_slot, (slot + 1) * per_slot):
            load += s.engines[i].in_flight
        if least < 0 or load < least:
            best, least = slot, load
    return best
