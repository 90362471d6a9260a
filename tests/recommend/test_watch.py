"""Whether a recommendation still holds: a sentence, an exit code, and metrics that Prometheus can read."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from analysis.errors import BadInput
from autoscale.profiles import load, overlay
from autoscale.recommend.choice.settings import Behavior, Candidate
from autoscale.recommend.drift import still_holds
from autoscale.recommend.schedule.patched import reactive
from autoscale.recommendation import AskedSlo, Drift, EngineModel, Recommendation, System, recommendation_text
from autoscale.schedule import EVERY_DAY, Scheduled, Window, minimum_changes
from autoscale.show.textfile import check_textfile, exposition, write_textfile
from autoscale.signal_target import SignalTarget
from autoscale.sim.engine.replicas import EngineParams

L4 = overlay(load("llama-3.1-8b-1xl4"), {"cold_start": {"node": {"median_s": 60, "p95_s": 60}}})
SLOW = EngineParams(
    base_s=4.0, per_sequence_s=0.0, per_kv_token_s=0.0, per_prefill_token_s=0.0, num_blocks=401, max_num_seqs=4,
    max_num_batched_tokens=2048,
)  # fmt: skip
CALM, BUSY = "0.05:7200", "0.05:1800,2:3600,0.05:1800"


def recommendation(answer="autoscale"):
    setting = Candidate((("running", 2.0),), Behavior(600), 1, 3)
    return Recommendation(
        answer,
        profile=L4.name,
        system=System(L4.name, L4.model.id, L4.accelerator.name, L4.model_dump(mode="json")),
        slo=AskedSlo("ttft_p95=60s", days_kept=0.9),
        metrics=(SignalTarget("running", "2", metric="m"),),
        min_replicas=1,
        hpa=setting.manifest(L4) if answer == "autoscale" else None,
        model_error=EngineModel("by hand", {name: getattr(SLOW, name) for name in SLOW.__dataclass_fields__}),
    )


def traffic(folder, stages):
    file = folder / "week.yaml"
    file.write_text(f"load: [{{stages: '{stages}'}}]\nprompt_tokens: fixed:50\noutput_tokens: fixed:10\n")
    return file


@pytest.mark.parametrize(
    ("stages", "holds", "words"), [(CALM, True, "still holds"), (BUSY, False, "does not hold any more")]
)
def test_one_line_says_whether_it_holds(tmp_path, stages, holds, words) -> None:
    scenario, found = still_holds(recommendation(), traffic(tmp_path, stages))
    assert found.holds is holds
    assert words in found.sentence
    assert scenario.plan.duration_s == 7200


def test_a_standing_fleet_is_held_to_its_traffic_too(tmp_path) -> None:
    _, found = still_holds(recommendation("do_not_autoscale"), traffic(tmp_path, CALM))
    assert found.holds
    assert found.accelerator_hours == pytest.approx(2.0)


@pytest.mark.parametrize("answer", ["infeasible", "need_more_data"])
def test_an_answer_without_a_setting_is_refused(tmp_path, answer) -> None:
    with pytest.raises(BadInput, match="nothing that could still hold"):
        still_holds(recommendation(answer), traffic(tmp_path, CALM))


def test_prometheus_reads_the_metrics_with_help_and_type() -> None:
    found = Drift(True, False, "", 0.998, float("nan"))
    text = exposition(Recommendation("autoscale", profile='a "b"'), found, 168.0, 1.7e9)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert "autoscale_target_accelerator_hours" not in families
    assert families["autoscale_target_holds"].samples[0].value == 1
    assert families["autoscale_target_confident"].samples[0].value == 0
    assert families["autoscale_target_attainment_ratio"].samples[0].labels == {"profile": 'a "b"'}
    assert all(family.type == "gauge" and family.documentation for family in families.values())


def test_the_file_is_there_whole_or_not_at_all(tmp_path) -> None:
    file = tmp_path / "autoscale.prom"
    file.write_text("old\n")
    write_textfile(file, "new\n")
    assert file.read_text() == "new\n"
    assert [path.name for path in tmp_path.iterdir()] == ["autoscale.prom"]


@pytest.mark.parametrize("name", ["autoscale.txt", "nowhere/autoscale.prom"])
def test_a_file_that_nobody_would_collect_is_refused(tmp_path, name) -> None:
    with pytest.raises(BadInput, match="--textfile"):
        check_textfile(tmp_path / name)


def test_the_verb_ends_with_one_where_it_does_not_hold(tmp_path) -> None:
    (tmp_path / "recommendation.json").write_text(recommendation_text(recommendation()))
    command = [sys.executable, "-m", "autoscale", "watch", "--recommendation", "recommendation.json"]
    command += ["--traffic", traffic(tmp_path, BUSY).name, "--textfile", "watch.prom", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["holds"] is False
    assert "autoscale_target_holds" in (tmp_path / "watch.prom").read_text()


def scheduled(windows):
    """The recommendation with a schedule beside a target so loose that it never asks for a second replica."""
    plain = recommendation()
    metric = plain.hpa["spec"]["metrics"][0]["pods"]["metric"]["name"]
    loose = SignalTarget("running", "400", metric=metric)
    return replace(plain, schedule=Scheduled(windows, 1, metrics=(loose,), max_replicas=3, recommended=True))


def test_a_schedule_is_judged_with_its_hours(tmp_path) -> None:
    """The busy hour of the traffic is too much for one replica, and others are started by the schedule alone."""
    file = traffic(tmp_path, "0.05:3600,0.14:3600,0.05:3600")
    for windows, holds in (
        ((Window(EVERY_DAY, 30, 120, 3),), True),
        ((Window(EVERY_DAY, 600, 660, 3),), False),
    ):
        _, found = still_holds(scheduled(windows), file)
        assert found.holds is holds
        assert "the old schedule (3 every day" in found.sentence
        assert "with target (running 400)" in found.sentence


def test_the_minimum_follows_the_clock_of_the_week() -> None:
    week = Scheduled((Window((0, 1, 2, 3, 4), 480, 1200, 3), Window((5, 6), 600, 1440, 2)), 1)
    friday, day_s = 4 * 86_400.0, 86_400.0
    hours = [(0, 3), (11, 1), (25, 2), (39, 1)]  # Fri 9:00, 20:00, Sat 10:00, Sun 0:00; Sun 9:00 is the end
    changes = minimum_changes(week.windows, week.otherwise, friday + 9 * 3600.0, 2 * day_s)
    assert changes == tuple((3600.0 * h, least) for h, least in hours)
    assert reactive(recommendation()) is None
