"""The fleet over HTTP, end to end on loopback: vLLM's answers, streams, metrics per replica, HPA loop, observations."""

import asyncio
import gc
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from analysis.errors import BadInput
from autoscale.profiles.profile import load, overlay
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.http.hosting import FleetThread
from autoscale.sim.http.live_replicas import LiveReplicas
from autoscale.sim.http.openai_request import Prompt
from autoscale.sim.http.prefix_cache import PrefixCache
from autoscale.sim.http.server import FleetServer

L4 = overlay(load("llama-3.1-8b-1xl4"), {"engine": {"max_model_len": 2048, "request_overhead_s": 0.0}})
MODEL = L4.model.id
# 2 ms a token, 4 seats: quick to fill, quick to answer
QUICK = EngineParams(
    base_s=0.002,
    per_sequence_s=0.0,
    per_kv_token_s=0.0,
    per_prefill_token_s=0.0,
    num_blocks=1001,
    max_num_seqs=4,
    max_num_batched_tokens=2048,
)
METRIC = "prometheus.googleapis.com|vllm:num_requests_waiting|gauge"


def manifest(most: int = 3, target: str = "2") -> dict:
    metric = {"metric": {"name": METRIC}, "target": {"type": "AverageValue", "averageValue": target}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "vllm-hpa"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": L4.deploy.name},
            "minReplicas": 1,
            "maxReplicas": most,
            "metrics": [{"type": "Pods", "pods": metric}],
        },
    }


def ask(
    url: str,
    body: object = None,
    *,
    method: str | None = None,
    kind: str = "application/json",
    **headers: str,
):
    """(status, body as text) of one request."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": kind} | headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def events_of(text: str) -> list:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def observations(server: FleetServer) -> list[dict]:
    return [json.loads(line) for line in ask(f"{server.url}/fleet/observations?follow=false")[1].splitlines()]


def until(condition, within_s: float = 15.0):
    """Wait for something that another thread brings about."""
    end = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="module")
def server():
    with FleetThread(FleetServer(L4, port=0, replicas=2, engine=QUICK, speed=100.0)) as running:
        yield running


# --- vLLM's API ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "nope"}, 404, f"The model `nope` does not exist. Valid aliases: {MODEL}."),
        ({"max_tokens": 0}, 400, "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"),
        ({"max_tokens": -1}, 400, "max_tokens must be at least 1, got -1. (parameter=max_tokens, value=-1)"),
        (
            {"max_tokens": 100_000},
            400,
            "max_tokens=100000 cannot be greater than max_model_len=2048. Please request fewer output tokens. "
            "(parameter=max_tokens, value=100000)",
        ),
        ({"min_tokens": 50}, 400, "min_tokens must be less than or equal to max_tokens=12, got 50."),
        (
            {"prompt": ""},
            400,
            "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)",
        ),
        (
            {"prompt": None},
            400,
            "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)",
        ),
        ({"prompt": []}, 400, "You must pass at least one prompt"),
        (
            {"prompt": [5] * 3000},
            400,
            "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
        ),
        (
            {"prompt": [5] * 3000, "max_tokens": None},
            400,
            "This model's maximum context length is 2048 tokens. However, your prompt contains 3000 input tokens, which "
            "exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
            "(parameter=input_tokens, value=3000)",
        ),
        (
            {"prompt": ["x"] * 100, "n": 100},
            400,
            "100 prompts x n=100 are 10000 choices, this server answers at most 1024 in one request. "
            "(parameter=n, value=100)",
        ),
        (
            {"stream_options": {"include_usage": True}},
            400,
            "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
        ),
    ],
)
def test_what_vllm_refuses_is_refused_in_its_words(server, change, status, message) -> None:
    body = {"model": MODEL, "prompt": "The server must wait", "max_tokens": 12} | change
    answer = ask(f"{server.url}/v1/completions", body)
    assert answer[0] == status
    error = json.loads(answer[1])["error"]
    assert error["message"] == message
    assert error["code"] == status


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "part"),
    [
        ("/nope", {}, "application/json", 404, '{"detail": "Not Found"}'),
        ("/v1/completions", None, "application/json", 405, '{"detail": "Method Not Allowed"}'),
        ("/v1/completions", b'{"model": ', "application/json", 400, "JSON decode error"),
        ("/v1/completions", {"prompt": "x"}, "text/plain", 400, "Unsupported Media Type"),
        (
            "/v1/completions",
            {"prompt": "x", "temperature": "hot"},
            "application/json",
            400,
            "body.temperature",
        ),
        ("/v1/chat/completions", {"messages": []}, "application/json", 400, "Cannot apply chat template"),
        ("/v1/chat/completions", {"prompt": "x"}, "application/json", 400, "body.messages"),
        ("/tokenize", b"[]", "application/json", 400, "valid dictionary"),
        ("/fleet/scale", {}, "application/json", 400, "replicas=N"),
        ("/fleet/scale?replicas=-1", {}, "application/json", 400, "replicas=N"),
        (f"/fleet/scale?replicas={'9' * 5000}", {}, "application/json", 400, "replicas=N"),
        ("/fleet/observations?since=yesterday", None, "application/json", 400, "number of an observation"),
        ("/fleet/observations?since=%C2%B2", None, "application/json", 400, "number of an observation"),
    ],
)
def test_other_bad_requests(server, path, body, kind, status, part) -> None:
    answer = ask(server.url + path, body, kind=kind)
    assert answer[0] == status
    assert part in answer[1]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param({"n": 10**9}, "n must be at most 128, got 1000000000.", id="a billion choices"),
        pytest.param({"n": 0}, "n must be at least 1, got 0.", id="no choice"),
        pytest.param({"n": 1.5}, "body.n', 'msg': 'Input should be a valid integer", id="one and a half choices"),
        pytest.param({"n": [2]}, "body.n', 'msg': 'Input should be a valid integer", id="choices that are a list"),
        pytest.param({"max_tokens": 10**40}, "cannot be greater than max_model_len=2048", id="tokens beyond int64"),
        pytest.param({"max_tokens": {}}, "body.max_tokens", id="tokens that are an object"),
        pytest.param({"stream": "yes"}, "body.stream', 'msg': 'Input should be a valid boolean", id="stream as a word"),
        *(
            pytest.param(
                {"stream": True, "stream_options": options},
                "body.stream_options', 'msg': 'Input should be a valid dictionary",
                id=f"stream_options that are {type(options).__name__}",
            )
            for options in ([], "all", 7, True)
        ),
        pytest.param(
            {"stream": True, "stream_options": {"include_usage": [1]}},
            "body.stream_options.include_usage",
            id="include_usage that is a list",
        ),
        pytest.param({"model": ["x"]}, "does not exist", id="a list of models"),
        pytest.param({"model": "\ud800"}, "does not exist", id="a model that is no Unicode"),
        pytest.param(
            {"prompt": "half \ud83d of it", "messages": [{"role": "user", "content": "half \ud83d of it"}]},
            r"holds \ud83d alone",
            id="half of a character",
        ),
        pytest.param(
            {"prompt": {"text": "x"}, "messages": ["x"]}, "Input should be a valid", id="text of another type"
        ),
        pytest.param(
            {"prompt": [["x"]], "messages": [{"content": 7}]}, "Input should be a valid", id="nested the wrong way"
        ),
        pytest.param(
            {"prompt": ["x"] * 1025, "messages": [{"content": [7]}]}, "at most 1024|list of parts", id="too many prompts"
        ),
    ],
)  # fmt: skip
def test_what_would_cost_the_server_too_much_or_is_no_request_gets_a_sentence(server, path, change, sentence):
    body = {"prompt": "x", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2} | change
    status, text = ask(server.url + path, body)
    assert status == (404 if "model" in change else 400)
    message = json.loads(text)["error"]["message"]
    assert any(part in message for part in sentence.split("|"))


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
@pytest.mark.parametrize(
    ("raw", "status", "part"),
    [
        pytest.param(b"[" * 200_000, 400, "nested too deep", id="brackets without end"),
        pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400, "nested too deep", id="objects in objects"),
        pytest.param(b"1" * 10_000, 400, "JSON decode error", id="a number of ten thousand digits"),
        pytest.param(b"\xff\xfe{", 400, "JSON decode error", id="bytes that are no text"),
        pytest.param(rb'{"prompt": "\ud800", "messages": [{"content": "\ud800"}]}', 400, "alone", id="no Unicode"),
        pytest.param(b'"' + b"x" * (8 << 20) + b'"', 413, "Maximum request body size 8388608 exceeded", id="9 MB"),
    ],
)  # fmt: skip
def test_no_body_is_an_error_of_the_server(server, path, raw, status, part) -> None:
    answer = ask(server.url + path, raw)
    assert answer[0] == status
    assert part in json.loads(answer[1])["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_a_body_that_is_not_compressed_as_it_says_is_a_bad_request(server, path) -> None:
    answer = ask(server.url + path, b"notgzip", **{"Content-Encoding": "gzip"})
    assert answer[0] == 400
    assert "Content-Encoding" in json.loads(answer[1])["error"]["message"]


@pytest.mark.parametrize("path", ["/fleet/scale?replicas=2", "/v1/completions", "/tokenize"])
@pytest.mark.parametrize(
    ("origin", "refused"),
    [
        pytest.param("http://elsewhere.example", True, id="a page of somewhere else"),
        pytest.param("http://127.0.0.1:1", True, id="a page of another port of this machine"),
        pytest.param("http://[", True, id="an origin that is none"),
        pytest.param("null", True, id="a page without an origin"),
        pytest.param("own", False, id="a page of its own"),
    ],
)
def test_only_its_own_pages_may_post_to_it(server, path: str, origin: str, refused: bool) -> None:
    body = {"prompt": "x", "max_tokens": 1}
    answer = ask(server.url + path, body, Origin=server.url if origin == "own" else origin)
    assert answer[0] == (403 if refused else 200)
    assert not refused or "send the request without Origin" in json.loads(answer[1])["error"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("attacker.example", 403, id="a name that was made to lead here"),
        pytest.param("attacker.example:PORT", 403, id="the same with the port"),
        pytest.param("127.0.0.1.attacker.example", 403, id="a name that begins like an address"),
        pytest.param("localhost.attacker.example:PORT", 403, id="a name that begins like localhost"),
        pytest.param("192.0.2.1", 403, id="an address of somewhere else"),
        pytest.param("", 403, id="no name"),
        pytest.param("127.0.0.1:PORT", 200, id="its address"),
        pytest.param("LocalHost:PORT", 200, id="localhost, as somebody may write it"),
        pytest.param("localhost:1", 200, id="a port that is forwarded here"),
        pytest.param("[::1]:PORT", 200, id="the other loopback address, forwarded"),
    ],
)
def test_a_fleet_on_loopback_answers_only_to_names_of_this_machine(server, host: str, status: int) -> None:
    named = host.replace("PORT", str(server.port))
    pages = [f"{server.url}/fleet", f"{server.url}/v1/models", server.ports.url(0)]
    for url in pages:
        answer = ask(url, Host=named)
        assert answer[0] == status, url
        assert status == 200 or "is no name of this machine: ask for 127.0.0.1" in answer[1]
    own = {"Host": named, "Origin": f"http://{named}"}  # the page that a rebound name brought
    assert ask(f"{server.url}/fleet/scale?replicas=2", {}, **own)[0] == status


def test_a_client_of_http_1_0_names_no_host(server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.0 200")


def test_a_fleet_on_every_address_answers_to_any_name_but_not_to_pages_of_elsewhere() -> None:
    with FleetThread(FleetServer(L4, host="0.0.0.0", port=0, engine=QUICK)) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert ask(f"{url}/fleet", Host="fleet.lab")[0] == 200
        assert ask(f"{url}/fleet/scale?replicas=1", {}, Host="fleet.lab", Origin="http://fleet.lab")[0] == 200
        assert ask(f"{url}/fleet/scale?replicas=1", {}, Host="fleet.lab", Origin="http://b.lab")[0] == 403


def test_a_connection_too_many_is_told_so(monkeypatch) -> None:
    monkeypatch.setattr("autoscale.sim.http.ports.MOST_CONNECTIONS", 3)
    with FleetThread(FleetServer(L4, port=0, engine=QUICK)) as server:
        held = [socket.create_connection((server.host, server.port)) for _ in range(3)]
        answer = until(lambda: (found := ask(f"{server.url}/health", {}))[0] == 503 and found)
        assert "holds 3 connections and takes no more" in json.loads(answer[1])["error"]["message"]
        for one in held:
            one.close()
        until(lambda: answered(server))


def whole(client: socket.socket) -> bytes:
    """All that a server sends until it closes the connection."""
    client.settimeout(30)
    return b"".join(iter(lambda: client.recv(65_536), b""))


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /health HT", HEAD, HEAD + b"X: "],
    ids=["nothing", "half a line", "headers", "half a header"],
)
def test_a_request_that_does_not_become_whole_is_closed(monkeypatch, sent: bytes) -> None:
    monkeypatch.setattr("autoscale.sim.http.ports.IDLE_S", 0.5)
    with FleetThread(FleetServer(L4, port=0, engine=QUICK)) as server:
        with socket.create_connection((server.host, server.port)) as client:
            client.sendall(sent)
            assert whole(client) == b""
        assert answered(server)


def test_a_body_that_comes_byte_by_byte_has_one_time(monkeypatch) -> None:
    monkeypatch.setattr("autoscale.sim.http.errors.BODY_S", 0.5)
    with (
        FleetThread(FleetServer(L4, port=0, engine=QUICK)) as server,
        socket.create_connection((server.host, server.port)) as client,
    ):
        client.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        client.settimeout(0.02)
        until(lambda: _dripped(client))
        client.settimeout(30)
        assert client.recv(65_536).startswith(b"HTTP/1.1 408 ")


def _dripped(client: socket.socket) -> bool:
    """One more byte is sent; whether there is an answer."""
    client.sendall(b" ")
    with suppress(TimeoutError):
        return bool(client.recv(1, socket.MSG_PEEK))
    return False


NO_HTTP = [
    # what is sent, the status
    pytest.param(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, id="two lengths"),
    pytest.param(HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="a length and chunks"),
    pytest.param(HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, id="chunks by another name"),
    pytest.param(HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, id="a blank before the colon"),
    pytest.param(HEAD + b"Content-Length: +2\r\n\r\n{}", 400, id="a length with a sign"),
    pytest.param(HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}", 400, id="a length of 5000 digits"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", 400, id="a chunk size that is none"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n{}", 400, id="a chunk beyond measure"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n", 400, id="chunks of bare line feeds"),
    pytest.param(HEAD + b"Host: elsewhere\r\n\r\n", 400, id="two hosts"),
    pytest.param(HEAD + b"X: a\0b\r\n\r\n", 400, id="a zero byte"),
    pytest.param(b"GET /health HTTP/9.9\r\n\r\n", 400, id="another version"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", 400, id="TLS"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "status"), NO_HTTP)
def test_what_is_no_http_is_answered_400_and_ends_the_connection(caplog, sent: bytes, status: int) -> None:
    """A second request behind it, smuggled past a proxy before the fleet, is not answered."""
    with (
        FleetThread(FleetServer(L4, port=0, engine=QUICK)) as server,
        socket.create_connection((server.host, server.port)) as client,
    ):
        client.sendall(sent + b"GET /fleet/truth HTTP/1.1\r\nHost: localhost\r\n\r\n")
        told = whole(client)
        assert re.findall(rb"HTTP/1\.[01] (\d+) ", told) == [b"%d" % status]
    assert not [record for record in caplog.records if record.exc_info], "no traceback for a client's fault"


def answered(server: FleetServer) -> bool:
    return ask(f"{server.url}/health")[0] == 200


@pytest.mark.parametrize(
    ("param", "value"),
    [pytest.param("stream", True, id="streams"), pytest.param("n", 4, id="answers of four choices")],
)
def test_requests_of_clients_that_go_away_do_not_wait_for_ever(param, value) -> None:
    """Nothing else comes: the gauges fall because the queue is empty, not because of the next request."""
    body = json.dumps({"prompt": "x", "max_tokens": 1500, param: value}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with FleetThread(FleetServer(L4, port=0, engine=QUICK)) as server:
        clients = [socket.create_connection((server.host, server.port)) for _ in range(60)]
        for client in clients:
            client.sendall(head.encode() + body)
        until(lambda: sum(server.live.gauges()["waiting"]) >= 56)
        for client in clients:
            client.close()
        url = json.loads(ask(f"{server.url}/fleet")[1])["replicas"][0]["metrics_url"]
        labels = f'{{engine="0",model_name="{MODEL}"}}'
        gone = [f"vllm:num_requests_{state}{labels} 0.0" for state in ("waiting", "running")]
        until(lambda: all(line in ask(url)[1] for line in gone))


def test_requests_of_clients_that_go_away_before_a_replica_is_ready_are_forgotten() -> None:
    with FleetThread(FleetServer(L4, port=0, replicas=0, engine=QUICK)) as server:
        body = json.dumps({"prompt": "x", "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((server.host, server.port)) as client:
            client.sendall(head.encode() + body)
            until(lambda: len(server.gateway.waiting) == 1)
        until(lambda: not server.gateway.waiting)


@pytest.mark.parametrize(
    ("change", "tokens"),
    [
        pytest.param({}, 16, id="completions default to 16 tokens"),
        pytest.param({"max_tokens": 7, "ignore_eos": True}, 7, id="ignore_eos gives exactly max_tokens"),
        pytest.param(
            {"prompt": [5] * 2040, "max_tokens": 500},
            8,
            id="prompt and max_tokens are clamped to the context",
        ),
        pytest.param({"prompt": ["a b", [1, 2, 3]], "max_tokens": 4}, 8, id="two prompts, two choices"),
        pytest.param(
            {"n": 3, "max_tokens": 4, "nonsense": 1}, 12, id="n choices; unknown fields are accepted"
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_tokens_of_an_answer(server, change, tokens, stream) -> None:
    body = {"model": MODEL, "prompt": "The server must wait"} | change
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
    status, text = ask(f"{server.url}/v1/completions", body)
    assert status == 200
    if not stream:
        answer = json.loads(text)
        assert answer["usage"]["completion_tokens"] == tokens
        assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
        return
    events = events_of(text)
    assert events[-1]["choices"] == []
    usage = events[-1]["usage"]
    assert usage["completion_tokens"] == tokens
    assert usage["total_tokens"] == tokens + usage["prompt_tokens"]
    assert sum(len(event["choices"][0]["token_ids"]) for event in events[:-1]) == tokens
    assert [e["choices"][0]["finish_reason"] for e in events[:-1]].count("length") == len(
        {e["choices"][0]["index"] for e in events[:-1]}
    )


def test_a_chat_stream_begins_with_the_role_and_ends_with_done(server) -> None:
    body = {"messages": [{"role": "user", "content": "Say something"}], "max_tokens": 3, "stream": True}
    events = events_of(ask(f"{server.url}/v1/chat/completions", body)[1])
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("usage" not in event for event in events)
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_the_same_text_has_the_same_number_of_tokens_everywhere(server) -> None:
    text = "Every request waits for a seat, and some wait twice."
    count = json.loads(ask(f"{server.url}/tokenize", {"prompt": text})[1])["count"]
    usage = json.loads(ask(f"{server.url}/v1/completions", {"prompt": text, "max_tokens": 1})[1])["usage"]
    assert usage["prompt_tokens"] == count > 8
    messages = {"messages": [{"role": "user", "content": text}]}
    count = json.loads(ask(f"{server.url}/tokenize", messages)[1])["count"]
    usage = json.loads(ask(f"{server.url}/v1/chat/completions", messages | {"max_tokens": 1})[1])["usage"]
    assert usage["prompt_tokens"] == count > 15
    assert json.loads(ask(f"{server.url}/v1/models")[1])["data"][0]["max_model_len"] == 2048
    assert json.loads(ask(f"{server.url}/version")[1])["version"] == L4.engine.vllm_version


def test_tokens_take_their_true_time_at_any_control_speed(server) -> None:
    async def gaps() -> list[float]:
        times = []
        async with aiohttp.ClientSession() as client:
            body = {"prompt": "x", "max_tokens": 200, "stream": True}
            async with client.post(f"{server.url}/v1/completions", json=body) as answer:
                async for line in answer.content:
                    if line.startswith(b"data: {"):
                        times.append(time.perf_counter())
        return times

    times = asyncio.run(gaps())
    # 200 tokens of 2 ms: 0.4 s; at a hundredth it would be 4 ms. An upper bound would time this machine, not the fleet.
    assert times[-1] - times[0] > 0.9 * 199 * 0.002


def test_a_client_that_goes_away_frees_its_seat_at_once(server) -> None:
    async def leave() -> None:
        async with aiohttp.ClientSession() as client:
            body = {"prompt": "x", "max_tokens": 2000, "stream": True}
            async with client.post(f"{server.url}/v1/completions", json=body) as answer:
                await answer.content.readline()

    asyncio.run(leave())
    until(lambda: sum(server.live.gauges()["in_flight"]) == 0, within_s=2.0)


def test_each_replica_exports_vllms_metrics(server) -> None:
    for _ in range(8):  # each on a new connection: both replicas get some
        ask(f"{server.url}/v1/completions", {"prompt": "a b c", "max_tokens": 5})
    total = 0.0
    replicas = json.loads(ask(f"{server.url}/fleet")[1])["replicas"]
    assert [replica["state"] for replica in replicas] == ["ready", "ready"]
    for replica in replicas:
        families = {f.name: f for f in text_string_to_metric_families(ask(replica["metrics_url"])[1])}
        for name in (
            "vllm:num_requests_waiting",
            "vllm:num_requests_running",
            "vllm:kv_cache_usage_perc",
            "vllm:num_preemptions",
            "vllm:prompt_tokens",
            "vllm:generation_tokens",
            "vllm:request_success",
            "vllm:prefix_cache_hits",
            "vllm:time_to_first_token_seconds",
            "vllm:inter_token_latency_seconds",
            "vllm:e2e_request_latency_seconds",
            "vllm:request_queue_time_seconds",
        ):
            assert {"engine": "0", "model_name": MODEL}.items() <= families[name].samples[0].labels.items()
        info = families["vllm:cache_config_info"].samples[0].labels
        assert (info["num_gpu_blocks"], info["block_size"]) == ("1001", "16")
        success = families["vllm:request_success"].samples
        done = {s.labels["finished_reason"]: s.value for s in success if s.name.endswith("_total")}
        ttft = {
            s.name: s.value
            for s in families["vllm:time_to_first_token_seconds"].samples
            if "bucket" not in s.name
        }
        assert ttft["vllm:time_to_first_token_seconds_count"] >= done["length"]
        total += done["length"]
    assert total >= 8
    targets = json.loads(ask(f"{server.url}/fleet/sd")[1])
    assert [f"http://{t['targets'][0]}/metrics" for t in targets] == [r["metrics_url"] for r in replicas]


@pytest.mark.parametrize(
    ("before", "prompt", "known"),
    [
        pytest.param([], list(range(64)), 0, id="a new prompt is computed whole"),
        pytest.param(
            [list(range(64))], list(range(64)), 63, id="one fixed prompt is known but for its last token"
        ),
        pytest.param(
            [list(range(64))],
            [*range(40), *range(90, 130)],
            32,
            id="a shared beginning counts in whole blocks",
        ),
        pytest.param([list(range(64))], [7, *range(64)], 0, id="another head shifts everything behind it"),
        pytest.param(
            [list(range(64)), *([k] * 16 for k in range(100, 140))],
            list(range(64)),
            0,
            id="forgotten when the cache is full",
        ),
    ],
)
def test_a_replica_knows_the_prefixes_of_earlier_prompts(before, prompt, known) -> None:
    cache = PrefixCache(replace(QUICK, num_blocks=33))
    for ids in before:
        cache.look_up(Prompt.of_ids(ids, 16))
    assert cache.look_up(Prompt.of_ids(prompt, 16)) == known


@pytest.mark.parametrize(
    ("routing", "same"),
    [
        pytest.param("connection", {1}, id="a connection stays with its replica"),
        pytest.param("round_robin", {3}, id="requests take turns"),
    ],
)
def test_routing(routing: str, same: set[int]) -> None:
    class Connection:
        pass

    live = LiveReplicas(QUICK, 3, seed=1, routing=routing)
    for slot in range(3):
        live.open(slot, 0.0)
    connections = [Connection() for _ in range(30)]
    picks = [{live.pick(connection) for _ in range(6)} for connection in connections]
    assert {len(slots) for slots in picks} == same
    assert set().union(*picks) == {0, 1, 2}
    live.close(1, 0.0)
    assert all(live.pick(connection) != 1 for connection in connections)


def test_what_has_ended_leaves_no_memory() -> None:
    """A server that runs for weeks: nothing is kept of a request that was answered and told of."""
    live = LiveReplicas(QUICK, 1, seed=1)
    live.open(0, 0.0)

    def served(requests: range) -> int:
        told = 0
        for k in requests:
            live.submit(0, Prompt(64), 4, 10.0 * k)
            for _ in live.advance_due(10.0 * k + 9):
                told += len(live.engines[0].finished())
        return told

    served(range(300))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert served(range(300, 1300)) == 1000
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000, grown


# --- the control plane -----------------------------------------------------------------------------------------------


def test_load_scales_the_fleet_out_and_everybody_can_see_it() -> None:
    fleet = FleetServer(L4, manifest(), port=0, engine=QUICK, speed=300.0, seed=3)
    with FleetThread(fleet) as server, ThreadPoolExecutor(24) as pool:
        body = {"prompt": "x", "max_tokens": 150, "stream": True}
        loads = [pool.submit(ask, f"{server.url}/v1/completions", body) for _ in range(72)]
        until(lambda: len(server.fleet.serving) >= 2, within_s=20)
        seen = observations(server)
        assert all("[DONE]" in load.result()[1] for load in loads)
        truth = json.loads(ask(f"{server.url}/fleet/truth")[1])["replicas"]
        started_at = server.started_at
    assert [o["seq"] for o in seen] == list(range(len(seen)))
    assert [o["time_s"] for o in seen] == sorted(o["time_s"] for o in seen)
    queries = [o["object"] for o in seen if o["resource"] == "custommetrics"]
    assert {q["metric"] for q in queries} == {METRIC}
    assert any(int(v.removesuffix("m")) > 2000 for q in queries for v in (q["values"] or {}).values())
    statuses = [o["object"]["status"] for o in seen if o["resource"] == "horizontalpodautoscalers"]
    assert statuses[0] == {"desiredReplicas": 0, "currentMetrics": None}
    assert max(s["desiredReplicas"] for s in statuses) == 3
    reasons = [o["object"]["reason"] for o in seen if o["resource"] == "events"]
    for reason in (
        "SuccessfulRescale",
        "ScalingReplicaSet",
        "FailedScheduling",
        "Scheduled",
        "Pulled",
        "Started",
    ):
        assert reason in reasons
    late = next(t for t in truth if t["created"] > started_at)
    order = [late[k] for k in ("created", "scheduled", "image", "weights", "engine", "ready")]
    assert order == sorted(order)
    assert order[-1] - order[0] > 60  # control time: a cold start reads as long as it would take
    pod = [
        o["object"]
        for o in seen
        if o["resource"] == "pods" and o["object"]["metadata"]["name"] == late["replica"]
    ]
    assert [p["status"]["phase"] for p in pod] == ["Pending", "Pending", "Running", "Running"]
    conditions = [{c["type"]: c["status"] for c in p["status"]["conditions"]} for p in pod]
    assert [c.get("PodScheduled") for c in conditions] == ["False", "True", "True", "True"]
    assert [c.get("Ready") for c in conditions] == [None, "False", "False", "True"]
    deployment = [o["object"] for o in seen if o["resource"] == "deployments"]
    assert deployment[-1]["status"]["readyReplicas"] >= 2


def test_a_replica_that_goes_drains_and_its_port_refuses() -> None:
    fleet = FleetServer(L4, port=0, replicas=2, engine=QUICK, speed=50.0, options=FleetOptions(grace_s=5.0))
    with FleetThread(fleet) as server, ThreadPoolExecutor(8) as pool:
        urls = {r["name"]: r["metrics_url"] for r in json.loads(ask(f"{server.url}/fleet")[1])["replicas"]}
        body = {"prompt": "x", "max_tokens": 300, "stream": True}
        loads = [pool.submit(ask, f"{server.url}/v1/completions", body) for _ in range(8)]
        until(lambda: sum(server.live.gauges()["in_flight"]) == 8)
        assert ask(f"{server.url}/fleet/scale?replicas=1", {}, method="POST") == (200, '{"replicas": 1}')
        assert all("[DONE]" in load.result()[1] for load in loads)  # drained within the grace
        until(lambda: len(server.fleet.pods.replicas) == 1)
        left = {r["name"] for r in json.loads(ask(f"{server.url}/fleet")[1])["replicas"]}
        gone = next(url for name, url in urls.items() if name not in left)
        with pytest.raises(urllib.error.URLError, match="refused"):
            until(lambda: ask(gone)[0] != 200)
        kinds = [(o["resource"], o["type"]) for o in observations(server)]
    assert ("pods", "DELETED") in kinds


def test_without_grace_a_stream_breaks_off() -> None:
    fleet = FleetServer(
        L4, port=0, engine=QUICK, speed=50.0, options=FleetOptions(grace_s=0.0, no_ready="fail")
    )
    with FleetThread(fleet) as server, ThreadPoolExecutor(1) as pool:
        body = {"prompt": "x", "max_tokens": 2000, "stream": True}
        load = pool.submit(ask, f"{server.url}/v1/completions", body)
        until(lambda: sum(server.live.gauges()["in_flight"]) == 1)
        ask(f"{server.url}/fleet/scale?replicas=0", {}, method="POST")
        with pytest.raises(Exception, match=r"(?i)incomplete|reset|closed"):
            load.result()
        assert ask(f"{server.url}/v1/completions", {"prompt": "x"})[0] == 503
        assert ask(f"{server.url}/health")[0] == 503


def test_observations_are_followed_as_they_come() -> None:
    async def follow(server: FleetServer) -> list[dict]:
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"{server.url}/fleet/observations?since=2") as answer,
        ):
            await client.post(f"{server.url}/fleet/scale?replicas=2")
            seen = []
            async for line in answer.content:
                seen.append(json.loads(line))
                if seen[-1]["resource"] == "pods" and seen[-1]["type"] == "ADDED" and seen[-1]["seq"] > 8:
                    return seen
        return []

    with FleetThread(FleetServer(L4, port=0, engine=QUICK)) as server:
        seen = asyncio.run(follow(server))
    assert [o["seq"] for o in seen] == list(range(2, 2 + len(seen)))


def test_a_watcher_that_goes_away_is_no_error(caplog, monkeypatch) -> None:
    """It goes while it is written to: before that, its handler is cancelled."""

    async def gone(self, data: bytes) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    with FleetThread(FleetServer(L4, port=0, engine=QUICK)) as server:
        monkeypatch.setattr("aiohttp.web.StreamResponse.write", gone)
        assert ask(f"{server.url}/fleet/observations?follow=false")[0] == 200
        monkeypatch.undo()
    assert not [record for record in caplog.records if record.name == "aiohttp.server"]


def test_a_client_that_goes_away_before_its_answer_begins_is_no_error(caplog, monkeypatch) -> None:
    async def gone(self, request: web.BaseRequest) -> None:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    body = {"model": MODEL, "prompt": [1, 2], "max_tokens": 2, "stream": True}
    with FleetThread(FleetServer(L4, port=0, engine=QUICK)) as server:
        with monkeypatch.context() as patch:
            patch.setattr("aiohttp.web.StreamResponse.prepare", gone)
            with pytest.raises((OSError, http.client.HTTPException)):
                ask(f"{server.url}/v1/completions", body)
        assert ask(f"{server.url}/v1/completions", {**body, "stream": False})[0] == 200
    assert not [record for record in caplog.records if record.name == "aiohttp.server"]


def test_a_port_in_use_is_bad_input() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for keywords in ({"port": port}, {"port": 0, "metrics_port": port}):
            with pytest.raises(
                BadInput, match=rf"already in use: {port}; expected a free port. Choose another"
            ):
                FleetThread(FleetServer(L4, engine=QUICK, **keywords)).__enter__()


SERVE = """
from autoscale.profiles.profile import load
from autoscale.sim.http.hosting import serve_fleet
from autoscale.sim.http.server import FleetServer
serve_fleet(FleetServer(load("llama-3.1-8b-1xl4"), port=0), on_started=lambda s: print(s.url, flush=True), with_parent=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_streams_under_way(number) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        with ThreadPoolExecutor(1) as pool:
            body = {"prompt": "x", "max_tokens": 5000, "stream": True}
            load = pool.submit(ask, f"{url}/v1/completions", body)
            metrics_url = json.loads(ask(f"{url}/fleet")[1])["replicas"][0]["metrics_url"]
            until(
                lambda: f'num_requests_running{{engine="0",model_name="{MODEL}"}} 1.0' in ask(metrics_url)[1]
            )
            process.send_signal(number)
            assert process.wait(timeout=10) == 0
            with pytest.raises(Exception, match=r"(?i)incomplete|reset|closed|refused"):
                load.result()


START_AND_DIE = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline().strip(), flush=True)
"""


def test_it_does_not_outlive_the_process_that_started_it() -> None:
    parent = subprocess.run(
        [sys.executable, "-c", START_AND_DIE, SERVE], capture_output=True, text=True, timeout=60, check=True
    )
    url = parent.stdout.strip()

    def refused() -> bool:
        try:
            return ask(f"{url}/health")[0] == 0
        except OSError:
            return True

    until(refused)
