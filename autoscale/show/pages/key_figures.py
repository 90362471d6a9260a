"""The few figures that a recommendation is decided by: is the SLO kept, at what cost, beside what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from analysis.numbers import known
from autoscale.recommend import Recommended
from autoscale.recommendation import Forecast, Recommendation
from autoscale.show import words
from autoscale.show.words import number, share, span


@dataclass(frozen=True)
class KeyFigure:
    """A figure with its unit, what it is of, and how it is known: measured, modelled or simulated."""

    what: str
    value: str
    note: str


def key_figures(result: Recommended) -> Iterator[KeyFigure]:
    """What the recommended setting keeps and costs; nothing without one."""
    made = result.document
    predicted = made.predicted
    if predicted is None:
        return
    yield _kept(made, predicted)
    for term in result.scenario.slo.percentile_terms():
        seen = predicted.latencies.get(term.name)
        if seen is not None and known(seen.value):
            note = f"simulated; the SLO allows {span(term.bound_s)}"
            yield KeyFigure(words.latency_name(term.name), span(seen.value), note)
    yield _cost(made, predicted)
    point = result.decision.capacity
    if point is not None:
        yield KeyFigure("one replica holds", f"{number(point.rate_rps)} requests/s", _capacity(result))


def _kept(made: Recommendation, predicted: Forecast) -> KeyFigure:
    kept = predicted.days_kept
    asked = "" if made.slo.days_kept is None else f"; {share(made.slo.days_kept, 0)} asked"
    return KeyFigure(
        "SLO kept in",
        f"{round(kept.value * predicted.periods):,} of {predicted.periods:,} {words.periods(made)}",
        f"simulated; shows {share(kept.low)} at least, with 95% confidence{asked}",
    )


def _cost(made: Recommendation, predicted: Forecast) -> KeyFigure:
    hours, beside = predicted.accelerator_hours.value, ""
    standing = made.static_fleet
    if standing is not None and standing is not predicted and made.metrics:
        theirs = standing.accelerator_hours.value
        if known(theirs) and theirs > 0:
            beside = (
                f"; {number(theirs, ',.1f')} for {standing.setting}: {share(1 - hours / theirs, 0)} saved"
            )
    return KeyFigure(
        "takes",
        f"{number(hours, ',.1f')} accelerator-hours",
        f"simulated, over {words.horizon(made)}{beside}",
    )


def _capacity(result: Recommended) -> str:
    made = result.document
    measured, model = made.capacity_rps.measured, made.capacity_rps.model
    if measured is None and result.from_production and model is not None:
        ends = [number(end, ".3g") for end in (model.low, model.high) if known(end)]
        return f"modelled, by what production measured; 95%: {' to '.join(ends) or 'not known'}"
    if measured is None:
        return "modelled from the data sheet; nothing was measured"
    ends = [number(end, ".3g") for end in (measured.slo.low, measured.slo.high) if known(end)]
    return f"measured: {measured.slo.how}; 95%: {' to '.join(ends) or 'not known'}"
