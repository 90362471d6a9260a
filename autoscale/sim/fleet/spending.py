"""Where the accelerator-hours of a simulated fleet go: starting, wasted, idle, at work; and by hour of the day."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.numbers import known
from autoscale.sim.fleet.replica import FleetReplica, PodEvent

HOUR_S, HOURS_OF_A_DAY = 3600.0, 24
MOST_NOTED = 500_000  # requests whose times wait to be joined, 24 bytes each

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spending:
    """Accelerator-hours from the first to the last second of the traffic.

    starting   of replicas that became ready, or still start at the end, from their nodes to ready
    wasted     of replicas that were removed before they were ready
    idle       of ready replicas that held no request
    total      all of them, those at work or ending included
    by_hour    mean accelerators held in each hour of the day, from the hour in which the traffic begins; NaN where it has none
    """

    starting: float
    wasted: float
    idle: float
    total: float
    by_hour: tuple[float, ...]


class Spent:
    """Follows the pods and the requests of one simulation."""

    def __init__(self, chips_per_pod: int) -> None:
        self.chips_per_pod = chips_per_pod
        self.replicas: dict[int, FleetReplica] = {}
        self.since: dict[int, dict[int, float]] = defaultdict(dict)  # replica -> pod -> its node was there
        self.busy: dict[int, list[Floats]] = defaultdict(list)  # slot -> stretches with a request, (n, 2)
        self._noted: list[tuple[NDArray[Any], Floats, Floats]] = []  # slots, begins, ends not yet in `busy`
        self._count = 0

    def pod(self, event: PodEvent) -> None:
        """Note a transition."""
        self.replicas.setdefault(event.replica.ordinal, event.replica)
        if event.kind == "scheduled":  # a group that starts over keeps its nodes
            self.since[event.replica.ordinal].setdefault(event.member, event.time_s)

    def requests(self, finished: NDArray[Any]) -> None:
        """Note the times in which finished requests (engine.FINISHED) were on their replicas.

        They are joined when asked for, or when they are many: most simulations are judged without their spending.
        """
        self._noted.append((finished["slot"].copy(), finished["sent_s"].copy(), finished["end_s"].copy()))
        self._count += len(finished)
        if self._count > MOST_NOTED:
            self._join()

    def _join(self) -> None:
        if not self._noted:
            return
        slots, begin, end = (np.concatenate(column) for column in zip(*self._noted, strict=True))
        self._noted, self._count = [], 0
        order = np.lexsort((begin, slots))
        slots = slots[order]
        for slot in np.unique(slots[slots >= 0]).tolist():
            own = order[np.searchsorted(slots, slot) : np.searchsorted(slots, slot, side="right")]
            self.busy[slot].append(_joined(begin[own], end[own]))

    def spending(self, end_s: float, begins_s: float) -> Spending:
        """The sums up to `end_s`; the traffic begins `begins_s` after a midnight."""
        self._join()
        starting = wasted = 0.0
        held: list[tuple[float, float]] = []
        ready: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for ordinal, replica in self.replicas.items():
            gone_s = _earlier(replica.gone_s, end_s)
            own = [(since, gone_s) for since in self.since[ordinal].values() if since < gone_s]
            held += own
            if replica.ready_s < end_s:
                starting += sum(max(0.0, replica.ready_s - since) for since, _ in own)
                ready[replica.slot].append((replica.ready_s, _earlier(replica.deleting_s, end_s)))
            elif replica.deleting_s < end_s:
                wasted += _sum(own)
            else:
                starting += _sum(own)
        pods = max((len(members) for members in self.since.values()), default=1)
        idle = pods * sum(_idle(ready[slot], self.busy.get(slot, [])) for slot in ready)
        hours = self.chips_per_pod / HOUR_S
        return Spending(
            starting * hours,
            wasted * hours,
            idle * hours,
            _sum(held) * hours,
            tuple((self.chips_per_pod * _by_hour(held, end_s, begins_s)).tolist()),
        )


def _earlier(time_s: float, end_s: float) -> float:
    return min(time_s, end_s) if known(time_s) else end_s


def _sum(stretches: Iterable[tuple[float, float]]) -> float:
    return sum(end - begin for begin, end in stretches)


def _joined(begin: Floats, end: Floats) -> Floats:
    """The union of stretches that are ordered by their begin, (n, 2)."""
    last = np.maximum.accumulate(end)
    first = np.concatenate(([True], begin[1:] > last[:-1]))
    return np.column_stack((begin[first], last[np.concatenate((first[1:], [True]))]))


def _idle(ready: list[tuple[float, float]], busy: list[Floats]) -> float:
    """Seconds of ready time in which no request was there."""
    free = _sum(ready)
    if not busy:
        return free
    parts = np.concatenate(busy)
    parts = parts[np.argsort(parts[:, 0])]
    parts = _joined(parts[:, 0], parts[:, 1])
    for begin, end in ready:
        inside = np.minimum(parts[:, 1], end) - np.maximum(parts[:, 0], begin)
        free -= float(np.maximum(inside, 0.0).sum())
    return free


def _by_hour(held: list[tuple[float, float]], end_s: float, begins_s: float) -> Floats:
    """Mean number of pods held in each hour of the day."""
    edges = np.arange(math.floor(begins_s / HOUR_S), math.ceil((begins_s + end_s) / HOUR_S) + 1)
    edges_s = edges * HOUR_S - begins_s
    steps = np.array([(begin, 1.0) for begin, _ in held] + [(end, -1.0) for _, end in held]).reshape(-1, 2)
    steps = steps[np.argsort(steps[:, 0])]
    times_s, counts = np.append(steps[:, 0], np.inf), np.cumsum(steps[:, 1])
    areas = (
        np.concatenate(([0.0], np.cumsum(counts[:-1] * np.diff(steps[:, 0])))) if len(steps) else np.zeros(0)
    )

    def area(at_s: Floats) -> Floats:
        at = np.searchsorted(times_s, at_s, side="right") - 1
        known = np.maximum(at, 0)
        return np.where(at < 0, 0.0, areas[known] + counts[known] * (at_s - times_s[known]))

    clipped = np.clip(edges_s, 0.0, end_s)
    seconds = np.diff(clipped)
    held_s = np.diff(area(clipped)) if len(steps) else np.zeros(len(seconds))
    hour = edges[:-1] % HOURS_OF_A_DAY
    with np.errstate(invalid="ignore"):
        return np.bincount(hour, held_s, HOURS_OF_A_DAY) / np.bincount(hour, seconds, HOURS_OF_A_DAY)
