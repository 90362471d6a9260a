"""An HPA as the controller sees it: targets, limits, behaviour, and the two controller flags that matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from analysis.errors import BadInput
from autoscale.hpa.manifest import stored_spec
from autoscale.kube import quantity
from autoscale.kube.selectors import Requirement, terms_of


@dataclass(frozen=True)
class MetricTarget:
    """One metric, its target in milli-units (an AverageValue, or a Value), and the controller's words for it."""

    name: str
    kind: Literal["Pods", "External", "Object"]
    target_milli: int
    selector: str = "<nil>"  # as the controller prints a metric's label selector
    average: bool = True  # False: a Value target
    described: tuple[str, str] = ("", "")  # kind and name of an Object metric's object
    terms: tuple[Requirement, ...] = ()  # the selector's

    @cached_property
    def label(self) -> str:
        """How conditions and events name the metric (an Object metric with an AverageValue as an external one)."""
        if self.kind == "Pods":
            return f"pods metric {self.name}"
        if self.kind == "Object" and not self.average:
            return f"{self.described[0]} metric {self.name}"
        return f"external metric {self.name}({self.selector})"

    @property
    def nothing(self) -> str:
        """What the metrics API says that answers without a value."""
        return f"no metrics returned from {'external' if self.kind == 'External' else 'custom'} metrics API"

    @property
    def failed_reason(self) -> str:
        """Reason of the condition and of the event when the metric cannot be read."""
        return f"FailedGet{self.kind}Metric"

    @property
    def not_found(self) -> str:
        """What the metrics API answers for a metric that it does not have."""
        if self.kind == "External":
            return f"unable to fetch metrics from external metrics API: {self.name} not found"
        of = "pods" if self.kind == "Pods" else " ".join(self.described)
        return (
            "unable to fetch metrics from custom metrics API: "
            f"the server could not find the metric {self.name} for {of}"
        )

    def unreadable(self, message: str, namespace: str) -> str:
        """The controller's sentence around what the metrics API said."""
        if self.kind == "Pods":
            return f"unable to get metric {self.name}: {message}"
        if self.kind == "Object":  # the controller's own order of words
            kind, name = self.described
            return f"unable to get metric {self.name}: {kind} on {namespace} {name}/{message}"
        return f"unable to get external metric {namespace}/{self.name}/{self.selector}: {message}"

    def wrapped(self, text: str) -> str:
        """The sentence as it appears in the event that lists the first of several failures."""
        if self.kind == "Pods":
            return f"failed to get pods metric value: {text}"
        if self.kind == "Object":
            average = f"failed to get {self.name} object metric: " if self.average else ""
            return f"failed to get object metric value: {average}{text}"
        inner = f"{self.name} external metric" if self.average else f"external metric {self.name}"
        return f"failed to get {self.name} external metric value: failed to get {inner}: {text}"


@dataclass(frozen=True)
class Policy:
    """At most `value` pods or percent per `period_s`."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: int


@dataclass(frozen=True)
class ScalingRules:
    """One direction of a behavior block; window None = the controller's downscale stabilization flag."""

    window_s: int | None
    select: Literal["Max", "Min", "Disabled"]
    policies: tuple[Policy, ...]
    tolerance: float | None = None


@dataclass(frozen=True)
class HpaBehavior:
    """Both directions, defaulted."""

    scale_up: ScalingRules
    scale_down: ScalingRules


@dataclass(frozen=True)
class HpaSpec:
    """A HorizontalPodAutoscaler as stored by an API server, plus the controller's flags."""

    name: str
    namespace: str
    target_api_version: str
    target_kind: str
    target_name: str
    min_replicas: int
    max_replicas: int
    metrics: tuple[MetricTarget, ...]
    behavior: HpaBehavior | None = None
    downscale_stabilization_s: int = 300  # --horizontal-pod-autoscaler-downscale-stabilization
    tolerance: float = 0.1  # --horizontal-pod-autoscaler-tolerance
    stored: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any], *, scale_to_zero: bool = False) -> HpaSpec:
        """The HPA that an API server would store for this autoscaling/v2 object; `stored` is its spec with defaults.

        `scale_to_zero` is the gate HPAScaleToZero (on from Kubernetes 1.37); the controller manager's flags are at their
        defaults. Raises BadInput, naming the field, for what an API server refuses, and for metric types that are not
        modelled here (Resource, ContainerResource).
        """
        stored = stored_spec(manifest, scale_to_zero=scale_to_zero)
        if not (manifest["spec"].get("metrics") or ()):
            raise BadInput(
                "spec.metrics is empty, so an API server would scale on 80 % CPU",
                expected="at least one Pods, External or Object metric",
            )
        metadata = manifest["metadata"]
        target = stored["scaleTargetRef"]
        behavior = stored.get("behavior")
        return cls(
            name=metadata.get("name") or metadata["generateName"],
            namespace=metadata.get("namespace", "default"),
            target_api_version=target["apiVersion"],
            target_kind=target["kind"],
            target_name=target["name"],
            min_replicas=stored["minReplicas"],
            max_replicas=stored["maxReplicas"],
            metrics=_targets(stored["metrics"]),
            behavior=behavior and HpaBehavior(_rules(behavior["scaleUp"]), _rules(behavior["scaleDown"])),
            stored=stored,
        )

    @property
    def reference(self) -> str:
        """The scale target as the controller names it: KIND/NAMESPACE/NAME."""
        return f"{self.target_kind}/{self.namespace}/{self.target_name}"

    @cached_property
    def tolerance_up(self) -> float:
        """How far the ratio may exceed 1 without a scale-up."""
        own = self.behavior.scale_up.tolerance if self.behavior else None
        return self.tolerance if own is None else own

    @cached_property
    def tolerance_down(self) -> float:
        """How far the ratio may fall below 1 without a scale-down."""
        own = self.behavior.scale_down.tolerance if self.behavior else None
        return self.tolerance if own is None else own


def _targets(metrics: list[dict[str, Any]]) -> tuple[MetricTarget, ...]:
    targets: list[MetricTarget] = []
    for i, metric in enumerate(metrics):
        kind = metric["type"]
        if kind not in ("Pods", "External", "Object"):
            raise BadInput(
                f"spec.metrics[{i}].type is not modelled here",
                value=kind,
                expected="Pods, External or Object metrics",
            )
        source = metric[kind.lower()]
        name, average = source["metric"]["name"], _average(kind, source["target"], i)
        if name in (other.name for other in targets):
            raise BadInput(
                f"spec.metrics[{i}] is not modelled here: a second target for the same metric", value=name
            )
        selector = source["metric"].get("selector")
        described = source.get("describedObject", {})
        targets.append(
            MetricTarget(
                name,
                kind,
                quantity.parse(source["target"]["averageValue" if average else "value"]).milli,
                _printed(selector),
                average,
                (described.get("kind", ""), described.get("name", "")),
                tuple(terms_of(selector)),
            )
        )
    return tuple(targets)


def _average(kind: str, target: dict[str, Any], i: int) -> bool:
    """Whether the controller takes the averageValue; it looks at the type of Object targets alone."""
    if kind != "Object":
        return "averageValue" in target
    wanted = {"AverageValue": "averageValue", "Value": "value"}.get(target["type"], "")
    if wanted not in target:
        raise BadInput(
            f"spec.metrics[{i}].object.target: the controller computes nothing of type {target['type']} without its value",
            value=sorted(target),
            expected="type AverageValue with averageValue, or type Value with value",
        )
    return wanted == "averageValue"


def _rules(rules: dict[str, Any]) -> ScalingRules:
    return ScalingRules(
        window_s=rules.get("stabilizationWindowSeconds"),
        select=rules["selectPolicy"],
        policies=tuple(Policy(p["type"], p["value"], p["periodSeconds"]) for p in rules["policies"]),
        tolerance=quantity.parse(rules["tolerance"]).approximate if "tolerance" in rules else None,
    )


def _printed(selector: dict[str, Any] | None) -> str:
    """A label selector in the notation of the controller's messages."""
    if selector is None:
        return "<nil>"
    labels = "".join(f"{key}: {value}," for key, value in sorted(selector.get("matchLabels", {}).items()))
    expressions = "".join(
        f"LabelSelectorRequirement{{Key:{e.get('key', '')},Operator:{e.get('operator', '')},"
        f"Values:[{' '.join(e.get('values', []))}],}},"
        for e in selector.get("matchExpressions", [])
    )
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{labels}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
