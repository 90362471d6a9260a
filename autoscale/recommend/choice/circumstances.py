"""The scenario as it may turn out: a slower replica, more traffic, longer starts; and how far each may move until it breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from autoscale.profiles import Profile, overlay
from autoscale.profiles.profile import ColdStart, Phase
from autoscale.recommend.answer import Robust
from autoscale.recommend.choice.judging import Each
from autoscale.recommend.choice.scenario import Kept, Scenario
from autoscale.recommend.choice.settings import Choice
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.model.coefficients import scaled

PHASES = ("node", "image", "engine_init", "group_join", "compile", "compile_cached")


def at_speed(scenario: Scenario, scale: float) -> Scenario:
    """The scenario with steps that take (1 + scale) times as long."""
    return replace(scenario, engine=scaled(scenario.engine, 1 + scale)) if scale else scenario


def at_traffic(scenario: Scenario, change: float, kept: Kept | None = None) -> Scenario:
    """The scenario under (1 + change) times the traffic; `kept` holds the arrivals of exactly that, where they are kept."""
    plan = kept.plan if kept else scenario.plan.times(1 + change)
    return replace(scenario, plan=plan, kept=kept)


def at_start(scenario: Scenario, change: float) -> Scenario:
    """The scenario with every phase of a start, and the loading of the weights, (1 + change) times as long."""
    return _starting(
        scenario,
        lambda phase: Phase(median_s=(1 + change) * phase.median_s, p95_s=(1 + change) * phase.p95_s),
        1 + change,
    )


def at_slow_starts(scenario: Scenario) -> Scenario:
    """The scenario with every phase of every start at its 95th percentile."""
    return _starting(scenario, lambda phase: Phase(median_s=phase.p95_s, p95_s=phase.p95_s), 1.0)


def _starting(scenario: Scenario, change: Callable[[Phase], Phase], weights: float) -> Scenario:
    cold: ColdStart = scenario.profile.cold_start
    phases = {name: getattr(cold, name) for name in PHASES}
    changed = {name: change(phase).model_dump() for name, phase in phases.items() if phase is not None}
    rate = cold.weights_rate_bytes_s / weights
    profile: Profile = overlay(scenario.profile, {"cold_start": {**changed, "weights_rate_bytes_s": rate}})
    return replace(scenario, profile=profile)


def robustness(
    scenario: Scenario, setting: Choice, seeds: Sequence[int], each: Each, more: Kept | None
) -> Robust:
    """How much more traffic, and how much longer starts, the setting holds under every one of these seeds.

    Traffic whose requests take long to draw is only tried where its arrivals are kept.
    """
    holds = partial(_all_hold, setting=setting, seeds=seeds, each=each)
    dear = scenario.plan.drawn_requests > 2 * scenario.plan.expected_requests
    by_traffic = {CHOOSING.traffic_off: at_traffic(scenario, CHOOSING.traffic_off, more)}
    if not dear:
        by_traffic = {m: by_traffic.get(m) or at_traffic(scenario, m) for m in CHOOSING.moves}
    traffic = _farthest(list(by_traffic), lambda move: holds(by_traffic[move]))
    start = 0.0
    if setting.replicas is None:
        start = _farthest(CHOOSING.moves, lambda move: holds(at_start(scenario, move)))
    return Robust(traffic, start, (1 + start) * scenario.cold_start_s, len(seeds))


def _farthest(moves: Sequence[float], holds: Callable[[float], bool]) -> float:
    """The last of the moves that holds, by bisection; 0 when none does."""
    low, high = -1, len(moves)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(moves[middle]) else (low, middle)
    return moves[low] if low >= 0 else 0.0


def _all_hold(scenario: Scenario, setting: Choice, seeds: Sequence[int], each: Each) -> bool:
    return all(each(partial(_holds, scenario, setting), list(seeds)))


def _holds(scenario: Scenario, setting: Choice, seed: int) -> bool:
    return scenario(setting, seed).holds
