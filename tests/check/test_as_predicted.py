"""`check --expect` on fleets that do as a recommendation predicts, and on fleets that do not: every one is told apart, by name.

The recommendation is what `recommend` wrote of a simulated sweep; the fleets are those of benchmarks/as_predicted.py.
"""

import json
import re
import shutil
from dataclasses import replace

import pytest
import yaml

from analysis.errors import BadInput
from analysis.files import read_json
from autoscale import check_command, deploy
from autoscale.profiles import from_content, load
from autoscale.recommend.choice import seeds
from autoscale.recommendation import read_recommendation, refuse_other
from autoscale.show.terminal.check import check_lines
from autoscale.show.terminal.recommendation import recommendation_lines
from benchmarks import as_predicted
from benchmarks.as_predicted import CASES, judged


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """recommendation.json of the product, over as few seeds as show the promise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "CHOOSING", replace(seeds.CHOOSING, panel_most=1, neighbour_seeds=(2, 2)))
        return as_predicted.recommended(tmp_path_factory.mktemp("recommended"))


@pytest.fixture(scope="module")
def checks(written, tmp_path_factory):
    """Every fleet, judged once."""
    made = {}

    def make(case):
        if case.name not in made:
            made[case.name] = judged(case, written, tmp_path_factory.mktemp("check"))
        return made[case.name]

    return make


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fleet_that_does_as_predicted_passes_and_any_other_is_named(checks, case):
    result = checks(case).result
    failed = {criterion.code for criterion in result.judgement.of("fail")}
    if case.named:
        assert (result.verdict, case.named in failed) == ("NOT PASSED", True), failed
    else:
        assert (result.verdict, failed) == ("PASSED", set()), result.judgement.criteria
        assert not result.judgement.of("not_judged")


def test_what_a_recommendation_predicts_is_an_interval_that_holds_its_value(written):
    predicted = read_recommendation(written).predicted
    for figure in (
        predicted.peak_replicas,
        predicted.ready_s,
        predicted.recovery_s,
        predicted.slo_attainment,
    ):
        assert figure.low <= figure.value <= figure.high
    start_s = load(as_predicted.PROFILE)
    assert start_s.name == read_recommendation(written).system.profile
    assert predicted.ready_s.low > 150, "a node alone takes 90 s and an image 60 s"


def test_the_verdict_of_a_replay_stands_beside_the_first(checks):
    result = checks(CASES[0]).result
    first = (result.run_dir / "check.json").read_text()
    nothing = dict.fromkeys(("fleet", "hpa", "context", "load", "scale_to", "out", "expect"))
    again = check_command.run_check(**nothing, namespace="", timeout_s=1, replay_dir=result.run_dir)
    assert again.files[0].name == "check-2.json"
    assert (result.run_dir / "check.json").read_text() == first
    told = {c.code: c.outcome for c in again.result.judgement.criteria}
    assert told["slo_recovered"] == "pass", "the load that the evidence notes is read again"
    assert told["scaled_to_prediction"] == "not_asked"


def test_without_the_load_nothing_is_proven_and_what_would_prove_it_is_said(checks, written, tmp_path):
    source = checks(CASES[0]).result.run_dir
    folder = shutil.copytree(source, tmp_path / "check", ignore=shutil.ignore_patterns("load", "check*"))
    header = read_json(folder / "run.json", "run header")
    header["check"]["load"] = None
    (folder / "run.json").write_text(json.dumps(header))
    nothing = dict.fromkeys(("fleet", "hpa", "context", "load", "scale_to", "out"))
    checked = check_command.run_check(**nothing, namespace="", timeout_s=1, replay_dir=folder, expect=written)
    assert (checked.result.verdict, checked.passed) == ("NOT PROVEN", False)
    open_ = {criterion.code for criterion in checked.result.judgement.of("not_judged")}
    assert {"requests_in_bounds", "slo_recovered", "scaled_to_prediction"} <= open_
    assert "to prove it: send the load with --load" in shown(check_lines(checked.result))


def test_a_recommendation_of_another_system_is_refused_with_both_names(checks, written):
    recommendation = read_recommendation(written)
    other = load("llama-3.1-70b-v6e8")
    both = r"another profile: 'llama-3.1-8b-1xl4'; expected llama-3.1-70b-v6e8"
    with pytest.raises(BadInput, match=both):
        deploy.write_set(other, recommendation)
    nothing = dict.fromkeys(("fleet", "hpa", "context", "load", "scale_to", "out"))
    with pytest.raises(BadInput, match=both):
        check_command.run_check(
            **nothing,
            namespace="",
            timeout_s=1,
            replay_dir=checks(CASES[0]).result.run_dir,
            expect=written,
            profile=other.name,
        )
    own = recommendation.system
    with pytest.raises(BadInput, match=f"another model: '{re.escape(own.model)}'; expected Qwen/Qwen2.5-7B"):
        refuse_other(recommendation, profile=own.profile, model="Qwen/Qwen2.5-7B")
    with pytest.raises(BadInput, match="another accelerator: 'l4-24gb'; expected h100-80gb"):
        refuse_other(recommendation, profile=own.profile, model=own.model, accelerator="h100-80gb")


def test_a_set_of_another_model_is_not_linted_as_this_ones(written, tmp_path):
    from autoscale.lint.linter import lint_files

    recommendation = read_recommendation(written)
    profile = from_content(recommendation.system.content, "system")
    for served, errors in ((profile, 0), (load("llama-3.1-70b-v6e8"), 1)):
        folder = tmp_path / served.name
        deploy.write_files(deploy.write_set(served), folder)
        found = lint_files([folder], measured=recommendation.served()).findings
        told = [one.problem for one in found if one.code == "of-another-system"]
        assert len(told) == errors, told
        assert all(name in problem for problem in told for name in (served.model.id, profile.model.id))


def shown(lines) -> str:
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=400)
    console.print(*lines, sep="\n")
    return console.file.getvalue()


def test_every_surface_of_a_recommendation_tells_the_same_numbers(checks, written):
    """Terminal, JSON, page, manifest and the check that it is held to."""
    recommendation = read_recommendation(written)
    content = json.loads(written.read_text())
    (target,) = recommendation.metrics
    result = checks(CASES[0]).result
    terminal = shown(recommendation_lines(recommendation))
    profile = from_content(recommendation.system.content, "system")
    manifest = dict(deploy.write_set(profile, recommendation))["hpa.yaml"]
    hpa = yaml.safe_load(manifest)["spec"]
    held_to = result.judgement.expect
    assert hpa["metrics"][0]["pods"]["target"]["averageValue"] == target.quantity
    assert content["hpa"]["spec"]["metrics"][0]["pods"]["target"]["averageValue"] == target.quantity
    assert f"averageValue {target.quantity}" in terminal
    bounds = (content["minReplicas"], content["maxReplicas"])
    for said in (
        (hpa["minReplicas"], hpa["maxReplicas"]),
        (held_to.min_replicas, held_to.max_replicas),
        (held_to.hpa["spec"]["minReplicas"], held_to.hpa["spec"]["maxReplicas"]),
    ):
        assert said == bounds
    assert held_to.hpa == content["hpa"]
    kept = f"{recommendation.predicted.slo_attainment.value:.2%}"
    assert kept in terminal
    assert kept in manifest
    answer = json.loads((result.run_dir / "check.json").read_text())
    page = (result.run_dir / "check.html").read_text()
    said = shown(check_lines(result))
    for criterion in answer["criteria"]:
        if criterion["outcome"] != "not_asked":
            assert criterion["sentence"] in said
        assert criterion["sentence"].replace("'", "&#39;").replace(">", "&gt;") in page
    assert answer["verdict"] in page
    assert answer["verdict"] in said


def test_a_load_generator_that_was_the_limit_proves_nothing_against_the_server(checks, written, tmp_path):
    """The verdict that a load's run holds of itself: what its clients saw late is not held against the fleet."""
    (slow,) = (case for case in CASES if case.named == "requests_in_bounds")
    folder = shutil.copytree(checks(slow).result.run_dir, tmp_path / "check")
    header = read_json(folder / "load" / "run.json", "run header")
    (folder / "load" / "run.json").write_text(json.dumps(header | {"client": {"verdict": "limited"}}))
    nothing = dict.fromkeys(("fleet", "hpa", "context", "scale_to", "out"))
    checked = check_command.run_check(
        **nothing,
        namespace="",
        timeout_s=1,
        replay_dir=folder,
        expect=written,
        load=str(folder / "load"),
    )
    failed = {criterion.code for criterion in checked.result.judgement.of("fail")}
    assert failed <= {"scaled_to_prediction"}  # slower replicas: more of them, which no client tells
    assert checked.result.verdict == ("NOT PASSED" if failed else "NOT PROVEN")
    open_ = {criterion.code: criterion for criterion in checked.result.judgement.of("not_judged")}
    assert "load generator was the limit" in open_["requests_in_bounds"].sentence
