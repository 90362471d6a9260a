"""What a newcomer meets first: a version, a demo that always finds a place, addresses that cannot be had."""

import asyncio
import ctypes
import os
import re
import signal
from importlib.metadata import version
from socket import socket

import pytest
from rich.text import Text
from typer.testing import CliRunner

from analysis.errors import BadInput
from autoscale.cli import app, main
from autoscale.cli.printing import print_lines, show
from autoscale.demo import directory
from autoscale.profiles import load
from autoscale.recommend.choice.scenario import Scenario
from autoscale.show import progress
from autoscale.sim.http.server import FleetServer


def test_the_version_is_the_installed_one():
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.stdout) == (0, f"autoscale {version('llm-autoscale')}\n")


def test_what_others_wrote_moves_no_cursor(capsys):
    show(Text("a \x1b[31mred\x1b]0;x\x07 name\nand a line"))
    print_lines("b \x1b[2J", "c\nd")
    assert capsys.readouterr().out == "a \\x1b[31mred\\x1b]0;x name\nand a line\nb \\x1b[2J\nc\nd\n"


def test_the_demo_takes_the_next_free_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(directory(None)) for _ in range(3)] == ["runs/demo", "runs/demo-2", "runs/demo-3"]
    (tmp_path / "runs" / "demo-4").write_text("a file takes a name too")
    assert str(directory(None)) == "runs/demo-5"


def test_a_directory_that_was_asked_for_is_used_only_when_it_is_empty(tmp_path):
    assert directory(tmp_path / "new" / "one") == tmp_path / "new" / "one"
    assert directory(tmp_path / "new" / "one") == tmp_path / "new" / "one"
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match=f"already holds something else: '{re.escape(str(tmp_path))}'.*--out"):
        directory(tmp_path)
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match=f"cannot write to {re.escape(str(path))}: .*--out"):
            directory(path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param({"port": 22222222}, "not a port: 22222222; expected 0 .any. to 65535", id="a port too large"),
        pytest.param({"port": -1}, "not a port: -1", id="a negative port"),
        pytest.param({"metrics_port": 65_535}, "not a port: 65536.*counts on from --metrics-port", id="replicas beyond the last port"),
        pytest.param({"metrics_port": -9}, "not a port: -9", id="a negative metrics port"),
        pytest.param({"host": "192.0.2.1"}, "cannot listen on port 0 of this host .*'192.0.2.1'.*--host", id="another machine's address"),
        pytest.param({"host": ""}, "--host is empty; expected an address", id="no host at all, which would be every address"),
        pytest.param({"host": "::1"}, "cannot listen .*expected an IPv4 address", id="an IPv6 address"),
        pytest.param({"host": "a..b"}, "cannot listen on port 0 of this host .*known.*'a..b'.*--host", id="no host name"),
        pytest.param({"host": "ü" * 70}, "not a host name.*--host", id="a name that cannot be encoded"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_had_is_a_sentence(options, sentence):
    server = FleetServer(load("llama-3.1-8b-1xl4"), **{"port": 0, **options})
    with pytest.raises(BadInput, match=sentence) as caught:
        asyncio.run(server.start())
    assert caught.value.exit_code == 2


def test_a_port_that_is_taken_names_the_option():
    with socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(BadInput, match=rf"already in use: {port}; expected a free port.*--port"):
            asyncio.run(FleetServer(load("llama-3.1-8b-1xl4"), port=port).start())


@pytest.mark.parametrize("speed", [0.0, -1.0, 1e300, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_a_sentence(speed):
    with pytest.raises(
        BadInput, match=f"speed of the control plane: {re.escape(str(speed))}; expected a number above 0"
    ):
        FleetServer(load("llama-3.1-8b-1xl4"), speed=speed)


LONG = "a" * 300  # more than a file's name may have


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param(["lint", LONG], 2, "the name of a file is too long", id="manifests"),
        pytest.param(["report", LONG], 2, "not a run directory", id="a run"),
        pytest.param(["check", "--replay", LONG], 2, "not a run directory|too long", id="evidence"),
        pytest.param(["simulate", "--hpa", LONG], 2, "File name too long", id="an HPA"),
        pytest.param(["manifests", LONG], 2, "unknown profile", id="a profile"),
        pytest.param(["manifests", "llama-3.1-8b-1xl4", "--out", "\udcff"], 2, "bytes that are not UTF-8", id="bytes that are no text"),
        pytest.param(["manifests", "../profiles/llama-3.1-8b-1xl4"], 2, "unknown profile", id="a path without .yaml"),
        pytest.param(["manifests", "llama-3.1-8b-1xl4", "--out", LONG], 2, "too long", id="a folder to write to"),
        pytest.param(
            ["check", "--fleet", "http://127.0.0.1:9", "--load", f"locust -f completions.py {'--rate 1 ' * 40}"],
            3, "127.0.0.1:9", id="a load, whose command is no path",
        ),
    ],
)  # fmt: skip
def test_a_name_that_no_file_can_have_is_a_sentence(monkeypatch, capsys, tmp_path, words, code, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["autoscale", *words])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert ended.value.code == code
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert len(error.splitlines()) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_callback_of_the_compiler_swallows_ends_the_command_as_one(monkeypatch, capsys):
    """The compiler of the simulator calls Python through ctypes, where an exception goes no further; it then breaks."""

    def compile_interrupted(*_):
        ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), signal.SIGINT))()
        raise RuntimeError("no compiled object yet")

    monkeypatch.setattr(Scenario, "outcome", compile_interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        progress.compiled_engine()
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr(Scenario, "outcome", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        progress.compiled_engine()
