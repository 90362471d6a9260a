"""What a scale-in did: which replicas went, when their accelerators were free, and what was cut off."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoscale.check.client_view import ClientView, cut_off
from autoscale.check.records import NAN, Resize
from autoscale.check.replicas import SeenReplica
from autoscale.check.routing import ReplicaGauges


@dataclass(frozen=True)
class ScaleIn:
    """One reduction of the target."""

    decided_s: float
    before: int
    after: int
    by_hpa: bool
    victims: tuple[SeenReplica, ...]
    deleting_s: float  # the first pod was asked to stop
    freed_s: float  # the last accelerator was free; NaN: not within the watch
    accelerators: int
    requests_cut: int | None  # failed in the victims' last seconds; None: no requests were given
    busy_at_end: int | None  # requests that the victims still ran when last seen; None: not scraped


def scale_in(
    made: Resize, gone: tuple[SeenReplica, ...], load: ClientView, gauges: ReplicaGauges | None
) -> ScaleIn:
    """The facts of one reduction; `gone` are the replicas that went."""
    deleting_s = min((unit.deleting_s for unit in gone), default=NAN)
    ends = [unit.gone_s for unit in gone]
    freed_s = max(ends) if ends and not any(math.isnan(end) for end in ends) else NAN
    cut = None
    if load.requests is not None and gone:
        cut = cut_off(load, deleting_s, freed_s)
    busy = None
    if gauges:
        left = [
            [v for t, v in gauges.busy(u.leader.name) if t <= u.leader.gone_s or math.isnan(u.leader.gone_s)]
            for u in gone
            if u.leader.name in gauges
        ]
        busy = int(sum(values[-1] for values in left if values)) if left else None
    return ScaleIn(
        made.time_s,
        made.before,
        made.after,
        made.by_hpa,
        gone,
        deleting_s,
        freed_s,
        sum(unit.accelerators for unit in gone),
        cut,
        busy,
    )
