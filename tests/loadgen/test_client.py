"""The client against small servers on loopback that behave well, badly, or over TLS."""

import math
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager

import gevent
import pytest

from analysis.access import Access
from analysis.errors import BadInput, SourceUnavailable
from loadgen.run.endpoint.server_facts import inspect_server
from loadgen.run.options import LoadOptions
from loadgen.wire import connection
from loadgen.wire.client import Client, Limits
from loadgen.wire.clock import now_s
from loadgen.wire.exchange import Exchange
from loadgen.wire.fetch import fetch
from loadgen.wire.target import HttpTarget, tls_context

EVENT = b'data: {"choices":[{"index":0,"text":"a","finish_reason":null}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


DONE = b"data: [DONE]\n\n"
LENGTH_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 500\r\n\r\n"
STREAM = HEAD + chunk(EVENT) * 3 + chunk(DONE) + b"0\r\n\r\n"
CRLF_EVENT = EVENT.replace(b"\n\n", b"\r\n\r\n")
CRLF_STREAM = (HEAD + chunk(CRLF_EVENT), chunk(CRLF_EVENT), chunk(CRLF_EVENT), chunk(b"data: [DONE]\r\n\r\n"))
RESET, HANG, CLOSE = "reset", "hang", "close"


@contextmanager
def server(*script, tls: ssl.SSLContext | None = None):
    """Serve `script` (bytes to send, or RESET, HANG, CLOSE) to every request on every connection; yields the URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    stopping = threading.Event()
    accepted = []

    def talk(connection):
        connection.settimeout(5)
        try:
            if tls is not None:
                connection = tls.wrap_socket(connection, server_side=True)
            while not stopping.is_set() and receive(connection):
                for step in script:
                    if step == RESET:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                        return
                    if step == HANG:
                        stopping.wait(5)
                        return
                    if step == CLOSE:
                        return
                    connection.sendall(step)
        except OSError:
            return
        finally:
            connection.close()

    def receive(connection) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return False
            data += more
        return True

    def accept():
        while not stopping.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            accepted.append(connection)
            thread = threading.Thread(target=talk, args=(connection,), daemon=True)
            thread.start()
            threads.append(thread)

    threads = [threading.Thread(target=accept, daemon=True)]
    threads[0].start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{listener.getsockname()[1]}", accepted
    finally:
        stopping.set()
        for thread in threads:
            thread.join(timeout=6)
        listener.close()


def ask(client: Client, timeout_s: float = 5.0) -> Exchange:
    over = gevent.event.Event()
    exchange = Exchange(0, client.target.request("GET", "/"), now_s(), lambda _: over.set())
    client.submit(exchange)
    assert over.wait(timeout_s)
    return exchange


FAILURES = [
    ("a good stream", (STREAM,), "ok", 3),
    ("a response in single bytes", tuple(bytes([b]) for b in STREAM), "ok", 3),
    ("events with CRLF", (*CRLF_STREAM, b"0\r\n\r\n"), "ok", 3),
    ("events with CRLF and a trailer", (*CRLF_STREAM, b"0\r\n", b"x: y\r\n\r\n"), "ok", 3),
    ("events with CRLF in single bytes", tuple(bytes([b]) for b in b"".join(CRLF_STREAM) + b"0\r\n\r\n"), "ok", 3),
    ("reset in mid-stream", (HEAD + chunk(EVENT), RESET), "connection_error", 1),
    ("closed in mid-stream", (HEAD + chunk(EVENT), CLOSE), "incomplete", 1),
    ("closed before an answer", (CLOSE,), "connection_error", 0),
    ("silent in mid-stream", (HEAD, chunk(EVENT), chunk(EVENT), HANG), "timeout", None),
    ("a chunk size that is none", (HEAD + chunk(EVENT) + b"0x40\r\n" + EVENT, HANG), "incomplete", 1),
    ("a head whose lines end with LF alone", (b"HTTP/1.1 200 OK\ncontent-type: text/event-stream\ncontent-length: 79\n\n" + EVENT + b"data: [DONE]\n\n",), "ok", 1),
    ("not HTTP at all", (b"220 smtp ready\r\n", HANG), "connection_error", 0),
    ("interim answers without end", (b"HTTP/1.1 100 Continue\r\n\r\n" * 3000, HANG), "connection_error", 0),
    ("another protocol than asked for", (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n", HANG), "http_error", 0),
    ("an error body", (b'HTTP/1.1 503 Busy\r\ncontent-length: 27\r\n\r\n{"error":{"message":"busy"}}',), "http_error", 0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "status", "tokens"), [f[1:] for f in FAILURES], ids=[f[0] for f in FAILURES]
)
def test_each_way_to_fail_has_its_class(script, status, tokens):
    with server(*script) as (url, _):
        client = Client(HttpTarget.from_url(url), Limits(idle_timeout_s=0.2))
        exchange = ask(client)
        client.close()
    answer = exchange.answer()
    assert answer.status == status
    if status == "timeout":  # 0.2 s after the last byte, and not when the server noticed
        assert 0.2 <= exchange.given_up_s - exchange.stamps_s[-1] <= now_s() - exchange.stamps_s[-1]
    else:
        assert math.isnan(exchange.given_up_s)
    if tokens is not None:
        assert len(answer.token_times_s) == tokens


def test_a_chunk_size_that_is_none_is_found_in_the_silence_after_it():
    with server(HEAD + chunk(EVENT), b"fffffffffffffffff\r\n", HANG) as (url, _):
        client = Client(HttpTarget.from_url(url), Limits(idle_timeout_s=60))
        answer = ask(client, timeout_s=4.0).answer()
        client.close()
    assert (answer.status, answer.error) == ("incomplete", "'fffffffffffffffff' is no chunk size")
    assert len(answer.token_times_s) == 1


@pytest.mark.parametrize("head", [HEAD, LENGTH_HEAD], ids=["no last chunk", "fewer bytes than its length"])
def test_a_stream_that_has_said_done_is_over_though_its_framing_waits(head):
    events = EVENT + DONE
    with server(head + (chunk(events) if head is HEAD else events), HANG) as (url, _):
        client = Client(HttpTarget.from_url(url), Limits(idle_timeout_s=60))
        exchange = ask(client, timeout_s=4.0)
        client.close()
    answer = exchange.answer()
    assert (answer.status, answer.error, len(answer.token_times_s)) == ("ok", None, 1)
    assert answer.last_s <= exchange.stamps_s[-1]


def test_an_answer_without_end_is_cut(monkeypatch):
    monkeypatch.setattr(connection, "MOST_BYTES", 1 << 20)
    with server(HEAD, *[chunk(EVENT * 1000)] * 100, HANG) as (url, _):
        client = Client(HttpTarget.from_url(url), Limits())
        exchange = ask(client)
        client.close()
    answer = exchange.answer()
    assert (answer.status, answer.error) == ("incomplete", "answer larger than 1 MiB")
    assert exchange.size == sum(map(len, exchange.reads)) < 2 << 20


def test_a_refused_connection_is_a_connection_error_and_a_clear_sentence():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    client = Client(HttpTarget.from_url(url), Limits())
    answer = ask(client).answer()
    assert (answer.status, "connection refused" in answer.error) == ("connection_error", True)
    with pytest.raises(SourceUnavailable, match="cannot connect"):
        client.warm(1)
    client.close()


def test_closing_cancels_what_is_in_flight():
    with server(HEAD, HANG) as (url, _):
        client = Client(HttpTarget.from_url(url), Limits())
        ended = []
        client.submit(Exchange(0, client.target.request("GET", "/"), now_s(), ended.append))
        gevent.sleep(0.1)
        closed_s = now_s()
        client.close()
    assert [e.answer().status for e in ended] == ["cancelled"]
    assert ended[0].sent_s < closed_s <= ended[0].given_up_s <= now_s()
    assert not client.in_flight


def test_connections_are_kept_and_stamps_are_ordered():
    with server(STREAM) as (url, accepted):
        client = Client(HttpTarget.from_url(url), Limits(max_connections=1))
        exchanges = [ask(client) for _ in range(5)]
        client.close()
        assert len(accepted) == 1
    for exchange in exchanges:
        assert exchange.sent_s <= exchange.stamps_s[0] <= exchange.stamps_s[-1] <= now_s()


@pytest.mark.parametrize(
    ("limits", "connections"),
    [
        (Limits(max_connections=1, reconnect_after_requests=2), 3),
        (Limits(max_connections=1, reconnect_after_s=0.0), 6),
        (Limits(max_connections=1, reconnect_after_s=math.inf), 1),
    ],
    ids=["every 2 requests", "at once when too old", "never"],
)
def test_connections_are_replaced_so_that_new_replicas_get_traffic(limits, connections):
    with server(STREAM) as (url, accepted):
        client = Client(HttpTarget.from_url(url), limits)
        for _ in range(6):
            assert ask(client).answer().status == "ok"
        client.close()
        assert len(accepted) == connections


def test_a_large_request_is_sent_whole():
    body = b"x" * 3_000_000
    with server(STREAM) as (url, _):
        client = Client(HttpTarget.from_url(url), Limits())
        over = gevent.event.Event()
        exchange = Exchange(0, client.target.request("POST", "/", body), now_s(), lambda _: over.set())
        client.submit(exchange)
        assert over.wait(5)
        client.close()
    assert exchange.reads


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", folder / "key", "-out", folder / "cert"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    return context


def test_tls_gives_the_same_answer_and_a_wrong_certificate_is_named(certificate):
    with server(STREAM, tls=certificate) as (url, _):
        client = Client(HttpTarget.from_url(url), Limits(), tls_context(Access(insecure=True)))
        assert [ask(client).answer().status for _ in range(3)] == ["ok"] * 3
        client.close()
        strict = Client(HttpTarget.from_url(url), Limits())
        with pytest.raises(SourceUnavailable, match="certificate"):
            strict.warm(1)
        strict.close()


def test_fetch_returns_status_and_body():
    body = b'{"data":[]}'
    with server(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)) as (url, _):
        client = Client(HttpTarget.from_url(url), Limits())
        reply = fetch(client, "GET", "/v1/models")
        assert (reply.status, reply.body, reply.header("Content-Length")) == (200, body, "11")
        client.close()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://api.example.com/v1/", "https://api.example.com"),
        ("https://user:pass@api.example.com/a b/v1?key=secret-value", "https://api.example.com/a%20b"),
        ("http://bücher.example/", "http://xn--bcher-kva.example"),
        ("http://[::1]:8000/llm", "http://[::1]:8000/llm"),
    ],
)
def test_urls_are_read(url, text):
    assert str(HttpTarget.from_url(url)) == text


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "http://", "http://x:port", "http://x:0", "http://a b", "http://x/#part", "user:pa/ss@x"],
)
def test_what_is_not_a_url_is_refused(url):
    with pytest.raises(BadInput, match="--host"):
        HttpTarget.from_url(url)


PROBES = [
    ("http://127.0.0.1:9", None, SourceUnavailable, "connection refused"),
    (None, (b'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello',), SourceUnavailable, "not an OpenAI-compatible server"),
    (None, (b'HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n',), SourceUnavailable, "GET /v1/models answered 404"),
    (None, (b'HTTP/1.1 200 OK\r\ncontent-length: 34\r\n\r\n{"data":[{"id":"a"},{"id":"bcd"}]}',), BadInput, "several models"),
    ("ftp://x", None, BadInput, "--host"),
]  # fmt: skip


@pytest.mark.parametrize(("url", "script", "error", "said"), PROBES, ids=[row[3] for row in PROBES])
def test_a_server_that_is_not_one_is_named_before_the_load(url, script, error, said):
    options = LoadOptions()
    with server(*(script or (CLOSE,))) as (here, _), pytest.raises(error, match=said):
        inspect_server(options, HttpTarget.from_url(url or here), "completions")
