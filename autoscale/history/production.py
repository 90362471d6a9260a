"""All that a Prometheus tells of a service for a recommendation: its traffic, its replicas, their versions and their starts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.numbers import known
from autoscale.history.learned import LearnedTraffic, learn_traffic
from autoscale.history.operating import OperatingPoints, points_of_operation
from autoscale.history.past_hpa import reproduced
from autoscale.history.pod_moments import PodMoments, at_the_end, pod_moments
from autoscale.history.service import Service
from autoscale.history.told_hpa import Manifest, past_hpa
from autoscale.kube.vllm_names import image_version
from autoscale.observe.metric_names import BY_NAMES
from autoscale.observe.series import listed

LEAST_STARTS = 3  # from which on they replace the profile's
SHORTEST_START_S = 2.0  # from created to ready


@dataclass(frozen=True)
class SeenStarts:
    """How long starts took in s, medians and 95th percentiles over `count` pods, as kube-state-metrics tells.

    node_s   created to scheduled      image_s  scheduled to started; zeros where that is not told
    ready_s  from then to ready: weights and engine, which it does not part
    """

    count: int
    node_s: tuple[float, float]
    image_s: tuple[float, float]
    ready_s: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Production:
    """What was learned. `starts` is None where kube-state-metrics tells of too few, `current` the HPA that runs now, None where
    it is not known, `current_given` whether by a file and not by kube-state-metrics; `notes` are sentences, that of its past decisions first."""

    traffic: LearnedTraffic
    points: OperatingPoints
    starts: SeenStarts | None
    current: Manifest | None
    current_given: bool
    notes: tuple[str, ...]


def learn_production(
    service: Service, given: Manifest | None, progress: Callable[[float, str], None]
) -> Production:
    """Traffic, operating points, versions and starts of a service, and the HPA that runs: `given`, or as Prometheus tells it.

    Raises TooLittleData.
    """
    lives = pod_moments(service)
    current, said = _current(service, given, lives)
    learned = learn_traffic(service, lives)
    found = points_of_operation(service, progress)
    newest, notes = _newest_version(service, found)
    starts = starts_of(lives, service.start_s)
    if starts is None:
        notes.append(
            "kube-state-metrics does not tell how long pods take to start (kube_pod_created, kube_pod_status_ready_time): "
            "starts are the profile's"
        )
    return Production(
        learned,
        found.of_pods(newest),
        starts,
        current,
        given is not None,
        (*said, *learned.caveats(), *learned.notes, *notes),
    )


def _current(
    service: Service, given: Manifest | None, lives: Sequence[PodMoments]
) -> tuple[Manifest | None, list[str]]:
    """The HPA that runs, and how many of its past decisions are reproduced."""
    past, said = past_hpa(service)
    manifest = given or (past.manifest if past else None)
    if past is None or manifest is None or manifest.get("kind") != "HorizontalPodAutoscaler":
        return manifest, [] if given else said
    repeated = reproduced(service, past, manifest, lives)
    told = [repeated.sentence(past.name)] if repeated else []
    return manifest, told if given else [*told, *said]


def _newest_version(service: Service, found: OperatingPoints) -> tuple[set[str], list[str]]:
    """The pods of the version that was scraped last, and sentences where there are several."""
    last_s = {str(pod): float(at_s) for pod, at_s in service.frame.groupby("pod")["time_s"].max().items()}
    images = _images(service)
    seen = {one.pod for one in found.stretches}
    kinds: dict[str, set[str]] = defaultdict(set)
    for pod in sorted(last_s):
        kinds[images.get(pod, "") if images else _by_its_metrics(pod, found)].add(pod)
    told = {words: pods for words, pods in kinds.items() if words}
    if len(told) < 2:
        return seen, []
    usable = [words for words, pods in told.items() if pods & seen] or list(told)
    newest = max(usable, key=lambda words: max(last_s[pod] for pod in told[words]))
    versions = "; ".join(f"{words} ({listed(pods)})" for words, pods in sorted(told.items()))
    return told[newest], [
        f"pods of {len(told)} versions: {versions}; the replica is learned from the last that tell their speed, {newest}"
    ]


def _by_its_metrics(pod: str, found: OperatingPoints) -> str:
    """What the metrics of a pod tell of its version: their names where those of pods differ, or the size of its KV cache."""
    names = {name: facts.get(BY_NAMES) for name, facts in found.facts.items()}
    if len(set(names.values()) - {None}) > 1:
        return f"vLLM {names[pod]} by its metric names" if names.get(pod) else ""
    facts = found.facts.get(pod, {})
    return f"{facts['kv_tokens']:,} KV tokens" if "kv_tokens" in facts else ""


def _images(service: Service) -> dict[str, str]:
    """Pod -> image of its vLLM container, as kube-state-metrics tells."""
    seconds = service.end_s - service.start_s
    images = {}
    for labels, _ in at_the_end(
        service, f"group by (pod, image) (last_over_time(kube_pod_container_info[{seconds:.0f}s]))"
    ):
        if image_version(labels.get("image", "")) is not None:
            images[labels.get("pod", "")] = labels["image"]
    return images


def starts_of(lives: Sequence[PodMoments], since: float) -> SeenStarts | None:
    """Of the pods that were created since then, in unix s; None where fewer than LEAST_STARTS are told.

    No server loads its weights within SHORTEST_START_S: such a pod was there, and warm, when it was first told of.
    """
    spans = []
    for seen in lives:
        started_s = seen.started_s if known(seen.started_s) else seen.scheduled_s
        moments = [seen.created_s, seen.scheduled_s, started_s, seen.ready_s]
        if seen.created_s < since or moments != sorted(moments) or not all(map(known, moments)):
            continue
        if moments[-1] - moments[0] >= SHORTEST_START_S:
            spans.append(np.diff(moments))
    if len(spans) < LEAST_STARTS:
        return None
    low, high = np.quantile(spans, [0.5, 0.95], axis=0).tolist()
    node, image, rest = zip(low, high, strict=True)
    return SeenStarts(len(spans), node, image, rest)
