"""What there is to choose from, on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from autoscale.show.terminal.layout import PlainTable, bullet, plain_table

Facts = Mapping[str, Any]


def profile_list(profiles: Sequence[Facts]) -> Iterator[RenderableType]:
    """A row per profile."""
    made = _of_text("profile", "accelerators", "SLO", "modelled: requests/s", "measured", "model")
    for facts in profiles:
        made.add_row(
            facts["name"],
            f"{facts['chips_per_replica']} x {facts['accelerator']}",
            facts["slo"].replace(",", ", "),
            f"{facts['capacity_rps']['value']:.3g}",
            ", ".join(facts["measured"]) or "nothing",
            facts["model"],
        )
    yield made
    yield Text(
        "\nmodelled: what one replica serves within the SLO, at the profile's lengths, by a step time from the data sheet "
        "unless it is measured. `autoscale profiles NAME` shows one; a run replaces the model's figure by a measured one.",
        style="dim",
    )


def one_profile(facts: Facts) -> Iterator[RenderableType]:
    """One profile in full sentences."""
    found = facts["capacity_rps"]
    made = _of_text("", "")
    for name, value in (
        ("profile", facts["name"]),
        ("model", facts["model"]),
        ("one replica", f"{facts['chips_per_replica']} x {facts['accelerator']}"),
        ("lengths", f"prompts {facts['prompt_tokens']}, answers {facts['output_tokens']} tokens"),
        ("SLO", facts["slo"]),
        ("capacity (modelled)", f"{found['value']:.3g} requests/s per replica; {found['binds']} binds"),
        ("measured", ", ".join(facts["measured"]) or "nothing"),
        ("modelled", facts["modelled"] or "-"),
    ):
        made.add_row(name, value)
    yield Text(facts["title"], style="bold")
    yield made
    for sentence in facts["predictions"]:
        yield bullet(sentence, "yellow")


def signal_list(signals: Sequence[Facts]) -> Iterator[RenderableType]:
    """A row per signal and name of its metric."""
    made = _of_text("signal", "averageValue is in", "metric", "vLLM")
    for facts in signals:
        for metric in facts["metrics"]:
            made.add_row(facts["name"], facts["unit"], metric["name"], metric["versions"])
    yield made
    yield Text(f"\nways to the HPA (--metrics): {', '.join(signals[0]['paths'])}", style="dim")


def trace_list(formats: Sequence[Facts]) -> Iterator[RenderableType]:
    """A row per format."""
    made = _of_text("format", "rows", "time stamps in")
    for facts in formats:
        made.add_row(facts["name"], facts["rows"], facts["time_unit"])
    yield made
    yield Text(
        "\nA trace says its format itself. `--traffic FILE` of recommend and simulate and `--trace FILE` of load read it.",
        style="dim",
    )


def _of_text(*columns: str) -> PlainTable:
    made = plain_table(*columns)
    for column in made.columns:
        column.justify = "left"
    return made
