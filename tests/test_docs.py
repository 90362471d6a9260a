"""README and docs are true: what they tell a reader to type works, what they link to exists, every option is there.

A ```bash block runs here, word for word but for its ports, all blocks of a file in order in one shell. What needs more than
a clone with its environment active is a ```sh block, whose first line says what it needs.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from autoscale.cli import app
from autoscale.examples import EXAMPLES
from autoscale.local_servers import free_ports
from loadgen.run.option_table import add_arguments

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#([^)]+))?\)")
RUNNABLE = [page for page in PAGES if "```bash" in page.read_text(encoding="utf-8")]
LIMIT_S = 900
LOAD = argparse.ArgumentParser(add_help=False)
add_arguments(LOAD)
LOCUSTS_OWN = {
    "--headless",
    "--help",
    "--host",
    "--master",
    "--only-summary",
    "--processes",
    "--worker",
}  # that pages name


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def clone(target: Path) -> Path:
    """What the blocks use of a clone: the entry files, manifests and docs."""
    for part in ("loadgen", "manifests", "docs"):
        shutil.copytree(ROOT / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def alive(group: int) -> bool:
    """Whether a process of the group is left; zombies that nobody waited for do not count."""
    states = subprocess.run(["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in states.stdout.splitlines()]
    return any(int(pgid) == group and not stat.startswith("Z") for pgid, stat in rows)


def typed(page: Path, folder: Path) -> tuple[int, str, bool]:
    """Type the blocks of a page in a clone: exit code, output, and whether a process outlived them."""
    first = free_ports(16)  # a fleet gives every replica the next one
    ports = {"8000": str(first), "9100": str(first + 1)}
    script = "\n".join(["set -euo pipefail", *blocks(page, "bash")])
    script = re.sub(r"(127\.0\.0\.1:|port )(8000|9100)\b", lambda m: m[1] + ports[m[2]], script)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        # First in line for a core where that is allowed: a load test whose client must wait for one says so, and no
        # answer follows from it.
        ["nice", "-n", "-10", "bash", "-c", script],
        cwd=clone(folder),
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            output, _ = shell.communicate(timeout=LIMIT_S)
            left = alive(shell.pid)
        finally:
            if alive(shell.pid):
                os.killpg(shell.pid, signal.SIGKILL)
    return shell.returncode, output, left


@pytest.mark.timeout(2 * LIMIT_S + 60)  # the pipeline in true time, on a machine that may be busy
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_what_a_page_says_to_type_works_and_leaves_no_process(page: Path, tmp_path: Path) -> None:
    code, output, left = typed(page, tmp_path / "first")
    if (
        code and "limited by the client" in output
    ):  # a busy machine: the page says to measure again, once here
        code, output, left = typed(page, tmp_path / "again")
    assert code == 0, output
    assert "Traceback" not in output
    assert not left, f"a process outlived the page:\n{output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_that_is_not_run_says_what_it_needs(page: Path) -> None:
    for text in blocks(page, "sh"):
        assert text.startswith("# needs "), text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        file = (page.parent / target).resolve()
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for name, command in typer.main.get_command(app).commands.items():
        rows = sections[f"autoscale {name}"]
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name} has no help"
            words = parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]
            for word in words:
                assert re.search(rf"`{re.escape(word)}[` ]", rows), f"{name} {word}"


def test_every_verb_shows_examples_that_its_options_accept() -> None:
    commands = typer.main.get_command(app).commands
    assert set(EXAMPLES) == set(commands)
    for name, command in commands.items():
        assert EXAMPLES[name]
        for _, example in EXAMPLES[name]:
            program, verb, *words = shlex.split(example)
            assert (program, verb) == ("autoscale", name)
            command.make_context(name, words)  # raises for an option or a value that the verb does not take
            assert example in command.get_help(typer.Context(command, info_name=name))


def test_every_option_of_the_load_generator_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for action in LOAD._actions:
        assert action.help
        for word in action.option_strings:
            assert re.search(rf"`{re.escape(word)}[` ]", text), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_and_option_that_a_page_names_exists(page: Path) -> None:
    commands = typer.main.get_command(app).commands
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for verb, words in re.findall(r"autoscale ([a-z]+)((?: [^`|\n\"]*)?)", text):
        if verb in commands:
            known = {flag for parameter in commands[verb].params for flag in parameter.opts}
            known |= (
                {flag for action in LOAD._actions for flag in action.option_strings}
                if verb == "load"
                else set()
            )
            known |= LOCUSTS_OWN if verb == "load" else set()
            assert set(re.findall(r"(?<= )--[a-z-]+", words)) <= known, (verb, words)
