"""Our part of Locust's pages: the options in the form of the web UI, and offered against sent load.

The web UI has the rates as a tab with a table and, there and below Locust's own charts, as a chart; the HTML report (--html
and "Download Report") ends with the chart. Locust's charts have fixed lines (requests per second, percentiles, users) and
its report a fixed template, so ours are put in at the end of the page's body.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from typing import Any

import flask
import locust.html
from locust.web import WebUI

from analysis.redact import hide
from loadgen.in_locust.rate_chart import OFFERED, SENT, chart, rate_rows
from loadgen.run.account import Owner

KEY = "offered-sent"
COLUMNS = {
    "time": "Until (s)",
    "offered": "Offered (requests/s)",
    "sent": "Sent (requests/s)",
    "missing": "Sent of offered (%)",
}
ROWS = 60  # intervals in the table and points in the chart, at most about
# Shown on the tabs named here; Locust keeps the tab in the address.
IN_PAGE = """<section id="{key}" style="padding:0 24px 24px" hidden></section><script>
(function () {{
  const section = document.getElementById("{key}");
  let until = 0;
  async function show() {{
    const tab = new URLSearchParams(window.location.search).get("tab");
    if (tab !== "{key}" && tab !== "charts") {{ section.hidden = true; return; }}
    if (Date.now() < until && !section.hidden) return;
    (document.querySelector("main") || document.body).append(section);
    until = Date.now() + 2000;
    const answer = await fetch("./{key}");
    if (answer.ok) {{ section.innerHTML = await answer.text(); section.hidden = !section.innerHTML; }}
  }}
  window.setInterval(() => show().catch(() => {{}}), 300);
}})();
</script>"""

OwnerOrNone = Callable[[], Owner | None]


def show_options(parser: Any, shown: Mapping[str, bool]) -> None:
    """Put these options into the form of the web UI, or keep them out; those in argument groups would be left out."""
    for action in parser._actions:
        if action.dest not in shown:
            continue
        action.include_in_web_ui = shown[action.dest]
        if shown[action.dest]:
            action.is_secret = action.is_required = action.is_multiple = False


def extend(web_ui: WebUI, owner: OwnerOrNone, base_path: str) -> None:
    """Add the tab, its rows and the chart; `owner` gives the run to show, None before the first.

    `base_path` is what --web-base-path says, empty by default.
    """
    app = web_ui.app
    assert app is not None
    structure = [{"key": key, "title": title} for key, title in COLUMNS.items()]
    web_ui.template_args["extended_tabs"] = [{"title": "Offered/sent", "key": KEY}]
    web_ui.template_args["extended_tables"] = [{"key": KEY, "structure": structure}]

    @app.route(f"{base_path}/{KEY}")
    @web_ui.auth_required_if_enabled
    def fragment() -> str:
        return section(owner())

    @app.after_request
    def add(response: flask.Response) -> flask.Response:
        if flask.request.endpoint == "locust.index" and response.mimetype == "text/html":
            response.set_data(_at_the_end(response.get_data(as_text=True), IN_PAGE.format(key=KEY)))
        now = owner()
        if flask.request.path.endswith("/stats/requests") and now is not None and response.is_json:
            rows = {"key": KEY, "data": rate_rows(now.rates(ROWS))}
            response.set_data(json.dumps({**response.get_json(), "extended_stats": [rows]}))
        if response.is_sequence and response.mimetype in ("text/html", "application/json", "text/csv"):
            response.set_data(
                hide(response.get_data(as_text=True))
            )  # Locust shows what the command line said
        return response


def add_to_reports(owner: OwnerOrNone) -> None:
    """Let Locust's HTML reports of this process end with the chart of the present or last run."""
    render = locust.html.render_template_from

    def with_rates(file: str, *args: Any, **kwargs: Any) -> str:
        page = str(render(file, *args, **kwargs))
        return (
            _at_the_end(
                page, f'<section style="max-width:1152px;margin:0 auto 24px">{section(owner())}</section>'
            )
            if file == "report.html"
            else page
        )

    locust.html.render_template_from = with_rates


def _at_the_end(page: str, part: str) -> str:
    body, end, rest = page.rpartition("</body>")
    return f"{body}{part}{end}{rest}"


def section(owner: Owner | None) -> str:
    """Heading, chart and legend of a run; empty before the first."""
    if owner is None:
        return ""
    return (
        f'<div style="font:14px sans-serif"><h3>Offered against sent load (requests/s)</h3>{chart(owner.rates(ROWS))}'
        f'<p><span style="color:{OFFERED}">&#9632;</span> offered by the plan '
        f'<span style="color:{SENT}">&#9632;</span> sent. Run {html.escape(str(owner.path))}</p></div>'
    )
