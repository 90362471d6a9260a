"""Engines behind real connections: one engine per replica slot, and a router in front that knows client connections.

The virtual fleet routes inside the compiled engine. Here the router is the gateway's: kube-proxy pins a connection to a
replica when it is made, so which replica serves a request depends on the client's connections.
"""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput
from autoscale.sim.engine.replicas import GAUGES, EngineParams, Replicas
from autoscale.sim.http.openai_api import Prompt

ROUTINGS = ("connection", "random", "round_robin", "least_requests")


class Rack:
    """One single-slot engine per replica; the same face towards `Fleet` as engine.Replicas."""

    def __init__(self, params: EngineParams, slots: int, seed: int, routing: str = "connection") -> None:
        if routing not in ROUTINGS:
            raise BadInput("unknown routing", value=routing, expected=f"one of {', '.join(ROUTINGS)}")
        self.params, self.routing = params, routing
        self.engines = [Replicas(params, 1, seed=seed + slot, no_ready="fail") for slot in range(slots)]
        self.caches = [PrefixCache(params) for _ in range(slots)]
        self.next_s = [math.inf] * slots
        self.opened: list[int] = []  # slots that take traffic, in the order they opened
        self._rng = np.random.Generator(np.random.PCG64([seed, 9007]))
        self._turn = 0
        self._pinned: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def open(self, slot: int, at_s: float) -> None:
        """The slot takes traffic from `at_s` on (not later than now)."""
        self.engines[slot].open(0, at_s)
        self.caches[slot] = PrefixCache(self.params)
        self.opened.append(slot)

    def close(self, slot: int, at_s: float, abort: bool = False) -> None:
        """No new traffic to the slot; what is in flight drains or is cancelled."""
        self.engines[slot].close(0, at_s, abort=abort)
        if slot in self.opened:
            self.opened.remove(slot)
        self.next_s[slot] = 0.0  # what was cancelled is to be collected

    def advance(self, until_s: float) -> None:
        """Everything that happens before `until_s`; slots where something did stay due for `advance_due`."""
        for slot, engine in enumerate(self.engines):
            if until_s > engine.now_s:
                engine.advance(until_s)
                if self.next_s[slot] >= until_s:
                    self.next_s[slot] = engine.next_event_s()

    def advance_due(self, until_s: float) -> Iterator[int]:
        """Advance only the slots whose next event lies before `until_s`, and name them."""
        for slot, next_s in enumerate(self.next_s):
            if next_s < until_s:
                engine = self.engines[slot]
                engine.advance(max(until_s, engine.now_s))
                self.next_s[slot] = engine.next_event_s()
                yield slot

    def gauges(self) -> NDArray[Any]:
        """engine.GAUGES, one row per slot."""
        rows = np.zeros(len(self.engines), GAUGES)
        for slot, engine in enumerate(self.engines):
            rows[slot] = engine.gauges()[0]
            rows[slot]["slot"] = slot
        return rows

    def in_flight_of(self, slot: int) -> int:
        """Requests that the slot holds."""
        return self.engines[slot].in_flight_of(0)

    def pick(self, connection: Any) -> int | None:
        """The slot for the next request on this client connection; None when no replica takes traffic."""
        if not self.opened:
            return None
        if self.routing == "connection":
            slot = self._pinned.get(connection)
            if slot not in self.opened:
                slot = self.opened[int(self._rng.integers(len(self.opened)))]
                self._pinned[connection] = slot
            return slot
        if self.routing == "random":
            return self.opened[int(self._rng.integers(len(self.opened)))]
        self._turn += 1
        if self.routing == "round_robin":
            return self.opened[self._turn % len(self.opened)]
        turn = self._turn % len(self.opened)
        return min(self.opened[turn:] + self.opened[:turn], key=lambda s: self.engines[s].in_flight)

    def submit(self, slot: int, prompt: Prompt, output_tokens: int, now_s: float) -> int:
        """Send one request to a slot at `now_s`; returns its id within the slot."""
        engine = self.engines[slot]
        known = self.caches[slot].look_up(prompt)
        request = engine.submit(prompt.tokens, output_tokens, known, at_s=max(now_s, engine.now_s))
        self.next_s[slot] = min(self.next_s[slot], now_s)
        return request


class PrefixCache:
    """Which whole blocks of earlier prompts a replica still knows, least recently used first to go.

    As large as the KV cache; that running requests hold blocks of it, and that a block is known only once it was
    computed, is left out.
    """

    def __init__(self, params: EngineParams) -> None:
        self.block_size, self.most = params.block_size, params.num_blocks - 1
        self.queries = self.hits = 0  # tokens
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def look_up(self, prompt: Prompt) -> int:
        """Tokens at the beginning of the prompt that need no prefill; remembers the prompt's blocks."""
        known = 0
        for block in prompt.blocks:
            if block not in self._blocks:
                break
            known += 1
        for block in reversed(prompt.blocks):  # a prefix outlives what follows it
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self.most:
            self._blocks.popitem(last=False)
        tokens = min(known * self.block_size, prompt.tokens - 1)  # the last token is always computed
        self.queries += prompt.tokens
        self.hits += tokens
        return tokens
