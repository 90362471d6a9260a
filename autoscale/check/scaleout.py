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

from analysis.numbers import known, plain
from autoscale.check.replicas import Replica, replicas
from autoscale.check.timeline import NAN, Decision, Sample, Timeline
from autoscale.kube.scaler import Hpa

if TYPE_CHECKING:
    import pandas as pd

    from analysis.slo import Slo

CREATED_EARLY_S = 1.5  # a pod's stamp may lie this much before the decision that made it
STATUS_LAG_S = (
    1.0  # the HPA writes its status this long after it decided: the value shown is the one decided on
)
FAIR_SHARE = 0.5  # a new replica "has its share" at half of what an equal split would give
SLO_WINDOW_S = 30.0


@dataclass(frozen=True)
class Load:
    """What clients saw: rows of requests.parquet with times in unix s, the SLO, and when the offered load changed.

    `rate` and `ahead_s` turn the clients' clock into the timeline's (time * rate + ahead_s): a fleet with a compressed
    control plane has one of its own, while latencies stay true seconds.
    """

    requests: pd.DataFrame | None = None
    slo: Slo | None = None
    changes_s: Sequence[float] = ()
    rate: float = 1.0
    ahead_s: float = 0.0


@dataclass(frozen=True)
class Phase:
    """One span. `covers` names what it holds when phases could not be told apart; `open`: it had not ended."""

    name: str
    start_s: float
    end_s: float
    covers: tuple[str, ...] = ()
    note: str = ""
    open: bool = False

    @property
    def seconds(self) -> float:
        """Its length in s."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class ScaleOut:
    """One enlargement of the target; every `_s` is unix seconds, NaN = did not happen or could not be seen."""

    decided_s: float
    before: int
    after: int
    by_hpa: bool
    reason: str
    phases: tuple[Phase, ...]
    replicas: tuple[Replica, ...]  # the new ones
    detected_s: float  # the metric was visible above its target
    ready_s: float  # the last new replica was ready
    absorbed_s: float  # the metric was back under its target
    slo_back_s: float
    attributed: float  # share 0-1 of the wall time that lies in a named phase and was watched
    requests_in_breach: int | None  # None: no requests were given
    notes: tuple[str, ...] = ()

    @property
    def wall_s(self) -> float:
        """From the load, or the first sign of it, to the last moment that was reached.

        While replicas are not ready, what they wait for counts; a metric that is not back yet does not.
        """
        return _end_s(self.phases, self.ready_s) - self.phases[0].start_s if self.phases else NAN


@dataclass(frozen=True)
class ScaleIn:
    """One reduction of the target."""

    decided_s: float
    before: int
    after: int
    by_hpa: bool
    victims: tuple[Replica, ...]
    deleting_s: float  # the first pod was asked to stop
    freed_s: float  # the last accelerator was free; NaN: not within the watch
    accelerators: int
    requests_cut: int | None  # failed in the victims' last seconds; None: no requests were given
    busy_at_end: int | None  # requests that the victims still ran when last seen; None: not scraped


@dataclass(frozen=True)
class History:
    """All that happened to one target."""

    scale_outs: tuple[ScaleOut, ...]
    scale_ins: tuple[ScaleIn, ...]
    replicas: tuple[Replica, ...]
    unseen: tuple[str, ...] = ()  # sentences on what could not be seen
    requests_in_breach: int | None = None
    requests: int | None = None
    gauges: Gauges | None = field(default=None, compare=False)


class Gauges:
    """The replicas' own metrics (rows of metrics.parquet, times in unix s), asked per pod."""

    def __init__(self, metrics: pd.DataFrame) -> None:
        self._by_pod = {str(pod): rows.sort_values("time_s") for pod, rows in metrics.groupby("pod")}

    def __contains__(self, pod: str) -> bool:
        return pod in self._by_pod

    def busy(self, pod: str) -> list[tuple[float, float]]:
        """(time_s, waiting + running) of one pod, engines added."""
        rows = self._by_pod[pod]
        total = rows[["waiting", "running"]].sum(axis=1, min_count=1)
        summed = total.groupby(rows["time_s"]).sum(min_count=1).dropna()
        return list(zip(summed.index.to_numpy(float).tolist(), summed.to_numpy(float).tolist(), strict=True))


def history(timeline: Timeline, load: Load | None = None, metrics: pd.DataFrame | None = None) -> History:
    """Every scale-out and scale-in of the timeline, with its phases.

    `metrics` are rows of metrics.parquet with unix times; with them first traffic and share are known per replica,
    otherwise from the custom metric's values per pod, or not at all.
    """
    load = load or Load()
    units = replicas(timeline)
    gauges = Gauges(metrics) if metrics is not None and not metrics.empty else None
    judged = Breaches(load)
    outs, ins = [], []
    for index, made in enumerate(timeline.decisions):
        following = timeline.decisions[index + 1] if index + 1 < len(timeline.decisions) else None
        previous = timeline.decisions[index - 1] if index else None
        until_s = following.time_s if following else math.inf
        if made.after > made.before:
            fresh = _made_by(made, until_s, units)
            outs.append(
                _scale_out(
                    timeline,
                    made,
                    previous,
                    until_s,
                    fresh,
                    load,
                    gauges,
                    judged,
                )
            )
        else:
            gone = [u for u in units if _in(u.deleting_s, made.time_s - CREATED_EARLY_S, until_s)]
            ins.append(_scale_in(made, tuple(gone), load, gauges))
    return History(
        tuple(outs),
        tuple(ins),
        tuple(units),
        tuple(unseen(timeline, load, gauges)),
        judged.total(),
        len(judged.due_s) if judged.known else None,
        gauges,
    )


def _made_by(made: Decision, until_s: float, units: list[Replica]) -> tuple[Replica, ...]:
    """The replicas that a decision made: those created after it come first, stamps may place some a little before."""
    near = [
        u for u in units if _in(u.leader.created_s, made.time_s - CREATED_EARLY_S, until_s - CREATED_EARLY_S)
    ]
    near.sort(key=lambda u: (u.leader.created_s < made.time_s - 0.1, abs(u.leader.created_s - made.time_s)))
    return tuple(sorted(near[: made.after - made.before], key=lambda u: u.leader.created_s))


def unseen(timeline: Timeline, load: Load, gauges: Gauges | None) -> Iterable[str]:
    """What the watch could not see, one sentence each."""
    for resource, needed_for in (
        ("pods", "pods: phases between decision and ready are one"),
        ("nodes", "nodes: whether a node was added, and which accelerators are free"),
        ("events", "events: image pulls, node autoscaler and the HPA's reasons"),
    ):
        if resource not in timeline.seen:
            yield f"saw no {needed_for} cannot be told" if resource != "pods" else f"saw no {needed_for}"
    for gap in timeline.gaps:
        if gap.lost and gap.to_s - gap.from_s > 1:
            yield f"{gap.resource} were not watched for {gap.to_s - gap.from_s:.0f} s: {gap.reason}"
    if not timeline.samples:
        yield "no value of the HPA's metric was seen"
    if load.requests is None:
        yield "no requests were given: breaches, SLO recovery and cut requests are not judged"
    if gauges is None:
        yield "no metrics of the replicas were given: first traffic and share rest on the custom metric"


# --- one scale-out ---------------------------------------------------------------------------------------------------


def _scale_out(
    timeline: Timeline,
    made: Decision,
    previous: Decision | None,
    until_s: float,
    fresh: tuple[Replica, ...],
    load: Load,
    gauges: Gauges | None,
    judged: Breaches,
) -> ScaleOut:
    floor_s = previous.time_s if previous else timeline.first_s
    detected_s, below_s = detection(timeline, floor_s, made.time_s, made.before)
    started_s, note = _load_start(load, gauges, timeline, floor_s, detected_s, below_s)
    critical = max(fresh, key=lambda u: math.inf if math.isnan(u.ready_s) else u.ready_s, default=None)
    ready_s = _ready(timeline, made, fresh)
    cancelled = critical is not None and math.isnan(ready_s) and not math.isnan(critical.deleting_s)
    end_s = min(timeline.last_s, critical.deleting_s) if cancelled and critical else timeline.last_s
    back_s = absorption(timeline, ready_s, until_s) if ready_s < until_s else NAN
    slo_back_s = judged.recovered_s(started_s, until_s)
    moments: list[tuple[str, float | None, str]] = [
        ("load_to_metric", None if math.isnan(detected_s) else detected_s, note),
        ("metric_to_decision", made.time_s, "" if made.by_hpa else "not by the HPA"),
    ]
    if critical is None:
        moments.append(("pods_to_ready", ready_s, "pods were not seen"))
    else:
        moments += _start_phases(critical)
    if not cancelled:
        traffic_s = first_traffic(timeline, gauges, fresh, ready_s)
        share_s = fair_share(timeline, gauges, fresh, ready_s)
        handed = until_s < math.inf and math.isnan(back_s)
        if not handed or ready_s < until_s:
            moments += [("ready_to_traffic", traffic_s, ""), ("traffic_to_share", share_s, "")]
            moments.append(
                (
                    "metric_back",
                    until_s if handed else back_s,
                    "the next decision came first" if handed else "",
                )
                if timeline.samples
                else ("metric_back", None, "")
            )
            if judged.known:
                moments.append(("slo_back", None if math.isnan(slo_back_s) else slo_back_s, ""))
    phases = _chain(moments, started_s, end_s)
    wall_s = _end_s(phases, ready_s) - phases[0].start_s
    blind_s = sum(
        max(0.0, min(gap.to_s, _end_s(phases, ready_s)) - max(gap.from_s, phases[0].start_s))
        for gap in timeline.gaps
        if gap.lost and gap.resource == "pods"
    )
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
        attributed=1.0 if wall_s <= 0 else max(0.0, 1 - blind_s / wall_s),
        requests_in_breach=judged.count(started_s, phases[-1].end_s),
        notes=tuple(_notes(fresh, made, cancelled)),
    )


def _end_s(phases: tuple[Phase, ...], ready_s: float) -> float:
    last = phases[-1]
    return last.start_s if last.open and not math.isnan(ready_s) else last.end_s


def _chain(moments: list[tuple[str, float | None, str]], start_s: float, end_s: float) -> tuple[Phase, ...]:
    """Contiguous phases. A moment None cannot be seen: its phase joins the next. NaN has not happened: the chain ends."""
    phases: list[Phase] = []
    at_s, covers, notes = start_s, [], []
    for name, moment, note in moments:
        covers.append(name)
        notes += [note] if note else []
        if moment is None:
            continue
        is_open = math.isnan(moment)
        until_s = max(at_s, end_s if is_open else moment)
        joined = name if len(covers) == 1 else f"{covers[0]}..{covers[-1]}"
        phases.append(
            Phase(joined, at_s, until_s, tuple(covers) if len(covers) > 1 else (), "; ".join(notes), is_open)
        )
        at_s, covers, notes = until_s, [], []
        if is_open:
            break
    return tuple(phases)


def _start_phases(unit: Replica) -> list[tuple[str, float | None, str]]:
    asked = [pod.asked_for_node_s for pod in unit.pods if not math.isnan(pod.asked_for_node_s)]
    waited = next(
        (pod.no_node or pod.unschedulable for pod in unit.pods if pod.no_node or pod.unschedulable), ""
    )
    node_note = (
        f"the node autoscaler was asked after {min(asked) - unit.leader.created_s:.1f} s" if asked else waited
    )
    pulled = [p.pulled_s - p.pulling_s for p in unit.pods if p.pulled_s >= p.pulling_s]
    first_s = unit.first_started_s if not math.isnan(unit.scheduled_s) else NAN
    phases: list[tuple[str, float | None, str]] = [
        ("decision_to_pods", unit.created_s, ""),
        ("pods_to_scheduled", unit.scheduled_s, node_note),
        ("image", first_s, f"of it pulling {max(pulled):.1f} s" if pulled else ""),
    ]
    if unit.size > 1:
        phases.append(("group_join", unit.started_s, "last pod of the group"))
    told = sorted((time_s, phase) for phase, time_s in unit.leader.log_s.items())
    known = [phase for _, phase in told]
    for time_s, phase in told:
        phases.append((phase, time_s, "from the log"))
    if known:
        phases.append(("ready", unit.ready_s, ""))
    else:
        phases += [("weights", None, ""), ("compile", None, ""), ("engine_start", None, "")]
        phases.append(("ready", unit.ready_s, "without the log these cannot be told apart: started to ready"))
    return phases


def _ready(timeline: Timeline, made: Decision, fresh: tuple[Replica, ...]) -> float:
    if fresh:
        moments = [unit.ready_s for unit in fresh]
        complete = len(fresh) == made.after - made.before and not any(math.isnan(m) for m in moments)
        return max(moments) if complete else NAN
    if "pods" in timeline.seen:
        return NAN
    return next((t for t, n in timeline.target_ready if t > made.time_s and n >= made.after), NAN)


def _notes(fresh: tuple[Replica, ...], made: Decision, cancelled: bool) -> Iterable[str]:
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


# --- the metric ------------------------------------------------------------------------------------------------------


def excess(timeline: Timeline, sample: Sample, size: int | None) -> float:
    """usage / target of a sample with replicas that report nothing counted as zero, as the HPA does upward; NaN: unknown."""
    target = timeline.targets_milli().get(sample.metric)
    if not target or math.isnan(sample.usage_milli):
        return NAN
    counted = len(sample.values_milli) if sample.values_milli else None
    if counted is None or not size or size <= counted:
        return sample.usage_milli / target
    return sample.usage_milli * counted / size / target


def detection(timeline: Timeline, floor_s: float, decided_s: float, size: int) -> tuple[float, float]:
    """(when the metric was first visible above its target without pause until the decision, last time it was not).

    Only after `floor_s`, the decision before, which made the target `size` replicas: where the metric asked for still
    more at once, that is `floor_s` itself. Replicas without a value count as zero, as they do for the HPA.
    """
    bound = 1 + Hpa(timeline.hpa).tolerance("scaleUp")
    seen: dict[str, tuple[float, float]] = {}
    with_values = any(sample.values_milli for sample in timeline.samples)
    for sample in timeline.samples:
        if sample.time_s > decided_s + STATUS_LAG_S or (with_values and sample.values_milli is None):
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


def _load_start(
    load: Load, gauges: Gauges | None, timeline: Timeline, floor_s: float, detected_s: float, below_s: float
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
        return queued, "from the first queue that a replica reported"
    if detected_s <= floor_s:
        return floor_s, "above target since the decision before"
    if math.isnan(below_s):
        return detected_s, "the metric was above its target from the start"
    return below_s, "at most: the load's start is not known, only the last sample under the target"


def _first_queue(timeline: Timeline, gauges: Gauges, from_s: float, to_s: float) -> float | None:
    firsts = []
    for pod in timeline.own_pods():
        if pod.name in gauges:
            rows = gauges.busy(pod.name)
            quiet = max((v for t, v in rows if t <= from_s), default=0.0)
            firsts += [t for t, v in rows if from_s < t <= to_s and v > quiet][:1]
    return min(firsts, default=None)


# --- traffic to the new replicas --------------------------------------------------------------------------------------


def _series(timeline: Timeline, gauges: Gauges | None, pod: str) -> list[tuple[float, float]]:
    if gauges and pod in gauges:
        return gauges.busy(pod)
    metric = next(iter(timeline.targets_milli()), "")
    return [
        (s.time_s, s.values_milli[pod] / 1000)
        for s in timeline.samples
        if s.metric == metric and s.values_milli and pod in s.values_milli
    ]


def first_traffic(
    timeline: Timeline, gauges: Gauges | None, fresh: tuple[Replica, ...], ready_s: float
) -> float | None:
    """When the last new replica had its first request; None when that cannot be seen."""
    firsts: list[float] = []
    for unit in fresh:
        rows = _series(timeline, gauges, unit.leader.name)
        busy = next((t for t, v in rows if v > 0 and t >= unit.leader.ready_s), None)
        if busy is None:
            return None if not gauges or unit.leader.name not in gauges else NAN
        firsts.append(busy)
    return max(firsts, default=None) if not math.isnan(ready_s) else None


def fair_share(
    timeline: Timeline, gauges: Gauges | None, fresh: tuple[Replica, ...], ready_s: float
) -> float | None:
    """When the last new replica carried at least half of an equal split; None when that cannot be seen."""
    if not fresh or math.isnan(ready_s):
        return None
    waiting = {unit.leader.name: unit.leader.ready_s for unit in fresh}
    reached: list[float] = []
    for time_s, values in rounds(timeline, gauges, [unit.leader.name for unit in replicas(timeline)]):
        fair = sum(values.values()) / len(values)
        for name in [n for n, since_s in waiting.items() if since_s <= time_s and len(values) > 1]:
            if values.get(name, 0.0) > 0 and values[name] >= FAIR_SHARE * fair:
                del waiting[name]
                reached.append(time_s)
        if not waiting:
            return max(reached)
    return None


def rounds(
    timeline: Timeline, gauges: Gauges | None, pods: Sequence[str]
) -> Iterable[tuple[float, dict[str, float]]]:
    """(time_s, pod -> load) at every reading: of the replicas themselves when they were scraped (each pod's last
    value, unless it fell silent), otherwise of the HPA's first metric."""
    if gauges is None:
        metric = next(iter(timeline.targets_milli()), "")
        for sample in timeline.samples:
            if sample.metric == metric and sample.values_milli:
                yield sample.time_s, {pod: value / 1000 for pod, value in sample.values_milli.items()}
        return
    rows = sorted((t, pod, v) for pod in pods if pod in gauges for t, v in gauges.busy(pod))
    silent_s = 3 * max((b[0] - a[0] for a, b in pairwise(rows)), default=0.0) + 1.0
    last: dict[str, tuple[float, float]] = {}
    for time_s, pod, value in rows:
        last[pod] = (time_s, value)
        yield time_s, {name: v for name, (t, v) in last.items() if time_s - t <= silent_s}


# --- requests ----------------------------------------------------------------------------------------------------------


class Breaches:
    """Which requests broke the SLO, by the time they were due. Without requests or SLO it knows nothing."""

    def __init__(self, load: Load) -> None:
        self.known = load.requests is not None and load.slo is not None
        if load.requests is None or load.slo is None:
            return
        import numpy as np

        from analysis.slo import meets

        rows = load.requests.sort_values("due_s")
        # what the client itself cancelled, at its own end of the run, says nothing about the server
        rows = rows[rows["status"] != "cancelled"]
        due = rows["due_s"].to_numpy(float)
        ttft = rows["first_token_s"].to_numpy(float) - due
        e2e = rows["last_token_s"].to_numpy(float) - due
        tokens = rows["output_tokens"].astype("float64").to_numpy(float, na_value=np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            tpot = np.where(tokens > 1, (e2e - ttft) / (tokens - 1), np.nan)
        self.due_s = due * load.rate + load.ahead_s
        self.good = meets(load.slo, rows["status"].to_numpy() == "ok", ttft, tpot, e2e)
        shares = [t.percentile / 100 for t in load.slo.terms if t.percentile is not None]
        self.asked = load.slo.goodput or min(shares, default=1.0)

    def count(self, from_s: float, to_s: float) -> int | None:
        """Requests due in [from_s, to_s) that broke a bound or failed; None when nothing is known."""
        if not self.known:
            return None
        return int(((self.due_s >= from_s) & (self.due_s < to_s) & ~self.good).sum())

    def total(self) -> int | None:
        """All requests in breach."""
        return int((~self.good).sum()) if self.known else None

    def recovered_s(self, from_s: float, until_s: float) -> float:
        """Due time of the request from which on the SLO held again over 30 s windows; NaN: never broken or not again."""
        if not self.known:
            return NAN
        import numpy as np

        inside = (self.due_s >= from_s) & (self.due_s < until_s)
        due, good = self.due_s[inside], self.good[inside]
        if not len(due) or good.all():
            return NAN
        sums = np.concatenate([[0], np.cumsum(good)])
        upto = np.searchsorted(due, due + SLO_WINDOW_S)
        index = np.arange(len(due))
        share = (sums[upto] - sums[index]) / (upto - index)
        broken = share < self.asked
        if not broken.any():
            return NAN
        last = int(np.flatnonzero(broken)[-1])
        return NAN if last + 1 >= len(due) else float(due[last + 1])


# --- one scale-in ------------------------------------------------------------------------------------------------------

SILENT_WAIT_S = 120.0
CUT_STATUSES = ("connection_error", "incomplete", "http_error")


def _scale_in(made: Decision, gone: tuple[Replica, ...], load: Load, gauges: Gauges | None) -> ScaleIn:
    deleting_s = min((unit.deleting_s for unit in gone), default=NAN)
    ends = [unit.gone_s for unit in gone]
    freed_s = max(ends) if ends and not any(math.isnan(end) for end in ends) else NAN
    cut = None
    if load.requests is not None and gone:
        cut = _cut(load, deleting_s, freed_s)
    busy = None
    if gauges:
        left = [
            [v for t, v in gauges.busy(u.leader.name) if t <= u.leader.gone_s or math.isnan(u.leader.gone_s)]
            for u in gone
            if u.leader.name in gauges
        ]
        busy = int(sum(values[-1] for values in left if values)) if left else None
    return ScaleIn(
        made.time_s,
        made.before,
        made.after,
        made.by_hpa,
        gone,
        deleting_s,
        freed_s,
        sum(unit.accelerators for unit in gone),
        cut,
        busy,
    )


def _cut(load: Load, deleting_s: float, freed_s: float) -> int:
    """Requests that failed and were under way while replicas were removed. An answer that broke off was last heard
    of in that time; one without any token may have been waiting for up to two minutes."""
    assert load.requests is not None
    rows = load.requests[["sent_s", "first_token_s", "last_token_s"]] * load.rate + load.ahead_s
    failed = load.requests["status"].isin(CUT_STATUSES)
    sent, silent = rows["sent_s"], rows["last_token_s"].isna()
    until_s = math.inf if math.isnan(freed_s) else freed_s + 1.0
    heard = rows.max(axis=1) >= deleting_s - 1.0
    waiting = silent & (sent >= deleting_s - SILENT_WAIT_S)
    return int((failed & (sent <= until_s) & (heard | waiting)).sum())


def flaps(decisions: Sequence[Decision], within_s: float) -> list[tuple[Decision, Decision]]:
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
