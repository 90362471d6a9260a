"""The wall time of every scale-out, phase by phase, and what every scale-in did. Pure: a timeline in, facts out.

    load            metric    decision  pods      scheduled  image  group  started .. ready  first    share  metric  SLO
     |--to metric----|-decide--|-create--|-schedule--|-image--|-join-|--start-up--|----------|traffic--|------|-back---|-back-|

The phases of a scale-out are contiguous: each ends where the next begins, and a moment that lies before its
predecessor's makes a phase of zero length. Moments of the replica that got ready last count, because it ends the wait.
What cannot be told apart (no log access: weights, compile, engine start) is one phase that names what it covers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from analysis.numbers import plain
from autoscale.check.client_view import Breaches, ClientView
from autoscale.check.detection import absorption, detection, load_start
from autoscale.check.phases import Moment, Span, chain, end_s, start_phases
from autoscale.check.records import NAN, Resize
from autoscale.check.replicas import SeenReplica, replicas
from autoscale.check.routing import ReplicaGauges, fair_share, first_traffic
from autoscale.check.scalein import ScaleIn, scale_in
from autoscale.check.timeline import Timeline
from autoscale.check.trouble.gaps import SHORT_S, sentence

if TYPE_CHECKING:
    import pandas as pd


CREATED_EARLY_S = 1.5  # a pod's stamp may lie this much before the decision that made it


@dataclass(frozen=True)
class ScaleOut:
    """One enlargement of the target; every `_s` is unix seconds, NaN = did not happen or could not be seen."""

    decided_s: float
    before: int
    after: int
    by_hpa: bool
    reason: str
    phases: tuple[Span, ...]
    replicas: tuple[SeenReplica, ...]  # the new ones
    detected_s: float  # the metric was visible above its target
    ready_s: float  # the last new replica was ready
    absorbed_s: float  # the metric was back under its target
    slo_back_s: float
    attributed: float  # share 0-1 of the wall time that lies in a named phase and was watched
    requests_in_breach: int | None  # None: no requests were given
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class History:
    """All that happened to one target."""

    scale_outs: tuple[ScaleOut, ...]
    scale_ins: tuple[ScaleIn, ...]
    replicas: tuple[SeenReplica, ...]
    unseen: tuple[str, ...] = ()  # sentences on what could not be seen
    requests_in_breach: int | None = None
    requests: int | None = None
    breach_s: tuple[float, float] | None = (
        None  # when the SLO broke first and held again; None: it held, or unknown
    )
    client_limited: bool = False  # the load generator says that it was the limit itself
    tpot_s: float = NAN  # median time per output token that the clients saw
    gauges: ReplicaGauges | None = field(default=None, compare=False)


def history(
    timeline: Timeline, load: ClientView | None = None, metrics: pd.DataFrame | None = None
) -> History:
    """Every scale-out and scale-in of the timeline, with its phases.

    `metrics` are rows of metrics.parquet with unix times; with them first traffic and share are known per replica,
    otherwise from the custom metric's values per pod, or not at all.
    """
    load = load or ClientView()
    units = replicas(timeline)
    gauges = ReplicaGauges(metrics) if metrics is not None and not metrics.empty else None
    judged = Breaches(load)
    watched = _Watched(timeline, load, gauges, judged)
    outs, ins = [], []
    for index, made in enumerate(timeline.decisions):
        following = timeline.decisions[index + 1] if index + 1 < len(timeline.decisions) else None
        previous = timeline.decisions[index - 1] if index else None
        until_s = following.time_s if following else math.inf
        if made.after > made.before:
            fresh = _made_by(made, until_s, units)
            outs.append(_scale_out(watched, made, previous, until_s, fresh))
        else:
            gone = [u for u in units if _in(u.deleting_s, made.time_s - CREATED_EARLY_S, until_s)]
            ins.append(scale_in(made, tuple(gone), load, gauges))
    return History(
        tuple(outs),
        tuple(ins),
        tuple(units),
        tuple(unseen(timeline, load, gauges)),
        judged.total(),
        len(judged.due_s) if judged.known else None,
        judged.stretch(),
        load.limited,
        judged.tpot_s if judged.known else NAN,
        gauges,
    )


def _made_by(made: Resize, until_s: float, units: list[SeenReplica]) -> tuple[SeenReplica, ...]:
    """The replicas that a decision made: those created after it come first, stamps may place some a little before."""
    near = [
        u for u in units if _in(u.leader.created_s, made.time_s - CREATED_EARLY_S, until_s - CREATED_EARLY_S)
    ]
    near.sort(key=lambda u: (u.leader.created_s < made.time_s - 0.1, abs(u.leader.created_s - made.time_s)))
    return tuple(sorted(near[: made.after - made.before], key=lambda u: u.leader.created_s))


def unseen(timeline: Timeline, load: ClientView, gauges: ReplicaGauges | None) -> Iterable[str]:
    """What the watch could not see, one sentence each."""
    for resource, needed_for in (
        ("pods", "pods: phases between decision and ready are one"),
        ("nodes", "nodes: whether a node was added, and which accelerators are free"),
        ("events", "events: image pulls, node autoscaler and the HPA's reasons"),
    ):
        if resource not in timeline.seen:
            yield f"saw no {needed_for} cannot be told" if resource != "pods" else f"saw no {needed_for}"
    for gap in timeline.gaps.until(timeline.last_s):
        if gap.to_s - gap.from_s > SHORT_S:
            yield f"{sentence(gap)}{'' if gap.lost else ', and told late'}: {gap.reason}"
    if not timeline.samples:
        yield "no value of the HPA's metric was seen"
    if load.requests is None:
        yield "no requests were given: breaches, SLO recovery and cut requests are not judged"
    if load.limited:
        yield (
            "the load generator was the limit by its own verdict: latencies are partly its own, and some of the load came late; "
            "give it a core of its own, or --processes"
        )
    if gauges is None:
        yield "no metrics of the replicas were given: first traffic and share rest on the custom metric"


# --- one scale-out ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Watched:
    """All that was seen: the timeline, the clients' view, the replicas' metrics, and the requests judged by the SLO."""

    timeline: Timeline
    load: ClientView
    gauges: ReplicaGauges | None
    judged: Breaches


def _scale_out(
    seen: _Watched, made: Resize, previous: Resize | None, until_s: float, fresh: tuple[SeenReplica, ...]
) -> ScaleOut:
    timeline = seen.timeline
    floor_s = previous.time_s if previous else timeline.first_s
    detected_s, below_s = detection(timeline, floor_s, made.time_s, made.before)
    started_s, note = load_start(seen.load, seen.gauges, timeline, floor_s, detected_s, below_s)
    critical = max(fresh, key=lambda u: math.inf if math.isnan(u.ready_s) else u.ready_s, default=None)
    ready_s = _ready(timeline, made, fresh)
    cancelled = critical is not None and math.isnan(ready_s) and not math.isnan(critical.deleting_s)
    watched_s = min(timeline.last_s, critical.deleting_s) if cancelled and critical else timeline.last_s
    back_s = absorption(timeline, ready_s, until_s) if ready_s < until_s else NAN
    slo_back_s = seen.judged.recovered_s(started_s, until_s)
    moments: list[Moment] = [
        ("load_to_metric", None if math.isnan(detected_s) else detected_s, note),
        ("metric_to_decision", made.time_s, "" if made.by_hpa else "not by the HPA"),
    ]
    moments += start_phases(critical) if critical else [("pods_to_ready", ready_s, "pods were not seen")]
    if not cancelled:
        moments += _after_ready(seen, fresh, ready_s, until_s, back_s, slo_back_s)
    phases = chain(moments, NAN if math.isnan(detected_s) else started_s, watched_s)
    return ScaleOut(
        decided_s=made.time_s,
        before=made.before,
        after=made.after,
        by_hpa=made.by_hpa,
        reason=made.reason,
        phases=phases,
        replicas=fresh,
        detected_s=detected_s,
        ready_s=ready_s,
        absorbed_s=back_s,
        slo_back_s=slo_back_s,
        attributed=_attributed(timeline, phases, ready_s),
        requests_in_breach=seen.judged.count(started_s, phases[-1].watched_s),
        notes=tuple(_notes(fresh, made, cancelled)),
    )


def _after_ready(
    seen: _Watched,
    fresh: tuple[SeenReplica, ...],
    ready_s: float,
    until_s: float,
    back_s: float,
    slo_back_s: float,
) -> list[Moment]:
    """From ready to the SLO; nothing when the next decision came before the replicas were ready."""
    handed = until_s < math.inf and math.isnan(back_s)
    if handed and not ready_s < until_s:
        return []
    moments: list[Moment] = [
        ("ready_to_traffic", first_traffic(seen.timeline, seen.gauges, fresh, ready_s), ""),
        ("traffic_to_share", fair_share(seen.timeline, seen.gauges, fresh, ready_s), ""),
    ]
    if not seen.timeline.samples:
        moments.append(("metric_back", None, ""))
    elif handed:
        moments.append(("metric_back", until_s, "the next decision came first"))
    else:
        moments.append(("metric_back", back_s, ""))
    if seen.judged.known:
        moments.append(("slo_back", None if math.isnan(slo_back_s) else slo_back_s, ""))
    return moments


def _attributed(timeline: Timeline, phases: tuple[Span, ...], ready_s: float) -> float:
    """Share of the wall time in which the pods were watched."""
    start_s, last_s = phases[0].start_s, end_s(phases, ready_s)
    blind_s = sum(
        max(0.0, min(gap.to_s, last_s) - max(gap.from_s, start_s))
        for gap in timeline.gaps.until(timeline.last_s)
        if gap.lost and gap.resource == "pods"
    )
    return 1.0 if last_s <= start_s else max(0.0, 1 - blind_s / (last_s - start_s))


def _ready(timeline: Timeline, made: Resize, fresh: tuple[SeenReplica, ...]) -> float:
    if fresh:
        moments = [unit.ready_s for unit in fresh]
        complete = len(fresh) == made.after - made.before and not any(math.isnan(m) for m in moments)
        return max(moments) if complete else NAN
    if "pods" in timeline.seen:
        return NAN
    return next((t for t, n in timeline.target_ready if t > made.time_s and n >= made.after), NAN)


def _notes(fresh: tuple[SeenReplica, ...], made: Resize, cancelled: bool) -> Iterable[str]:
    if cancelled:
        yield "removed before it was ready: the start was paid for and nothing was served"
    if made.late:
        yield "the decision was found after a gap; its time is the HPA's own, to a second"
    for unit in fresh:
        for pod in unit.pods:
            if pod.restarts:
                yield f"{pod.name} restarted {pod.restarts} times"
            if pod.waiting and math.isnan(pod.started_s):
                yield f"{pod.name} waits: {pod.waiting}"


def flaps(decisions: Sequence[Resize], within_s: float) -> list[tuple[Resize, Resize]]:
    """Pairs of decisions in opposite directions where the second takes back the first within that time."""
    return [
        (first, second)
        for first, second in pairwise(decisions)
        if (first.after > first.before) != (second.after > second.before)
        and second.time_s - first.time_s < within_s
    ]


def _in(value: float, low: float, high: float) -> bool:
    return low <= value < high


def as_dict(value: Any) -> Any:
    """As JSON can hold it, without what only the judging needs."""
    return plain(value, skip=("gauges", "log_s", "labels"))
