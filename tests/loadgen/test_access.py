"""Keys, headers and addresses with secrets: sent with every request, and found nowhere afterwards."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from analysis import run
from analysis.errors import SourceUnavailable
from autoscale.local_servers import free_ports
from loadgen.run.endpoint.server_facts import inspect_server
from loadgen.run.options import LoadOptions
from loadgen.wire.refusals import unauthorized
from loadgen.wire.target import HttpTarget
from tests.loadgen.test_locust import ROOT, ended, get, until
from tests.planted import found
from tests.threaded import running

KEY, LITERAL, FILED, NAMED, QUERY, PASSWORD, WRONG = (
    f"{name}/+&=planted" for name in ("key", "literal", "filed", "named", "query", "password", "wrong")
)
SECRETS = (KEY, LITERAL, FILED, NAMED, QUERY, PASSWORD, WRONG)
QUOTED = {name: "".join(f"%{b:02X}" for b in value.encode()) for name, value in (("query", QUERY), ("password", PASSWORD))}  # fmt: skip
ALL = [
    "--api-key-file", "key", "--header", f"X-Literal: {LITERAL}", "--header", "X-Filed: @filed",
    "--header", "X-Named: $PLANTED", "--prometheus", f"http://user:{QUOTED['password']}@127.0.0.1:9",
]  # fmt: skip
LOAD = ["--headless", "--rate", "30", "-t", "1s", "--prompt-tokens", "fixed:4", "--output-tokens", "fixed:2", "--grace", "2"]  # fmt: skip
EXPORTS = ["--csv", "stats", "--csv-full-history", "--html", "report.html", "--loglevel", "DEBUG"]
# name -> (the server's wish, user info of the address, options, environment)
RUNS = {
    "one process": ("bearer", True, [*ALL, *LOAD, *EXPORTS], {}),
    "two processes": ("bearer", True, [*ALL, *LOAD, *EXPORTS, "--processes", "2"], {}),
    "key that expires": ("a while", False, [*ALL, *LOAD, *EXPORTS], {}),
    "refused key": ("bearer", False, [*LOAD, *EXPORTS], {"OPENAI_API_KEY": WRONG}),
    "web": ("bearer", True, [*ALL, *LOAD[1:]], {}),
}


class Handler(BaseHTTPRequestHandler):
    """An OpenAI-like server that asks for a key and repeats what it refuses, as some do."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def let_in(self):
        server, sent = self.server, self.headers.get("authorization", "")
        server.asked.append((self.path, dict(self.headers)))
        loads = sum(path.startswith("/v1/completions") for path, _ in server.asked)
        basic = "Basic dXNlcjpwYXNzd29yZC8rJj1wbGFudGVk"  # user:password/+&=planted
        good = sent == (basic if server.wish == "basic" else f"Bearer {KEY}")
        if good and not (server.wish == "a while" and loads > 20):
            return True
        self.answer(401, {"error": {"message": f"Incorrect API key provided: {sent} {self.path}"}})
        return False

    def do_GET(self):
        if self.let_in():
            models = {"object": "list", "data": [{"id": "m", "object": "model"}]}
            self.answer(*((200, models) if self.path.startswith("/v1/models") else (404, {})))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.let_in():
            return
        if not self.path.startswith("/v1/completions"):
            self.answer(404, {})
            return
        n = body["max_tokens"]
        events = [{"choices": [{"index": 0, "text": "a"}]}] * n
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": n}
        events.append({"choices": [], "usage": usage})
        data = "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data.encode())


@contextmanager
def key_server(wish):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.wish, server.asked = True, wish, []
    with running(server):
        yield server


def locust(server, folder: Path, user: bool, options, environment) -> subprocess.Popen[str]:
    (folder / "key").write_text(KEY + "\n")
    (folder / "filed").write_text(FILED)
    login = f"user:{QUOTED['password']}@" if user else ""
    host = f"http://{login}127.0.0.1:{server.server_port}/v1?code={QUOTED['query']}"
    ports = ["--master-bind-port", str(free_ports(1))]
    ports += ["--master-port", ports[-1]] if "--processes" in options else []
    command = [sys.executable, "-c", "import sys; from locust.main import main; sys.exit(main())"]
    command += [
        "-f",
        ROOT / "loadgen" / "completions.py",
        "--host",
        host,
        "--run-dir",
        folder / "run",
        *ports,
        *options,
    ]
    with open(folder / "log", "a") as log:
        return subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder, text=True,
            env={**{k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}, "PYTHONPATH": str(ROOT), "PLANTED": NAMED, **environment},
        )  # fmt: skip


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """name -> (process, folder, server), all started together."""
    runs, open_ones = {}, []
    try:
        for name, (wish, user, options, environment) in RUNS.items():
            folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
            opened = key_server(wish)
            server = opened.__enter__()
            open_ones.append(opened)
            if name == "web":
                server.web = free_ports(1)
                options = [*options, "--web-host", "127.0.0.1", "--web-port", str(server.web)]
            runs[name] = locust(server, folder, user, options, environment), folder, server
        yield runs
    finally:
        for process, _, _ in runs.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for opened in open_ones:
            opened.__exit__(None, None, None)


def leftovers(folder: Path) -> list[Path]:
    """All that the run left, without the two files in which the test gave it keys."""
    return [path for path in folder.iterdir() if path.name not in ("key", "filed")]


@pytest.mark.parametrize("name", ["one process", "two processes"])
def test_every_request_carries_what_was_given_and_nothing_tells(started, name):
    process, folder, server = started[name]
    log = ended(process, folder)
    assert process.returncode == 0, log
    recorded = run.read(folder / "run")
    assert set(recorded.requests["status"]) == {"ok"}, log
    assert recorded.header["target"] == f"http://127.0.0.1:{server.server_port}"
    assert recorded.header["prometheus"] == "http://127.0.0.1:9"
    assert recorded.header["access"]["key"] == "the key in key"
    assert "--api-key-file key" in recorded.header["command"]
    assert "X-Literal: ***" in recorded.header["command"]
    for path, headers in server.asked:
        assert path.endswith(f"?code={QUOTED['query']}")
        values = {name: headers.get(name) for name in ("Authorization", "X-Literal", "X-Filed", "X-Named")}
        assert values == {
            "Authorization": f"Bearer {KEY}",
            "X-Literal": LITERAL,
            "X-Filed": FILED,
            "X-Named": NAMED,
        }
    assert {"run", "log", "report.html", "stats_stats.csv"} <= {path.name for path in leftovers(folder)}
    assert found(SECRETS, *leftovers(folder)) == []


def test_a_key_that_expires_is_named_after_the_load_and_its_echo_is_hidden(started):
    process, folder, _ = started["key that expires"]
    log = ended(process, folder)
    requests = run.read(folder / "run").requests
    assert set(requests["status"]) == {"ok", "http_error"}, log
    assert "the server refused the key in key (401)" in log
    assert "Incorrect API key provided: Bearer ***" in requests["error"].iloc[-1]
    assert found(SECRETS, *leftovers(folder)) == []


def test_a_refused_key_of_the_environment_is_named_before_the_load(started):
    process, folder, _ = started["refused key"]
    log = ended(process, folder)
    assert process.returncode == 3
    assert "the server refused the key in the environment's OPENAI_API_KEY (401)" in log
    assert "Traceback" not in log
    assert found(SECRETS, *leftovers(folder)) == []


def test_a_missing_key_is_named_and_the_user_of_an_address_is_one():
    options = LoadOptions()
    with key_server("basic") as server:
        plain = HttpTarget.from_url(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(
            SourceUnavailable,
            match=r"wants a key and none was sent \(401\)\. Give one with --api-key-file FILE",
        ):
            inspect_server(options, plain, "completions")
        login = HttpTarget.from_url(f"http://user:{QUOTED['password']}@127.0.0.1:{server.server_port}")
        assert inspect_server(options, login, "completions").manner.model == "m"
        assert found(SECRETS, repr(login), str(login)) == []


def test_what_is_forbidden_may_be_so_for_another_reason_than_a_missing_key():
    what, step = unauthorized(403, {})
    assert "forbids the request; if it is for a key, none was sent (403)" in what
    assert "--api-key-file" in step
    assert "whether this machine and path are allowed" in step
    assert "wants a key" in unauthorized(401, {})[0]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_locusts_pages_and_downloads_show_no_secret(started):
    process, folder, server = started["web"]
    address = f"http://127.0.0.1:{server.web}"
    until(folder, lambda: listens(server.web))
    shown = json.loads(get(address, "/swarm", {"user_count": 1, "spawn_rate": 1, "host": f"http://127.0.0.1:{server.server_port}"}))  # fmt: skip
    assert shown["success"]
    until(folder, lambda: bool(list((folder / "run").glob("requests.*"))))
    pages = [
        "/",
        "/stats/requests",
        "/stats/report",
        "/stats/requests/csv",
        "/stats/failures/csv",
        "/exceptions/csv",
    ]
    pages += ["/exceptions", "/logs", "/offered-sent"]
    content = [get(address, page) for page in pages]
    assert found(SECRETS, *content) == []
    assert b"api_key_file" not in content[0]
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=30)
    assert set(run.read(folder / "run").requests["status"]) <= {"ok", "cancelled", "dropped"}
    assert found(SECRETS, *leftovers(folder)) == []
