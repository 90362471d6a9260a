"""Simulated settings side by side on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.text import Text

from analysis.numbers import seeds_too_few
from autoscale.recommend.choice.scenario import Scenario
from autoscale.show.terminal.layout import money_text, number_text, plain_table
from autoscale.show.words import seconds


def comparison_table(
    content: Mapping[str, Mapping[str, Any]], scenario: Scenario, *, slo_given: bool = True
) -> Group:
    """Settings side by side: one column each; `slo_given` is false when the SLO is the profile's own."""
    made = plain_table("", *content)
    rows = {
        "SLO": lambda f: "kept" if f["holds"] else "broken",
        "requests in bounds": lambda f: number_text(f["attainment"], ".2%"),
        "  95 % interval": lambda f: (
            seeds_too_few(f["seeds"])
            or f"{number_text(f['attainment_low'], '.2%')} to {number_text(f['attainment_high'], '.2%')}"
        ),
        "  seeds": lambda f: str(f["seeds"]),
        "TTFT p99": lambda f: seconds(f["ttft_p99_s"]),
        "TPOT p99": lambda f: seconds(f["tpot_p99_s"]),
        "longest time over SLO": lambda f: seconds(f["longest_breach_s"]),
        "replica-hours": lambda f: number_text(f["replica_hours"]),
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
        made.add_row(label, *(cell(figures) for figures in content.values()))
    plan = scenario.plan
    head = (
        f"{scenario.profile.name}, {plan.expected_requests:,.0f} requests over {plan.duration_s / 3600:.1f} h, "
        f"SLO {scenario.slo}"
    )
    if not slo_given:
        head += " (the profile's; --slo sets another)"
    return Group(Text(head, style="dim"), made)
