"""The verdict: one criterion at a time, each with its evidence. Pure: a timeline and its history in, answers out.

An outcome is `pass`, `fail`, `not_judged` (asked, but it could not be told: never a pass) or `not_asked` (it does not
concern this check).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from autoscale.check.criteria.criterion import MORE_LOAD, Criterion, span_text
from autoscale.check.criteria.prediction import (
    decided_as_predicted,
    hpa_as_recommended,
    requests_in_bounds,
    scaled_to_prediction,
)
from autoscale.check.criteria.promptness import scaled_when_it_should
from autoscale.check.criteria.service import nothing_cut, own_nodes, slo_recovered, traffic_share
from autoscale.check.expectation import Expectation
from autoscale.check.figures import Figures, figures_of, taken_back, waits_s, wasted
from autoscale.check.phases import end_s
from autoscale.check.scaleout import History, as_dict
from autoscale.check.timeline import Timeline

Verdict = Literal["PASSED", "NOT PASSED", "NOT PROVEN"]
OF_A_SCALE_OUT = (
    "scaled_when_it_should",
    "decided_as_predicted",
    "became_ready",
    "new_replica_gets_its_share",
    "no_flapping",
    "no_wasted_replica",
)


@dataclass(frozen=True)
class Judgement:
    """What the check answers, criterion by criterion."""

    history: History
    criteria: tuple[Criterion, ...]
    figures: Figures = field(default_factory=Figures)
    expect: Expectation | None = None

    @property
    def verdict(self) -> Verdict:
        """NOT PASSED when a criterion failed; PASSED when all that were asked were judged, one at least; else NOT PROVEN."""
        outcomes = {criterion.outcome for criterion in self.criteria}
        if "fail" in outcomes:
            return "NOT PASSED"
        return "PASSED" if "pass" in outcomes and "not_judged" not in outcomes else "NOT PROVEN"

    def of(self, outcome: str) -> list[Criterion]:
        """The criteria with that outcome."""
        return [criterion for criterion in self.criteria if criterion.outcome == outcome]

    def as_dict(self) -> dict[str, object]:
        """Everything as JSON can hold it; times in unix seconds."""
        return {
            "verdict": self.verdict,
            **as_dict(self.history),
            "figures": as_dict(self.figures),
            "expectation": None if self.expect is None else as_dict(self.expect),
            "criteria": as_dict(self.criteria),
        }


def judge(timeline: Timeline, past: History, expect: Expectation | None = None) -> Judgement:
    """Every criterion that the issue of a scale-out raises, in the order in which a reader asks."""
    seen = figures_of(timeline, past)
    sizes, pods = timeline.hidden(timeline.sizing), timeline.hidden(("pods",))
    starts = [
        timeline.hidden(("pods",), out.decided_s, end_s(out.phases, out.ready_s)) for out in past.scale_outs
    ]
    criteria: tuple[Criterion, ...] = (
        hpa_as_recommended(timeline, expect),
        scaled_when_it_should(timeline),
        decided_as_predicted(seen, expect),
        _seen(scaled_to_prediction(seen, expect), sizes),
        _seen(_became_ready(past, expect), next(filter(None, starts), "")),
        own_nodes(past),
        traffic_share(timeline, past),
        _of_the_server(requests_in_bounds(seen, past.requests, expect), past),
        _of_the_server(slo_recovered(past, seen, expect), past),
        _seen(_no_flapping(timeline, expect), sizes, fail_stands=True),
        _seen(_no_waste(past, expect), pods, fail_stands=True),
        nothing_cut(past),
    )
    if _calm(past, seen, expect):
        criteria = tuple(map(_not_asked, criteria))
    return Judgement(past, criteria, seen, expect)


def _calm(past: History, seen: Figures, expect: Expectation | None) -> bool:
    """Whether nothing was scaled out, and nothing was predicted to be."""
    if past.scale_outs or expect is None or expect.peak_replicas is None:
        return False
    return expect.peak_replicas[0] <= seen.peak_replicas


def _not_asked(criterion: Criterion) -> Criterion:
    if criterion.outcome != "not_judged" or criterion.code not in OF_A_SCALE_OUT:
        return criterion
    said = f"{criterion.sentence}, and none was predicted for this load"
    return replace(criterion, outcome="not_asked", sentence=said, proof="")


def _seen(judged: Criterion, blind: str, *, fail_stands: bool = False) -> Criterion:
    """The criterion, not judged where what it rests on was not seen; `fail_stands`: what was seen is enough to fail."""
    if (
        not blind
        or judged.outcome in ("not_judged", "not_asked")
        or (fail_stands and judged.outcome == "fail")
    ):
        return judged
    proof = "check again while the API server answers throughout"
    return replace(judged, outcome="not_judged", sentence=f"cannot be told: {blind}", proof=proof)


def _of_the_server(judged: Criterion, past: History) -> Criterion:
    """The criterion, not failed where the load generator was the limit itself."""
    if judged.outcome != "fail" or not past.client_limited:
        return judged
    said = f"{judged.sentence}; but the load generator was the limit itself, by its own verdict"
    return replace(
        judged, outcome="not_judged", sentence=said, proof="send the load from a machine with idle cores"
    )


# --- criteria ----------------------------------------------------------------------------------------------------------


def _became_ready(past: History, expect: Expectation | None) -> Criterion:
    code = "became_ready"
    if not past.scale_outs:
        return Criterion(code, "not_judged", "no scale-out was seen", proof=MORE_LOAD)
    waits = waits_s(past)
    predicted = expect.ready_s if expect else None
    stuck = [out for out, wait in zip(past.scale_outs, waits, strict=True) if math.isnan(wait)]
    figures = {"decision_to_ready_s": as_dict(waits), "predicted_s": predicted}
    if stuck:
        out = stuck[0]
        last = out.phases[-1]
        why = "; ".join(filter(None, (last.note, *out.notes)))
        so_far = f"stuck in {last.name} for {last.so_far_s:.0f} s so far" + (f" ({why})" if why else "")
        said = f"{out.before} -> {out.after}: not all replicas became ready; {so_far}"
        if predicted and _timely(past, predicted[1]):
            return Criterion(
                code, "not_judged", said, figures, "watch for longer: --timeout, and a longer load"
            )
        return Criterion(code, "fail", said, figures)
    if predicted is None:
        told = f"every new replica was ready {max(waits):.1f} s after its decision or sooner"
        if expect is not None:
            return Criterion(code, "not_judged", f"{told}; {expect.why_not}", figures, expect.proof)
        return Criterion(code, "pass", told, figures)
    said = f"ready {max(waits):.0f} s after the decision at the latest; predicted {span_text(predicted, '.0f')} s"
    return Criterion(code, "pass" if max(waits) <= predicted[1] else "fail", said, figures)


def _timely(past: History, within_s: float) -> bool:
    """Whether all that has not become ready had less time for it than that."""
    open_ = [out for out in past.scale_outs if math.isnan(out.ready_s)]
    return all(
        out.phases[-1].open and out.phases[-1].watched_s - out.decided_s < within_s and not out.notes
        for out in open_
    )


def _no_flapping(timeline: Timeline, expect: Expectation | None) -> Criterion:
    code = "no_flapping"
    if not timeline.decisions:
        return Criterion(code, "not_judged", "no decision was seen", proof=MORE_LOAD)
    pairs = taken_back(timeline.decisions)
    allowed = int(expect.flaps[1]) if expect and expect.flaps else 0
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


def _no_waste(past: History, expect: Expectation | None) -> Criterion:
    code = "no_wasted_replica"
    fresh = [unit for out in past.scale_outs for unit in out.replicas]
    if not fresh:
        return Criterion(code, "not_judged", "no new replica was seen", proof=MORE_LOAD)
    vain = wasted(past)
    allowed = int(expect.wasted_scale_outs[1]) if expect and expect.wasted_scale_outs else 0
    held_s = sum((u.deleting_s - u.leader.created_s) * u.accelerators for u in vain)
    figures = {"wasted": [u.name for u in vain], "accelerator_seconds": held_s, "allowed": allowed}
    if len(vain) > allowed:
        return Criterion(
            code,
            "fail",
            f"{len(vain)} of {len(fresh)} new replicas were removed before they were ready "
            f"({held_s / 3600:.2f} accelerator hours): the start takes longer than the scale-down window",
            figures,
        )
    return Criterion(
        code,
        "pass",
        f"{len(fresh) - len(vain)} of {len(fresh)} new replicas got to serve or still start",
        figures,
    )
