"""Whether the HPA decided as soon as its metric asked for more replicas."""

from __future__ import annotations

import math
from collections.abc import Iterable

from autoscale.check.criteria.criterion import MORE_LOAD, Criterion
from autoscale.check.detection import STATUS_LAG_S, excess
from autoscale.check.timeline import Timeline
from autoscale.kube.scaler import Hpa

SYNC_S = 15.2  # measured: syncs drift between 15.00 and 15.2 s
PATIENCE_SYNCS = 2  # one sync may read the value just before it rose


def scaled_when_it_should(timeline: Timeline) -> Criterion:
    """Decided within two syncs and the HPA's own windows."""
    code = "scaled_when_it_should"
    hindered = timeline.hindrance.now()
    if not timeline.hpa or not timeline.samples:
        why = hindered or "no value of the HPA's metric was seen"
        return Criterion(
            code,
            "not_judged",
            why,
            proof="see that the metric arrives: `autoscale lint`, and the findings above",
        )
    spans = list(excess_spans(timeline))
    told_by = ("custommetrics", *timeline.sizing)
    seen = [span for span in spans if not timeline.hidden(told_by, *span[:2])]
    if not hindered and not seen and (blind := timeline.hidden(told_by)):
        why = f"whether the metric asked for replicas cannot be told: {blind}"
        return Criterion(
            code, "not_judged", why, proof="check again while the metrics API answers throughout"
        )
    spans = seen
    if not spans:
        return _never_asked(timeline, hindered)
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
        why = hindered or "the metric stood above its target too briefly to ask for a decision"
        return Criterion(code, "not_judged", why, figures, MORE_LOAD)
    return Criterion(
        code,
        "pass",
        f"{len(decided)} decisions came within {max(decided):.1f} s of the metric asking for them",
        figures,
    )


def _never_asked(timeline: Timeline, hindered: str) -> Criterion:
    """Its metric was never seen above its target."""
    code = "scaled_when_it_should"
    early = [made for made in timeline.decisions if made.by_hpa and made.after > made.before]
    if early:
        return Criterion(
            code,
            "not_judged",
            f"the HPA scaled out {len(early)} times, but its metric was not seen above the target before",
            proof="begin the check before the load",
        )
    if timeline.decisions and not hindered:
        return Criterion(code, "not_asked", "the metric never stood above its target")
    why = hindered or "the metric never stood above its target: nothing had to happen"
    return Criterion(code, "not_judged", why, proof=MORE_LOAD)


def excess_spans(timeline: Timeline) -> Iterable[tuple[float, float, float | None]]:
    """(from_s, to_s, decided_s or None) of the times when some metric asked for more replicas than the target had.

    Pods without a value count as zero, as they do for the HPA; at maxReplicas nothing more can be asked.
    """
    bound = 1 + Hpa(timeline.hpa).tolerance("scaleUp")
    most = Hpa(timeline.hpa).max_replicas
    end_s = timeline.last_s if math.isnan(hindered_s := timeline.hindrance.since_s) else hindered_s
    pending = [made for made in timeline.decisions if made.after > made.before]
    open_s: dict[str, float] = {}
    for sample in [*timeline.samples, None]:
        at_s = min(sample.time_s, end_s) if sample else end_s
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
        yield min(open_s.values()), end_s, None


def _size_at(timeline: Timeline, at_s: float) -> int | None:
    before = [made.after for made in timeline.decisions if made.time_s <= at_s]
    if before:
        return before[-1]
    return timeline.decisions[0].before if timeline.decisions else timeline.size


def _policy_wait_s(timeline: Timeline) -> float:
    """A rate policy may hold the next step back for its period; the default ones wait one sync at most."""
    periods = Hpa(timeline.hpa).policy_periods_s("scaleUp")
    return max([period for period in periods if period > 15], default=0.0)
