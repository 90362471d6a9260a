"""Our part of Locust's web UI: the options in its form, and offered against delivered load as a tab and as a chart.

Locust's own charts have fixed lines (requests per second, percentiles, users), so the chart is a page of its own,
/offered-delivered, that the tab names; both show the last or present run.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from typing import Any

import flask
from locust.web import WebUI

from loadgen.session import Owner

KEY = "offered-delivered"
COLUMNS = {
    "time": "Until (s)",
    "offered": "Offered (requests/s)",
    "delivered": "Delivered (requests/s)",
    "missing": "Delivered of offered (%)",
}
ROWS = 60  # intervals in the table and points in the chart, at most about
WIDTH, HEIGHT, MARGIN = 900, 320, 50
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<title>Offered against delivered</title><style>body{{font:14px sans-serif;margin:2em}}text{{font-size:12px}}</style></head>
<body><h1>Offered against delivered load</h1><p>{caption}</p>{chart}
<p><span style="color:#888">&#9632;</span> offered by the plan
<span style="color:#06c">&#9632;</span> delivered (sent), requests/s over seconds since the start.
<a href="./">Back to Locust</a></p></body></html>"""


def show_options(parser: Any, names: tuple[str, ...]) -> None:
    """Put these options into the form of the web UI: those in argument groups would be left out."""
    for action in parser._actions:
        if action.dest in names and action.dest != "run_time":
            action.include_in_web_ui = True
            action.is_secret = action.is_required = action.is_multiple = False


def extend(web_ui: WebUI, owner: Callable[[], Owner | None]) -> None:
    """Add the tab, its rows and the page; `owner` gives the run to show, None before the first."""
    app = web_ui.app
    assert app is not None
    structure = [{"key": key, "title": title} for key, title in COLUMNS.items()]
    web_ui.template_args["extended_tabs"] = [{"title": "Offered/delivered", "key": KEY}]
    web_ui.template_args["extended_tables"] = [{"key": KEY, "structure": structure}]

    @app.route(f"/{KEY}")
    @web_ui.auth_required_if_enabled
    def page() -> str:
        now = owner()
        caption = "No run yet." if now is None else f"Run {html.escape(str(now.path))}"
        return PAGE.format(caption=caption, chart="" if now is None else chart(now.rates(ROWS)))

    @app.after_request
    def add_rows(response: flask.Response) -> flask.Response:
        now = owner()
        if flask.request.path.endswith("/stats/requests") and now is not None and response.is_json:
            rows = {"key": KEY, "data": table(now.rates(ROWS))}
            response.set_data(json.dumps({**response.get_json(), "extended_stats": [rows]}))
        return response


def table(rates: list[tuple[float, float, float]]) -> list[dict[str, Any]]:
    """Rows for the tab from (end of the interval in s, offered, delivered in requests/s)."""
    return [
        {
            "name": f"{end_s:g}",
            "time": f"{end_s:g}",
            "offered": round(offered, 3),
            "delivered": round(delivered, 3),
            "missing": round(100 * delivered / offered, 2) if offered else "-",
        }
        for end_s, offered, delivered in reversed(rates)
    ]


def chart(rates: list[tuple[float, float, float]]) -> str:
    """An SVG with both rates over time."""
    if not rates:
        return "<p>Nothing was sampled yet.</p>"
    last_s = rates[-1][0]
    top = 1.1 * max(max(offered, delivered) for _, offered, delivered in rates) or 1.0

    def line(column: int, colour: str) -> str:
        points, start_s = [], 0.0
        for row in rates:
            y = HEIGHT - MARGIN - row[column] / top * (HEIGHT - 2 * MARGIN)
            for at_s in (start_s, row[0]):
                points.append(f"{MARGIN + at_s / last_s * (WIDTH - 2 * MARGIN):.1f},{y:.1f}")
            start_s = row[0]
        return f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(points)}"/>'

    bottom, right = HEIGHT - MARGIN, WIDTH - MARGIN
    axes = f'<path d="M{MARGIN},{MARGIN}V{bottom}H{right}" fill="none" stroke="#333"/>'
    labels = f'<text x="{MARGIN - 5}" y="{bottom}" text-anchor="end">0</text>'
    labels += f'<text x="{MARGIN - 5}" y="{MARGIN}" text-anchor="end">{top:.3g}</text>'
    labels += f'<text x="{right}" y="{bottom + 20}" text-anchor="end">{last_s:.0f} s</text>'
    lines = line(1, "#888") + line(2, "#06c")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">{axes}{lines}{labels}</svg>'
