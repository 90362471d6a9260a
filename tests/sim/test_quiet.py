"""Ticks that change nothing may be run in one compiled loop: nothing else may come of it."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoscale.profiles.profile import load, overlay
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.fleet.replica import Nodes
from tests.sim.test_fleet import L4, burst, load_of, manifest, run

GROUPS = overlay(
    load("llama-3.1-405b-2x8h100-hdml"),
    {"cold_start": {"node": 40, "weights_rate_bytes_s": 8e9, "engine_init": 5}},
)
FIGURES = [
    "offered",
    "finished",
    "ok",
    "lost",
    "unserved",
    "attainment",
    "verdicts",
    "replica_hours",
    "accelerator_hours",
    "wasted_scale_outs",
    "flaps",
    "longest_breach_s",
    "peak_replicas",
    "output_tokens",
    "replicas",
    "decisions",
    "events",
]


def same(*arguments, **keywords):
    """The figures of both ways; a simulation that keeps its samples runs every tick by itself."""
    one_by_one, quiet = (run(*arguments, **keywords, keep=keep) for keep in (True, False))
    for figure in FIGURES:
        assert getattr(quiet, figure) == getattr(one_by_one, figure), figure
    for metric in ("ttft", "tpot"):
        p99 = one_by_one.percentile(metric, 99)
        assert quiet.percentile(metric, 99) == p99 or math.isnan(p99)
    return quiet


@given(
    seed=st.integers(0, 1000),
    waiting=st.sampled_from(["200m", "1", "2", "7", None]),
    running=st.sampled_from(["700m", "2", "3500m", None]),
    least=st.integers(1, 2),
    most=st.integers(2, 5),
    window_s=st.sampled_from([None, 0, 60, 300, 1200]),
    up=st.sampled_from([{}, {"stabilizationWindowSeconds": 60}, {"tolerance": "0"}, {"selectPolicy": "Disabled"}]),
    base_rps=st.sampled_from([0.3, 1.2]),
    drift=st.booleans(),
)  # fmt: skip
@example(
    seed=0,
    waiting="200m",
    running="2",
    least=1,
    most=2,
    window_s=0,
    up={"stabilizationWindowSeconds": 60},
    base_rps=1.2,
    drift=False,
)  # rescales in the tail, on what was recommended before the end
@settings(max_examples=15, deadline=None)
def test_every_figure_is_that_of_the_rules_at_every_tick(
    seed, waiting, running, least, most, window_s, up, base_rps, drift
) -> None:
    if waiting is running is None:
        waiting = "3"
    down = {} if window_s is None else {"scaleDown": {"stabilizationWindowSeconds": window_s}}
    behavior = {**down, **({"scaleUp": up} if up else {})} or None
    hpa = manifest(waiting=waiting, running=running, least=least, most=most, behavior=behavior)
    arrivals = burst(base_rps, 7, 600, 400, 2400)
    same(hpa, arrivals, seed=seed, duration_s=2400.0, options=FleetOptions(drift=drift, grace_s=5))


@pytest.mark.parametrize(
    ("profile", "options"),
    [
        pytest.param(GROUPS, FleetOptions(), id="groups of pods"),
        pytest.param(L4, FleetOptions(nodes=Nodes(standing=0, maximum=2)), id="pods without a node"),
        pytest.param(L4, FleetOptions(grace_s=0), id="removed at once"),
        pytest.param(L4, FleetOptions(routing="least_requests"), id="a gateway that balances"),
        pytest.param(
            overlay(L4, {"metric_path": {"scrape_interval_s": 5, "ingestion_delay_s": 47}}),
            FleetOptions(),
            id="late metrics",
        ),
        pytest.param(
            overlay(L4, {"metric_path": {"adapter_window_s": 20, "ingestion_delay_s": 12}}),
            FleetOptions(),
            id="metrics that grow stale before the next ones come",
        ),
    ],
)
def test_the_world_around_the_hpa_may_be_any(profile, options) -> None:
    hpa = manifest(profile, behavior={"scaleDown": {"stabilizationWindowSeconds": 120}})
    outcome = same(hpa, burst(0.4, 8, 300, 500, 2400), profile=profile, duration_s=2400.0, options=options)
    assert outcome.decisions


def test_a_fleet_of_fixed_size_needs_no_scrapes() -> None:
    same(None, [load_of(1, 1800)], static_replicas=2)
