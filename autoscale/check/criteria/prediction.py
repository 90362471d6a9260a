"""Whether things went as the recommendation predicts for this load: the HPA, its decisions, replicas, requests in bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator

from analysis.numbers import known
from autoscale.check.criteria.criterion import MORE_LOAD, Criterion, span_text
from autoscale.check.criteria.promptness import SYNC_S
from autoscale.check.expectation import Expectation
from autoscale.check.figures import Figures
from autoscale.check.timeline import Timeline
from autoscale.kube.scaler import Hpa

SLOWER = 1.1  # what a client adds to a time per token, at most
NO_EXPECTATION = "no recommendation to compare with"


def hpa_as_recommended(timeline: Timeline, expect: Expectation | None) -> Criterion:
    """The HPA in place has the recommended targets, bounds and windows."""
    code = "hpa_as_recommended"
    if expect is None:
        return Criterion(code, "not_asked", NO_EXPECTATION)
    if not timeline.hpa:
        return Criterion(
            code, "not_judged", "the HPA was not seen", proof="watch the namespace in which it is"
        )
    differing = list(_differing(Hpa(timeline.hpa), expect))
    if not differing:
        return Criterion(code, "pass", "the HPA has the recommended targets, bounds and windows")
    said = "; ".join(f"{name} {have}, recommended {want}" for name, have, want in differing)
    figures = {name: {"in_place": have, "recommended": want} for name, have, want in differing}
    return Criterion(code, "fail", f"the HPA has {said}: apply the recommended hpa.yaml", figures)


def _differing(have: Hpa, expect: Expectation) -> Iterator[tuple[str, object, object]]:
    for name, there, asked in (
        ("minReplicas", have.min_replicas, expect.min_replicas),
        ("maxReplicas", have.max_replicas, expect.max_replicas),
    ):
        if asked is not None and there != asked:
            yield name, there, asked
    if expect.hpa is None:
        return
    want = Hpa(expect.hpa)
    targets, asked_targets = have.signal_targets(), want.signal_targets()
    for signal in sorted({*targets, *asked_targets}):
        if targets.get(signal) != asked_targets.get(signal):
            yield f"target of {signal}", targets.get(signal, "none"), asked_targets.get(signal, "none")
    if have.window_s("scaleUp") != want.window_s("scaleUp"):
        yield "a scale-up window of (s)", have.window_s("scaleUp"), want.window_s("scaleUp")
    if have.window_s("scaleDown") != want.window_s("scaleDown"):
        yield "a scale-down window of (s)", have.window_s("scaleDown"), want.window_s("scaleDown")


def _unpredicted(code: str, expect: Expectation | None, seen: str) -> Criterion:
    """Nothing was asked, or what was asked is not predicted for this load."""
    if expect is None:
        return Criterion(code, "not_asked", f"{seen}; {NO_EXPECTATION}")
    return Criterion(code, "not_judged", f"{seen}; {expect.why_not}", proof=expect.proof)


def scaled_to_prediction(seen: Figures, expect: Expectation | None) -> Criterion:
    """The peak lies in the predicted interval."""
    code, peak = "scaled_to_prediction", seen.peak_replicas
    if not known(peak):
        return Criterion(
            code, "not_judged", "the size of the target was not seen", proof="let the check read it"
        )
    if expect is None or expect.peak_replicas is None:
        return _unpredicted(code, expect, f"reached {peak:g} replicas")
    low, high = expect.peak_replicas
    figures = {"peak_replicas": peak, "predicted": expect.peak_replicas}
    said = f"reached {peak:g} replicas; predicted {span_text(expect.peak_replicas)}"
    return Criterion(code, "pass" if low <= peak <= high else "fail", said, figures)


def decided_as_predicted(seen: Figures, expect: Expectation | None) -> Criterion:
    """The slowest decision came as soon after its metric as predicted, to one sync."""
    code, took = "decided_as_predicted", seen.decision_s
    if not known(took):
        if expect is None or (expect.peak_replicas and expect.peak_replicas[1] <= (seen.peak_replicas or 0)):
            return Criterion(code, "not_asked", "no decision of the HPA was seen")
        return Criterion(code, "not_judged", "no decision of the HPA was seen", proof=MORE_LOAD)
    said = f"decided {took:.0f} s after the metric rose above its target, at the latest"
    if expect is None or expect.decision_s is None:
        return _unpredicted(code, expect, said)
    figures = {"decision_s": took, "predicted_s": expect.decision_s}
    inside = took <= expect.decision_s[1] + SYNC_S
    return Criterion(
        code,
        "pass" if inside else "fail",
        f"{said}; predicted {span_text(expect.decision_s, '.0f')} s",
        figures,
    )


def requests_in_bounds(seen: Figures, requests: int | None, expect: Expectation | None) -> Criterion:
    """At least as many requests kept every bound as predicted."""
    code, share = "requests_in_bounds", seen.slo_attainment
    if not known(share):
        asked = "not_asked" if expect is None else "not_judged"
        why = "no request of the load was seen, or no SLO is known"
        return Criterion(code, asked, why, proof="send the load with --load, and name --slo")  # type: ignore[arg-type]
    said = f"{share:.1%} of {requests:,} requests kept every bound"
    if expect is None or expect.slo_attainment is None:
        return _unpredicted(code, expect, said)
    low, high = expect.slo_attainment
    figures = {"slo_attainment": share, "predicted": expect.slo_attainment}
    predicted = f"{said}; predicted {span_text((100 * low, 100 * high), '.1f')} %"
    if share >= low:
        return Criterion(code, "pass", predicted + (": better than that" if share > high else ""), figures)
    return Criterion(code, "fail", f"{predicted}; {_why_fewer(seen, expect)}", figures)


def _why_fewer(seen: Figures, expect: Expectation) -> str:
    """Whether the replicas were slower than measured, or requests waited for them."""
    if expect.tpot_s is None or not known(seen.tpot_s):
        return "the time per token is not known"
    times = f"TPOT p50 {1e3 * seen.tpot_s:.0f} ms, predicted {span_text(_in_ms(expect.tpot_s), '.0f')} ms"
    if seen.tpot_s > SLOWER * expect.tpot_s[1]:
        return f"fewer or slower replicas than predicted served them: {times}"
    return f"they waited for a replica, and were then served as fast as predicted: {times}"


def _in_ms(interval: tuple[float, float]) -> tuple[float, float]:
    return 1e3 * interval[0], 1e3 * interval[1]


def recovered_as_predicted(code: str, seen: Figures, expect: Expectation | None, said: str) -> Criterion:
    """What is said of a broken SLO against the predicted time until it held again."""
    took = seen.recovery_s
    figures = {"recovery_s": took, "predicted_s": expect.recovery_s if expect else None}
    lasting = math.isinf(took)
    if expect is None or expect.recovery_s is None:
        if lasting:
            return Criterion(code, "fail", f"{said}; the SLO was not seen to hold again", figures)
        open_ = _unpredicted(code, expect, f"{said}; it held again after {took:.0f} s")
        return open_ if expect else Criterion(code, "pass", open_.sentence, figures)
    told = "not seen to hold again" if lasting else f"held again after {took:.0f} s"
    sentence = f"{said}; the SLO {told}; predicted {span_text(expect.recovery_s, '.0f')} s after it broke"
    if lasting and math.isinf(expect.recovery_s[1]):
        return Criterion(
            code, "not_judged", sentence, figures, "watch for longer: --timeout, and a longer load"
        )
    return Criterion(code, "pass" if took <= expect.recovery_s[1] else "fail", sentence, figures)
