"""What a simulation answers: who kept the SLO, what it cost, what the HPA did; and the same as a run directory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.histogram import Histogram
from analysis.numbers import known
from analysis.slo import Slo, Verdict
from autoscale.profiles.profile import Profile
from autoscale.sim.fleet.held import Held
from autoscale.sim.fleet.replica import FleetReplica, PodEvent, pod_name
from autoscale.sim.fleet.spending import Spending, Spent
from autoscale.sim.fleet.tally import Period, Tally

if TYPE_CHECKING:
    from autoscale.sim.fleet.control import Fleet


class FleetRecorder:
    """Follows a simulated fleet: replica counts, decisions that changed something, pod events, wasted scale-outs."""

    def __init__(self, profile: Profile, *, keep: bool, replicas: int) -> None:
        self.profile, self.keep = profile, keep
        self.replicas: list[tuple[float, int, int, int, int]] = []  # time, desired, created, scheduled, ready
        self.decisions: list[tuple[float, int, int, str]] = []  # time, before, after, sentence
        self.events: list[tuple[float, str, str, int]] = []  # time, kind, pod, ordinal
        self.wasted = 0
        self.spent = Spent(profile.replica.chips_per_node)
        self.batches: list[NDArray[Any]] = []
        self.samples: list[tuple[float, NDArray[Any], list[str]]] = []
        self._counts = [replicas, 0, 0, 0]
        self._sampled = None

    def pod(self, event: PodEvent) -> None:
        """Count the transition."""
        replica, counts = event.replica, self._counts
        self.spent.pod(event)
        if event.kind == "created":
            counts[1] += 1
        elif event.kind == "scheduled" and replica.scheduled:
            counts[2] += 1
        elif event.kind == "recreated" and replica.scheduled:
            counts[2] -= 1
        elif event.kind == "ready":
            counts[3] += 1
        elif event.kind == "deleting":
            counts[1] -= 1
            counts[2] -= replica.scheduled
            counts[3] -= known(replica.ready_s)
            self.wasted += not known(replica.ready_s)
        self.events.append((event.time_s, event.kind, self.pod_name(replica, event.member), replica.ordinal))
        if event.kind in ("created", "scheduled", "ready", "deleting", "recreated"):
            self._row(event.time_s)

    def query(self, *_: Any) -> None:
        """Reads are not recorded."""

    def sync(self, *_: Any) -> None:
        """Decisions that change nothing are not recorded."""

    def scaled(self, now_s: float, before: int, after: int, why: str) -> None:
        """A change of the number of replicas."""
        self.decisions.append((now_s, before, after, why))
        self._counts[0] = after
        self._row(now_s)

    def _row(self, now_s: float) -> None:
        row = (now_s, *self._counts)
        if self.replicas and self.replicas[-1][0] == now_s:
            self.replicas[-1] = row  # type: ignore[assignment]  # four counts
        else:
            self.replicas.append(row)  # type: ignore[arg-type]

    def pod_name(self, replica: FleetReplica, member: int = 0) -> str:
        """The pod's name as Kubernetes would build it."""
        return pod_name(self.profile, replica, member)

    def sample(self, fleet: Fleet) -> None:
        """Keep the gauges of a scrape, when there was one since the last call."""
        gauges = fleet.last_gauges
        if gauges is not None and gauges is not self._sampled:
            self._sampled = gauges
            slots = sorted(fleet.serving)
            names = [self.pod_name(fleet.serving[slot]) for slot in slots]
            self.samples.append((fleet.now_s, gauges[slots], names))

    def keep_requests(self, finished: NDArray[Any]) -> None:
        """Note where a batch of finished requests was; keep it when everything is kept."""
        self.spent.requests(finished)
        if self.keep and len(finished):
            self.batches.append(finished)


@dataclass(frozen=True)
class Outcome:
    """What a simulation gave; hours are counted to the end of the traffic, requests judged by their due time.

    attainment          share of the offered, not rejected requests that kept every bound; lost and unserved did not
    verdicts            per term of the SLO the percentile and the share within the bound (Verdict)
    finished            answered or lost; with rejected and unserved these are the offered ones
    lost, unserved      cancelled by a scale-in, or no replica was ready; not finished when the simulation ended
    rejected            longer than the model or the KV cache takes (HTTP 400); judged by nothing
    wasted_scale_outs   replicas that were removed before they were ready
    flaps               changes of direction within `flap_s`
    longest_breach_s    longest time in a row in which the due requests broke the SLO's share
    hours_over          hours in which they did
    periods             the same of every day, or of the whole traffic where that is shorter
    cost                accelerator-hours at the profile's price; NaN without a price
    replicas            rows of time_s, desired, created, scheduled, ready, one per change
    decisions           rows of time_s, before, after, why
    events              rows of time_s, kind, pod, ordinal of the start
    spent               what `spending` is worked out from
    requests            engine.FINISHED by request_id, when everything was kept
    from_zero           requests that were due while no replica was ready, of a scaler that goes to zero
    longest_from_zero_s the longest TTFT among them; NaN without one
    held                what an inference gateway did with them, None without one
    unread              sentences on KEDA's triggers that could not be read
    asleep_s            time at the end in which nothing woke a fleet at 0 although requests came
    """

    profile: Profile
    slo: Slo
    seed: int
    duration_s: float
    offered: int
    finished: int
    ok: int
    lost: int
    unserved: int
    rejected: int
    attainment: float
    verdicts: tuple[Verdict, ...]
    replica_hours: float
    accelerator_hours: float
    cost: float
    wasted_scale_outs: int
    flaps: int
    longest_breach_s: float
    hours_over: int
    periods: tuple[Period, ...]
    peak_replicas: int
    output_tokens: int
    latency: Mapping[str, Histogram]
    replicas: tuple[tuple[float, int, int, int, int], ...]
    decisions: tuple[tuple[float, int, int, str], ...]
    events: tuple[tuple[float, str, str, int], ...]
    spent: Spent = field(compare=False, repr=False)
    stopped: str = ""
    requests: NDArray[Any] | None = field(default=None, compare=False)
    samples: tuple[Any, ...] = field(default=(), compare=False)
    held: Held | None = None
    from_zero: int = 0
    longest_from_zero_s: float = field(default=math.nan, compare=False)
    unread: tuple[str, ...] = field(default=(), compare=False)
    asleep_s: float = field(default=0.0, compare=False)

    def spending(self, begins_s: float = 0.0) -> Spending:
        """Where its accelerator-hours went; the traffic began `begins_s` after a midnight."""
        return self.spent.spending(self.duration_s, begins_s)

    @property
    def longest_start_s(self) -> float:
        """From created to ready, of the slowest start that was finished; NaN when there was none."""
        created = {ordinal: time_s for time_s, kind, _, ordinal in self.events if kind == "created"}
        starts = [t - created[o] for t, kind, _, o in self.events if kind == "ready" and o >= 0]
        return max(starts, default=math.nan)

    def share_asking(self, replicas: int) -> float:
        """Share of the time in which so many replicas, or more, were desired."""
        ends_s = [*(row[0] for row in self.replicas[1:]), self.duration_s]
        asking_s = sum(
            max(min(end_s, self.duration_s) - max(row[0], 0.0), 0.0)
            for row, end_s in zip(self.replicas, ends_s, strict=True)
            if row[1] >= replicas
        )
        return asking_s / self.duration_s

    @property
    def holds(self) -> bool:
        """Whether every term of the SLO held over the whole run."""
        return not self.stopped and all(v.holds for v in self.verdicts)

    @property
    def margin(self) -> float:
        """Smallest over the terms of share within the bound minus share asked; NaN without a request."""
        margins = [v.share_within - v.asked for v in self.verdicts]
        return math.nan if any(not known(m) for m in margins) else min(margins)

    def percentile(self, metric: str, percent: float) -> float:
        """A percentile in s of ttft, tpot or e2e over the finished requests; NaN when there were none."""
        return self.latency[metric].quantile(percent / 100)

    def asked_latencies(self) -> Iterator[tuple[str, float]]:
        """Name and value in s of the percentiles that the SLO asks about (Slo.percentile_terms); gaps have none here."""
        for term in self.slo.percentile_terms():
            if term.metric in self.latency and term.percentile:
                yield term.name, self.percentile(term.metric, term.percentile)

    @classmethod
    def of(
        cls,
        *,
        profile: Profile,
        slo: Slo,
        tally: Tally,
        recorder: FleetRecorder,
        duration_s: float,
        offered: int,
        hours: tuple[float, float],
        flap_s: float,
        stopped: str,
        seed: int,
        held: Held | None,
    ) -> Outcome:
        """Put together what tally and recorder saw."""
        unserved = 0 if stopped else offered - tally.requests - tally.rejected
        total = tally.requests + unserved
        price = profile.accelerator.price_per_chip_hour
        requests = None
        if recorder.keep:
            requests = np.concatenate(recorder.batches) if recorder.batches else None
            requests = (
                requests if requests is None else requests[np.argsort(requests["request_id"], kind="stable")]
            )
        return cls(
            profile=profile,
            slo=slo,
            seed=seed,
            duration_s=duration_s,
            offered=offered,
            finished=tally.requests,
            ok=tally.ok,
            lost=tally.requests - tally.ok,
            unserved=unserved,
            rejected=tally.rejected,
            attainment=tally.good / total if total else math.nan,
            verdicts=_verdicts(slo, tally, unserved, total),
            replica_hours=hours[0],
            accelerator_hours=hours[1],
            cost=math.nan if price is None else hours[1] * price,
            wasted_scale_outs=recorder.wasted,
            flaps=_flaps(recorder.decisions, flap_s),
            longest_breach_s=tally.longest_breach_s(),
            hours_over=tally.hours_over(),
            periods=tally.periods(unserved),
            peak_replicas=max((row[1] for row in recorder.replicas), default=0),
            output_tokens=tally.output_tokens,
            latency=tally.latency,
            replicas=tuple(recorder.replicas),
            decisions=tuple(recorder.decisions),
            events=tuple(recorder.events),
            stopped=stopped,
            requests=requests,
            samples=tuple(recorder.samples),
            held=held,
            from_zero=tally.from_zero.count if tally.from_zero else 0,
            longest_from_zero_s=tally.from_zero.longest_s if tally.from_zero else math.nan,
            spent=recorder.spent,
        )


def _verdicts(slo: Slo, tally: Tally, unserved: int, total: int) -> tuple[Verdict, ...]:
    verdicts = []
    for k, term in enumerate(tally.terms):
        assert term.percentile is not None
        count = int(tally.judged[k]) + unserved
        share = int(tally.within[k]) / count if count else math.nan
        value = tally.latency[term.metric].quantile(term.percentile / 100)
        verdicts.append(Verdict(term.name, value, share, term.percentile / 100, count))
    if slo.goodput is not None:
        share = tally.good / total if total else math.nan
        verdicts.append(Verdict("goodput", share, share, slo.goodput, total))
    return tuple(verdicts)


def _flaps(decisions: list[tuple[float, int, int, str]], within_s: float) -> int:
    """Changes of direction that come within `within_s` of the change before."""
    pairs = pairwise(decisions)
    return sum((b[2] > b[1]) != (a[2] > a[1]) and b[0] - a[0] <= within_s for a, b in pairs)
