"""What scales between which bounds: a recommendation, or the tutorial's target when there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from analysis.errors import BadInput, NotAchieved
from autoscale.hpa import format_milli
from autoscale.hpa import parse_quantity as parse
from autoscale.kube.vllm_names import SIGNALS
from autoscale.profiles import Profile

Object = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One metric and its averageValue (a Kubernetes quantity); `interval` is the range that meets the SLO as well."""

    signal: str
    quantity: str
    interval: tuple[str, str] | None = None


@dataclass(frozen=True)
class Plan:
    """What scales between which bounds, and where the numbers come from. No targets: a fixed number of replicas."""

    targets: list[Target]
    min_replicas: int
    max_replicas: int
    behavior: Object | None
    source: str

    @property
    def autoscales(self) -> bool:
        """Whether an HPA is written at all."""
        return bool(self.targets)


def plan(profile: Profile, recommendation: Mapping[str, Any] | None) -> Plan:
    """The recommendation as targets and bounds; without one, the tutorial's target, named as such.

    Raises BadInput for a recommendation that cannot be written as an HPA, NotAchieved for an infeasible one.
    """
    deploy = profile.deploy
    if recommendation is None:
        target = Target("waiting", canonical(deploy.tutorial_target))
        source = (
            f"averageValue {target.quantity} is the tutorial's number, derived from nothing: measure this system under "
            "load and run `autoscale recommend` to derive a target, its interval and a behavior block for your SLO."
        )
        return Plan([target], deploy.min_replicas, deploy.max_replicas, None, source)
    if (owner := recommendation.get("profile")) not in (None, profile.name):
        raise BadInput(
            "the recommendation is of another profile",
            value=owner,
            expected=profile.name,
            next_step=f"write the set of {owner}, or run `autoscale recommend --profile {profile.name}`",
        )
    match answer := recommendation.get("answer"):
        case "infeasible":
            raise NotAchieved(
                "the recommendation says that this SLO cannot be met on this replica, so there is no HPA to write",
                next_step="relax the SLO or choose a profile with a faster replica",
            )
        case "need_more_data":
            raise NotAchieved(
                "the recommendation asks for more data, so there is no HPA to write",
                next_step="measure what its reasons name, or leave the recommendation out for the tutorial's target",
            )
        case "do_not_autoscale":
            low, high = _bounds(recommendation, deploy.min_replicas, deploy.max_replicas)
            source = f"The recommendation is not to autoscale: {low} replicas stay up, scale-out would come too late."
            return Plan([], low, low, None, source)
        case "autoscale":
            low, high = _bounds(recommendation, deploy.min_replicas, deploy.max_replicas)
            entries, behavior = recommendation.get("metrics") or [], recommendation.get("behavior")
            if not isinstance(entries, list | tuple):
                raise BadInput("recommendation metrics", value=entries, expected="a list")
            if behavior is not None and not isinstance(behavior, dict):
                raise BadInput(
                    "recommendation behavior", value=behavior, expected="null, or scaleUp and scaleDown"
                )
            targets = [_target(entry) for entry in entries]
            if not targets:
                raise BadInput(
                    "recommendation says autoscale but has no metrics", expected="at least one metric"
                )
            if len({target.signal for target in targets}) < len(targets):
                raise BadInput("recommendation names a metric twice", value=[t.signal for t in targets])
            source = "Derived from a measured or simulated run of this system; see recommendation.json."
            return Plan(targets, low, high, behavior, source)
    raise BadInput(
        "recommendation answer", value=answer, expected="autoscale, do_not_autoscale or infeasible"
    )


def _bounds(recommendation: Mapping[str, Any], low_default: int, high_default: int) -> tuple[int, int]:
    low = _count(recommendation, "minReplicas", low_default)
    high = _count(recommendation, "maxReplicas", max(low, high_default))
    if high < low:
        raise BadInput(
            "recommendation has maxReplicas below minReplicas", value=high, expected=f"at least {low}"
        )
    return low, high


def _count(recommendation: Mapping[str, Any], key: str, default: int) -> int:
    value = recommendation.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"recommendation {key}", value=value, expected="a whole number of at least 1")
    return value


def _target(entry: Any) -> Target:
    if not isinstance(entry, Mapping) or entry.get("name") not in SIGNALS:
        raise BadInput(
            "recommendation metric", value=entry, expected=f"name {', '.join(SIGNALS)} and averageValue"
        )
    quantity = _quantity(entry.get("averageValue"))
    interval = entry.get("interval")
    if interval is None:
        return Target(entry["name"], quantity)
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        raise BadInput("recommendation interval", value=interval, expected="two quantities, low and high")
    return Target(entry["name"], quantity, (canonical(interval[0]), canonical(interval[1])))


def _quantity(value: Any) -> str:
    """The canonical form of a positive quantity. Raises BadInput."""
    text = canonical(value)
    if parse(text).milli <= 0:
        raise BadInput("averageValue", value=value, expected="a quantity of at least 1m")
    return text


def canonical(value: object) -> str:
    """A target as the API server shows it: whole milli-units, 0.504 is 504m. Raises BadInput."""
    return format_milli(parse(value).milli)


def decimal(quantity: str) -> str:
    """The quantity as a plain decimal number, for PromQL and KEDA: 504m is 0.504."""
    return format(Decimal(parse(quantity).milli) / 1000, "f")
