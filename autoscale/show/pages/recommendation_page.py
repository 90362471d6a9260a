"""A recommendation as one page: the answer, what it is compared with, why, the figures, the manifest, what to do next."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from analysis import plots
from analysis.numbers import known, seeds_too_few
from autoscale.recommend import Recommended
from autoscale.recommend.choice.keda.written import scaled_object_text
from autoscale.recommendation import Estimated, Forecast, Recommendation
from autoscale.show import words
from autoscale.show.bill_rows import bill_note, bill_rows, hour_rows, hours_are
from autoscale.show.pages.key_figures import key_figures
from autoscale.show.pages.next_commands import next_commands
from autoscale.show.pages.page import write_page
from autoscale.show.pages.recommendation_figures import (
    capacity_figures,
    replay_figure,
    simulated_figure,
    tried_figure,
)
from autoscale.show.words import DASH, number, share, span
from autoscale.typed_json import as_plain
from loadgen.plan.lengths import parse_lengths

TONES = {"autoscale": "yes", "do_not_autoscale": "", "infeasible": "no", "need_more_data": ""}
FIGURES = {  # label -> (key, how it is written)
    "requests within every bound": ("slo_attainment", lambda v: share(v, 2)),
    "that keep the SLO": ("days_kept", lambda v: share(v, 1)),
    "longest time over the SLO, on average": ("longest_breach_s", span),
    "accelerator-hours": ("accelerator_hours", lambda v: number(v, ",.1f")),
    "cost": ("cost", lambda v: number(v, ",.2f")),
    "wasted scale-outs": ("wasted_scale_outs", lambda v: number(v, ".1f")),
    "flaps": ("flaps", lambda v: number(v, ".1f")),
}
SHOWN_CANDIDATES = 12


def recommendation_page(result: Recommended, out: Path) -> Path:
    """Write the page to `out`; returns the path. Simulates the chosen setting once, for its timeline.

    Raises BadInput when the page cannot be written there.
    """
    made = result.document
    return write_page(
        "recommendation.html.j2",
        out,
        title=f"{words.HEADLINES[made.answer]}: {made.profile}",
        headline=words.HEADLINES[made.answer],
        tone=TONES[made.answer],
        made=made,
        from_production=result.from_production,
        profile=result.scenario.profile,
        targets=list(_targets(result)),
        behavior=list(words.pace_each_way(made.behavior)),
        comparison=_comparison(made),
        key_figures=list(key_figures(result)),
        promised=words.promised(made),
        robust=words.robust(made),
        manifest=_manifest(made),
        capacity=list(capacity_figures(result)),
        pareto=tried_figure(result),
        timeline=simulated_figure(result),
        replay=replay_figure(result),
        coefficients=list(_coefficients(made)),
        replay_errors=[
            (words.QUANTITIES.get(name, name), share(error))
            for name, error in (made.model_error.replay_median_error or {}).items()
        ],
        candidates=_candidates(made),
        alternatives=list(_alternatives(result)),
        traffic=list(_traffic(result)),
        cold_start=list(_cold_start(result)),
        commands=list(next_commands(result)),
        bill=_bill(made),
    )


def _manifest(made: Recommendation) -> str | None:
    if made.scaled_object:
        return scaled_object_text(made)
    return yaml.safe_dump(made.as_json()["hpa"], sort_keys=False) if made.hpa else None


@dataclass(frozen=True)
class BillShown:
    """The bill as tables: heads of the settings, rows of a month, rows of the hours of the day, and what they hold."""

    heads: list[str]
    rows: list[list[str]]
    note: str
    hours: list[list[str]]
    hours_are: str


def _bill(made: Recommendation) -> BillShown | None:
    bill = made.bill
    if bill is None:
        return None
    rows = bill_rows(bill.settings, bill.currency)
    return BillShown(list(bill.settings), rows, bill_note(bill), hour_rows(bill), hours_are(bill))


@dataclass(frozen=True)
class TargetShown:
    """A metric of the HPA with its target, the unit, the interval, and a KV target in per cent too."""

    value: str
    unit: str
    interval: str
    metric: str
    percent: str


def _targets(result: Recommended) -> Iterator[TargetShown]:
    chosen = result.decision.chosen
    values = dict(chosen.setting.targets) if chosen else {}
    for target in result.document.metrics:
        percent = share(values.get(target.signal), 0) if target.signal == "kv_usage" else ""
        yield TargetShown(
            target.value_words, words.unit(target), target.interval_words, target.metric, percent
        )


@dataclass(frozen=True)
class ComparedRow:
    """Settings as columns, each once, and figures as rows, each cell (text, interval)."""

    heads: list[tuple[str, str]]
    verdicts: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]
    unknown: list[str]
    seeds: str
    slower: str
    priced: bool


def _comparison(made: Recommendation) -> ComparedRow | None:
    """What the recommendation is compared with; None without any setting."""
    settings: dict[str, Forecast] = {}
    for name, forecast in words.settings(made).items():
        if all(as_plain(forecast) != as_plain(other) for other in settings.values()):  # NaN is not NaN
            settings[name] = forecast
    if not settings:
        return None
    rows = []
    for label, (figure, form) in FIGURES.items():
        cells = [_cell(getattr(forecast, figure), form, forecast.seeds) for forecast in settings.values()]
        if any(text != DASH for text, _ in cells):
            rows.append((f"{words.periods(made)} {label}" if figure == "days_kept" else label, cells))
        if figure == "days_kept":
            rows += _latency_rows(settings.values())
        if figure == "longest_breach_s":
            worst = [(span(f.worst_stretch_s), "") for f in settings.values()]
            rows.append(("longest time over the SLO, at worst", worst))
    counts = sorted({forecast.seeds for forecast in settings.values()})
    return ComparedRow(
        heads=[(name, _label(forecast.setting)) for name, forecast in settings.items()],
        verdicts=[words.kept(forecast) for forecast in settings.values()],
        rows=rows,
        unknown=[name for name, forecast in settings.items() if not known(forecast.accelerator_hours.value)],
        seeds=f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0]),
        slower=words.careful(made),
        priced=any(forecast.cost and known(forecast.cost.value) for forecast in settings.values()),
    )


def _latency_rows(compared: Collection[Forecast]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for name in words.asked_latencies(compared):
        yield (
            words.latency_name(name),
            [_cell(forecast.latencies.get(name), span, forecast.seeds) for forecast in compared],
        )


def _label(setting: str) -> str:
    """A setting's label, whose replica bounds stay on one line."""
    return setting.replace("-", "\N{NON-BREAKING HYPHEN}")


def _cell(figure: Estimated | None, form: Callable[[float], str], seeds: int) -> tuple[str, str]:
    if figure is None or not known(figure.value):
        return DASH, ""
    if not (known(figure.low) and known(figure.high)):
        return form(figure.value), seeds_too_few(seeds)
    low, high = form(figure.low), form(figure.high)
    return form(figure.value), "" if low == high else f"{low} to {high}"


def _coefficients(made: Recommendation) -> Iterator[tuple[str, str, str]]:
    """What a step takes: label, value, interval where it was fitted."""
    model = made.model_error
    for name, label in words.COEFFICIENTS.items():
        low, high = (model.intervals or {}).get(name, (math.nan, math.nan))
        fitted = known(low) and known(high)
        interval = f"{words.small_time(low)} to {words.small_time(high)}" if fitted else DASH
        yield label, words.small_time(model.engine[name]), interval


@dataclass(frozen=True)
class TriedShown:
    """How many settings were tried and what became of them, and rows of the first; a stopped one has no figures."""

    tried: int
    held: int
    stopped: int
    rows: list[tuple[str, str, str, str]]


def _candidates(made: Recommendation) -> TriedShown:
    rows = []
    for row, became in words.in_order(made, SHOWN_CANDIDATES):
        whole = not row.stopped
        rows.append(
            (
                _label(row.setting),
                number(row.accelerator_hours, ",.1f") if whole else DASH,
                f"{100 * row.margin:+.2f}" if whole and known(row.margin) else DASH,
                became,
            )
        )
    return TriedShown(
        tried=len(made.candidates),
        held=sum(row.holds for row in made.candidates),
        stopped=sum(bool(row.stopped) for row in made.candidates),
        rows=rows,
    )


def _alternatives(result: Recommended) -> Iterator[tuple[str, str, str, str]]:
    """What each signal can do on its own: signal, accelerator-hours, whether it keeps the SLO, a sentence."""
    for found in result.decision.alternatives:
        hours = DASH if found.judged is None else number(found.judged.cost, ",.1f")
        kept = DASH if found.judged is None else "kept" if found.judged.holds else "broken"
        name = plots.LABELS.get(found.signal, words.UNITS[found.signal])
        yield name, hours, kept, found.sentence


def _traffic(result: Recommended) -> Iterator[tuple[str, str]]:
    traffic = result.document.traffic
    yield "source", result.document.provenance.traffic
    yield (
        "length",
        f"{words.horizon(result.document)}, about {traffic['expected_requests']:,.0f} requests",
    )
    yield "arrivals", traffic["arrivals"]
    for name in ("prompt_tokens", "output_tokens"):
        yield name.replace("_", " "), parse_lengths(traffic[name]).in_words
    if traffic["shared_prefix_tokens"]:
        yield "shared prefix", f"{traffic['shared_prefix_tokens']} tokens"


def _cold_start(result: Recommended) -> Iterator[tuple[str, str, str]]:
    """Phases of a replica's start that take time: name, median, 95th percentile; the sum of the medians last."""
    profile = result.scenario.profile
    start = profile.cold_start
    labels = {
        "node": "a node is there",
        "image": "image pulled",
        "engine_init": "engine started",
        "group_join": "group joined",
        "compile": "compiled",
        "compile_cached": "compiled, from a filled cache",
    }
    for name, label in labels.items():
        phase = getattr(start, name)
        if phase is not None and phase.p95_s > 0:
            yield label, span(phase.median_s), span(phase.p95_s)
    yield "weights loaded", span(profile.model.weight_bytes / start.weights_rate_bytes_s), DASH
    yield "together", span(start.median_s(profile.model.weight_bytes)), DASH
