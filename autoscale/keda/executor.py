"""What one poll does to the scale target: between zero or idle and min; all else is the HPA's.

Source: kedacore/keda v2.20.2 pkg/scaling/executor/scale_scaledobjects.go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from autoscale.keda.arithmetic import cooling
from autoscale.keda.loop_status import (
    ACTIVE,
    COOLING,
    HALF_READY,
    NOT_ACTIVE,
    NOT_READY,
    PAUSED_CONDITION,
    READY,
    LoopStatus,
    Step,
)
from autoscale.keda.scaled_object import FORCED, PAUSED_IN, PAUSED_OUT, ScaledObject


@dataclass
class Execution:
    """The executor: what one poll does to the scale target."""

    scaled: ScaledObject
    status: LoopStatus
    replicas: int
    active: list[str]
    is_error: bool
    now_s: float
    created_s: float
    scale_fails: bool

    def made(self, events: list[str]) -> Step:
        scaled = self.scaled
        self.events = events
        self.scale_to: int | None = None
        self.status = replace(self.status, ready=READY)
        if scaled.paused:
            self.status = replace(self.status, paused=PAUSED_CONDITION)
        elif self.active or scaled.annotated(FORCED):
            self._while_active()
        else:
            self._while_inactive()
        return Step(self.status, tuple(events), self.scale_to)

    def _while_active(self) -> None:
        scaled = self.scaled
        self.status = replace(self.status, active=ACTIVE)
        idle = scaled.idle_replica_count is not None and self.replicas < scaled.min_replicas
        if idle or self.replicas == 0:
            if not scaled.annotated(PAUSED_OUT):
                self._activate()
        elif self.is_error:
            self.status = replace(self.status, ready=HALF_READY)
        else:
            self._was_active()

    def _while_inactive(self) -> None:
        scaled, fallback, idle = self.scaled, self.scaled.fallback, self.scaled.idle_replica_count
        self.status = replace(self.status, active=NOT_ACTIVE)
        if self.is_error and fallback is not None and fallback.replicas != 0:
            return  # the HPA shall reach the fallback's replicas, which it cannot from zero
        if self.is_error and fallback is None:
            self.status = replace(self.status, ready=NOT_READY)
        elif (idle is not None and self.replicas > idle) or (self.replicas > 0 and scaled.min_replicas == 0):
            if not scaled.annotated(PAUSED_IN):
                self._deactivate()
        elif idle is None and self.replicas < scaled.min_replicas and not self.scale_fails:
            self.scale_to = scaled.min_replicas

    def _was_active(self) -> None:
        self.status = replace(self.status, last_active_s=math.floor(self.now_s))

    def _activate(self) -> None:
        wanted = self.scaled.hpa_min_replicas
        moved = f"{self._target} from {self.replicas} to {wanted}"
        if self.scale_fails:
            self.events.append(f"Warning KEDAScaleTargetActivationFailed Failed to scale {moved}")
            return
        cause = f"triggered by {';'.join(self.active)}"
        if self.scaled.annotated(FORCED):
            cause = "caused by forced activation annotation"
        self.events.append(f"Normal KEDAScaleTargetActivated Scaled {moved}, {cause}")
        self.scale_to = wanted
        self._was_active()

    def _deactivate(self) -> None:
        scaled, status = self.scaled, self.status
        first_s = self.created_s + scaled.initial_cooldown_period_s
        last_s = math.nan if status.last_active_s is None else status.last_active_s
        if cooling(self.now_s, last_s, scaled.cooldown_period_s, first_s):
            self.status = replace(self.status, active=COOLING)
            return
        idle = scaled.idle_replica_count
        wanted = scaled.min_replicas if idle is None else idle
        moved = f"{self._target} from {self.replicas} to {wanted}"
        if self.scale_fails:
            self.events.append(f"Warning KEDAScaleTargetDeactivationFailed Failed to deactivate {moved}")
            return
        self.events.append(f"Normal KEDAScaleTargetDeactivated Deactivated {moved}")
        self.scale_to = wanted

    @property
    def _target(self) -> str:
        target = self.scaled.target
        return f"{target.api_version}.{target.kind} {self.scaled.namespace}/{target.name}"
