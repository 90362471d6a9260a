"""When the pods of a service were created, scheduled, started and ready, as far as kube-state-metrics tells.

Pods of a StatefulSet or a LeaderWorkerSet come back under the name that they had: each life of a name has its own uid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoscale.history.service import Service
from autoscale.observe.prometheus import Refused


@dataclass(frozen=True)
class PodMoments:
    """One life of a pod, unix s; NaN where not told. `last_s` is when a pod that was never ready was last seen; inf for others."""

    pod: str
    created_s: float = math.nan
    scheduled_s: float = math.nan
    started_s: float = math.nan
    ready_s: float = math.nan
    last_s: float = math.inf

    def starting(self, at_s: float) -> bool:
        """Whether it was there then and not ready yet."""
        return self.created_s <= at_s <= self.last_s and not self.ready_s <= at_s


Life = tuple[str, str]  # pod and uid
NAMES_AT_ONCE = 50  # of a regular expression
_SERIES = ("created", "status_scheduled_time", "container_state_started", "status_ready_time")


def pod_moments(service: Service) -> list[PodMoments]:
    """Of the pods that were scraped, and of those that are called like them (of the same ReplicaSet or group), by name and creation."""
    window = f"[{service.end_s - service.start_s:.0f}s]"
    told = [
        {
            _life(labels): value
            for labels, value in at_the_end(
                service, f"min by (pod, uid) (min_over_time(kube_pod_{name}{window}))"
            )
        }
        for name in _SERIES
    ]
    scraped = {str(pod) for pod in service.frame["pod"].unique()}
    sets = {_of_set(pod) for pod in scraped}
    lives = {life for moments in told for life in moments if life[0] in scraped or _of_set(life[0]) in sets}
    never = sorted(lives - told[-1].keys())
    last = _last_seen(service, never, window)
    found = []
    for life in lives:
        created_s, scheduled_s, started_s, ready_s = (moments.get(life, math.nan) for moments in told)
        last_s = last.get(life, math.inf)
        found.append(PodMoments(life[0], created_s, scheduled_s, started_s, ready_s, last_s))
    return sorted(found, key=lambda one: (one.pod, one.created_s))


def _last_seen(service: Service, lives: Sequence[Life], window: str) -> dict[Life, float]:
    """Unix s to the minute of the last sample of these."""
    names = sorted({pod for pod, _ in lives})
    found = {}
    for first in range(0, len(names), NAMES_AT_ONCE):
        # of what a name of a pod may hold an expression minds the dot alone, which then means any character
        some = "|".join(names[first : first + NAMES_AT_ONCE])
        seen = f'timestamp(kube_pod_created{{pod=~"{some}"}}){window[:-1]}:1m]'
        for labels, value in at_the_end(service, f"max by (pod, uid) (max_over_time({seen}))"):
            found[_life(labels)] = value
    return found


def at_the_end(service: Service, promql: str) -> list[tuple[dict[str, str], float]]:
    """(labels, value) of a query at the window's end; nothing where it is refused."""
    try:
        return service.door.vector(promql, service.end_s)
    except Refused:
        return []


def _life(labels: Mapping[str, str]) -> Life:
    return labels.get("pod", ""), labels.get("uid", "")


def _of_set(pod: str) -> str:
    return pod.rsplit("-", 1)[0]
