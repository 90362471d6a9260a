"""The load test as a verb: Locust with this package's scenarios, wherever they are installed."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from autoscale.load_command import locust_command


def load_(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[completions|chat] [OPTIONS]",
            help="What is asked, by default completions, and the options of the load and of Locust: `autoscale load --help`.",
        ),
    ] = None,
) -> None:
    """Send load to an OpenAI-compatible server. Locust's engine, web page and options, and those of the load."""
    command = locust_command(words or [])
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606  # the same process, so that its signals and exit code are Locust's
