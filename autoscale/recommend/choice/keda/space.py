"""What may be chosen of ScaledObjects: KEDA's signals beside those of the pods, its alarm, and when it goes to zero."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.errors import BadInput
from autoscale.recommend.answer import Point
from autoscale.recommend.choice.keda.scaled_object import Keda
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.settings import Candidate
from autoscale.recommend.choice.space import Space, rounded_target, with_spare
from autoscale.recommend.effort import CHOOSING
from autoscale.sim.fleet.control import FleetOptions


@dataclass(frozen=True)
class KedaAsked:
    """That the answer is to be a ScaledObject: whether it may go to zero, and by which signals alone (None: all there are).

    slo_cold_start_s   what the TTFT may be of a request that waits on a start from zero; None: what every other's may be
    """

    to_zero: bool = False
    slo_cold_start_s: float | None = None
    signals: tuple[str, ...] | None = None


def check_zero(options: FleetOptions) -> None:
    """Raises BadInput when nothing would hold the requests that come while there is no replica."""
    gateway = options.gateway
    if gateway is None or not gateway.flow_control:
        raise BadInput(
            "a fleet that goes to zero needs something that holds requests until its first replica is ready",
            expected="--gateway on with flow control, which llm-d has behind featureGates: [flowControl]",
            next_step="say --gateway on, or keep one replica",
        )


def keda_space(space: Space, scenario: Scenario, point: Point, asked: KedaAsked) -> Space:
    """The space of ScaledObjects that never go to zero, from that of HPAs: their behaviours and bounds, more signals."""
    gateway = scenario.options.gateway
    held = gateway is not None and gateway.flow_control
    targets: dict[str, tuple[float, ...]] = {}
    if gateway is not None:
        if held:
            targets["gateway_queue"] = CHOOSING.waiting_targets
        targets["gateway_in_flight"] = _around(point.running + point.waiting)
        targets["gateway_saturation"] = _saturations()
        targets |= {name: space.targets[name] for name in ("waiting", "kv_usage")}
    else:
        targets["in_flight"] = _around(point.running + point.waiting)
        targets |= space.targets
    if asked.signals is not None:
        targets = {name: targets[name] for name in asked.signals}
    alarm = "gateway_queue" if held else "waiting"
    pairs = space.waiting_in_pairs if alarm in targets else ()
    return replace(space, targets=targets, alarm=alarm, waiting_in_pairs=pairs, keda=Keda())


def zero_space(space: Space, standing: int) -> Space:
    """The same of those that go to zero: the standing fleet that is needed, at rest when nobody comes, among them.

    All of it may have to start at once, and some more, to work off what has waited for the first replica.
    """
    whole = [min(count, space.max_replicas) for count in (standing, with_spare(standing))]
    kedas = tuple(Keda(zero_after_s=seconds) for seconds in CHOOSING.zero_after_s)
    usual = kedas[len(kedas) // 2]
    return replace(
        space,
        keda=usual,
        kedas=(*kedas, replace(usual, polling_s=CHOOSING.short_polling_s)),
        min_replicas=tuple(sorted({*space.min_replicas, *whole})),
        beginnings=(
            *space.beginnings,
            *((space.behaviors[0], count, count) for count in dict.fromkeys(whole)),
        ),
    )


def whole_fleet(space: Space) -> Candidate:
    """Of a space that goes to zero the setting that should keep most: all replicas start at once, and go after an hour."""
    *_, signal = space.targets
    fixed = (
        ((space.alarm, space.waiting_in_pairs[0]),)
        if space.waiting_in_pairs and signal != space.alarm
        else ()
    )
    last = max(space.kedas, key=lambda keda: keda.zero_after_s or 0)
    most = space.min_replicas[-1]
    return space.line((fixed, signal), space.behaviors[0], most, most, last).settings[0]


def _around(value: float) -> tuple[float, ...]:
    fractions = CHOOSING.step ** np.arange(CHOOSING.tightest_power, CHOOSING.loosest_power)
    return tuple(sorted({target for f in fractions if (target := rounded_target(value * f)) > 0}))


def _saturations() -> tuple[float, ...]:
    """Of a pool that is full at 1, beyond which flow control lets hardly anything: the HPA acts at 1.1 times its target."""
    return tuple(sorted({round(0.9 * CHOOSING.step**-k, 3) for k in range(-CHOOSING.tightest_power)}))
