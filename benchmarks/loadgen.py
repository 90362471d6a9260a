"""What the load generator costs and how true its times are, against a server of known truth.

    python benchmarks/loadgen.py [NAME ...] [--seconds 8] [--realtime]

Names: streams256 streams64 streams500 open20 tls short short-streamed rate spike workers omission starvation ok, and plain
and peers, which are other clients (default: all but those two). Client on core 0, truth server (benchmarks/truth_server.py) on core 1: quiet both, or use --realtime (root),
which gives both a real-time priority and stops everything else on the machine meanwhile. `plain` runs a plain
FastHttpUser script against the same server, `peers` what is installed of vllm, guidellm and aiperf. One line per figure: measured, budget, met or not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from analysis import run  # noqa: E402 -- used from a clone without installation
from analysis.histogram import Histogram  # noqa: E402

CLIENT_CORE, SERVER_CORE = 0, 1
PLAIN = """
import json, os, time
from locust import events, task
from locust.contrib.fasthttp import FastHttpUser
BODY = {"model": "truth", "prompt": "a", "max_tokens": 128, "stream": True}
ttfts, used = [], []
class Plain(FastHttpUser):
    @task
    def ask(self):
        begun = time.perf_counter()
        first = None
        with self.client.post("/v1/completions", json=BODY, stream=True, catch_response=True) as answer:
            while line := answer._response.readline(b"\\n"):
                if line.startswith(b"data: {"):
                    first = first or time.perf_counter()
                    json.loads(line[6:])
                elif line.startswith(b"data: [DONE]"):
                    break
            answer.success()
        ttfts.append(first - begun)
@events.test_start.add_listener
def begin(**_):
    used.append(time.process_time())
@events.test_stopping.add_listener
def end(**_):
    with open(os.environ["PLAIN_OUT"], "w") as file:
        json.dump({"cpu_s": time.process_time() - used[0], "ttft_s": sum(ttfts) / len(ttfts), "requests": len(ttfts)}, file)
"""
# How other clients are asked for the same load. They need a tokenizer: a directory in BENCH_TOKENIZER.
PEERS = {
    "vllm": "vllm bench serve --backend openai --base-url {url} --endpoint /v1/completions --model truth --tokenizer {tokenizer}"
    " --dataset-name random --random-input-len 16 --random-output-len 128 --ignore-eos --num-prompts {requests}"
    " --max-concurrency {streams}",
    "guidellm": "guidellm benchmark --target {url} --model truth --processor {tokenizer} --rate-type concurrent --rate {streams}"
    " --max-seconds {seconds:.0f} --data prompt_tokens=16,output_tokens=128",
    "aiperf": "aiperf profile --model truth --url {url} --endpoint-type completions --streaming --tokenizer {tokenizer}"
    " --concurrency {streams} --request-count {requests} --synthetic-input-tokens-mean 16 --output-tokens-mean 128",
}


class Figure(NamedTuple):
    """One line of the table; `bound` is None where nothing is promised."""

    bench: str
    what: str
    value: float
    bound: float | None = None
    at_least: bool = False

    def __str__(self) -> str:
        sign = "" if self.bound is None else f"{'>=' if self.at_least else '<='} {self.bound:g}"
        met = "" if self.bound is None else ("met" if self.met else "MISSED")
        return f"{self.bench:<15} {self.what:<48} {self.value:>12.5g}  {sign:<12} {met}"

    @property
    def met(self) -> bool:
        assert self.bound is not None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


class Bench:
    """Runs server and client, and joins what both say about each request."""

    def __init__(self, seconds: float, realtime: bool) -> None:
        self.seconds, self.realtime = seconds, realtime
        self.folder = Path(tempfile.mkdtemp(prefix="loadgen-bench-"))
        self.number = 0
        self.truth = truth_server(self.folder)

    @contextmanager
    def server(self, *options: str) -> Iterator[tuple[str, Path]]:
        """A truth server on its core: its port and log."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = str(listener.getsockname()[1])
        log = self.folder / f"truth{self.number}.jsonl"
        command = [
            *self._priority(),
            *self.truth,
            "--port",
            port,
        ]
        command += ["--log", str(log), "--core", str(SERVER_CORE), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                yield port, log
            finally:
                process.terminate()

    def client(
        self, port: str, *options: str, scheme: str = "http", during: Callable[[int], None] | None = None
    ) -> run.Run:
        """One Locust run on the client's core."""
        self.number += 1
        path = self.folder / f"run{self.number}"
        command = [
            *self._priority(),
            "taskset",
            "-c",
            str(CLIENT_CORE),
            sys.executable,
            "-m",
            "locust",
            "--headless",
        ]
        command += ["-f", str(ROOT / "loadgen" / "completions.py"), "--only-summary", "--run-dir", str(path)]
        command += ["--host", f"{scheme}://127.0.0.1:{port}", *options]
        with (
            open(self.folder / "log", "w") as log,
            subprocess.Popen(command, stdout=log, stderr=log) as process,
        ):
            if during is not None:
                during(process.pid)
            process.wait()
        if not (path / "run.json").exists():
            raise SystemExit((self.folder / "log").read_text())
        return run.read(path)

    def both(
        self, server: tuple[str, ...], *client: str, scheme: str = "http"
    ) -> tuple[run.Run, pd.DataFrame, pd.DataFrame]:
        """(run, truth of all requests, requests that ended well joined with their truth)."""
        with self.server(*server) as (port, log):
            recorded = self.client(port, *client, scheme=scheme)
        truth = pd.DataFrame([json.loads(line) for line in log.read_text().splitlines()])
        truth = truth[truth["id"].str.contains("-")].copy()
        truth["request_id"] = truth["id"].str.rsplit("-").str[-1].astype(np.int64)
        good = recorded.requests[recorded.requests["status"] == "ok"]
        return recorded, truth, good.merge(truth, on="request_id")

    def _priority(self) -> list[str]:
        return ["chrt", "-r", "5"] if self.realtime else []


def ttft_error_ms(joined: pd.DataFrame) -> np.ndarray:
    """Said minus true TTFT: from sent to first read, against from received to first sent."""
    said = joined["first_token_s_x"] if "first_token_s_x" in joined else joined["first_token_s"]
    return (((said - joined["sent_s"]) - (joined["first_s"] - joined["received_s"])) * 1e3).to_numpy(float)


def ways_ms(joined: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The two parts of the TTFT error: from the client's sending to the server's reading, which a busy server draws out,
    and from the server's sending to the client's reading, which is the client's alone.

    Both processes read the same clock, from different zeros; the fastest way there and the fastest way back are taken
    to be equally long.
    """
    there = (joined["received_s"] - joined["sent_s"]).to_numpy(float)
    said = joined["first_token_s_x"] if "first_token_s_x" in joined else joined["first_token_s"]
    back = (said - joined["first_s"]).to_numpy(float)
    zero = (there.min() - back.min()) / 2
    return (there - zero) * 1e3, (back + zero) * 1e3


def cpu_per_1k(recorded: run.Run, joined: pd.DataFrame) -> float:
    """CPU seconds of the client process during the load, per 1,000 tokens."""
    return sum(recorded.header["client"]["cpu_s"].values()) / float(joined["output_tokens"].sum()) * 1000


def streams(name: str, count: int, gap_s: float, cpu: float | None, mean: float | None, p99: float | None, itl: float | None = None, tls: bool = False) -> Callable[[Bench], Iterator[Figure]]:  # fmt: skip
    def bench(b: Bench) -> Iterator[Figure]:
        server = ["--gap", str(gap_s)] + (["--gaps"] if itl else [])
        options = [
            "-u",
            str(count),
            "-r",
            str(count),
            "-t",
            f"{b.seconds:.0f}s",
            "--prompt-tokens",
            "fixed:16",
        ]
        if tls:
            server += ["--tls", *certificate(b.folder)]
            options += ["--insecure"]
        recorded, truth, joined = b.both(tuple(server), *options, scheme="https" if tls else "http")
        error = ttft_error_ms(joined)
        span = joined["last_token_s"].max() - joined["sent_s"].min()
        offered = count / (0.05 + 127 * gap_s) * 128
        yield Figure(
            name, "events read, share of what the server can offer", joined["events"].sum() / span / offered
        )
        yield Figure(name, "events/s", joined["events"].sum() / span)
        yield Figure(name, "CPU s per 1k tokens", cpu_per_1k(recorded, joined), cpu)
        yield Figure(name, "TTFT error mean (ms)", error.mean(), mean)
        yield Figure(name, "TTFT error p99 (ms)", float(np.quantile(error, 0.99)), p99)
        there, back = ways_ms(joined)
        yield Figure(name, "  of it until the server read it, mean (ms)", there.mean())
        yield Figure(name, "  of it until the server read it, p99 (ms)", float(np.quantile(there, 0.99)))
        yield Figure(name, "  of it until the client read it, mean (ms)", back.mean())
        yield Figure(name, "  of it until the client read it, p99 (ms)", float(np.quantile(back, 0.99)))
        if itl:
            gaps = Histogram.from_edges(
                recorded.itl["gap_low_s"].to_numpy(), recorded.itl["count"].to_numpy(np.int64)
            )
            true_ms = float(np.quantile(np.concatenate(truth["gaps_s"].to_list()), 0.99)) * 1e3
            yield Figure(name, "ITL p99 said minus true (ms)", abs(gaps.quantile(0.99) * 1e3 - true_ms), itl)
        yield Figure(
            name, "server late p99 (ms), no fault of the client", truth["late_max_s"].quantile(0.99) * 1e3
        )

    return bench


def open20(b: Bench) -> Iterator[Figure]:
    """20 requests/s, Poisson."""
    _, _, joined = b.both(
        (), "--rate", "20", "-t", f"{max(b.seconds, 15):.0f}s", "--output-tokens", "fixed:32"
    )
    error = ttft_error_ms(joined)
    lag = ((joined["sent_s"] - joined["due_s"]) * 1e3).to_numpy(float)
    yield Figure("open20", "TTFT error p50 (ms)", float(np.median(error)), 0.3)
    yield Figure("open20", "TTFT error p99 (ms)", float(np.quantile(error, 0.99)), 1.0)
    there, back = ways_ms(joined)
    yield Figure("open20", "  of it until the server read it, p99 (ms)", float(np.quantile(there, 0.99)))
    yield Figure("open20", "  of it until the client read it, p99 (ms)", float(np.quantile(back, 0.99)))
    yield Figure("open20", "send lag p99 (ms)", float(np.quantile(lag, 0.99)), 5.0)


def short(streamed: bool) -> Callable[[Bench], Iterator[Figure]]:
    name = "short-streamed" if streamed else "short"

    def bench(b: Bench) -> Iterator[Figure]:
        options = [
            "-u",
            "64",
            "-r",
            "64",
            "-t",
            f"{b.seconds:.0f}s",
            "--output-tokens",
            "fixed:1",
            "--prompt-tokens",
            "fixed:16",
        ]
        recorded, _, joined = b.both(("--ttft", "0"), *options, *([] if streamed else ["--no-stream"]))
        span = joined["last_token_s"].max() - joined["sent_s"].min()
        cpu = sum(recorded.header["client"]["cpu_s"].values()) / len(joined)
        yield Figure(
            name, "requests/s recorded", len(joined) / span, 2000 if streamed else 3000, at_least=True
        )
        yield Figure(name, "requests per CPU second of the client", 1 / cpu)

    return bench


def rate(b: Bench) -> Iterator[Figure]:
    """Delivered rate, lateness and gaps, judged from the server's log; a step and its area."""
    gaps_of = {"constant": None, "poisson": stats.expon().cdf, "gamma:0.5": stats.gamma(4, scale=0.25).cdf}
    for per_s, arrivals in ((50, "constant"), (200, "poisson"), (500, "gamma:0.5")):
        name = f"rate {per_s}"
        options = ["--rate", str(per_s), "-t", f"{b.seconds:.0f}s", "--arrivals", arrivals]
        options += ["--output-tokens", "fixed:2", "--prompt-tokens", "fixed:16"]
        recorded, truth, _ = b.both((), *options)
        requests = recorded.requests
        yield Figure(
            name, "delivered against planned, off by (%)", abs(len(truth) / len(requests) - 1) * 100, 0.5
        )
        lag = (requests["sent_s"] - requests["due_s"]).to_numpy(float) * 1e3
        yield Figure(name, "send lag p99 (ms)", float(np.quantile(lag, 0.99)), 5.0)
        gaps = np.diff(np.sort(truth["received_s"])) * per_s
        cdf = gaps_of[arrivals]
        if cdf is None:
            yield Figure(
                name,
                "constant: gap off by, p99 (ms)",
                float(np.quantile(np.abs(gaps - 1), 0.99)) / per_s * 1e3,
                5.0,
            )
        else:
            yield Figure(
                name,
                f"{arrivals}: Kolmogorov-Smirnov p value",
                stats.kstest(gaps, cdf).pvalue,
                0.01,
                at_least=True,
            )
    recorded, truth, _ = b.both(
        (), "--stages", "20:4,200:4", "--arrivals", "constant", "--output-tokens", "fixed:2"
    )
    received = np.sort(truth["received_s"]) - truth["received_s"].min()
    yield Figure("step", "area error (%)", abs(np.sum(received >= 4) / 800 - 1) * 100, 2.0)
    around = np.diff(received[(received > 3.5) & (received < 4.5)])
    yield Figure("step", "largest gap at the step (ms)", float(around.max() * 1e3), 100.0)


def omission(b: Bench) -> Iterator[Figure]:
    """One seat, 500 ms service, 10 requests/s, 8 requests: counted from the due time, 3,330 ms +-5 %."""
    options = [
        "--stages",
        "10:0.8",
        "--arrivals",
        "constant",
        "--output-tokens",
        "fixed:1",
        "--max-in-flight",
        "1",
    ]
    recorded, _, _ = b.both(("--ttft", "0.5"), *options)
    requests = recorded.requests
    for what, column in (("TTFT", "first_token_s"), ("E2E", "last_token_s")):
        value = float(np.quantile(requests[column] - requests["due_s"], 0.99)) * 1e3
        yield Figure("omission", f"{what} p99 from due (ms)", value)
        yield Figure("omission", f"{what} p99 from due, off 3330 by (%)", abs(value / 3330 - 1) * 100, 5.0)
    sent = float(np.quantile(requests["first_token_s"] - requests["sent_s"], 0.99)) * 1e3
    yield Figure("omission", "TTFT p99 from send (ms)", sent)


def held(b: Bench, share: float, name: str, expected: str) -> Iterator[Figure]:
    """The verdict with the client stopped for 1 - share of every 100 ms, or at about 20 % load with no limit."""

    def hold(pid: int) -> None:
        path = b.folder / f"run{b.number}" / "run.json"
        while not path.exists():
            time.sleep(0.05)
        until = time.monotonic() + b.seconds
        while time.monotonic() < until and share < 1:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.1 * (1 - share))
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.1 * share)

    with b.server() as (port, _):
        options = ["-u", "40", "-r", "40", "-t", f"{b.seconds:.0f}s", "--prompt-tokens", "fixed:16"]
        recorded = b.client(port, *options, during=hold)
    client = recorded.header["client"]
    busy = sum(client["cpu_s"].values()) / b.seconds
    yield Figure(
        name,
        f"verdict is {expected} (1 = yes); load {busy:.0%} of a core",
        float(client["verdict"] == expected),
        1.0,
        at_least=True,
    )


def plain(b: Bench) -> Iterator[Figure]:
    """A plain FastHttpUser script with 256 streams, for comparison with streams256."""
    script, out = b.folder / "plain.py", b.folder / "plain.json"
    script.write_text(PLAIN)
    with b.server() as (port, log):
        command = [*b._priority(), "taskset", "-c", str(CLIENT_CORE), sys.executable, "-m", "locust"]
        command += ["-f", str(script), "--headless", "--only-summary", "-u", "256", "-r", "256"]
        command += ["-t", f"{b.seconds:.0f}s", "--host", f"http://127.0.0.1:{port}"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PLAIN_OUT": str(out)}
        )
    if not out.exists():
        raise SystemExit(done.stderr)
    said = json.loads(out.read_text())
    truth = pd.DataFrame([json.loads(line) for line in log.read_text().splitlines()])
    yield Figure("plain", "events/s", said["requests"] * 128 / b.seconds)
    yield Figure("plain", "CPU s per 1k tokens", said["cpu_s"] / (said["requests"] * 128) * 1000)
    error_ms = (said["ttft_s"] - (truth["first_s"] - truth["received_s"]).mean()) * 1e3
    yield Figure("plain", "TTFT mean said minus true (ms)", error_ms)


def peers(b: Bench) -> Iterator[Figure]:
    """Other clients with 256 streams, where their commands exist; judged from the server's log."""
    tokenizer = os.environ.get("BENCH_TOKENIZER")
    for name, template in PEERS.items():
        if shutil.which(name) is None or tokenizer is None:
            why = (
                "not installed"
                if shutil.which(name) is None
                else "needs a tokenizer's directory in BENCH_TOKENIZER"
            )
            print(f"{name}: {why}, left out", file=sys.stderr)
            continue
        with b.server() as (port, log):
            command = template.format(
                url=f"http://127.0.0.1:{port}",
                tokenizer=tokenizer,
                streams=256,
                seconds=b.seconds,
                requests=round(256 * b.seconds / 0.7),
            )
            before = os.times()
            pinned = [*b._priority(), "taskset", "-c", str(CLIENT_CORE), *command.split()]
            done = subprocess.run(pinned, capture_output=True, text=True, check=False)
            after = os.times()
        truth = pd.DataFrame([json.loads(line) for line in log.read_text().splitlines()])
        if done.returncode or truth.empty:
            print(f"{name}: exit {done.returncode}: {done.stderr[-500:]}", file=sys.stderr)
            continue
        tokens = float(truth["tokens"].sum())
        cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
        yield Figure(name, "events/s", tokens / (truth["last_s"].max() - truth["received_s"].min()))
        yield Figure(name, "CPU s per 1k tokens (start-up included)", cpu_s / tokens * 1000)


def spike(b: Bench) -> Iterator[Figure]:
    """A spike from 20 to 200 requests/s for 2 s, judged from the server's log."""
    file = b.folder / "spike.yaml"
    file.write_text(
        "arrivals: constant\noutput_tokens: fixed:2\nprompt_tokens: fixed:16\n"
        "load: [{spike: {base_rps: 20, peak_rps: 200, at_s: 3, hold_s: 2, duration_s: 8}}]\n"
    )
    _, truth, _ = b.both((), "--load", str(file))
    received = np.sort(truth["received_s"]) - truth["received_s"].min()
    inside = np.sum((received >= 3) & (received < 5))
    yield Figure("spike", "area of the spike, error (%)", abs(inside / 400 - 1) * 100, 2.0)
    yield Figure("spike", "area in all, error (%)", abs(len(received) / 520 - 1) * 100, 2.0)
    around = np.diff(received[(received > 2.9) & (received < 5.1)])
    yield Figure("spike", "largest gap around the spike (ms)", float(around.max() * 1e3), 100.0)


def workers(b: Bench) -> Iterator[Figure]:
    """What a worker costs at open loop: the C of manifests/locust/README.md."""
    for per_s in (10, 50, 100):
        options = ["--rate", str(per_s), "-t", f"{b.seconds:.0f}s", "--output-tokens", "fixed:128"]
        recorded, _, joined = b.both((), *options)
        cpu_s = sum(recorded.header["client"]["cpu_s"].values())
        yield Figure(f"workers {per_s}", "CPU s per 1k tokens", cpu_per_1k(recorded, joined))
        yield Figure(f"workers {per_s}", "CPU ms per request of 128 tokens", cpu_s / len(joined) * 1e3)


def truth_server(folder: Path) -> list[str]:
    """The command of the truth server: the one in C where a compiler is at hand (it is 40 us late where Python's is 40
    ms late with 500 streams), else the one in Python."""
    source, binary = ROOT / "benchmarks" / "truth_server.c", folder / "truth_server"
    for extra in (["-DTLS", "-lssl", "-lcrypto"], []):
        compiler = shutil.which("cc")
        command = [str(compiler), "-O2", "-o", str(binary), str(source), *extra]
        if compiler and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return [str(binary)]
    return [sys.executable, str(ROOT / "benchmarks" / "truth_server.py")]


def certificate(folder: Path) -> list[str]:
    """A self-signed certificate made with openssl: its files."""
    files = [str(folder / "cert"), str(folder / "key")]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run(
        [*command, "-subj", "/CN=localhost", "-out", files[0], "-keyout", files[1]],
        check=True,
        capture_output=True,
    )
    return files


BENCHES: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "streams256": streams("streams256", 256, 0.005, 0.015, 2.0, 5.0),
    "streams64": streams("streams64", 64, 0.005, 0.020, None, 5.0),
    "streams500": streams("streams500", 500, 0.010, None, 5.0, None, itl=1.5),
    "open20": open20,
    "tls": streams("tls 64", 64, 0.005, 0.040, None, 5.0, tls=True),
    "short": short(False),
    "short-streamed": short(True),
    "rate": rate,
    "spike": spike,
    "workers": workers,
    "omission": omission,
    "starvation": lambda b: held(b, 0.2, "starvation", "limited"),
    "ok": lambda b: held(b, 1.0, "ok", "ok"),
    "plain": plain,
    "peers": peers,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a run (default 8)")
    parser.add_argument(
        "--realtime", action="store_true", help="real-time priority for client and server (root)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHES):
        parser.error(f"unknown benchmarks {sorted(unknown)}: expected some of {', '.join(BENCHES)}")
    bench = Bench(options.seconds, options.realtime)
    figures: list[Figure] = []
    if not options.json:
        print(f"{'benchmark':<15} {'figure':<48} {'measured':>12}  {'budget':<12}")
    for name in options.names or [n for n in BENCHES if n not in ("plain", "peers")]:
        for figure in BENCHES[name](bench):
            figures.append(figure)
            if not options.json:
                print(figure, flush=True)
    if options.json:
        rows: list[dict[str, Any]] = [figure._asdict() for figure in figures]
        print(json.dumps(rows, default=float, indent=1))
    return 0 if all(f.met for f in figures if f.bound is not None) else 1


if __name__ == "__main__":
    sys.exit(main())
