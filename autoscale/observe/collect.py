"""Fill metrics.parquet of a run: from Prometheus after the run, or by scraping the replicas while it runs.

Prometheus is asked for the raw samples of the window, so that every row is a scrape that exists, at its own time; what
it is asked where that is refused stands in prometheus.py, and which series make a row in series.py.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import run
from analysis.access import Access
from analysis.errors import BadInput, BadRun
from analysis.redact import HIDDEN
from autoscale.observe import tidy
from autoscale.observe.header import wanted_model, window_of
from autoscale.observe.metric_names import engine_facts, version_facts
from autoscale.observe.prometheus import Prometheus
from autoscale.observe.scrape import Scraper
from autoscale.observe.series import EngineChoice, Notes
from autoscale.observe.window import FoundSeries, label_matchers, read_window

if TYPE_CHECKING:
    pass

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Progress = Callable[[float, str], None]
APPEARS_S = 60.0  # a load test that is started beside the scraper writes its header within this


def collect(
    run_dir: Path | str,
    prometheus: str | None = None,
    scrape: Sequence[str] = (),
    *,
    step_s: float = 1.0,
    namespace: str | None = None,
    selector: str = "",
    model: str | None = None,
    access: Access | None = None,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write metrics.parquet, gap events and engine facts of a run; returns the summary (see tidy.finish).

    `prometheus` is the server's URL and covers the run's window; `scrape` are the replicas' addresses, read every
    `step_s` until the run ends or `stop` is set; a run that is about to start is waited for. `selector` holds further
    PromQL label matchers such as 'job="vllm"'. `model` replaces the run's model as the filter. `access` goes with every
    request, as does an address's own user info.

    Raises BadInput (both or no source), BadRun (nothing to wait for, no window), SourceUnavailable (not reachable, not
    Prometheus, no metrics page), TooLittleData (nothing in the window, naming what is there).
    """
    if (prometheus is None) == (not scrape):
        raise BadInput(
            "one source of metrics is needed", expected="either a Prometheus URL or addresses to scrape"
        )
    if not step_s > 0 or not math.isfinite(step_s):
        raise BadInput("the step between samples", value=step_s, expected="seconds above 0")
    access = access or Access()
    if prometheus is None:
        return _scrape_until_end(run_dir, scrape, step_s, model, access, stop, progress)
    return _from_prometheus(run_dir, prometheus, step_s, namespace, selector, model, access, progress)


def _scrape_until_end(
    run_dir: Path | str,
    urls: Sequence[str],
    step_s: float,
    model: str | None,
    access: Access,
    stop: threading.Event | None,
    progress: Progress | None,
) -> dict[str, Any]:
    stop = stop or threading.Event()
    _await_header(Path(run_dir), stop, progress)
    if run.read_header(run_dir).get("ended_at") is not None:
        raise BadInput(
            "the run has ended, scraping only sees the present",
            value=str(run_dir),
            next_step="start the scraper with the run, or collect from Prometheus",
        )
    scraper = Scraper(run_dir, urls, interval_s=step_s, model=model, access=access).start()
    began = time.monotonic()
    try:
        while not stop.wait(0.5) and run.read_header(run_dir).get("ended_at") is None:
            if progress:
                progress(0.0, f"scraping until the run ends, for {time.monotonic() - began:.0f} s so far")
    finally:
        with _not_hurried():
            summary = scraper.stop()
    return summary


@contextmanager
def _not_hurried() -> Iterator[None]:
    """Without the signals that end a process, which has ended but for the rows that it writes now."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _await_header(run_dir: Path, stop: threading.Event, progress: Progress | None) -> None:
    """Until the load test has written its header; after APPEARS_S without one BadRun."""
    began = time.monotonic()
    while not (run_dir / run.HEADER).exists() and not stop.is_set():
        if time.monotonic() - began > APPEARS_S:
            raise BadRun(
                f"no load test wrote to {run_dir} within {APPEARS_S:.0f} s",
                next_step="start one with `locust ... --run-dir` and collect beside it",
            )
        if progress:
            progress(0.0, f"waiting for a load test to write to {run_dir}")
        stop.wait(0.1)


def _from_prometheus(
    run_dir: Path | str,
    url: str,
    step_s: float,
    namespace: str | None,
    selector: str,
    model: str | None,
    access: Access,
    progress: Progress | None,
) -> dict[str, Any]:
    header = run.read_header(run_dir)
    started_at, ended_at = window_of(run_dir, header)
    wanted = model or wanted_model(header)
    door = Prometheus(
        url.replace(f"{HIDDEN}@", ""), access
    )  # run.json keeps an address without its user info
    offset_s = door.clock_offset_s()
    matchers = label_matchers(namespace, selector)
    window = (started_at + offset_s, ended_at + offset_s)
    read = read_window(
        door,
        window,
        step_s=step_s,
        matchers=matchers,
        model=wanted,
        any_model=bool(matchers) and model is None,
        progress=progress,
    )
    choice, found, notes = read.choice, read.found, _door_notes(door, read.choice)
    if offset_s:
        notes.add("clock_offset", "", f"Prometheus' clock is {offset_s:+.2f} s from the client's")
    return tidy.finish(
        run_dir,
        read.frame,
        (0.0, ended_at - started_at),
        _facts(choice, found),
        choice.models - {choice.model} if choice.model else (),
        source=door.shown,
        step_s=step_s,
        offset_s=offset_s,
        raw=door.raw,
        notes=notes,
    )


def _facts(choice: EngineChoice, found: FoundSeries) -> dict[str, object]:
    facts: dict[str, object] = {}
    for number in choice.facts:
        facts |= engine_facts(found.labels[number])
    facts |= version_facts({found.labels[number].get("__name__", "") for number in choice.used})
    return facts | {"engine_kind": ", ".join(sorted(choice.kinds))}


def _door_notes(door: Prometheus, choice: EngineChoice) -> Notes:
    notes = choice.notes
    if not door.raw:
        notes.add(
            "metrics_source",
            "range",
            f"{door.shown} gives no raw samples, so range queries were sent: a scrape that was missed looks like the one "
            "before it",
        )
    for warning in sorted(door.warnings):
        notes.add("metrics_source", warning, f"{door.shown} warns: {warning}")
    return notes
