"""The HPA of a service as kube-state-metrics tells it: its object without a behaviour, and what it wanted over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.numbers import told_number
from autoscale.history.service import STEP_S, Service
from autoscale.kube.vllm_names import signal_of
from autoscale.observe.prometheus import Refused
from autoscale.observe.series import listed

PREFIX = "kube_horizontalpodautoscaler_"
MOST_SYNCS = 6_000  # of the past, the last ones: a day, whose decisions take seconds to repeat
DAY_S = 86_400.0
MOST_REPLICAS = 2**31  # an int32 in the API
MOST_TARGET = 2.0**53  # beyond it a float has no milli-units

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


def past_hpa(service: Service) -> tuple[PastHpa | None, list[str]]:
    """The HPA that scales on the service's metrics, None where there is none or not one alone; and sentences on it."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    others: dict[tuple[str, str], set[str]] = {}
    for labels, target in _last(service, "spec_target_metric"):
        metric = labels.get("metric_name", "")
        of_hpa = labels.get("namespace", "default"), labels.get("horizontalpodautoscaler", "")
        if labels.get("metric_target_type") == "average" and signal_of(metric):
            found.setdefault(of_hpa, []).append((metric, target))
        else:
            others.setdefault(of_hpa, set()).add(metric)
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
    if not all(0 < target < MOST_TARGET for _, target in targets):
        return None, [
            f"the HPA {name} has a {PREFIX}spec_target_metric that is no target: --current FILE tells it"
        ]
    bounds = {}
    for which in ("min", "max"):
        told = _last(service, f"spec_{which}_replicas", of)
        if not told or not 0 <= told[0][1] < MOST_REPLICAS:
            return None, [f"the HPA {name} has no {PREFIX}spec_{which}_replicas: --current FILE tells it"]
        bounds[f"{which}Replicas"] = int(told[0][1])
    times_s, desired = _desired(service, of)
    known = [labels for labels, _ in _last(service, "info", of)]
    manifest = _manifest(namespace, name, bounds, targets, known[0] if known else {})
    said = [
        f"the HPA {name} is taken as kube-state-metrics tells it, which leaves out its behavior block: --current FILE has it"
    ]
    if (also := others.get((namespace, name))) is not None:
        said.append(
            f"the HPA {name} also scales on {listed(also)}, which is no gauge of vLLM's as an average: without it, it "
            "may want fewer replicas here than in the cluster"
        )
    return PastHpa(name, manifest, times_s[-MOST_SYNCS:], desired[-MOST_SYNCS:]), said


def _last(service: Service, name: str, matchers: str = "") -> list[tuple[dict[str, str], float]]:
    asked = ",".join(part for part in service.asked.split(",") if part.startswith("namespace="))
    matchers = ",".join(filter(None, (matchers or asked,)))
    query = f"last_over_time({PREFIX}{name}{{{matchers}}}[{service.end_s - service.start_s:.0f}s])"
    try:
        return service.door.vector(query, service.end_s)
    except Refused:
        return []


def _desired(service: Service, of: str) -> tuple[Floats, NDArray[np.int64]]:
    name, window = f"{PREFIX}status_desired_replicas", (service.start_s, service.end_s)
    pairs: list[list[Any]] = []
    for _, series in service.door.samples([name], of, window, STEP_S, DAY_S):
        pairs += [pair for _, values in series[:1] for pair in values]
    told = sorted((pair[0], told_number(pair[1])) for pair in pairs)
    kept = np.array(
        [(at_s, wanted) for at_s, wanted in told if 0 <= wanted < MOST_REPLICAS], np.float64
    ).reshape(-1, 2)
    return kept[:, 0], kept[:, 1].astype(np.int64)


def _manifest(
    namespace: str,
    name: str,
    bounds: Mapping[str, int],
    targets: list[tuple[str, float]],
    told_of: Mapping[str, str],
) -> Manifest:
    """The object without its behaviour; where `told_of` does not tell what it scales, a Deployment that is called as itself."""
    kind = told_of.get("scaletargetref_kind", "Deployment")
    group = "leaderworkerset.x-k8s.io/v1" if kind == "LeaderWorkerSet" else "apps/v1"
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": told_of.get("scaletargetref_api_version", group),
                "kind": kind,
                "name": told_of.get("scaletargetref_name", name),
            },
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
