"""Flow control of a served inference gateway: requests wait here while the pool is saturated, or has no pod.

The rules are those of the virtual gateway (sim.engine.flow_control), over engines behind real connections. A wait beside
pods is true time, as tokens are; one without any pod runs with the control plane, as cold starts do.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from autoscale.sim.engine.gateway import InferenceGateway
from autoscale.sim.http.live_replicas import LiveReplicas
from autoscale.sim.http.openai_request import Refusal

WORDS = {  # outcome -> what the client reads
    "RejectedCapacity": "The gateway holds as many requests as it may.",
    "RejectedNoEndpoints": "The pool has no endpoint.",
    "EvictedTTL": "The request waited at the gateway for as long as it may.",
    "EvictedNoEndpoints": "The pool had no endpoint for as long as a request may wait.",
}
NO_POD = ("RejectedNoEndpoints", "EvictedNoEndpoints")  # answered 503; the others 429


@dataclass(eq=False)
class HeldRequest:
    """A request at the gateway, and since when it waits."""

    admitted: asyncio.Future[None]
    since_s: float


class FlowGate:
    """Admits requests of one priority, first come first served. `now` is engine time, `control` the control plane's."""

    def __init__(
        self,
        options: InferenceGateway,
        replicas: LiveReplicas,
        now: Callable[[], float],
        control: Callable[[], float],
    ) -> None:
        self.options, self.replicas, self.now, self.control = options, replicas, now, control
        self.waiting: deque[HeldRequest] = deque()
        self.running = 0  # admitted and not ended
        self.outcomes: Counter[str] = Counter()
        self.told: Callable[[str, float], None] | None = None  # outcome and wait of each that leaves
        self._looked, self._saturation = -1, 1.0
        self._regime = (False, 0.0, 0.0)  # whether there are pods; since when, engine and control time

    @property
    def saturation(self) -> float:
        """The plain mean over the pods of how full they are, at the last look; 1 without any pod."""
        pods, options = self.replicas.opened, self.options
        if not pods:
            return 1.0
        if options.detector == "concurrency":
            return self.running / options.capacity / len(pods)
        look = int(self.now() / options.refresh_s)
        if look != self._looked:
            rows = self.replicas.gauges()[pods]
            full = [
                max(w / options.queue_depth, kv / options.kv_usage)
                for w, kv in zip(rows["waiting"].tolist(), rows["kv_usage"].tolist(), strict=True)
            ]
            self._looked, self._saturation = look, sum(full) / len(full)
        return 1.0 if options.refresh_s >= options.stale_s else self._saturation

    @property
    def gauges(self) -> tuple[float, float, float]:
        """Requests held, requests sent on, and the pool's saturation."""
        return float(len(self.waiting)), float(self.running), self.saturation

    async def admission(self, wake: asyncio.Event) -> None:
        """Return when the request may go on; it counts as running until `ended`. Raises Refusal when it may not."""
        pods = bool(self.replicas.opened)
        if not self.options.flow_control:
            if not pods:
                raise self._refused("RejectedNoEndpoints", 0.0)
            self._dispatched(0.0)
            return
        if len(self.waiting) >= self.options.band_requests:
            raise self._refused("RejectedCapacity" if pods else "RejectedNoEndpoints", 0.0)
        one = HeldRequest(asyncio.get_running_loop().create_future(), self.now())
        self.waiting.append(one)
        self.turn()
        wake.set()
        try:
            await one.admitted
        except asyncio.CancelledError:
            if one in self.waiting:
                self.waiting.remove(one)
                self._left("EvictedContextCancelled", self.now() - one.since_s)
            else:  # it was let go in the same moment
                self.ended()
            raise

    def ended(self) -> None:
        """A request that was admitted is over."""
        self.running -= 1

    def turn(self) -> None:
        """Let go what may go, and turn away what has waited for too long."""
        pods, now_s, control_s = bool(self.replicas.opened), self.now(), self.control()
        if pods != self._regime[0]:
            self._regime = (pods, now_s, control_s)
            self._looked = -1
        while self.waiting and pods and self.saturation < 1.0:
            one = self.waiting.popleft()
            if not one.admitted.done():
                self._dispatched(now_s - one.since_s)
                one.admitted.set_result(None)
        while self.waiting and self._too_long(self.waiting[0], now_s, control_s):
            one = self.waiting.popleft()
            outcome = "EvictedTTL" if pods else "EvictedNoEndpoints"
            if not one.admitted.done():
                one.admitted.set_exception(self._refused(outcome, now_s - one.since_s))

    def _too_long(self, one: HeldRequest, now_s: float, control_s: float) -> bool:
        """Each change between pods and none starts the wait anew."""
        pods, regime_s, regime_control_s = self._regime
        options = self.options
        if pods:
            return now_s - max(one.since_s, regime_s) >= options.ttl_s
        limit_s = options.ttl_s if options.no_endpoint_ttl_s is None else options.no_endpoint_ttl_s
        rate = control_s / now_s if now_s > 0 else 1.0
        return control_s - max(one.since_s * rate, regime_control_s) >= limit_s

    def _dispatched(self, waited_s: float) -> None:
        self.running += 1
        self._left("Dispatched", waited_s)

    def _refused(self, outcome: str, waited_s: float) -> Refusal:
        self._left(outcome, waited_s)
        return Refusal(503 if outcome in NO_POD else 429, WORDS[outcome], outcome)

    def _left(self, outcome: str, waited_s: float) -> None:
        self.outcomes[outcome] += 1
        if self.told:
            self.told(outcome, max(0.0, waited_s))
