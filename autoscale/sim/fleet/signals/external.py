"""What External and Object metrics of a fleet's scaler read, and KEDA beside the HPA that it makes.

An HPA's External metric is the sum of the series of its name; a ScaledObject's is its trigger's query. Where every query is
a GaugeTotal, one number per scrape is kept; else a Prometheus of all series that they read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from analysis.numbers import known
from autoscale.hpa import HpaDecision, HpaSpec, Memory, MetricError
from autoscale.hpa.calculator import Reading
from autoscale.keda import ScaledObject
from autoscale.keda.fallback import TargetPods, has_valid_fallback
from autoscale.keda.loop_status import Step
from autoscale.keda.loops import Loops
from autoscale.keda.prometheus_trigger import Answer, NoElement, PrometheusTrigger, QueryFailed
from autoscale.keda.queries import Expression, OverWindow
from autoscale.keda.scale_loop import Read, read_triggers
from autoscale.keda.scaled_object import FORCED, PAUSED_IN, PAUSED_OUT
from autoscale.kube.gateway_names import gateway_metric
from autoscale.profiles.profile import Profile
from autoscale.sim.fleet.metric_path import thousandths
from autoscale.sim.fleet.pods import Pods
from autoscale.sim.fleet.scalers import MONDAY_S, Scaler, queries_of, series_in
from autoscale.sim.fleet.signals.exports import Exports, Serving
from autoscale.sim.fleet.signals.query_values import QueryTime, evaluated
from autoscale.sim.fleet.signals.readings import seen
from autoscale.sim.fleet.signals.series import LOOKBACK_S, Samples
from autoscale.sim.fleet.signals.totals import GaugeTotal, Totals, gauge_total


@dataclass(frozen=True)
class _Query:
    """A metric's query, and what it is as a GaugeTotal."""

    name: str
    expression: Expression
    total: GaugeTotal | None


class PollTimes(NamedTuple):
    """When KEDA polls: first_s + n * every_s, by a clock that shows began_s at 0 s; and how long it waits for rest."""

    first_s: float
    every_s: float
    began_s: float
    cooldown_s: float
    first_rest_s: float  # by that clock, where nothing has been active yet


@dataclass
class _Tally:
    """How often a trigger was read, how often in vain, and KEDA's latest sentence about it."""

    reads: int = 0
    failed: int = 0
    message: str = ""

    def add(self, read: Read) -> None:
        self.reads += 1
        if isinstance(read, QueryFailed):
            self.failed, self.message = self.failed + 1, read.message


NO_POLLS = PollTimes(math.inf, 0.0, 0.0, 0.0, 0.0)


class External:
    """The External and Object metrics of a scaler over one fleet."""

    def __init__(
        self, profile: Profile, engine: Any, scaler: Scaler, phase: float, begins_s: float = 0.0
    ) -> None:
        self.scaler, self.began_s = scaler, MONDAY_S + begins_s
        self.queries = [
            _Query(name, query, gauge_total(query, profile)) for name, query in queries_of(scaler).items()
        ]
        delay_s = profile.metric_path.ingestion_delay_s
        series = [one for query in self.queries for one in series_in(query.expression)]
        windows = [one.window_s for one in series if isinstance(one, OverWindow)]
        names = tuple(dict.fromkeys(one.name for one in series))
        totals = [query.total for query in self.queries if query.total is not None]
        self.totals = Totals(totals, delay_s) if len(totals) == len(self.queries) else None
        if self.totals is None or (any(map(gateway_metric, names)) and not known(engine.gateway_gauges()[0])):
            self._exports = Exports(profile, engine, names)  # of what nobody exports it tells
        self.samples = Samples(names, delay_s, max(windows, default=LOOKBACK_S))
        self.loops = Loops.started(scaler, self.began_s) if isinstance(scaler, ScaledObject) else None
        self._engine = engine
        self.poll_times = _poll_times(scaler, phase, self.began_s)
        self.polls = 0  # made so far
        self._tallies: dict[str, _Tally] = {}  # by metric name

    def strict(self, metric: str) -> bool:
        """Whether no element is an error for the HPA; KEDA takes it for a 0 unless the trigger says otherwise."""
        if isinstance(self.scaler, HpaSpec):
            return True
        triggers = (t for t in self.scaler.triggers if isinstance(t, PrometheusTrigger))
        return any(t.metric_name == metric and not t.ignore_null_values for t in triggers)

    def active_above(self, metric: str) -> float:
        """Above what a trigger's value keeps the fleet from rest; 0 for an HPA, which knows no rest."""
        triggers = self.scaler.triggers if isinstance(self.scaler, ScaledObject) else ()
        plain = (t for t in triggers if isinstance(t, PrometheusTrigger))
        return next((t.activation_threshold for t in plain if t.metric_name == metric), 0.0)

    @property
    def gauges(self) -> dict[str, GaugeTotal]:
        """Metric name -> its GaugeTotal, in the order of `totals`."""
        return {query.name: query.total for query in self.queries if query.total is not None}

    # --- KEDA's polls ---

    @property
    def next_poll_s(self) -> float:
        """The next poll that can change anything; inf where none can."""
        return self.poll_times.first_s + self.polls * self.poll_times.every_s

    def poll(self, pods: Pods, now_s: float) -> Step:
        """One poll of KEDA's scale loop."""
        assert self.loops is not None
        self.polls += 1
        self.loops, step = self.loops.polled(self._reads(now_s), _workload(pods), self.began_s + now_s)
        return step

    @property
    def quiet_polls(self) -> bool:
        """Whether a poll that leaves the size changes nothing but when something was last active."""
        scaler, loops = self.scaler, self.loops
        if not isinstance(scaler, ScaledObject) or loops is None or scaler.fallback is not None:
            return False
        steered = scaler.paused or any(map(scaler.annotated, (FORCED, PAUSED_IN, PAUSED_OUT)))
        return loops.status.built and not steered

    @property
    def last_active_s(self) -> float:
        """When the last poll was that found something active, by KEDA's clock; NaN: none."""
        last_s = self.loops.status.last_active_s if self.loops else None
        return math.nan if last_s is None else float(last_s)

    def polled_quietly(self, polls: int, last_active_s: float) -> None:
        """So many polls have been made since the start, none of which changed the size."""
        self.polls = polls
        if self.loops and known(last_active_s):
            status = replace(self.loops.status, last_active_s=int(last_active_s))
            self.loops = replace(self.loops, status=status)

    # --- what is read ---

    def scrape(self, now_s: float, pods: Pods, serving: Serving, columns: list[list[float]]) -> None:
        """What is exported at `now_s`; `columns` are the pods' SIGNALS."""
        if self.totals is not None:
            self.totals.scrape(now_s, [*columns, *([value] for value in self._engine.gateway_gauges())])
        elif self.queries:
            self.samples.scrape(now_s, self._exports.rows(pods, serving))

    def answers(self, now_s: float) -> dict[str, list[float]]:
        """Metric name -> the values of the elements that its query gives."""
        if self.totals is not None:
            shown = self.totals.read(now_s)
            return {
                query.name: [value] if known(value) else []
                for query, value in zip(self.queries, shown, strict=True)
            }
        at = QueryTime(self.samples, now_s)
        return {query.name: [value for _, value in evaluated(query.expression, at)] for query in self.queries}

    def readings(self, now_s: float) -> Mapping[str, Reading]:
        """What the external and custom metrics APIs answer an HPA that somebody wrote."""
        assert isinstance(self.scaler, HpaSpec)
        targets = {metric.name: metric for metric in self.scaler.metrics}
        return {
            name: sum(map(thousandths, values)) if values else MetricError(targets[name].nothing)
            for name, values in self.answers(now_s).items()
        }

    def sync(self, memory: Memory | None, pods: Pods, now_s: float) -> HpaDecision:
        """One sync of the HPA that KEDA made."""
        assert self.loops is not None
        loops = replace(self.loops, memory=memory)
        self.loops, decision = loops.synced(self._reads(now_s), _workload(pods), seen(pods).replicas, now_s)
        assert decision is not None
        return decision

    def _reads(self, now_s: float) -> Mapping[str, Read]:
        assert isinstance(self.scaler, ScaledObject)
        answers = self.answers(now_s)
        given: dict[str, Answer] = {}
        for trigger in self.scaler.triggers:
            if isinstance(trigger, PrometheusTrigger):
                given[trigger.metric_name] = _answer(answers[trigger.metric_name], trigger.many())
        reads = read_triggers(self.scaler, given, self.began_s + now_s)
        for name, read in reads.items():
            self._tallies.setdefault(name, _Tally()).add(read)
        return reads

    @property
    def unread(self) -> tuple[str, ...]:
        """A sentence for each of KEDA's triggers that failed, in how much of the time and what followed.

        Reads on the compiled way, which are not counted, only fail while there is no pod.
        """
        scaler, hpa = self.scaler, self.loops.hpa if self.loops else None
        if not isinstance(scaler, ScaledObject) or hpa is None or quiet_metrics(hpa, self):
            return ()
        alone = scaler.modifiers is not None or len(scaler.triggers) == 1
        follows = "replicas stood still" if alone else "no replica was removed"
        if has_valid_fallback(scaler):
            follows = "the fallback decided"
        found = (
            (t.index, self._tallies[t.metric_name]) for t in scaler.triggers if t.metric_name in self._tallies
        )
        return tuple(
            f"spec.triggers[{index}]: KEDA's reads failed in {tally.failed / tally.reads:.0%} of the time "
            f"({tally.message}): {follows} meanwhile"
            for index, tally in found
            if tally.failed
        )


def _answer(values: Sequence[float], many: QueryFailed) -> Answer:
    if len(values) > 1:
        return many
    return values[0] if values else NoElement()


def _workload(pods: Pods) -> TargetPods:
    return TargetPods(pods.desired, seen(pods).ready or 0)


def _poll_times(scaler: Scaler, phase: float, began_s: float) -> PollTimes:
    """Of the polls that can change anything: a minimum above zero without an idle count leaves all to the HPA."""
    if not isinstance(scaler, ScaledObject):
        return NO_POLLS
    cached = any(isinstance(t, PrometheusTrigger) and t.cached for t in scaler.triggers)
    idle = scaler.idle_replica_count is not None
    if scaler.min_replicas > 0 and not (idle or cached or scaler.fallback):
        return NO_POLLS
    every_s = float(scaler.polling_interval_s)
    first_rest_s = began_s + scaler.initial_cooldown_period_s
    return PollTimes(phase * every_s, every_s, began_s, float(scaler.cooldown_period_s), first_rest_s)


def quiet_metrics(spec: HpaSpec, external: External | None) -> bool:
    """Whether every metric of the HPA can be read by the compiled ticks."""
    if all(metric.kind == "Pods" for metric in spec.metrics):
        return True
    if external is None or external.totals is None:
        return False
    if isinstance(external.scaler, HpaSpec):
        return True
    triggers = external.scaler.triggers
    plain = all(isinstance(t, PrometheusTrigger) and not t.cached for t in triggers)
    return plain and external.scaler.modifiers is None
