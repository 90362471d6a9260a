"""Cost of collecting one hour of 16 pods at 1 s from a Prometheus (budget: 10 s, 500 MB).

The server is a process of its own that answers range vectors with made-up series, so that only the collector is measured.
Run: python -m benchmarks.collect
"""

import json
import multiprocessing
import re
import resource
import tempfile
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from analysis import run

PODS, DURATION_S = 16, 3600
REASONS = ("stop", "length", "abort", "error", "repetition")
GAUGES = ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc")
COUNTERS = ("vllm:num_preemptions_total", "vllm:prompt_tokens_total", "vllm:generation_tokens_total")


class Prometheus(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        window = re.search(r"\[(\d+)ms\]$", query["query"])
        now = time.time()
        result: object = [now, str(now)]
        if window:
            end, span_s = float(query["time"]), int(window[1]) / 1000
            times = [
                t + 0.123 for t in range(int(end - span_s), int(end) + 1) if end - span_s <= t + 0.123 <= end
            ]
            names = [(name, {}) for name in (*GAUGES, *COUNTERS)]
            names += [("vllm:request_success_total", {"finished_reason": reason}) for reason in REASONS]
            result = [
                {
                    "metric": {
                        "__name__": name,
                        "pod": f"vllm-{pod}",
                        "engine": "0",
                        "model_name": "m",
                        **labels,
                    },
                    "values": [[t, f"{t - 1.7e9:.3f}"] for t in times],
                }
                for pod in range(PODS)
                for name, labels in names
            ]
        body = json.dumps({"status": "success", "data": {"result": result}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    server = HTTPServer(("127.0.0.1", 0), Prometheus)
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    from autoscale.observe.collect import collect

    with tempfile.TemporaryDirectory() as folder:
        started_at = time.time() - DURATION_S
        target = run.create(
            Path(folder) / "run",
            {"started_at": started_at, "ended_at": started_at + DURATION_S, "model": "m"},
        )
        wall, cpu = time.perf_counter(), time.process_time()
        summary = collect(target, f"http://127.0.0.1:{server.server_port}")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    process.terminate()
    process.join()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{summary['rows']} rows of {len(summary['pods'])} pods: {wall:.1f} s wall, {cpu:.1f} s CPU, peak {peak_mb:.0f} MB"
    )


if __name__ == "__main__":
    main()
