"""The words of two runs compared, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.numbers import known
from autoscale.regression import Change, Regression, RegressionRow
from autoscale.show.words import DASH, latency_name, share, span

HEADLINES: dict[Change, str] = {
    "better": "Better",
    "worse": "Worse",
    "same": "The same within noise",
    "not judged": "Not proven",
}
MARKS: dict[Change, str] = {"better": "better", "worse": "WORSE", "same": "same", "not judged": "not judged"}
TONES: dict[Change, str] = {"better": "yes", "worse": "no", "same": "", "not judged": ""}
HEADS = ("stage", "figure", "before", "now", "change, 95% interval", "")


def regression_rows(found: Regression) -> Iterator[tuple[str, ...]]:
    """Per stage and figure: before, now, the interval of the change, what it is."""
    for row in found.rows:
        yield row.plan, _figure(row), *_values(row), _change(row), row.why or MARKS[row.change]


def regression_sentences(found: Regression) -> Iterator[str]:
    """Why the verdict is what it is, and what stands in its way."""
    for clause in found.other_load:
        yield f"another load was sent, so this compares loads, not servers: {clause}"
    if not found.rows:
        yield "no stage of one run has the same planned rate as one of the other: send both the same --stages"
    moved: tuple[Change, ...] = ("worse", "better")
    for change in moved:
        stages: dict[str, list[str]] = {}
        for row in found.of(change):
            before, now = _values(row)
            stages.setdefault(row.plan, []).append(f"{_figure(row)} {before} to {now}")
        for plan, figures in stages.items():
            yield f"{change} at {plan}: {', '.join(figures)}"
    open_, judged = len(found.of("not judged")), len(found.rows)
    if found.rows and open_:
        yield f"{open_} of {judged} figures could not be judged: longer stages would"
    if found.change == "same":
        yield f"none of the {judged - open_} figures that could be judged moved by more than its interval"


def _figure(row: RegressionRow) -> str:
    return row.figure if row.is_share else latency_name(row.figure)


def _values(row: RegressionRow) -> tuple[str, str]:
    before, now = (share(v) if row.is_share else span(v) for v in (row.before, row.now))
    return before, now


def _change(row: RegressionRow) -> str:
    if not known(row.low):
        return DASH
    unit = " points" if row.is_share else "%"
    return f"{100 * row.low:+.0f}{unit} to {100 * row.high:+.0f}{unit}"
