"""The numbered observations of a simulated fleet, kept for whoever follows them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TypedDict

from autoscale.sim.http.kubernetes_objects import KubernetesObject

KEPT_OBSERVATIONS = 100_000


class ObservationRow(TypedDict):
    """A line of GET /fleet/observations: kube.cluster.Observation with its number."""

    seq: int
    time_s: float  # unix s of the fleet's control clock
    resource: str
    type: str
    object: KubernetesObject


class ObservationLog:
    """The newest KEPT_OBSERVATIONS, numbered from 0 on; the oldest go first."""

    def __init__(self) -> None:
        self._rows: list[ObservationRow] = []
        self._dropped = 0
        self._changed = asyncio.Event()

    def add(self, time_s: float, resource: str, kind: str, content: KubernetesObject) -> None:
        """Append one and wake who follows."""
        self._rows.append(
            {
                "seq": self._dropped + len(self._rows),
                "time_s": round(time_s, 6),
                "resource": resource,
                "type": kind,
                "object": content,
            }
        )
        if len(self._rows) > KEPT_OBSERVATIONS:
            cut = KEPT_OBSERVATIONS // 10
            del self._rows[:cut]
            self._dropped += cut
        self.wake()

    def since(self, seq: int) -> list[ObservationRow]:
        """Those from number `seq` on that are still kept."""
        return self._rows[max(0, seq - self._dropped) :]

    def wake(self) -> None:
        """Let who follows look again."""
        self._changed.set()

    async def more(self, within_s: float) -> None:
        """Wait until there may be more, or the time is over."""
        self._changed.clear()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), within_s)
