"""A run as one page, or two runs side by side: what was sent, what came back, what the server said, what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.capacity import Capacity
from analysis.opened import OpenedRun
from analysis.run import validate
from autoscale.regression import Regression
from autoscale.show.check_words import told_in
from autoscale.show.pages.check_facts import phase_rows
from autoscale.show.pages.key_figures import KeyFigure
from autoscale.show.pages.page import Picture, write_page
from autoscale.show.pages.run_answer import headline, run_keys
from autoscale.show.pages.run_comparison import comparison
from autoscale.show.pages.run_facts import (
    ClientVerdict,
    EventsShown,
    LatencyTable,
    client_verdict,
    events_shown,
    failure_rows,
    latency_tables,
    sent,
    server_rows,
    slo_rows,
    stage_heads,
    stage_rows,
    when,
)
from autoscale.show.pages.run_figures import (
    latency_figure,
    load_figure,
    signal_figure,
    timeline_figure,
)
from autoscale.show.regression_words import (
    HEADLINES,
    HEADS,
    TONES,
    regression_rows,
    regression_sentences,
)


def run_page(
    seen: OpenedRun, before: OpenedRun | None, out: Path, regression: Regression | None = None
) -> Path:
    """Write the page of a run to `out`, with an earlier run and the verdict against it when given; returns the path.

    A run that lacks tables still gives a page, which says what is missing. Raises BadInput when it cannot be written.
    """
    other = before
    if other is not None and other.name == seen.name:
        other = replace(other, name=f"{other.name} (before)")
    return write_page(
        "run.html.j2",
        out,
        title=f"Run {seen.name}" + (f" against {other.name}" if other else ""),
        runs=[_shown(s) for s in (seen, other) if s is not None],
        comparison=comparison(other, seen) if other else None,
        verdict=_verdict(regression) if regression else None,
    )


@dataclass(frozen=True)
class VerdictShown:
    """A run against an earlier one: headline, why, and the figures per stage."""

    headline: str
    tone: str
    why: list[str]
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]


def _verdict(found: Regression) -> VerdictShown:
    return VerdictShown(
        HEADLINES[found.change],
        TONES[found.change],
        list(regression_sentences(found)),
        HEADS,
        list(regression_rows(found)),
    )


@dataclass(frozen=True)
class CapacityShown:
    """How knee and capacity were found, what was set aside or disagrees, and the sweep that would close what is open."""

    facts: list[tuple[str, str]]
    lines: list[str]
    next_command: str | None


@dataclass(frozen=True)
class RunShown:
    """One run as the page's template takes it; rows are texts already."""

    name: str
    when: str
    watched: bool
    headline: str
    keys: list[KeyFigure]
    problems: list[str]
    sent: list[tuple[str, str]]
    command: str | None
    client: ClientVerdict | None
    slo: list[tuple[str, str, str, str]]
    stage_heads: tuple[str, ...]
    stages: list[tuple[str, ...]]
    latencies: list[LatencyTable]
    failures: list[tuple[str, str, str]]
    server: list[tuple[str, str, str]]
    against_load: Picture | None
    signals: Picture | None
    timeline: Picture | None
    latency: Picture | None
    capacity: CapacityShown | None
    no_capacity: Capacity | str | None
    phases: list[tuple[str, str, str, str]]
    events: EventsShown
    clock: str


def _shown(seen: OpenedRun) -> RunShown:
    run, capacity = seen.run, seen.capacity
    return RunShown(
        name=seen.name,
        when=when(run),
        watched=run.watched,
        headline=headline(seen),
        keys=list(run_keys(seen)),
        problems=[*validate(run), *_unreadable(seen)],
        sent=list(sent(seen)),
        command=run.header.get("command"),
        client=client_verdict(seen),
        slo=list(slo_rows(seen)),
        stage_heads=stage_heads(seen),
        stages=list(stage_rows(seen)),
        latencies=list(latency_tables(seen)),
        failures=failure_rows(seen),
        server=list(server_rows(seen)),
        against_load=load_figure(capacity) if capacity else None,
        signals=signal_figure(capacity) if capacity else None,
        timeline=timeline_figure(seen),
        latency=latency_figure(seen),
        capacity=_capacity(capacity) if capacity else None,
        no_capacity=None if capacity or run.header.get("kind") == "simulated" else seen.analysed,
        phases=list(phase_rows(seen)),
        events=events_shown(run, run.clock_rate),
        clock=told_in(run.clock_rate),
    )


def _unreadable(seen: OpenedRun) -> Iterator[str]:
    if seen.run.header.get("slo") and seen.slo is None:
        yield f"the SLO of the header cannot be read: {seen.run.header['slo']!r}"


def _capacity(capacity: Capacity) -> CapacityShown:
    return CapacityShown(
        facts=[
            ("knee", str(capacity.knee)),
            ("saturated throughput", str(capacity.saturated)),
            *([("holds the SLO up to", str(capacity.capacity))] if capacity.slo else []),
        ],
        lines=list(capacity.notes),
        next_command=capacity.next_command,
    )
