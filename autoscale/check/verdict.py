"""The verdict: one criterion at a time, each with its evidence. Pure: a timeline and its history in, answers out.

An outcome is `pass`, `fail` or `not_judged`; what could not be seen is never a pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from autoscale.check.criteria.criterion import Criterion, span_text
from autoscale.check.criteria.promptness import scaled_when_it_should
from autoscale.check.criteria.service import nothing_cut, own_nodes, slo_recovered, traffic_share
from autoscale.check.expectation import Expectation
from autoscale.check.phases import end_s
from autoscale.check.scaleout import History, as_dict, flaps
from autoscale.check.timeline import Timeline

FLAP_WITHIN_S = 600.0


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

    def as_dict(self) -> dict[str, object]:
        """Everything as JSON can hold it; times in unix seconds."""
        return {"passed": self.passed, **as_dict(self.history), "criteria": as_dict(self.criteria)}


def judge(timeline: Timeline, past: History, expect: Expectation | None = None) -> Judgement:
    """Every criterion that the issue of a scale-out raises, in the order in which a reader asks."""
    expect = expect or Expectation()
    sizes, pods = timeline.hidden(timeline.sizing), timeline.hidden(("pods",))
    starts = [
        timeline.hidden(("pods",), out.decided_s, end_s(out.phases, out.ready_s)) for out in past.scale_outs
    ]
    return Judgement(
        past,
        (
            scaled_when_it_should(timeline),
            _seen(_scaled_to_what_was_predicted(timeline, past, expect), sizes),
            _seen(_became_ready(past, expect), next(filter(None, starts), "")),
            own_nodes(past),
            traffic_share(timeline, past),
            slo_recovered(past, expect),
            _seen(_no_flapping(timeline, expect), sizes, fail_stands=True),
            _seen(_no_waste(past, expect), pods, fail_stands=True),
            nothing_cut(past),
        ),
    )


def _seen(judged: Criterion, blind: str, *, fail_stands: bool = False) -> Criterion:
    """The criterion, not judged where what it rests on was not seen; `fail_stands`: what was seen is enough to fail."""
    if not blind or judged.outcome == "not_judged" or (fail_stands and judged.outcome == "fail"):
        return judged
    return replace(judged, outcome="not_judged", sentence=f"cannot be told: {blind}")


# --- criteria ----------------------------------------------------------------------------------------------------------


def _scaled_to_what_was_predicted(timeline: Timeline, past: History, expect: Expectation) -> Criterion:
    code = "scaled_to_prediction"
    if not past.scale_outs:
        if expect.peak_replicas and expect.peak_replicas[0] > (timeline.size or 0):
            return Criterion(
                code,
                "fail",
                f"never scaled out; predicted a peak of {span_text(expect.peak_replicas)} replicas",
            )
        return Criterion(code, "not_judged", "no scale-out was seen")
    peak = max(out.after for out in past.scale_outs)
    spec = timeline.hpa.get("spec") or {}
    figures: dict[str, object] = {
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
        f"reached {peak} replicas; predicted {span_text(expect.peak_replicas)}",
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
            f"{out.before} -> {out.after}: not all replicas became ready; stuck in {last.name} for {last.so_far_s:.0f} s so far"
            + (f" ({why})" if why else ""),
            figures,
        )
    if expect.ready_s and max(waits) > expect.ready_s[1]:
        return Criterion(
            code, "fail", f"ready after {max(waits):.0f} s; predicted {span_text(expect.ready_s)} s", figures
        )
    return Criterion(
        code, "pass", f"every new replica was ready {max(waits):.1f} s after its decision or sooner", figures
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
