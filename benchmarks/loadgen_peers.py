"""Other clients under the same load and on the same truth server, for benchmarks/loadgen.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from loadgen_lab import CLIENT_CORE, Bench, Figure, truth_of

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


def plain(b: Bench) -> Iterator[Figure]:
    """A plain FastHttpUser script with 256 streams, for comparison with streams256."""
    script, out = b.folder / "plain.py", b.folder / "plain.json"
    script.write_text(PLAIN)
    with b.server() as (port, log):
        command = [*b.priority(), "taskset", "-c", str(CLIENT_CORE), sys.executable, "-m", "locust"]
        command += ["-f", str(script), "--headless", "--only-summary", "-u", "256", "-r", "256"]
        command += ["-t", f"{b.seconds:.0f}s", "--host", f"http://127.0.0.1:{port}"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PLAIN_OUT": str(out)}
        )
    if not out.exists():
        raise SystemExit(done.stderr)
    said = json.loads(out.read_text())
    truth = truth_of(log)
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
            pinned = [*b.priority(), "taskset", "-c", str(CLIENT_CORE), *command.split()]
            done = subprocess.run(pinned, capture_output=True, text=True, check=False)
            after = os.times()
        truth = truth_of(log)
        if done.returncode or truth.empty:
            print(f"{name}: exit {done.returncode}: {done.stderr[-500:]}", file=sys.stderr)
            continue
        tokens = float(truth["tokens"].sum())
        cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
        yield Figure(name, "events/s", tokens / (truth["last_s"].max() - truth["received_s"].min()))
        yield Figure(name, "CPU s per 1k tokens (start-up included)", cpu_s / tokens * 1000)
