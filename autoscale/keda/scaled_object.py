"""A ScaledObject as KEDA 2.20.2 takes it: every field is kept, or refused by name.

What the API server refuses (the CRD), what KEDA's webhook and reconciler refuse, and what is not simulated here (cpu,
memory and other triggers, the part of expr-lang that is no arithmetic) raises `KedaRefusal`. Source: kedacore/keda v2.20.2
apis/keda/v1alpha1/{scaledobject_types.go,scaletriggers_types.go,scaledobject_webhook.go}, and recorded answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.errors import did_you_mean
from autoscale.keda.cron import CronTrigger
from autoscale.keda.formula import Formula, FormulaError, compile_formula
from autoscale.keda.metadata import Unreadable, boolean
from autoscale.keda.prometheus_trigger import PrometheusTrigger
from autoscale.keda.refusal import KedaRefusal, refused
from autoscale.keda.schema import FALLBACK_BEHAVIORS, decoded_object
from autoscale.keda.targets import AVERAGE_VALUE
from autoscale.kube.scaler import KEDA_MAX_REPLICAS

API = "keda.sh/v1alpha1"
PAUSED, PAUSED_REPLICAS, PAUSED_IN, PAUSED_OUT, FORCED = (
    f"autoscaling.keda.sh/{name}"
    for name in ("paused", "paused-replicas", "paused-scale-in", "paused-scale-out", "force-activation")
)
LONGEST_NAME = 63
Trigger = PrometheusTrigger | CronTrigger


@dataclass(frozen=True)
class ScaleTarget:
    """What is scaled."""

    api_version: str
    kind: str
    name: str


@dataclass(frozen=True)
class Fallback:
    """What the metrics are replaced by after more than `failure_threshold` failed reads of one."""

    failure_threshold: int
    replicas: int
    behavior: str = FALLBACK_BEHAVIORS[0]


@dataclass(frozen=True)
class Modifiers:
    """scalingModifiers: one metric instead of all. `target` as text: a fallback needs it to be a whole number."""

    formula: Formula
    target: str
    activation_target: float
    metric_type: str


@dataclass(frozen=True)
class ScaledObject:
    """One ScaledObject with KEDA's defaults; `min_replica_count` and `idle_replica_count` are None where not given."""

    name: str
    namespace: str
    target: ScaleTarget
    triggers: tuple[Trigger, ...]
    polling_interval_s: int = 30
    cooldown_period_s: int = 300
    initial_cooldown_period_s: int = 0
    idle_replica_count: int | None = None
    min_replica_count: int | None = None
    max_replica_count: int = KEDA_MAX_REPLICAS
    fallback: Fallback | None = None
    modifiers: Modifiers | None = None
    hpa_name: str = ""  # advanced.horizontalPodAutoscalerConfig.name
    behavior: Mapping[str, Any] | None = None
    restore_to_original: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> ScaledObject:
        """The object as KEDA reads it. Raises KedaRefusal (a BadInput) naming the field."""
        given = decoded_object(manifest)
        metadata, spec = given["metadata"], given["spec"]
        advanced = spec.get("advanced", {})
        config = advanced.get("horizontalPodAutoscalerConfig", {})
        target = spec["scaleTargetRef"]
        triggers = _triggers(spec["triggers"])
        found = cls(
            name=metadata["name"],
            namespace=metadata.get("namespace") or "default",
            target=ScaleTarget(
                target.get("apiVersion") or "apps/v1", target.get("kind") or "Deployment", target["name"]
            ),
            triggers=triggers,
            polling_interval_s=spec.get("pollingInterval", cls.polling_interval_s),
            cooldown_period_s=spec.get("cooldownPeriod", cls.cooldown_period_s),
            initial_cooldown_period_s=spec.get("initialCooldownPeriod", cls.initial_cooldown_period_s),
            idle_replica_count=spec.get("idleReplicaCount"),
            min_replica_count=spec.get("minReplicaCount"),
            max_replica_count=spec.get("maxReplicaCount", cls.max_replica_count),
            fallback=_fallback(spec.get("fallback")),
            modifiers=_modifiers(advanced.get("scalingModifiers"), triggers),
            hpa_name=config.get("name", ""),
            behavior=config.get("behavior"),
            restore_to_original=advanced.get("restoreToOriginalReplicaCount", False),
            labels=metadata.get("labels") or {},
            annotations=metadata.get("annotations") or {},
        )
        found._check()
        return found

    def _check(self) -> None:
        """The checks of KEDA's webhook and reconciler on the whole object."""
        low = 0 if self.min_replica_count is None else self.hpa_min_replicas
        if low > self.max_replica_count:
            said = f"MinReplicaCount={low} must be less than MaxReplicaCount={self.max_replica_count}"
            raise refused("spec.minReplicaCount", said)
        if self.idle_replica_count is not None and self.idle_replica_count >= low:
            said = f"IdleReplicaCount={self.idle_replica_count} must be less than MinReplicaCount={low}"
            raise refused("spec.idleReplicaCount", said)
        for where, name in (
            ("metadata.name", self.name),
            ("spec.advanced.horizontalPodAutoscalerConfig.name", self.hpa_name),
        ):
            if len(name) > LONGEST_NAME:
                raise KedaRefusal(
                    where, "is too long", value=name, expected=f"at most {LONGEST_NAME} characters"
                )
        if PAUSED_REPLICAS in self.annotations and self.paused_replicas is None:
            raise KedaRefusal(
                f"metadata.annotations.{PAUSED_REPLICAS}",
                "is no number of replicas",
                value=self.annotations[PAUSED_REPLICAS],
                expected="a whole number such as '2'",
            )

    @property
    def min_replicas(self) -> int:
        """minReplicaCount, 0 where it is not given: what the scale loop holds."""
        return self.min_replica_count or 0

    @property
    def hpa_min_replicas(self) -> int:
        """The HPA's minReplicas, which is never 0."""
        return max(self.min_replicas, 1)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the triggers' metrics; with a formula the HPA sees one composite metric instead."""
        return tuple(trigger.metric_name for trigger in self.triggers)

    @property
    def paused_replicas(self) -> int | None:
        """The number in the paused-replicas annotation, None without one."""
        text = self.annotations.get(PAUSED_REPLICAS, "")
        return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else None

    @property
    def paused(self) -> bool:
        """Whether the scale loop stops and the HPA goes: by the paused or the paused-replicas annotation."""
        return PAUSED_REPLICAS in self.annotations or self.annotated(PAUSED)

    def annotated(self, annotation: str) -> bool:
        """Whether an annotation is set and does not say false; what is no boolean counts as true."""
        text = self.annotations.get(annotation)
        return text is not None and boolean(text) is not False


def _triggers(given: list[dict[str, Any]]) -> tuple[Trigger, ...]:
    found: list[Trigger] = []
    names: set[str] = set()
    for index, trigger in enumerate(given):
        where, name = f"spec.triggers[{index}]", trigger.get("name", "")
        if name and name in names:
            said = (
                f'triggerName "{name}" is defined multiple times in the ScaledObject, but it must be unique'
            )
            raise refused(f"{where}.name", said)
        names.add(name)
        found.append(_trigger(index, where, name, trigger))
    return tuple(found)


def _trigger(index: int, where: str, name: str, trigger: dict[str, Any]) -> Trigger:
    kind, cached = trigger["type"], trigger.get("useCachedMetrics", False)
    if cached and kind in ("cpu", "memory", "cron"):
        said = f'property "useCachedMetrics" is not supported for "{kind}" scaler'
        raise refused(f"{where}.useCachedMetrics", said)
    metric_type, metadata = trigger.get("metricType", ""), trigger["metadata"]
    try:
        if kind == "prometheus":
            secret = trigger.get("authenticationRef", {}).get("name", "")
            return PrometheusTrigger.from_trigger(index, name, metric_type, cached, metadata, secret)
        if kind == "cron":
            return CronTrigger.from_trigger(index, name, metric_type, metadata)
    except Unreadable as problem:
        at = "metricType" if "metric type" in str(problem) else "metadata"
        raise refused(f"{where}.{at}", str(problem)) from None
    if kind in ("cpu", "memory"):
        raise KedaRefusal(
            f"{where}.type",
            f"{kind} triggers are not simulated, and a pod's {kind} says nothing of the load of its accelerator",
            value=kind,
            expected="prometheus or cron",
        )
    raise KedaRefusal(
        f"{where}.type",
        f"triggers of type {kind} are not simulated",
        said=f"no scaler found for type: {kind}",
        value=kind,
        expected="prometheus or cron",
        next_step=did_you_mean(kind, ("prometheus", "cron")),
    )


def _fallback(given: dict[str, Any] | None) -> Fallback | None:
    if given is None:
        return None
    threshold, replicas = given["failureThreshold"], given["replicas"]
    if threshold < 0 or replicas < 0:
        said = f"FailureThreshold={threshold} & Replicas={replicas} must both be greater than or equal to 0"
        raise refused("spec.fallback", said)
    return Fallback(threshold, replicas, given.get("behavior") or FALLBACK_BEHAVIORS[0])


_FLOAT = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|inf(inity)?|nan)", re.IGNORECASE | re.ASCII)


def _modifiers(given: dict[str, Any] | None, triggers: tuple[Trigger, ...]) -> Modifiers | None:
    if not given or not any(given.values()):
        return None
    where, text, target = "spec.advanced.scalingModifiers", given.get("formula", ""), given.get("target", "")
    if not text:
        raise refused(f"{where}.formula", "error ScalingModifiers.Formula is mandatory")
    head = "error validating formula in ScalingModifiers\n"
    if not target:
        raise refused(f"{where}.target", f"{head}formula is given but target is empty")
    try:
        formula = compile_formula(text, [trigger.name for trigger in triggers if trigger.name])
    except FormulaError as problem:
        raise KedaRefusal(
            f"{where}.formula", str(problem), said=f"{head}{problem.said(text)}", value=text
        ) from None
    if not _FLOAT.fullmatch(target) or not float(target) > 0:
        cause = (
            f'strconv.ParseFloat: parsing "{target}": invalid syntax'
            if not _FLOAT.fullmatch(target)
            else "%!w(<nil>)"
        )
        head = "error validating target in ScalingModifiers\nerror converting target for scalingModifiers"
        raise refused(f"{where}.target", f"{head} (string->float) to valid target: {cause}")
    activation = given.get("activationTarget", "") or "0"
    if not _FLOAT.fullmatch(activation):
        cause = f'strconv.ParseFloat: parsing "{activation}": invalid syntax'
        raise refused(f"{where}.activationTarget", f"scalingModifiers.ActivationTarget parsing error {cause}")
    return Modifiers(formula, target, float(activation), given.get("metricType") or AVERAGE_VALUE)
