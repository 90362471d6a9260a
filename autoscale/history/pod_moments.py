"""When the pods of a service were created, scheduled, started and ready, as far as kube-state-metrics tells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoscale.history.service import Service
from autoscale.observe.prometheus import Refused


@dataclass(frozen=True)
class PodMoments:
    """Unix s; NaN where not told."""

    created_s: float = math.nan
    scheduled_s: float = math.nan
    started_s: float = math.nan
    ready_s: float = math.nan


_SERIES = ("created", "status_scheduled_time", "container_state_started", "status_ready_time")


def pod_moments(service: Service) -> dict[str, PodMoments]:
    """Of the pods that were scraped, and of those that are called like them (of the same ReplicaSet or group)."""
    window = f"[{service.end_s - service.start_s:.0f}s]"
    told = [
        {
            one["metric"].get("pod", ""): float(one["value"][1])
            for one in at_the_end(service, f"min by (pod) (min_over_time(kube_pod_{name}{window}))")
        }
        for name in _SERIES
    ]
    scraped = {str(pod) for pod in service.frame["pod"].unique()}
    sets = {_of_set(pod) for pod in scraped}
    pods = {pod for moments in told for pod in moments if pod in scraped or _of_set(pod) in sets}
    return {pod: PodMoments(*(moments.get(pod, math.nan) for moments in told)) for pod in sorted(pods)}


def at_the_end(service: Service, promql: str) -> list[Mapping[str, Any]]:
    """The result of a query at the window's end; nothing where it is refused."""
    try:
        return list(service.door.query(promql, service.end_s))
    except Refused:
        return []


def _of_set(pod: str) -> str:
    return pod.rsplit("-", 1)[0]
