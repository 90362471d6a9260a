"""The life of pods and groups: arithmetic of the phases, order of removal, nodes, shared storage, group start-over."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.profiles.profile import Phase
from autoscale.sim.fleet.pods import TEARDOWN_S, Pods
from autoscale.sim.fleet.replica import FleetReplica, Nodes, PodLife


def constant(seconds: float) -> Phase:
    return Phase(median_s=seconds, p95_s=seconds)


COLD = PodLife(
    kind="Deployment",
    size=1,
    chips_per_pod=4,
    node=constant(100),
    image=constant(20),
    join=constant(0),
    weight_bytes=600.0,
    weights_rate_bytes_s=10.0,  # 60 s
    weights_shared=False,
    engine_init=constant(5),
    compile=constant(0),
    compile_cached=None,
)
GROUP = replace(COLD, kind="LeaderWorkerSet", size=2, join=constant(3))


def times(events, kind: str) -> list[float]:
    return [event.time_s for event in events if event.kind == kind]


def test_a_pod_passes_its_phases_one_after_the_other() -> None:
    pods = Pods(COLD, seed=1)
    events = pods.scale(1, 10.0) + pods.advance(1000.0)
    trace = [(event.time_s, event.kind) for event in events]
    # 10 + node 100 + image 20 + join 0 + weights 600/10 + init 5 + compile 0
    assert trace == [
        (10, "created"),
        (110, "scheduled"),
        (130, "started"),
        (130, "running"),
        (130, "joined"),
        (190, "loaded"),
        (195, "initialised"),
        (195, "ready"),
    ]


@pytest.mark.parametrize(
    ("shared", "second_at", "ready"),
    [
        pytest.param(False, 0, [185, 185], id="own throughput each: nobody waits for the other"),
        # both read from 120 on: 1200 bytes at 10/s -> 240, then init 5
        pytest.param(True, 0, [245, 245], id="two that start together take twice as long"),
        # first alone 120-150 reads 300, then halves: its 300 left take 60 s -> 210; the second has read 300 by then and
        # takes 30 s more alone -> 240
        pytest.param(
            True, 30, [215, 245], id="the one that starts later slows the first for their common time"
        ),
        pytest.param(True, 60, [185, 245], id="one after the other share nothing"),
    ],
)
def test_replicas_share_the_storage(shared: bool, second_at: float, ready: list[float]) -> None:
    pods = Pods(replace(COLD, weights_shared=shared), seed=1)
    events = pods.scale(1, 0.0) + pods.scale(2, second_at) + pods.advance(1000.0)
    assert times(events, "ready") == pytest.approx(ready)


@pytest.mark.parametrize(
    ("second_at", "ready"),
    [
        # 120 image done, 180 loaded, 185 init, compile 1000 cold / 100 with the cache of the first
        pytest.param(0, [1185, 1185], id="two at once both compile with an empty cache"),
        pytest.param(2000, [1185, 2285], id="a later one finds the cache filled"),
    ],
)
def test_the_compile_cache_serves_whoever_starts_after_it_was_filled(
    second_at: float, ready: list[float]
) -> None:
    pods = Pods(replace(COLD, compile=constant(1000), compile_cached=constant(100)), seed=1)
    events = pods.scale(1, 0.0) + pods.advance(second_at) + pods.scale(2, second_at) + pods.advance(9000.0)
    assert times(events, "ready") == pytest.approx(ready)


def test_a_pod_beyond_the_node_limit_waits_until_another_one_leaves() -> None:
    pods = Pods(COLD, seed=1, nodes=Nodes(standing=0, maximum=2))
    pods.scale(3, 0.0)
    pods.advance(1000.0)
    assert [r.state for r in pods.replicas] == ["ready", "ready", "pending"]
    assert pods.accelerators_held == 2 * 4
    pods.scale(2, 1000.0)  # a Pending pod is the first to go: nothing is freed
    pods.advance(1010.0)
    assert [r.ordinal for r in pods.replicas] == [0, 1]


def test_a_new_pod_waits_for_the_accelerators_of_one_that_drains() -> None:
    pods = Pods(COLD, seed=1, nodes=Nodes(standing=2, maximum=0))
    pods.warm(2)
    pods.scale(1, 500.0)
    pods.scale(2, 510.0)
    assert sorted(r.state for r in pods.replicas) == ["deleting", "pending", "ready"]
    pods.release(next(r for r in pods.replicas if r.deleting), 530.0)
    events = pods.advance(700.0)
    assert times(events, "scheduled") == pytest.approx([530 + TEARDOWN_S])


def test_nodes_that_stand_by_cost_no_time() -> None:
    pods = Pods(COLD, seed=1, nodes=Nodes(standing=1, maximum=0))
    assert times(pods.scale(1, 7.0), "scheduled") == [7.0]


def test_a_group_starts_when_all_its_pods_run() -> None:
    pods = Pods(GROUP, seed=1, nodes=Nodes(standing=1))  # the second member's node comes after 100 s
    events = pods.scale(1, 0.0) + pods.advance(1000.0)
    assert times(events, "started") == [20, 120]
    assert times(events, "running") == [120]
    assert times(events, "ready") == [120 + 3 + 60 + 5]
    assert not times(events, "recreated")


def test_a_group_whose_nodes_come_too_far_apart_starts_over_with_the_nodes_it_has() -> None:
    pods = Pods(replace(GROUP, node=constant(400)), seed=1, nodes=Nodes(standing=1))
    events = pods.scale(1, 0.0) + pods.advance(2000.0)
    # first member runs at 20 and gives up at 320; its image is cached, so it runs again at once, the other at 420
    assert times(events, "recreated") == [320]
    assert times(events, "started") == [20, 320, 420]
    assert times(events, "ready") == [420 + 3 + 60 + 5]


def test_a_group_that_never_gets_all_its_nodes_loops_for_ever() -> None:
    pods = Pods(GROUP, seed=1, nodes=Nodes(standing=1, maximum=0))
    events = pods.scale(1, 0.0) + pods.advance(2000.0)
    assert times(events, "recreated") == [320, 620, 920, 1220, 1520, 1820]
    assert pods.accelerators_held == 4  # the member that runs holds its chips all the time


def test_groups_go_from_the_highest_index_ready_or_not() -> None:
    pods = Pods(GROUP, seed=1)
    pods.warm(2)
    pods.scale(4, 0.0)
    pods.advance(50.0)
    gone = [e.replica.slot for e in pods.scale(1, 50.0) if e.kind == "deleting"]
    assert gone == [3, 2, 1]


def test_a_group_index_is_taken_again_only_when_its_pods_are_gone() -> None:
    pods = Pods(GROUP, seed=1)
    pods.warm(2)
    pods.scale(1, 0.0)
    assert [e.kind for e in pods.scale(2, 5.0)] == []  # index 1 still drains
    pods.release(next(r for r in pods.replicas if r.deleting), 8.0)
    created = [e for e in pods.advance(100.0) if e.kind == "created"]
    assert [(e.time_s, e.replica.slot) for e in created] == [(8.0 + TEARDOWN_S, 1)]


@pytest.mark.parametrize(
    ("ages_s", "now_s", "survivors"),
    [
        # ages in ns, base-2 logarithm: 40 s -> 35, 10 s -> 33, 300 s -> 38: the youngest magnitude goes first
        pytest.param([300, 40, 10], 1000, [0], id="the one that was ready for the shortest time goes first"),
        pytest.param([300, 40, None], 1000, [0], id="one that is not ready goes before any ready one"),
    ],
)
def test_a_replica_set_removes_in_its_own_order(ages_s, now_s, survivors) -> None:
    pods = Pods(COLD, seed=3)
    pods.warm(len(ages_s))
    for replica, age_s in zip(pods.replicas, ages_s, strict=True):
        replica.ready_s = math.nan if age_s is None else now_s - age_s
    pods.advance(now_s)
    order = [e.replica.ordinal for e in pods.scale(1, now_s) if e.kind == "deleting"]
    assert order == [-3, -2]
    assert [-1 - r.ordinal for r in pods.replicas if not r.deleting] == survivors


def test_pods_of_about_the_same_age_go_in_random_order() -> None:
    # recorded: of four pods ready for 317..452 s (all 2^38 ns) the oldest went and the third stayed
    survivors = set()
    for seed in range(20):
        pods = Pods(COLD, seed=seed)
        pods.warm(4)
        pods.advance(400.0)
        pods.scale(1, 400.0)
        survivors |= {r.ordinal for r in pods.replicas if not r.deleting}
    assert survivors == {-1, -2, -3, -4}


def test_the_kth_start_draws_the_same_whatever_happened_before() -> None:
    cold = replace(COLD, node=Phase(median_s=100, p95_s=300), image=Phase(median_s=20, p95_s=60))

    def third_start(starts: list[tuple[int, float]]) -> float:
        pods = Pods(cold, seed=5)
        pods.warm(1)
        ready: dict[int, tuple[float, float]] = {}
        events = []
        for replicas, at_s in starts:
            events += pods.scale(replicas, at_s)
        for event in events + pods.advance(9e4):
            if event.kind == "ready":
                ready[event.replica.ordinal] = (event.replica.created_s, event.time_s)
        created_s, ready_s = ready[2]
        return ready_s - created_s

    assert third_start([(4, 0)]) == pytest.approx(
        third_start([(2, 0), (3, 50), (1, 60), (2, 5000), (3, 7000)])
    )


def test_phases_are_log_normal_with_the_stated_median_and_95th_percentile() -> None:
    pods = Pods(replace(COLD, node=Phase(median_s=300, p95_s=720), weights_shared=False), seed=2, slots=2000)
    events = pods.scale(2000, 0.0) + pods.advance(1e6)
    node_s = np.array(times(events, "scheduled"))
    assert np.median(node_s) == pytest.approx(300, rel=0.05)
    assert np.percentile(node_s, 95) == pytest.approx(720, rel=0.1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    size=st.integers(1, 3),
    standing=st.integers(0, 4),
    maximum=st.one_of(st.none(), st.integers(0, 6)),
    shared=st.booleans(),
    asks=st.lists(st.tuples(st.integers(0, 5), st.floats(0.1, 400)), min_size=1, max_size=12),
)
def test_accelerators_are_conserved(seed, size, standing, maximum, shared, asks) -> None:
    cold = replace(
        COLD,
        kind="LeaderWorkerSet" if size > 1 else "Deployment",
        size=size,
        node=Phase(median_s=60, p95_s=300),
        weights_shared=shared,
        join=constant(2),
    )
    pods = Pods(cold, seed, Nodes(standing, maximum), slots=12)
    now_s = 0.0
    events = []
    for replicas, wait_s in asks:
        events += pods.scale(replicas, now_s)
        now_s += wait_s
        events += pods.advance(now_s)
        held = sum(4 * sum(s == s for s in r.member_scheduled_s) for r in pods.replicas)
        assert pods.accelerators_held == held
        if maximum is not None:
            assert held <= 4 * (standing + maximum)
        assert len({r.slot for r in pods.replicas}) == len(pods.replicas)
        for replica in [r for r in pods.replicas if r.deleting]:
            pods.release(replica, now_s)
    events += pods.scale(0, now_s)
    for replica in pods.replicas:
        pods.release(replica, now_s)
    events += pods.advance(now_s + 1e5)
    assert pods.replicas == []
    assert pods.accelerators_held == 0
    assert [e.time_s for e in events] == sorted(e.time_s for e in events)
    assert pods.accelerator_s == pytest.approx(_held_s(events), rel=1e-9, abs=1e-6)


def _held_s(events) -> float:
    """Chip-seconds from the events alone: a member holds its chips from scheduled until gone or recreated."""
    total, since = 0.0, {}
    for event in events:
        replica: FleetReplica = event.replica
        if event.kind == "scheduled":
            since[(replica.ordinal, event.member)] = event.time_s
        elif event.kind in ("gone", "recreated"):
            for key in [k for k in since if k[0] == replica.ordinal]:
                total += 4 * (event.time_s - since.pop(key))
    assert not since
    return total
