"""What can be asked of an HPA: targets, behaviours and replica bounds, and the manifest that says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

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
    """One setting of the HPA: targets in natural units per pod (requests; KV as a fraction), behaviour and bounds."""

    targets: tuple[tuple[str, float], ...]  # (signal, averageValue); signal: waiting | running | kv_usage
    behavior: Behavior
    min_replicas: int
    max_replicas: int

    @property
    def family(self) -> str:
        """The signals that drive it, joined by +."""
        return "+".join(signal for signal, _ in self.targets)

    @property
    def label(self) -> str:
        """One line for tables: "waiting 5, running 80, 1-8, window 30 min"."""
        targets = ", ".join(f"{signal} {quantity(value)}" for signal, value in self.targets)
        return f"{targets}, {self.min_replicas}-{self.max_replicas}, {self.behavior.name}"


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
