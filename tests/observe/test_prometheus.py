"""Whatever a Prometheus, or something in front of it, answers: rows that are right, or a sentence with the next step."""

import json
import math
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from analysis import run
from analysis.access import Access, access
from analysis.errors import BadInput, BadRun, SourceUnavailable, TooLittleData
from autoscale import cli
from autoscale.observe import prometheus
from autoscale.observe.collect import collect
from autoscale.observe.prometheus import Prometheus
from autoscale.observe.scrape import Scraper
from autoscale.observe.web import Session, reason_of
from tests.observe import servers
from tests.planted import found

T0 = 1_780_000_000.0


def new_run(path: Path, **header: Any) -> Path:
    return run.create(path, {"kind": "live", "started_at": T0, "ended_at": T0 + 30, "model": "m", **header})


def told(
    name: str, value: str = "1", times: range = range(31), **labels: str
) -> tuple[dict[str, str], list[list[Any]]]:
    return {"__name__": name, "model_name": "m", "pod": "a", **labels}, [[T0 + t, value] for t in times]


RUNNING = told("vllm:num_requests_running")


# --- what it is asked ------------------------------------------------------------------------------------------------


def test_a_server_that_takes_only_whole_names_is_asked_name_by_name(tmp_path: Path):
    fake = servers.FakePrometheus([RUNNING, told("vllm:num_requests_waiting", "4")], whole_names=True)
    with servers.serving(fake) as server:
        summary = collect(new_run(tmp_path / "run"), server.url)
    metrics = run.read(tmp_path / "run").metrics
    assert summary["raw_samples"]
    assert metrics["running"].tolist() == [1.0] * 31
    assert metrics["waiting"].tolist() == [4.0] * 31


def test_a_fractional_step_is_a_number_and_becomes_whole_where_it_is_refused(tmp_path: Path):
    fake = servers.FakePrometheus([RUNNING], range_vectors=False)
    steps = []

    def answer(path: str, query: dict[str, str]) -> tuple[int, str]:
        if path == "/api/v1/query_range":
            steps.append(query["step"])
            if "." in query["step"]:
                return 400, '{"status":"error","error":"cannot parse a valid duration"}'
        return fake(path, query)

    with servers.serving(answer) as server:
        summary = collect(new_run(tmp_path / "run"), server.url, step_s=0.5)
    assert steps == ["0.5", "0.5", "1"], "all names, name by name, then at whole seconds"
    assert "range queries were sent" in summary["notes"][0]
    assert summary["rows"] == 31


@pytest.mark.parametrize(
    "path", ["/prometheus", "/select/0/prometheus", "/prometheus/api/v1", "/prometheus/graph"]
)
def test_a_path_before_the_api_is_kept_and_a_copied_page_is_understood(tmp_path: Path, path: str):
    fake = servers.FakePrometheus([RUNNING])
    prefix = path.removesuffix("/api/v1").removesuffix("/graph")

    def answer(asked: str, query: dict[str, str]) -> tuple[int, str]:
        return fake(asked.removeprefix(prefix), query) if asked.startswith(prefix) else (404, "")

    with servers.serving(answer) as server:
        assert collect(new_run(tmp_path / "run"), server.url + path)["rows"] == 31


# --- what it answers -------------------------------------------------------------------------------------------------


def vector(result: Any, **more: Any) -> str:
    return json.dumps({"status": "success", **more, "data": {"resultType": "matrix", "result": result}})


def answering(status: int, text: str) -> Any:
    """The clock is right, and every query for samples gets this."""
    fake = servers.FakePrometheus([RUNNING])
    return lambda path, query: fake(path, query) if query.get("query") in (None, "time()") else (status, text)


@pytest.mark.parametrize(
    ("status", "text", "sentence"),
    [
        pytest.param(503, "", r"answers HTTP 503.*try again later", id="overloaded"),
        pytest.param(503, "<html><b>no</b></html>", r"answers HTTP 503 \(Service Unavailable\)\. It is up", id="a proxy's page"),
        pytest.param(401, "Unauthorized", r"401 \(it wants a key\).*--token-file FILE or --header", id="no key"),
        pytest.param(403, "no", r"403 \(forbidden; no key was sent\).*--token-file", id="forbidden"),
        pytest.param(429, "", r"429.*try again later", id="too many questions"),
        pytest.param(400, '{"error":"too long"}', r"refused the query: HTTP 400: too long", id="refused"),
        pytest.param(422, '{"error":"too many samples"}', r"HTTP 422: too many samples.*--selector", id="too large"),
        pytest.param(404, "", r"is not Prometheus.*/select/0/prometheus", id="no such path"),
        pytest.param(200, '{"status":"error","error":"boom \\u001b[31m\\ud800."}', r"refused the query: HTTP 200: boom \\x1b\[31m\\ud800\.", id="an error under a good status"),
        pytest.param(200, "<html>log in</html>", "not like Prometheus", id="a login page"),
        pytest.param(200, "[" * 100_000, "not like Prometheus", id="nested JSON"),
        pytest.param(200, "[]", "not like Prometheus", id="a JSON list"),
        pytest.param(200, '{"data": 5}', "not like Prometheus", id="JSON of something else"),
        pytest.param(200, vector([{"values": [[T0, "1"]]}]), "no labels", id="a result without labels"),
        pytest.param(200, vector([{"metric": {"a": 1}, "values": [[T0, "1"]]}]), "no labels", id="odd labels"),
        pytest.param(200, vector([{"metric": {}, "values": [["x", "1"]]}]), "has no time", id="a time that is none"),
        pytest.param(200, vector([{"metric": {}, "values": [[T0]]}]), "no samples", id="a sample without value"),
        pytest.param(200, vector([{"metric": RUNNING[0], "values": [[T0, [1]]]}]), "no samples", id="a value that is a list"),
    ],
)  # fmt: skip
def test_a_bad_answer_is_a_sentence(tmp_path: Path, status: int, text: str, sentence: str):
    with (
        servers.serving(answering(status, text)) as server,
        pytest.raises(SourceUnavailable, match=sentence),
    ):
        collect(new_run(tmp_path / "run"), server.url)


HUGE = f"1{'0' * 400}"  # larger than any float
ODD = [
    # which question gets the answer (a part of it), the answer, the sentence
    pytest.param("time()", f'{{"data":{{"resultType":"scalar","result":[1,{HUGE}]}}}}', r"the clock of http\S+ is \+inf s from", id="a clock beyond floats"),
    pytest.param("up", vector([{"metric": {"job": f"j{n:05}"}, "value": [1, "1"]} for n in range(9999)]), "scrapes the jobs j00000, j00001, j00002, j00003 and 9995 more", id="ten thousand jobs"),
    pytest.param("count by", vector([{"metric": {"model_name": name}, "value": [1, "1"]} for name in (5, "x")]), "it has no vLLM metrics", id="a model whose name is a number"),
    pytest.param("max_over_time", vector([{"metric": {"model_name": "x"}, "value": [1, int(HUGE)]}]), "it has no vLLM metrics", id="a time beyond floats"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "answer", "sentence"), ODD)
def test_numbers_and_lists_beyond_measure_are_a_sentence(
    tmp_path: Path, asked: str, answer: str, sentence: str
):
    fake = servers.FakePrometheus([])
    with (
        servers.serving(
            lambda path, q: (200, answer) if asked in q.get("query", "") else fake(path, q)
        ) as server,
        pytest.raises((SourceUnavailable, TooLittleData), match=sentence) as caught,
    ):
        collect(new_run(tmp_path / "run"), server.url)
    assert len(str(caught.value)) < 1000


def test_a_sample_beyond_floats_is_left_out_and_said_to_be(tmp_path: Path):
    text = vector([{"metric": RUNNING[0], "values": [[T0 + 1, int(HUGE)], [T0 + 2, "3"]]}])
    with servers.serving(answering(200, text)) as server:
        summary = collect(new_run(tmp_path / "run"), server.url)
    assert run.read(tmp_path / "run").metrics["running"].tolist()[-1] == 3.0
    assert any("running that is no finite number is left out" in note for note in summary["notes"])


def test_names_that_are_no_list_are_asked_for_plainly(tmp_path: Path):
    fake = servers.FakePrometheus([RUNNING])
    answer = lambda path, q: (200, '{"status":"success","data":5}') if "label" in path else fake(path, q)  # noqa: E731
    with servers.serving(answer) as server:
        assert collect(new_run(tmp_path / "run"), server.url)["rows"] == 31


@pytest.mark.parametrize(
    "answer",
    [vector(5), vector([5]), vector([{"metric": {}}]), vector([{"value": [1, "1"]}]), vector([{"metric": {"a": 1}, "value": [1, "1"]}]), vector([{"metric": {}, "value": 7}])],
)  # fmt: skip
def test_a_vector_that_is_none_is_not_prometheus(answer: str):
    with (
        servers.serving(lambda *_: (200, answer)) as server,
        pytest.raises(SourceUnavailable, match="not like Prometheus"),
    ):
        Prometheus(server.url, Access()).vector("x")


DRIPS = [
    # what is sent at once, what again and again, the sentence
    pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b" ", "still sending after 1 s", id="a body"),
    pytest.param(b"HTTP/1.1 200 OK\r\nx: ", b"a", "timed out", id="a header"),
    pytest.param(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", "timed out", id="headers"),
    pytest.param(b"HTTP/1.1 ", b"2", "timed out", id="a status"),
    pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", "timed out", id="interim answers"),
]  # fmt: skip


@contextmanager
def dripping(at_once: bytes, drip: bytes, every_s: float = 0.02) -> Iterator[str]:
    """The address of a server that sends the one and then, until it is left, the other."""

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                taken, _ = listener.accept()
                threading.Thread(target=answer, args=(taken,), daemon=True).start()

    def answer(taken: socket.socket) -> None:
        with taken, suppress(OSError):
            taken.recv(10_000)
            taken.sendall(at_once)
            while True:
                time.sleep(every_s)
                taken.sendall(drip)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(("at_once", "drip", "sentence"), DRIPS)
def test_a_server_that_sends_a_byte_now_and_then_is_given_up(at_once: bytes, drip: bytes, sentence: str):
    """Each byte is in time; the whole is not."""
    with dripping(at_once, drip) as url, pytest.raises(requests.Timeout, match=sentence):
        Session(Access(), 1.0).get(url)


def test_redirections_have_one_time_together_and_their_bodies_are_not_read():
    head = b"HTTP/1.1 302 Found\r\nlocation: /x\r\n"
    with dripping(head, b"\r\n", 0.2) as url, pytest.raises(requests.Timeout, match="timed out"):
        Session(Access(), 1.0).get(url)
    with dripping(head + b"\r\n", b"x" * 1000) as url, pytest.raises(requests.TooManyRedirects):
        Session(Access(), 20.0).get(url)


def test_where_a_redirection_leads_is_said_where_nobody_answers():
    head = b"HTTP/1.1 302 Found\r\nlocation: http://u:pl4nted@127.0.0.1:1/login?token=pl4nted-q\r\n\r\n"
    with dripping(head, b"") as url, pytest.raises(requests.ConnectionError) as raised:
        Session(Access(), 5.0).get(url)
    assert reason_of(raised.value) == "it redirects to http://127.0.0.1:1: connection refused"


def test_a_silent_server_is_waited_for_once(monkeypatch):
    monkeypatch.setattr(prometheus, "ANSWER_S", 0.5)
    asked = []
    with (
        servers.serving(lambda *_: asked.append(1) or time.sleep(2) or (200, "{}")) as server,
        pytest.raises(SourceUnavailable, match="timed out"),
    ):
        Prometheus(server.url, Access()).query("x")
    assert len(asked) == 1


def test_pods_of_one_name_in_two_namespaces_are_two_replicas(tmp_path: Path):
    names = ("vllm:num_requests_running", "vllm:prompt_tokens_total")
    series = [
        told(name, value, pod=pod, namespace=namespace)
        for name in names
        for pod, namespace, value in (("v-0", "live", "3"), ("v-0", "test", "5"), ("v-1", "live", "7"))
    ]
    series.append(told(names[0], "9", pod="v-0", job="nobody knows where"))
    summary, metrics = collected(tmp_path, series)
    assert metrics.groupby("pod")["running"].unique().map(list).to_dict() == {
        "live/v-0": [3.0],
        "test/v-0": [5.0],
        "v-1": [7.0],
    }
    assert summary["notes"] == [
        "pods of the same names (v-0) are in several namespaces (live, test): each is taken as a replica of its own; choose "
        "one with --namespace"
    ]


def test_a_window_is_asked_for_by_the_clock_that_the_client_has_now(tmp_path: Path):
    """The clock was set by 500 s while the load ran: what was scraped then lies 500 s later than its header says."""
    with servers.serving(servers.FakePrometheus([RUNNING])) as server:
        path = new_run(tmp_path / "run", started_at=T0 - 500, ended_at=T0 - 470, clock_set_by_s=500.0)
        collect(path, server.url)
    assert run.read(path).metrics["time_s"].tolist() == [float(t) for t in range(31)]


def test_many_pods_cost_no_more_than_their_rows(tmp_path: Path):
    """Three calls of pandas for each would take half a minute."""
    pods = [f"v-{number}" for number in range(3000)]
    summary, metrics = collected(
        tmp_path, [told("vllm:num_requests_running", "3", range(3), pod=pod) for pod in pods]
    )
    assert len(summary["pods"]) == len(pods)
    assert (metrics.groupby("pod").size() == 3).all()


def test_a_wrong_selector_is_bad_input(tmp_path: Path):
    with (
        servers.serving(answering(400, '{"error":"1:8: parse error: unexpected x"}')) as server,
        pytest.raises(BadInput, match=r"--selector is refused: 'job=vllm'"),
    ):
        collect(new_run(tmp_path / "run"), server.url, selector="job=vllm")


def test_warnings_and_values_that_are_no_numbers_are_notes(tmp_path: Path):
    bad = {"__name__": "vllm:kv_cache_usage_perc", "pod": "a"}
    values = [[T0, "0.5"], [T0 + 1, "abc"], [T0 + 2, "1.8"], [T0 + 3, "NaN"], [T0 + 4, None]]
    running = {"metric": RUNNING[0], "values": RUNNING[1][:5]}
    text = vector(
        [running, {"metric": bad, "values": values}],
        warnings=["a\ud800store \x1b[31mis\ndown"],
        isPartial=True,
    )
    with servers.serving(answering(200, text)) as server:
        summary = collect(new_run(tmp_path / "run"), server.url)
    usage = run.read(tmp_path / "run").metrics["kv_usage"].tolist()
    assert usage[0] == 0.5
    assert all(map(math.isnan, usage[1:]))
    notes = "; ".join(summary["notes"])
    assert r"a\ud800store \x1b[31mis down" in notes
    assert "the answer is partial" in notes
    assert "a: kv_usage that is no finite number is left out: a fraction is 0 to 1 (3 times)" in notes
    kinds = {event["kind"] for event in run.read(tmp_path / "run").events}
    assert {"metrics_value", "metrics_source"} <= kinds


def test_a_label_that_no_file_can_hold_is_written_without_what_it_cannot(tmp_path: Path):
    text = vector([{"metric": RUNNING[0] | {"pod": "a\ud800"}, "values": RUNNING[1]}])
    with servers.serving(answering(200, text)) as server:
        collect(new_run(tmp_path / "run"), server.url)
    assert set(run.read(tmp_path / "run").metrics["pod"]) == {"a?"}


# --- one number per replica ------------------------------------------------------------------------------------------


def collected(tmp_path: Path, series: list[Any], **options: Any) -> tuple[Any, Any]:
    with servers.serving(servers.FakePrometheus(series)) as server:
        summary = collect(new_run(tmp_path / "run"), server.url, **options)
    return summary, run.read(tmp_path / "run").metrics


def test_twin_servers_tell_a_pod_once_and_the_fuller_is_taken(tmp_path: Path):
    summary, metrics = collected(
        tmp_path,
        [
            told("vllm:num_requests_waiting", "3", prometheus_replica="x"),
            told("vllm:num_requests_waiting", "3", prometheus_replica="y"),
            told("vllm:kv_cache_usage_perc", "0.9", prometheus_replica="y"),
        ],
    )
    assert metrics["waiting"].tolist() == [3.0] * 31, "at equal stamps: not 6, and no row twice"
    assert metrics["kv_usage"].tolist() == [0.9] * 31
    assert "prometheus_replica=y are taken, those with prometheus_replica=x left out" in summary["notes"][0]


def test_a_pod_that_came_back_at_another_address_goes_on(tmp_path: Path):
    summary, metrics = collected(
        tmp_path,
        [
            told("vllm:num_requests_waiting", "1", range(15), instance="10.0.0.1:8000"),
            told("vllm:num_requests_waiting", "2", range(15, 31), instance="10.0.0.2:8000"),
        ],
    )
    assert metrics["waiting"].tolist() == [1.0] * 15 + [2.0] * 16
    assert summary["notes"] == []


def test_a_router_beside_its_replicas_is_left_out(tmp_path: Path):
    summary, metrics = collected(
        tmp_path,
        [
            RUNNING,
            *(
                told(
                    "vllm:num_requests_running",
                    "9",
                    pod="router",
                    model_name="",
                    server=f"http://10.0.0.{n}:8000",
                )
                for n in (1, 2)
            ),
        ],
    )
    assert set(metrics["pod"]) == {"a"}
    assert "router: a router's copies of other servers' metrics are left out" in summary["notes"][0]


def test_a_label_that_prometheus_puts_on_everything_makes_no_router(tmp_path: Path):
    _, metrics = collected(tmp_path, [told("vllm:num_requests_running", server="prom.example:9090")])
    assert metrics["running"].tolist() == [1.0] * 31


def test_facts_are_those_of_the_replicas_that_are_taken(tmp_path: Path):
    facts = [
        (
            {"__name__": "vllm:cache_config_info", "pod": pod, "num_gpu_blocks": blocks, "block_size": "16"},
            RUNNING[1],
        )
        for pod, blocks in (("a", "100"), ("b", "999"))
    ]
    other = told("vllm:num_requests_running", model_name="other", pod="b")
    summary, _ = collected(tmp_path, [RUNNING, other, *facts])
    assert summary["engine"]["kv_tokens"] == 1600


@pytest.mark.parametrize("clock", ["NaN", "+Inf", "x", "1e300"])
def test_an_odd_clock_of_the_server_is_no_crash(tmp_path: Path, clock: str):
    fake = servers.FakePrometheus([RUNNING])
    odd = vector([T0, clock])
    with servers.serving(lambda p, q: (200, odd) if q.get("query") == "time()" else fake(p, q)) as server:
        if clock in ("NaN", "x"):
            assert collect(new_run(tmp_path / "run"), server.url)["clock_offset_s"] == 0.0
        else:
            with pytest.raises(SourceUnavailable, match="the clock of"):
                collect(new_run(tmp_path / "run"), server.url)


def test_a_relabelled_name_is_found_and_an_aggregate_is_not(tmp_path: Path):
    _, metrics = collected(
        tmp_path, [told("ray_vllm_num_requests_running", "2"), told("job:vllm:num_requests_waiting:sum", "7")]
    )
    assert metrics["running"].tolist() == [2.0] * 31
    assert metrics["waiting"].isna().all()


def test_the_only_model_is_taken_where_the_selector_points_at_it(tmp_path: Path):
    series = [told("vllm:num_requests_running", model_name="base", namespace="ns")]
    summary, metrics = collected(tmp_path, series, namespace="ns")
    assert len(metrics) == 31
    assert summary["notes"] == ["the metrics are of model base, the only one there; the run's is m"]


def test_the_header_names_the_model_of_the_metrics(tmp_path: Path):
    series = [told("vllm:num_requests_running", model_name=name) for name in ("base", "other")]
    target = new_run(tmp_path / "run", metrics_model="base")
    with servers.serving(servers.FakePrometheus(series)) as server:
        summary = collect(target, server.url)
    assert (summary["rows"], summary["other_models"]) == (31, ["other"])


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        pytest.param([100, 90, 120], [100, math.nan, 120], id="an old value told again"),
        pytest.param([100, 5, 10], [100, 105, 110], id="a restart"),
        pytest.param([100, 70, 75, 80, 85], [100, 100, 105, 110, 115], id="one of two processes is gone"),
        pytest.param([100, 90], [100, math.nan], id="the last value ran back"),
    ],
)
def test_a_counter_that_falls(tmp_path: Path, values: list[float], kept: list[float]):
    counter = told("vllm:prompt_tokens_total", times=range(len(values)))
    pairs = [[t, str(v)] for (t, _), v in zip(counter[1], values, strict=True)]
    _, metrics = collected(tmp_path, [(counter[0], pairs)])
    assert metrics["prompt_tokens_total"].tolist() == pytest.approx(kept, nan_ok=True)


# --- the run's window ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        {"started_at": 1e18},
        {"started_at": math.nan},
        {"started_at": math.inf},
        {"started_at": True},
        {"ended_at": math.inf},
        {"ended_at": "soon"},
        {"ended_at": T0 - 1},
        {"ended_at": T0 + 40 * 86_400},
    ],
    ids=repr,
)
def test_a_window_that_cannot_be_is_a_sentence(tmp_path: Path, header: dict[str, Any]):
    path = new_run(tmp_path / "run")
    told = json.loads((path / run.HEADER).read_text())
    (path / run.HEADER).write_text(
        json.dumps(told | header)
    )  # a hand's: the product writes null for what is not finite
    with pytest.raises(BadRun, match=r"started_at|ended_at"):
        collect(path, "http://127.0.0.1:1")


# --- keys and certificates -------------------------------------------------------------------------------------------


def test_headers_do_not_follow_to_another_host(tmp_path: Path):
    fake = servers.FakePrometheus([RUNNING])
    going = access(headers=["X-Scope-OrgID: team", "Authorization: Bearer s3cr3t"], key_variables=())
    with servers.serving(fake) as other, servers.serving(fake, moved_to=other.url) as server:
        collect(new_run(tmp_path / "run"), server.url.replace("127.0.0.1", "localhost"), access=going)
    assert server.seen[0]["Authorization"] == "Bearer s3cr3t"
    assert not {"X-Scope-OrgID", "Authorization"} & {name for seen in other.seen for name in seen}


def private_ca(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context, and the certificate that it signed itself with."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    certificate, key = folder / "ca.pem", folder / "key.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    command = [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key]
    subprocess.run([program, *command], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


def test_a_private_certificate_is_named_and_trusted_on_request(tmp_path: Path):
    context, certificate = private_ca(tmp_path)
    with servers.serving(servers.FakePrometheus([RUNNING]), tls=context) as server:
        with pytest.raises(SourceUnavailable, match=r"TLS: its certificate was refused.*--ca-file FILE"):
            collect(new_run(tmp_path / "no"), server.url)
        for name, options in (("ca", {"ca_file": certificate}), ("insecure", {"insecure": True})):
            going = access(**options, key_variables=())
            assert collect(new_run(tmp_path / name), server.url, access=going)["rows"] == 31
        plain = server.url.replace("https", "http")
        with pytest.raises(SourceUnavailable, match="cannot reach Prometheus"):
            collect(new_run(tmp_path / "plain"), plain)


SECRETS = ("pl4nted-password", "pl4nted-tenant", "pl4nted-token", "pl4nted-query")


def called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[Any, str]:
    monkeypatch.setattr(sys, "argv", ["autoscale", *words])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("status", "code"), [(200, 0), (401, 3), (503, 3), (0, 3)], ids=["works", "refused", "down", "no server"]
)
def test_no_secret_of_a_prometheus_is_printed_or_written(
    tmp_path: Path, monkeypatch, capsys, status: int, code: int
):
    monkeypatch.setenv("TENANT", "pl4nted-tenant")
    (tmp_path / "token").write_text("pl4nted-token\n")
    fake = servers.FakePrometheus([RUNNING])
    with servers.serving(fake if status == 200 else lambda *_: (status or 200, "")) as server:
        host = server.url if status else "http://127.0.0.1:1"
        for k, (url, more) in enumerate(
            (
                (host.replace("//", "//me:pl4nted-password@"), ["--header", "X-Scope-OrgID: $TENANT"]),
                (host, ["--token-file", str(tmp_path / "token"), "--header", "X-Key: pl4nted-query"]),
            )
        ):
            target = new_run(tmp_path / f"run{k}")
            ended, said = called(
                monkeypatch, capsys, "collect", str(target), "--prometheus", url, *more, "--json"
            )
            assert ended == code, said
            assert found(SECRETS, target, said) == []


def test_a_protected_replica_is_scraped_with_a_key_and_nothing_tells_it(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "")
    key = tmp_path / "key"
    key.write_text("pl4nted-token")
    target = new_run(tmp_path / "run", ended_at=None)
    with servers.serving(servers.FakeVllm(), {"Authorization": "Bearer pl4nted-token"}) as server:
        with pytest.raises(
            SourceUnavailable, match=r"401 \(it wants a key\)\)\. Give its key with --api-key-file"
        ):
            Scraper(target, [server.url], access=access(environ={})).start()
        wrong = tmp_path / "wrong"
        wrong.write_text("pl4nted-other")
        with pytest.raises(SourceUnavailable, match=r"401 \(it does not accept the key\)"):
            Scraper(target, [server.url], access=access(key_file=wrong)).start()
        scraper = Scraper(
            target,
            [f"{server.url}/metrics?token=pl4nted-query"],
            interval_s=0.05,
            access=access(key_file=key),
        ).start()
        while len(server.seen) < 6:
            os.sched_yield()
        summary = scraper.stop()
    assert summary["rows"] > 0
    assert found(SECRETS, target, json.dumps(summary)) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        pytest.param(["--token-file", "{binary}"], "--token-file: {binary} is not text", id="a binary token"),
        pytest.param(["--token-file", "{lines}"], "has a line break", id="a token of two lines"),
        pytest.param(["--token-file", "{none}"], "--token-file: cannot read {none}", id="no such file"),
        pytest.param(
            ["--api-key-file", "{lines}"], "With Prometheus use --token-file", id="the other option"
        ),
        pytest.param(["--header", "nothing"], "--header is not a header", id="no header"),
        pytest.param(["--prometheus", "ftp://x"], "not a URL: 'ftp://x'", id="another scheme"),
        pytest.param(["--prometheus", "http://x/?a=b#c"], "has a part after #", id="a fragment"),
        pytest.param(
            ["--header", "X: $NO_SUCH_VARIABLE"],
            "--header X names a variable that the environment lacks: 'NO_SUCH_VARIABLE'",
            id="a variable that is none",
        ),
        pytest.param(
            ["--header", "X-Api-Key: @/no/such"],
            "the X-Api-Key of --header: cannot read /no/such: No such file",
            id="a header's file that is none",
        ),
        pytest.param(["--prometheus", "http://[::1"], "not a URL", id="half an address"),
        pytest.param(["--prometheus", "http://x:99999999"], "not a URL", id="a port that is none"),
        pytest.param(["--namespace", 'a"b'], "--namespace: 'a\"b'", id="a namespace that is none"),
    ],
)
def test_bad_options_are_bad_input(tmp_path: Path, monkeypatch, capsys, words: list[str], sentence: str):
    files = {name: str(tmp_path / name) for name in ("binary", "lines", "none")}
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00token")
    (tmp_path / "lines").write_text("a\nb\n")
    target = new_run(tmp_path / "run", prometheus="http://127.0.0.1:1")
    with servers.serving(servers.FakePrometheus([RUNNING])) as server:
        source = [] if "--prometheus" in words else ["--prometheus", server.url]
        ended, said = called(
            monkeypatch, capsys, "collect", str(target), *source, *(word.format(**files) for word in words)
        )
    assert ended == 2
    assert sentence.format(**files) in said


@pytest.mark.parametrize("name", ["a", "sig"])
def test_what_may_be_a_key_in_a_query_is_hidden_and_the_reason_is_not(
    tmp_path: Path, monkeypatch, capsys, name: str
):
    url = f"http://127.0.0.1:1/?{name}=PLANTED12345678"
    ended, said = called(monkeypatch, capsys, "collect", str(new_run(tmp_path / "run")), "--prometheus", url)
    assert ended == 3
    assert f"127.0.0.1:1/?{name}=***: connection refused" in said
    assert "PLANTED" not in said
