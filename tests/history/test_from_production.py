"""A replica learned from production, through a real Prometheus that holds a simulated fleet's past."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis import run
from analysis.errors import BadInput, TooLittleData
from analysis.slo import parse_slo
from autoscale.cli import app
from autoscale.history.operating import LEAD_S, points_of_operation
from autoscale.history.past_hpa import reproduced
from autoscale.history.pod_moments import PodMoments, pod_moments
from autoscale.history.production import LEAST_STARTS, SeenStarts, learn_production, starts_of
from autoscale.history.service import find_service
from autoscale.history.told_hpa import past_hpa
from autoscale.profiles import load, overlay
from autoscale.recommend.answer import Point
from autoscale.recommend.choice.settings import Behavior, Candidate
from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.from_production import (
    cold_start_seen,
    current_that_fits,
    learn_replica_from,
    recommend_from,
)
from autoscale.recommend.model.coefficients import drawn
from autoscale.recommend.model.load_test import load_test_worth
from autoscale.recommend.model.one_replica import capacity, idle_verdict, roughly_holding_rps
from autoscale.recommend.open_speed import capacity_between, idle_in_doubt, speed_at_the_slo
from autoscale.sim.fleet.control import DEFAULTS
from autoscale.sim.fleet.run_writer import write_run
from autoscale.sim.fleet.simulate import simulate
from autoscale.sim.past.kube_state import hpa_series, pod_series
from autoscale.sim.past.vllm_series import with_pods
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


def images(metrics):
    """kube-state-metrics of pods of which every other one has another version."""
    return {
        "kube_pod_container_info": [
            (
                f'pod="{pod}",image="vllm/vllm-openai:v0.1{k % 2}.0"',
                rows.set_index("time_s")["running"] * 0 + 1,
            )
            for k, (pod, rows) in enumerate(metrics.groupby("pod"))
        ]
    }


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
    manifest = Candidate((("running", 6.0),), Behavior(), 1, 6).manifest(profile)
    outcome = simulate(
        profile,
        manifest,
        plan.arrivals(),
        seed=3,
        duration_s=HOURS * 3600.0,
        engine=true.engine,
        keep=True,
    )
    recorded = run.read(write_run(outcome, folder / "run", plan=plan))
    done = with_pods(outcome, recorded.requests[recorded.requests["status"] == "ok"])
    more = images(recorded.metrics) | pod_series(outcome, ZERO)
    more |= hpa_series(outcome, manifest, HOURS * 3600.0)
    blocks = (true.engine.num_blocks, true.engine.block_size)
    backfill.open_metrics(
        folder / "text",
        recorded.metrics,
        done,
        ZERO,
        "meta/m",
        more=more,
        kv_blocks=blocks,
    )
    with backfill.prometheus(folder / "text", folder) as url:
        service = find_service(url, HOURS * 3600.0, until=ZERO + HOURS * 3600.0)
        yield service, learn_production(service, None, silent), replace(true, plan=plan)


def test_a_stretch_tells_what_a_pod_did(past):
    service, _, _ = past
    for one in points_of_operation(service, silent).stretches:
        assert one.times_s[-1] > LEAD_S
        assert one.running == pytest.approx(one.output_tokens * one.itl_s, rel=0.25), "Little's law of tokens"
        assert 0.02 < one.itl_s < 0.3 < 1.0 / one.rate_rps + 1.0


def test_the_capacity_lies_in_the_interval_of_the_replica_learned_from_production(past):
    _, production, true = past
    lengths = true.plan.prompt, true.plan.output
    model = learn_replica_from(production.points, lengths, true.profile, production.traffic, silent)
    assert model.untrusted() == []
    low, high = model.spread_at(*model.shape)
    found = capacity(replace(true, engine=model.engine)).rate_rps
    asked = capacity(true).rate_rps
    assert found * low <= asked <= found * high
    assert model.engine.step_s(3, 1000) == pytest.approx(true.engine.step_s(3, 1000), rel=0.02), (
        "as far as the load went"
    )


def test_two_versions_and_the_starts_are_told(past):
    _, production, true = past
    assert any("pods of 2 versions" in note and "v0.10.0" in note for note in production.notes)
    cold = true.profile.cold_start
    assert production.starts.count >= 3
    for seen, phase in ((production.starts.node_s, cold.node), (production.starts.image_s, cold.image)):
        assert phase.median_s / 2 < seen[0] <= seen[1] < 2 * phase.p95_s


def test_pods_that_were_there_and_warm_tell_no_start():
    warm = [PodMoments(f"w{k}", ZERO, ZERO, ZERO, ZERO) for k in range(5)]
    begun = [
        PodMoments(f"s{k}", ZERO + k, ZERO + k + 5, ZERO + k + 9, ZERO + k + 60) for k in range(LEAST_STARTS)
    ]
    assert starts_of(warm, ZERO) is None
    assert starts_of([*warm, *begun], ZERO) == starts_of(begun, ZERO)


def test_few_starts_do_not_tell_the_longest(past):
    profile = past[2].profile
    usual = profile.cold_start.node.p95_s / profile.cold_start.node.median_s
    few = SeenStarts(5, (100.0, 120.0), (50.0, 55.0), (170.0, 200.0))
    seen = overlay(profile, {"cold_start": cold_start_seen(few, profile.cold_start)}).cold_start
    assert (seen.node.median_s, seen.node.p95_s) == pytest.approx((100.0, 100.0 * usual))
    assert seen.engine_init.p95_s == 200.0
    many = replace(few, count=20)
    assert cold_start_seen(many, profile.cold_start)["node"] == {"median_s": 100.0, "p95_s": 120.0}


def test_a_model_that_no_profile_serves_and_too_short_a_window_are_sentences(past, tmp_path):
    service, production, _ = past
    with pytest.raises(BadInput, match=r"--peak with --from-prometheus: 3.0.*as production has them"):
        CliRunner().invoke(
            app,
            ["recommend", "--from-prometheus", "http://127.0.0.1:1", "--peak", "3"],
            catch_exceptions=False,
            standalone_mode=False,
        )
    with pytest.raises(BadInput, match=r"no profile serves the model: 'meta/m'.*--profile"):
        recommend_from(production, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(TooLittleData, match=r"scraped for long enough.*25 minutes.*--last"):
        points_of_operation(replace(service, start_s=service.end_s - 1000.0), silent)


def test_the_past_decisions_of_the_hpa_are_reproduced_and_told_first(past):
    service, production, _ = past
    found, said = past_hpa(service)
    assert found is not None, said
    assert found.name == "vllm-hpa"
    repeated = reproduced(service, found, found.manifest, pod_moments(service))
    assert repeated.rescales > 3
    assert repeated.same >= 0.99 * repeated.syncs
    assert repeated.same_known >= 0.99 * repeated.known
    assert repeated.complete > 0.99
    assert repeated.same_rescales <= repeated.near_rescales <= repeated.rescales
    assert repeated.near_rescales >= 0.9 * repeated.rescales, "sync times are not recorded"
    assert production.notes[0] == repeated.sentence("vllm-hpa")
    assert production.current["spec"]["metrics"][0]["pods"]["target"]["averageValue"] == "6000m"
    other = json.loads(json.dumps(found.manifest).replace("6000m", "3000m"))
    assert reproduced(service, found, other, pod_moments(service)).same_rescales < repeated.same_rescales, (
        "another target decides otherwise"
    )


def test_an_hpa_that_the_profile_cannot_have_is_a_note_and_a_file_of_one_an_error(past, tmp_path):
    """kube-state-metrics may tell of a workload, or of a metric, that is none of the profile's."""
    _, production, true = past
    foreign = json.loads(json.dumps(production.current).replace('"Deployment"', '"StatefulSet"'))
    with pytest.raises(BadInput, match=r"another kind of workload: 'StatefulSet"):
        recommend_from(
            replace(production, current=foreign, current_given=True), profile=PROFILE, out=tmp_path / "given"
        )
    told = replace(production, current=foreign, current_given=False)
    current, notes = current_that_fits(told, true.profile, DEFAULTS, None)
    assert current is None
    assert "what runs now is not set beside the answer" in notes[0]
    assert "StatefulSet" in notes[0]


def test_the_interval_is_of_what_binds_and_of_capacities_at_its_ends(past):
    """A TTFT bound near what an idle replica takes: a little slower, and the capacity is a fraction."""
    _, production, true = past
    lengths = true.plan.prompt, true.plan.output
    model = learn_replica_from(production.points, lengths, true.profile, production.traffic, silent)
    served = replace(true, engine=model.engine)
    low_s, idle = 0.05, 3.0  # an idle replica breaks the first and keeps the second
    while idle > 1.01 * low_s:
        middle_s = (low_s * idle) ** 0.5
        kept = idle_verdict(replace(served, slo=parse_slo(f"ttft_p95={middle_s:.4f}s"))) is None
        low_s, idle = (low_s, middle_s) if kept else (middle_s, idle)
    tight = replace(served, slo=parse_slo(f"ttft_p95={1.1 * idle:.3f}s"))
    full = model.spread_at(*model.shape)
    low, high = speed = speed_at_the_slo(model, tight, full)
    assert low <= full[0] < 1 < full[1] <= high, "never narrower than a full batch's"
    least, most = capacity_between(tight, speed)
    assert least < low - 0.05, "the capacity falls by more than the speed"
    assert least * roughly_holding_rps(tight) <= roughly_holding_rps(replace(true, slo=tight.slo))
    assert most >= high
    broken = replace(served, slo=parse_slo(f"ttft_p95={0.95 * idle:.3f}s"))
    assert "an idle replica breaks the SLO by less than" in idle_in_doubt(broken, model, full)[0]
    far = replace(served, slo=parse_slo(f"ttft_p95={0.4 * idle:.3f}s"))
    assert idle_in_doubt(far, model, full) == []


def test_the_load_test_that_would_narrow_it_is_a_file_that_the_command_reads(past, tmp_path):
    _, production, true = past
    lengths = true.plan.prompt, true.plan.output
    model = learn_replica_from(production.points, lengths, true.profile, production.traffic, silent)
    point = Point(0.5, 0.1, 6.0, 0.3, "ttft_p95")
    decision = SimpleNamespace(capacity=point, chosen=SimpleNamespace(cost=10.0), as_fitted_h=9.0)
    worth = load_test_worth(model, replace(true, engine=model.engine), decision, tmp_path / "load-test.yaml")
    assert (worth.minutes, worth.accelerator_hours) == (10.0, 1.0)
    assert worth.sentence.endswith(f"autoscale load --headless --host URL --load {tmp_path}/load-test.yaml")
    now, then = map(float, re.findall(r"([\d.]+)%", worth.sentence))
    assert then < 0.9 * now + 0.1
    (tmp_path / "load-test.yaml").write_text(worth.load)
    plan = LoadPlan.from_options(load_file=tmp_path / "load-test.yaml")
    assert (plan.prompt, plan.output) == lengths
    assert plan.rate(np.arange(60.0, 600.0, 120.0)) == pytest.approx(
        0.5 * np.array([0.3, 0.5, 0.7, 0.9, 1.1]), rel=0.05
    )
