"""What a simulation answers: who kept the SLO, what it cost, what the HPA did; and the same as a run directory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.histogram import Histogram
from analysis.numbers import known
from analysis.run import STATUSES
from analysis.slo import Slo, Verdict, meets
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.state import REFUSED
from autoscale.sim.fleet.replica import FleetReplica, PodEvent, pod_name

if TYPE_CHECKING:
    from autoscale.sim.fleet.control import Fleet

METRICS = ("ttft", "tpot", "e2e")
MINUTE_S = 60.0


class Tally:
    """Counts and histograms of finished requests; its size does not grow with the number of requests.

    A request that did not finish well is a breach of every bound. One that the model or the cache is too short for is
    counted apart and judged by nothing: the server refuses it at once, however many replicas there are. `least_accelerator_hours` is what the run will have
    taken at least, kept up to date by the fleet for those who stop a run by its cost.
    """

    def __init__(self, slo: Slo, duration_s: float) -> None:
        self.slo = slo
        self.terms = [t for t in slo.terms if t.percentile is not None and t.metric in METRICS]
        self.requests = 0  # finished, one way or another, the rejected ones not counted
        self.rejected = 0
        self.ok = 0
        self.good = 0  # kept every bound
        self.judged = np.zeros(len(self.terms), np.int64)
        self.within = np.zeros(len(self.terms), np.int64)
        self.output_tokens = 0
        self.latency = {metric: Histogram() for metric in METRICS}
        minutes = math.ceil(duration_s / MINUTE_S)
        self.due_by_minute = np.zeros(minutes, np.int64)
        self.breaches_by_minute = np.zeros((len(self.terms), minutes), np.int64)
        self.least_accelerator_hours = 0.0

    def add(self, finished: NDArray[Any]) -> NDArray[Any]:
        """Count a batch of finished requests (engine.FINISHED) and hand it back."""
        self._count(finished[finished["slot"] != REFUSED])
        self.rejected += int((finished["slot"] == REFUSED).sum())
        return finished

    def _count(self, finished: NDArray[Any]) -> None:
        if len(finished) == 0:
            return
        ok = finished["status"] == STATUSES.index("ok")
        ttft = finished["first_token_s"] - finished["due_s"]
        e2e = finished["last_token_s"] - finished["due_s"]
        more = finished["output_tokens"] - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            decode = finished["last_token_s"] - finished["first_token_s"]
            tpot = np.where(more > 0, decode / more, np.nan)
        values = {"ttft": ttft, "tpot": tpot, "e2e": e2e}
        self.requests += len(finished)
        self.ok += int(ok.sum())
        self.good += int(meets(self.slo, ok, ttft, tpot, e2e).sum())
        self.output_tokens += int(finished["output_tokens"].sum())
        minute = (finished["due_s"] / MINUTE_S).astype(np.int64)
        low = int(minute.min())
        width = int(minute.max()) - low + 1
        self.due_by_minute[low : low + width] += np.bincount(minute - low, minlength=width)
        for k, term in enumerate(self.terms):
            seconds = values[term.metric]
            within = ok & (seconds <= term.bound_s)
            judged = ~ok | np.isfinite(seconds)
            self.judged[k] += int(judged.sum())
            self.within[k] += int(within.sum())
            breach = minute[judged & ~within] - low
            if len(breach):
                self.breaches_by_minute[k, low : low + width] += np.bincount(breach, minlength=width)
        for metric, seconds in values.items():
            self.latency[metric].add(seconds[ok & np.isfinite(seconds)])

    def longest_breach_s(self) -> float:
        """The longest time in a row, in whole minutes, in which the requests that were due broke the SLO's share."""
        over = np.zeros(len(self.due_by_minute), bool)
        for k, term in enumerate(self.terms):
            assert term.percentile is not None
            over |= self.breaches_by_minute[k] > (1 - term.percentile / 100) * self.due_by_minute
        ends = np.flatnonzero(np.diff(np.concatenate([[0], over.astype(np.int8), [0]])))
        return float((ends[1::2] - ends[::2]).max()) * MINUTE_S if len(ends) else 0.0


class FleetRecorder:
    """Follows a simulated fleet: replica counts, decisions that changed something, pod events, wasted scale-outs."""

    def __init__(self, profile: Profile, *, keep: bool, replicas: int) -> None:
        self.profile, self.keep = profile, keep
        self.replicas: list[tuple[float, int, int, int, int]] = []  # time, desired, created, scheduled, ready
        self.decisions: list[tuple[float, int, int, str]] = []  # time, before, after, sentence
        self.events: list[tuple[float, str, str, int]] = []  # time, kind, pod, ordinal
        self.wasted = 0
        self.batches: list[NDArray[Any]] = []
        self.samples: list[tuple[float, NDArray[Any], list[str]]] = []
        self._counts = [replicas, 0, 0, 0]
        self._sampled = None

    def pod(self, event: PodEvent) -> None:
        """Count the transition."""
        replica, counts = event.replica, self._counts
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
        """Keep a batch of finished requests when everything is kept."""
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
    cost                accelerator-hours at the profile's price; NaN without a price
    replicas            rows of time_s, desired, created, scheduled, ready, one per change
    decisions           rows of time_s, before, after, why
    events              rows of time_s, kind, pod, ordinal of the start
    requests            engine.FINISHED by request_id, when everything was kept
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
    peak_replicas: int
    output_tokens: int
    latency: Mapping[str, Histogram]
    replicas: tuple[tuple[float, int, int, int, int], ...]
    decisions: tuple[tuple[float, int, int, str], ...]
    events: tuple[tuple[float, str, str, int], ...]
    stopped: str = ""
    requests: NDArray[Any] | None = field(default=None, compare=False)
    samples: tuple[Any, ...] = field(default=(), compare=False)

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
            peak_replicas=max((row[1] for row in recorder.replicas), default=0),
            output_tokens=tally.output_tokens,
            latency=tally.latency,
            replicas=tuple(recorder.replicas),
            decisions=tuple(recorder.decisions),
            events=tuple(recorder.events),
            stopped=stopped,
            requests=requests,
            samples=tuple(recorder.samples),
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
