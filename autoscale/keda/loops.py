"""The two loops on one scale target: KEDA's scale loop, and the controller of the HPA that KEDA makes.

They know nothing of each other: both read the triggers, both write the target's replicas. When each of them acts is the
caller's; what a changed object does to both is here. Source: kedacore/keda v2.20.2 controllers/keda/
{scaledobject_controller.go,scaledobject_finalizer.go}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from autoscale.hpa import HpaDecision, HpaSpec, Memory, MetricError, decide
from autoscale.hpa.calculator import Reading, Seen
from autoscale.keda.fallback import TargetPods
from autoscale.keda.hpa_made import hpa_spec
from autoscale.keda.loop_status import NOT_PAUSED, LoopStatus, Step
from autoscale.keda.scale_loop import Read, hpa_query, poll
from autoscale.keda.scaled_object import ScaledObject


@dataclass(frozen=True)
class Loops:
    """A ScaledObject at work; `hpa` is None while it is paused. Times as in `scale_loop`."""

    scaled: ScaledObject
    created_s: float
    status: LoopStatus = field(default_factory=LoopStatus)
    hpa: HpaSpec | None = None
    memory: Memory | None = None

    @classmethod
    def started(cls, scaled: ScaledObject, created_s: float) -> Loops:
        """The loops of a new ScaledObject. Raises KedaRefusal where an API server refuses the HPA."""
        return cls(scaled, created_s).changed(scaled)[0]

    def changed(self, scaled: ScaledObject) -> tuple[Loops, int | None]:
        """What the reconciler makes of a changed object, and the replicas that paused-replicas sets at once.

        A pause deletes the HPA, and its memory with it; another name makes another HPA; else the HPA is updated.
        """
        status = replace(self.status, built=False, cached={})
        if scaled.paused:
            return replace(self, scaled=scaled, status=status, hpa=None, memory=None), scaled.paused_replicas
        hpa = hpa_spec(scaled)
        kept = self.hpa is not None and self.hpa.name == hpa.name
        status = replace(status, paused=NOT_PAUSED)
        memory = self.memory if kept else None
        return replace(self, scaled=scaled, status=status, hpa=hpa, memory=memory), None

    def polled(self, reads: Mapping[str, Read], pods: TargetPods, now_s: float) -> tuple[Loops, Step]:
        """One poll of the scale loop."""
        step = poll(self.scaled, self.status, reads, pods, now_s, self.created_s, scale_fails=False)
        return replace(self, status=step.status), step

    def reads_metrics(self, replicas: int) -> bool:
        """Whether the HPA's next sync asks for metrics: not at zero, and not while the size is out of bounds."""
        return (
            self.hpa is not None
            and replicas > 0
            and self.hpa.min_replicas <= replicas <= self.hpa.max_replicas
        )

    def synced(
        self, reads: Mapping[str, Read], pods: TargetPods, status_replicas: int, now_s: float
    ) -> tuple[Loops, HpaDecision | None]:
        """One sync of the HPA's controller; None while there is no HPA. `status_replicas` is the target's status."""
        if self.hpa is None:
            return self, None
        status, metrics = self.status, dict[str, Reading]()
        if self.reads_metrics(pods.replicas):
            for target in self.hpa.metrics:
                step = hpa_query(self.scaled, status, target.name, reads, pods)
                status = step.status
                value = (step.metrics or {}).get(target.name)
                if step.error is not None:
                    metrics[target.name] = MetricError(step.error)
                else:
                    metrics[target.name] = MetricError(target.nothing) if value is None else value
        seen = Seen(status_replicas, pods.ready)
        decision = decide(self.hpa, self.memory, pods.replicas, metrics, now_s, seen)
        return replace(self, status=status, memory=decision.memory), decision
