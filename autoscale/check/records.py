"""What a watch keeps of each thing: one record per pod, metric sample, change of size and gap."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

NAN = math.nan


@dataclass
class PodRecord:
    """One pod. Every `_s` is unix seconds on the observer's clock; NaN = did not happen, or was not seen."""

    uid: str
    name: str
    labels: dict[str, str]
    accelerators: int = 0
    node: str | None = None
    phase: str = "Pending"
    owner: str = ""
    seen_s: float = NAN  # last heard of
    created_s: float = NAN
    scheduled_s: float = NAN
    initialized_s: float = NAN
    pulling_s: float = NAN
    pulled_s: float = NAN
    started_s: float = NAN
    ready_s: float = NAN
    deleting_s: float = NAN
    gone_s: float = NAN
    unready_s: float = NAN  # the last time that Ready was lost after it had been reached
    unschedulable: str = ""  # the scheduler's last reason
    asked_for_node_s: float = NAN  # the node autoscaler announced a scale-up for this pod
    no_node: str = ""  # the node autoscaler's reason not to
    restarts: int = 0
    waiting: str = ""  # reason why its container does not run, e.g. ImagePullBackOff
    log_s: dict[str, float] = field(default_factory=dict)  # start-up phase -> when the log told its end


@dataclass(frozen=True)
class MetricSample:
    """One reading of a metric: usage_milli is the mean over the pods that reported, values_milli each of them."""

    time_s: float
    metric: str
    usage_milli: float  # NaN: no answer
    values_milli: dict[str, int] | None = None  # None: only the mean is known (HPA status)


@dataclass(frozen=True)
class Resize:
    """The target's size was changed."""

    time_s: float
    before: int
    after: int
    by_hpa: bool
    reason: str = ""
    late: bool = False  # found by a new list, not seen as it happened


@dataclass(frozen=True)
class Gap:
    """A span that was not watched; `lost`: changes in it may never have been seen."""

    resource: str
    from_s: float
    to_s: float
    lost: bool
    reason: str
