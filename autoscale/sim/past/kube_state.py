"""What kube-state-metrics would tell of a simulated fleet: gauges, name -> labels and values by time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from autoscale.kube.quantity import milli
from autoscale.sim.fleet.outcome import Outcome


def pod_series(outcome: Outcome, zero: float) -> dict[str, list[tuple[str, pd.Series]]]:
    """What kube-state-metrics tells of the starts of the pods, every minute of their lives."""
    lives: dict[str, list[dict[str, float]]] = {}
    for time_s, kind, pod, _ in outcome.events:
        mine = lives.setdefault(pod, [{}])
        if kind == "created" and mine[-1]:  # a group's pods come back under their names
            mine.append({})
        mine[-1].setdefault(kind, time_s)
    names = {
        "created": "created",
        "status_scheduled_time": "scheduled",
        "container_state_started": "started",
        "status_ready_time": "ready",
    }
    found: dict[str, list[tuple[str, pd.Series]]] = {}
    for name, kind in names.items():
        some = [
            (
                f'pod="{pod}",namespace="default",uid="{pod}-{number}"',
                pd.Series(zero + seen[kind], index=lived),
            )
            for pod, mine in lives.items()
            for number, seen in enumerate(mine)
            if kind in seen
            and len(lived := pd.Index(np.arange(seen[kind], seen.get("deleting", outcome.duration_s), 60.0)))
        ]
        found[f"kube_pod_{name}"] = some
    return found


def hpa_series(
    outcome: Outcome, manifest: Mapping[str, Any], until_s: float
) -> dict[str, list[tuple[str, pd.Series]]]:
    """What kube-state-metrics, scraped every 15 s, tells of the HPA that scaled the fleet."""
    spec, times = manifest["spec"], pd.Index(np.arange(15.0, until_s, 15.0))
    labels = f'namespace="default",horizontalpodautoscaler="{manifest["metadata"]["name"]}"'
    changed_s, desired = (
        np.array([row[0] for row in outcome.replicas]),
        np.array([row[1] for row in outcome.replicas]),
    )
    at = np.maximum(np.searchsorted(changed_s, times, side="right") - 1, 0)
    prefix = "kube_horizontalpodautoscaler_"

    def always(value: float) -> pd.Series:
        return pd.Series(value, index=times)

    targets = []
    for metric in spec["metrics"]:
        pods = metric["pods"]
        value = milli(pods["target"]["averageValue"]) / 1000
        more = f'{labels},metric_name="{pods["metric"]["name"]}",metric_target_type="average"'
        targets.append((more, always(value)))
    scaled = spec["scaleTargetRef"]
    names = {"api_version": "apiVersion", "kind": "kind", "name": "name"}
    target = ",".join(f'scaletargetref_{name}="{scaled[key]}"' for name, key in names.items())
    return {
        f"{prefix}info": [(f"{labels},{target}", always(1.0))],
        f"{prefix}spec_min_replicas": [(labels, always(spec["minReplicas"]))],
        f"{prefix}spec_max_replicas": [(labels, always(spec["maxReplicas"]))],
        f"{prefix}spec_target_metric": targets,
        f"{prefix}status_desired_replicas": [(labels, pd.Series(desired[at], index=times))],
    }
