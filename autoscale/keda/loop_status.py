"""What KEDA keeps of a ScaledObject between two steps, and what a step gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from autoscale.keda.fallback import Health, Replaced


class ScaledCondition(NamedTuple):
    """A condition of a ScaledObject: True, False or Unknown, and its reason."""

    status: str
    reason: str = ""


UNKNOWN, NOT_PAUSED = ScaledCondition("Unknown"), ScaledCondition("False")
READY, NOT_READY, HALF_READY, ACTIVE, NOT_ACTIVE, COOLING, PAUSED_CONDITION, FALLS_BACK, NO_FALLBACK = (
    ScaledCondition(status, reason)
    for status, reason in (
        ("True", "ScaledObjectReady"),
        ("False", "TriggerError"),
        ("Unknown", "PartialTriggerError"),
        ("True", "ScalerActive"),
        ("False", "ScalerNotActive"),
        ("False", "ScalerCooldown"),
        ("True", "ScaledObjectPaused"),
        ("True", "FallbackExists"),
        ("False", "NoFallbackFound"),
    )
)


@dataclass(frozen=True)
class LoopStatus:
    """What KEDA keeps of a ScaledObject between two steps: its status, and whether its scalers are built."""

    ready: ScaledCondition = READY
    active: ScaledCondition = UNKNOWN
    fallback: ScaledCondition = UNKNOWN
    paused: ScaledCondition = NOT_PAUSED
    last_active_s: int | None = None
    health: Mapping[str, Health] = field(default_factory=dict)
    triggers_activity: Mapping[str, bool] = field(default_factory=dict)
    built: bool = False
    cached: Mapping[str, Replaced] = field(
        default_factory=dict
    )  # the last poll's values, of useCachedMetrics


class Step(NamedTuple):
    """One poll or query: the status after it, the events (type, reason, message), and what it gave."""

    status: LoopStatus
    events: tuple[str, ...]
    scale_to: int | None = None  # a poll's: what KEDA sets the target to
    metrics: Mapping[str, int] | None = None  # a query's: milli-units by name
    error: str | None = None  # a query's
