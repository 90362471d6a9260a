"""Small servers that tests talk to: a vLLM metrics page, and a Prometheus that answers from given series."""

import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import urlopen

from tests.threaded import running

Answer = Callable[[str, dict[str, str]], tuple[int, str]]
Headers = dict[str, str]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    answer: Answer
    wanted: Headers  # without these a request is refused
    moved_to: str  # where everything is redirected to; "" = nowhere
    seen: list[Headers]
    tls: ssl.SSLContext | None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that leaves, or trusts no certificate, is no failure of the server."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.server.seen.append(dict(self.headers.items()))
        if any(self.headers.get(name) != value for name, value in self.server.wanted.items()):
            status, text = 401, "Unauthorized"
        elif self.server.moved_to:
            status, text = 302, ""
        else:
            status, text = self.server.answer(parts.path, query)
        body = text.encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.moved_to + self.path)
        if status in (429, 503):
            self.send_header("Retry-After", "3600")  # nobody waits for it
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(
    answer: Answer, wanted: Headers | None = None, moved_to: str = "", tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.answer, server.wanted, server.moved_to, server.tls = answer, wanted or {}, moved_to, tls
    server.seen = []
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    with running(server):
        yield server


def passing_on(url: str) -> Answer:
    """A proxy's answer: what the server at `url` answers."""

    def answer(path: str, query: dict[str, str]) -> tuple[int, str]:
        try:
            with urlopen(f"{url}{path}?{urlencode(query)}", timeout=20) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    return answer


class FakeVllm:
    """Two engines whose counters grow with time; `restart()` sets them to zero."""

    def __init__(self, model: str = "m", kv_name: str = "kv_cache_usage_perc") -> None:
        self.model, self.kv_name = model, kv_name
        self.since = time.monotonic()

    def restart(self) -> None:
        self.since = time.monotonic()

    def __call__(self, path: str, _: dict[str, str]) -> tuple[int, str]:
        if path == "/version":
            return 200, '{"version": "0.99.0\\ud800"}'
        if path != "/metrics":
            return 404, '{"detail":"Not Found"}'
        age_s = time.monotonic() - self.since
        families = {
            "num_requests_waiting": ("gauge", lambda e: 3 + e),
            "num_requests_running": ("gauge", lambda e: 10 + e),
            self.kv_name: ("gauge", lambda e: 0.25 + e / 4),
            "num_preemptions_total": ("counter", lambda e: 0),
            "prompt_tokens_total": ("counter", lambda e: 500 * age_s),
            "generation_tokens_total": ("counter", lambda e: 100 * age_s),
        }
        lines = []
        for name, (kind, value) in families.items():
            lines.append(f"# TYPE vllm:{name} {kind}")
            lines += [
                f'vllm:{name}{{engine="{e}",model_name="{self.model}"}} {float(value(e))}' for e in (0, 1)
            ]
        lines.append("# TYPE vllm:request_success_total counter")
        for reason in ("stop", "length"):
            labels = f'engine="0",finished_reason="{reason}",model_name="{self.model}"'
            lines.append(f"vllm:request_success_total{{{labels}}} {float(int(age_s))}")
        lines.append("# TYPE vllm:cache_config_info gauge")
        lines.append('vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1000"} 1.0')
        return 200, "\n".join(lines) + "\n"


class FakePrometheus:
    """Answers range vectors and range queries from `series`: (labels, [[time, text]])."""

    def __init__(
        self,
        series: list[tuple[dict[str, str], list[list[Any]]]],
        clock_ahead_s: float = 0.0,
        range_vectors: bool = True,
        whole_names: bool = False,  # as Google's: no regular expression on a metric's name
    ) -> None:
        self.series, self.clock_ahead_s, self.range_vectors = series, clock_ahead_s, range_vectors
        self.queries: list[str] = []
        self.whole_names = whole_names

    def __call__(self, path: str, query: dict[str, str]) -> tuple[int, str]:
        promql = query.get("query", "")
        self.queries.append(promql)
        if path == "/api/v1/label/__name__/values":
            names = sorted({labels["__name__"] for labels, _ in self.series})
            return 200, json.dumps({"status": "success", "data": names})
        if self.whole_names and "__name__=~" in promql:
            return 400, '{"status":"error","error":"unsupported: regular expression on a metric name"}'
        if path == "/api/v1/query" and promql == "time()":
            now = time.time() + self.clock_ahead_s
            return 200, json.dumps({"data": {"resultType": "scalar", "result": [now, str(now)]}})
        if path == "/api/v1/query" and (window := re.search(r"\[(\d+)ms\]$", promql)):
            if not self.range_vectors:
                return 400, '{"status":"error","error":"invalid expression type range vector"}'
            end = float(query["time"])
            return 200, self._answer(promql, end - int(window[1]) / 1000, end)
        if path == "/api/v1/query_range":
            start, end, step = float(query["start"]), float(query["end"]), float(query["step"].rstrip("s"))
            if (end - start) / step > 11_000:
                return 400, '{"status":"error","error":"exceeded maximum resolution of 11,000 points"}'
            return 200, self._answer(promql, start, end)
        if path == "/api/v1/query":
            told = json.loads(self._answer(promql, 0.0, float("inf")))["data"]["result"]
            vector = [{"metric": one["metric"], "value": one["values"][-1]} for one in told]
            return 200, json.dumps({"data": {"resultType": "vector", "result": vector}})
        return 404, "not found"

    def _answer(self, promql: str, start: float, end: float) -> str:
        names = re.search(r'__name__=~"([^"]*)"', promql) or re.match(r"([\w:]+)", promql)
        result = []
        for labels, values in self.series:
            inside = [pair for pair in values if start <= pair[0] <= end]
            if inside and (names is None or re.fullmatch(names[1], labels["__name__"])):
                result.append({"metric": labels, "values": inside})
        return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})
