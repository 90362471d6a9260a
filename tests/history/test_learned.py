"""Traffic of simulated fleets, learned from a real Prometheus that holds their past."""

import json
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis import run
from analysis.errors import BadInput, TooLittleData
from autoscale.cli import app
from autoscale.history.learned import learn_traffic
from autoscale.history.pod_moments import pod_moments
from autoscale.history.service import find_service
from autoscale.profiles import load
from autoscale.recommend.choice.settings import Behavior, Candidate
from autoscale.sim.engine.params import EngineParams
from autoscale.sim.fleet.run_writer import write_run
from autoscale.sim.fleet.simulate import simulate
from autoscale.sim.past.vllm_series import with_pods
from benchmarks import backfill
from loadgen.plan import rates
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.traffic import LoadPlan, Process

ZERO = 1_790_000_000.0 // 86_400 * 86_400
HOURS = 8
PROFILE = "llama-3.1-8b-1xl4"


def needs_prometheus():
    if shutil.which("promtool") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("the prometheus package is missing")
        pytest.skip("prometheus is not installed: apt-get install prometheus")


def traffic_of(service):
    return learn_traffic(service, pod_moments(service))


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    """Eight hours of a fleet that an HPA scales: one replica restarts, none is scraped for ten minutes, one hour idle."""
    needs_prometheus()
    folder = tmp_path_factory.mktemp("past")
    profile = load(PROFILE)
    plan = LoadPlan(
        programme=rates.sine(0.8, 0.5, 4 * 3600.0, HOURS * 3600.0),
        process=Process("gamma", 2.0),
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
        keep=True,
    )
    recorded = run.read(write_run(outcome, folder / "run", plan=plan))
    metrics, requests = recorded.metrics.copy(), recorded.requests
    longest = metrics["pod"].value_counts().index[0]
    mine = (metrics["pod"] == longest) & (metrics["time_s"] > 3 * 3600)
    metrics.loc[mine, "requests_total"] -= metrics.loc[
        mine, "requests_total"
    ].min()  # a restart at three hours
    metrics = metrics[~metrics["time_s"].between(5 * 3600, 5 * 3600 + 600)]  # nothing was scraped
    done = with_pods(outcome, requests[requests["status"] == "ok"])
    engine = EngineParams.from_profile(profile)
    backfill.open_metrics(
        folder / "text", metrics, done, ZERO, "meta/m", kv_blocks=(engine.num_blocks, engine.block_size)
    )
    with backfill.prometheus(folder / "text", folder) as url:
        learned = traffic_of(find_service(url, HOURS * 3600.0, until=ZERO + HOURS * 3600.0))
        yield learned, requests, url, metrics


def test_the_requests_that_came_are_those_that_were_sent(past):
    learned, requests, _, metrics = past
    assert metrics["pod"].nunique() > 2, "the fleet was scaled"
    start_s = learned.window[0] - ZERO
    edges = start_s + 3600.0 * np.arange(int((learned.window[1] - learned.window[0]) // 3600) + 1)
    sent, _ = np.histogram(requests["due_s"], edges)
    minutes = learned.came.counts[: 60 * len(sent)].reshape(-1, 60).sum(axis=1)
    assert minutes == pytest.approx(sent, rel=0.03)
    assert minutes.sum() == pytest.approx(sent.sum(), rel=0.01)
    assert learned.model == "meta/m"
    assert learned.gap_share == pytest.approx(600 / (HOURS * 3600), abs=0.005)
    assert any("restarted" in note for note in learned.notes)


def test_lengths_and_burstiness_are_those_of_the_plan(past):
    learned, requests, _, _ = past
    for found, column in ((learned.prompt, "prompt_tokens"), (learned.output, "output_tokens")):
        true = requests[column].to_numpy(float)
        drawn = found.lengths.draw(np.random.default_rng(1), 100_000)
        assert found.mean == pytest.approx(true.mean(), rel=0.03)
        for q in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
            assert np.quantile(drawn, q) == pytest.approx(np.quantile(true, q), rel=0.05)
    assert learned.burstiness.low <= 2.0 <= learned.burstiness.high


def test_the_load_file_offers_what_came(past, tmp_path):
    learned, _, _, _ = past
    (tmp_path / "traffic.yaml").write_text(learned.yaml())
    plan = LoadPlan.from_options(load_file=tmp_path / "traffic.yaml")
    assert plan.expected_requests == pytest.approx(learned.came.counts.sum(), rel=0.005)
    drawn = np.concatenate([chunk.due_s for chunk in plan.arrivals()])
    hours, _ = np.histogram(drawn, 3600.0 * np.arange(HOURS + 1))
    came = learned.came.counts[: 60 * (HOURS - 1)].reshape(-1, 60).sum(axis=1)
    assert hours[: HOURS - 1] == pytest.approx(came, rel=0.15)


def test_lengths_that_the_server_does_not_tell_are_asked_for_and_given(past):
    learned, _, _, _ = past
    untold = replace(learned, prompt=None)
    with pytest.raises(BadInput, match=r"does not tell prompt tokens.*--prompt-tokens"):
        untold.yaml()
    assert "prompt_tokens: uniform:5,9\n" in untold.yaml(prompt=parse_lengths("uniform:5,9"))


def test_a_service_that_is_not_there_is_named_with_what_is(past):
    _, _, url, _ = past
    with pytest.raises(BadInput, match=r"no metrics of model other.*it has meta/m.*--model"):
        traffic_of(find_service(url, HOURS * 3600.0, until=ZERO + HOURS * 3600.0, model="other"))
    with pytest.raises(BadInput, match="--last: '60s'; expected an hour or more"):
        traffic_of(find_service(url, 60.0))


def test_the_verb_writes_a_load_file_and_a_picture_and_nothing_over_another_file(past, tmp_path, monkeypatch):
    _, _, url, _ = past
    monkeypatch.chdir(tmp_path)
    words = ["traffic", "--prometheus", url, "--last", f"{HOURS}h", "--until", "2026-09-21T08:00Z"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "meta/m, from http://127.0.0.1" in result.output
    assert LoadPlan.from_options(load_file=tmp_path / "traffic.yaml").expected_requests > 10_000
    assert (tmp_path / "traffic.png").stat().st_size > 10_000
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["model"] == "meta/m"
    (tmp_path / "traffic.yaml").write_text("mine: 1\n")
    with pytest.raises(
        BadInput, match=r"something else already: 'traffic\.yaml'; .*`autoscale traffic` wrote.*another --out"
    ):
        CliRunner().invoke(app, words, catch_exceptions=False, standalone_mode=False)
    assert (tmp_path / "traffic.yaml").read_text() == "mine: 1\n"


def test_a_wrong_selector_is_answered_with_the_nearest_names(past):
    _, _, url, metrics = past
    with pytest.raises(
        TooLittleData, match=r"no metrics of .*pod=\"vlm\".*, but of pod .*vllm.*--selector"
    ) as said:
        find_service(url, HOURS * 3600.0, until=ZERO + HOURS * 3600.0, selector='pod="vlm"')
    assert sum(pod in str(said.value) for pod in metrics["pod"].unique()) == min(5, metrics["pod"].nunique())
    with pytest.raises(TooLittleData, match=r"none with a label team"):
        find_service(url, HOURS * 3600.0, until=ZERO + HOURS * 3600.0, selector='team="chat"')


def test_where_scraping_ended_before_the_window_is_told_when(tmp_path):
    needs_prometheus()
    ended_s = time.time() - 3 * 86_400
    rows = [
        f'vllm:num_requests_running{{model_name="m",pod="a"}} 1 {ended_s - 15 * k:.3f}'
        for k in range(240, 0, -1)
    ]
    (tmp_path / "text").write_text("\n".join(["# TYPE vllm:num_requests_running gauge", *rows, "# EOF", ""]))
    month = time.strftime("%Y-%m", time.gmtime(ended_s - 3600))
    with backfill.prometheus(tmp_path / "text", tmp_path) as url, pytest.raises(TooLittleData) as told:
        find_service(url, 86_400.0)
    assert f"no vLLM metrics at present; the last ones, of m, are of {month}" in str(told.value)
