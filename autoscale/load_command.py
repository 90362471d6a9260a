"""A load test as somebody types it, `autoscale load ...` or `locust -f loadgen/completions.py ...`, and as it is started."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.errors import BadInput

ENDPOINTS = ("completions", "chat")


def locust_command(words: Sequence[str]) -> list[str]:
    """The command that starts `autoscale load WORDS` in this Python. Raises BadInput without Locust, and for another endpoint."""
    from importlib.util import find_spec

    import loadgen

    if find_spec("locust") is None:
        raise BadInput("Locust is not installed", next_step="install it: pip install 'llm-autoscale[load]'")
    if words and not words[0].startswith("-") and words[0] not in ENDPOINTS:
        raise BadInput("what to load", value=words[0], expected=f"{' or '.join(ENDPOINTS)}, then options")
    named, rest = (words[0], words[1:]) if words and words[0] in ENDPOINTS else (ENDPOINTS[0], words)
    scenario = Path(loadgen.__file__).with_name(f"{named}.py")
    # -P: a folder of the working directory is not one of Locust's modules
    return [sys.executable, "-P", "-m", "loadgen.in_locust", "-f", str(scenario), *rest]


def load_summary(path: Path) -> str:
    """Everything that the load test of a run says at its end. Raises BadRun."""
    from analysis.run import read
    from loadgen.run.summary import summary_table

    return summary_table(read(path), details=True)


def started_by(words: Sequence[str]) -> list[str] | None:
    """The command that starts what was typed, in this Python; None for what is no load test."""
    program = Path(words[0]).name if words else ""
    if program == "autoscale" and list(words[1:2]) == ["load"]:
        return locust_command(words[2:])
    return [sys.executable, "-m", "locust", *words[1:]] if "locust" in program else None
