"""Offered against sent load as a chart (SVG) and as a table. Pure; loadgen.in_locust.web puts them into Locust's pages.

Both take rows of (end of the interval in s, offered, sent in requests/s), intervals one after the other from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 1100, 300, 60, 12, 40  # of the chart, in pixels
OFFERED, SENT = "#999", "#0b8"


def rate_rows(rates: Sequence[tuple[float, float, float]]) -> list[dict[str, str | float]]:
    """Rows for the tab from (end of the interval in s, offered, sent in requests/s)."""
    return [
        {
            "name": -end_s,  # by which Locust sorts: the newest first
            "time": round(end_s, 3),
            "offered": round(offered, 3),
            "sent": round(sent, 3),
            "missing": round(100 * sent / offered, 2) if offered else "-",
        }
        for end_s, offered, sent in rates
    ]


def chart(rates: Sequence[tuple[float, float, float]]) -> str:
    """An SVG with both rates over time, in steps; text and axes take the colour of the page."""
    if not rates:
        return "<p>Nothing was sampled yet.</p>"
    last_s = rates[-1][0]
    highest = max(max(offered, sent) for _, offered, sent in rates) or 1.0
    bottom, right = HEIGHT - BOTTOM, WIDTH - LEFT

    def x(at_s: float) -> float:
        return round(LEFT + at_s / last_s * (right - LEFT), 1)

    def y(rate: float) -> float:
        return round(bottom - rate / (1.05 * highest) * (bottom - TOP), 1)

    def line(column: int, colour: str) -> str:
        points, start_s = [], 0.0
        for row in rates:
            points += [f"{x(at_s)},{y(row[column])}" for at_s in (start_s, row[0])]
            start_s = row[0]
        return f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(points)}"/>'

    grid = "".join(
        f'<path d="M{LEFT},{y(tick)}H{right}" stroke="currentColor" stroke-opacity=".2"/>'
        f'<text x="{LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>'
        for tick in ticks(highest)
    ) + "".join(
        f'<text x="{x(tick)}" y="{bottom + 18}" text-anchor="middle">{tick:g} s</text>'
        for tick in ticks(last_s)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img" fill="currentColor" font-size="12">'
        f"{grid}{line(1, OFFERED)}{line(2, SENT)}</svg>"
    )


def ticks(highest: float) -> list[float]:
    """From 0 to at most `highest` in 2 to 6 steps of 1, 2 or 5 times a power of ten."""
    rough = highest / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for factor in (1, 2, 5, 10) if (step := factor * power) >= rough)
    return [round(i * step, 9) for i in range(int(highest / step + 1e-9) + 1)]
