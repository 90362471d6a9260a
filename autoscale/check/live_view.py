"""What a watch shows while it runs, and when it is over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from analysis.numbers import known
from autoscale.check.scaleout import History
from autoscale.check.timeline import Timeline


@dataclass(frozen=True)
class WatchState:
    """What a live view shows, told several times per second. `past` is judged anew every two seconds."""

    time_s: float
    elapsed_s: float
    timeline: Timeline
    past: History
    next_sync_s: float
    metrics: Mapping[str, tuple[float, float]]  # name -> (usage, target), in the metric's unit
    desired: int | None
    ready: int
    hindered: str = ""  # why the HPA cannot act now


def state_of(timeline: Timeline, past: History, now_s: float, elapsed_s: float = 0.0) -> WatchState:
    """What a live view shows of a timeline."""
    targets = timeline.targets_milli()
    usage: dict[str, float] = {}
    for sample in reversed(timeline.samples):
        if sample.metric not in usage:
            usage[sample.metric] = sample.usage_milli / 1000
        if len(usage) == len(targets):
            break
    return WatchState(
        time_s=now_s,
        elapsed_s=elapsed_s,
        timeline=timeline,
        past=past,
        next_sync_s=timeline.next_sync_s(now_s),
        metrics={name: (usage.get(name, math.nan), target / 1000) for name, target in targets.items()},
        desired=timeline.size,
        ready=sum(1 for unit in past.replicas if known(unit.ready_s) and not known(unit.deleting_s)),
        hindered=timeline.hindrance.now(),
    )


def settled(timeline: Timeline, past: History, settle_s: float, now_s: float) -> bool:
    """Whether the last scale-out is over: ready, and its metric within the target since `settle_s`."""
    if not past.scale_outs:
        return False
    last = past.scale_outs[-1]
    newest = timeline.decisions[-1]
    since_s = last.absorbed_s if last.by_hpa else last.ready_s
    if newest.time_s != last.decided_s:
        if newest.after > newest.before:
            return False  # another scale-out, since the history was last judged
        if math.isnan(since_s):
            since_s = newest.time_s  # a scale-in came after it: all is said
    return not math.isnan(since_s) and now_s - since_s > settle_s
