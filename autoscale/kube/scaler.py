"""A HorizontalPodAutoscaler as an object: read as far as it can be read, and written.

Reading never raises: what is missing or of another type is absent, whatever an API server or a file held.
`autoscale.hpa.HpaSpec` is the strict reading, for what is simulated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from autoscale.kube.objects import Object, conditions, items, mapping
from autoscale.kube.quantity import milli_or_none
from autoscale.kube.selectors import selector_text
from autoscale.kube.vllm_names import signal_of

DEFAULT_TOLERANCE = 0.1  # the controller manager's --horizontal-pod-autoscaler-tolerance
SYNC_PERIOD_S = 15.0  # ... --horizontal-pod-autoscaler-sync-period
KEDA_MAX_REPLICAS = 100  # maxReplicaCount where a ScaledObject does not say it
KIND = "HorizontalPodAutoscaler"
API = "autoscaling/v2"
UNREADABLE_REASON = re.compile("FailedGet[A-Za-z]+Metric")
Direction = Literal["scaleUp", "scaleDown"]
SERVED = ("Pods", "Object", "External")  # of the custom and the external metrics API
DIRECTIONS: tuple[Direction, ...] = ("scaleUp", "scaleDown")


@dataclass(frozen=True)
class ScalerMetric:
    """One metric: its type, name and target in milli-units (None: none that can be read), and where both are written."""

    kind: str  # Pods, Object, External, Resource, ContainerResource
    name: str
    milli: int | None
    average: bool  # the target is an averageValue
    path: tuple[str | int, ...]
    target_path: tuple[str | int, ...]
    selector: str = ""  # labels of the metric's series
    described: tuple[str, str, str] = ("", "", "")  # an Object metric's apiVersion, kind and name


@dataclass(frozen=True)
class Hpa:
    """The object, read on demand."""

    object: Object

    @property
    def name(self) -> str:
        """metadata.name."""
        return str(mapping(self.object.get("metadata")).get("name") or "")

    @property
    def made_by(self) -> str:
        """Name of the ScaledObject that KEDA made it of, "" for one that somebody wrote."""
        metadata = mapping(self.object.get("metadata"))
        owners = [mapping(owner) for owner in items(metadata.get("ownerReferences"))]
        named = next((str(owner.get("name")) for owner in owners if owner.get("kind") == "ScaledObject"), "")
        return named or str(mapping(metadata.get("labels")).get("scaledobject.keda.sh/name") or "")

    @property
    def spec(self) -> Object:
        """The spec."""
        return mapping(self.object.get("spec"))

    @property
    def status(self) -> Object:
        """The status."""
        return mapping(self.object.get("status"))

    @property
    def target_api(self) -> str:
        """apiVersion of the scale target."""
        return str(mapping(self.spec.get("scaleTargetRef")).get("apiVersion") or "")

    @property
    def target_kind(self) -> str:
        """Kind of the scale target."""
        return str(mapping(self.spec.get("scaleTargetRef")).get("kind") or "")

    @property
    def target_name(self) -> str:
        """Name of the scale target."""
        return str(mapping(self.spec.get("scaleTargetRef")).get("name") or "")

    @property
    def min_replicas(self) -> int:
        """minReplicas, 1 where it is not given."""
        low = self.spec.get("minReplicas")
        return low if isinstance(low, int) else 1

    @property
    def max_replicas(self) -> int:
        """maxReplicas, 0 where it is not given."""
        high = self.spec.get("maxReplicas")
        return high if isinstance(high, int) else 0

    @cached_property
    def metrics(self) -> tuple[ScalerMetric, ...]:
        """Every metric in its order."""
        return tuple(_metrics(self.spec, "metrics", "target"))

    @property
    def conditions(self) -> dict[str, Object]:
        """Condition type -> condition."""
        return conditions(self.object)

    @property
    def active_reason(self) -> str:
        """Reason of the condition ScalingActive, also while it holds; "" before the first sync."""
        return str(self.conditions.get("ScalingActive", {}).get("reason") or "")

    @property
    def unreadable(self) -> str:
        """The controller's words while it reads none of the metrics, "" while it reads one or has not tried.

        ScalingActive is also False where one of several metrics is missing and the others ask for less.
        """
        active = self.conditions.get("ScalingActive", {})
        shown = [mapping(entry).get("type") for entry in items(self.status.get("currentMetrics"))]
        failed = active.get("status") == "False" and UNREADABLE_REASON.fullmatch(self.active_reason)
        return "" if not failed or any(shown) else str(active.get("message") or self.active_reason)

    @property
    def served(self) -> list[ScalerMetric]:
        """The metrics that the custom and the external metrics API answer."""
        return [metric for metric in self.metrics if metric.kind in SERVED]

    def metric_names(self, kind: str) -> list[str]:
        """Names of the metrics of one type."""
        return [metric.name for metric in self.metrics if metric.kind == kind]

    def targets_milli(self) -> dict[str, int]:
        """Metric name -> target in milli-units, of what a metrics API serves: of a replica, or of a Value target the whole."""
        return {metric.name: metric.milli for metric in self.served if metric.milli}

    def signal_targets(self) -> dict[str, float]:
        """Signal of vLLM -> averageValue, of the metrics that are one."""
        found = ((signal_of(m.name), m.milli) for m in self.served if m.average)
        return {signal: milli / 1000 for signal, milli in found if signal is not None and milli}

    def usage_milli(self) -> dict[str, int]:
        """Metric name -> what the status shows, as the target has it (before the controller fills in missing pods)."""
        shown = _metrics({"currentMetrics": self.status.get("currentMetrics")}, "currentMetrics", "current")
        return {m.name: m.milli for m in shown if m.kind in SERVED and m.milli is not None}

    def rules(self, direction: Direction) -> Object:
        """One direction of the behavior block, empty where it is not given."""
        return mapping(mapping(self.spec.get("behavior")).get(direction))

    def tolerance(self, direction: Direction) -> float:
        """How far usage / target may be from 1 without a decision, as a fraction."""
        own = milli_or_none(self.rules(direction).get("tolerance"))
        return DEFAULT_TOLERANCE if own is None else own / 1000

    def window_s(self, direction: Direction) -> float:
        """stabilizationWindowSeconds; where it is not given 0 upward, 300 downward."""
        given = self.rules(direction).get("stabilizationWindowSeconds")
        return float(given) if isinstance(given, int | float) else (0.0 if direction == "scaleUp" else 300.0)

    def policy_periods_s(self, direction: Direction) -> list[float]:
        """periodSeconds of the rate policies that are given."""
        given = [
            mapping(policy).get("periodSeconds") for policy in items(self.rules(direction).get("policies"))
        ]
        return [float(period) for period in given if isinstance(period, int | float)]


def _metrics(holder: Object, key: str, inner: str) -> Iterator[ScalerMetric]:
    for index, entry in enumerate(items(holder.get(key))):
        entry = mapping(entry)
        kind = str(entry.get("type") or "")
        source_key = kind[:1].lower() + kind[1:] or next(
            (k for k in ("pods", "external", "object") if k in entry), ""
        )
        source = mapping(entry.get(source_key))
        target = mapping(source.get(inner))
        field = next((name for name in ("averageValue", "value") if name in target), "averageValue")
        resource = kind in ("Resource", "ContainerResource")
        name = source.get("name") if resource else mapping(source.get("metric")).get("name")
        path = ("spec" if key == "metrics" else "status", key, index, source_key)
        about = mapping(source.get("describedObject"))
        yield ScalerMetric(
            kind or source_key.capitalize(),
            str(name or ""),
            milli_or_none(target.get(field)),
            field == "averageValue",
            (*path, "name") if resource else (*path, "metric", "name"),
            (*path, inner) if resource else (*path, inner, field),
            selector_text(mapping(mapping(source.get("metric")).get("selector"))),
            (
                str(about.get("apiVersion") or "v1"),
                str(about.get("kind") or ""),
                str(about.get("name") or ""),
            ),
        )


def pods_metric(name: str, target: object) -> Object:
    """An entry of spec.metrics: a Pods metric with an averageValue (a quantity as text)."""
    return {
        "type": "Pods",
        "pods": {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": target}},
    }


def hpa_object(
    metadata: Object,
    scale_target: Any,
    replicas: tuple[Any, Any],
    metrics: list[Object],
    behavior: Any = None,
) -> Object:
    """The autoscaling/v2 object; `replicas` are minimum and maximum. Any value may carry a comment (deploy's Note)."""
    low, high = replicas
    spec: Object = {
        "scaleTargetRef": scale_target,
        "minReplicas": low,
        "maxReplicas": high,
        "metrics": metrics,
    }
    if behavior:
        spec["behavior"] = behavior
    return {"apiVersion": API, "kind": KIND, "metadata": metadata, "spec": spec}
