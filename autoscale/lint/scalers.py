"""What one HPA or ScaledObject says: what it scales, between which bounds, on which metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from autoscale.kube.objects import Object, items, mapping
from autoscale.kube.quantity import milli_or_none
from autoscale.kube.scaler import KEDA_MAX_REPLICAS
from autoscale.kube.vllm_names import signal_of
from autoscale.lint import query as lint_query
from autoscale.lint.findings import Located
from autoscale.lint.parts import Path, whole_number
from autoscale.lint.query import Query

Route = Literal["stackdriver", "autoscalingmetric", "adapter", "keda", "external", "resource"]


@dataclass(frozen=True)
class Metric:
    """One metric of a scaler: where it is written, its name, target and the way that it comes."""

    path: Path
    kind: str
    name: str
    milli: int | None
    target_path: Path
    route: Route
    series: str = ""  # the Prometheus name, "" when the name does not tell
    target_type: str = "AverageValue"  # or Value, Utilization
    described: str = ""  # an Object metric's kind
    query: Query | None = None  # of a KEDA trigger on Prometheus

    @property
    def signal(self) -> str | None:
        """waiting, running or kv_usage; None for a query that makes something else of them."""
        if self.query is None:
            return signal_of(self.series or self.name)
        read = next((selector.name for selector in self.query.selectors if selector.of_engine), "")
        return None if self.query.factor is None else signal_of(read)

    @property
    def factor(self) -> float:
        """How many times over the value is the signal: 100 for a query that makes a percentage of a fraction."""
        return 1.0 if self.query is None or self.query.factor is None else self.query.factor

    @property
    def of_engine(self) -> bool:
        """Whether its values come from vLLM's pods: a gateway's, a router's or a queue's do not."""
        if self.query is not None:
            return any(selector.of_engine for selector in self.query.selectors)
        return self.route in ("stackdriver", "adapter", "autoscalingmetric") and self.kind != "External"


@dataclass(frozen=True)
class Scaler:
    """An HPA or a ScaledObject."""

    source: Located
    target_path: Path
    api: str
    kind: str
    name: str
    low: int
    high: int
    metrics: list[Metric]

    @property
    def key(self) -> tuple[str, str, str]:
        """What it scales: kind, namespace, name."""
        return self.kind, self.source.namespace, self.name


def scaler_of(located: Located) -> Scaler:
    spec = located.spec
    target = mapping(spec.get("scaleTargetRef"))
    keda = located.kind == "ScaledObject"
    low = whole_number(spec.get("minReplicaCount" if keda else "minReplicas"))
    high = whole_number(spec.get("maxReplicaCount" if keda else "maxReplicas"))
    default_low, default_high = (0, KEDA_MAX_REPLICAS) if keda else (1, 0)
    metrics = list(_triggers(spec) if keda else _hpa_metrics(spec))
    return Scaler(
        located,
        ("spec", "scaleTargetRef"),
        str(target.get("apiVersion") or ("apps/v1" if keda else "")),
        str(target.get("kind") or ("Deployment" if keda else "")),
        str(target.get("name") or ""),
        default_low if low is None else low,
        default_high if high is None else high,
        metrics,
    )


def _hpa_metrics(spec: Object) -> Iterator[Metric]:
    for index, metric in enumerate(items(spec.get("metrics"))):
        metric = mapping(metric)
        kind = str(metric.get("type") or "")
        key = kind[:1].lower() + kind[1:]
        source = mapping(metric.get(key))
        path: Path = ("spec", "metrics", index, key)
        target = mapping(source.get("target"))
        field_name = next((name for name in ("averageValue", "value") if name in target), "averageValue")
        value = milli_or_none(target.get(field_name))
        if kind in ("Resource", "ContainerResource"):
            yield Metric(
                (*path, "name"), kind, str(source.get("name") or ""), value, (*path, "target"), "resource"
            )
            continue
        name = str(mapping(source.get("metric")).get("name") or "")
        route, series = _route(kind, name)
        yield Metric(
            (*path, "metric", "name"),
            kind,
            name,
            value,
            (*path, "target", field_name),
            route,
            series,
            str(target.get("type") or ""),
            str(mapping(source.get("describedObject")).get("kind") or ""),
        )


def _route(kind: str, name: str) -> tuple[Route, str]:
    parts = name.split("|")
    if parts[0] == "prometheus.googleapis.com":
        return "stackdriver", parts[1] if len(parts) > 1 else ""
    if parts[0] == "autoscaling.gke.io":
        return "autoscalingmetric", ""
    return ("external" if kind == "External" else "adapter"), name if name.startswith("vllm:") else ""


def _triggers(spec: Object) -> Iterator[Metric]:
    """The triggers of a ScaledObject; with a formula their own thresholds and metric types count for nothing."""
    composite = formula_of(spec) is not None
    for index, trigger in enumerate(items(spec.get("triggers"))):
        trigger = mapping(trigger)
        path: Path = ("spec", "triggers", index, "metadata")
        metadata = mapping(trigger.get("metadata"))
        kind = str(trigger.get("type") or "")
        text = str(metadata.get("query") or "") if kind == "prometheus" else ""
        query = lint_query.read_query(text) if kind == "prometheus" else None
        engine = (
            [s.name for s in query.selectors if s.of_engine and s.name.startswith("vllm:")] if query else []
        )
        yield Metric(
            (*path, "query"),
            kind,
            text,
            None if composite or query is None else milli_or_none(metadata.get("threshold")),
            (*path, "threshold"),
            "resource" if kind in ("cpu", "memory") else "keda",
            next(iter(engine), ""),
            "" if composite else str(trigger.get("metricType") or "AverageValue"),
            query=query,
        )


def formula_of(spec: Mapping[str, object]) -> str | None:
    """A ScaledObject's scalingModifiers formula, None without one."""
    modifiers = mapping(mapping(spec.get("advanced")).get("scalingModifiers"))
    return str(modifiers["formula"]) if modifiers.get("formula") else None


def behavior_of(scaler: Located) -> tuple[Path, Object]:
    """The behavior block of an HPA, or the one that a ScaledObject hands to its HPA, with its place."""
    path: Path = ("spec", "behavior")
    if scaler.kind == "ScaledObject":
        path = ("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior")
    value: Any = scaler.object
    for key in path:
        value = mapping(value).get(str(key))
    return path, mapping(value)
