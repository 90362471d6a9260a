"""Engines behind real connections: one engine per replica slot, and a router in front that knows client connections.

The virtual fleet routes inside the compiled engine. Here the router is the gateway's: kube-proxy pins a connection to a
replica when it is made, so which replica serves a request depends on the client's connections.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput, did_you_mean
from autoscale.sim.engine.replicas import GAUGES, EngineParams, Replicas
from autoscale.sim.http.openai_request import Prompt
from autoscale.sim.http.prefix_cache import PrefixCache

ROUTINGS = ("connection", "random", "round_robin", "least_requests")


class Router:
    """Picks a replica for each request; `in_flight` tells how many requests a slot holds. Raises BadInput for an unknown routing."""

    def __init__(self, routing: str, seed: int, in_flight: Callable[[int], int]) -> None:
        if routing not in ROUTINGS:
            raise BadInput(
                "unknown routing",
                value=routing,
                expected=f"one of {', '.join(ROUTINGS)}",
                next_step=did_you_mean(routing, ROUTINGS),
            )
        self.routing, self.in_flight = routing, in_flight
        self.opened: list[int] = []  # slots that take traffic, in the order they opened
        self._rng = np.random.Generator(np.random.PCG64([seed, 9007]))
        self._turn = 0
        self._pinned: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def close(self, slot: int) -> None:
        """No new traffic to the slot."""
        if slot in self.opened:
            self.opened.remove(slot)

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
        return min(self.opened[turn:] + self.opened[:turn], key=self.in_flight)


class LiveReplicas:
    """One single-slot engine per replica; the same face towards `Fleet` as sim.engine.replicas.Replicas."""

    def __init__(self, params: EngineParams, slots: int, seed: int, routing: str = "connection") -> None:
        self.params = params
        self.engines = [Replicas(params, 1, seed=seed + slot, no_ready="fail") for slot in range(slots)]
        self.caches = [PrefixCache(params) for _ in range(slots)]
        self.next_s = [math.inf] * slots
        self.router = Router(routing, seed, lambda slot: self.engines[slot].in_flight)
        self.gateway_gauges: Callable[[], tuple[float, float, float]] = lambda: (math.nan,) * 3

    @property
    def opened(self) -> list[int]:
        """Slots that take traffic, in the order they opened."""
        return self.router.opened

    def open(self, slot: int, at_s: float) -> None:
        """The slot takes traffic from `at_s` on (not later than now)."""
        self.engines[slot].open(0, at_s)
        self.caches[slot] = PrefixCache(self.params)
        self.opened.append(slot)

    def close(self, slot: int, at_s: float, abort: bool = False) -> None:
        """No new traffic to the slot; what is in flight drains or is cancelled."""
        self.engines[slot].close(0, at_s, abort=abort)
        self.router.close(slot)
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
        return self.router.pick(connection)

    def submit(self, slot: int, prompt: Prompt, output_tokens: int, now_s: float) -> int:
        """Send one request to a slot at `now_s`; returns its id within the slot."""
        engine = self.engines[slot]
        known = self.caches[slot].look_up(prompt)
        request = engine.submit(prompt.tokens, output_tokens, known, at_s=max(now_s, engine.now_s))
        self.next_s[slot] = min(self.next_s[slot], now_s)
        return request

    def abort(self, slot: int, requests: Iterable[int], now_s: float) -> None:
        """The client gives these requests of a slot up now: seats and blocks are free at once."""
        engine = self.engines[slot]
        engine.advance(max(now_s, engine.now_s))
        for request in requests:
            engine.abort(request)
        self.next_s[slot] = 0.0  # what was cancelled is to be collected


def warm_up(params: EngineParams) -> None:
    """Compile, or load from the cache, before the clock starts: the first request would wait for it otherwise."""
    live = LiveReplicas(params, 1, 0)
    live.open(0, 0.0)
    live.submit(0, Prompt(1), 2, 0.0)
    live.advance(60.0)
    engine = live.engines[0]
    request = live.submit(0, Prompt(1), 2, 60.0)
    live.abort(0, [request], 60.0 + 1e-6)
    engine.progress()
    engine.finished()
    engine.engine_gauges()
    live.close(0, 61.0, abort=True)
    live.gauges()
