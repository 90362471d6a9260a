"""The words of a check, the same on the terminal and on its page."""

from __future__ import annotations

import math

from autoscale.check import CheckResult, Expectation, Figures
from autoscale.check.criteria.criterion import QUESTIONS, span_text
from autoscale.show.words import DASH, counted

MARKS = {"pass": "ok", "fail": "FAIL", "not_judged": "not judged", "not_asked": "not asked"}
_FIGURES: tuple[tuple[str, str, float, str], ...] = (  # figure, what it is, factor, number format
    ("peak_replicas", "replicas at the peak", 1, ".0f"),
    ("decision_s", "metric above target to decision, at most (s)", 1, ".0f"),
    ("ready_s", "decision to ready, at most (s)", 1, ".0f"),
    ("slo_attainment", "requests that kept every bound (%)", 100, ".1f"),
    ("recovery_s", "SLO broken to holding again (s)", 1, ".0f"),
    ("tpot_s", "TPOT, median (ms)", 1e3, ".0f"),
    ("wasted_scale_outs", "replicas started in vain", 1, ".0f"),
    ("flaps", "decisions taken back", 1, ".0f"),
)


def verdict_sentences(result: CheckResult) -> list[str]:
    """Why the verdict is what it is: what failed, else what could not be judged, else what was proven."""
    judgement = result.judgement
    found = [f"{QUESTIONS[each.code]}: {each.sentence}." for each in judgement.of("fail")]
    found += [finding.cause for finding in result.findings if finding.severity == "error"]
    if found:
        return found
    open_ = judgement.of("not_judged")
    if open_:
        return [f"{QUESTIONS[each.code]}: not judged, {each.sentence}." for each in open_]
    if not judgement.of("pass"):
        return ["Nothing happened that could be judged."]
    judged = counted(len(judgement.of("pass")), "criterion").replace("criterions", "criteria")
    if judgement.expect is None:
        return [f"All that was asked was met: {judged}. Not compared with a prediction: --expect does."]
    return [f"As predicted: {judged} met, none failed, none left open."]


def told_in(rate: float) -> str:
    """Which clock the times are on; "" for the wall's."""
    return (
        ""
        if rate == 1
        else f"simulated seconds, {rate:g} of them in one true second; latencies are true seconds"
    )


def clock_words(rate: float) -> str:
    """What an axis of time shows."""
    return "time" if rate == 1 else "simulated time"


def seen_and_predicted(seen: Figures, expect: Expectation | None) -> list[tuple[str, str, str]]:
    """Figure, what was seen, the interval predicted; nothing without a prediction."""
    if expect is None:
        return []
    rows = []
    for name, label, factor, form in _FIGURES:
        predicted = getattr(expect, name)
        interval = (
            DASH if predicted is None else span_text((factor * predicted[0], factor * predicted[1]), form)
        )
        rows.append((label, _seen(factor * getattr(seen, name), form), interval))
    return rows


def _seen(value: float, form: str) -> str:
    if math.isnan(value):
        return DASH
    return "not within the watch" if math.isinf(value) else format(value, form)
