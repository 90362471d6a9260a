"""metrics.parquet from Prometheus (recorded, faked, real) and from direct scraping; what goes wrong says so."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests

from analysis import run
from analysis.access import access
from analysis.errors import BadInput, BadRun, SourceUnavailable, TooLittleData
from autoscale.local_servers import free_ports, local_prometheus
from autoscale.observe.collect import collect
from autoscale.observe.scrape import Scraper, read_once
from tests import recorded_sweeps
from tests.observe import servers

T0 = 1_800_000_000.0
ROOT = Path(__file__).parents[2]


def new_run(
    path: Path, started_at: float = T0, ended_at: float | None = T0 + 60, model: str | None = "m"
) -> Path:
    return run.create(path, {"kind": "live", "started_at": started_at, "ended_at": ended_at, "model": model})


def series(name: str, values: list[list[Any]], **labels: str) -> tuple[dict[str, str], list[list[Any]]]:
    return {"__name__": name, "model_name": "m", "engine": "0", "instance": "10.0.0.1:8000", **labels}, values


def ramp(start_s: int, end_s: int, slope: float = 1.0, every_s: int = 1) -> list[list[Any]]:
    return [[T0 + t, str(slope * t)] for t in range(start_s, end_s, every_s)]


@pytest.mark.parametrize("range_vectors", [True, False], ids=["raw samples", "range queries"])
@pytest.mark.parametrize("name", ["sweep_A", "sweep_D"])
def test_a_recorded_prometheus_gives_the_table_that_its_answers_hold(
    tmp_path: Path, sweep_run, name: str, range_vectors: bool
):
    expected = run.read(sweep_run(name)).metrics
    queries = ("waiting", "running", "kv", "preemptions", "prompt", "gen", "success")
    answers = [
        (one["metric"], one["values"])
        for query in queries
        for one in recorded_sweeps.prometheus_answer(name, query)["data"]["result"]
    ]
    target = recorded_sweeps.sweep_to_run(name, tmp_path / "run")
    (target / "metrics.parquet").unlink()
    with servers.serving(servers.FakePrometheus(answers, range_vectors=range_vectors)) as server:
        summary = collect(target, server.url)
    assert summary["raw_samples"] is range_vectors
    assert summary["gaps"] == []
    pd.testing.assert_frame_equal(run.read(target).metrics, expected, check_exact=False, atol=1e-6)


def test_models_pods_gaps_restarts_and_a_shifted_clock(tmp_path: Path):
    found = [
        series("vllm:num_requests_waiting", ramp(0, 61), pod="a"),
        series("vllm:num_requests_waiting", ramp(0, 20) + ramp(40, 50), pod="b"),
        series("vllm:num_requests_waiting", ramp(0, 61), pod="z", model_name="other"),
        series(
            "vllm:prompt_tokens_total",
            [[T0 + t, str(10 * t if t < 30 else 10 * (t - 30))] for t in range(61)],
            pod="a",
        ),
        series("vllm:gpu_cache_usage_perc", [[T0 + t, "0.1"] for t in range(61)], pod="a"),
        series("vllm:kv_cache_usage_perc", [[T0 + t, "0.2"] for t in range(61)], pod="a"),
        series("vllm:cache_config_info", ramp(0, 61), pod="a", block_size="16", num_gpu_blocks="100"),
    ]
    shifted = [(labels, [[t + 30.0, v] for t, v in values]) for labels, values in found]
    target = new_run(tmp_path / "run")
    run.update(target, engine={"max_num_seqs": 16})
    with servers.serving(servers.FakePrometheus(shifted, clock_ahead_s=30.0)) as server:
        summary = collect(target, server.url)
        noted = [event for event in run.read(target).events if event["kind"] == "metrics_gap"]
        collect(target, server.url)
        again = [event for event in run.read(target).events if event["kind"] == "metrics_gap"]
    assert [e["pod"] for e in again] == [e["pod"] for e in noted], "collecting twice says everything once"
    assert summary["clock_offset_s"] == pytest.approx(30.0, abs=0.5)
    assert summary["pods"] == ["a", "b"]
    assert summary["other_models"] == ["other"]
    assert [(g["pod"], round(g["start_s"]), round(g["end_s"])) for g in summary["gaps"]] == [
        ("b", 19, 40),
        ("b", 49, 60),
    ]
    assert [r["column"] for r in summary["counter_resets"]] == ["prompt_tokens_total"]
    collected = run.read(target)
    a = collected.metrics[collected.metrics["pod"] == "a"]
    assert (a["kv_usage"] == 0.2).all()
    # 290 tokens before the restart at 30 s, 300 after it: increase() over the window is 590
    assert a["prompt_tokens_total"].is_monotonic_increasing
    assert a["prompt_tokens_total"].iloc[-1] == pytest.approx(590, abs=11)
    assert collected.metrics["running"].isna().all(), "not reported is NaN, never zero"
    assert collected.header["engine"]["num_blocks"] == 100
    assert collected.header["engine"]["max_num_seqs"] == 16
    kinds = {event["kind"] for event in collected.events}
    assert kinds == {"metrics_gap", "counter_reset", "models_left_out", "clock_offset"}


def test_long_windows_are_asked_for_in_chunks_below_the_point_limit(tmp_path: Path):
    hours = 25_000
    values = series("vllm:num_requests_running", ramp(0, hours + 1, every_s=5), pod="a")
    target = new_run(tmp_path / "run", ended_at=T0 + hours)
    with servers.serving(servers.FakePrometheus([values], range_vectors=False)) as server:
        collect(target, server.url, step_s=1.0)
    metrics = run.read(target).metrics
    assert metrics["time_s"].tolist() == [float(t) for t in range(0, hours + 1, 5)], (
        "no sample twice, none lost"
    )


def test_an_unreachable_prometheus_is_a_source_unavailable(tmp_path: Path):
    with pytest.raises(SourceUnavailable, match=r"cannot reach Prometheus at .*connection refused"):
        collect(new_run(tmp_path / "run"), f"http://127.0.0.1:{free_ports(1)}")


def test_a_page_that_is_not_prometheus_is_named(tmp_path: Path):
    with (
        servers.serving(lambda path, query: (200, "<html>hello</html>")) as server,
        pytest.raises(SourceUnavailable, match="not like Prometheus"),
    ):
        collect(new_run(tmp_path / "html"), server.url)
    with (
        servers.serving(lambda path, query: (404, "no")) as server,
        pytest.raises(SourceUnavailable, match="is not Prometheus"),
    ):
        collect(new_run(tmp_path / "missing"), server.url)


def test_a_window_without_the_run_s_model_says_what_is_there(tmp_path: Path):
    other = [series("vllm:num_requests_waiting", ramp(0, 61), model_name="other")]
    with (
        servers.serving(servers.FakePrometheus(other)) as server,
        pytest.raises(TooLittleData, match=r"no metrics of model m .* it has other"),
    ):
        collect(new_run(tmp_path / "run"), server.url)


def test_an_empty_prometheus_says_which_jobs_it_scrapes(tmp_path: Path):
    up = [({"__name__": "up", "job": "node"}, [[T0, "1"]])]

    def answer(path: str, query: dict[str, str]) -> tuple[int, str]:
        return servers.FakePrometheus(up if query.get("query") == "up" else [])(path, query)

    with (
        servers.serving(answer) as server,
        pytest.raises(TooLittleData, match="no vLLM metrics, and scrapes the jobs node"),
    ):
        collect(new_run(tmp_path / "run"), server.url)


def test_one_source_is_needed(tmp_path: Path):
    target = new_run(tmp_path / "run")
    with pytest.raises(BadInput, match="one source"):
        collect(target)
    with pytest.raises(BadInput, match="the run has ended"):
        collect(target, scrape=["http://127.0.0.1:1"])


def test_scraping_survives_a_pod_that_goes_away_and_a_restart(tmp_path: Path):
    staying, leaving = servers.FakeVllm(), servers.FakeVllm()
    target = new_run(tmp_path / "run", started_at=time.time(), ended_at=None)
    with servers.serving(staying) as first:
        with servers.serving(leaving) as second:
            scraper = Scraper(target, [first.url, second.url], interval_s=0.1).start()
            time.sleep(0.6)
            staying.restart()
        time.sleep(3.0)  # longer than the shortest silence that counts as a gap
        summary = scraper.stop()
    gone = second.url.removeprefix("http://")
    assert [gap["pod"] for gap in summary["gaps"]] == [gone]
    assert {reset["column"] for reset in summary["counter_resets"]} >= {"prompt_tokens_total"}
    assert summary["engine"]["vllm_version"] == r"0.99.0\ud800"
    metrics = run.read(target).metrics
    assert set(metrics["engine"]) == {"0", "1"}
    kept = metrics[metrics["pod"] == first.url.removeprefix("http://")]
    assert kept["time_s"].nunique() >= 20
    assert (kept[kept["engine"] == "1"]["kv_usage"] == 0.5).all()
    assert not list(target.glob("*.part.parquet"))


GAUGE, COUNTER = "vllm:num_requests_running", "vllm:request_success_total"
ENGINE_0 = '{engine="0",model_name="m"}'


@pytest.mark.parametrize(
    ("text", "running", "total", "said"),
    [
        pytest.param("7\n{c} 123456\n", 7.0, 123456.0, "", id="whole"),
        pytest.param("7\n{c} 123", 7.0, None, "ends within a line", id="a counter is cut off"),
        pytest.param("7\n{c} 123456\n# HE", 7.0, 123456.0, "", id="a comment is cut off"),
        pytest.param(
            "1e19\n{c} 9\n", None, 9.0, "running of 1e+19 is left out", id="larger than a table holds"
        ),
        pytest.param(
            "7\n{c} 1.8446744073709552e+19\n", 7.0, None, "of 1.84467e+19", id="below 0 without a sign"
        ),
        pytest.param("1_0\n{c} ٣\n", None, None, "", id="numbers of no exposition"),
        pytest.param("NaN\n{g} NaN\n{c} 1\n", None, 1.0, "", id="nothing told twice is no contradiction"),
    ],
)
def test_a_page_that_is_cut_or_holds_what_is_no_number(
    text: str, running: float | None, total: float | None, said: str
):
    """The beginning of a number is none: it looked like a restart, and doubled what the counter had told before."""
    page = f"\ufeff{GAUGE}{ENGINE_0} " + text.format(g=GAUGE + ENGINE_0, c=COUNTER + ENGINE_0)
    with servers.serving(lambda *_: (200, page)) as server:
        reading = read_once(server.url, None)
    [row] = reading.rows.values()
    found = row.get("running"), row.get("requests_total")
    assert [None if value is None or pd.isna(value) else value for value in found] == [running, total]
    sentences = reading.notes.sentences()
    assert any(said in sentence for sentence in sentences) if said else sentences == []


def test_rows_that_cannot_be_written_are_kept_and_told(tmp_path: Path):
    target = new_run(tmp_path / "run", started_at=time.time(), ended_at=None)
    with servers.serving(servers.FakeVllm()) as server:
        scraper = Scraper(target, [server.url], interval_s=0.1).start()
        wait_until(lambda: scraper._rows)
        target.rename(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="No such file"):
            scraper._flush()
        kept = len(scraper._rows)
        wait_until(lambda: len(scraper._rows) > kept)
        said = rf"^\d+ rows of metrics could not be written to {target}: No such file"
        with pytest.raises(BadRun, match=said) as told:
            scraper.stop()
    assert int(str(told.value).split()[0]) > kept > 0


def wait_until(so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("# TYPE x gauge\nx 1\n", "has no vLLM metrics", id="another program's metrics"),
        pytest.param("<html></html>", "has no vLLM metrics", id="a web page"),
    ],
)
def test_scraping_something_else_is_refused(tmp_path: Path, text: str, sentence: str):
    target = new_run(tmp_path / "run", ended_at=None)
    with (
        servers.serving(lambda path, query: (200, text)) as server,
        pytest.raises(SourceUnavailable, match=sentence),
    ):
        Scraper(target, [server.url]).start()


def test_scraping_nobody_is_a_source_unavailable(tmp_path: Path):
    target = new_run(tmp_path / "run", ended_at=None)
    with pytest.raises(SourceUnavailable, match=r"no server answered at .*connection refused"):
        collect(target, scrape=[f"http://127.0.0.1:{free_ports(1)}"])


def test_a_scraper_that_starts_before_the_load_test_waits_for_it(tmp_path: Path):
    target, stop = tmp_path / "run", threading.Event()

    def load_test(_fraction: float, text: str) -> None:
        if "waiting" in text:  # the scraper waits: now the load test starts, and its end is not awaited
            new_run(
                target, started_at=time.time() + 1.0, ended_at=None
            )  # Locust's header comes before the start
        elif time.time() > run.read_header(target)["started_at"] + 0.5:
            stop.set()

    with servers.serving(servers.FakeVllm()) as server:
        summary = collect(target, scrape=[server.url], step_s=0.1, stop=stop, progress=load_test)
    assert summary["rows"] > 0
    assert run.read(target).metrics["time_s"].min() >= 0


def test_a_load_test_that_never_starts_is_not_waited_for_without_end(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("autoscale.observe.collect.APPEARS_S", 0.0)
    with pytest.raises(BadRun, match=r"no load test wrote to .*nothing within 0 s"):
        collect(tmp_path / "nothing", scrape=["http://127.0.0.1:1"])


def wait_until_all_are_scraped(url: str) -> None:
    deadline = time.monotonic() + 40  # discovery takes five seconds
    while time.monotonic() < deadline:
        try:
            answer = requests.get(f"{url}/api/v1/query", params={"query": "up == 1"}, timeout=2).json()
            if len(answer["data"]["result"]) == 4:
                return
        except (requests.RequestException, ValueError, KeyError):
            pass
        time.sleep(0.1)
    pytest.fail("Prometheus did not scrape the test's servers")


def test_a_real_prometheus_scraping_a_vllm_page(tmp_path: Path):
    program = shutil.which("prometheus")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("the prometheus package is missing")
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    with (
        servers.serving(servers.FakeVllm(model="m")) as mine,
        servers.serving(servers.FakeVllm("other")) as other,
    ):
        targets = [url.removeprefix("http://") for url in (mine.url, other.url)]
        config = (
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
            f"scrape_configs: [{{job_name: vllm, static_configs: [{{targets: {targets}}}]}},\n"
            f"  {{job_name: twin-a, static_configs: [{{targets: [{targets[0]}], labels: {{pod: vllm-0}}}}]}},\n"
            f"  {{job_name: twin-b, static_configs: [{{targets: [{targets[0]}], labels: {{pod: vllm-0}}}}],\n"
            "    metric_relabel_configs: [{source_labels: [__name__], regex: '.*cache_usage.*', action: drop}]}]\n"
        )
        with local_prometheus(tmp_path, config, ()) as url:
            wait_until_all_are_scraped(url)
            started_at = time.time()
            time.sleep(5.0)
            target = new_run(tmp_path / "run", started_at=started_at, ended_at=time.time())
            time.sleep(0.5)
            summary = collect(target, url, selector='job="vllm"')
            twins = new_run(tmp_path / "twins", started_at=started_at, ended_at=time.time() - 0.5)
            wanted = {"Authorization": "Basic bWU6cHdwd3B3", "X-Scope-OrgID": "team"}  # me:pwpwpw
            with servers.serving(servers.passing_on(url), wanted) as guarded:
                told_twice = collect(
                    twins,
                    guarded.url.replace("//", "//me:pwpwpw@"),
                    selector='job=~"twin-.*"',
                    access=access(headers=["X-Scope-OrgID: team"], key_variables=()),
                )
    twin = run.read(twins).metrics
    assert set(twin["pod"]) == {"vllm-0"}
    assert 4 <= len(twin[twin["engine"] == "0"]) <= 6, "the rows of one job"
    assert (twin[twin["engine"] == "0"]["kv_usage"] == 0.25).all(), "twin-b lacks it: never zero, never a sum"
    assert told_twice["notes"] == [
        "vllm-0 is told twice: the series with job=twin-a are taken, those with job=twin-b left out"
    ]
    assert told_twice["source"] == guarded.url
    metrics = run.read(target).metrics
    assert summary["raw_samples"]
    assert summary["pods"] == [targets[0]]
    assert summary["other_models"] == ["other"]
    assert summary["interval_s"] == pytest.approx(1.0, abs=0.1)
    assert metrics["time_s"].between(0, 6).all()
    one = metrics[metrics["engine"] == "0"]
    assert 4 <= len(one) <= 6, "one row per scrape"
    assert (one["waiting"] == 3).all()
    assert (one["kv_usage"] == 0.25).all()
    grown = one["prompt_tokens_total"].iloc[-1] - one["prompt_tokens_total"].iloc[0]
    elapsed_s = one["time_s"].iloc[-1] - one["time_s"].iloc[0]
    assert grown / elapsed_s == pytest.approx(500, rel=0.1)
    assert run.read(target).header["engine"]["num_blocks"] == 1000


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_signals_one_after_another_leave_the_rows_that_were_read(tmp_path: Path, number: signal.Signals):
    target = new_run(tmp_path / "run", started_at=time.time(), ended_at=None)
    with servers.serving(servers.FakeVllm()) as server:
        command = [
            sys.executable,
            "-m",
            "autoscale",
            "collect",
            str(target),
            "--scrape",
            server.url,
            "--step",
            "0.2",
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
        ) as scraping:
            for _ in range(300):
                if len(server.seen) > 8:
                    break
                time.sleep(0.1)
            for _ in range(3):
                scraping.send_signal(number)
                time.sleep(0.02)
            said, _ = scraping.communicate(timeout=60)
    assert scraping.returncode == 130, said
    assert len(run.read(target).metrics) >= 8, "two engines a page"
