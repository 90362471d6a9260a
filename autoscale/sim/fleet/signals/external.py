"""What External and Object metrics of a fleet's scaler read, and KEDA beside the HPA that it makes.

An HPA's External metric is the sum of the series of its name; a ScaledObject's is its trigger's query. Where every query is
a GaugeTotal, one number per scrape is kept; else a Prometheus of all series that they read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.numbers import known
from autoscale.hpa import HpaDecision, HpaSpec, Memory, MetricError
from autoscale.hpa.calculator import Reading
from autoscale.keda import ScaledObject
from autoscale.keda.fallback import TargetPods
from autoscale.keda.loop_status import Step
from autoscale.keda.loops import Loops
from autoscale.keda.prometheus_trigger import Answer, NoElement, PrometheusTrigger, QueryFailed
from autoscale.keda.queries import Expression, OverWindow
from autoscale.keda.scale_loop import Read, read_triggers
from autoscale.kube.gateway_names import gateway_metric
from autoscale.profiles.profile import Profile
from autoscale.sim.fleet.metric_path import thousandths
from autoscale.sim.fleet.pods import Pods
from autoscale.sim.fleet.scalers import Scaler, queries_of, series_in
from autoscale.sim.fleet.signals.exports import Exports, Serving
from autoscale.sim.fleet.signals.query_values import QueryTime, evaluated
from autoscale.sim.fleet.signals.readings import seen
from autoscale.sim.fleet.signals.series import LOOKBACK_S, Samples
from autoscale.sim.fleet.signals.totals import GaugeTotal, Totals, gauge_total

MONDAY_S = 1_767_571_200.0  # 2026-01-05 00:00 UTC, where a simulation begins for what goes by the calendar


@dataclass(frozen=True)
class _Query:
    """A metric's query, and what it is as a GaugeTotal."""

    name: str
    expression: Expression
    total: GaugeTotal | None


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
        self._poll_phase_s = phase * self.polling_s
        self._polls = 0

    def strict(self, metric: str) -> bool:
        """Whether no element is an error for the HPA; KEDA takes it for a 0 unless the trigger says otherwise."""
        if isinstance(self.scaler, HpaSpec):
            return True
        triggers = (t for t in self.scaler.triggers if isinstance(t, PrometheusTrigger))
        return any(t.metric_name == metric and not t.ignore_null_values for t in triggers)

    @property
    def gauges(self) -> dict[str, GaugeTotal]:
        """Metric name -> its GaugeTotal, in the order of `totals`."""
        return {query.name: query.total for query in self.queries if query.total is not None}

    # --- KEDA's polls ---

    @property
    def polling_s(self) -> float:
        """KEDA's polling interval; inf for an HPA of its own."""
        return float(self.scaler.polling_interval_s) if isinstance(self.scaler, ScaledObject) else math.inf

    @property
    def next_poll_s(self) -> float:
        """The next poll that can change anything; a minimum above zero without an idle count leaves all to the HPA."""
        scaler = self.scaler
        if not isinstance(scaler, ScaledObject):
            return math.inf
        cached = any(isinstance(t, PrometheusTrigger) and t.cached for t in scaler.triggers)
        idle = scaler.idle_replica_count is not None
        if scaler.min_replicas > 0 and not (idle or cached or scaler.fallback):
            return math.inf
        return self._poll_phase_s + self._polls * self.polling_s

    def poll(self, pods: Pods, now_s: float) -> Step:
        """One poll of KEDA's scale loop."""
        assert self.loops is not None
        self._polls += 1
        self.loops, step = self.loops.polled(self._reads(now_s), _workload(pods), self.began_s + now_s)
        return step

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
        return read_triggers(self.scaler, given, self.began_s + now_s)


def _answer(values: Sequence[float], many: QueryFailed) -> Answer:
    if len(values) > 1:
        return many
    return values[0] if values else NoElement()


def _workload(pods: Pods) -> TargetPods:
    return TargetPods(pods.desired, seen(pods).ready or 0)


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
