"""Measured cold start and metric path as changes to a profile, for `--measured FILE`. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from autoscale.check.detection import FIRST_QUEUE
from autoscale.check.replicas import SeenReplica
from autoscale.check.scaleout import History

INSIDE_ENGINE_INIT = 1e18  # bytes/s: weights cost nothing of their own, their time lies inside engine_init


def profile_changes(past: History, weight_bytes: float | None = None) -> dict[str, Any]:
    """Nested keys of a profile (cold_start, metric_path) as measured; {} when no new replica became ready.

    Each phase is {median_s, p95_s}; of fewer than 20 starts the p95 is the largest. Weights are a rate of their own
    only when the log told them and `weight_bytes` is known; otherwise their time lies inside engine_init.
    """
    started = [unit for out in past.scale_outs for unit in out.replicas if not math.isnan(unit.ready_s)]
    if not started:
        return {}
    cold: dict[str, Any] = {
        "node": _phase(u.scheduled_s - u.created_s for u in started),
        "image": _phase(_all_placed_s(u) - u.scheduled_s for u in started),
        "group_join": _phase(u.started_s - _all_placed_s(u) for u in started),
        "engine_init": _phase(u.ready_s - u.started_s - _logged(u, "weights", "compile") for u in started),
        "compile": _phase(_logged(u, "compile") for u in started),
        "weights_rate_bytes_s": INSIDE_ENGINE_INIT,
    }
    weights = [_logged(u, "weights") for u in started]
    if weight_bytes and all(weights):
        cold["weights_rate_bytes_s"] = weight_bytes / _phase(weights)["median_s"]
    elif any(weights):
        cold["engine_init"] = _phase(u.ready_s - u.started_s - _logged(u, "compile") for u in started)
    return {"cold_start": cold, **_metric_path(past)}


def _metric_path(past: History) -> dict[str, Any]:
    """The delay from load to metric, at most: the shortest that was seen, since every one holds the time in which the signal
    grew to its target, too. Where the start of the load, or of a queue, was known."""
    delays = [
        phase.seconds
        for out in past.scale_outs
        for phase in out.phases
        if phase.name == "load_to_metric" and phase.note in ("", FIRST_QUEUE) and not phase.open
    ]
    if not delays:
        return {}
    return {"metric_path": {"ingestion_delay_s": round(min(delays), 3), "scrape_interval_s": 1.0}}


def _all_placed_s(unit: SeenReplica) -> float:
    """When the first pod ran, but not before the last one had its node: waiting for nodes is no group join."""
    return max(unit.first_started_s, unit.scheduled_s)


def _logged(unit: SeenReplica, *phases: str) -> float:
    """Seconds that the leader's log gives to the phases, 0 for what it does not tell."""
    total, before_s = 0.0, unit.started_s
    for moment_s, phase in sorted((s, p) for p, s in unit.leader.log_s.items()):
        total += max(0.0, moment_s - before_s) if phase in phases else 0.0
        before_s = max(before_s, moment_s)
    return total


def _phase(seconds: Iterable[float]) -> dict[str, float]:
    values = sorted(round(max(0.0, value), 3) for value in seconds)
    middle = len(values) // 2
    median = values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
    return {"median_s": round(median, 3), "p95_s": values[min(len(values) - 1, int(0.95 * len(values)))]}
