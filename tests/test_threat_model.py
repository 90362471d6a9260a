"""The threat model says only what the code keeps: what it names is there, and its figures are the code's."""

import re
from pathlib import Path

import pytest

from analysis import documents, errors, files, redact
from autoscale.observe import web
from autoscale.sim.http import openai_request, ports, served_fleet
from loadgen.plan import text_files
from loadgen.run import backoff

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED = [
    (file, name)
    for file, names in re.findall(r"`([\w/.-]+\.py)((?:(?:: |, )\w+)*)`", PAGE)
    for name in re.findall(r"\w+", names) or [""]
]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_what_keeps_a_statement_is_there(file: str, name: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^\s*(?:(?:async )?def |class )?{name}\b", text, re.MULTILINE), f"{file}: {name}"


def test_every_figure_is_the_codes() -> None:
    assert len(NAMED) > 30
    said = {
        f"cut to {errors.LONGEST_TOLD} characters",
        f"`Retry-After` up to {backoff.LONGEST_ASKED_S:.0f} s",
        f"{web.MOST_BYTES >> 20} MiB an answer",
        f"{files.MAX_BYTES // 1_000_000} MB, {documents.MAX_DEPTH} levels",
        f"{text_files.MOST_LINE // 1_000_000} MB a line",
        f"bodies of {served_fleet.MOST_BODY >> 20} MiB",
        f"{openai_request.MOST_CHOICES:,} choices a request",
        f"{ports.MOST_CONNECTIONS:,} connections",
        {4: "shorter than four characters"}[redact.SHORTEST],
    }
    assert not {figure for figure in said if figure not in PAGE}
