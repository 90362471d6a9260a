from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import run, steady
from analysis.errors import TooLittleData


@pytest.fixture(scope="module")
def stages(sweep_run):
    return {
        name: steady.windows(steady.observe(run.read(sweep_run(name)))) for name in ("sweep_A", "sweep_D")
    }


def test_recorded_stages_are_steady_below_the_knee_and_saturated_above(stages) -> None:
    # A: 3.9 and 6.4 req/s were offered to a server that completes about 3; D: 5.3 to one that completes about 5.1
    assert [w.state for w in stages["sweep_A"]] == ["steady"] * 6 + ["queued"] * 2
    assert [w.state for w in stages["sweep_D"]] == ["steady"] * 6 + ["queued"]


def test_only_the_step_in_which_the_client_stalled_is_set_aside(stages) -> None:
    assert [w.planned_rps for w in stages["sweep_A"] if w.client] == [1.0]
    assert not any(w.client for w in stages["sweep_D"])
    assert "behind the plan" in stages["sweep_A"][1].client[0]


def test_server_and_client_count_the_same_requests(stages) -> None:
    for window in stages["sweep_A"] + stages["sweep_D"]:
        assert 0.85 <= window.little_ratio <= 1.05


def test_the_load_generators_own_verdict_wins(sweep_run) -> None:
    path = sweep_run("sweep_D")
    said = {
        "stage": 2,
        "verdict": "limited",
        "reasons": [{"code": "cpu", "sentence": "the client used 97 %"}],
    }
    run.update(path, client={"verdict": "limited", "stages": [said]})
    limited = [w for w in steady.windows(steady.observe(run.read(path))) if w.client]
    assert [(w.stage, w.client) for w in limited] == [(2, ("the client used 97 %",))]


def test_the_client_sees_saturation_without_the_servers_metrics(sweep_run) -> None:
    path = sweep_run("sweep_A")
    (path / "metrics.parquet").unlink()
    windows = steady.windows(steady.observe(run.read(path)))
    assert [w.state for w in windows[6:]] == ["queued"] * 2
    assert all(np.isnan(w.little_ratio) for w in windows)


def drifting(path: Path, e2e_s: np.ndarray, **columns) -> steady.StageWindow:
    due = np.linspace(0, 100, e2e_s.size, endpoint=False)
    plan = [{"start_s": 0, "end_s": 100, "rate": e2e_s.size / 100}]
    run.create(path, {"started_at": 0.0, "ended_at": 100.0, "stages": plan})
    table = {"request_id": np.arange(due.size), "stage": 0, "due_s": due, "sent_s": due, "status": "ok"}
    table |= {"first_token_s": due + 0.1, "last_token_s": due + e2e_s, "output_tokens": 10} | columns
    run.write_table(path, "requests", pd.DataFrame(table))
    return steady.windows(steady.observe(run.read(path)))[0]


def test_latency_that_keeps_growing_has_no_window(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(0.95, 1.05, 300)
    window = drifting(tmp_path, np.linspace(1, 4, 300) * noise)
    assert window.state == "unusable"
    assert "drifting" in window.why


def test_a_warm_up_is_cut_and_the_rest_is_steady(tmp_path: Path) -> None:
    e2e = np.where(np.arange(300) < 60, 3.0, 1.0) * np.random.default_rng(0).uniform(0.95, 1.05, 300)
    window = drifting(tmp_path, e2e)
    assert window.state == "steady"
    assert window.from_s == 50  # the first cut at 2 s still drifts, the second half does not


def test_requests_of_another_time_tell_nothing_of_a_stage(tmp_path: Path) -> None:
    due_s = np.linspace(200, 300, 300, endpoint=False)
    window = drifting(
        tmp_path, np.full(300, 1.0), due_s=due_s, sent_s=np.linspace(0, 100, 300, endpoint=False)
    )
    assert window.state == "unusable"
    assert window.why == "only 0 of its 300 requests were due in its time"


def test_dropped_requests_are_the_clients_doing(tmp_path: Path) -> None:
    status = np.where(np.arange(300) % 20 == 0, "dropped", "ok")
    assert "never sent" in drifting(tmp_path, np.full(300, 1.0), status=status).client[0]


def test_a_run_in_which_every_request_failed_says_with_what(tmp_path: Path) -> None:
    with pytest.raises(TooLittleData, match="none of 300 requests completed \\(300 http_error\\)"):
        drifting(tmp_path, np.full(300, 1.0), status="http_error")


def test_a_stage_in_which_replicas_changed_is_not_used(tmp_path: Path) -> None:
    run.create(tmp_path, {"started_at": 0.0, "stages": [{"start_s": 0, "end_s": 100, "rate": 3}]})
    due = np.linspace(0, 100, 300, endpoint=False)
    table = {"request_id": np.arange(300), "stage": 0, "due_s": due, "sent_s": due, "status": "ok"}
    run.write_table(
        tmp_path, "requests", pd.DataFrame(table | {"first_token_s": due + 0.1, "last_token_s": due + 1})
    )
    run.write_table(tmp_path, "replicas", {"time_s": [0.0, 50.0], "ready": [1.0, 2.0]})
    window = steady.windows(steady.observe(run.read(tmp_path)))[0]
    assert (window.state, window.why) == ("unusable", "replicas changed between 1 and 2")
