"""The verdict: one criterion at a time, each with its evidence. Pure: a timeline and its history in, answers out.

An outcome is `pass`, `fail` or `not_judged`; what could not be seen is never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal

from autoscale.check.scaleout import (
    FAIR_SHARE,
    STATUS_LAG_S,
    History,
    ScaleOut,
    as_dict,
    excess,
    flaps,
    rounds,
)
from autoscale.check.timeline import Timeline
from autoscale.kube.scaler import Hpa
from autoscale.recommendation import Recommendation

Outcome = Literal["pass", "fail", "not_judged"]

SYNC_S = 15.2  # measured: syncs drift between 15.00 and 15.2 s
PATIENCE_SYNCS = 2  # one sync may read the value just before it rose
FLAP_WITHIN_S = 600.0
PINNED_AFTER_S = 60.0  # a new replica without traffic this long after ready, while others are over target


@dataclass(frozen=True)
class Criterion:
    """One question, its answer, the sentence for people and the figures behind it."""

    code: str
    outcome: Outcome
    sentence: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What the check answers. `passed`: at least one criterion was judged and none failed."""

    history: History
    criteria: tuple[Criterion, ...]

    @property
    def passed(self) -> bool:
        """Whether the answer is yes."""
        outcomes = {criterion.outcome for criterion in self.criteria}
        return "pass" in outcomes and "fail" not in outcomes

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; times in unix seconds."""
        return {"passed": self.passed, **as_dict(self.history), "criteria": as_dict(self.criteria)}


@dataclass(frozen=True)
class Expectation:
    """What a recommendation predicted; an interval is (low, high), None = it does not say."""

    min_replicas: int | None = None
    max_replicas: int | None = None
    peak_replicas: tuple[float, float] | None = None
    recovery_s: tuple[float, float] | None = None
    ready_s: tuple[float, float] | None = None  # decision to ready
    slo_attainment: tuple[float, float] | None = None
    wasted_scale_outs: tuple[float, float] | None = None
    flaps: tuple[float, float] | None = None

    @classmethod
    def from_recommendation(cls, recommendation: Recommendation) -> Expectation:
        """What it says of the cluster; nothing is expected where it is silent."""
        names = [one.name for one in fields(cls) if one.name not in ("min_replicas", "max_replicas")]
        figures = {name: getattr(recommendation.predicted, name, None) for name in names}
        return cls(
            min_replicas=recommendation.min_replicas,
            max_replicas=recommendation.max_replicas,
            **{name: figure.interval for name, figure in figures.items() if figure is not None},
        )


def judge(timeline: Timeline, past: History, expect: Expectation | None = None) -> Judgement:
    """Every criterion that the issue of a scale-out raises, in the order in which a reader asks."""
    expect = expect or Expectation()
    return Judgement(
        past,
        (
            _scaled_when_it_should(timeline),
            _scaled_to_what_was_predicted(timeline, past, expect),
            _became_ready(past, expect),
            _own_nodes(past),
            _share(timeline, past),
            _slo_recovered(past, expect),
            _no_flapping(timeline, expect),
            _no_waste(past, expect),
            _nothing_cut(past),
        ),
    )


# --- criteria ----------------------------------------------------------------------------------------------------------


def _scaled_when_it_should(timeline: Timeline) -> Criterion:
    code = "scaled_when_it_should"
    if not timeline.hpa or not timeline.samples:
        return Criterion(code, "not_judged", "no value of the HPA's metric was seen")
    spans = list(excess_spans(timeline))
    if not spans:
        early = [made for made in timeline.decisions if made.by_hpa and made.after > made.before]
        if early:
            return Criterion(
                code,
                "not_judged",
                f"the HPA scaled out {len(early)} times, but its metric was not seen above the target before",
            )
        return Criterion(code, "not_judged", "the metric never stood above its target: nothing had to happen")
    window_s = Hpa(timeline.hpa).window_s("scaleUp")
    allowed_s = PATIENCE_SYNCS * SYNC_S + window_s + _policy_wait_s(timeline)
    late = [span for span in spans if (span[2] if span[2] is not None else span[1]) - span[0] > allowed_s]
    figures = {
        "spans": [{"from_s": a, "to_s": b, "decided_s": d} for a, b, d in spans],
        "allowed_s": allowed_s,
        "late": len(late),
    }
    if late:
        start_s, end_s, decided_s = late[0]
        how = (
            "and nothing was decided"
            if decided_s is None
            else f"before the decision came {decided_s - start_s:.0f} s later"
        )
        return Criterion(
            code,
            "fail",
            f"the metric asked for more replicas for {(decided_s or end_s) - start_s:.0f} s {how}; "
            f"two syncs and the HPA's own windows allow {allowed_s:.0f} s",
            figures,
        )
    decided = [d - a for a, _, d in spans if d is not None]
    if not decided:
        return Criterion(
            code, "not_judged", "the metric stood above its target too briefly to ask for a decision", figures
        )
    return Criterion(
        code,
        "pass",
        f"{len(decided)} decisions came within {max(decided):.1f} s of the metric asking for them",
        figures,
    )


def excess_spans(timeline: Timeline) -> Iterable[tuple[float, float, float | None]]:
    """(from_s, to_s, decided_s or None) of the times when some metric asked for more replicas than the target had.

    Pods without a value count as zero, as they do for the HPA; at maxReplicas nothing more can be asked.
    """
    bound = 1 + Hpa(timeline.hpa).tolerance("scaleUp")
    most = Hpa(timeline.hpa).max_replicas
    pending = [made for made in timeline.decisions if made.after > made.before]
    open_s: dict[str, float] = {}
    for sample in [*timeline.samples, None]:
        at_s = sample.time_s if sample else timeline.last_s
        while pending and (sample is None or pending[0].time_s + STATUS_LAG_S < at_s):
            made = pending.pop(0)
            if open_s:
                yield min(*open_s.values(), made.time_s), at_s, made.time_s
                open_s = {}
        if sample is None:
            break
        size = _size_at(timeline, at_s - STATUS_LAG_S)
        ratio = excess(timeline, sample, size)
        if math.isnan(ratio) or sample.values_milli is None:
            continue
        if ratio > bound and (size is None or size < most):
            open_s.setdefault(sample.metric, at_s)
        elif (since_s := open_s.pop(sample.metric, None)) is not None and not open_s:
            yield since_s, at_s, None
    if open_s:
        yield min(open_s.values()), timeline.last_s, None


def _size_at(timeline: Timeline, at_s: float) -> int | None:
    before = [made.after for made in timeline.decisions if made.time_s <= at_s]
    if before:
        return before[-1]
    return timeline.decisions[0].before if timeline.decisions else timeline.size


def _scaled_to_what_was_predicted(timeline: Timeline, past: History, expect: Expectation) -> Criterion:
    code = "scaled_to_prediction"
    if not past.scale_outs:
        if expect.peak_replicas and expect.peak_replicas[0] > (timeline.size or 0):
            return Criterion(
                code, "fail", f"never scaled out; predicted a peak of {_range(expect.peak_replicas)} replicas"
            )
        return Criterion(code, "not_judged", "no scale-out was seen")
    peak = max(out.after for out in past.scale_outs)
    spec = timeline.hpa.get("spec") or {}
    figures: dict[str, Any] = {
        "peak_replicas": peak,
        "hpa_max": spec.get("maxReplicas"),
        "predicted": expect.peak_replicas,
    }
    for asked, have, name in (
        (expect.max_replicas, spec.get("maxReplicas"), "maxReplicas"),
        (expect.min_replicas, spec.get("minReplicas", 1), "minReplicas"),
    ):
        if asked is not None and have is not None and asked != have:
            return Criterion(
                code, "fail", f"the HPA has {name} {have}; the recommendation says {asked}", figures
            )
    if expect.peak_replicas is None:
        return Criterion(
            code, "not_judged", f"reached {peak} replicas; no prediction of the peak to compare with", figures
        )
    low, high = expect.peak_replicas
    inside = low <= peak <= high
    return Criterion(
        code,
        "pass" if inside else "fail",
        f"reached {peak} replicas; predicted {_range(expect.peak_replicas)}",
        figures,
    )


def _became_ready(past: History, expect: Expectation) -> Criterion:
    code = "became_ready"
    if not past.scale_outs:
        return Criterion(code, "not_judged", "no scale-out was seen")
    waits = [out.ready_s - out.decided_s for out in past.scale_outs]
    stuck = [out for out, wait in zip(past.scale_outs, waits, strict=True) if math.isnan(wait)]
    figures = {"decision_to_ready_s": as_dict(waits), "predicted_s": expect.ready_s}
    if stuck:
        out = stuck[0]
        last = out.phases[-1]
        why = "; ".join(filter(None, (last.note, *out.notes)))
        return Criterion(
            code,
            "fail",
            f"{out.before} -> {out.after}: not all replicas became ready; stuck in {last.name} for {last.seconds:.0f} s"
            + (f" ({why})" if why else ""),
            figures,
        )
    if expect.ready_s and max(waits) > expect.ready_s[1]:
        return Criterion(
            code, "fail", f"ready after {max(waits):.0f} s; predicted {_range(expect.ready_s)} s", figures
        )
    return Criterion(
        code, "pass", f"every new replica was ready {max(waits):.1f} s after its decision or sooner", figures
    )


def _own_nodes(past: History) -> Criterion:
    code = "group_on_own_nodes"
    groups = [unit for unit in past.replicas if unit.size > 1 and all(pod.node for pod in unit.pods)]
    if not groups:
        return Criterion(code, "not_judged", "no scheduled group of several pods was seen")
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


def _share(timeline: Timeline, past: History) -> Criterion:
    code = "new_replica_gets_its_share"
    fresh = [(out, unit) for out in past.scale_outs for unit in out.replicas if not math.isnan(unit.ready_s)]
    if not fresh:
        return Criterion(code, "not_judged", "no new replica became ready")
    shares = {unit.name: _share_after(timeline, past, out, unit.leader.name) for out, unit in fresh}
    known = {name: share for name, share in shares.items() if share is not None}
    if not known:
        return Criterion(code, "not_judged", "requests per replica were not seen while there was load")
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
    None when the scale-in is decided before that, and when it has little and no new request is seen to arrive: a queue
    that only drains says nothing about routing.
    """
    unit = next(u for u in out.replicas if u.leader.name == name)
    stop_s = min([s.decided_s for s in past.scale_ins if s.decided_s > unit.ready_s], default=timeline.last_s)
    if stop_s < min(unit.ready_s + PINNED_AFTER_S, timeline.last_s):
        return None
    from_s = min(unit.ready_s + PINNED_AFTER_S, (unit.ready_s + stop_s) / 2)
    if from_s < out.absorbed_s <= stop_s - PINNED_AFTER_S:  # false for NaN: the next decision came first
        from_s = out.absorbed_s
    own, everyone, seen, arrivals = 0.0, 0.0, 0, False
    before: dict[str, float] = {}
    for at_s, values in rounds(timeline, past.gauges, [u.leader.name for u in past.replicas]):
        if from_s <= at_s <= stop_s and len(values) > 1 and name in values:
            arrivals |= any(value > before.get(pod, math.inf) for pod, value in values.items())
            before = values
            own += values[name]
            everyone += sum(values.values()) / len(values)
            seen += 1
    if not seen or not everyone:
        return None
    return own / everyone if arrivals or own >= FAIR_SHARE * everyone else None


def _slo_recovered(past: History, expect: Expectation) -> Criterion:
    code = "slo_recovered"
    if past.requests_in_breach is None:
        return Criterion(code, "not_judged", "needs requests and an SLO")
    figures: dict[str, Any] = {
        "requests_in_breach": past.requests_in_breach,
        "predicted_s": expect.recovery_s,
    }
    if past.requests_in_breach == 0:
        return Criterion(code, "pass", "the SLO held throughout: no request was in breach", figures)
    if not past.scale_outs:
        return Criterion(
            code,
            "fail",
            f"{past.requests_in_breach} requests were in breach and nothing was scaled out",
            figures,
        )
    took = [
        out.slo_back_s - out.phases[0].start_s for out in past.scale_outs if not math.isnan(out.slo_back_s)
    ]
    figures["recovery_s"] = took
    lasting = past.scale_outs[-1]
    if not took or (lasting.requests_in_breach and math.isnan(lasting.slo_back_s)):
        return Criterion(
            code,
            "fail",
            f"{past.requests_in_breach} requests in breach; the SLO was not seen to hold again",
            figures,
        )
    if expect.recovery_s and max(took) > expect.recovery_s[1]:
        return Criterion(
            code,
            "fail",
            f"the SLO held again after {max(took):.0f} s; predicted {_range(expect.recovery_s)} s",
            figures,
        )
    against = (
        f"; predicted {_range(expect.recovery_s)} s"
        if expect.recovery_s
        else "; no prediction to compare with"
    )
    return Criterion(
        code,
        "pass",
        f"{past.requests_in_breach} requests in breach, then the SLO held again after {max(took):.0f} s{against}",
        figures,
    )


def _no_flapping(timeline: Timeline, expect: Expectation) -> Criterion:
    code = "no_flapping"
    if not timeline.decisions:
        return Criterion(code, "not_judged", "no decision was seen")
    pairs = [
        pair
        for pair in pairwise(flaps(timeline.decisions, FLAP_WITHIN_S))
        if pair[0][1] == pair[1][0]  # out, in, out (or the reverse), each soon after the other
    ]
    allowed = int(expect.flaps[1]) if expect.flaps else 0
    figures = {"flaps": len(pairs), "allowed": allowed, "decisions": len(timeline.decisions)}
    if len(pairs) > allowed:
        (first, second), (_, third) = pairs[0]
        return Criterion(
            code,
            "fail",
            f"{first.before} -> {first.after} -> {second.after} -> {third.after} within {third.time_s - first.time_s:.0f} s: "
            "lengthen behavior.scaleDown.stabilizationWindowSeconds",
            figures,
        )
    return Criterion(
        code, "pass", f"{len(timeline.decisions)} decisions, none taken back twice within 10 minutes", figures
    )


def _no_waste(past: History, expect: Expectation) -> Criterion:
    code = "no_wasted_replica"
    fresh = [unit for out in past.scale_outs for unit in out.replicas]
    if not fresh:
        return Criterion(code, "not_judged", "no new replica was seen")
    wasted = [u for u in fresh if not math.isnan(u.deleting_s) and not u.ready_s < u.deleting_s]
    allowed = int(expect.wasted_scale_outs[1]) if expect.wasted_scale_outs else 0
    held_s = sum((u.deleting_s - u.leader.created_s) * u.accelerators for u in wasted)
    figures = {"wasted": [u.name for u in wasted], "accelerator_seconds": held_s, "allowed": allowed}
    if len(wasted) > allowed:
        return Criterion(
            code,
            "fail",
            f"{len(wasted)} of {len(fresh)} new replicas were removed before they were ready "
            f"({held_s / 3600:.2f} accelerator hours): the start takes longer than the scale-down window",
            figures,
        )
    return Criterion(
        code,
        "pass",
        f"{len(fresh) - len(wasted)} of {len(fresh)} new replicas got to serve or still start",
        figures,
    )


def _nothing_cut(past: History) -> Criterion:
    code = "no_request_lost_at_scale_in"
    if not past.scale_ins:
        return Criterion(code, "not_judged", "no scale-in was seen")
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
            code, "fail", f"replicas were removed with {sum(busy)} requests still in them", figures
        )
    return Criterion(
        code, "not_judged", "needs the requests, or the metrics of the removed replicas", figures
    )


# --- small helpers -----------------------------------------------------------------------------------------------------


def _policy_wait_s(timeline: Timeline) -> float:
    """A rate policy may hold the next step back for its period; the default ones wait one sync at most."""
    periods = Hpa(timeline.hpa).policy_periods_s("scaleUp")
    return max([period for period in periods if period > 15], default=0.0)


def _range(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
