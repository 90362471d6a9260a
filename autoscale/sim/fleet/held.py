"""What an inference gateway did with a simulation's requests, and why it held them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoscale.sim.engine.replicas import Replicas
from autoscale.sim.engine.state import (
    EVICTED_NO_ENDPOINTS,
    EVICTED_TTL,
    NO_ENDPOINTS,
    NO_ROOM,
    SATURATED,
)

OUTCOMES = {  # slot of the record -> (the gateway's outcome, HTTP status)
    SATURATED: ("Saturated", 429),
    NO_ROOM: ("RejectedCapacity", 429),
    NO_ENDPOINTS: ("RejectedNoEndpoints", 503),
    EVICTED_TTL: ("EvictedTTL", 429),
    EVICTED_NO_ENDPOINTS: ("EvictedNoEndpoints", 503),
}
TELLING_S = 30.0  # held for less than this is nothing to explain
IDLE_SHARE = 0.5  # from this share of pods with room on, the pool was not full


@dataclass(frozen=True)
class Held:
    """What the gateway held and turned away.

    turned_away   outcome -> requests that no replica saw
    held_s        time in which requests waited although there were pods
    with_room     meanwhile, the mean share of pods that were below their own limits; NaN when nothing was held
    most_waiting  the most requests at the gateway at once
    most_on_one   the most that waited on one pod while others were held
    """

    turned_away: Mapping[str, int]
    held_s: float
    with_room: float
    most_waiting: int
    most_on_one: int

    @classmethod
    def by(cls, engine: Replicas, turned_away: Mapping[int, int]) -> Held | None:
        """What the engine's gateway did, None without one."""
        gate = engine.state.gate[0]
        if not gate["on"]:
            return None
        held_s = float(gate["held_s"])
        return cls(
            {OUTCOMES[slot][0]: count for slot, count in sorted(turned_away.items(), reverse=True)},
            held_s,
            float(gate["room_s"]) / held_s if held_s else float("nan"),
            int(gate["most_waiting"]),
            int(gate["most_on_one"]),
        )

    @property
    def cause(self) -> str:
        """Why requests were held while pods had room; "" when they were not, or the pool was full."""
        if self.held_s < TELLING_S or not self.with_room >= IDLE_SHARE:
            return ""
        return (
            f"the gateway held requests for {self.held_s:,.0f} s while {self.with_room:.0%} of the ready pods had room: "
            "the pool's saturation is the plain mean over pods of waiting / queue threshold, not cut off at 1, so one pod "
            f"with up to {self.most_on_one:,} waiting counts for the whole pool; it gets so many at once, since the gateway "
            "lets all go on metrics that are one look old, and a shared prefix sends them to one pod. Let go by what is in "
            "flight (detector=concurrency), or leave flow control off"
        )
