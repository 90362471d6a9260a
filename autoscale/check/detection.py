"""When the HPA's metric rose above its target, when it came back, and when the load that did it began."""

from __future__ import annotations

import math

from analysis.numbers import known
from autoscale.check.client_view import ClientView
from autoscale.check.records import NAN, MetricSample
from autoscale.check.routing import ReplicaGauges
from autoscale.check.timeline import Timeline
from autoscale.kube.scaler import Hpa

STATUS_LAG_S = (
    1.0  # the HPA writes its status this long after it decided: the value shown is the one decided on
)


FIRST_QUEUE = "from the first queue that a replica reported"
AT_MOST = "at most: the load's start is not known, only the last sample under the target"


def excess(timeline: Timeline, sample: MetricSample, size: int | None) -> float:
    """usage / target of a sample with replicas that report nothing counted as zero, as the HPA does upward; NaN: unknown.

    A pod that does not run yet has no usage for the HPA, whatever the metrics API answers for it.
    """
    target = timeline.targets_milli().get(sample.metric)
    if not target or math.isnan(sample.usage_milli):
        return NAN
    if not sample.values_milli:
        return sample.usage_milli / target
    running = [v for pod, v in sample.values_milli.items() if timeline.ran(pod, sample.time_s)]
    counted = max(len(running), size or 0)
    return sum(running) / counted / target if counted else NAN


def detection(timeline: Timeline, floor_s: float, decided_s: float, size: int) -> tuple[float, float]:
    """(when the metric was first visible above its target without pause until the decision, last time it was not).

    Only after `floor_s`, the decision before, which made the target `size` replicas: where the metric asked for still
    more at once, that is `floor_s` itself. Replicas without a value count as zero, as they do for the HPA.
    """
    bound = 1 + Hpa(timeline.hpa).tolerance("scaleUp")
    seen: dict[str, tuple[float, float]] = {}
    with_values = {sample.metric for sample in timeline.samples if sample.values_milli}
    for sample in timeline.samples:
        if sample.time_s > decided_s + STATUS_LAG_S or (
            sample.values_milli is None and sample.metric in with_values
        ):
            continue
        ratio = excess(timeline, sample, size)
        first_s, below_s = seen.get(sample.metric, (NAN, NAN))
        if ratio > bound:
            seen[sample.metric] = (sample.time_s if math.isnan(first_s) else first_s, below_s)
        elif not math.isnan(ratio):
            seen[sample.metric] = (NAN, sample.time_s)
    above = [pair for pair in seen.values() if not math.isnan(pair[0])]
    if not above:
        return NAN, NAN
    first_s, below_s = min(above)
    return min(max(first_s, floor_s), decided_s), below_s


def absorption(timeline: Timeline, ready_s: float, until_s: float) -> float:
    """When every metric was back at or under its target after the new replicas were ready; NaN when not before `until_s`.

    Between two samples the crossing is placed by a straight line: a queue drains at a steady rate. Where the load
    keeps a metric between target and tolerance for good, entering the tolerance counts.
    """
    if math.isnan(ready_s):
        return NAN
    for bound in (1.0, 1 + Hpa(timeline.hpa).tolerance("scaleUp")):
        back = [_crossing(timeline, metric, bound, ready_s, until_s) for metric in timeline.targets_milli()]
        seen = [moment for moment in back if moment is not None]
        if seen and not any(math.isnan(moment) for moment in seen):
            return max(seen)
    return NAN


def _crossing(timeline: Timeline, metric: str, bound: float, from_s: float, until_s: float) -> float | None:
    rows = [(s.time_s, excess(timeline, s, None)) for s in timeline.samples if s.metric == metric]
    rows = sorted((t, r) for t, r in rows if not math.isnan(r) and t <= until_s)
    last: tuple[float, float] | None = None
    for time_s, ratio in rows:
        if time_s >= from_s and ratio <= bound:
            if last is None or last[1] <= bound:
                return max(from_s, last[0] if last else time_s)
            share = (last[1] - bound) / (last[1] - ratio)
            return max(from_s, last[0] + share * (time_s - last[0]))
        last = (time_s, ratio)
    return NAN if rows else None


def load_start(
    load: ClientView,
    gauges: ReplicaGauges | None,
    timeline: Timeline,
    floor_s: float,
    detected_s: float,
    below_s: float,
) -> tuple[float, str]:
    if math.isnan(detected_s):
        return timeline.decisions[0].time_s if math.isnan(
            floor_s
        ) else floor_s, "the metric was not seen above its target"
    if changed := [t for t in load.changes_s if floor_s < t <= detected_s]:
        return max(changed), ""
    if gauges and (
        queued := _first_queue(
            timeline, gauges, max(floor_s, below_s if known(below_s) else floor_s), detected_s
        )
    ):
        return queued, FIRST_QUEUE
    if detected_s <= floor_s:
        return floor_s, "above target since the decision before"
    if math.isnan(below_s):
        return detected_s, "the metric was above its target from the start"
    return below_s, AT_MOST


def _first_queue(timeline: Timeline, gauges: ReplicaGauges, from_s: float, to_s: float) -> float | None:
    firsts = []
    for pod in timeline.own_pods():
        if pod.name in gauges:
            rows = gauges.busy(pod.name)
            quiet = max((v for t, v in rows if t <= from_s), default=0.0)
            firsts += [t for t, v in rows if from_s < t <= to_s and v > quiet][:1]
    return min(firsts, default=None)
