"""What simulations take is said before they begin, and settings that are compared have names of their own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from analysis.errors import BadInput
from autoscale.cli import fleet
from autoscale.cli.inputs import told_apart
from autoscale.profiles import load, overlay
from autoscale.recommend import cost, recommend, scenario_of
from autoscale.recommend.choice.settings import Behavior, Candidate
from autoscale.recommend.model.one_replica import idle_verdict
from autoscale.recommendation import read_recommendation
from loadgen.plan import lengths, rates

L4 = load("llama-3.1-8b-1xl4")
SETTING = Candidate((("waiting", 5),), Behavior(), 1, 4)


@pytest.mark.parametrize(
    ("rate_rps", "duration_s", "simulations", "said"),
    [
        pytest.param(1.0, 3600.0, 3, None, id="little"),
        # 1.5e6 requests of 10 us: 15 s each, three times
        pytest.param(1000.0, 1500.0, 3, "3 simulations of 1,500,000 requests: about 45 s", id="worth waiting for"),
    ],
)  # fmt: skip
def test_what_simulations_take_is_said_when_it_is_worth_it(
    small, rate_rps, duration_s, simulations, said
) -> None:
    scenario = small("1:60")
    plan = replace(scenario.plan, programme=rates.constant(rate_rps, duration_s))
    assert cost.check_cost(replace(scenario, plan=plan), 1, simulations) == said


def test_what_nobody_would_wait_for_is_refused_with_what_would_fit(small) -> None:
    scenario = small("1:60")
    much = replace(
        scenario, plan=replace(scenario.plan, programme=rates.constant(1e6, 600.0))
    )  # 6e8 requests: 6,000 s each
    with pytest.raises(
        BadInput, match=r"3 simulations of 600,000,000 requests over 600 s would take about 5 h; expected at most 30 min, which is about 6e\+07 requests, or 60 s of this traffic"
    ):  # fmt: skip
        cost.check_cost(much, 1, 3)
    with pytest.raises(BadInput, match="each of some hundred simulations"):
        cost.check_search(much)
    cost.check_search(scenario)


@pytest.mark.parametrize("peak", [0.0, -1.0, float("nan"), float("inf")])
def test_a_peak_that_is_none_is_refused(peak) -> None:
    with pytest.raises(BadInput, match="peak of the default traffic"):
        scenario_of(L4, peak_rps=peak)


def test_a_search_that_would_take_days_is_refused_before_it_begins(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"each of some hundred simulations of 10,0.* would take about"):
        recommend([], profile="llama-3.1-8b-1xl4", peak_rps=1e6, out=tmp_path)


def test_requests_that_are_too_long_are_said_and_a_model_too_short_for_all_is_infeasible(small) -> None:
    scenario = small("1:600")
    long = replace(scenario, plan=replace(scenario.plan, prompt=lengths.parse_lengths("uniform:7001,9000")))
    # max_model_len 8192: prompts of 8192 and more, 809 of the 2,000 lengths
    assert long.too_long() == pytest.approx(809 / 2000, abs=0.07)
    assert scenario.too_long() == 0
    short = replace(scenario, profile=overlay(scenario.profile, {"engine": {"max_model_len": 10}}))
    reason = idle_verdict(short)
    assert reason is not None
    assert reason.sentence.startswith("every request is longer than max_model_len 10")


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["hpa.yaml"], ["hpa.yaml"]),
        (["x/hpa.yaml", "x/other.yaml"], ["hpa.yaml", "other.yaml"]),
        (["a/hpa.yaml", "b/hpa.yaml", "b/new.yaml"], ["a/hpa.yaml", "b/hpa.yaml", "new.yaml"]),
        (["a/x/hpa.yaml", "b/x/hpa.yaml"], ["a/x/hpa.yaml", "b/x/hpa.yaml"]),
    ],
    ids=["one", "two names", "one name in two places", "one folder in two places"],
)
def test_files_are_named_by_the_end_of_their_path_that_tells_them_apart(tmp_path, paths, names) -> None:
    assert [name for name, _ in told_apart([tmp_path / path for path in paths])] == names


def test_one_file_twice_is_refused(tmp_path) -> None:
    paths = [tmp_path / "a" / "hpa.yaml", tmp_path / "a" / ".." / "a" / "hpa.yaml"]
    with pytest.raises(BadInput, match=r"an HPA is given twice: .*Name each file once"):
        list(told_apart(paths))


def test_equal_file_names_are_two_columns_and_notes_are_in_the_json(tmp_path, capsys) -> None:
    paths = []
    for folder, name in (("a", "vllm"), ("b", "chat-server")):
        manifest = SETTING.manifest(L4)
        manifest["spec"]["scaleTargetRef"]["name"] = name
        paths.append(tmp_path / folder / "hpa.yaml")
        paths[-1].parent.mkdir()
        paths[-1].write_text(yaml.safe_dump(manifest))
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        "".join(f'{{"timestamp": {k * 500}, "input_length": 9, "output_length": 5}}\n' for k in range(99))
    )
    out = tmp_path / "out"
    fleet.simulate(
        hpa=paths[0], profile=L4.name, traffic=trace, peak=None, compare=[paths[1]], static=None, slo=None, seeds=1,
        out=out, as_json=True, trace_time_unit="ms",
    )  # fmt: skip
    said = capsys.readouterr()
    content = json.loads(said.out)["settings"]
    assert list(content) == ["a/hpa.yaml", "b/hpa.yaml"]
    assert content["a/hpa.yaml"]["notes"] == []
    assert "scales Deployment/chat-server" in content["b/hpa.yaml"]["notes"][0]
    assert content["a/hpa.yaml"]["rejected_requests"] == 0
    assert "note: trace " in said.err
    assert "timestamps in ms (given)" in said.err
    assert "scales Deployment/chat-server" in said.err
    assert sorted(path.name for path in out.iterdir()) == ["a-hpa", "b-hpa"]


# --- recommendation.json ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"answer": "autoscale", "schema_version": 99}, "schema_version: 99; expected 1, which this version"),
        ({"answer": "autoscale"}, "schema_version; expected 1|schema_version"),
        ("[" * 100_000, "cannot read the recommendation"),
    ],
    ids=["a later version", "no version", "nested without end"],
)
def test_a_recommendation_of_another_form_is_refused(tmp_path: Path, content, sentence) -> None:
    file = tmp_path / "recommendation.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(BadInput, match=sentence):
        read_recommendation(file)
