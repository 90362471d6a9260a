"""Our part of Locust's pages: the options in the form of the web UI, and offered against sent load.

The web UI has the rates as a tab with a table and, there and below Locust's own charts, as a chart; the HTML report (--html
and "Download Report") ends with the chart. Locust's charts have fixed lines (requests per second, percentiles, users) and
its report a fixed template, so ours are put in at the end of the page's body.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flask
import locust.html
from locust.web import WebUI

from analysis.redact import hide
from loadgen.in_locust import form
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
IN_PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

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
    _without_long_labels(web_ui)

    @app.before_request
    def refuse() -> flask.Response | None:
        parsed = web_ui.environment.parsed_options
        if flask.request.method != "POST" or flask.request.endpoint != "locust.swarm" or parsed is None:
            return None
        wrong = form.problem(flask.request.form, parsed)
        if wrong is None:
            return None
        # as Locust refuses: its page shows the message below the form
        return flask.jsonify({"success": False, "message": wrong, "host": web_ui.environment.host})

    @app.route(f"{base_path}/{KEY}")
    @web_ui.auth_required_if_enabled
    def fragment() -> str:
        return section(owner())

    @app.after_request
    def add(response: flask.Response) -> flask.Response:
        if flask.request.endpoint == "locust.index" and response.mimetype == "text/html":
            response.set_data(_at_the_end(response.get_data(as_text=True), _in_page()))
        now = owner()
        if flask.request.path.endswith("/stats/requests") and now is not None and response.is_json:
            rows = {"key": KEY, "data": rate_rows(now.rates(ROWS))}
            response.set_data(json.dumps({**response.get_json(), "extended_stats": [rows]}))
        if response.is_sequence and response.mimetype in ("text/html", "application/json", "text/csv"):
            response.set_data(
                hide(response.get_data(as_text=True))
            )  # Locust shows what the command line said
        return response


def _without_long_labels(web_ui: WebUI) -> None:
    """Keep help out of the labels of the page, which cut it, each time that Locust collects its options."""
    collect = web_ui.update_template_args

    def shortened() -> None:
        collect()
        for name, *_ in form.fields():
            web_ui.template_args["extra_options"][name]["help_text"] = None

    web_ui.update_template_args = shortened  # type: ignore[method-assign]


def _in_page() -> str:
    """The chart and the form's headings and help, as a script at the end of the page."""
    shown = [{"name": _camel(name), "group": group, "help": text} for name, group, text in form.fields()]
    told = json.dumps({"key": KEY, "first": form.FIRST, "fields": shown}).replace("<", "\\u003c")
    return IN_PAGE.replace("TOLD", told)


def _camel(name: str) -> str:
    """A field's name as the page has it: prompt_tokens is promptTokens there."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


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
    """Headings, charts and legends of a run; empty before the first."""
    if owner is None:
        return ""
    rates = _figure(
        "Offered against sent load (requests/s)", owner.rates(ROWS), "offered by the plan", "sent"
    )
    courses = "".join(
        _figure(f"{name} (s), by the time at which the answer ended", rows, "median", "95th percentile")
        for name in ("TTFT", "TPOT")
        if owner.course is not None and (rows := owner.course.rows(name))
    )
    return (
        f'<div style="font:14px sans-serif">{rates}{courses}<p>Run {html.escape(str(owner.path))}</p></div>'
    )


def _figure(title: str, rows: Sequence[tuple[float, float, float]], *names: str) -> str:
    legend = " ".join(
        f'<span style="color:{colour}">&#9632;</span> {name}'
        for colour, name in zip((OFFERED, SENT), names, strict=True)
    )
    return f"<h3>{title}</h3>{chart(rows)}<p>{legend}</p>"
