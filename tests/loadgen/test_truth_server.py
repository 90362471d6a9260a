"""The truth servers of the benchmarks, in Python and in C, answer alike and log what they did."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gevent
import pytest

from autoscale.local_servers import free_ports
from loadgen.wire.client import Client, Limits
from loadgen.wire.clock import now_s
from loadgen.wire.exchange import Exchange
from loadgen.wire.target import HttpTarget

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(params=["python", "c"])
def command(request, tmp_path):
    if request.param == "python":
        return [sys.executable, str(BENCHMARKS / "truth_server.py")]
    if shutil.which("cc") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux")
    binary = tmp_path / "truth_server"
    strict = ["-Wall", "-Wextra", "-Werror", "-O2"]
    subprocess.run(["cc", *strict, "-o", binary, BENCHMARKS / "truth_server.c"], check=True)
    return [str(binary)]


def test_it_sends_what_was_asked_on_time_and_says_when(command, tmp_path):
    port = free_ports(1)
    log = tmp_path / "truth.jsonl"
    options = ["--port", str(port), "--log", str(log), "--ttft", "0.03", "--gap", "0.002", "--gaps"]
    exchanges = []
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        client = Client(HttpTarget.from_url(f"http://127.0.0.1:{port}"), Limits())
        for number, stream in enumerate(("true", "false")):
            over = gevent.event.Event()
            body = b'{"prompt":[1,2,3],"max_tokens":5,"stream":%s}' % stream.encode()
            head = f"X-Request-Id: a-{number}\r\n"
            payload = client.target.request("POST", "/v1/completions", body, head)
            exchanges.append(Exchange(number, payload, now_s(), lambda _, over=over: over.set()))
            client.submit(exchanges[-1])
            assert over.wait(5)
        client.close()
        process.terminate()
    streamed, whole = (exchange.answer() for exchange in exchanges)
    assert (streamed.status, len(streamed.token_times_s)) == ("ok", 5)
    assert (whole.status, len(whole.token_times_s)) == ("ok", 0)
    assert streamed.prompt_tokens == whole.prompt_tokens == 3
    assert streamed.output_tokens == whole.output_tokens == 5
    truth = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["id"] for line in truth] == ["a-0", "a-1"]
    for line in truth:
        assert line["tokens"] == 5
        assert line["first_s"] - line["received_s"] >= 0.0299
        assert line["planned_first_s"] <= line["first_s"] <= line["last_s"]
    assert len(truth[0]["gaps_s"]) == 4
    assert truth[0]["last_s"] - truth[0]["planned_first_s"] >= 4 * 0.002 - 1e-6
