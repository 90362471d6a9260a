"""A recommendation on the terminal: the answer, the comparison, the reasons, the path from data to number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from analysis.numbers import known, seeds_too_few
from autoscale.bill import Bill
from autoscale.recommendation import Estimated, Forecast, Recommendation
from autoscale.show import words
from autoscale.show.bill_rows import bill_note, bill_rows, hour_rows, hours_are
from autoscale.show.terminal.layout import NONE, PlainTable, bullet, money_text, number_text, plain_table

COLOURS = {
    "autoscale": "green",
    "do_not_autoscale": "yellow",
    "infeasible": "red",
    "need_more_data": "yellow",
}
SHOWN_CANDIDATES = 25


def recommendation_lines(made: Recommendation, *, explain: bool = False) -> Iterator[RenderableType]:
    """The answer, the comparison, the reasons; with `explain` the path from data to number."""
    colour = COLOURS[made.answer]
    yield Text()
    yield Panel(
        Group(*_answer(made)),
        title=Text(words.HEADLINES[made.answer], style=f"bold {colour}"),
        title_align="left",
        width=100,
    )
    compared = {name: forecast for name, forecast in words.settings(made).items() if name != "best HPA"}
    if compared:
        yield _comparison(compared)
        if note := words.judged_over(made):
            yield Text(f"  {note}", style="dim")
        for name, forecast in compared.items():
            yield Text(f"  {name}: {forecast.setting}", style="dim")
    if made.bill:
        yield from _bill(made.bill, by_hour=explain)
    if made.schedule:
        yield Text(f"\nSchedule: {made.schedule.sentence}", style="bold")
    yield Text("\nWhy", style="bold")
    for reason in made.reasons:
        yield bullet(reason.sentence, colour)
    if made.drift:
        yield Text(f"\nThe old target: {made.drift.sentence}", style="bold")
    if explain:
        yield from _path(made)


def _answer(made: Recommendation) -> Iterator[Text]:
    if made.measuring:
        yield Text(made.measuring.sentence, style="bold")
    for target in made.metrics:
        told = f" {words.unit(target)}   ({target.interval_words})"
        yield Text.assemble((target.value_words, "bold"), told)
        yield Text(f"  {target.metric}{f': {target.query}' if target.query else ''}", style="dim")
    if made.answer == "do_not_autoscale":
        yield Text(f"Keep {words.counted(made.min_replicas or 0, 'replica')} standing.", style="bold")
    if made.metrics:
        bounds = f"minReplicas {made.min_replicas}, maxReplicas {made.max_replicas}"
        yield Text(f"{bounds}, {words.pace(made.behavior)}{words.zero(made)}")
    if robust := words.robust(made):
        yield Text(robust)
    yield Text(
        f"SLO {made.slo.text}{words.cold_start(made.slo)}, {words.promised(made)}   profile {made.profile}",
        style="dim",
    )
    yield Text(f"traffic {made.provenance.traffic}", style="dim")
    if slower := words.careful(made):
        yield Text(f"figures for replicas {slower}", style="dim")
    if measured := made.capacity_rps.measured:
        knee, slo = _rate(measured.knee), _rate(measured.slo)
        yield Text(f"one replica: knee {knee}, holds the SLO up to {slo}", style="dim")


def _rate(rate: Estimated) -> str:
    if not known(rate.value) and known(rate.high):
        return f"{number_text(rate.low, '.3g')} to {number_text(rate.high, '.3g')} req/s"
    if not known(rate.value):
        return f"at least {number_text(rate.low, '.3g')} req/s"
    top = number_text(rate.high, ".3g") if known(rate.high) else "open"
    return f"{rate.value:.3g} req/s ({number_text(rate.low, '.3g')} to {top})"


def _comparison(compared: Mapping[str, Forecast]) -> PlainTable:
    named = words.asked_latencies(compared.values())
    made = plain_table(
        "",
        "SLO",
        "in bounds",
        "days kept",
        "worst stretch",
        *map(words.latency_name, named),
        "accelerator-h",
        "cost",
        "wasted",
        "seeds",
    )
    for name, forecast in compared.items():
        hours = forecast.accelerator_hours
        low, high = (number_text(end, ",.1f") for end in (hours.low, hours.high))
        between = seeds_too_few(forecast.seeds) or ("" if low == high else f"{low} to {high}")
        made.add_row(
            name,
            Text(words.kept(forecast), "green" if forecast.holds else "red"),
            number_text(forecast.slo_attainment.value, ".2%"),
            number_text(forecast.days_kept.value, ".1%"),
            words.span(forecast.worst_stretch_s) if forecast.periods else "-",
            *(words.seconds(forecast.latencies.get(name, Estimated()).value) for name in named),
            number_text(hours.value) + (f" ({between})" if between else ""),
            money_text(forecast.cost.value if forecast.cost else None),
            number_text(forecast.wasted_scale_outs.value, ".1f"),
            str(forecast.seeds),
        )
    made.columns = [
        c for c in made.columns if any(cell.plain != NONE for cell in c.cells)
    ]  # no price: no cost
    return made


def _bill(bill: Bill, *, by_hour: bool) -> Iterator[RenderableType]:
    table = plain_table("", *bill.settings, title="\nThe bill")
    for row in bill_rows(bill.settings, bill.currency):
        table.add_row(*row)
    yield table
    yield Text(f"  {bill_note(bill)}", style="dim")
    if by_hour:
        hours = plain_table("hour", *bill.settings, title=f"\n{hours_are(bill).capitalize()}")
        for row in hour_rows(bill):
            hours.add_row(*row)
        yield hours


def _path(made: Recommendation) -> Iterator[RenderableType]:
    yield Text("\nFrom data to number", style="bold")
    if measured := made.capacity_rps.measured:
        for line in (*measured.stages, *measured.notes):
            yield bullet(line)
    model = made.model_error
    yield Text(f"\nEngine model: {model.source}")
    errors = plain_table("quantity", "replay error (median over stages)")
    for figure, error in (model.replay_median_error or {}).items():
        errors.add_row(figure, number_text(error, ".1%"))
    if errors.row_count:
        yield errors
    for a, b in model.confounded or ():
        yield Text(f"  this run cannot tell {a} from {b}: their split follows the profile's prior")
    tried = plain_table(
        "candidates (first seed)", "margin", "accelerator-h", "wasted", "verdict", title="\nWhat was tried"
    )
    for row, became in words.in_order(made, SHOWN_CANDIDATES):
        tried.add_row(
            row.setting,
            number_text(row.margin, "+.2%"),
            number_text(row.accelerator_hours),
            str(row.wasted_scale_outs),
            became,
        )
    yield tried
