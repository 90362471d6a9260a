"""All that a Prometheus tells of a service for a recommendation: its traffic, its replicas, their versions and their starts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoscale.history.learned import LearnedTraffic, learn_traffic
from autoscale.history.operating import OperatingPoints, operating_points
from autoscale.history.service import Service
from autoscale.kube.vllm_names import image_version
from autoscale.observe.prometheus import Refused
from autoscale.observe.series import listed

LEAST_STARTS = 3  # from which on they replace the profile's


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
    """What was learned. `starts` is None where kube-state-metrics tells of too few; `notes` are sentences."""

    traffic: LearnedTraffic
    points: OperatingPoints
    starts: SeenStarts | None
    notes: tuple[str, ...]


def learn_production(service: Service, progress: Callable[[float, str], None]) -> Production:
    """Traffic, operating points, versions and starts of a service. Raises TooLittleData."""
    learned = learn_traffic(service)
    found = operating_points(service, progress)
    newest, notes = _newest_version(service, found)
    starts = _starts(service)
    if starts is None:
        notes.append(
            "kube-state-metrics does not tell how long pods take to start (kube_pod_created, kube_pod_status_ready_time): "
            "starts are the profile's"
        )
    return Production(learned, found.of_pods(newest), starts, (*learned.notes, *notes))


def _newest_version(service: Service, found: OperatingPoints) -> tuple[set[str], list[str]]:
    """The pods of the version that was scraped last, and sentences where there are several."""
    last_s = {str(pod): float(at_s) for pod, at_s in service.frame.groupby("pod")["time_s"].max().items()}
    images = _images(service)
    seen = {one.pod for one in found.stretches}
    kinds: dict[str, set[str]] = defaultdict(set)
    for pod in sorted(last_s):
        facts = found.facts.get(pod, {})
        words = [images.get(pod, ""), f"{facts['kv_tokens']:,} KV tokens" if "kv_tokens" in facts else ""]
        kinds[", ".join(filter(None, words))].add(pod)
    told = {words: pods for words, pods in kinds.items() if words}
    if len(told) < 2:
        return seen, []
    usable = [words for words, pods in told.items() if pods & seen] or list(told)
    newest = max(usable, key=lambda words: max(last_s[pod] for pod in told[words]))
    versions = "; ".join(f"{words} ({listed(pods)})" for words, pods in sorted(told.items()))
    return told[newest], [
        f"pods of {len(told)} versions: {versions}; the replica is learned from the last that tell their speed, {newest}"
    ]


def _images(service: Service) -> dict[str, str]:
    """Pod -> image of its vLLM container, as kube-state-metrics tells."""
    seconds = service.end_s - service.start_s
    images = {}
    for one in _told(
        service, f"group by (pod, image) (last_over_time(kube_pod_container_info[{seconds:.0f}s]))"
    ):
        labels = one["metric"]
        if image_version(labels.get("image", "")) is not None:
            images[labels.get("pod", "")] = labels["image"]
    return images


def _starts(service: Service) -> SeenStarts | None:
    """Of the pods that were created in the window; None where fewer than LEAST_STARTS are told."""
    window = f"[{service.end_s - service.start_s:.0f}s]"
    told: dict[str, dict[str, float]] = {
        name: {
            one["metric"].get("pod", ""): float(one["value"][1])
            for one in _told(service, f"min by (pod) (min_over_time(kube_pod_{name}{window}))")
        }
        for name in ("created", "status_scheduled_time", "container_state_started", "status_ready_time")
    }
    created, scheduled, started, ready = told.values()
    spans = []
    for pod in service.frame["pod"].unique():
        if not all(pod in moments for moments in (created, scheduled, ready)):
            continue
        moments = [created[pod], scheduled[pod], started.get(pod, scheduled[pod]), ready[pod]]
        if moments[0] >= service.start_s and moments == sorted(moments):
            spans.append(np.diff(moments))
    if len(spans) < LEAST_STARTS:
        return None
    low, high = np.quantile(spans, [0.5, 0.95], axis=0).tolist()
    node, image, rest = zip(low, high, strict=True)
    return SeenStarts(len(spans), node, image, rest)


def _told(service: Service, promql: str) -> list[Mapping[str, Any]]:
    try:
        return list(service.door.query(promql, service.end_s))
    except Refused:
        return []
