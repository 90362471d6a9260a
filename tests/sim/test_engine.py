"""Invariants, queueing limits, routing and life of replicas, on the compiled engine."""

import hashlib
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.errors import BadInput
from analysis.run import STATUSES
from autoscale.profiles import load, names
from autoscale.sim.engine import kernels, state
from autoscale.sim.engine.arrivals import CHUNK
from autoscale.sim.engine.replicas import EngineParams, Replicas, replay

PLAIN = EngineParams(
    base_s=0.02,
    per_sequence_s=5e-5,
    per_kv_token_s=2.5e-8,
    per_prefill_token_s=4e-5,
    num_blocks=1001,
    max_num_seqs=64,
    max_num_batched_tokens=512,
)
FREE = replace(
    PLAIN, per_sequence_s=0.0, per_kv_token_s=0.0, per_prefill_token_s=0.0
)  # every step takes base_s


def ready(params, slots=1, **options):
    replicas = Replicas(params, slots, **options)
    for slot in range(slots):
        replicas.open(slot, 0.0)
    return replicas


def status(done):
    return [STATUSES[code] for code in done["status"]]


# --- invariants ------------------------------------------------------------------------------------------------------

params_strategy = st.builds(
    lambda seats, extra, blocks, **rest: EngineParams(
        max_num_seqs=seats, max_num_batched_tokens=seats + extra, num_blocks=blocks + 13, **rest
    ),
    seats=st.integers(1, 12),
    extra=st.integers(0, 40),
    blocks=st.integers(0, 60),
    base_s=st.floats(0.001, 0.1),
    per_sequence_s=st.floats(0, 0.01),
    per_kv_token_s=st.sampled_from([0.0, 1e-5]),
    per_prefill_token_s=st.sampled_from([0.0, 1e-3]),
    block_size=st.sampled_from([4, 16]),
    pipeline_stages=st.integers(1, 3),
    data_parallel=st.integers(1, 2),
    request_overhead_s=st.sampled_from([0.0, 0.05]),
    async_scheduling=st.booleans(),
    request_timeout_s=st.sampled_from([math.inf, 0.5, 5.0]),
)


def check_books(replicas):
    """Blocks, seats, queues and counts of every engine against the table of requests."""
    s, p = replicas._state, replicas.params
    held = s.requests[s.requests["state"] != state.FREE]
    assert len(held) == replicas.in_flight
    for i, e in enumerate(s.engines):
        mine = held[held["engine"] == i]
        running = mine[mine["state"] >= state.PREFILL]
        decodes = running["state"] == state.DECODE
        last = (
            running["prompt"] + running["target"] - 1
        )  # tokens that have blocks when the last one is scheduled
        to_come = running["finish_step"] - s.lanes["formed"][running["lane"]]
        tokens = np.where(decodes, last - np.maximum(to_come, 0), running["computed"])
        assert e["free_blocks"] + e["late_blocks"] + (-(-tokens // p.block_size)).sum() == p.num_blocks - 1
        assert e["free_blocks"] >= 0
        assert len(running) == e["running"] <= p.max_num_seqs
        assert (mine["state"] == state.WAITING).sum() == e["waiting"]
        assert (mine["stale"] > 0).sum() == e["stale"]
        assert len(mine) == e["in_flight"]
        for k in range(i * p.pipeline_stages, (i + 1) * p.pipeline_stages):
            its = decodes & (running["lane"] == k) & (to_come > 0)
            assert (tokens[its] + 1).sum() == s.lanes["kv_tokens"][k]
            assert s.phases[k].sum() == its.sum() == s.lanes["decoding"][k]
        if math.isinf(e["end_s"]):  # idle: no step will come to correct what the gauges show
            assert e["shown_waiting"] == e["shown_running"] == 0
            assert e["shown_free"] == e["free_blocks"] + e["late_blocks"] == p.num_blocks - 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    params=params_strategy,
    routing=st.sampled_from(["random", "round_robin", "least_requests"]),
    no_ready=st.sampled_from(["wait", "fail"]),
    seed=st.integers(0, 2**32),
)
def test_requests_blocks_and_seats_are_conserved_through_openings_closings_and_aborts(
    params, routing, no_ready, seed, chunk
):
    rng = np.random.default_rng(seed)
    n, slots = 120, 3
    a = chunk(
        np.cumsum(rng.exponential(rng.choice([0.02, 0.2]), n)),
        rng.integers(1, 30, n),
        rng.integers(1, 18, n),
        rng.integers(0, 20, n),
    )
    replicas = Replicas(params, slots, seed, routing, no_ready=no_ready)
    replicas.offer(a)
    done, opened = [], [False] * slots
    for now in np.linspace(0, a.due_s[-1] * 1.2, 14):
        replicas.advance(now)
        done.append(replicas.finished())
        slot = int(rng.integers(slots))
        if opened[slot]:
            replicas.close(slot, now, abort=bool(rng.integers(2)))
        elif replicas.gauges()["in_flight"][slot] == 0:
            replicas.open(slot, now)
        else:
            continue
        opened[slot] = not opened[slot]
        held = replicas.progress()
        if len(held):
            assert replicas.abort(held["request_id"][-1])
        done.append(replicas.finished())
        check_books(replicas)
        due = int((a.due_s < now).sum())
        assert sum(map(len, done)) + replicas.in_flight == due
    for slot in range(slots):
        replicas.close(slot, replicas.now_s, abort=True)
    done.append(replicas.finished())
    check_books(replicas)
    assert (
        replicas._state.engines["free_blocks"] + replicas._state.engines["late_blocks"]
        == params.num_blocks - 1
    ).all()
    assert replicas.in_flight == replicas.pending

    table = np.concatenate(done)
    assert len(np.unique(table["request_id"])) == len(table)
    ok = table[table["status"] == STATUSES.index("ok")]
    assert (ok["output_tokens"] == a.output_tokens[ok["request_id"]]).all()
    assert (table["end_s"] >= table["due_s"]).all()
    for early, late in (("due_s", "sent_s"), ("sent_s", "first_token_s"), ("first_token_s", "last_token_s")):
        assert (ok[early] <= ok[late]).all()
    # With several stages one that is preempted in flight is passed over until its batch is back.
    if params.data_parallel == params.pipeline_stages == 1 and math.isinf(params.request_timeout_s):
        for slot in range(slots):  # first come, first served: preempted ones return to the head
            served = np.sort(ok[ok["slot"] == slot], order=["sent_s", "request_id"])
            assert (np.diff(served["first_token_s"]) >= 0).all()


def test_littles_law(chunk):
    """Mean requests in the system = rate x mean time in it, sampled at 40,000 random instants."""
    rng = np.random.default_rng(5)
    n = 40_000
    a = chunk(np.cumsum(rng.exponential(1 / 18, n)), rng.integers(100, 900, n), rng.integers(20, 200, n))
    replicas = ready(replace(PLAIN, request_overhead_s=0.015))
    replicas.offer(a)
    instants = np.sort(rng.uniform(0, a.due_s[-1], 40_000))
    present = []
    for at_s in instants:
        replicas.advance(at_s)
        present.append(replicas.in_flight)
    replicas.advance(math.inf)
    done = replicas.finished()
    inside = np.minimum(done["end_s"], a.due_s[-1]) - done["due_s"]
    assert np.mean(present) == pytest.approx(inside.sum() / a.due_s[-1], rel=0.02)


def digest(seed):
    rng = np.random.default_rng(seed)
    n = 3000
    columns = (
        np.cumsum(rng.exponential(0.05, n)),
        rng.integers(1, 900, n),
        rng.integers(1, 300, n),
        np.zeros(n),
    )
    replicas = ready(replace(PLAIN, num_blocks=301), 4, seed=seed, connections=16)
    replicas.offer(
        type(
            "Chunk",
            (),
            dict(zip(("due_s", "prompt_tokens", "output_tokens", "prefix_tokens"), columns, strict=True)),
        )
    )
    replicas.advance(math.inf)
    return hashlib.sha256(
        replicas.finished().tobytes() + replicas.gauges()["preemptions_total"].tobytes()
    ).hexdigest()


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    code = "import sys, runpy; print(runpy.run_path(sys.argv[1])['digest'](7))"
    there = subprocess.run(
        [sys.executable, "-c", code, __file__],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "99"},
    )
    assert there.stdout.strip() == digest(7) != digest(8)


# --- limits with a closed form ---------------------------------------------------------------------------------------


def test_one_seat_and_one_token_is_an_m_d_1_queue(chunk):
    """Wait in an M/D/1 queue: rho S / (2 (1 - rho)); S = 20 ms + 100 prompt tokens x 0.1 ms, rho = 0.6: 22.5 ms."""
    rng = np.random.default_rng(1)
    n = 1_000_000
    params = replace(FREE, per_prefill_token_s=1e-4, max_num_seqs=1)
    done, _ = replay(params, chunk(np.cumsum(rng.exponential(0.03 / 0.6, n)), 100, 1))
    assert np.mean(done["first_token_s"] - done["due_s"]) - 0.03 == pytest.approx(0.0225, rel=0.02)


def test_c_seats_and_geometric_outputs_are_an_m_m_c_queue(chunk):
    """Erlang C with c = 4 and a load of 3 seats: P(wait) = 0.5094, mean wait = P / (c - a) services = 0.5094 x 2 s.

    A service is 2000 steps of 1 ms on average; the grid of steps adds about half a step, 0.05 % of the wait.
    """
    rng = np.random.default_rng(2)
    n = 1_000_000
    params = replace(FREE, base_s=1e-3, max_num_seqs=4, num_blocks=200_000)
    done, _ = replay(params, chunk(np.cumsum(rng.exponential(2 / 3, n)), 1, rng.geometric(1 / 2000, n)))
    a, c = 3.0, 4
    top = a**c / math.factorial(c) * c / (c - a)
    erlang_c = top / (sum(a**k / math.factorial(k) for k in range(c)) + top)
    waits = done["first_token_s"] - done["due_s"] - 1.5e-3
    assert np.mean(waits) == pytest.approx(erlang_c / (c - a) * 2, rel=0.02)


def test_one_request_alone_takes_the_sum_of_its_steps(chunk):
    """Prompt 100, output 3: prefill with 100 KV tokens, then decodes with 101 and 102."""
    done, _ = replay(PLAIN, chunk([1.0], 100, 3))
    first = 0.02 + 5e-5 + 2.5e-8 * 100 + 4e-5 * 100
    rest = 2 * (0.02 + 5e-5) + 2.5e-8 * (101 + 102)
    assert done["first_token_s"][0] == pytest.approx(1 + first)
    assert done["last_token_s"][0] == pytest.approx(1 + first + rest)


def test_a_long_prompt_is_prefilled_in_chunks_of_the_budget(chunk):
    """1200 tokens with a budget of 512: 512 + 512 + 176, so three steps to the first token."""
    done, _ = replay(FREE, chunk([0.0], 1200, 1))
    assert done["first_token_s"][0] == pytest.approx(3 * 0.02)


def test_cached_prefix_tokens_are_not_computed_again(chunk):
    """1200 tokens of which 1000 are cached (62 whole blocks, 992 tokens): 208 are left, one step."""
    done, _ = replay(replace(FREE, per_prefill_token_s=1e-3), chunk([0.0], 1200, 1, 1000))
    assert done["first_token_s"][0] == pytest.approx(0.02 + 0.208)


def test_a_hit_fraction_is_the_least_that_every_prompt_finds_cached(chunk):
    """Half of 1200 tokens: 37 whole blocks, 592 tokens; 608 are left for two steps of at most 512."""
    params = replace(FREE, per_prefill_token_s=1e-3, prefix_hit_fraction=0.5)
    done, _ = replay(params, chunk([0.0, 10.0], 1200, 1, [0, 1000]))
    assert (done["first_token_s"] - done["due_s"]).tolist() == pytest.approx([0.04 + 0.608, 0.02 + 0.208])


def test_stages_add_up_per_token_and_share_the_load():
    """One sequence: the sum of both stages; eight: each batch of four, with its half of the prompts, passes two stages."""
    p = replace(FREE, per_sequence_s=1e-3, pipeline_stages=2)
    assert p.step_s(1, 0) == pytest.approx(2 * 0.021)
    assert p.step_s(8, 0) == pytest.approx(2 * (0.02 + 4e-3))
    prompts = replace(p, per_prefill_token_s=1e-4)
    assert prompts.step_s(8, 0, 100) == pytest.approx(2 * (0.02 + 4e-3 + 0.005))


def test_a_prompt_waits_for_blocks_for_all_of_it_though_its_first_chunk_would_fit(chunk):
    """8 blocks of 16: the first prompt holds 4 of them; the second needs 5, its first chunk of 63 tokens only 4.

    It waits for the end of the first request (60 steps), then takes two chunks. With blocks to spare: steps 2 and 3.
    """
    params = replace(FREE, num_blocks=9, max_num_batched_tokens=64)
    due, prompt, output = [0.0, 0.01], [50, 80], [60, 1]
    done, _ = replay(params, chunk(due, prompt, output))
    assert done["first_token_s"][1] == pytest.approx(1.2 + 0.04)
    roomy, _ = replay(replace(params, num_blocks=21), chunk(due, prompt, output))
    assert roomy["first_token_s"][1] == pytest.approx(0.06)


def test_asynchronous_scheduling_admits_one_step_later(chunk):
    """A request that arrives in the second of many steps joins the fourth: the third was decided when the second began."""
    due, prompt, output = [0.0, 0.025], [1, 1], [50, 1]
    sync, _ = replay(FREE, chunk(due, prompt, output))
    later, _ = replay(replace(FREE, async_scheduling=True), chunk(due, prompt, output))
    assert sync["first_token_s"][1] == pytest.approx(0.06)
    assert later["first_token_s"][1] == pytest.approx(0.08)


# --- gauges ----------------------------------------------------------------------------------------------------------


def test_gauges_move_at_the_end_of_a_step_and_leave_out_what_is_not_in_the_scheduler(chunk):
    """Overhead 15 ms: the request enters at 15 ms, its step ends at 35 ms, and only then anything shows."""
    params = replace(FREE, request_overhead_s=0.015, num_blocks=101)
    _, seen = replay(params, chunk([0.0, 0.0], [32, 32], [2, 2]), np.array([0.01, 0.02, 0.036, 0.056]))
    assert seen["running"].tolist() == [0, 0, 2, 0]
    assert seen["waiting"].tolist() == [0, 0, 0, 0]
    assert seen["in_flight"].tolist() == [2, 2, 2, 0]
    assert seen["kv_usage"].tolist() == pytest.approx([0, 0, 0.04, 0])
    assert seen["prompt_tokens_total"].tolist() == [0, 0, 64, 64]
    assert seen["generation_tokens_total"].tolist() == [0, 0, 2, 4]


def test_data_parallel_engines_share_the_requests_of_their_replica(chunk):
    replicas = ready(replace(FREE, data_parallel=2, max_num_seqs=2))
    replicas.offer(chunk(np.arange(8) * 1e-3, 10, 100))
    replicas.advance(0.5)
    assert replicas.engine_gauges()["running"].tolist() == [2, 2]
    assert replicas.gauges()["running"].tolist() == [4]
    assert replicas.gauges()["waiting"].tolist() == [4]


# --- life of a replica -----------------------------------------------------------------------------------------------


def test_requests_wait_in_the_gateway_until_a_replica_is_ready(chunk):
    replicas = Replicas(FREE, 1)
    replicas.offer(chunk([0.0, 1.0, 3.0], 10, 1))
    replicas.open(0, 2.0)
    replicas.advance(1.5)
    assert replicas.pending == 2
    replicas.advance(5.0)
    assert replicas.finished()["sent_s"].tolist() == [2.0, 2.0, 3.0]


def test_or_fail_at_once_when_so_configured(chunk):
    replicas = Replicas(FREE, 1, no_ready="fail")
    replicas.offer(chunk([0.0], 10, 1))
    replicas.advance(1.0)
    assert status(replicas.finished()) == ["http_error"]


def test_a_draining_replica_ends_its_requests_and_takes_no_new_ones(chunk):
    replicas = ready(FREE, 2, routing="round_robin")
    replicas.offer(chunk(np.arange(20) * 0.01, 10, 100))
    replicas.close(0, 0.1)
    replicas.advance(math.inf)
    done = replicas.finished()
    assert set(status(done)) == {"ok"}
    assert (done["slot"][done["due_s"] >= 0.1] == 1).all()


def test_a_killed_replica_cancels_what_it_holds_and_its_slot_starts_afresh(chunk):
    replicas = ready(FREE, 1)
    replicas.offer(chunk([0.0, 2.0], 10, 100))
    replicas.close(0, 0.5, abort=True)
    replicas.open(0, 1.0)
    replicas.advance(math.inf)
    done = replicas.finished()
    assert status(done) == ["cancelled", "ok"]
    assert done["output_tokens"].tolist() == [
        24,
        100,
    ]  # 25 steps of 20 ms reach 0.5 s, and the 25th ends just then
    assert done["first_token_s"][1] == pytest.approx(2.02)
    assert replicas.gauges()["requests_total"].tolist() == [1]


def test_a_client_that_gives_up_frees_its_seat_for_the_next(chunk):
    """One seat, held for 100 steps; the timeout of 1 s ends the holder, and the second request gets the next step."""
    params = replace(FREE, max_num_seqs=1, request_timeout_s=1.0)
    done, _ = replay(params, chunk([0.0, 0.5], 10, [100, 1]))
    assert status(done) == ["timeout", "ok"]
    assert done["end_s"][0] == 1.0
    assert done["first_token_s"][1] == pytest.approx(1.02, abs=0.021)


def test_a_request_larger_than_the_cache_is_refused(chunk):
    done, _ = replay(replace(FREE, num_blocks=3), chunk([0.0, 0.0], [40, 20], [1, 12]))
    assert status(done) == ["http_error", "ok"]


def test_a_request_at_a_time_with_progress_and_abort():
    replicas = ready(FREE)
    first, second = replicas.submit(10, 100), replicas.submit(10, 50)
    for _ in range(4):  # both arrive, then three steps end
        replicas.advance(math.nextafter(replicas.next_event_s(), math.inf))
    assert replicas.progress()["tokens_out"].tolist() == [3, 3]
    assert replicas.abort(first)
    assert not replicas.abort(first)
    replicas.advance(math.inf)
    assert replicas.finished()["request_id"].tolist() == [first, second]


# --- routing ---------------------------------------------------------------------------------------------------------


def routed(slots, n, chunk, output=1, **options):
    replicas = ready(FREE, slots, **options)
    replicas.offer(chunk(np.arange(n) * 1e-3, 1, output))
    replicas.advance(n * 1e-3)
    return replicas


def test_random_routing_is_uniform(chunk):
    """4 slots, 8000 requests: 2000 each, standard deviation 39."""
    replicas = routed(4, 8000, chunk)
    replicas.advance(math.inf)
    assert np.abs(np.bincount(replicas.finished()["slot"]) - 2000).max() < 4 * 39


def test_round_robin_deals_in_turn(chunk):
    replicas = routed(4, 8000, chunk, routing="round_robin")
    replicas.advance(math.inf)
    assert np.bincount(replicas.finished()["slot"]).tolist() == [2000] * 4


def test_least_requests_keeps_replicas_within_one_of_each_other(chunk):
    replicas = routed(3, 100, chunk, output=10_000, routing="least_requests")
    assert np.ptp(replicas.gauges()["in_flight"]) <= 1


def test_a_kept_alive_connection_never_finds_the_new_replica(chunk):
    """All 20 connections were made while slot 0 was alone; slot 1 is served only after slot 0 closes."""
    replicas = Replicas(FREE, 2, connections=20)
    replicas.open(0, 0.0)
    replicas.open(1, 5.0)
    replicas.close(0, 8.0)
    replicas.offer(chunk(np.arange(1000) * 0.01, 1, 1))
    replicas.advance(math.inf)
    done = replicas.finished()
    assert set(done["slot"][done["due_s"] < 8.0]) == {0}
    assert set(done["slot"][done["due_s"] > 8.0]) == {1}


# --- size and shape --------------------------------------------------------------------------------------------------


def test_tables_grow_with_requests_in_flight_not_with_the_trace(chunk):
    replicas = ready(PLAIN, 2)
    for k in range(20):
        replicas.offer(chunk(k * 1000 + np.arange(10_000) * 0.1, 100, 100))
        replicas.advance((k + 1) * 1000.0)
        assert len(replicas.finished()) > 9_900
    assert len(replicas._state.requests) <= 2 * CHUNK


def test_the_kernel_is_compiled_once_whatever_arrays_are_offered(chunk):
    replicas = ready(PLAIN)
    frozen = np.array([1.0, 2.0])
    frozen.flags.writeable = False
    replicas.offer(chunk(frozen, 5, 5))
    replicas.advance(10)
    replicas.advance(np.float32(20))
    assert len(kernels.advance.signatures) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_num_batched_tokens": 32}, "at least max_num_seqs"),
        ({"num_blocks": 1}, "num_blocks"),
        ({"base_s": math.nan}, "base_s"),
        ({"per_kv_token_s": -1e-9}, "per_kv_token_s"),
        ({"base_s": 0.0, "per_sequence_s": 0.0}, "takes no time"),
        ({"request_timeout_s": 0.0}, "request_timeout_s"),
        ({"prefix_hit_fraction": 1.0}, "prefix_hit_fraction"),
    ],
)
def test_parameters_that_vllm_could_not_have_are_refused(change, says):
    with pytest.raises(BadInput, match=says):
        replace(PLAIN, **change)


@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        pytest.param(lambda _c: Replicas(PLAIN, 1, routing="hash"), "routing", id="unknown routing"),
        pytest.param(
            lambda _c: Replicas(PLAIN, 1, routing="round_robin", connections=3),
            "connections",
            id="sticky turns",
        ),
        pytest.param(lambda c: ready(PLAIN).offer(c([2.0, 1.0], 1, 1)), "due order", id="unsorted arrivals"),
        pytest.param(lambda _c: ready(PLAIN).open(0, 0.0), "open already", id="opened twice"),
        pytest.param(lambda _c: ready(PLAIN).close(5, 0.0), "slot", id="no such slot"),
    ],
)
def test_misuse_is_refused(misuse, says, chunk):
    with pytest.raises(BadInput, match=says):
        misuse(chunk)


@pytest.mark.parametrize("name", names())
def test_every_shipped_profile_makes_an_engine_that_serves_a_request(name, chunk):
    done, _ = replay(EngineParams.from_profile(load(name)), chunk([0.0], 1000, 100))
    assert status(done) == ["ok"]
