"""The parts of the bill add up: what starts, what is wasted, what idles, hour by hour, against sums made another way."""

import math

import numpy as np
import pytest

from autoscale.profiles.profile import load, overlay
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.fleet.replica import Nodes
from autoscale.sim.fleet.simulate import simulate
from tests.sim.test_fleet import L4, SMALL, burst, load_of, manifest

GROUPS = overlay(
    load("llama-3.1-405b-2x8h100"),
    {"cold_start": {"node": {"median_s": 60, "p95_s": 90}, "engine_init": {"median_s": 20, "p95_s": 20}}},
)


def bursts(profile=L4, seed=1, **keywords):
    arrivals = burst(0.05, 6.0, 900, 300, 3600)
    return simulate(
        profile, manifest(profile), arrivals, seed=seed, duration_s=3600.0, engine=SMALL, **keywords
    )


def on_a_grid(outcome, step_s: float = 0.25) -> float:
    """Accelerator-hours of ready replicas without a request, counted tick by tick from requests and events."""
    at_s, slots = np.arange(0, outcome.duration_s, step_s) + step_s / 2, {}
    for replica in outcome.spent.replicas.values():
        slots.setdefault(replica.slot, []).append(replica)
    idle = 0
    for slot, replicas in slots.items():
        ready = np.zeros(len(at_s), bool)
        for one in replicas:
            if one.ready_s == one.ready_s:
                end = one.deleting_s if one.deleting_s == one.deleting_s else math.inf
                ready |= (at_s >= one.ready_s) & (at_s < end)
        busy = np.zeros(len(at_s), bool)
        for request in outcome.requests[outcome.requests["slot"] == slot]:
            busy |= (at_s >= request["sent_s"]) & (at_s < request["end_s"])
        idle += int((ready & ~busy).sum())
    return idle * step_s / 3600


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_parts_are_those_of_the_hours_that_the_fleet_counts(seed) -> None:
    outcome = bursts(seed=seed, keep=True)
    spent = outcome.spending()
    assert spent.total == pytest.approx(outcome.accelerator_hours, rel=1e-9)
    assert 0 < spent.starting < spent.total
    assert spent.idle == pytest.approx(on_a_grid(outcome), abs=2e-3)
    assert spent.starting + spent.wasted + spent.idle <= spent.total + 1e-9


def test_groups_count_every_chip_of_every_node() -> None:
    outcome = bursts(GROUPS, options=FleetOptions(nodes=Nodes(standing=2, maximum=3)))
    spent = outcome.spending()
    assert spent.total == pytest.approx(outcome.accelerator_hours, rel=1e-9)
    assert spent.idle <= spent.total


def test_a_standing_fleet_without_a_request_idles_all_the_time() -> None:
    outcome = simulate(L4, None, [], seed=0, duration_s=7200.0, engine=SMALL, static_replicas=3)
    spent = outcome.spending(begins_s=23.5 * 3600)
    assert (spent.idle, spent.total) == pytest.approx((6.0, 6.0))
    assert (spent.starting, spent.wasted) == (0, 0)
    held = dict(enumerate(spent.by_hour))
    assert held[23] == held[0] == held[1] == pytest.approx(3.0)  # half past eleven to half past one
    assert all(math.isnan(held[hour]) for hour in range(2, 23))


def test_the_hours_of_the_day_add_up_to_the_total() -> None:
    outcome = bursts()
    spent = outcome.spending(begins_s=7.25 * 3600)
    seconds = {7: 2700, 8: 900}
    assert sum(spent.by_hour[h] * s for h, s in seconds.items()) / 3600 == pytest.approx(spent.total)


def test_what_leaves_before_it_is_ready_is_wasted() -> None:
    short = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    arrivals = burst(0.05, 30.0, 900, 20, 3600)
    slow = overlay(L4, {"cold_start": {"engine_init": {"median_s": 900, "p95_s": 900}}})
    outcome = simulate(slow, manifest(behavior=short), arrivals, seed=1, duration_s=3600.0, engine=SMALL)
    assert outcome.wasted_scale_outs > 0
    assert outcome.spending().wasted > 0


def test_no_request_no_division() -> None:
    outcome = simulate(L4, None, [load_of(1, 600)], seed=0, duration_s=600.0, engine=SMALL, static_replicas=0)
    assert outcome.spending().total == 0
