"""The ScaledObject of a setting: what KEDA is told beyond an HPA's targets, behaviour and bounds, and the object itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoscale.kube.scaling_signals import LATENCY_SIGNALS, SCALING_SIGNALS
from autoscale.profiles import Profile
from autoscale.profiles.trigger_queries import trigger_query

PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"  # that KEDA asks; to be replaced by one's own


@dataclass(frozen=True)
class Keda:
    """What KEDA's own loop is told.

    polling_s     how often it looks whether anything is active
    zero_after_s  how long after the last active poll the last replica goes; None: it stays
    """

    polling_s: int = 15
    zero_after_s: int | None = None

    @property
    def name(self) -> str:
        """What tables call it: "KEDA", "KEDA, to zero after 15 min"."""
        if self.zero_after_s is None:
            return "KEDA"
        often = "" if self.polling_s == 15 else f", polled every {self.polling_s} s"
        return f"KEDA, to zero after {self.zero_after_s / 60:g} min{often}"


def keda_object(
    profile: Profile,
    triggers: Sequence[Mapping[str, Any]],
    bounds: tuple[int, int],
    keda: Keda,
    behavior: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The keda.sh/v1alpha1 object on the profile's workload.

    To zero it goes from a minimum of 1 by minReplicaCount 0, which KEDA makes an HPA from 1 of; from a larger one by
    idleReplicaCount 0, beside that minimum.
    """
    deploy = profile.deploy
    group = "leaderworkerset.x-k8s.io/v1" if deploy.kind == "LeaderWorkerSet" else "apps/v1"
    low, high = bounds
    zero = keda.zero_after_s is not None
    spec: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": group, "kind": deploy.kind, "name": deploy.name},
        "pollingInterval": keda.polling_s,
    }
    if zero:
        spec["cooldownPeriod"] = keda.zero_after_s
        spec |= {"idleReplicaCount": 0} if low > 1 else {}
    spec |= {"minReplicaCount": 0 if zero and low == 1 else low, "maxReplicaCount": high}
    config: dict[str, Any] = {"name": deploy.hpa_name}
    if behavior is not None:
        config["behavior"] = dict(behavior)
    spec |= {"advanced": {"horizontalPodAutoscalerConfig": config}, "triggers": [dict(t) for t in triggers]}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": deploy.hpa_name, "namespace": deploy.namespace},
        "spec": spec,
    }


def trigger(
    profile: Profile, signal: str, threshold: float, *, metric_type: str = "", at_zero: bool = False
) -> dict[str, Any]:
    """The trigger of a signal, active above 0; on the signal's own target type unless another one is given.

    An answer of the pods' without an element is an error, which holds the size, rather than no load; but at zero there are
    no pods, and a gateway shows its series from the first request on.
    """
    known = SCALING_SIGNALS[signal]
    metadata = {
        "serverAddress": PROMETHEUS,
        "query": trigger_query(profile, signal),
        "threshold": threshold_text(threshold),
        "activationThreshold": "0",
    }
    if not (at_zero or known.of_gateway or signal in LATENCY_SIGNALS):
        metadata["ignoreNullValues"] = "false"
    return {"type": "prometheus", "metricType": metric_type or known.metric_type, "metadata": metadata}


def threshold_text(value: float) -> str:
    """A threshold as KEDA reads and keeps it: a decimal number of at most three places, no quantity."""
    return f"{value:.3f}".rstrip("0").rstrip(".")
