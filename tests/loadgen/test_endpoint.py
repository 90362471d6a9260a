"""Any OpenAI-compatible endpoint: found, asked in a way that it takes, counted by, or refused with one sentence."""

import asyncio
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from analysis import run
from analysis.errors import LONGEST_NAME, BadInput, SourceUnavailable
from analysis.latency import latencies
from autoscale.profiles.profile import load, overlay
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.http.hosting import FleetThread
from autoscale.sim.http.server import FleetServer
from loadgen.plan.lengths import parse_lengths
from loadgen.run.endpoint import served_models, server_facts
from loadgen.run.endpoint.fitting import fitting
from loadgen.run.endpoint.served_models import ServedModel
from loadgen.run.endpoint.server_facts import inspect_server
from loadgen.run.header import FirstHeader
from loadgen.run.options import LoadOptions
from loadgen.wire.refusals import rate_limited
from loadgen.wire.stream import parse_answer
from loadgen.wire.target import HttpTarget
from tests.loadgen.test_locust import ended, start

MODEL = {"id": "m", "root": "org/m", "parent": None, "max_model_len": 2048}
ADAPTER = {"id": "adapter", "root": "/lora", "parent": "m"}
PAGE = b'# HELP vllm:num_requests_running x\nvllm:num_requests_running{engine="0",model_name="m"} 0.0\n'


class Handler(BaseHTTPRequestHandler):
    """GET and POST answers from the server's dicts: path -> (status, content), or a function of the request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, answers):
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length)) if length else {}
        self.server.asked.append((self.path, body))
        status, content = answers.get(self.path, (404, b"<html>Not Found</html>"))
        if callable(content):
            status, content = content(body)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if status == 308:
            self.send_header("location", "https://elsewhere.example/llm?x=1")
        self.send_header("content-length", str(len(data)))
        if data.startswith(b"data:"):
            self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply(self.server.gets)

    def do_POST(self):
        self.reply(self.server.posts)


@contextmanager
def served(gets, posts):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.gets, server.posts, server.asked = True, gets, posts, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def options(**given):
    return LoadOptions(**given)


def listing(*models):
    return 200, {"object": "list", "data": list(models)}


def one_token(prompt_tokens):
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 1}
    events = [
        {"choices": [{"index": 0, "text": "a", "delta": {"content": "a"}}]},
        {"choices": [], "usage": usage},
    ]
    return 200, "".join(f"data: {json.dumps(e)}\n\n" for e in events).encode() + b"data: [DONE]\n\n"


def text_of(body):
    return body["prompt"] if "prompt" in body else body["messages"][0]["content"]


def takes(*, without=(), ids=True):
    """A server's answer that refuses requests with these fields, in words of its own."""

    def answer(body):
        if any(field in body for field in without) or (not ids and isinstance(body.get("prompt"), list)):
            return 422, {"detail": "nope"}
        return one_token(16)

    return 200, answer


def looked(gets, posts, endpoint="completions", path="", **given):
    with served(gets, posts) as (server, url):
        return inspect_server(options(**given), HttpTarget.from_url(url + path), endpoint), server.asked


def test_a_server_s_texts_are_in_a_header_that_can_be_read_and_asked_as_they_are(tmp_path):
    odd = "m\ud800\x1b[31m"
    gets = {"/v1/models": listing({"id": odd}), "/version": (200, {"version": "0.\ud800" + "1" * 1000})}
    facts, asked = looked(gets, {"/v1/completions": takes()})
    assert {body["model"] for path, body in asked if path == "/v1/completions"} == {odd}
    header = FirstHeader(1.0, "", {}, options(rate=1.0), "completions", facts, "tag", None, ["local"])
    written = run.read(run.create(tmp_path / "run", header.as_json())).header
    assert written["model"] == r"m\ud800\x1b[31m"
    assert written["engine"]["vllm_version"].startswith(r"0.\ud8001111")
    assert len(written["engine"]["vllm_version"]) == LONGEST_NAME


# --- where things lie ------------------------------------------------------------------------------------------------

PLACES = [
    ("", "/v1/models", "/v1/completions", None),
    ("/v1/", "/v1/models", "/v1/completions", None),
    ("/serving/v1", "/serving/v1/models", "/serving/v1/completions", None),
    ("/serving//", "/serving/v1/models", "/serving/v1/completions", None),
    ("/v1beta/openai", "/v1beta/openai/models", "/v1beta/openai/completions", "without /v1"),
    ("/v1?api-version=3", "/v1/models?api-version=3", "/v1/completions?api-version=3", None),
]


@pytest.mark.parametrize(
    ("path", "models", "requests", "said"), PLACES, ids=[row[0] or "plain" for row in PLACES]
)
def test_the_api_is_found_below_the_base_path_and_metrics_there_or_at_the_root(path, models, requests, said):
    query = "?" + path.partition("?")[2] if "?" in path else ""
    gets = {
        models: listing(MODEL),
        f"/metrics{query}": (200, PAGE),
        f"/version{query}": (200, {"version": "0.11.0"}),
    }
    server, asked = looked(gets, {requests: one_token(16)}, path=path)
    assert asked[-1][0] == requests
    assert (server.manner.model, server.metrics_model, server.max_model_len) == ("m", "m", 2048)
    assert server.engine == {"vllm_version": "0.11.0", "max_model_len": 2048}
    notes = " ".join(server.notes)
    assert (said or "") in notes
    assert ("/metrics lies at" in notes) == ("serving" in path or "openai" in path)


def test_without_a_model_list_the_path_is_found_by_the_test_request():
    server, _ = looked({}, {"/api/paas/v4/completions": one_token(16)}, path="/api/paas/v4", model="glm")
    assert (server.manner.model, server.manner.path, server.max_model_len) == ("glm", "/completions", None)
    assert server.metrics_model is None


NOT_SERVERS = [
    ("the model list is null", {"/v1/models": (200, {"data": None})}, {}, "lists no model: GET /v1/models answered 200: the model list is null.*--model"),
    ("the model list is empty", {"/v1/models": listing()}, {}, "the model list is empty.*--model"),
    ("ids are no texts", {"/v1/models": listing({"id": 7}, {"id": None}, "m")}, {}, "no model in the list has a text as id"),
    ("nested without end", {"/v1/models": (200, b"[" * 200_000)}, {}, "not an OpenAI-compatible server"),
    ("a redirection", {"/v1/models": (308, b"")}, {}, r"answered 308: it sends to https://elsewhere.example/llm\. Give that address"),
    ("a server that is not ready", {"/v1/models": (503, b"")}, {}, "does not list its models now: GET /v1/models answered 503.*Try again later"),
    ("no such endpoint", {"/v1/models": listing(MODEL)}, {}, r"POST .*/v1/completions answered 404 .*loadgen/chat\.py"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("gets", "posts", "said"), [r[1:] for r in NOT_SERVERS], ids=[r[0] for r in NOT_SERVERS]
)
def test_a_server_that_cannot_be_loaded_is_named_before_the_load(gets, posts, said):
    with pytest.raises(SourceUnavailable, match=said):
        looked(gets, posts)


# --- several models --------------------------------------------------------------------------------------------------

OTHER = {**MODEL, "id": "other", "root": "org/other"}
CHOICES = [
    ("a model and its adapter: the model", [MODEL, ADAPTER], None, "m", "adapter"),
    ("an adapter that is named", [MODEL, ADAPTER], "adapter", "adapter", "metrics of adapter are those of m"),
    ("two names of one model: the first", [MODEL, {**MODEL, "id": "alias"}], None, "m", "alias"),
    (
        "the second name",
        [MODEL, {**MODEL, "id": "alias"}],
        "alias",
        "alias",
        "metrics of alias are those of m",
    ),
    ("one of two models", [MODEL, OTHER], "other", "other", ""),
]


@pytest.mark.parametrize(
    ("models", "asked", "model", "said"), [r[1:] for r in CHOICES], ids=[r[0] for r in CHOICES]
)
def test_which_of_several_names_is_asked_and_whose_metrics_they_are(models, asked, model, said):
    listed, _ = served_models.listed_models(json.dumps({"data": models}).encode())
    chosen, note = served_models.choose_model(listed, asked)
    name, other = served_models.metrics_name(chosen, listed, [])
    assert chosen.id == model
    assert said in f"{note} {other}"
    assert name == ("other" if model == "other" else "m")
    assert served_models.longest(chosen, listed) == 2048


def test_two_models_are_a_question_and_an_unlisted_one_is_refused():
    listed = [ServedModel("a"), ServedModel("b")]
    with pytest.raises(BadInput, match=r"several models: 'a, b'\. Choose one with --model"):
        served_models.choose_model(listed, None)
    with pytest.raises(BadInput, match="unknown --model: 'c'; expected one of a, b"):
        served_models.choose_model(listed, "c")


ODD_NAMES = [
    ("a colour", "m\x1b[31mred", r"m\x1b[31mred"),
    ("line breaks and half a pair", "m\n\ud800", r"m \ud800"),
    ("300 kB", "m" * 300_000, "m" * (LONGEST_NAME - 3) + "..."),
]


@pytest.mark.parametrize(("name", "shown"), [row[1:] for row in ODD_NAMES], ids=[row[0] for row in ODD_NAMES])
def test_a_name_is_shown_such_that_it_can_be_printed_and_is_asked_as_it_is(name, shown):
    listed = [ServedModel(name, root="r"), ServedModel("b" + name, root="r")]
    chosen, note = served_models.choose_model(listed, None)
    assert chosen.id == name
    assert note.startswith(f"the server lists several names: {shown} is asked;")
    assert note.isprintable()
    _, other = served_models.metrics_name(listed[1], listed, [name])
    assert other.endswith(f" are those of {shown}")
    with pytest.raises(BadInput) as refused:
        served_models.choose_model(listed, "other")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 3 * LONGEST_NAME


def test_models_that_name_each_other_as_parent_are_several_models():
    listed = [ServedModel("a", parent="b"), ServedModel("b", parent="a"), ServedModel("c", parent="c")]
    assert [served_models.base_model(m, listed).id for m in listed] == ["a", "b", "c"]
    with pytest.raises(BadInput, match=r"several models: 'a, b, c'"):
        served_models.choose_model(listed, None)
    assert served_models.choose_model(listed, "b")[0].id == "b"


def test_a_count_that_no_server_has_is_not_told():
    page = b'vllm:cache_config_info{num_gpu_blocks="%s",block_size="16"} 1\n' % (b"9" * 5000)
    gets = {"/v1/models": listing({"id": "m", "max_model_len": 10**30}), "/metrics": (200, page)}
    server, _ = looked(gets, {"/v1/completions": takes()})
    assert server.engine == {"block_size": 16}
    assert server.max_model_len is None


def test_the_name_on_the_metrics_page_wins_where_it_is_the_only_one():
    assert served_models.metrics_name(ServedModel("x"), [ServedModel("x")], ["llama"]) == (
        "llama",
        "metrics of x are those of llama",
    )
    assert served_models.metrics_name(ServedModel("x"), [ServedModel("x")], ["p", "q"]) == (None, None)


# --- what a server takes ---------------------------------------------------------------------------------------------

REFUSALS = [
    ("token ids", "completions", takes(ids=False), r"take token ids as prompt: it answered 422 \(nope\)\. Add --prompts words$"),
    ("ignore_eos", "completions", takes(without=["ignore_eos"]), r"take ignore_eos with min_tokens: .* Add --no-ignore-eos$"),
    ("min_tokens", "chat", takes(without=["min_tokens"]), "Add --no-ignore-eos$"),
    ("both", "completions", takes(without=["ignore_eos"], ids=False), "Add --prompts words --no-ignore-eos$"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "post", "said"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS]
)
def test_the_option_without_which_nothing_is_taken_is_named(endpoint, post, said):
    posts = {"/v1/completions": post, "/v1/chat/completions": post}
    with pytest.raises(BadInput, match=said):
        looked({"/v1/models": listing(MODEL)}, posts, endpoint)


HEALED = [
    ("max_tokens", ["max_tokens"], "max_completion_tokens is sent", ("max_completion_tokens", True)),
    ("stream_options", ["stream_options"], "tokens are counted by events", ("max_tokens", False)),
    (
        "both",
        ["max_tokens", "stream_options"],
        "max_completion_tokens is sent",
        ("max_completion_tokens", False),
    ),
]


@pytest.mark.parametrize(("fields", "said", "manner"), [r[1:] for r in HEALED], ids=[r[0] for r in HEALED])
def test_what_can_be_said_in_another_way_is_and_noted(fields, said, manner):
    posts = {"/v1/chat/completions": takes(without=fields)}
    server, asked = looked({"/v1/models": listing(MODEL)}, posts, "chat")
    assert (server.manner.limit_field, server.manner.usage) == manner
    assert said in " ".join(server.notes)
    sent = [body for path, body in asked if path == "/v1/chat/completions"]
    assert len(sent) == server.test_requests
    assert {body.get("max_tokens", body.get("max_completion_tokens")) for body in sent} == {1}  # token, each


NOTED = [
    (
        "busy",
        (503, {"error": {"message": "later"}}),
        r"a test request before the load failed, answered 503 \(later\)",
    ),
    ("refused whatever it is", (400, {"error": {"message": "no"}}), r"failed, answered 400 \(no\)"),
    ("not streamed", (200, {"choices": [{"text": "a"}]}), "did not stream its answer"),
]


@pytest.mark.parametrize(("post", "said"), [r[1:] for r in NOTED], ids=[r[0] for r in NOTED])
def test_what_the_load_will_show_anyway_is_noted(post, said):
    server, _ = looked({"/v1/models": listing(MODEL)}, {"/v1/completions": post})
    assert [note for note in server.notes if re.search(said, note)]


# --- how words are counted -------------------------------------------------------------------------------------------


def tokenize(count):
    return 200, lambda body: (200, {"count": count(text_of(body))})


COUNTERS = [
    ("tokenize", tokenize(lambda text: 7 + len(text.split())), ("tokenize", 1.0, 7), None),
    ("absent", (404, b"<html>"), ("words", 1.5, 11), "1.5 tokens per word and 11 more"),
    ("not allowed", (405, {}), ("words", 1.5, 11), "1.5 tokens per word"),
    ("a page", (200, b"<html>hello</html>"), ("words", 1.5, 11), "1.5 tokens per word"),
    ("counts 0", tokenize(lambda text: 0), ("words", 1.5, 11), "/tokenize does not count .*0 for 16"),
    ("negative", tokenize(lambda text: -len(text)), ("words", 1.5, 11), "/tokenize does not count"),
    ("text", tokenize(lambda text: "many"), ("words", 1.5, 11), "/tokenize does not count .it counts 'many'"),
    ("true", tokenize(lambda text: True), ("words", 1.5, 11), "/tokenize does not count"),
]


@pytest.mark.parametrize(
    ("counter", "counted", "said"), [r[1:] for r in COUNTERS], ids=[r[0] for r in COUNTERS]
)
def test_words_are_counted_by_tokenize_or_by_the_usage_of_two_answers(counter, counted, said):
    def answer(body):  # 1.5 tokens a word and a template of 11
        return one_token(11 + len(text_of(body).split()) * 3 // 2)

    posts = {"/v1/chat/completions": (200, answer), "/tokenize": counter}
    server, _ = looked({"/v1/models": listing(MODEL)}, posts, "chat")
    known = server.manner.counted
    assert (known.by, known.tokens_per_word, known.overhead_tokens) == counted
    assert said is None or [note for note in server.notes if re.search(said, note)]


def test_without_any_count_a_word_stands_for_a_token_and_that_is_said():
    server, _ = looked({"/v1/models": listing(MODEL)}, {"/v1/chat/completions": one_token(8)}, "chat")
    assert server.manner.counted.tokens_per_word == 1.0
    assert "a word is taken for a token: its usage says 8 tokens for 16 words and 8 for 144" in server.notes


# --- what fits -------------------------------------------------------------------------------------------------------


def given(**values):
    empty = dict.fromkeys(
        ("stages", "load", "trace", "trace_time_unit", "find_capacity", "run_time", "prompts", "most_tokens")
    )
    numbers = {
        "rate": 50.0,
        "arrivals": "poisson",
        "shared_prefix_tokens": 0,
        "seed": 1,
        "clamp_lengths": False,
    }
    return LoadOptions(
        **{**empty, **numbers, "run_time": 20, "prompt_tokens": None, "output_tokens": "100", **values}
    )


def test_a_load_that_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(
        BadInput, match=r"the largest asks \d+ tokens of prompt and 100 of answer.*--clamp-lengths"
    ):
        fitting(given(prompt_tokens="lognormal:1000,1"), 2048)
    with pytest.raises(BadInput, match="1949 tokens of prompt and 100 of answer"):
        fitting(given(prompt_tokens="1949"), 2048)
    with pytest.raises(BadInput, match="the largest asks 3000 tokens of answer"):
        fitting(given(prompts="own.jsonl", output_tokens="3000"), 2048)


@pytest.mark.parametrize("most", [2048, None], ids=["it fits", "the server does not say"])
def test_a_load_that_may_fit_is_left_as_it_is(most):
    chosen = given(prompt_tokens="1948")
    assert fitting(chosen, most) is chosen


def test_clamped_requests_fit_and_shorter_ones_are_what_they_were():
    chosen = given(prompt_tokens="lognormal:1000,1", output_tokens="lognormal:500,2", clamp_lengths=True)
    [before], [after] = chosen.plan().arrivals(), fitting(chosen, 2048).plan().arrivals()
    total = after.prompt_tokens + after.output_tokens
    assert total.max() == 2048
    assert min(after.prompt_tokens.min(), after.output_tokens.min()) >= 1
    fits = before.prompt_tokens + before.output_tokens <= 2048
    assert np.array_equal(after.prompt_tokens[fits], before.prompt_tokens[fits])
    assert (after.prefix_tokens < after.prompt_tokens).all()


def test_a_number_alone_is_a_fixed_length():
    assert str(parse_lengths("500")) == "fixed:500"


def test_an_slo_on_streams_without_streams_is_refused():
    for term in ("ttft_p95=2s", "tpot_p95=1s", "itl_p99=1s", "ttft=2s,goodput=99%"):
        with pytest.raises(BadInput, match="--no-stream and --slo"):
            options(stream=False, slo=term)._check_slo()
    options(stream=False, slo="e2e_p95=9s")._check_slo()


# --- what is counted of answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "hidden"), [("content", 30), ("reasoning_content", 0)], ids=["kept back", "streamed"]
)
def test_reasoning_that_was_not_streamed_is_no_part_of_the_time_per_token(key, hidden):
    usage = {
        "prompt_tokens": 8,
        "completion_tokens": 40,
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    events = [{"choices": [{"index": 0, "delta": {key: "a"}}]}] * 10 + [{"choices": [], "usage": usage}]
    body = "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n"
    answer = parse_answer([1.0], [(head + body).encode()])
    assert (answer.status, answer.output_tokens, answer.hidden_tokens) == ("ok", 40, hidden)


def test_hidden_tokens_reach_the_analysis(tmp_path):
    path = run.create(tmp_path / "run", {"kind": "live"})
    times = {
        "due_s": [0.0, 1.0],
        "sent_s": [0.0, 1.0],
        "first_token_s": [1.0, 2.0],
        "last_token_s": [1.9, 2.9],
    }
    run.write_table(path, "requests", {**times, "stage": [0, 0], "status": ["ok", "ok"], "output_tokens": [40, 10], "hidden_tokens": [30, None]})  # fmt: skip
    assert latencies(run.read(path).requests)["tpot_s"].tolist() == pytest.approx(
        [0.1, 0.1]
    )  # 0.9 s over 9 gaps


def test_a_rate_limit_is_counted_with_what_it_asks():
    raw = b'HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\ncontent-length: 28\r\n\r\n{"error":{"message":"slow"}}'
    error = parse_answer([1.0], [raw]).error
    assert error == "slow (Retry-After: 7)"
    assert rate_limited([429, np.nan, 429], [error, None, "x (Retry-After: 30)"]) == {"requests": 2, "retry_after_s": [7.0, 30.0]}  # fmt: skip
    assert rate_limited([429.0], [f"slow (Retry-After: {'9' * 400})"]) == {
        "requests": 1,
        "retry_after_s": None,
    }
    assert rate_limited([429.0], ["slow"]) == {"requests": 1, "retry_after_s": None}
    assert rate_limited([200.0, np.nan], ["", None]) is None


# --- a whole run through a gateway -----------------------------------------------------------------------------------

PROFILE = overlay(load("llama-3.1-8b-1xl4"), {"engine": {"max_model_len": 8192, "request_overhead_s": 0.0}})
QUICK = EngineParams(
    base_s=0.001, per_sequence_s=0.0, per_kv_token_s=0.0, per_prefill_token_s=0.0, num_blocks=4001, max_num_seqs=64,
    max_num_batched_tokens=8192,
)  # fmt: skip
KEY = "key-of-the-gateway"


@contextmanager
def gateway(upstream: str):
    """A reverse proxy: /serving/v1 with a key, and nothing else; yields its address."""
    loop, ready, port = asyncio.new_event_loop(), threading.Event(), []

    async def forward(request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/serving")
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        if path == request.path or not path.startswith("/v1/"):
            return web.Response(text="<html>no route</html>", status=404, content_type="text/html")
        kind = {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method, upstream + path, data=await request.read(), headers=kind
            ) as reply,
        ):
            response = web.StreamResponse(status=reply.status, headers={"Content-Type": reply.content_type})
            await response.prepare(request)
            async for data in reply.content.iter_any():
                await response.write(data)
            await response.write_eof()
        return response

    async def listen() -> web.AppRunner:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.append(runner.addresses[0][1])
        ready.set()
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(listen())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://127.0.0.1:{port[0]}/serving/v1/"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def test_a_whole_run_through_a_gateway_with_a_path_a_key_and_no_tokenize(tmp_path):
    (tmp_path / "key").write_text(KEY)
    load = ["--rate", "20", "-t", "2s", "--prompt-tokens", "uniform:40,300", "--output-tokens", "uniform:2,6"]
    with FleetThread(FleetServer(PROFILE, port=0, engine=QUICK)) as fleet, gateway(fleet.url) as url:
        process = start(url, tmp_path, "--api-key-file", "key", *load, entry="chat")
        log = ended(process, tmp_path)
    assert process.returncode == 0, log
    recorded = run.read(tmp_path / "run")
    requests, lengths = recorded.requests, recorded.header["lengths"]
    assert set(requests["status"]) == {"ok"}, log
    assert (requests["output_tokens"] == requests["output_tokens_asked"]).all()
    wrong = (requests["prompt_tokens"] - requests["prompt_tokens_asked"]).abs()
    assert wrong.max() <= lengths["tokens_per_word"] / 2 + 1
    assert lengths["counted_by"] == "words"
    assert lengths["tokens_per_word"] > 0
    assert recorded.header["engine"]["max_model_len"] == 8192
    assert recorded.header["metrics_model"] == PROFILE.model.id
    assert "tokens per word" in log


def test_a_list_of_thousands_and_a_page_of_one_long_word_are_read_at_once():
    """What grows with the square of either, or worse, would take minutes."""
    chain = [{"id": f"m{n}", "parent": f"m{n - 1}" if n else None, "root": "r"} for n in range(20_000)]
    listed, _ = served_models.listed_models(json.dumps({"data": chain}).encode())
    chosen, said = served_models.choose_model(listed, None)
    assert (chosen.id, "several names: m0" in said) == ("m0", True)
    page = f"vllm:cache_config_info{{{'a' * 3_000_000}}} 1\n"
    assert server_facts._cache_config(page) == {}
    two = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="9"} 1'
    assert server_facts._cache_config(two) == {"block_size": 16, "num_blocks": 9}


def test_a_list_that_is_too_long_to_read_is_said_to_be():
    body = b'{"data":[{"id":"m","x":"' + b"a" * (17 << 20) + b'"}]}'
    assert served_models.listed_models(body) == (None, "with a list of 17 MiB; expected at most 16")
