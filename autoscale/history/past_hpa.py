"""What an HPA decided in production, and whether the controller's rules give the same from the metrics of that time.

kube-state-metrics tells bounds, targets and the desired replicas at every scrape, but not the behaviour, nor when a sync
was. Syncs come every 15.02 to 15.2 s, so they drift through the scrapes, and the newest sample that a decision may rest on
has an age that moves by no more than 5 s in DRIFT_SYNCS, or by a whole period when a sync slips past a scrape. The age
follows where that reproduces a decision; no more freely. At every sync the target stands where the recorded one stood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoscale.history.pod_moments import PodMoments, pod_moments
from autoscale.history.service import CHUNK_S, STEP_S, Service
from autoscale.hpa.calculator import PodMetric, Reading
from autoscale.hpa.limits import Memory
from autoscale.hpa.rules import decide
from autoscale.hpa.spec import HpaSpec
from autoscale.kube.vllm_names import signal_of
from autoscale.observe.prometheus import Refused
from autoscale.observe.series import listed
from autoscale.observe.tidy import silence_s
from autoscale.observe.window import read_window

if TYPE_CHECKING:
    import pandas as pd

PREFIX = "kube_horizontalpodautoscaler_"
AGES_S = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)  # at the first sync, of the newest sample that it may have seen
OLDEST_S = 45.0
STEPS_S = (-5.0, 5.0, -15.0, 15.0)
DRIFT_SYNCS = 25  # of 0.2 s each
MOST_SYNCS = 6_000  # of the past, the last ones: a day, whose decisions take seconds to repeat
DAY_S = 86_400.0

Floats = NDArray[np.float64]
Manifest = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class PastHpa:
    """An HPA as kube-state-metrics tells: its object without a behaviour, and what it wanted at the scrapes `times_s`
    (unix s)."""

    name: str
    manifest: Manifest
    times_s: Floats
    desired: NDArray[np.int64]


@dataclass(frozen=True)
class Reproduced:
    """Decisions that the rules reproduce, of all and of those that changed the size; the share of the syncs at which every
    replica's metrics were known."""

    same: int
    syncs: int
    same_rescales: int
    rescales: int
    complete: float

    def sentence(self, name: str) -> str:
        """For a terminal."""
        return (
            f"past decisions of the HPA {name}: the controller's rules, fed with the recorded metrics, give the same size at "
            f"{self.same / max(self.syncs, 1):.2%} of the last {self.syncs:,} syncs and at {self.same_rescales} of {self.rescales} "
            f"rescales; metrics of all replicas were there at {self.complete:.1%} of the syncs"
        )


def past_hpa(service: Service) -> tuple[PastHpa | None, list[str]]:
    """The HPA that scales on the service's metrics, None where there is none or not one alone; and sentences on it."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for one in _last(service, "spec_target_metric"):
        labels = one["metric"]
        if labels.get("metric_target_type") == "average" and signal_of(labels.get("metric_name", "")):
            key = labels.get("namespace", "default"), labels.get("horizontalpodautoscaler", "")
            found.setdefault(key, []).append((labels["metric_name"], float(one["value"][1])))
    if len(found) != 1:
        names = listed([name for _, name in found])
        return None, [
            f"several HPAs scale on vLLM's metrics ({names}): --namespace chooses, or --current FILE"
            if found
            else "Prometheus has no kube_horizontalpodautoscaler_ series of an HPA on vLLM's metrics: --current FILE sets "
            "the answer beside what runs now"
        ]
    ((namespace, name), targets) = next(iter(found.items()))
    of = f'namespace="{namespace}",horizontalpodautoscaler="{name}"'
    bounds = {}
    for which in ("min", "max"):
        told = _last(service, f"spec_{which}_replicas", of)
        if not told:
            return None, [f"the HPA {name} has no {PREFIX}spec_{which}_replicas: --current FILE tells it"]
        bounds[f"{which}Replicas"] = int(float(told[0]["value"][1]))
    times_s, desired = _desired(service, of)
    manifest = _manifest(namespace, name, bounds, targets)
    said = f"the HPA {name} is taken as kube-state-metrics tells it, which leaves out its behavior block: --current FILE has it"
    return PastHpa(name, manifest, times_s[-MOST_SYNCS:], desired[-MOST_SYNCS:]), [said]


def reproduced(service: Service, past: PastHpa, manifest: Manifest) -> Reproduced | None:
    """How many of the past decisions the rules give with this object; None where too few are known."""
    spec = HpaSpec.from_manifest(dict(manifest))
    signals = {metric.name: signal_of(metric.name) for metric in spec.metrics}
    if len(past.times_s) < 2 or not all(signals.values()):
        return None
    tables = {name: _samples(service, str(signal), past.times_s) for name, signal in signals.items()}
    starts = sorted(pod_moments(service).items(), key=lambda item: -item[1].created_s)
    silent_s = silence_s(service.interval_s)
    recorded = past.desired[1:]
    seen = _Seen(tables, starts, silent_s)
    rows = [np.array(_decided(spec, past, seen, age_s), dtype=int) == recorded for age_s in AGES_S]
    changed = recorded != past.desired[:-1]
    same = max(rows, key=lambda right: (int((right & changed).sum()) + int(right.sum()), int(right.sum())))
    return Reproduced(
        int(same.sum()),
        len(same),
        int((same & changed).sum()),
        int(changed.sum()),
        _complete(past, seen),
    )


@dataclass(frozen=True, eq=False)
class _Samples:
    """One signal: per pod its times (unix s) and values."""

    pods: dict[str, tuple[Floats, Floats]]

    def at(self, time_s: float, silent_s: float) -> dict[str, float]:
        """The newest value of every pod that was scraped not longer ago than `silent_s`; those first that stayed longest."""
        seen = {}
        for pod, (times_s, values) in self.pods.items():
            k = int(np.searchsorted(times_s, time_s, side="right")) - 1
            if k >= 0 and time_s - times_s[k] <= silent_s:
                seen[pod] = float(values[k])
        return dict(sorted(seen.items(), key=lambda item: -self.pods[item[0]][0][-1]))


def _samples(service: Service, signal: str, times_s: Floats) -> _Samples:
    frame, zero = service.frame, service.start_s
    if frame[signal].isna().all():
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
    return _Samples({str(pod): _of_pod(rows, signal, zero) for pod, rows in frame.groupby("pod")})


def _of_pod(rows: pd.DataFrame, signal: str, zero_s: float) -> tuple[Floats, Floats]:
    """A pod's values: of several engines their sum, of KV usage the mean."""
    by_time = rows.dropna(subset=[signal]).groupby("time_s")[signal]
    values = by_time.mean() if signal == "kv_usage" else by_time.sum()
    return values.index.to_numpy(np.float64) + zero_s, values.to_numpy(np.float64)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is known of the pods: samples per metric, and when each was started, the youngest first."""

    tables: Mapping[str, _Samples]
    starts: Sequence[tuple[str, PodMoments]]
    silent_s: float

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


def _decided(spec: HpaSpec, past: PastHpa, seen: _Seen, age_s: float) -> list[int]:
    """What the rules decide at every recorded scrape but the first."""
    memory: Memory | None = None
    sizes: list[int] = []
    moved = -DRIFT_SYNCS
    desired, times_s = past.desired.tolist(), past.times_s.tolist()
    for number, (before, after, now_s) in enumerate(zip(desired[:-1], desired[1:], times_s[1:], strict=True)):
        decision = decide(spec, memory, before, seen.pods(now_s - age_s, before), now_s)
        if decision.replicas != after and number - moved >= DRIFT_SYNCS:
            for other_s in (age_s + step for step in STEPS_S if 0 <= age_s + step <= OLDEST_S):
                other = decide(spec, memory, before, seen.pods(now_s - other_s, before), now_s)
                if other.replicas == after:
                    decision, age_s, moved = other, other_s, number
                    break
        memory = decision.memory
        if after < decision.replicas:  # then the controller had no such recommendation left
            kept = tuple(one for one in memory.recommendations if one.replicas <= after)
            memory = replace(memory, recommendations=kept)
        sizes.append(decision.replicas)
    return sizes


def _without_value(
    seen: set[str],
    samples: _Samples,
    starts: Sequence[tuple[str, PodMoments]],
    at_s: float,
    count: int,
) -> list[PodMetric]:
    """Pods that are starting, the youngest first: Running without a value once their container runs, else Pending."""
    found: list[PodMetric] = []
    for pod, moments in starts if count > 0 else ():
        begun = pod in samples.pods and samples.pods[pod][0][0] <= at_s
        if pod not in seen and not begun and moments.created_s <= at_s and len(found) < count:
            found.append(PodMetric(pod, phase="Running" if moments.started_s <= at_s else "Pending"))
    return found + [PodMetric(f"unknown-{k}", phase="Pending") for k in range(count - len(found))]


def _complete(past: PastHpa, seen: _Seen) -> float:
    """The share of the syncs at which every replica told its metrics, or is known to have been starting."""
    known = []
    for before, now_s in zip(past.desired[:-1].tolist(), past.times_s[1:].tolist(), strict=True):
        starting = sum(m.created_s <= now_s and not m.ready_s <= now_s for _, m in seen.starts)
        known.append(all(len(s.at(now_s, seen.silent_s)) + starting >= before for s in seen.tables.values()))
    return float(np.mean(known))


def _last(service: Service, name: str, matchers: str = "") -> list[Mapping[str, Any]]:
    asked = ",".join(part for part in service.asked.split(",") if part.startswith("namespace="))
    matchers = ",".join(filter(None, (matchers or asked,)))
    query = f"last_over_time({PREFIX}{name}{{{matchers}}}[{service.end_s - service.start_s:.0f}s])"
    try:
        return list(service.door.query(query, service.end_s))
    except Refused:
        return []


def _desired(service: Service, of: str) -> tuple[Floats, NDArray[np.int64]]:
    name, window = f"{PREFIX}status_desired_replicas", (service.start_s, service.end_s)
    pairs: list[list[Any]] = []
    for _, series in service.door.samples([name], of, window, STEP_S, DAY_S):
        pairs += [pair for _, values in series[:1] for pair in values]
    pairs.sort(key=lambda pair: float(pair[0]))
    return np.array([p[0] for p in pairs], np.float64), np.array([float(p[1]) for p in pairs]).astype(
        np.int64
    )


def _manifest(
    namespace: str, name: str, bounds: Mapping[str, int], targets: list[tuple[str, float]]
) -> Manifest:
    """The object without its behaviour; what it scales is called as itself."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            **bounds,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": metric},
                        "target": {"type": "AverageValue", "averageValue": f"{round(1000 * value)}m"},
                    },
                }
                for metric, value in sorted(targets)
            ],
        },
    }
