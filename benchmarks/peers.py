"""Other load generators beside this one: the same load, the same server of known truth, one table.

    PATH=/path/to/venv/bin:$PATH python benchmarks/peers.py [--only NAME ...] [--streams 64] [--seconds 8] [--realtime]

Clients: here, plain (a FastHttpUser script), vllm (`vllm bench serve`), guidellm, aiperf; those not on PATH are named and
left out, and so is inference-perf, which needs Python 3.12 and is configured by a file. Client on core 0, server on core 1,
--realtime as in benchmarks/load_client.py, but in turns: clients of several processes would stop each other. A tokenizer, which three of them need, is made on the spot (a byte is a token).

Three loads: 64 streams (--streams) of 128 tokens, 5 ms apart after 50 ms; short answers of one token at once, 64 at a time; 20
requests/s of 32 tokens. All columns are judged from the server's log and the processes' CPU time, but the TTFT error: what
the client reports (mean and p99 of all requests) minus the server's truth of the same. CPU counts from the first request
that the server saw to its last token, so no start-up is in it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis import run
from benchmarks.load_lab import CLIENT_CORE, ROOT, Bench, truth_of

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


class Load(NamedTuple):
    """A closed loop of so many streams, or so many requests/s; tokens per answer."""

    streams: int | None
    rate: float | None
    tokens: int
    ttft_s: float


def loads(streams: int) -> dict[str, Load]:
    """The three loads by their names, the first with so many streams."""
    return {
        f"{streams} streams": Load(streams, None, 128, 0.05),
        "short": Load(64, None, 1, 0.0),
        "20/s": Load(None, 20.0, 32, 0.05),
    }


TOKENIZER = "bench/bytes"
SHORT_RPS = 500


class Row(NamedTuple):
    """What one client did with one load."""

    events_per_s: float
    requests_per_s: float
    cpu_s_per_1k: float
    mean_error_ms: float
    p99_error_ms: float


Command = Callable[[Load, str, float, Path], list[str]]
Said = Callable[[Path], tuple[float, float]]  # TTFT mean and p99 in ms


def here(load: Load, url: str, seconds: float, folder: Path) -> list[str]:
    """This project's client."""
    how = ["-u", str(load.streams), "-r", str(load.streams)] if load.streams else ["--rate", str(load.rate)]
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadgen" / "completions.py"), "--headless"]
    command += ["--only-summary", "--host", url, "--run-dir", str(folder / "run"), "-t", f"{seconds:.0f}s"]
    return [*command, *how, "--output-tokens", f"fixed:{load.tokens}", "--prompt-tokens", "fixed:16"]


def here_said(folder: Path) -> tuple[float, float]:
    """TTFT from sending, as every other client counts it."""
    requests = run.read(folder / "run").requests
    ttft_ms = (requests["first_token_s"] - requests["sent_s"]).dropna() * 1e3
    return float(ttft_ms.mean()), float(np.quantile(ttft_ms, 0.99))


def plain(load: Load, url: str, seconds: float, folder: Path) -> list[str]:
    """A FastHttpUser script that reads lines; Locust has no open loop."""
    if load.streams is None:
        return []
    script = folder / "plain.py"
    script.write_text(PLAIN.replace('"max_tokens": 128', f'"max_tokens": {load.tokens}').replace(
        "sum(ttfts) / len(ttfts)", "ttfts"
    ))  # fmt: skip
    command = [sys.executable, "-m", "locust", "-f", str(script), "--headless", "--only-summary"]
    return [
        *command,
        "-u",
        str(load.streams),
        "-r",
        str(load.streams),
        "-t",
        f"{seconds:.0f}s",
        "--host",
        url,
    ]


def plain_said(folder: Path) -> tuple[float, float]:
    """What the script measured."""
    ttft_ms = np.array(json.loads((folder / "plain.json").read_text())["ttft_s"]) * 1e3
    return float(ttft_ms.mean()), float(np.quantile(ttft_ms, 0.99))


def requests(load: Load, seconds: float) -> int:
    """For clients that take a number: as many as fit into the time, or SHORT_RPS of the short ones."""
    if load.rate is not None:
        return round(load.rate * seconds)
    each_s = load.ttft_s + (load.tokens - 1) * 0.005
    return round(min(SHORT_RPS, (load.streams or 1) / max(each_s, 0.001)) * seconds)


def vllm(load: Load, url: str, seconds: float, folder: Path) -> list[str]:
    """`vllm bench serve`, which takes a number of requests: as many as fit into the time."""
    command = ["vllm", "bench", "serve", "--backend", "openai", "--base-url", url, "--model", "truth"]
    command += ["--endpoint", "/v1/completions", "--tokenizer", TOKENIZER, "--dataset-name", "random"]
    command += ["--random-input-len", "16", "--random-output-len", str(load.tokens), "--ignore-eos"]
    command += [
        "--num-prompts",
        str(requests(load, seconds)),
        "--save-result",
        "--result-filename",
        str(folder / "vllm.json"),
    ]
    how = ["--max-concurrency", str(load.streams)] if load.streams else ["--request-rate", str(load.rate)]
    return [*command, *how]


def vllm_said(folder: Path) -> tuple[float, float]:
    """Its result file."""
    said = json.loads((folder / "vllm.json").read_text())
    return said["mean_ttft_ms"], said["p99_ttft_ms"]


def guidellm(load: Load, url: str, seconds: float, folder: Path) -> list[str]:
    """GuideLLM 0.8."""
    profile = f"kind=concurrent,streams={load.streams}" if load.streams else f"kind=poisson,rate={load.rate}"
    command = ["guidellm", "run", "--profile", profile, "--disable-console"]
    command += ["--backend", f"kind=openai_http,target={url},model=truth,request_format=/v1/completions"]
    command += ["--constraint", f"kind=max_duration,seconds={seconds:.0f}"]
    command += ["--tokenizer", f"kind=hf_auto,model={TOKENIZER}"]
    command += ["--data", f"kind=synthetic_text,prompt_tokens=16,output_tokens={load.tokens}"]
    return [*command, "--output", f"kind=json,path={folder / 'guidellm.json'}"]


def guidellm_said(folder: Path) -> tuple[float, float]:
    """Its report."""
    said = json.loads((folder / "guidellm.json").read_text())["benchmarks"][0]
    ttft = said["metrics"]["time_to_first_token_ms"]["successful"]
    return ttft["mean"], ttft["percentiles"]["p99"]


def aiperf(load: Load, url: str, seconds: float, folder: Path) -> list[str]:
    """AIPerf 0.13."""
    how = ["--concurrency", str(load.streams)] if load.streams else ["--request-rate", str(load.rate)]
    command = [
        "aiperf",
        "profile",
        "--model",
        "truth",
        "--url",
        url,
        "--endpoint-type",
        "completions",
        "--streaming",
    ]
    command += [
        "--tokenizer",
        TOKENIZER,
        "--request-count",
        str(requests(load, seconds)),
        "--ui-type",
        "none",
    ]
    command += ["--prompt-input-tokens-mean", "16", "--prompt-output-tokens-mean", str(load.tokens)]
    command += ["--prompt-output-tokens-stddev", "0", "--no-server-metrics", "--no-gpu-telemetry"]
    return [*command, "--output-artifact-dir", str(folder / "aiperf"), *how]


def aiperf_said(folder: Path) -> tuple[float, float]:
    """Its report."""
    ttft = json.loads((folder / "aiperf" / "profile_export_aiperf.json").read_text())["time_to_first_token"]
    return ttft["avg"], ttft["p99"]


CLIENTS: dict[str, tuple[str, Command, Said]] = {
    "here": (sys.executable, here, here_said),
    "plain": (sys.executable, plain, plain_said),
    "vllm": ("vllm", vllm, vllm_said),
    "guidellm": ("guidellm", guidellm, guidellm_said),
    "aiperf": ("aiperf", aiperf, aiperf_said),
}


def make_tokenizer(home: Path) -> None:
    """A tokenizer of one token per byte, laid where Hugging Face's libraries look for TOKENIZER without a network."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    files = {
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": level,
            "decoder": level,
            "model": {"type": "BPE", "vocab": {letters[byte]: byte for byte in range(256)}, "merges": []},
        },
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10**6},
        "config.json": {"model_type": "gpt2"},
    }
    repository = home / "hub" / f"models--{TOKENIZER.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        (snapshot / name).write_text(json.dumps(content))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)


class CpuTime:
    """Polls the CPU time of a process and its descendants, ended ones included."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._used: dict[int, float] = {}
        self._seen: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while self._root.is_running():
            try:
                for process in (self._root, *self._root.children(recursive=True)):
                    times = process.cpu_times()
                    self._used[process.pid] = times.user + times.system
            except psutil.Error:
                pass  # one ended meanwhile; what it used so far is kept
            self._seen.append((time.perf_counter(), sum(self._used.values())))
            time.sleep(0.05)

    def between(self, start_s: float, end_s: float) -> float:
        """CPU seconds between two readings of the monotonic clock."""
        at_s, used_s = np.array(self._seen).T
        return float(np.diff(np.interp([start_s, end_s], at_s, used_s))[0])


def measure(bench: Bench, name: str, load: Load) -> Row | None:
    """One client under one load; None when it cannot offer it. Raises SystemExit with its words when it fails."""
    _, command, said = CLIENTS[name]
    bench.number += 1
    folder = bench.folder / f"{name}{bench.number}"
    folder.mkdir()
    with bench.server("--ttft", str(load.ttft_s)) as (port, log):
        asked = command(load, f"http://127.0.0.1:{port}", bench.seconds, folder)
        if not asked:
            return None
        environment = {**os.environ, "HF_HOME": str(bench.folder / "hf"), "HF_HUB_OFFLINE": "1"}
        environment["PLAIN_OUT"] = str(folder / "plain.json")
        turns = ["chrt", "-r", "50"] if bench.realtime else []
        pinned = [*turns, "taskset", "-c", str(CLIENT_CORE), *asked]
        with open(folder / "log", "w") as out:
            process = subprocess.Popen(
                pinned, stdout=out, stderr=out, env=environment, cwd=folder, start_new_session=True
            )
            used = CpuTime(process.pid)
            try:
                process.wait(timeout=60 + 10 * bench.seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    truth = truth_of(log)
    if process.returncode or truth.empty:
        raise SystemExit(f"{name} failed ({process.returncode}): {(folder / 'log').read_text()[-800:]}")
    true_ms = (truth["first_s"] - truth["received_s"]) * 1e3
    start_s, end_s = float(truth["received_s"].min()), float(truth["last_s"].max())
    tokens = float(truth["tokens"].sum())
    try:
        mean, p99 = said(folder)
    except (OSError, KeyError) as error:
        raise SystemExit(f"{name} left no report: {error!r}") from None
    return Row(
        tokens / (end_s - start_s),
        len(truth) / (end_s - start_s),
        used.between(start_s, end_s) / tokens * 1000,
        mean - float(true_ms.mean()),
        p99 - float(np.quantile(true_ms, 0.99)),
    )


def version(name: str) -> str:
    """Of the client that PATH leads to."""
    if name in ("here", "plain"):
        return f"Locust {metadata.version('locust')}"
    program = shutil.which(name)
    assert program is not None
    ask = f"from importlib.metadata import version; print(version('{name}'))"
    python = Path(program).with_name("python")
    return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CLIENTS, metavar="NAME", help=", ".join(CLIENTS))
    parser.add_argument("--streams", type=int, default=64, help="of the first load (default 64)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a run (default 8)")
    parser.add_argument("--realtime", action="store_true", help="real-time priority for client and server")
    options = parser.parse_args()
    bench = Bench(options.seconds, options.realtime)
    make_tokenizer(bench.folder / "hf")
    print("inference-perf: not covered (Python 3.12, a file of its own)", file=sys.stderr)
    table = []
    for name in options.only or CLIENTS:
        if shutil.which(CLIENTS[name][0]) is None:
            print(f"{name}: not installed", file=sys.stderr)
            continue
        rows: dict[str, Row | None] = {}
        for load_name, load in loads(options.streams).items():
            try:
                rows[load_name] = measure(bench, name, load)
            except SystemExit as error:
                print(f"{load_name}: {error}", file=sys.stderr)
                rows[load_name] = None
        table.append(line(f"{name} ({version(name)})", rows))
        print("\n".join(f"{key:>48}  {value}" for key, value in table[-1].items()), flush=True)
    print(pd.DataFrame(table).to_string(index=False))
    return 0


def line(client: str, rows: dict[str, Row | None]) -> dict[str, str]:
    """One client's line of the table."""
    nothing = Row(*[math.nan] * len(Row._fields))
    (streams_name, streams), (_, short), (_, open_loop) = (
        (name, row or nothing) for name, row in rows.items()
    )
    return {
        "client": client,
        f"{streams_name}: events/s": f"{streams.events_per_s:,.0f}",
        "CPU s per 1k tokens": f"{streams.cpu_s_per_1k:.4f}",
        "TTFT error mean / p99 (ms)": f"{streams.mean_error_ms:.2f} / {streams.p99_error_ms:.2f}",
        "short requests/s": f"{short.requests_per_s:,.0f}",
        "20/s delivered": f"{open_loop.requests_per_s:.2f}",
        "its TTFT error mean / p99 (ms)": f"{open_loop.mean_error_ms:.2f} / {open_loop.p99_error_ms:.2f}",
    }


if __name__ == "__main__":
    sys.exit(main())
