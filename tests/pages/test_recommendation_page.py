"""The page of a recommendation holds the answer, whatever it is, and every number of recommendation.json it shows."""

import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
import yaml

from analysis.capacity import analyse
from analysis.run import SIGNALS, read
from analysis.slo import parse_slo
from autoscale.cli import app
from autoscale.kube.scaling_signals import SCALING_SIGNALS
from autoscale.profiles import load, overlay
from autoscale.recommend import Recommended, scenario_of
from autoscale.recommend.answer import Alternative, Decision, Point, Robust, TargetInterval
from autoscale.recommend.choice.judging import Judged, Trial
from autoscale.recommend.choice.keda.scaled_object import Keda
from autoscale.recommend.choice.settings import Behavior, Candidate, Given, Standing
from autoscale.recommend.document import document
from autoscale.recommend.model.production import BASIS
from autoscale.recommend.model.replaying import FIGURES
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommendation import Drift, ModelledCapacity, Provenance, Reason, ReplicaCapacity
from autoscale.show.pages import recommendation_page
from autoscale.show.pages.next_commands import next_commands
from autoscale.show.words import horizon
from autoscale.sim.engine.gateway import InferenceGateway
from autoscale.sim.fleet.control import FleetOptions

SLO = "ttft_p95=2s,tpot_p95=100ms"
CHOSEN = Candidate((("waiting", 2.0), ("kv_usage", 0.34)), Behavior(1800), 1, 3)
CHEAPER = replace(CHOSEN, behavior=Behavior(600))
POINT = Point(4.0, 1.5, 20.0, 0.34, "ttft_p95")
KEPT = "simulations of 30 min that keep the SLO"  # of half an hour of traffic
HOSTILE = "<script>alert('x')</script>"


def trial(margin: float, hours: float, stopped: str = "") -> Trial:
    return Trial(
        margin=margin,
        attainment=min(1.0, 0.95 + margin),
        accelerator_hours=hours,
        replica_hours=hours,
        latencies=(("ttft_p95", 0.8), ("tpot_p95", 0.05)),
        wasted_scale_outs=0,
        flaps=0,
        longest_breach_s=180.0 if margin < 0.045 else 0.0,
        peak_replicas=2,
        kept=int(margin >= 0),
        periods=1,
        overrun=1 - margin / 0.05,
        stopped=stopped,
    )


def judged(setting, margins: list[float], hours: float, stopped: str = "") -> Judged:
    return Judged(setting, tuple(trial(m, hours + 0.1 * k, stopped) for k, m in enumerate(margins)))


DECISIONS = {
    "autoscale": Decision(
        "autoscale",
        (Reason("queue", f"the queue is the signal {HOSTILE}"),),
        POINT,
        chosen=judged(CHOSEN, [0.04, 0.0499, 0.05], 3.0),
        interval=TargetInterval({"waiting": (1.0, 5.0), "kv_usage": (0.3, 0.47)}),
        static=judged(Standing(3), [0.05, 0.05], 6.0),
        tutorial=judged(replace(CHOSEN, behavior=Behavior()), [math.nan, math.nan], 0.2, "breaches"),
        current=judged(Given({"kind": "HorizontalPodAutoscaler"}), [0.01, 0.02], 4.0),
        tried=(
            (CHOSEN, trial(0.04, 3.0)),
            (Candidate((("running", 40.0),), Behavior(), 1, 3), trial(-0.01, 2.5)),
            (CHEAPER, trial(0.03, 2.9)),
            (Candidate((("running", 80.0),), Behavior(), 1, 3), trial(-0.4, 0.3, "breaches")),
        ),
        alternatives=(Alternative("running", None, "no target of running alone keeps the SLO"),),
        robust=Robust(0.1, 0.2, 312.0, 6),
        guides={"KEDA guide": judged(replace(CHOSEN, min_replicas=2), [-0.2, 0.01], 5.0)},
        why_not={CHEAPER: "broke the SLO in 3 of 64 periods on seeds of its own"},
    ),
    "do_not_autoscale": Decision(
        "do_not_autoscale",
        (Reason("standing_is_cheaper", "2 standing replicas take less"),),
        POINT,
        chosen=judged(Standing(2), [0.05, 0.05], 4.0),
        static=judged(Standing(2), [0.05, 0.05], 4.0),
    ),
    "infeasible": Decision("infeasible", (Reason("slo_idle", "an idle replica misses ttft_p95"),), None),
    "need_more_data": Decision(
        "need_more_data", (Reason("model_error", "the replay misses running by 40%"),), None
    ),
}


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    """Half an hour of a steady rate: simulated in a moment."""
    traffic = tmp_path_factory.mktemp("traffic") / "steady.yaml"
    traffic.write_text(
        yaml.safe_dump(
            {
                "prompt_tokens": "uniform:100,400",
                "output_tokens": "uniform:16,48",
                "load": [{"constant": {"rate_rps": 3.0, "duration_s": 1800}}],
            }
        )
    )
    return scenario_of(load("llama-3.1-8b-1xl4"), traffic=traffic, slo=SLO)


@pytest.fixture(scope="module")
def measured(sweep_run):
    """A recorded sweep with its capacity."""
    found = read(sweep_run("sweep_D"))
    return found, analyse(found, parse_slo("ttft_p95=2s,e2e_p95=8s"))


def fitted(engine, capacity) -> ReplicaModel:
    """A model that is off by a tenth in every figure of the stages 0 and 3."""
    rows = [
        {
            "stage": stage,
            "figure": figure,
            "measured": 1.0 + stage,
            "modelled": 1.1 * (1 + stage),
            "error": 0.1,
            "run": 0,
        }
        for stage in (0, 3)
        for figure in FIGURES
        if figure != "waiting"
    ]
    rows.append(
        {"stage": 0, "figure": "waiting", "measured": np.nan, "modelled": 1.0, "error": np.nan, "run": 0}
    )
    intervals = {"base_s": (engine.base_s * 0.9, engine.base_s * 1.1)}
    return ReplicaModel(
        engine,
        intervals=intervals,
        confounded=(("base_s", "per_sequence_s"),),
        replay=pd.DataFrame(rows),
        stages_used=(0, 3),
        capacities=(replace(capacity, notes=("a note",), next_command="locust --stages 1:60"),),
    )


def recommendation(scenario, decision, *, run=None, files=(), drift=None) -> Recommended:
    found, capacity = run or (None, None)
    model = fitted(scenario.engine, capacity) if run else ReplicaModel(scenario.engine)
    made = document(
        scenario,
        decision,
        model,
        provenance=Provenance((str(found.path),) if found else (), scenario.profile.name),
    )
    made = replace(made, drift=drift)
    return Recommended(made, list(files), scenario, decision, model, (found,) if run else ())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            "autoscale",
            ["averageValue 2", "averageValue 340m", "(34%)", "interval 0.3 to 0.47", "maxReplicas 3"],
        ),
        ("do_not_autoscale", ["Do not autoscale", "2 standing replicas", "kubectl scale"]),
        ("infeasible", ["This SLO cannot be met", "an idle replica misses ttft_p95", "--slo"]),
        ("need_more_data", ["More data is needed", "the replay misses running by 40%", "autoscale collect"]),
    ],
)
def test_every_answer_has_its_page_without_a_run(answer, said, scenario, tmp_path, page):
    found = page(recommendation_page(recommendation(scenario, DECISIONS[answer]), tmp_path / "page.html"))
    for words in said:
        assert words in found.text
    assert "no load test was given" in found.text
    assert len(found.pictures) == {"autoscale": 2, "do_not_autoscale": 1}.get(answer, 0)


@pytest.mark.parametrize("signals", [("gateway_queue", "gateway_in_flight"), ("waiting",)])
def test_a_scaled_object_has_its_page_whatever_it_reads(signals, scenario, tmp_path, page):
    behind = replace(scenario, options=FleetOptions(gateway=InferenceGateway()))
    setting = replace(CHOSEN, targets=tuple((signal, 5.0) for signal in signals), keda=Keda(zero_after_s=300))
    decision = replace(
        DECISIONS["autoscale"],
        chosen=judged(setting, [0.04, 0.0499, 0.05], 3.0),
        interval=TargetInterval(dict.fromkeys(signals, (4.0, 6.0))),
        tried=((setting, trial(0.04, 3.0)),),
        alternatives=tuple(Alternative(signal, None, f"{signal} alone") for signal in SCALING_SIGNALS),
        why_not={},
    )
    found = page(recommendation_page(recommendation(behind, decision), tmp_path / "page.html"))
    for signal, known in SCALING_SIGNALS.items():
        assert f"{signal} alone" in found.text
        assert known.unit in found.text or signal in SIGNALS
    assert "ScaledObject" in found.text
    assert len(found.pictures) == 2


@pytest.fixture(scope="module")
def full(scenario, measured, tmp_path_factory, page):
    folder = tmp_path_factory.mktemp("page")
    result = recommendation(
        scenario,
        DECISIONS["autoscale"],
        run=measured,
        files=[folder / "recommendation.json", folder / "hpa.yaml"],
        drift=Drift(False, sentence="the old target does not hold any more"),
    )
    return result, page(recommendation_page(result, folder / "page.html"))


def test_with_a_run_the_page_shows_five_figures_and_where_the_number_comes_from(full):
    _, found = full
    assert len(found.pictures) == 5  # what would happen, Pareto, capacity, signals, replay
    for words in (
        "a note",
        "locust --stages 1:60",
        "cannot tell base_s from per_sequence_s",
        "the old target",
    ):
        assert words in found.text
    errors = dict(row for row in found.table("replay error")[1:])
    assert errors["TTFT p95 (s)"] == "10.0%"
    assert errors["waiting (requests)"] == "–"  # never measured is not zero


def test_the_manifest_can_be_copied_from_the_page(full):
    result, found = full
    (manifest,) = (yaml.safe_load(b) for b in found.blocks if "autoscaling/v2" in b)
    assert manifest == result.document.hpa


def test_the_comparison_holds_the_numbers_of_the_document(full):
    result, found = full
    table = found.table("recommended waiting 2, kv_usage 340m, 1\N{NON-BREAKING HYPHEN}3, down 30 min")
    assert [cell.split(" ")[0] for cell in table[0][1:]] == [
        "recommended",
        "standing",
        "tutorial",
        "KEDA",
        "current",
    ]
    assert table[1] == ["SLO", "kept", "kept", "broken", "broken", "kept"]
    figures = {row[0]: row[1:] for row in table}
    # hours 3.0, 3.1, 3.2: mean 3.1, t(0.975, 2) 4.303 * 0.1 / sqrt(3) = 0.248
    assert figures["accelerator-hours"][0] == "3.1 2.9 to 3.4"
    assert result.document.predicted.slo_attainment.high <= 1
    stopped = {row[2] for name, row in figures.items() if name not in ("", KEPT)}
    assert stopped == {"–", "broken"}
    assert figures[KEPT][2].startswith("0.0%")  # a repetition that was stopped is not kept
    assert figures["longest time over the SLO, at worst"][0] == "3 min"
    assert "every simulation was stopped once the SLO could not be kept" in found.text


@pytest.mark.parametrize(
    ("behavior", "said"),
    [
        (Behavior(1800), "up: at once"),
        (Behavior(300, up_window_s=60), "up: after 60 s above"),
    ],
)
def test_the_pace_is_told_in_words(behavior, said, scenario, tmp_path, page):
    decision = replace(
        DECISIONS["autoscale"], chosen=judged(replace(CHOSEN, behavior=behavior), [0.04, 0.05], 3.0)
    )
    found = page(recommendation_page(recommendation(scenario, decision), tmp_path / "page.html"))
    assert said in found.text


def test_one_setting_in_two_roles_is_one_column(scenario, tmp_path, page):
    found = page(
        recommendation_page(recommendation(scenario, DECISIONS["do_not_autoscale"]), tmp_path / "p.html")
    )
    assert found.table("recommended 2 standing replicas")[0][1:] == ["recommended 2 standing replicas"]


def test_a_stopped_setting_shows_no_figures_that_it_did_not_reach(full):
    _, found = full
    rows = {row[0]: row[1:] for row in found.table("margin (points)")}
    assert rows["running 80, 1\N{NON-BREAKING HYPHEN}3, default"] == ["–", "–", "stopped: breaches"]
    assert rows["running 40, 1\N{NON-BREAKING HYPHEN}3, default"] == ["2.5", "-1.00", "breaks"]
    assert "1 of 4 were stopped early" in found.text


def test_what_held_for_less_is_listed_with_why_it_is_not_chosen(full):
    _, found = full
    rows = {row[0]: row[1:] for row in found.table("margin (points)")}
    assert list(rows)[1] == CHOSEN.label.replace("-", "\N{NON-BREAKING HYPHEN}")
    why = rows["waiting 2, kv_usage 340m, 1\N{NON-BREAKING HYPHEN}3, down 10 min"][-1]
    assert why == "held in the search; broke the SLO in 3 of 64 periods on seeds of its own"


def test_the_answer_says_how_far_things_may_move(full):
    _, found = full
    assert "Robust to +10% traffic, to a start of 5 min" in found.text


def test_reasons_cannot_become_markup(full):
    _, found = full
    assert HOSTILE in found.text


def test_what_nobody_measured_is_named(scenario, tmp_path, page):
    profile = overlay(scenario.profile, {"predictions": ["the cold start of 10 min"]})
    result = recommendation(replace(scenario, profile=profile), DECISIONS["infeasible"])
    found = page(recommendation_page(result, tmp_path / "page.html"))
    assert "the cold start of 10 min" in found.text.split("What was not measured")[1]


@pytest.mark.parametrize("answer", DECISIONS)
def test_every_command_of_the_page_is_one_that_the_tool_understands(answer, scenario, tmp_path, page):
    (tmp_path / "recommendation.json").write_text("{}")
    files = [tmp_path / "recommendation.json", tmp_path / "hpa.yaml"] if answer == "autoscale" else []
    result = recommendation(scenario, DECISIONS[answer], files=files)
    found = page(recommendation_page(result, tmp_path / "page.html"))
    commands = [b for b in found.blocks if b.startswith("autoscale ")]
    assert commands
    group = typer.main.get_command(app)
    for command in commands:
        _, verb, *arguments = shlex.split(re.sub(r"\bN\b", "9", command))
        group.commands[verb].make_context(verb, arguments)


def test_the_same_recommendation_gives_the_same_page(scenario, tmp_path):
    pages = [
        recommendation_page(recommendation(scenario, DECISIONS["autoscale"]), tmp_path / f"{k}.html")
        for k in (1, 2)
    ]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_terms_that_ask_different_shares_are_drawn_as_margins(scenario, tmp_path, page):
    mixed = replace(scenario, slo=parse_slo("ttft_p95=2s,tpot_p99=100ms"))
    result = recommendation(mixed, DECISIONS["autoscale"])
    assert page(recommendation_page(result, tmp_path / "page.html")).pictures


def test_the_page_is_written_where_it_was_asked_for(scenario, tmp_path):
    target = Path(tmp_path / "new" / "report.html")
    assert recommendation_page(recommendation(scenario, DECISIONS["infeasible"]), target) == target
    assert [p.name for p in target.parent.iterdir()] == ["report.html"]


def test_a_figure_of_several_days_is_said_to_be_of_one(scenario) -> None:
    made = recommendation(scenario, DECISIONS["do_not_autoscale"]).document
    assert horizon(made) == "0.5 h of traffic"
    fortnight = replace(made, traffic={**made.traffic, "duration_s": 86_400.0, "days": 14})
    assert horizon(fortnight) == "24.0 h, a mean one of the traffic's 14 days"


def test_of_production_the_page_says_what_was_measured_and_what_was_noticed(scenario, tmp_path) -> None:
    made = recommendation(scenario, DECISIONS["autoscale"])
    modelled = ModelledCapacity(4.0, 3.6, 4.5, waiting=1.5, running=20.0, kv_usage=0.34)
    noted = replace(
        made.document,
        capacity_rps=ReplicaCapacity(None, modelled),
        notes=("99.9% of 958 past syncs of the HPA are reproduced",),
    )
    learned = replace(made, document=noted, model=replace(made.model, basis=BASIS))
    text = recommendation_page(learned, tmp_path / "page.html").read_text()
    assert "modelled, by what production measured; 95%: 3.6 to 4.5" in text
    assert "Production, as its Prometheus tells it" in text
    assert noted.notes[0] in text
    assert "nothing was measured" not in text
    assert "the profile's prior" not in text
    watch = dict(next_commands(learned))["every week: does it still hold?"]
    assert watch == "autoscale watch --recommendation recommendation.json --prometheus URL"
