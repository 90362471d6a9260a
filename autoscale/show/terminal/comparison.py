"""Simulated settings side by side on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from analysis.numbers import seeds_too_few
from autoscale.recommend.choice.scenario import Scenario
from autoscale.show import words
from autoscale.show.bill_rows import bill_rows
from autoscale.show.terminal.layout import NONE, money_text, number_text, plain_table
from autoscale.show.words import seconds


def comparison_table(
    content: Mapping[str, Mapping[str, Any]], scenario: Scenario, traffic: str, whose_slo: str, currency: str
) -> Iterator[RenderableType]:
    """Settings side by side: one column each; `whose_slo` it is when nobody gave one. Below, what a month takes and costs."""
    made = plain_table("", *content)
    terms = scenario.slo.percentile_terms()
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "SLO": lambda f: "kept" if f["holds"] else "broken",
        "requests in bounds": lambda f: number_text(f["attainment"], ".2%"),
        "  95 % interval": lambda f: (
            seeds_too_few(f["seeds"])
            or f"{number_text(f['attainment_low'], '.2%')} to {number_text(f['attainment_high'], '.2%')}"
        ),
        "  seeds": lambda f: str(f["seeds"]),
        **{words.term_name(term): partial(_latency, f"{term.name}_s") for term in terms},
        "longest time over SLO": lambda f: seconds(f["longest_breach_s"]),
        "accelerator-hours": lambda f: number_text(f["accelerator_hours"]),
        "cost": lambda f: money_text(f["cost"]),
        "wasted scale-outs": lambda f: number_text(f["wasted_scale_outs"]),
        "flaps": lambda f: number_text(f["flaps"]),
        "lost requests": lambda f: number_text(f["lost_requests"]),
        "rejected (too long)": lambda f: number_text(f["rejected_requests"]),
    }
    if any("gateway_held_s" in figures for figures in content.values()):
        rows |= {
            "held at the gateway": lambda f: seconds(f["gateway_held_s"]),
            "  most at once": lambda f: number_text(f["gateway_most_waiting"]),
            "  turned away": lambda f: number_text(f["gateway_turned_away"]),
        }
    for label, cell in rows.items():
        cells = [cell(figures) for figures in content.values()]
        if label != "cost" or any(text != NONE for text in cells):
            made.add_row(label, *cells)
    whose = f" ({whose_slo}; --slo sets another)" if whose_slo else ""
    yield Text(f"simulated on {scenario.profile.name}, SLO {scenario.slo}{whose}", style="dim")
    yield Text(f"traffic {traffic}", style="dim")
    yield made
    made = plain_table("a month of 730.5 hours", *content, title="")
    for row in bill_rows({name: figures["month"] for name, figures in content.items()}, currency):
        made.add_row(*row)
    yield made


def _latency(name: str, figures: Mapping[str, Any]) -> str:
    return seconds(figures.get(name))
