"""A replica learned from production, through a real Prometheus that holds a simulated fleet's past."""

from dataclasses import replace

import numpy as np
import pytest

from analysis import run
from analysis.errors import BadInput, TooLittleData
from autoscale.history.operating import LEAD_S, operating_points
from autoscale.history.production import learn_production
from autoscale.history.service import find_service
from autoscale.profiles import load
from autoscale.recommend.choice.settings import Behavior, Candidate
from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.from_production import learn_replica_from, recommend_from
from autoscale.recommend.model.coefficients import drawn
from autoscale.recommend.model.one_replica import capacity
from autoscale.sim.fleet.run_writer import write_run
from autoscale.sim.fleet.simulate import simulate
from benchmarks import backfill
from loadgen.plan import rates
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.traffic import LoadPlan, Process
from tests.history.test_learned import needs_prometheus

ZERO = 1_790_000_000.0 // 86_400 * 86_400
HOURS = 4
PROFILE = "llama-3.1-8b-1xl4"
TRUE = np.array([1.2, 1.5, 1.5, 0.8, 1.5])  # the server's step times as multiples of the profile's


def silent(_share, _text):
    pass


def starts(metrics):
    """kube-state-metrics of pods that wait 60 s for a node, pull for 30 s and load for 100 s, before each first scrape."""
    found = {}
    for name, before_s in (
        ("created", 190.0),
        ("status_scheduled_time", 130.0),
        ("container_state_started", 100.0),
        ("status_ready_time", 0.0),
    ):
        found[f"kube_pod_{name}"] = [
            (f'pod="{pod}",namespace="default"', rows.set_index("time_s")["running"] * 0 + ZERO + rows["time_s"].min() - before_s)
            for pod, rows in metrics.groupby("pod")
        ]  # fmt: skip
    found["kube_pod_container_info"] = [
        (f'pod="{pod}",image="vllm/vllm-openai:v0.1{k % 2}.0"', rows.set_index("time_s")["running"] * 0 + 1)
        for k, (pod, rows) in enumerate(metrics.groupby("pod"))
    ]
    return found


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    needs_prometheus()
    folder = tmp_path_factory.mktemp("past")
    profile = load(PROFILE)
    plain = scenario_of(profile, peak_rps=1.0)
    true = replace(plain, engine=drawn(plain.engine, TRUE))
    plan = LoadPlan(
        programme=rates.sine(1.0, 0.5, 4 * 3600.0, HOURS * 3600.0),
        process=Process("poisson", 1.0),
        prompt=parse_lengths("lognormal:300,0.8,4000"),
        output=parse_lengths("normal:60,15"),
        seed=5,
    )
    outcome = simulate(
        profile,
        Candidate((("running", 6.0),), Behavior(), 1, 6).manifest(profile),
        plan.arrivals(),
        seed=3,
        duration_s=HOURS * 3600.0,
        engine=true.engine,
        keep=True,
    )
    recorded = run.read(write_run(outcome, folder / "run", plan=plan))
    done = backfill.with_pods(outcome, recorded.requests[recorded.requests["status"] == "ok"])
    blocks = (true.engine.num_blocks, true.engine.block_size)
    backfill.open_metrics(
        folder / "text",
        recorded.metrics,
        done,
        ZERO,
        "meta/m",
        more=starts(recorded.metrics),
        kv_blocks=blocks,
    )
    with backfill.prometheus(folder / "text", folder) as url:
        service = find_service(url, HOURS * 3600.0, until=ZERO + HOURS * 3600.0)
        yield service, learn_production(service, silent), replace(true, plan=plan)


def test_a_stretch_tells_what_a_pod_did(past):
    service, _, _ = past
    for one in operating_points(service, silent).stretches:
        assert one.times_s[-1] > LEAD_S
        assert one.running == pytest.approx(one.output_tokens * one.itl_s, rel=0.25), "Little's law of tokens"
        assert 0.02 < one.itl_s < 0.3 < 1.0 / one.rate_rps + 1.0


def test_the_capacity_lies_in_the_interval_of_the_replica_learned_from_production(past):
    _, production, true = past
    lengths = true.plan.prompt, true.plan.output
    model = learn_replica_from(production.points, lengths, true.profile, np.nan, silent)
    assert model.untrusted() == []
    low, high = model.spread_at(*model.shape)
    found = capacity(replace(true, engine=model.engine)).rate_rps
    asked = capacity(true).rate_rps
    assert found * low <= asked <= found * high
    assert model.engine.step_s(3, 1000) == pytest.approx(true.engine.step_s(3, 1000), rel=0.02), (
        "as far as the load went"
    )


def test_two_versions_and_the_starts_are_told(past):
    _, production, _ = past
    assert any("pods of 2 versions" in note and "v0.10.0" in note for note in production.notes)
    assert production.starts.node_s == pytest.approx((60.0, 60.0))
    assert production.starts.image_s == pytest.approx((30.0, 30.0))
    assert production.starts.ready_s == pytest.approx((100.0, 100.0))


def test_a_model_that_no_profile_serves_and_too_short_a_window_are_sentences(past, tmp_path):
    service, production, _ = past
    with pytest.raises(BadInput, match=r"no profile serves the model: 'meta/m'.*--profile"):
        recommend_from(production, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(TooLittleData, match=r"scraped for long enough.*25 minutes.*--last"):
        operating_points(replace(service, start_s=service.end_s - 1000.0), silent)
