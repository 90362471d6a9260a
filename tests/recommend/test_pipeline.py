"""From recorded sweeps of a real server to a recommendation, and what is said when that cannot be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis import run as runs
from analysis.errors import BadInput, TooLittleData
from autoscale.recommend import recommend, scenario_of
from autoscale.recommend.choice import seeds
from autoscale.recommend.drift import drift
from autoscale.recommend.effort import CHOOSING
from autoscale.recommendation import read_recommendation

TRAFFIC = """
load:
  - stages: 3:600,9:900,3:600
prompt_tokens: uniform:48,96
output_tokens: uniform:96,160
"""
QUICK_START = "cold_start: {node: 0, image: 10, engine_init: 20, weights_rate_bytes_s: 1.0e+9}"


@pytest.fixture(scope="module")
def recommended(sweep_run, tmp_path_factory):
    """Factory: what is recommended from a sweep under a small peak; asked once per sweep."""
    made = {}

    def make(name: str):
        if name not in made:
            folder = tmp_path_factory.mktemp("recommend")
            (folder / "load.yaml").write_text(TRAFFIC)
            (folder / "measured.yaml").write_text(QUICK_START)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    seeds, "CHOOSING", CHOOSING
                )  # the users' search: few seeds find what breaks on others
                made[name] = recommend(
                    [sweep_run(name)],
                    traffic=folder / "load.yaml",
                    measured=folder / "measured.yaml",
                    slo="ttft_p95=3s",
                    jobs=1,
                )
        return made[name]

    return make


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        pytest.param("sweep_D", 4.1, 4.9, id="clean: 4.5 requests/s"),
        pytest.param("sweep_A", 2.4, 3.4, id="contended: between 2.7 and 3.3"),
    ],
)
def test_a_sweep_gives_a_knee_and_every_signals_best_with_a_reason(recommended, name, low, high) -> None:
    content = recommended(name).document
    knee = content.capacity_rps.measured.knee
    assert low <= knee.value <= high
    assert content.answer in ("autoscale", "do_not_autoscale")
    assert set(content.alternatives) == {"waiting", "running", "kv_usage"}
    for one in content.alternatives.values():
        assert one.quantity is not None
        assert one.holds or f"{one.slo_attainment:.2%}" in one.sentence
    chosen = [a for a in content.alternatives.values() if a.sentence.startswith("chosen")]
    assert len(chosen) <= 1


def test_the_stage_that_the_client_limited_is_named(recommended) -> None:
    content = recommended("sweep_A").document
    assert any(note.startswith("the 1 req/s step was limited by the client") for note in content.notes)
    assert any(reason.code == "run" and "client" in reason.sentence for reason in content.reasons)


def test_what_is_written_is_read_again(recommended) -> None:
    made = recommended("sweep_D")
    assert read_recommendation(made.files[0]).as_json() == made.document.as_json()
    if made.document.hpa:
        assert yaml.safe_load(made.files[1].read_text()) == made.document.hpa


def test_an_old_target_is_held_against_what_is_known_now(recommended) -> None:
    """A queue of 60 per replica at 4.5 requests/s is 13 s of waiting: it does not keep 3 s."""
    made = recommended("sweep_D")
    assert made.document.hpa, "the clean sweep is worth scaling"
    same = drift(made.scenario, made.document, made.decision)
    assert same.holds is True
    assert same.accelerator_hours == pytest.approx(made.decision.chosen.cost, rel=0.1)
    spec = {**made.document.hpa["spec"], "minReplicas": 1, "maxReplicas": 2}
    old = replace(made.document, hpa={**made.document.hpa, "spec": spec})
    worse = drift(made.scenario, old, made.decision)
    assert worse.holds is False
    assert "does not hold any more" in worse.sentence


def edited(path: Path, table: str, change) -> Path:
    """The run with one of its tables changed."""
    file = path / f"{table}.parquet"
    change(pd.read_parquet(file)).to_parquet(file)
    return path


def late_clock(metrics: pd.DataFrame) -> pd.DataFrame:
    return metrics.assign(time_s=metrics["time_s"] + 300)


def gaps(metrics: pd.DataFrame) -> pd.DataFrame:
    drop = np.random.default_rng(1).random(len(metrics)) < 0.3
    gauges = ["waiting", "running", "kv_usage"]
    return metrics.assign(**{name: metrics[name].mask(drop) for name in gauges})


@pytest.mark.parametrize(
    ("change", "note"),
    [
        pytest.param(late_clock, "300 s ahead", id="clocks five minutes apart: found, said and undone"),
        pytest.param(gaps, None, id="a third of the gauges missing"),
    ],
)
def test_the_model_is_the_same_on_crooked_metrics(sweep_run, tmp_path, change, note) -> None:
    """Only the model and the notes are looked at: the SLO cannot be kept, so nothing is searched."""
    path = edited(sweep_run("sweep_D"), "metrics", change)
    (tmp_path / "load.yaml").write_text(TRAFFIC)
    found = recommend([path], traffic=tmp_path / "load.yaml", slo="tpot_p95=1ms", jobs=1)
    assert found.document.answer == "infeasible"
    assert [r.code for r in found.document.reasons][:1] == ["slo_idle"]
    errors = found.model.median_error()
    assert errors["tpot_p50_s"] < 0.1
    assert errors["running"] < 0.12
    assert note is None or any(note in text for text in found.document.notes)


def only(path: Path, *stages: int) -> Path:
    """The run with these stages of its plan only, and the scrapes of their time."""
    kept = [s for s in runs.read_header(path)["stages"] if s["stage"] in stages]
    runs.update(path, stages=kept, load={"stages": kept})
    edited(path, "requests", lambda rows: rows[rows["stage"].isin(stages)])
    spans = [(s["start_s"], s["end_s"] + 8) for s in kept]
    return edited(path, "metrics", lambda m: m[np.any([m["time_s"].between(a, b) for a, b in spans], axis=0)])


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        pytest.param((2,), "the only usable stage was steady", id="one stage, below the knee"),
        pytest.param((6,), "the only usable stage was queued", id="one stage, all stages queued"),
        pytest.param((0, 1, 2, 3), "all 4 usable stages were steady", id="no stage queued"),
    ],
)
def test_a_run_on_one_side_of_the_knee_says_what_rests_on_the_model(
    sweep_run, tmp_path, stages, sentence
) -> None:
    """The SLO cannot be kept, so nothing is searched; the reason stands beside every answer."""
    (tmp_path / "load.yaml").write_text(TRAFFIC)
    path = only(sweep_run("sweep_D"), *stages)
    content = recommend([path], traffic=tmp_path / "load.yaml", slo="tpot_p95=1ms", jobs=1).document
    last = content.reasons[-1]
    assert last.code in ("one_sided", "measure_again")
    assert "autoscale load" in last.sentence
    assert last.code == "measure_again" or sentence in last.sentence


def test_stages_from_the_one_on_in_which_replicas_changed_are_left_out(sweep_run, tmp_path) -> None:
    """A second replica is ready after 300 s, in the last stage: the others are of one replica and stay."""
    path = sweep_run("sweep_D")
    counts = {
        "time_s": [0.0, 330.0],
        **{key: [1.0, 2.0] for key in ("desired", "created", "scheduled", "ready")},
    }
    runs.write_table(path, "replicas", counts)
    (tmp_path / "load.yaml").write_text(TRAFFIC)
    found = recommend([path], traffic=tmp_path / "load.yaml", slo="tpot_p95=1ms", jobs=1)
    assert any("replicas changed between 1 and 2" in note for note in found.document.notes)
    assert found.model.stages_used == (0, 1, 2, 3, 4, 5)


def test_metrics_of_another_model_ask_for_more_data_with_a_command(sweep_run, tmp_path) -> None:
    """Twice the requests that the client has in flight: the model cannot reproduce the gauges, and says why."""
    path = edited(sweep_run("sweep_D"), "metrics", lambda m: m.assign(running=2.2 * m["running"]))
    (tmp_path / "load.yaml").write_text(TRAFFIC)
    content = recommend([path], traffic=tmp_path / "load.yaml", jobs=1).document
    assert content.answer == "need_more_data"
    codes = [reason.code for reason in content.reasons]
    assert "model_error" in codes
    command = next(r.sentence for r in content.reasons if r.code == "measure_again")
    assert "autoscale load" in command
    assert "--stages" in command


def test_two_replicas_all_along_ask_for_one(sweep_run) -> None:
    def halved(metrics: pd.DataFrame) -> pd.DataFrame:
        half = metrics.assign(running=metrics["running"] / 2, waiting=metrics["waiting"] / 2)
        return pd.concat([half, half.assign(pod="second")]).sort_values("time_s", ignore_index=True)

    path = edited(sweep_run("sweep_D"), "metrics", halved)
    with pytest.raises(TooLittleData, match=r"several replicas: 2.*Scale the deployment to one replica"):
        recommend([path], jobs=1)


@pytest.mark.parametrize("name", ["sweep_D"])
def test_a_run_without_completed_requests_says_what_failed(sweep_run, name) -> None:
    path = edited(
        sweep_run(name), "requests", lambda r: r.assign(status="http_error", error="503 no healthy upstream")
    )
    with pytest.raises(TooLittleData, match="503 no healthy upstream"):
        recommend([path], jobs=1)
    assert runs.read(path).has("metrics")


def test_when_the_client_limited_what_was_measured_that_is_said(sweep_run) -> None:
    """Nothing left but a few requests of the other stages: the cause is the load generator, not short stages."""
    path = only(sweep_run("sweep_D"), 0, 1)
    late = {"stage": 0, "verdict": "limited", "reasons": [{"sentence": "send lag p99 80 ms"}]}
    runs.update(path, client={"verdict": "limited", "stages": [late]})
    edited(path, "requests", lambda r: pd.concat([r[r["stage"] == 0], r[r["stage"] == 1].iloc[::4]]))
    with pytest.raises(
        TooLittleData, match=r"1 of 2 stages were set aside .*send lag p99 80 ms.*--processes"
    ):
        recommend([path], jobs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"attainment": 1.0}, "a share between 0 and 1", id="all requests"),
        pytest.param({"traffic": Path("none.yaml")}, "no such traffic file", id="no such file"),
        pytest.param({"traffic": Path("a"), "peak_rps": 3.0}, "exclude each other", id="traffic and peak"),
    ],
)
def test_options_that_cannot_be_are_refused(small, options, message) -> None:
    with pytest.raises(BadInput, match=message):
        scenario_of(small("1:60").profile, **options)
