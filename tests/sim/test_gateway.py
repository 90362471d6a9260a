"""The inference gateway: what it sees of its pods, whom it holds, sends on and turns away, and that nobody is lost on the way."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import BadInput
from autoscale.sim.engine import flow_control
from autoscale.sim.engine.gateway import InferenceGateway
from autoscale.sim.engine.params import EngineParams
from autoscale.sim.engine.replicas import Replicas
from autoscale.sim.engine.scorers import prefix_score, queue_score
from autoscale.sim.engine.state import (
    EVICTED_NO_ENDPOINTS,
    EVICTED_TTL,
    NO_ENDPOINTS,
    NO_ROOM,
    SATURATED,
)
from loadgen.plan.traffic import Arrivals

# one replica takes two requests at a time, 0.1 s a token
SLOW = EngineParams(0.1, 0.0, 0.0, 0.0, num_blocks=1001, max_num_seqs=2, max_num_batched_tokens=4096)
OK = 0


def requests(due_s: Any, tokens: int = 10, prompt: int = 640, prefix: int = 0) -> Arrivals:
    n = len(due_s)
    return Arrivals(
        np.asarray(due_s, float),
        np.full(n, prompt, np.int32),
        np.full(n, tokens, np.int32),
        np.full(n, prefix, np.int32),
        np.arange(n),
    )


def pool(gateway: InferenceGateway, pods: int = 1, slots: int = 10, params: EngineParams = SLOW) -> Replicas:
    fleet = Replicas(params, slots, gateway=gateway)
    for slot in range(pods):
        fleet.open(slot, 0.0)
    return fleet


def seen(pods: list[tuple[int, int, float]], **options: Any) -> float:
    """The saturation of pods of which the gateway knows (fresh, waiting, KV usage)."""
    fleet = pool(InferenceGateway(**options), len(pods))
    for slot, (fresh, waiting, kv_usage) in enumerate(pods):
        row = fleet.state.seen[slot]
        row["fresh"], row["waiting"], row["kv_usage"] = fresh, waiting, kv_usage
    return flow_control.saturation(fleet.state)


@pytest.mark.parametrize(
    ("pods", "saturation"),
    [
        pytest.param([(1, 10, 0.2), (1, 0, 0.2)], 1.125, id="ten and none waiting: (2 + 0.25) / 2, held"),
        pytest.param([(0, 0, 0.0), *[(1, 0, 0.0)] * 3], 0.25, id="one of four not seen yet"),
        pytest.param([(0, 0, 0.0)] * 4, 1.0, id="none of four seen"),
        pytest.param([], 1.0, id="no pods"),
        pytest.param([(1, 0, 0.8)], 1.0, id="KV at its limit is held"),
        pytest.param([(1, 0, 0.79)], 0.9875, id="just below is not"),
        pytest.param([(1, 12, 0.1)], 2.4, id="it is not cut off at 1"),
        pytest.param([(1, 500, 0.95), *[(1, 0, 0.0)] * 9], 10.0, id="one full pod holds nine idle ones"),
    ],
)
def test_saturation_is_the_plain_mean_of_how_full_each_pod_is(
    pods: list[tuple[int, int, float]], saturation: float
):
    assert seen(pods) == pytest.approx(saturation)


def test_metrics_read_less_often_than_they_stay_fresh_make_every_pod_full():
    assert seen([(1, 0, 0.0)] * 3, refresh_s=0.2) == 1.0


def test_concurrency_counts_what_was_sent_and_knows_no_lag():
    fleet = pool(InferenceGateway(detector="concurrency", capacity=4), 2)
    fleet.offer(requests([0.01] * 20, tokens=100))
    fleet.advance(0.02)
    assert (fleet.in_flight - fleet.pending, fleet.pending) == (8, 12)  # exactly 4 on each of 2
    assert flow_control.saturation(fleet.state) == 1.0


def test_the_scores_of_queue_and_prefix():
    assert [queue_score(3, 3, 3)] * 3 == [1, 1, 1]
    assert [queue_score(w, 0, 1) for w in (0, 1)] == [1, 0]
    assert [queue_score(w, 0, 100) for w in (0, 100)] == [1, 0]  # one more weighs as much as a hundred
    assert prefix_score(640, 640, 640) == 1.0
    assert prefix_score(640, 100, 640) == pytest.approx(0.1)  # whole blocks of 64
    assert prefix_score(0, 640, 640) == 0.0


def outcomes(fleet: Replicas) -> dict[int, list[float]]:
    """Slot or outcome -> when those requests ended."""
    found: dict[int, list[float]] = {}
    for row in fleet.finished():
        found.setdefault(int(row["slot"]) if row["status"] != OK else OK, []).append(float(row["end_s"]))
    return found


def test_a_full_band_turns_away_with_429_or_503():
    held = InferenceGateway(band_requests=3, refresh_s=0.2)  # stale: nothing is ever sent on
    fleet = pool(held, 1)
    fleet.offer(requests([1.0] * 5))
    fleet.advance(2.0)
    assert outcomes(fleet) == {NO_ROOM: [1.0, 1.0]}
    fleet = pool(held, 0)
    fleet.offer(requests([1.0] * 5))
    fleet.advance(2.0)
    assert outcomes(fleet) == {NO_ENDPOINTS: [1.0, 1.0]}


def test_the_time_to_live_ends_a_wait_at_the_next_sweep():
    fleet = pool(InferenceGateway(), 0)
    fleet.offer(requests([0.5]))
    fleet.advance(100.0)
    assert outcomes(fleet) == {EVICTED_NO_ENDPOINTS: [61.0]}
    fleet = pool(InferenceGateway(refresh_s=0.2), 1)
    fleet.offer(requests([0.5]))
    fleet.advance(100.0)
    assert outcomes(fleet) == {EVICTED_TTL: [61.0]}


def test_a_pod_that_appears_gives_those_who_wait_a_new_time_to_live():
    fleet = pool(InferenceGateway(refresh_s=0.2), 0)
    fleet.offer(requests([0.0]))
    fleet.open(0, 50.0)
    fleet.advance(200.0)
    assert outcomes(fleet) == {EVICTED_TTL: [110.0]}


def test_without_flow_control_only_negative_priorities_are_refused():
    half = ((0, 0.5), (-1, 0.5))
    off = InferenceGateway(flow_control=False, bands=half, refresh_s=0.2)  # saturated at 1.0
    fleet = pool(off, 1)
    fleet.offer(requests(np.full(400, 1.0)))
    fleet.advance(1.01)
    refused = outcomes(fleet)
    assert set(refused) == {SATURATED}
    assert 150 < len(refused[SATURATED]) < 250
    assert fleet.pending == 0
    assert fleet.in_flight == 400 - len(refused[SATURATED])
    empty = pool(off, 0)
    empty.offer(requests([1.0]))
    empty.advance(2.0)
    assert outcomes(empty) == {NO_ENDPOINTS: [1.0]}


def test_higher_priorities_go_first_and_the_first_of_each_before_the_second():
    fleet = pool(InferenceGateway(detector="concurrency", capacity=1, bands=((10, 0.5), (0, 0.5))), 1)
    fleet.offer(requests(np.linspace(0.01, 0.1, 40), tokens=1))
    fleet.advance(60.0)
    done = fleet.finished()
    high, low = fleet.state.bands["priority"].tolist()
    assert (high, low) == (10, 0)
    sent = done[np.argsort(done["sent_s"])]["request_id"]
    first_low = next(i for i in range(1, 40) if sent[i] < sent[i - 1])  # the second time through the ids
    assert list(sent[1:first_low]) == sorted(sent[1:first_low])
    assert list(sent[first_low:]) == sorted(sent[first_low:])


def test_what_may_go_goes_at_once_on_what_was_seen_so_one_pod_gets_it_all():
    """A shared beginning of the prompts is enough: the pod that got the first of them scores higher, whatever came after."""
    fleet = pool(InferenceGateway(), 4)
    fleet.advance(0.06)
    fleet.offer(requests([0.07] * 40, tokens=50, prompt=4000, prefix=128))
    fleet.advance(0.08)
    assert sorted(fleet.in_flight_of(slot) for slot in range(4)) == [0, 0, 0, 40]
    alike = pool(InferenceGateway(), 4)
    alike.advance(0.06)
    alike.offer(requests([0.07] * 40, tokens=50, prompt=4000))
    alike.advance(0.08)
    assert max(alike.in_flight_of(slot) for slot in range(4)) < 25  # ties are drawn


@given(
    flow_control=st.booleans(),
    detector=st.sampled_from(flow_control.DETECTORS),
    ttl_s=st.sampled_from([2.0, 60.0, math.inf]),
    band_requests=st.sampled_from([3, 5000]),
    opened=st.lists(st.tuples(st.floats(0, 20), st.floats(1, 20), st.booleans()), max_size=4),
    seed=st.integers(0, 100),
    bands=st.sampled_from([((0, 1.0),), ((1, 0.3), (0, 0.3), (-5, 0.4))]),
    patience_s=st.sampled_from([5.0, math.inf]),
)
@settings(max_examples=60, deadline=None)
def test_every_request_ends_once_or_is_still_there(
    flow_control, detector, ttl_s, band_requests, opened, seed, bands, patience_s
):
    gateway = InferenceGateway(
        flow_control, detector, capacity=3, ttl_s=ttl_s, band_requests=band_requests, bands=bands
    )
    rng = np.random.default_rng(seed)
    due_s = np.sort(rng.uniform(0, 30, 120))

    def one(step_s: float) -> tuple[list[tuple[Any, ...]], Replicas]:
        params = EngineParams(
            0.05, 0.0, 0.0, 0.0, num_blocks=201, max_num_seqs=2, request_timeout_s=patience_s
        )
        fleet = Replicas(params, 4, seed=3, gateway=gateway)
        for slot, (from_s, for_s, abort) in enumerate(opened):
            fleet.open(slot, from_s)
            fleet.close(slot, from_s + for_s, abort)
        fleet.offer(requests(due_s))
        for k in range(1, int(40 / step_s) + 1):
            fleet.advance(k * step_s)
        return sorted(fleet.finished().tolist(), key=repr), fleet

    whole, fleet = one(40.0)
    assert len(whole) + fleet.in_flight == 120
    bands_now = fleet.state.bands
    assert bands_now["waiting"].sum() == fleet.pending
    assert bands_now["running"].sum() == fleet.in_flight - fleet.pending
    assert one(2.5)[0] == whole or repr(one(2.5)[0]) == repr(whole)  # NaN is not itself
    for row in whole:
        due, sent, held = row[1], row[2], row[6]
        end = row[5] if math.isnan(sent) else sent
        assert -1e-9 <= held <= end - due + 1e-9


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"detector": "latency"}, "detector"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"refresh_s": 0.01}, "refresh_s"),
        ({"bands": ((0, 0.5),)}, "bands"),
        ({"queue_weight": -1}, "queue_weight"),
    ],
)
def test_what_a_gateway_cannot_be_is_said(options: dict[str, Any], named: str):
    with pytest.raises(BadInput, match=named):
        InferenceGateway(**options)
