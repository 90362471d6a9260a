"""The page of a run says what was measured, and of an incomplete run what is missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis import run
from analysis.errors import BadInput
from analysis.opened import open_run
from autoscale.show.pages import run_page
from autoscale.show.words import span


@pytest.fixture(scope="module")
def sweep_d(sweep_run):
    return sweep_run("sweep_D")


def requests(count: int, status: str = "ok") -> dict[str, list]:
    due = [0.1 * k for k in range(count)]
    good = status == "ok"
    return {
        "request_id": list(range(count)),
        "stage": [0] * count,
        "due_s": due,
        "sent_s": due,
        "first_token_s": [t + 0.2 if good else np.nan for t in due],
        "last_token_s": [t + 1.2 if good else np.nan for t in due],
        "output_tokens": [11] * count,
        "status": [status] * count,
        "error": [None if good else "<b>connection refused</b>"] * count,
    }


def make(path: Path, *, ended: bool = True, **header) -> Path:
    run.create(path, {"kind": "live", "started_at": 1_700_000_000.0, **header})
    if ended:
        run.update(path, ended_at=1_700_000_060.0)
    return path


def test_the_page_of_a_sweep_holds_its_figures(sweep_d, tmp_path, page):
    found = page(run_page(open_run(sweep_d), None, tmp_path / "page.html"))
    rows = run.read(sweep_d).requests
    stage = rows[rows["stage"] == 3]
    (planned,) = (s for s in run.read_header(sweep_d)["stages"] if s["stage"] == 3)
    length_s = planned["end_s"] - planned["start_s"]
    done = rows["last_token_s"].between(planned["start_s"], planned["end_s"]).sum()
    line = next(row for row in found.table("planned") if row[0] == "3")
    assert line == [
        "3",
        "3.5/s",
        f"{len(stage) / length_s:.2f}",
        f"{done / length_s:.2f}",
        str(len(stage)),
        "0",
        "0",
        "steady, 147 requests after 5 s of warm-up",
    ]
    # nearest rank: the smallest sample with at least half of all at or below it
    ttft = np.sort(rows["first_token_s"] - rows["due_s"])
    median_ms = 1e3 * ttft[int(np.ceil(len(ttft) / 2)) - 1]
    ttft_table = next(t for t in found.tables if "p50" in t[0])
    assert ttft_table[-1][:2] == ["all", f"{median_ms:.0f} ms"]
    assert ttft_table[-1][-1] == f"{len(rows):,}"
    assert ttft_table[1][2:4] == ["too few", "too few"]  # 49 requests say nothing of p95
    assert len(found.pictures) == 4
    assert "The client kept to the plan" in found.text
    assert "4.54 requests/s (" in found.text
    assert found.text.index("the knee of one replica") < found.text.index(
        "Stage by stage"
    )  # the answer first


def test_the_percentiles_of_the_slo_stand_in_the_stages_and_its_latency_in_one_picture(
    sweep_d, tmp_path, page
):
    path = tmp_path / "run"
    shutil.copytree(sweep_d, path)
    run.update(path, slo="ttft_p50=1s,tpot_p50=100ms")
    seen = open_run(path)
    found = page(run_page(seen, None, tmp_path / "page.html"))
    head, *rows = found.table("planned")
    assert head[7:9] == ["TTFT p50", "TPOT p50"]
    for row in rows:
        value_s = seen.percentile("ttft", 50, int(row[0])).value
        assert row[7] == span(value_s)
    assert "One replica holds the SLO up to" in found.text.split("Stage by stage")[0]
    assert len(found.pictures) == 3  # no second picture of TTFT and TPOT over time


def test_goodput_that_binds_is_called_goodput(sweep_d, tmp_path, page):
    path = tmp_path / "run"
    shutil.copytree(sweep_d, path)
    run.update(path, slo="ttft=2s,goodput=95%")
    seen = open_run(path)
    assert seen.slo is not None, "an SLO with goodput"
    text = page(run_page(seen, None, tmp_path / "page.html")).text
    assert "GOODPUT" not in text


def test_the_client_limited_stage_is_named(sweep_run, tmp_path, page):
    found = page(run_page(open_run(sweep_run("sweep_A")), None, tmp_path / "page.html"))
    assert "The client limited this run" in found.text
    assert "stage 1: 5 % of the sends were" in found.text


def only_a_header(path):
    return make(path)


def interrupted(path):
    run.write_table(make(path, ended=False), "requests", requests(40), part="w.0")
    return path


def all_failed(path):
    run.write_table(make(path), "requests", requests(40, "connection_error"))
    return path


def dropped_unsent(path):
    columns = requests(3, "dropped") | {"sent_s": [np.nan] * 3}
    run.write_table(make(path), "requests", columns)
    return path


def empty_tables(path):
    make(path)
    run.write_table(path, "requests", {})
    run.write_table(path, "metrics", {})
    return path


def watched_only(path):
    make(path, command="check", check={"hpa": "vllm-hpa"})
    run.write_table(path, "replicas", {"time_s": [0.0, 20.0], "desired": [1.0, 2.0], "ready": [1.0, 1.0]})
    run.append_event(path, 20.0, "decision", "1 -> 2 replicas")
    return path


def unreadable_slo(path):
    run.write_table(make(path, slo="fast"), "requests", requests(40))
    return path


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            only_a_header,
            ["requests.parquet is missing", "metrics.parquet is missing", "No request was recorded"],
        ),
        (interrupted, ["the run was interrupted", "not ended", "metrics were not collected"]),
        (all_failed, ["none of 40 requests completed", "connection_error", "<b>connection refused</b>"]),
        (dropped_unsent, ["100.0% of the planned requests were never sent", "dropped"]),
        (empty_tables, ["requests.parquet is empty", "metrics.parquet is empty"]),
        (watched_only, ["HPA watched", "vllm-hpa", "1 -> 2 replicas", "0:00:20"]),
        (unreadable_slo, ["the SLO of the header cannot be read", "'fast'"]),
    ],
    ids=lambda x: x.__name__.replace("_", " ") if callable(x) else "",
)
def test_an_incomplete_run_gives_a_page_that_says_what_is_missing(build, said, tmp_path, page):
    found = page(run_page(open_run(build(tmp_path / "run")), None, tmp_path / "page.html"))
    for words in said:
        assert words in found.text


def test_what_a_check_watched_misses_no_load_of_its_own(tmp_path, page):
    found = page(run_page(open_run(watched_only(tmp_path / "run")), None, tmp_path / "page.html"))
    assert "requests.parquet" not in found.text
    assert "No request was recorded" not in found.text


def test_a_simulated_run_without_metrics_shows_its_replicas(tmp_path, page):
    path = make(tmp_path / "run", kind="simulated")
    run.write_table(path, "requests", requests(600))
    run.write_table(path, "replicas", {"time_s": [0.0, 20.0], "desired": [1.0, 2.0], "ready": [1.0, 2.0]})
    found = page(run_page(open_run(path), None, tmp_path / "page.html"))
    assert "client" not in found.text.split("What was sent")[0]
    assert len(found.pictures) == 2


def test_two_runs_stand_side_by_side_with_their_differences(sweep_d, tmp_path, page):
    other = make(tmp_path / "other", model="another")
    run.write_table(other, "requests", requests(513))
    found = page(run_page(open_run(sweep_d), open_run(other), tmp_path / "page.html"))
    table = found.table("difference")
    assert table[0][1:] == ["other", "sweep_D", "difference"]
    planned = next(row for row in table if row[0] == "requests that were due")
    assert planned == ["requests that were due", "513", "1,026", "+100.0%"]
    assert ["model", "another", "tiny"] in found.table("what was different")
    waiting = next(row for row in table if row[0].startswith("mean requests waiting"))
    assert (waiting[1], waiting[3]) == ("–", "–")  # not measured is not zero


def test_two_runs_of_one_name_are_told_apart(tmp_path, page):
    first = make(tmp_path / "a" / "run")
    run.write_table(first, "requests", requests(100))
    shutil.copytree(first, tmp_path / "b" / "run")
    found = page(run_page(open_run(first), open_run(tmp_path / "b" / "run"), tmp_path / "page.html"))
    assert found.table("difference")[0][1:3] == ["run (before)", "run"]
    assert all(row[3] in ("+0.0%", "–") for row in found.table("difference")[1:])


def test_texts_of_a_run_cannot_become_markup(tmp_path, page):
    path = make(tmp_path / "run", model="<script>alert(1)</script>", command='x\' onload="y" <img src=z>')
    assert "<script>alert(1)</script>" in page(run_page(open_run(path), None, tmp_path / "page.html")).text


def test_a_page_that_cannot_be_written_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write the page"):
        run_page(open_run(make(tmp_path / "run")), None, tmp_path / "file" / "page.html")
