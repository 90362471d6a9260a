"""A run as one page, or two runs side by side: what was sent, what came back, what the server said, what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.capacity import Capacity
from analysis.opened import OpenedRun, open_run
from analysis.run import validate
from autoscale.show.pages.check_facts import phase_rows
from autoscale.show.pages.page import Picture, write_page
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
    stage_rows,
    when,
)
from autoscale.show.pages.run_figures import latency_figure, run_capacity_figures, timeline_figure


def run_page(run_dir: Path, compare: Path | None, out: Path) -> Path:
    """Write the page of a run to `out`, beside it the run `compare` when given; returns the path.

    A run that lacks tables still gives a page, which says what is missing. Raises BadRun when there is no run header,
    BadInput when the page cannot be written.
    """
    seen = open_run(run_dir)
    other = open_run(compare) if compare is not None else None
    if other is not None and other.name == seen.name:
        other = replace(other, name=f"{other.name} (2)")
    return write_page(
        "run.html.j2",
        out,
        title=f"Run {seen.name}" + (f" against {other.name}" if other else ""),
        runs=[_shown(s) for s in (seen, other) if s is not None],
        comparison=comparison(seen, other) if other else None,
    )


@dataclass(frozen=True)
class CapacityShown:
    """Knee and capacity, the use of every stage, and the curves."""

    facts: list[tuple[str, str]]
    lines: list[str]
    figures: list[Picture]
    next_command: str | None


@dataclass(frozen=True)
class RunShown:
    """One run as the page's template takes it; rows are texts already."""

    name: str
    when: str
    problems: list[str]
    sent: list[tuple[str, str]]
    command: str | None
    client: ClientVerdict | None
    slo: list[tuple[str, str, str, str]]
    stages: list[tuple[str, ...]]
    latencies: list[LatencyTable]
    failures: list[tuple[str, str, str]]
    server: list[tuple[str, str, str]]
    timeline: Picture | None
    over_time: Picture | None
    capacity: CapacityShown | None
    no_capacity: Capacity | str | None
    phases: list[tuple[str, str, str, str]]
    events: EventsShown


def _shown(seen: OpenedRun) -> RunShown:
    run, capacity = seen.run, seen.capacity
    return RunShown(
        name=seen.name,
        when=when(run),
        problems=[*validate(run), *_unreadable(seen)],
        sent=list(sent(seen)),
        command=run.header.get("command"),
        client=client_verdict(seen),
        slo=list(slo_rows(seen)),
        stages=list(stage_rows(seen)),
        latencies=list(latency_tables(seen)),
        failures=failure_rows(seen),
        server=list(server_rows(seen)),
        timeline=timeline_figure(seen),
        over_time=latency_figure(seen),
        capacity=_capacity(capacity) if capacity else None,
        no_capacity=None if capacity or run.header.get("kind") == "simulated" else seen.analysed,
        phases=list(phase_rows(seen)),
        events=events_shown(run),
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
        lines=[*(str(w) for w in capacity.windows), *capacity.notes],
        figures=run_capacity_figures(capacity),
        next_command=capacity.next_command,
    )
