"""Whether users were served: nodes of a group, share of a new replica, the SLO, and requests at a scale-in."""

from __future__ import annotations

import math

from autoscale.check.criteria.criterion import MORE_LOAD, Criterion
from autoscale.check.criteria.prediction import recovered_as_predicted
from autoscale.check.expectation import Expectation
from autoscale.check.figures import Figures
from autoscale.check.routing import FAIR_SHARE, rounds
from autoscale.check.scaleout import History, ScaleOut, as_dict
from autoscale.check.timeline import Timeline

PINNED_AFTER_S = 60.0  # a new replica without traffic this long after ready, while others are over target


def own_nodes(past: History) -> Criterion:
    """Each pod of a group runs on a node of its own."""
    code = "group_on_own_nodes"
    groups = [unit for unit in past.replicas if unit.size > 1 and all(pod.node for pod in unit.pods)]
    if not groups:
        return Criterion(code, "not_asked", "no scheduled group of several pods was seen")
    shared = [unit for unit in groups if len({pod.node for pod in unit.pods}) < len(unit.pods)]
    figures = {unit.name: [pod.node for pod in unit.pods] for unit in groups[:50]}
    if shared:
        unit = shared[0]
        return Criterion(
            code,
            "fail",
            f"{len(shared)} of {len(groups)} groups have pods on one node: {unit.name} runs {len(unit.pods)} pods on "
            f"{', '.join(sorted({str(pod.node) for pod in unit.pods}))}",
            figures,
        )
    return Criterion(code, "pass", f"each pod of the {len(groups)} groups has a node of its own", figures)


def traffic_share(timeline: Timeline, past: History) -> Criterion:
    """Each new replica carries its part of the load."""
    code = "new_replica_gets_its_share"
    fresh = [(out, unit) for out in past.scale_outs for unit in out.replicas if not math.isnan(unit.ready_s)]
    if not fresh:
        return Criterion(code, "not_judged", "no new replica became ready", proof=MORE_LOAD)
    shares = {unit.name: _share_after(timeline, past, out, unit.leader.name) for out, unit in fresh}
    known = {name: share for name, share in shares.items() if share is not None}
    if not known:
        if past.requests is None and not any(out.by_hpa for out, _ in fresh):
            return Criterion(code, "not_asked", "no load was sent, and replicas were started by hand")
        why = "requests per replica were not seen while there was load"
        return Criterion(
            code, "not_judged", why, proof="keep up the load for two minutes after the replica is ready"
        )
    starved = {name: share for name, share in known.items() if share < FAIR_SHARE}
    if starved:
        name, share = min(starved.items(), key=lambda item: item[1])
        cause = (
            "clients keep their connections to the old replicas (keep-alive pinning): close idle connections, limit "
            "requests per connection, or balance per request"
            if share < 0.1
            else "the load is spread unevenly: check the Service, its session affinity and the clients' connections"
        )
        return Criterion(
            code, "fail", f"{name} carried {share:.0%} of an equal share; {cause}", {"share_of_equal": known}
        )
    return Criterion(
        code,
        "pass",
        f"each new replica carried at least {min(known.values()):.0%} of an equal share",
        {"share_of_equal": known},
    )


def _share_after(timeline: Timeline, past: History, out: ScaleOut, name: str) -> float | None:
    """Mean load of the replica over the mean of all, until the next scale-in.

    From PINNED_AFTER_S after ready, or from when the scale-out was absorbed if as much is seen after that: a backlog of
    the older replicas is not the routing's doing. Of a shorter watch the second half counts.
    None when the scale-in is decided before that, and when no new request is seen to arrive, unless it drains a fair part:
    a queue of others that only drains says nothing about routing, and a value that never changes shows no traffic.
    """
    unit = next(u for u in out.replicas if u.leader.name == name)
    stop_s = min([s.decided_s for s in past.scale_ins if s.decided_s > unit.ready_s], default=timeline.last_s)
    if past.gauges is None and timeline.hidden(("custommetrics",), unit.ready_s, stop_s):
        return None
    if stop_s < min(unit.ready_s + PINNED_AFTER_S, timeline.last_s):
        return None
    from_s = min(unit.ready_s + PINNED_AFTER_S, (unit.ready_s + stop_s) / 2)
    if from_s < out.absorbed_s <= stop_s - PINNED_AFTER_S:  # false for NaN: the next decision came first
        from_s = out.absorbed_s
    own, everyone, seen, arrivals, moved = 0.0, 0.0, 0, False, False
    before: dict[str, float] = {}
    for at_s, values in rounds(timeline, past.gauges, [u.leader.name for u in past.replicas]):
        if from_s <= at_s <= stop_s and len(values) > 1 and name in values:
            arrivals |= any(value > before.get(pod, math.inf) for pod, value in values.items())
            moved |= before.get(name, values[name]) != values[name]
            before = values
            own += values[name]
            everyone += sum(values.values()) / len(values)
            seen += 1
    if not seen or not everyone:
        return None
    return own / everyone if arrivals or (moved and own >= FAIR_SHARE * everyone) else None


def slo_recovered(past: History, seen: Figures, expect: Expectation | None) -> Criterion:
    """The SLO held, or held again within the predicted time."""
    code = "slo_recovered"
    if past.requests_in_breach is None:
        asked = "not_judged" if expect else "not_asked"
        proof = "send the load with --load, and name --slo"
        return Criterion(code, asked, "no request of the load was seen, or no SLO is known", proof=proof)  # type: ignore[arg-type]
    broken = past.requests_in_breach
    figures: dict[str, object] = {"requests_in_breach": broken}
    if past.breach_s is None:
        few = (
            f"{broken} requests in breach are fewer than the SLO allows"
            if broken
            else "no request was in breach"
        )
        return Criterion(code, "pass", f"the SLO held throughout: {few}", figures)
    if not past.scale_outs:
        return Criterion(
            code, "fail", f"{broken} requests were in breach and nothing was scaled out", figures
        )
    return recovered_as_predicted(code, seen, expect, f"{broken} requests were in breach")


def nothing_cut(past: History) -> Criterion:
    """No request failed while replicas were removed."""
    code = "no_request_lost_at_scale_in"
    if not past.scale_ins:
        return Criterion(code, "not_asked", "no scale-in was seen")
    known = [each.requests_cut for each in past.scale_ins if each.requests_cut is not None]
    busy = [each.busy_at_end for each in past.scale_ins if each.busy_at_end is not None]
    figures = {
        "requests_cut": known,
        "busy_at_end": busy,
        "freed_after_s": as_dict([each.freed_s - each.decided_s for each in past.scale_ins]),
    }
    if sum(known):
        return Criterion(
            code,
            "fail",
            f"{sum(known)} requests failed while replicas were removed: add a preStop sleep, --shutdown-timeout and a "
            "terminationGracePeriodSeconds that covers the longest answer",
            figures,
        )
    if known:
        return Criterion(code, "pass", f"{len(past.scale_ins)} scale-ins, no request failed", figures)
    if sum(busy):
        return Criterion(
            code,
            "not_judged",
            f"removed replicas had {sum(busy)} requests when they were last seen; whether these were cut only the "
            "requests tell",
            figures,
        )
    return Criterion(
        code,
        "not_judged",
        "needs the requests, or the metrics of the removed replicas",
        figures,
        "send the load with --load",
    )
