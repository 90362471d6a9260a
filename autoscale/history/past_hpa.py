"""What an HPA decided in production, and whether the controller's rules give the same from the metrics of that time.

kube-state-metrics tells bounds, targets and the desired replicas at every scrape, but not the behaviour, nor when a sync
was. Syncs come every 15.02 to 15.2 s, so they drift through the scrapes, and the newest sample that a decision may rest on
has an age that moves by no more than 5 s in DRIFT_SYNCS, or by a whole period when a sync slips past a scrape. The age
follows where that reproduces a decision; no more freely. Windows are counted on the syncs' clock: twenty of them are a little
more than 300 s, and what a window of 300 s holds is then over. At every sync the target stands where the recorded one stood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoscale.history.pod_moments import PodMoments
from autoscale.history.service import CHUNK_S, STEP_S, Service
from autoscale.history.told_hpa import Manifest, PastHpa
from autoscale.hpa.arithmetic import US, SizeRecord
from autoscale.hpa.calculator import PodMetric, Reading
from autoscale.hpa.limits import Memory
from autoscale.hpa.rules import HpaDecision, decide
from autoscale.hpa.spec import HpaSpec
from autoscale.kube.vllm_names import signal_of
from autoscale.observe.tidy import silence_s
from autoscale.observe.window import read_window

if TYPE_CHECKING:
    import pandas as pd

AGES_S = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)  # at the first sync, of the newest sample that it may have seen
OLDEST_S = 45.0
STEPS_S = (-5.0, 5.0, -15.0, 15.0)
DRIFT_SYNCS = 25  # of 0.2 s each
SYNC_S = 15.1  # for each 15 s of scrapes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reproduced:
    """Decisions that the rules reproduce, of all, of those at which every replica's metrics were known, and of those that
    changed the size, these also to the same size within a sync."""

    same: int
    syncs: int
    same_known: int
    known: int
    same_rescales: int
    near_rescales: int
    rescales: int

    @property
    def complete(self) -> float:
        """The share of the syncs at which every replica's metrics were known."""
        return self.known / max(self.syncs, 1)

    def sentence(self, name: str) -> str:
        """For a terminal."""
        return (
            f"past decisions of the HPA {name}: the controller's rules, fed with the recorded metrics, give the same size at "
            f"{self.same / max(self.syncs, 1):.2%} of the last {self.syncs:,} syncs, and {self.near_rescales} of {self.rescales} "
            f"rescales within one sync ({self.same_rescales} at theirs: when a sync was is not recorded); metrics of all replicas were there at "
            f"{self.complete:.1%} of the syncs, and {self.same_known / max(self.known, 1):.2%} of these are the same"
        )


def reproduced(
    service: Service, past: PastHpa, manifest: Manifest, lives: Sequence[PodMoments]
) -> Reproduced | None:
    """How many of the past decisions the rules give with this object (`lives`: pod_moments); None where too few are known."""
    spec = HpaSpec.from_manifest(dict(manifest))
    signals = {metric.name: signal_of(metric.name) for metric in spec.metrics}
    if len(past.times_s) < 2 or not all(signals.values()):
        return None
    tables = {name: _samples(service, str(signal), past.times_s) for name, signal in signals.items()}
    silent_s = silence_s(service.interval_s)
    first_s = float(past.times_s[0]) - OLDEST_S - silent_s
    last_s = {
        pod: times_s[-1] for samples in tables.values() for pod, (times_s, _, _) in samples.pods.items()
    }
    gone = {
        pod: at_s for pod, at_s in last_s.items() if at_s < first_s
    }  # of no sync, and a fortnight has many
    tables = {name: _Samples({p: s.pods[p] for p in s.pods.keys() - gone}) for name, s in tables.items()}
    starts = [one for one in lives if not one.created_s <= gone.get(one.pod, -math.inf)]
    starts.sort(key=lambda one: -one.created_s)
    recorded = past.desired[1:]
    seen = _Seen(tables, starts, silent_s)
    decided = [_decided(spec, past, seen, age_s) for age_s in AGES_S]
    changed = recorded != past.desired[:-1]

    def right(sizes: NDArray[np.int64]) -> tuple[int, int]:
        same = sizes == recorded
        return int((same & changed).sum()) + int(same.sum()), int(same.sum())

    sizes, late = max(decided, key=lambda one: right(one[0]))
    same, known = sizes == recorded, _known(past, seen)
    early = np.append(False, sizes[:-1] == recorded[1:])
    return Reproduced(
        int(same.sum()),
        len(same),
        int((same & known).sum()),
        int(known.sum()),
        int((same & changed).sum()),
        int((changed & (same | early | late)).sum()),
        int(changed.sum()),
    )


@dataclass(frozen=True, eq=False)
class _Samples:
    """One signal: per pod its times (unix s), values, and until when it was scraped on from each of them."""

    pods: dict[str, tuple[Floats, Floats, Floats]]

    def at(self, time_s: float, silent_s: float) -> dict[str, float]:
        """The newest value of every pod that was scraped not longer ago than `silent_s`; those first that stay longest."""
        seen = []
        for pod, (times_s, values, ends_s) in self.pods.items():
            k = int(np.searchsorted(times_s, time_s, side="right")) - 1
            if k >= 0 and time_s - times_s[k] <= silent_s:
                seen.append((-float(ends_s[k]), pod, float(values[k])))
        return {pod: value for _, pod, value in sorted(seen, key=lambda one: one[0])}

    def told(self, life: PodMoments, at_s: float) -> bool:
        """Whether a pod had a value in that life by then."""
        times_s = self.pods.get(life.pod, (np.zeros(0),))[0]
        first = int(np.searchsorted(times_s, life.created_s))
        return first < len(times_s) and bool(times_s[first] <= at_s)


def _samples(service: Service, signal: str, times_s: Floats) -> _Samples:
    frame, zero = service.frame, service.start_s
    if signal not in frame or frame[signal].isna().all():
        window = max(service.start_s, float(times_s[0]) - 60.0), service.end_s
        zero = window[0]
        frame = read_window(
            service.door,
            window,
            step_s=STEP_S,
            matchers=service.asked,
            model=service.model,
            any_model=service.model is None,
            columns=(signal,),
            chunk_s=CHUNK_S,
        ).frame
    silent_s = silence_s(service.interval_s)
    return _Samples({str(pod): _of_pod(rows, signal, zero, silent_s) for pod, rows in frame.groupby("pod")})


def _of_pod(rows: pd.DataFrame, signal: str, zero_s: float, silent_s: float) -> tuple[Floats, Floats, Floats]:
    """A pod's values: of several engines their sum, of KV usage the mean; and the ends of its stretches without a silence."""
    by_time = rows.dropna(subset=[signal]).groupby("time_s")[signal]
    values = by_time.mean() if signal == "kv_usage" else by_time.sum()
    times_s = values.index.to_numpy(np.float64) + zero_s
    last = np.append(np.diff(times_s) > silent_s, True)[: len(times_s)]
    ends_s = times_s[last][np.searchsorted(times_s[last], times_s)]
    return times_s, values.to_numpy(np.float64), ends_s


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is known of the pods: samples per metric, and when each was started, the youngest first."""

    tables: Mapping[str, _Samples]
    starts: Sequence[PodMoments]
    silent_s: float

    def nothing(self, at_s: float) -> bool:
        """Whether no pod told anything."""
        return not any(samples.at(at_s, self.silent_s) for samples in self.tables.values())

    def pods(self, at_s: float, replicas: int) -> dict[str, Reading]:
        """Per metric one entry for each of so many pods, as the controller would have seen them."""
        metrics: dict[str, Reading] = {}
        for name, samples in self.tables.items():
            told = list(samples.at(at_s, self.silent_s).items())[:replicas]  # the others are being deleted
            pods = [PodMetric(pod, value_milli=round(1000 * value)) for pod, value in told]
            missing = replicas - len(told)
            metrics[name] = pods + _without_value(
                {pod for pod, _ in told}, samples, self.starts, at_s, missing
            )
        return metrics


def _decided(
    spec: HpaSpec, past: PastHpa, seen: _Seen, age_s: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """What the rules decide at every recorded scrape but the first; and whether they decide on a rescale one sync later."""
    memory: Memory | None = None
    sizes, late = [], []
    guessed: set[int] = set()  # times of recommendations
    moved = -DRIFT_SYNCS
    desired, times_s = past.desired.tolist(), past.times_s.tolist()
    next_s = [*times_s[2:], math.inf]

    def decision_at(now_s: float, seen_s: float, memory: Memory | None, before: int) -> HpaDecision:
        return decide(spec, memory, before, seen.pods(seen_s, before), now_s * SYNC_S / 15)

    for number, (before, after, now_s) in enumerate(zip(desired[:-1], desired[1:], times_s[1:], strict=True)):
        decision = decision_at(now_s, now_s - age_s, memory, before)
        if decision.replicas != after and number - moved >= DRIFT_SYNCS:
            for other_s in (age_s + step for step in STEPS_S if 0 <= age_s + step <= OLDEST_S):
                other = decision_at(now_s, now_s - other_s, memory, before)
                if other.replicas == after:
                    decision, age_s, moved = other, other_s, number
                    break
        then_s = next_s[number] if decision.replicas != after != before else math.inf
        late.append(
            then_s < math.inf
            and decision_at(then_s, then_s - age_s, decision.memory, before).replicas == after
        )
        memory = decision.memory
        if seen.nothing(now_s - age_s):  # the controller had metrics, and recommended what it did
            guessed.add(at_us := round(now_s * SYNC_S / 15 * US))
            memory = replace(memory, recommendations=(*memory.recommendations, SizeRecord(at_us, after)))
        if after < decision.replicas:  # then it had no such recommendation left
            kept = [one for one in memory.recommendations if one.replicas <= after or one.time_us in guessed]
            least = tuple(one._replace(replicas=min(one.replicas, after)) for one in kept)
            memory = replace(memory, recommendations=least)
        sizes.append(decision.replicas)
    return np.array(sizes, np.int64), np.array(late, bool)


def _without_value(
    seen: set[str],
    samples: _Samples,
    starts: Sequence[PodMoments],
    at_s: float,
    count: int,
) -> list[PodMetric]:
    """Pods that are starting, the youngest first: Running without a value once their container runs, else Pending."""
    found: list[PodMetric] = []
    for one in starts if count > 0 else ():
        if (
            one.pod not in seen
            and one.created_s <= at_s
            and not samples.told(one, at_s)
            and len(found) < count
        ):
            found.append(PodMetric(one.pod, phase="Running" if one.started_s <= at_s else "Pending"))
    return found + [PodMetric(f"unknown-{k}", phase="Pending") for k in range(count - len(found))]


def _known(past: PastHpa, seen: _Seen) -> NDArray[np.bool_]:
    """The syncs at which every replica told its metrics, or is known to have been starting."""
    known = []
    for before, now_s in zip(past.desired[:-1].tolist(), past.times_s[1:].tolist(), strict=True):
        starting = sum(one.starting(now_s) for one in seen.starts)
        known.append(all(len(s.at(now_s, seen.silent_s)) + starting >= before for s in seen.tables.values()))
    return np.array(known, bool)
