"""What scales between which bounds: a recommendation, or the tutorial's target when there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from analysis.errors import BadInput, NotAchieved
from autoscale.hpa import format_milli
from autoscale.hpa import parse_quantity as parse
from autoscale.profiles import Profile
from autoscale.recommendation import KubernetesObject, Recommendation, refuse_other
from autoscale.schedule import Scheduled, Window
from autoscale.signal_target import SignalTarget


@dataclass(frozen=True)
class Plan:
    """What scales between which bounds, and where the numbers come from. No targets: a fixed number of replicas."""

    targets: list[SignalTarget]
    min_replicas: int
    max_replicas: int
    behavior: KubernetesObject | None
    source: str
    scaled_object: KubernetesObject | None = None  # that was recommended, where KEDA was asked for
    windows: tuple[Window, ...] = ()  # in which the minimum is higher
    gateway: str = "on"  # options of --gateway that its endpoint picker stands for, where the set has one

    @property
    def autoscales(self) -> bool:
        """Whether an HPA is written at all."""
        return bool(self.targets)


def plan(profile: Profile, recommendation: Recommendation | None) -> Plan:
    """The recommendation as targets and bounds; without one, the tutorial's target, named as such.

    Raises BadInput for a recommendation that cannot be written as an HPA, NotAchieved for an infeasible one.
    """
    deploy = profile.deploy
    if recommendation is None:
        target = SignalTarget("waiting", canonical(deploy.tutorial_target))
        source = (
            f"averageValue {target.quantity} is the tutorial's number, derived from nothing: measure this system under "
            "load and run `autoscale recommend` to derive a target, its interval and a behavior block for your SLO."
        )
        return Plan([target], deploy.min_replicas, deploy.max_replicas, None, source)
    refuse_other(
        recommendation, profile=profile.name, model=profile.model.id, accelerator=profile.accelerator.name
    )
    scheduled = recommendation.schedule
    if scheduled and scheduled.recommended:
        return _scheduled(scheduled)
    match recommendation.answer:
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
            targets = [_canonical_target(target) for target in recommendation.metrics]
            if not targets:
                raise BadInput(
                    "recommendation says autoscale but has no metrics", expected="at least one metric"
                )
            if len({target.signal for target in targets}) < len(targets):
                raise BadInput("recommendation names a metric twice", value=[t.signal for t in targets])
            source = f"Derived from a measured or simulated run of this system{_kept(recommendation)}; see recommendation.json."
            return Plan(targets, low, high, recommendation.behavior, source, recommendation.scaled_object)


def _scheduled(scheduled: Scheduled) -> Plan:
    targets = [_canonical_target(target) for target in scheduled.metrics]
    least = scheduled.otherwise
    most = max([least, scheduled.max_replicas or least, *(w.replicas for w in scheduled.windows)])
    source = f"Beside a schedule: {scheduled.sentence}."
    return Plan(targets, least, most, scheduled.behavior, source, windows=scheduled.windows)


def _kept(recommendation: Recommendation) -> str:
    """What the simulations behind a recommendation kept."""
    found = recommendation.predicted
    if found is None or not found.periods:
        return ""
    return (
        f": {found.slo_attainment.value:.2%} of the requests in bounds, the SLO kept in {found.days_kept.value:.1%} of "
        f"{found.periods} periods, at worst {found.worst_stretch_s / 60:.0f} min over it at a stretch"
    )


def _bounds(recommendation: Recommendation, low_default: int, high_default: int) -> tuple[int, int]:
    low = recommendation.min_replicas or low_default
    high = recommendation.max_replicas or max(low, high_default)
    if high < low:
        raise BadInput(
            "recommendation has maxReplicas below minReplicas", value=high, expected=f"at least {low}"
        )
    return low, high


def _canonical_target(target: SignalTarget) -> SignalTarget:
    interval = target.interval and (canonical(target.interval[0]), canonical(target.interval[1]))
    return replace(target, quantity=canonical(target.quantity), interval=interval)


def canonical(value: object) -> str:
    """A target as the API server shows it: whole milli-units, 0.504 is 504m. Raises BadInput."""
    return format_milli(parse(value).milli)


def decimal(quantity: str) -> str:
    """The quantity as a plain decimal number, for PromQL and KEDA: 504m is 0.504."""
    return format(Decimal(parse(quantity).milli) / 1000, "f")
