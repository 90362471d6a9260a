"""The fleet in virtual time: nothing is lost or made up, the HPA acts on what the metric path shows it, same seed same bytes."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import run as run_directory
from analysis.errors import BadInput
from analysis.run import STATUSES
from autoscale.profiles.profile import MetricPath as Timing
from autoscale.profiles.profile import load, overlay
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.fleet.metric_path import SamplePath, exported_signal, gauge_milli, sync_times
from autoscale.sim.fleet.outcome import _flaps
from autoscale.sim.fleet.replica import Nodes
from autoscale.sim.fleet.run_writer import write_run
from autoscale.sim.fleet.scalers import read_scaler
from autoscale.sim.fleet.simulate import simulate
from loadgen.plan.traffic import Arrivals

L4 = overlay(
    load("llama-3.1-8b-1xl4"),
    {
        "cold_start": {
            "node": {"median_s": 30, "p95_s": 60},
            "image": {"median_s": 10, "p95_s": 10},
            "weights_rate_bytes_s": 1.6e9,
            "engine_init": {"median_s": 5, "p95_s": 5},
        },
        "accelerator": {"price_per_chip_hour": 2.0},
    },
)
# one replica serves about 4 requests of 100 tokens at a time, 25 ms a token: 1.6 requests/s
SMALL = EngineParams(
    base_s=0.025,
    per_sequence_s=0.0,
    per_kv_token_s=0.0,
    per_prefill_token_s=0.0,
    num_blocks=401,
    max_num_seqs=4,
    max_num_batched_tokens=2048,
)


def manifest(profile=L4, *, waiting="2", running=None, least=1, most=4, behavior=None, **target):
    names = {"waiting": "vllm:num_requests_waiting", "running": "vllm:num_requests_running"}
    metrics = [
        {
            "type": "Pods",
            "pods": {
                "metric": {"name": f"prometheus.googleapis.com|{names[signal]}|gauge"},
                "target": {"type": "AverageValue", "averageValue": value},
            },
        }
        for signal, value in (("waiting", waiting), ("running", running))
        if value is not None
    ]
    deploy = profile.deploy
    api = "apps/v1" if deploy.kind == "Deployment" else "leaderworkerset.x-k8s.io/v1"
    reference = {"apiVersion": api, "kind": deploy.kind, "name": deploy.name} | target
    spec = {"scaleTargetRef": reference, "minReplicas": least, "maxReplicas": most, "metrics": metrics}
    if behavior is not None:
        spec["behavior"] = behavior
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": deploy.hpa_name},
        "spec": spec,
    }


def load_of(
    rate_rps: float, duration_s: float, seed: int = 0, start_s: float = 0.0, first_id: int = 0
) -> Arrivals:
    rng = np.random.default_rng(seed)
    due = start_s + np.cumsum(rng.exponential(1 / rate_rps, int(rate_rps * duration_s * 1.5) + 20))
    due = due[due < start_s + duration_s]
    n = len(due)
    return Arrivals(
        due,
        rng.integers(20, 200, n).astype(np.int32),
        rng.integers(50, 150, n).astype(np.int32),
        np.zeros(n, np.int32),
        np.arange(first_id, first_id + n),
    )


def burst(rate_rps: float, burst_rps: float, at_s: float, for_s: float, duration_s: float) -> list[Arrivals]:
    before = load_of(rate_rps, at_s, 1)
    during = load_of(burst_rps, for_s, 2, at_s, len(before.due_s))
    first = len(before.due_s) + len(during.due_s)
    return [before, during, load_of(rate_rps, duration_s - at_s - for_s, 3, at_s + for_s, first)]


def run(hpa=None, arrivals=(), *, profile=L4, seed=1, duration_s=1800.0, **keywords):
    return simulate(profile, hpa, arrivals, seed=seed, duration_s=duration_s, engine=SMALL, **keywords)


# --- what comes out --------------------------------------------------------------------------------------------------


def test_a_static_fleet_costs_its_replicas_times_the_duration() -> None:
    outcome = run(None, [load_of(1, 1800)], static_replicas=3)
    assert outcome.replica_hours == pytest.approx(1.5)
    assert outcome.accelerator_hours == pytest.approx(1.5)  # one chip each
    assert outcome.cost == pytest.approx(3.0)
    assert (outcome.peak_replicas, outcome.wasted_scale_outs, outcome.flaps) == (3, 0, 0)


def test_a_burst_scales_out_and_the_quiet_after_it_scales_in() -> None:
    outcome = run(manifest(), burst(0.5, 6, 300, 300, 1800), keep=True)
    sizes = [(before, after) for _, before, after, _ in outcome.decisions]
    assert sizes[0][0] == 1
    assert max(after for _, after in sizes) == 4
    assert sizes[-1][1] == 1
    first_s = outcome.decisions[0][0]
    # the queue passes the target some 5 s into the burst; a scrape (15 s), ingestion (10 s) and a sync (15 s) later the
    # HPA must have acted
    assert 300 < first_s <= 300 + 10 + 15 + 10 + 15.2
    assert "num_requests_waiting|gauge above target" in outcome.decisions[0][3]
    ready = [row for row in outcome.replicas if row[4] == 4]
    # all cold starts: node at most some minutes, image 10, weights 16.06e9 / 1.6e9 = 10, init 5
    assert ready
    assert ready[0][0] > first_s + 25


def test_more_replicas_wait_less() -> None:
    few = run(None, [load_of(3, 900)], static_replicas=2, duration_s=900)
    many = run(None, [load_of(3, 900)], static_replicas=4, duration_s=900)
    assert many.attainment > few.attainment
    assert many.percentile("ttft", 95) < few.percentile("ttft", 95)
    assert few.longest_breach_s > many.longest_breach_s


def test_a_replica_cancelled_before_it_is_ready_is_wasted() -> None:
    slow = overlay(L4, {"cold_start": {"engine_init": {"median_s": 5400, "p95_s": 5400}}})
    outcome = run(manifest(), burst(0.5, 6, 300, 120, 3600), profile=slow, duration_s=3600.0)
    assert outcome.wasted_scale_outs == 3
    assert not any(row[4] > 1 for row in outcome.replicas)


@pytest.mark.parametrize(
    ("grace_s", "lost"),
    [
        pytest.param(0.0, True, id="without grace, scale-in cuts what is in flight"),
        pytest.param(60.0, False, id="with enough grace everything finishes"),
    ],
)
def test_scale_in_and_the_requests_in_flight(grace_s: float, lost: bool) -> None:
    spiky = manifest(waiting="1", behavior={"scaleDown": {"stabilizationWindowSeconds": 0}})
    outcome = run(spiky, [load_of(2.5, 1800)], options=FleetOptions(grace_s=grace_s))
    assert any(after < before for _, before, after, _ in outcome.decisions)
    assert (outcome.lost > 0) is lost
    assert outcome.ok + outcome.lost + outcome.unserved == outcome.offered


def test_a_draining_replica_keeps_its_accelerators_until_its_requests_are_done() -> None:
    spiky = manifest(waiting="1", behavior={"scaleDown": {"stabilizationWindowSeconds": 0}})
    outcome = run(spiky, [load_of(2.5, 1800)], options=FleetOptions(grace_s=60.0))
    deleting = {pod: t for t, kind, pod, _ in outcome.events if kind == "deleting"}
    gone = {pod: t for t, kind, pod, _ in outcome.events if kind == "gone"}
    waited = [gone[pod] - t for pod, t in deleting.items() if pod in gone]
    assert waited
    assert max(waited) > 1.3  # some were busy: a request takes 1.25 to 3.75 s
    assert max(waited) < 60 + 2.5


def test_requests_that_find_no_replica_wait_or_fail_as_asked() -> None:
    cold = FleetOptions(warm=False)
    waited = run(None, [load_of(0.5, 600)], static_replicas=1, duration_s=600, options=cold)
    failed = run(
        None, [load_of(0.5, 600)], static_replicas=1, duration_s=600, options=replace(cold, no_ready="fail")
    )
    assert waited.lost == 0
    assert waited.percentile("ttft", 99) > 10
    assert failed.lost > 0
    assert failed.percentile("ttft", 99) < 1


def test_what_is_never_served_is_a_breach() -> None:
    never = FleetOptions(warm=False, nodes=Nodes(standing=0, maximum=0), tail_s=60)
    outcome = run(None, [load_of(0.5, 600)], static_replicas=1, duration_s=600, options=never)
    assert outcome.unserved == outcome.offered > 200
    assert outcome.attainment == 0
    assert not outcome.holds
    assert math.isnan(outcome.percentile("ttft", 50))


def test_a_run_can_be_stopped_early() -> None:
    outcome = run(
        None,
        [load_of(3, 20_000)],
        static_replicas=2,
        duration_s=20_000,
        stop=lambda tally: "enough" * (tally.requests > 10),
    )
    assert outcome.stopped == "enough"
    assert 10 < outcome.finished < outcome.offered
    assert outcome.unserved == 0
    assert not outcome.holds


def test_a_leader_worker_set_scales_by_groups() -> None:
    group = overlay(
        load("deepseek-r1-2x8h100-hdml"), {"cold_start": {"node": 30, "weights_rate_bytes_s": 20e9}}
    )
    outcome = run(manifest(group), burst(0.5, 6, 300, 300, 1800), profile=group)
    assert max(row[4] for row in outcome.replicas) > 1
    assert outcome.accelerator_hours > 0.99 * 16 * 0.5  # at least one group of 16 chips for half an hour
    deleted = [pod for _, kind, pod, _ in outcome.events if kind == "deleting"]
    assert deleted == sorted(deleted, reverse=True)


@pytest.mark.parametrize(
    ("sizes", "flaps"),
    [
        pytest.param([(0, 1, 2), (100, 2, 3)], 0, id="twice up is no flap"),
        pytest.param([(0, 1, 2), (100, 2, 1)], 1, id="up and down soon after"),
        pytest.param([(0, 1, 2), (1000, 2, 1)], 0, id="up and down long after"),
        pytest.param(
            [(0, 1, 4), (100, 4, 2), (200, 2, 1), (300, 1, 3)], 2, id="each change of direction counts once"
        ),
    ],
)
def test_flaps_are_changes_of_direction_within_a_quarter_of_an_hour(sizes, flaps) -> None:
    assert _flaps([(t, before, after, "") for t, before, after in sizes], 900.0) == flaps


# --- invariants ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rate_rps=st.floats(0.2, 8),
    waiting=st.sampled_from(["1", "2500m", "20"]),
    running=st.sampled_from([None, "2", "3500m"]),
    most=st.integers(1, 5),
    window_s=st.sampled_from([None, 0, 60]),
    options=st.builds(
        FleetOptions,
        nodes=st.sampled_from([Nodes(), Nodes(2, 1), Nodes(1, 0)]),
        grace_s=st.sampled_from([0.0, 3.0, 30.0]),
        routing=st.sampled_from(["random", "round_robin", "least_requests"]),
        no_ready=st.sampled_from(["wait", "fail"]),
        warm=st.booleans(),
        tail_s=st.sampled_from([0.0, 300.0]),
    ),
)
def test_requests_and_accelerators_are_conserved(
    seed, rate_rps, waiting, running, most, window_s, options
) -> None:
    behavior = None if window_s is None else {"scaleDown": {"stabilizationWindowSeconds": window_s}}
    hpa = manifest(waiting=waiting, running=running, most=most, behavior=behavior)
    outcome = run(hpa, [load_of(rate_rps, 600, seed)], seed=seed, duration_s=600, options=options, keep=True)
    done = outcome.requests
    count = 0 if done is None else len(done)
    assert count + outcome.unserved == outcome.offered
    assert outcome.ok + outcome.lost == outcome.finished == count
    if count:
        ok = done[done["status"] == STATUSES.index("ok")]
        assert len(np.unique(done["request_id"])) == count
        assert (ok["due_s"] <= ok["sent_s"]).all()
        assert (ok["sent_s"] < ok["first_token_s"]).all()
        assert (ok["first_token_s"] <= ok["last_token_s"]).all()
    for time_s, desired, created, scheduled, ready in outcome.replicas:
        assert 0 <= ready <= scheduled <= created, time_s
        assert 1 <= desired <= most
    assert outcome.accelerator_hours <= outcome.replica_hours + 1e-9  # one chip per replica
    if options.nodes.maximum is not None:
        limit = options.nodes.standing + options.nodes.maximum
        assert outcome.accelerator_hours <= limit * 600 / 3600 + 1e-9


def test_littles_law_holds_between_requests_and_gauges() -> None:
    outcome = run(None, [load_of(3, 7200, 4)], static_replicas=3, duration_s=7200, keep=True)
    done = outcome.requests
    in_service_s = (done["last_token_s"] - done["sent_s"]).sum()
    mean_in_fleet = np.mean([(rows["waiting"] + rows["running"]).sum() for _, rows, _ in outcome.samples])
    # L = lambda W; 480 scrapes of a queue that fluctuates by about its own size
    assert mean_in_fleet == pytest.approx(in_service_s / 7200, rel=0.1)


PRINT_DIGEST = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_fleet import *
outcome = run(manifest(waiting="1"), burst(0.5, 6, 100, 100, 600), duration_s=600.0, keep=True)
whole = outcome.requests.tobytes() + repr((outcome.decisions, outcome.events, outcome.replicas, outcome.cost)).encode()
print(hashlib.sha256(whole).hexdigest())
"""


def test_the_same_seed_gives_the_same_bytes_in_every_process() -> None:
    from pathlib import Path

    digests = {
        subprocess.run(
            [sys.executable, "-c", PRINT_DIGEST, str(Path(__file__).parent)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": salt, "PATH": "", "HOME": str(Path.home())},
        ).stdout
        for salt in ("1", "2")
    }
    assert len(digests) == 1


# --- metric path and HPA ---------------------------------------------------------------------------------------------


def test_a_sample_is_seen_after_the_ingestion_delay_and_kept_for_the_adapters_window() -> None:
    path = SamplePath(Timing(scrape_interval_s=15, ingestion_delay_s=10, adapter_window_s=300))
    path.scrape(0.0, {1: (3.0, 1.0, 0.5), 2: (7.0, 1.0, 0.5)})
    path.scrape(15.0, {1: (4.0, 1.0, 0.5)})  # pod 2 stopped exporting
    assert path.read(9.9) == {}
    assert path.read(10.0)[1] == (0.0, (3.0, 1.0, 0.5))
    assert path.read(25.0) == {1: (15.0, (4.0, 1.0, 0.5)), 2: (0.0, (7.0, 1.0, 0.5))}
    assert 2 in path.read(300.0)
    assert path.read(300.1).keys() == {1}
    path.forget(1)
    assert path.read(301.0) == {}


def test_syncs_drift_like_those_of_a_real_controller() -> None:
    # recorded: 50 intervals of 15.017..15.196 s, mean 15.066
    times = sync_times(15.0, np.random.default_rng(1))
    at = np.array([next(times) for _ in range(5000)])
    gaps = np.diff(at)
    assert at[0] > 15.0  # `<unknown>` for a period
    assert gaps.min() >= 15.017
    assert gaps.max() <= 15.196 + 1e-9
    assert gaps.mean() == pytest.approx(15.06, abs=0.01)


def test_syncs_without_drift_are_multiples_of_the_period() -> None:
    times = sync_times(0.1, np.random.default_rng(1), drift=False)
    assert [next(times) for _ in range(3)] == [0.1, 0.2, 3 * 0.1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(0.5047, 504, id="truncated as adapters do, not rounded"),
        pytest.param(0.57, 570, id="a float just below its decimal is that decimal"),
        pytest.param(12.0, 12_000, id="a count"),
        pytest.param(math.nan, None, id="what was not reported has no value"),
    ],
)
def test_gauges_become_milli_units(value: float, expected: int | None) -> None:
    assert gauge_milli(value) == expected


@pytest.mark.parametrize(
    ("metric", "version", "signal"),
    [
        ("prometheus.googleapis.com|vllm:num_requests_waiting|gauge", "0.11.0", "waiting"),
        ("vllm_num_requests_running", "0.11.0", "running"),
        ("autoscaling.gke.io|vllm|num_requests_waiting", "0.11.0", "waiting"),
        ("prometheus.googleapis.com|vllm:kv_cache_usage_perc|gauge", "0.10.2", "kv_usage"),
        ("prometheus.googleapis.com|vllm:gpu_cache_usage_perc|gauge", "0.10.2", "kv_usage"),
        ("prometheus.googleapis.com|vllm:gpu_cache_usage_perc|gauge", "0.8.5", "kv_usage"),
    ],
)
def test_a_metric_name_says_which_gauge_it_means(metric: str, version: str, signal: str) -> None:
    assert exported_signal(metric, version, "spec.metrics[0].pods.metric.name") == signal


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(
            {"metric": "prometheus.googleapis.com|vllm:gpu_cache_usage_perc|gauge"},
            "that vLLM 0.11.0 does not export.*use vllm:kv_cache_usage_perc|Use vllm:kv_cache_usage_perc",
            id="renamed metric",
        ),
        pytest.param(
            {"metric": "prometheus.googleapis.com|vllm:num_requests_waiting|unknown"},
            "under another kind",
            id="wrong kind suffix",
        ),
        pytest.param({"metric": "nginx_requests"}, "the fleet does not export", id="somebody else's metric"),
        pytest.param(
            {"kind": "StatefulSet"},
            "targets another kind of workload: 'StatefulSet/vllm'; expected a Deployment.*deploy.kind",
            id="the leader's StatefulSet",
        ),
    ],
)
def test_an_hpa_that_does_not_fit_is_bad_input(change: dict, sentence: str) -> None:
    hpa = manifest()
    if "metric" in change:
        hpa["spec"]["metrics"][0]["pods"]["metric"]["name"] = change["metric"]
    else:
        hpa["spec"]["scaleTargetRef"] |= change
    with pytest.raises(BadInput, match=sentence):
        read_scaler(L4, hpa)


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        pytest.param({}, "either an HPA or a fixed number", id="neither"),
        pytest.param({"hpa": manifest(), "static_replicas": 1}, "either an HPA or a fixed number", id="both"),
        pytest.param({"static_replicas": 1, "duration_s": 0}, "above 0 s", id="no time"),
        pytest.param({"static_replicas": -1}, "0 or more", id="fewer than no replicas"),
    ],
)
def test_a_simulation_that_cannot_be_is_bad_input(keywords: dict, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        run(**keywords)


# --- run directory ---------------------------------------------------------------------------------------------------


def test_an_outcome_is_a_run_directory_like_a_live_one(tmp_path) -> None:
    outcome = run(manifest(), burst(0.5, 6, 100, 100, 600), duration_s=600.0, keep=True)
    path = write_run(outcome, tmp_path / "run", command="autoscale simulate")
    read = run_directory.read(path)
    assert run_directory.validate(read) == []
    assert read.header["kind"] == "simulated"
    assert len(read.requests) == outcome.finished
    assert set(read.metrics["pod"]) <= {pod for _, _, pod, _ in outcome.events}
    assert read.metrics["waiting"].max() > 2
    assert read.replicas["ready"].max() == max(row[4] for row in outcome.replicas)
    assert [e["kind"] for e in read.events].count("SuccessfulRescale") == len(outcome.decisions)
    json.dumps(read.header)
