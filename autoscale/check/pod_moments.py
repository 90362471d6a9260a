"""The moments of a pod, read from its status, its deletion and its events into its record."""

from __future__ import annotations

import math
from typing import Protocol

from analysis.numbers import known
from autoscale.check.records import PodRecord
from autoscale.kube.cluster import Observation, timestamp_s
from autoscale.kube.objects import mapping


class Log(Protocol):
    """What places moments on the observer's clock and keeps lines for people: the timeline."""

    def moment(self, received_s: float, stamp: str | None) -> float:
        """When something happened, from its receipt and its stamp."""
        ...

    def note(self, time_s: float, kind: str, message: str, **facts: object) -> None:
        """Keep one line."""
        ...


def pod_conditions(log: Log, pod: PodRecord, seen: Observation, fresh: bool) -> None:
    """Scheduled, initialized, ready; `fresh`: seen for the first time, so nothing happened just now."""
    status = mapping(seen.object.get("status"))
    for condition in status.get("conditions") or []:
        at_s = log.moment(seen.time_s, condition.get("lastTransitionTime"))
        holds = condition["status"] == "True"
        match condition["type"]:
            case "PodScheduled":
                pod.unschedulable = (
                    "" if holds else str(condition.get("message") or condition.get("reason") or "")
                )
                if holds and math.isnan(pod.scheduled_s):
                    pod.scheduled_s = at_s
            case "Initialized" if holds and math.isnan(pod.initialized_s):
                pod.initialized_s = at_s
            case "Ready":
                if holds and math.isnan(pod.ready_s):
                    pod.ready_s = at_s
                    if not fresh:
                        log.note(at_s, "pod", f"{pod.name} is ready")
                elif not holds and pod.ready_s < at_s:
                    pod.unready_s = at_s


def containers(log: Log, pod: PodRecord, seen: Observation) -> None:
    """Restarts, what it waits for, and when all of its containers ran."""
    status = mapping(seen.object.get("status"))
    found = status.get("containerStatuses") or []
    pod.restarts = max([pod.restarts, *(int(c.get("restartCount") or 0) for c in found)])
    waiting = [(c.get("state") or {}).get("waiting") for c in found]
    pod.waiting = next((str(w.get("reason", "")) for w in waiting if w), "")
    starts = [(c.get("state") or {}).get("running", {}).get("startedAt") for c in found]
    if found and all(starts) and math.isnan(pod.started_s):
        pod.started_s = max(log.moment(seen.time_s, start) for start in starts)


def deletion(log: Log, pod: PodRecord, seen: Observation) -> None:
    """When it was asked to stop: the stamp names the end of its grace period."""
    metadata = mapping(seen.object.get("metadata"))
    if not metadata.get("deletionTimestamp") or known(pod.deleting_s):
        return
    grace_s = float(metadata.get("deletionGracePeriodSeconds") or 0)
    asked = timestamp_s(metadata["deletionTimestamp"])
    stamp = None if asked is None else _rfc3339(asked - grace_s)
    at_s = log.moment(seen.time_s, stamp)
    pod.deleting_s = seen.time_s if at_s < pod.seen_s - 1.0 else at_s
    log.note(pod.deleting_s, "pod", f"{pod.name} is being deleted")


def event(log: Log, pod: PodRecord, reason: str, at_s: float, message: str) -> None:
    """An event about it: nodes asked for, reasons of the scheduler, image pulls."""
    match reason:
        case "TriggeredScaleUp" if math.isnan(pod.asked_for_node_s):
            pod.asked_for_node_s = at_s
            log.note(at_s, "node", f"the node autoscaler adds nodes for {pod.name}", detail=message)
        case "NotTriggerScaleUp":
            pod.no_node = message
        case "FailedScheduling" if math.isnan(pod.scheduled_s):
            pod.unschedulable = message or pod.unschedulable
        case "Pulling" if math.isnan(pod.pulling_s):
            pod.pulling_s = at_s
        case "Pulled" if math.isnan(pod.pulled_s):
            pod.pulled_s = at_s


def _rfc3339(unix_s: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")
