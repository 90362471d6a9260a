"""What stands around a fleet: who watches it, and the engines that it opens and closes."""

from __future__ import annotations

from typing import Any, Protocol

from autoscale.hpa import HpaDecision, PodMetric
from autoscale.sim.fleet.replica import FleetReplica, PodEvent


class FleetWatcher(Protocol):
    """Who wants to know what happens; times are control seconds."""

    def pod(self, event: PodEvent) -> None:
        """A replica made a transition."""

    def query(self, now_s: float, metric: str, values: list[PodMetric], pods: list[FleetReplica]) -> None:
        """The HPA read one metric: a value, or none, for each of `pods`."""

    def sync(self, now_s: float, decision: HpaDecision) -> None:
        """The HPA decided."""

    def scaled(self, now_s: float, before: int, after: int, why: str) -> None:
        """The scale subresource was written."""


class Engines(Protocol):
    """The part of engine.Replicas that a fleet needs; times are engine seconds."""

    def open(self, slot: int, at_s: float) -> None:
        """The slot takes traffic from `at_s` on."""

    def close(self, slot: int, at_s: float, abort: bool = False) -> None:
        """No new traffic from `at_s` on; what is in flight drains or is cancelled."""

    def advance(self, until_s: float) -> None:
        """Everything that happens before `until_s`."""

    def gauges(self) -> Any:
        """engine.GAUGES, one row per slot."""

    def in_flight_of(self, slot: int) -> int:
        """Requests that the slot holds."""

    def gateway_gauges(self) -> tuple[float, float, float]:
        """Requests that an inference gateway holds, those that it has sent on, its pool's saturation; NaN without one."""
