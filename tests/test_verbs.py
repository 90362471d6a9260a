"""Every verb as a person types it, and its --json as a program reads it, on runs, fleets and clusters that are there."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
import yaml
from rich.console import Console, RenderableType
from typer.testing import CliRunner, Result

from autoscale.cli import app, printing
from autoscale.profiles import load
from autoscale.show.terminal.layout import to_copy
from autoscale.sim.http.hosting import FleetThread
from autoscale.sim.http.server import FleetServer
from tests import recorded_sweeps
from tests.observe import servers

ROOT = Path(__file__).parent.parent
SET = ROOT / "manifests" / "llama-3.1-8b-1xl4"
PROFILE = "llama-3.1-8b-1xl4"
TRAFFIC = {"load": [{"constant": {"rate_rps": 2, "duration_s": 600}}]}
VERBS = typer.main.get_command(app).commands
WITH_JSON = {name for name, verb in VERBS.items() if any("--json" in p.opts for p in verb.params)}
# serve ends by a signal, below; load becomes Locust: tests/loadgen/test_load_command.py; the demo takes minutes; traffic needs
# a past: tests/history
ELSEWHERE = {"serve", "load", "demo", "traffic", "watch"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded sweep, a traffic that is simulated in a moment, and the metrics of a Prometheus."""
    path = tmp_path_factory.mktemp("verbs")
    recorded_sweeps.sweep_to_run("sweep_A", path / "run")
    (path / "traffic.yaml").write_text(yaml.safe_dump(TRAFFIC))
    return path


@pytest.fixture
def prometheus() -> Iterator[str]:
    answers = [
        (one["metric"], one["values"])
        for query in ("waiting", "running", "kv")
        for one in recorded_sweeps.prometheus_answer("sweep_A", query)["data"]["result"]
    ]
    with servers.serving(servers.FakePrometheus(answers)) as server:
        yield server.url


@pytest.fixture
def fleet() -> Iterator[str]:
    """A fleet whose HPA is the committed one, in a hurry."""
    hpa = yaml.safe_load((SET / "hpa.yaml").read_text())
    with FleetThread(FleetServer(load(PROFILE), hpa, port=0, speed=100.0)) as running:
        yield running.url


@pytest.fixture
def words(folder: Path, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], list[str]]:
    """What to type after `autoscale VERB`."""
    run, traffic, system = str(folder / "run"), str(folder / "traffic.yaml"), ["--profile", PROFILE]

    def typed(verb: str) -> list[str]:
        if verb == "collect":
            empty = recorded_sweeps.sweep_to_run("sweep_A", tmp_path / "run")
            (empty / "metrics.parquet").unlink()
            return [str(empty), "--prometheus", request.getfixturevalue("prometheus")]
        if verb == "check":
            url = request.getfixturevalue("fleet")
            return ["--fleet", url, "--scale-to", "2", "--timeout", "3", "--out", str(tmp_path / "check")]
        out = ["--out", str(tmp_path / "out")]
        return {
            "simulate": ["--hpa", str(SET / "hpa.yaml"), *system, "--traffic", traffic, "--static", "1", "--seeds", "1"],
            "recommend": [run, *system, "--traffic", traffic, "--slo", "ttft_p95=5s", "--seeds", "2", "--jobs", "1", "--max-replicas", "2", *out],
            "predict": [run, *system, "--prompt-tokens", "fixed:200", "--output-tokens", "fixed:50", "--rates", "1"],
            "profile": ["--from-run", run, *system, "--out", str(tmp_path / "mine.yaml")],
            "report": [run, "--out", str(tmp_path / "run.html")],
            "manifests": [PROFILE, *out],
            "lint": [str(SET)],
            "profiles": [PROFILE],
            "signals": [],
            "traces": [],
        }[verb]  # fmt: skip

    return typed


def invoked(verb: str, words: list[str]) -> Result:
    """The verb's answer; no is an answer too."""
    result = CliRunner().invoke(app, [verb, *words], catch_exceptions=False)
    assert result.exit_code in (0, 1), result.output
    return result


SAYS = {
    "simulate": r"(?s)hpa\.yaml.*1 standing",
    "collect": r"metrics\.parquet: \d+ rows of 1 replicas",
    "recommend": r"(?s)SLO .*Why.*recommendation\.json",
    "predict": r"(?i)saturat",
    "profile": r"(?s)not measured: .*mine\.yaml",
    "report": r"run\.html",
    "manifests": r"hpa\.yaml",
    "lint": r"0 errors",
    "profiles": r"(?s)Llama-3.1-8B.*l4-24gb.*requests/s.*measured +KV capacity.*modelled +step time",
    "signals": r"(?s)waiting.*vllm:num_requests_waiting.*gpu_cache_usage_perc +before 0.11",
    "traces": r"(?s)azure.*ContextTokens.*dates.*mooncake.* ms",
    "check": r"(?s)(PASS|FAIL|proven|not).*check\.json",
}


UNREACHED = {
    "check": ["--namespace", "ns", "--hpa", "h", "--timeout", "4"],
    "lint": ["--cluster"],
    "collect": ["--prometheus", "http://127.0.0.1:1"],
    "traffic": ["--prometheus", "http://127.0.0.1:1"],
}
TYPED = """
import logging, sys
from autoscale.cli import main
logging.basicConfig()  # as any library may do
sys.argv[0] = "autoscale"
main()
"""


@pytest.mark.parametrize("verb", UNREACHED)
def test_an_answer_that_does_not_come_is_one_sentence_on_the_terminal(
    verb: str, folder: Path, tmp_path: Path
) -> None:
    nowhere = {"cluster": "c", "user": "u"}
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
    config = {
        "contexts": [{"name": "c", "context": nowhere}],
        "clusters": [cluster],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump({"current-context": "c", **config}))
    words = [*UNREACHED[verb], *([str(folder / "run")] if verb == "collect" else [])]
    ended = subprocess.run(
        [sys.executable, "-c", TYPED, verb, *words],
        env={**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")},
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (3, ""), ended.stderr
    assert [line[:7] for line in ended.stderr.splitlines()] == ["error: "], ended.stderr


@pytest.mark.parametrize(
    ("words", "to", "code", "said"),
    [
        pytest.param(["profiles"], "/dev/full", 2, "error: cannot write the output: no space left.", id="a table on a full disk"),
        pytest.param(["profiles", "--json"], "/dev/full", 2, "error: cannot write the output: no space left.", id="JSON on a full disk"),
        pytest.param(["profiles"], "", 0, "", id="a table that nobody reads"),
        pytest.param(["profiles", "--json"], "", 0, "", id="JSON that nobody reads"),
        pytest.param(["--version"], "", 0, "", id="a line that nobody reads"),
    ],
)  # fmt: skip
def test_an_output_that_cannot_be_written(words: list[str], to: str, code: int, said: str) -> None:
    if to:
        out = os.open(to, os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    command = [sys.executable, "-m", "autoscale", *words]
    ended = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    os.close(out)
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.startswith(said)
    assert len(ended.stderr.splitlines()) == bool(said)


def test_every_verb_is_typed_here() -> None:
    assert set(SAYS) | ELSEWHERE == set(VERBS)


TABLES = {
    "profiles",
    "signals",
    "traces",
    "simulate",
    "recommend",
    "predict",
    "lint",
    "check",
}  # what is laid out by the width of the terminal
WHOLE = 1000  # columns: nothing wraps


class AtAnyWidth:
    """In the place of the terminal: what is printed, at every width at once."""

    def __init__(self) -> None:
        self.seen = {width: io.StringIO() for width in (80, 100, 140, WHOLE)}

    def print(self, part: RenderableType, *, crop: bool) -> None:
        for width, file in self.seen.items():
            Console(file=file, width=width, highlight=False).print(part, crop=crop)

    def words(self, width: int) -> list[str]:
        return re.sub(r"[\u2500-\u257f]", " ", self.seen[width].getvalue()).split()


def given_words(verb: str, typed: list[str]) -> list[str]:
    """With all there is to see: every reason, a set with findings."""
    return {"recommend": [*typed, "--explain"], "lint": [str(ROOT / "manifests")]}.get(verb, typed)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("verb", sorted(TABLES))
def test_no_word_is_broken_at_80_100_and_140_columns(
    verb: str, words: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = AtAnyWidth()
    monkeypatch.setattr(printing, "_console", lambda: terminal)
    invoked(verb, given_words(verb, words(verb)))
    whole = set(terminal.words(WHOLE))
    assert whole
    for width in (80, 100, 140):
        longest = [word for word in whole if len(word) > width - 12]  # a path that no line has room for
        broken = set(terminal.words(width)) - whole
        assert not {part for part in broken if not any(part in word for word in longest)}, width


@pytest.mark.parametrize("columns", ["80", "100", "140"])
@pytest.mark.parametrize("metrics", ["stackdriver", "keda"])
def test_printed_yaml_parses_as_what_is_written(
    columns: str, metrics: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    typed = [PROFILE, "--metrics", metrics]
    shown = list(yaml.safe_load_all(invoked("manifests", typed).stdout))
    invoked("manifests", [*typed, "--out", str(tmp_path / "set")])
    written = [d for file in (tmp_path / "set").rglob("*.yaml") for d in yaml.safe_load_all(file.read_text())]
    assert len(shown) == len(written)
    assert all(document in written for document in shown)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_yaml_among_other_results_is_never_wrapped(width: int) -> None:
    text = (ROOT / "manifests" / PROFILE / "hpa.yaml").read_text()
    assert max(map(len, text.splitlines())) > 80
    file = io.StringIO()
    Console(file=file, width=width).print(to_copy(text), crop=False)
    assert yaml.safe_load(file.getvalue()) == yaml.safe_load(text)


def test_a_profile_is_printed_as_yaml(words: Callable[[str], list[str]]) -> None:
    typed = words("profile")
    shown = invoked("profile", typed[: typed.index("--out")]).stdout
    assert yaml.safe_load(shown)["extends"] == PROFILE


@pytest.mark.timeout(240)
@pytest.mark.parametrize("verb", SAYS)
def test_a_verb_answers_in_words(verb: str, words: Callable[[str], list[str]]) -> None:
    shown = invoked(verb, words(verb)).stdout
    assert re.search(SAYS[verb], shown), shown
    assert not re.search(r"\bnan\b", shown, re.IGNORECASE), shown


@pytest.mark.timeout(240)
@pytest.mark.parametrize("verb", sorted(WITH_JSON - ELSEWHERE))
def test_the_json_of_a_verb_is_json(verb: str, words: Callable[[str], list[str]]) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    content = json.loads(invoked(verb, [*words(verb), "--json"]).stdout, parse_constant=refuse)
    assert isinstance(content, dict)
    assert content


def test_a_cost_without_a_price_is_null(words: Callable[[str], list[str]]) -> None:
    content = json.loads(invoked("simulate", [*words("simulate"), "--json"]).stdout)
    assert load(PROFILE).accelerator.price_per_chip_hour is None
    settings = content["settings"].values()
    assert [setting["cost"] for setting in settings] == [None, None]
    assert all(setting["accelerator_hours"] > 0 for setting in settings)


def test_serve_says_where_it_listens_and_ends_when_interrupted() -> None:
    command = [
        sys.executable,
        "-m",
        "autoscale",
        "serve",
        "--profile",
        PROFILE,
        "--port",
        "0",
        "--speed",
        "60",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as server:
        assert server.stderr is not None
        said = ""
        while "60 times faster" not in said:
            line = server.stderr.readline()
            assert line, f"it ended: {said}"
            said += line
        server.send_signal(signal.SIGINT)
        out, rest = server.communicate(timeout=30)
    assert re.search(r"gateway +http://127\.0\.0\.1:\d+/v1 ", said), said
    assert (server.returncode, out) == (0, ""), rest
    assert "Traceback" not in rest
