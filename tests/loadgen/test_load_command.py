"""A load test as it is typed: its options are found, it starts anywhere, and what it is told is refused in a sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from autoscale.load_command import locust_command, started_by

ROOT = Path(__file__).parents[2]
AUTOSCALE = [sys.executable, "-P", "-m", "autoscale"]


@pytest.fixture
def elsewhere(tmp_path):
    """A directory whose folders have the names of these packages."""
    for name in ("analysis", "loadgen"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    return tmp_path


def ended(command, folder):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            [sys.executable, "-P", "-m", "locust", "-f", str(ROOT / "loadgen" / "completions.py"), "--help"],
            id="locust, which shows its help before it reads the file",
        ),
        pytest.param([*AUTOSCALE, "load", "--help"], id="the verb"),
        pytest.param([*AUTOSCALE, "load", "chat", "-h"], id="the verb, chat"),
    ],
)
def test_help_shows_the_options_of_the_load_before_locusts_own(command, elsewhere):
    shown = ended(command, elsewhere)
    assert shown.returncode == 0, shown.stderr
    groups = ["LLM load:", "LLM requests:", "LLM client:", "LLM access:", "LLM results:", "--headless"]
    places = [shown.stdout.index(group) for group in groups]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--headless", "--stages", "4-30"], 2, "stage 1 of --stages 4-30"),
        (["chat", "--headless", "--rate", "1"], 3, "cannot connect to http://127.0.0.1:9"),
        (
            ["--headless", "--rate", "1", "--run-dir", "r\udcff"],
            2,
            r"--run-dir holds bytes that are not UTF-8: 'r\udcff'",
        ),
        (["--headless", "--rate", "1", "--model", "\udcff"], 2, "--model holds bytes that are not UTF-8"),
        (["--headless", "-u", "-5"], 2, "a closed loop without users, -u: -5; expected at least 1"),
        (["--headless", "-u", "0"], 2, "a closed loop without users, -u: 0; expected at least 1"),
        (["embeddings", "--headless"], 2, "what to load: 'embeddings'; expected completions or chat"),
    ],
)
def test_the_verb_ends_as_locust_does(words, code, said, elsewhere):
    found = ended([*AUTOSCALE, "load", *words, "--host", "http://127.0.0.1:9"], elsewhere)
    assert (found.returncode, "Traceback" in found.stderr) == (code, False), found.stderr
    assert said in found.stderr


def test_python_finds_the_program_beside_a_folder_of_its_packages_name(elsewhere):
    where = {"PYTHONPATH": str(ROOT), "PATH": ""}
    shown = subprocess.run(
        [sys.executable, "-m", "autoscale", "--version"], cwd=elsewhere, env=where, capture_output=True, check=False
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr


def test_a_load_is_recognised_as_it_is_typed():
    assert started_by(["autoscale", "load", "chat", "--rate", "1"]) == locust_command(["chat", "--rate", "1"])
    assert started_by(["/opt/bin/locust", "-f", "x.py"]) == [sys.executable, "-m", "locust", "-f", "x.py"]
    assert started_by(["autoscale", "lint"]) is started_by([]) is None
    assert Path(locust_command(["chat"])[5]).name == "chat.py"
    assert locust_command(["-t", "30m"])[6:] == ["-t", "30m"]
