"""What can be judged: a standing fleet, a scaler of targets, behaviour and bounds, or one that somebody else wrote.

Setting = Standing | Candidate | Given       label, replicas (of a fixed fleet, else None), manifest(profile)
Choice  = Standing | Candidate               and what it decides itself: targets, behavior, min_ and max_replicas
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from autoscale.kube.vllm_names import hpa_metric_name
from autoscale.profiles import Profile
from autoscale.recommend.choice.keda.scaled_object import Keda, keda_object, trigger

Manifest = Mapping[str, Any]  # an autoscaling/v2 HorizontalPodAutoscaler, or KEDA's ScaledObject
Targets = tuple[
    tuple[str, float], ...
]  # (signal, target), by kube.scaling_signals; an HPA has the first three of them

# The API server's limits (facts of autoscaling/v2): stabilisation window <= 3600 s, policy period <= 1800 s.
MAX_WINDOW_S = 3600
WINDOWS_S = (120, 300, 600, 1800, MAX_WINDOW_S)


@dataclass(frozen=True)
class Behavior:
    """How fast the size may follow the metric.

    down_window_s   scale-down window; None leaves the block out of the manifest (the tutorials' way)
    up_window_s     scale-up window: how long the metric must ask for more
    up_pods         replicas that may be added per minute; None: Kubernetes' own policies (4 or 100 % per 15 s)
    """

    down_window_s: int | None = None
    up_window_s: int = 0
    up_pods: int | None = None

    @property
    def name(self) -> str:
        """What tables call it: "default", "down 30 min", "down 5 min, up after 2 min"."""
        if self.down_window_s is None:
            return "default"
        words = [f"down {self.down_window_s // 60} min"]
        words += [f"up after {self.up_window_s // 60} min"] if self.up_window_s else []
        words += [f"up {self.up_pods}/min"] if self.up_pods else []
        return ", ".join(words)

    @property
    def block(self) -> dict[str, Any] | None:
        """The autoscaling/v2 behavior field: removal one replica a minute."""
        if self.down_window_s is None:
            return None
        policies = [
            {"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15},
        ]
        if self.up_pods is not None:
            policies = [{"type": "Pods", "value": self.up_pods, "periodSeconds": 60}]
        return {
            "scaleUp": {
                "stabilizationWindowSeconds": self.up_window_s,
                "selectPolicy": "Max",
                "policies": policies,
            },
            "scaleDown": {
                "stabilizationWindowSeconds": self.down_window_s,
                "selectPolicy": "Max",
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
            },
        }


@dataclass(frozen=True)
class Candidate:
    """One setting of a scaler: targets in natural units per pod (requests; KV as a fraction), behaviour and bounds.

    `keda` makes it a ScaledObject; without, it is an HPA of Pods metrics. `min_replicas` is what stands while there is load.
    """

    targets: Targets
    behavior: Behavior
    min_replicas: int
    max_replicas: int
    keda: Keda | None = None
    replicas: ClassVar[None] = None

    @property
    def family(self) -> str:
        """The signals that drive it, joined by +."""
        return "+".join(signal for signal, _ in self.targets)

    @property
    def label(self) -> str:
        """One line for tables: "waiting 5, running 80, 1-8, window 30 min"."""
        targets = ", ".join(f"{signal} {quantity(value)}" for signal, value in self.targets)
        keda = f", {self.keda.name}" if self.keda else ""
        return f"{targets}, {self.min_replicas}-{self.max_replicas}, {self.behavior.name}{keda}"

    def manifest(self, profile: Profile) -> Manifest:
        """The object for the profile's workload, as it would be applied."""
        if self.keda is not None:
            zero = self.keda.zero_after_s is not None
            triggers = [trigger(profile, signal, value, at_zero=zero) for signal, value in self.targets]
            bounds = self.min_replicas, self.max_replicas
            return keda_object(profile, triggers, bounds, self.keda, self.behavior.block)
        deploy, version = profile.deploy, profile.engine.vllm_version
        group = "leaderworkerset.x-k8s.io/v1" if deploy.kind == "LeaderWorkerSet" else "apps/v1"
        spec: dict[str, Any] = {
            "scaleTargetRef": {"apiVersion": group, "kind": deploy.kind, "name": deploy.name},
            "minReplicas": self.min_replicas,
            "maxReplicas": self.max_replicas,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": hpa_metric_name(signal, version, deploy.metrics)},
                        "target": {"type": "AverageValue", "averageValue": quantity(value)},
                    },
                }
                for signal, value in self.targets
            ],
        }
        if self.behavior.block is not None:
            spec["behavior"] = self.behavior.block
        return {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": deploy.hpa_name, "namespace": deploy.namespace},
            "spec": spec,
        }


@dataclass(frozen=True)
class Standing:
    """A fleet of so many replicas that no HPA moves."""

    replicas: int
    family: ClassVar[str] = ""
    targets: ClassVar[Targets] = ()
    behavior: ClassVar[Behavior] = Behavior()

    @property
    def min_replicas(self) -> int:
        """What stands."""
        return self.replicas

    @property
    def max_replicas(self) -> int:
        """What stands."""
        return self.replicas

    @property
    def label(self) -> str:
        """One line for tables: "1 standing replica", "3 standing replicas"."""
        return f"{self.replicas} standing replica{'' if self.replicas == 1 else 's'}"

    def manifest(self, profile: Profile) -> None:
        """None: nothing is applied."""


@dataclass(frozen=True)
class Given:
    """An HPA or a ScaledObject that was written elsewhere: its manifest, and what tables call it."""

    content: Manifest = field(hash=False)
    label: str = "as given"
    replicas: ClassVar[None] = None

    @property
    def kind(self) -> str:
        """HPA or ScaledObject."""
        return "ScaledObject" if self.content.get("kind") == "ScaledObject" else "HPA"

    def manifest(self, profile: Profile) -> Manifest:  # noqa: ARG002 -- of all settings
        """The manifest itself, whatever the profile."""
        return self.content


Choice = Standing | Candidate
Setting = Choice | Given


def quantity(value: float) -> str:
    """A target as a canonical Kubernetes quantity, to the milli-unit the metrics adapters keep: 5, 5500m, 504m."""
    milli = round(value * 1000)
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def outliving_s(cold_start_s: float) -> int:
    """The shortest scale-down window, in whole minutes, that outlives a start: what was asked for is not cancelled."""
    return max(60, 60 * math.ceil((cold_start_s * 1.25 + 60) / 60))


def behaviors(cold_start_s: float) -> list[Behavior]:
    """The behaviours worth trying for a replica that takes `cold_start_s` to start.

    Scale-up is not slowed at first: demand that waits is what the SLO is about. Scale-down is what differs: Kubernetes' own
    300 s, shorter and longer ones up to an hour (the API's limit), and the one that outlives a start. Removal goes one
    replica a minute in all but the default: a burst often comes in several waves.
    """
    windows = {w for w in (*WINDOWS_S, outliving_s(cold_start_s)) if w <= MAX_WINDOW_S}
    return [Behavior(), *(Behavior(w) for w in sorted(windows))]
