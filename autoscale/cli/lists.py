"""Verbs that list what there is to choose from: profiles, signals, traces."""

from __future__ import annotations

from typing import Annotated

import typer

from autoscale.cli.options import Json
from autoscale.cli.printing import show, show_json
from autoscale.show import progress


def profiles(
    name: Annotated[str | None, typer.Argument(help="Profile name, or a profile .yaml; default all.")] = None,
    as_json: Json = False,
) -> None:
    """List the systems that are known. Accelerator, SLO, what one replica takes as modelled, and what was measured."""
    from autoscale.profiles import load, names
    from autoscale.show.catalogue import profile_facts
    from autoscale.show.terminal.lists import one_profile, profile_list

    if name:
        load(name)  # refused before a minute of compiling
    progress.compiled_engine()
    found = [profile_facts(one) for one in ([name] if name else names())]
    if as_json:
        show_json({"profiles": found}, {})
    else:
        show(*(one_profile(found[0]) if name else profile_list(found)))


def signals(as_json: Json = False) -> None:
    """List the signals that an HPA can scale on. Units, and the metric's name by version of vLLM."""
    from autoscale.show.catalogue import signal_facts
    from autoscale.show.terminal.lists import signal_list

    found = signal_facts()
    show_json({"signals": found}, {}) if as_json else show(*signal_list(found))


def traces(as_json: Json = False) -> None:
    """List the formats of recorded traces. How each is recognised, and the unit of its time stamps."""
    from autoscale.show.catalogue import trace_facts
    from autoscale.show.terminal.lists import trace_list

    found = trace_facts()
    show_json({"traces": found}, {}) if as_json else show(*trace_list(found))
