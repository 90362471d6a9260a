"""The figures of a scale-out that are predicted: a watch of a cluster and one of a simulation are read alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from analysis.numbers import known
from autoscale.check.records import NAN, Resize
from autoscale.check.replicas import SeenReplica
from autoscale.check.scaleout import History, flaps
from autoscale.check.timeline import Timeline

FLAP_WITHIN_S = 600.0


@dataclass(frozen=True)
class Figures:
    """Times in s on the timeline's clock; NaN: not seen, infinite: not before the watch ended.

    peak_replicas  the most that the target was asked to have
    decision_s     longest time from the metric above its target to the decision
    ready_s        longest time from a decision to all of its replicas being ready
    recovery_s     from the first breach of the SLO's share to when it held again; 0 when it held throughout
    tpot_s         median time per output token
    slo_attainment share 0-1 of the requests that kept every bound
    """

    peak_replicas: float = NAN
    decision_s: float = NAN
    ready_s: float = NAN
    recovery_s: float = NAN
    slo_attainment: float = NAN
    tpot_s: float = NAN
    wasted_scale_outs: float = NAN
    flaps: float = NAN


def figures_of(timeline: Timeline, past: History) -> Figures:
    """What happened to one target, in the figures that a recommendation predicts."""
    outs = past.scale_outs
    sizes = [out.after for out in timeline.decisions] + [out.before for out in timeline.decisions[:1]]
    decided = [out.decided_s - out.detected_s for out in outs if out.by_hpa and known(out.detected_s)]
    return Figures(
        peak_replicas=max(sizes, default=NAN if timeline.size is None else timeline.size),
        decision_s=max(decided, default=NAN),
        ready_s=max((_ready_s(wait) for wait in waits_s(past)), default=NAN),
        recovery_s=_recovery_s(past),
        slo_attainment=attainment(past),
        tpot_s=past.tpot_s,
        wasted_scale_outs=len(wasted(past)),
        flaps=len(taken_back(timeline.decisions)),
    )


def attainment(past: History) -> float:
    """Share 0-1 of the requests that kept every bound; NaN without requests."""
    if past.requests_in_breach is None or not past.requests:
        return NAN
    return 1 - past.requests_in_breach / past.requests


def waits_s(past: History) -> list[float]:
    """Per scale-out the time from its decision to ready; NaN: not all became ready."""
    return [out.ready_s - out.decided_s for out in past.scale_outs]


def wasted(past: History) -> list[SeenReplica]:
    """New replicas that were removed before they were ready."""
    fresh: Iterable[SeenReplica] = (unit for out in past.scale_outs for unit in out.replicas)
    return [u for u in fresh if known(u.deleting_s) and not u.ready_s < u.deleting_s]


def taken_back(decisions: list[Resize]) -> list[tuple[tuple[Resize, Resize], tuple[Resize, Resize]]]:
    """Flaps: three decisions out, in, out (or the reverse), each within FLAP_WITHIN_S of the one before."""
    pairs = pairwise(flaps(decisions, FLAP_WITHIN_S))
    return [(first, second) for first, second in pairs if first[1] == second[0]]


def _ready_s(wait_s: float) -> float:
    return math.inf if math.isnan(wait_s) else wait_s


def _recovery_s(past: History) -> float:
    if past.requests_in_breach is None:
        return NAN
    if past.breach_s is None:
        return 0.0
    broke_s, held_s = past.breach_s
    return math.inf if math.isnan(held_s) else held_s - broke_s
