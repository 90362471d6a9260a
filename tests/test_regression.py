"""A run against an earlier one: on recordings of one real server, contended and quiet."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis import run
from analysis.opened import open_run
from autoscale.cli import app
from autoscale.regression import Regression, RegressionRow, regression


@pytest.fixture(scope="module")
def contended(sweep_run):
    return sweep_run("sweep_A")


@pytest.fixture(scope="module")
def quiet(sweep_run):
    return sweep_run("sweep_D")


def of(found: Regression, plan: str, figure: str):
    return next(row for row in found.rows if (row.plan, row.figure) == (plan, figure))


def test_a_contended_server_is_worse_than_the_same_one_that_was_quiet(contended, quiet):
    found = regression(open_run(contended), open_run(quiet))
    assert found.change == "worse"
    assert not found.of("better")
    collapsed = of(found, "4/s", "ttft_p50")  # 48 ms below the knee, 5 s past the contended one's
    assert collapsed.now > 50 * collapsed.before
    assert collapsed.low > 1
    assert of(found, "1/s", "ttft_p95").why == "too few samples for p95: 49 of 59"


def test_the_other_way_round_it_is_better(contended, quiet):
    found = regression(open_run(quiet), open_run(contended))
    assert found.change == "better"
    assert not found.of("worse")


def rewritten(quiet, to, change):
    """The recording with other requests, as a run directory of its own."""
    shutil.copytree(quiet, to)
    (file,) = to.glob("requests*.parquet")
    change(pd.read_parquet(file)).to_parquet(file)
    return open_run(to)


@pytest.fixture(scope="module")
def halves(quiet, tmp_path_factory):
    """One recording dealt out in pieces of 5 s to two runs of the same stages: past the knee a later half is truly worse."""

    def half(late: bool):
        return lambda rows: rows[(rows["due_s"] // 5 % 2 == 1) == late]

    to = tmp_path_factory.mktemp("halves")
    return [rewritten(quiet, to / str(late), half(late)) for late in (False, True)]


def test_two_halves_of_every_stage_of_one_server_are_the_same_within_noise(halves):
    first, second = halves
    found = regression(second, first)
    assert not [
        (row.plan, row.figure, row.low, row.high) for row in (*found.of("worse"), *found.of("better"))
    ]
    assert found.change == "same"


def test_an_answer_slower_by_half_is_found_and_only_it(halves, quiet, tmp_path):
    def slower(rows):
        return rows.assign(
            last_token_s=rows["last_token_s"] + 0.5 * (rows["last_token_s"] - rows["first_token_s"])
        )

    found = regression(rewritten(halves[1].run.path, tmp_path / "slower", slower), halves[0])
    assert {row.figure for row in found.of("worse")} >= {"tpot_p50", "e2e_p50"}
    assert not {row.figure for row in found.of("worse")} & {"ttft_p50", "ttft_p95"}


def test_a_run_is_the_same_as_itself(quiet):
    found = regression(open_run(quiet), open_run(quiet))
    assert found.change == "same"
    assert all(row.low <= 0 <= row.high for row in found.of("same"))


def test_refused_requests_are_worse_though_the_others_are_no_slower(quiet, tmp_path):
    def refused(rows):
        return rows.assign(status=rows["status"].where(np.arange(len(rows)) % 4 > 0, "http_error"))

    found = regression(rewritten(quiet, tmp_path / "refused", refused), open_run(quiet))
    assert {row.figure for row in found.of("worse")} == {"requests that were answered"}


@pytest.mark.parametrize(
    ("zero_before", "zero_now", "why"),
    [
        pytest.param(1, None, "0 before", id="an answer in one piece has no time per token"),
        pytest.param(None, 1, "0 now", id="the answers of now come in one piece"),
        pytest.param(3, 3, "0 in part of the requests", id="a median that is 0 in some draws alone"),
    ],
)
def test_a_percentile_of_0_is_not_judged(quiet, tmp_path, zero_before, zero_now, why):
    def pieces(every):
        def change(rows):
            few = len(rows) * 0.49 if every == 3 else len(rows) * (every or 0)
            whole = np.random.default_rng(1).permutation(len(rows)) < few
            return rows.assign(last_token_s=rows["last_token_s"].where(~whole, rows["first_token_s"]))

        return change

    now, before = (
        rewritten(quiet, tmp_path / name, pieces(every))
        for name, every in (("now", zero_now), ("before", zero_before))
    )
    found = regression(now, before)
    assert why in {row.why for row in found.rows if row.figure == "tpot_p50"}
    assert found.change in ("same", "worse", "better")


def test_another_load_is_named(quiet, tmp_path):
    other = shutil.copytree(quiet, tmp_path / "other")
    header = run.read_header(other)
    run.update(
        other,
        lengths={**(header.get("lengths") or {}), "prompt_tokens": "fixed:9", "output_tokens": "fixed:9"},
    )
    run.update(quiet, lengths={"prompt_tokens": "uniform:48,96", "output_tokens": "uniform:96,160"})
    found = regression(open_run(other), open_run(quiet))
    assert found.other_load == ("lengths: uniform:48,96 and uniform:96,160 before, fixed:9 and fixed:9 now",)
    assert not found.no_worse


def test_the_verb_says_so_by_its_exit_code_its_json_and_its_page(contended, quiet, tmp_path):
    out = tmp_path / "compared.html"
    arguments = ["report", str(contended), "--compare", str(quiet), "--out", str(out)]
    told = CliRunner().invoke(app, [*arguments, "--json"])
    assert told.exit_code == 1
    found = json.loads(told.stdout)
    assert found["compared"]["verdict"] == "worse"
    assert found["stages"][0]["planned"] == "0.5/s"
    assert "Worse" in out.read_text()
    better = CliRunner().invoke(app, ["report", str(quiet), "--compare", str(contended), "--out", str(out)])
    assert better.exit_code == 0
    assert "Better, compared with" in better.stdout


@pytest.mark.parametrize(
    ("changes", "comes_to"),
    [
        pytest.param(("same", "same", "not judged"), "same", id="most could be judged"),
        pytest.param(("same", "not judged", "not judged"), "not judged", id="most could not"),
        pytest.param(("worse", "not judged", "not judged"), "worse", id="what was seen to be worse is"),
        pytest.param((), "not judged", id="nothing to compare"),
    ],
)
def test_what_few_figures_show_is_not_proven(changes, comes_to):
    rows = tuple(RegressionRow("4/s", "ttft_p95", 1.0, 1.0, -0.1, 0.1, change) for change in changes)
    assert Regression(rows).change == comes_to
