"""Fill metrics.parquet of a run: from Prometheus after the run, or by scraping the replicas while it runs.

Prometheus is asked for the raw samples of the window, so that every row is a scrape that exists, at its own time; what
it is asked where that is refused stands in prometheus.py, and which series make a row in series.py.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import run
from analysis.access import Access
from analysis.errors import BadInput, BadRun, TooLittleData
from analysis.redact import HIDDEN
from autoscale.observe import series, tidy
from autoscale.observe.header import wanted_model, window_of
from autoscale.observe.metric_names import COLUMNS, engine_facts, version_facts
from autoscale.observe.prometheus import Prometheus, what_it_has
from autoscale.observe.scrape import Scraper
from autoscale.observe.series import EngineChoice, Notes

if TYPE_CHECKING:
    import pandas as pd

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
        summary = scraper.stop()
    return summary


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
    matchers = _matchers(namespace, selector)
    window = (started_at + offset_s, ended_at + offset_s)
    found = _Found()
    for done, some in door.samples(door.names(window), matchers, window, step_s):
        found.add(some)
        if progress:
            progress(done, f"{door.shown}: {done:.0%} of the window")
    choice = series.choose_series(
        [(labels.get("__name__", ""), labels) for labels in found.labels],
        wanted,
        any_model=bool(matchers) and model is None,
        sizes=[sum(map(len, pieces)) for pieces in found.times],
    )
    if not choice.rows:
        raise _nothing_found(door, choice, wanted, matchers, window)
    frame = _frame(choice, found, window[0])
    notes = _door_notes(door, choice)
    if offset_s:
        notes.add("clock_offset", "", f"Prometheus' clock is {offset_s:+.2f} s from the client's")
    return tidy.finish(
        run_dir,
        frame,
        (0.0, ended_at - started_at),
        _facts(choice, found),
        choice.models - {choice.model} if choice.model else (),
        source=door.shown,
        step_s=step_s,
        offset_s=offset_s,
        raw=door.raw,
        notes=notes,
    )


def _matchers(namespace: str | None, selector: str) -> str:
    if namespace is not None and not all(c.isalnum() or c in "-._" for c in namespace):
        raise BadInput("--namespace", value=namespace, expected="the name of a Kubernetes namespace")
    parts = [f'namespace="{namespace}"' if namespace else "", selector.strip("{}, ")]
    return ",".join(filter(None, parts))


class _Found:
    """The series of all chunks: labels, and per series the pieces of its times (unix s) and values."""

    def __init__(self) -> None:
        self.labels: list[dict[str, str]] = []
        self.times: list[list[Any]] = []
        self.values: list[list[Any]] = []
        self._numbers: dict[tuple[tuple[str, str], ...], int] = {}

    def add(self, some: Iterable[tuple[dict[str, str], list[list[Any]]]]) -> None:
        """Take over the series of one chunk."""
        import numpy as np

        for labels, pairs in some:
            if not pairs:
                continue
            key = tuple(sorted(labels.items()))
            number = self._numbers.setdefault(key, len(self.labels))
            if number == len(self.labels):
                self.labels.append(labels)
                self.times.append([])
                self.values.append([])
            self.times[number].append(np.array([pair[0] for pair in pairs], dtype=np.float64))
            self.values[number].append(_numbers([pair[1] for pair in pairs]))

    def samples(self, number: int) -> pd.Series:
        """The values of one series by their times, each time once."""
        import numpy as np
        import pandas as pd

        one = pd.Series(np.concatenate(self.values[number]), index=np.concatenate(self.times[number]))
        return one if one.index.is_unique else one[~one.index.duplicated()]


def _numbers(texts: list[Any]) -> Any:
    """Values as floats; infinite where a text is no number, so that it is noted and left out like any other."""
    import numpy as np

    try:
        return np.array(texts, dtype=np.float64)
    except (ValueError, TypeError):
        return np.array([_number(text) for text in texts])


def _number(text: Any) -> float:
    try:
        return float(text)
    except (ValueError, TypeError):
        return math.inf


def _frame(choice: EngineChoice, found: _Found, zero_s: float) -> pd.DataFrame:
    """One row per scrape, pod and engine, with the columns of metrics.parquet."""
    import pandas as pd

    frames: dict[tuple[str, str], list[tuple[str, pd.DataFrame]]] = {}
    for row in choice.rows:
        columns = {
            column: _combined(row.replica, column, groups, found, choice.notes, zero_s)
            for column, groups in row.columns.items()
        }
        rows = pd.DataFrame(columns).reindex(columns=list(COLUMNS))
        rows.insert(0, "time_s", rows.index - zero_s)
        frames.setdefault((row.replica, row.engine), []).append((row.scrape, rows))
    kept = [
        _told_once(replica, told, choice.notes).assign(pod=replica, engine=engine)
        for (replica, engine), told in frames.items()
    ]
    return pd.concat(kept, ignore_index=True)


def _told_once(replica: str, told: list[tuple[str, pd.DataFrame]], notes: Notes) -> pd.DataFrame:
    """The rows of one engine from its scrapes, the fullest first: one after the other, never two at a time."""
    import pandas as pd

    first, taken = told[0]
    for scrape, rows in told[1:]:
        low, high = taken["time_s"].min(), taken["time_s"].max()
        if rows["time_s"].between(low, high).any():  # beside the others, not before or after them
            silence_s = tidy.silence_s(tidy.usual_interval_s(taken.assign(pod=replica), 0.0))
            rows = rows[~rows["time_s"].between(low - silence_s, high + silence_s)]
            notes.add(
                "metrics_twice",
                f"{replica} {scrape}",
                f"{replica} is told twice: the series with {first} are taken, those with {scrape} left out",
            )
        taken = pd.concat([taken, rows])
    return taken


def _combined(
    replica: str, column: str, groups: list[list[int]], found: _Found, notes: Notes, zero_s: float
) -> pd.Series:
    """Sum over the groups of the largest in each, at every time that one of them has."""
    import pandas as pd

    told = []
    for numbers in groups:
        some = []
        for number in numbers:
            samples = found.samples(number)
            values, wrong = series.sound(column, samples.to_numpy())
            if wrong.any():
                first = int(wrong.argmax())
                at_s = float(samples.index[first]) - zero_s
                series.note_unsound(
                    notes, replica, column, float(samples.iloc[first]), at_s, int(wrong.sum())
                )
                samples = pd.Series(values, index=samples.index)
            some.append(samples)
        told.append(some[0] if len(some) == 1 else pd.concat(some).groupby(level=0).max())
    # a part that appears later, as a finished_reason may, counts from then on
    return told[0] if len(told) == 1 else pd.concat(told).groupby(level=0).sum(min_count=1)


def _facts(choice: EngineChoice, found: _Found) -> dict[str, object]:
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


def _nothing_found(
    door: Prometheus, choice: EngineChoice, wanted: str | None, matchers: str, window: tuple[float, float]
) -> BadInput:
    """The sentence that says what is there instead of the metrics that were sought."""
    if wanted is None and len(choice.models) > 1:
        return BadInput(
            f"Prometheus holds several models ({series.listed(choice.models)}) and the run names none",
            next_step="choose one with --model",
        )
    sought = f"model {wanted}" if wanted else "any LLM server"
    sought += f" with {matchers}" if matchers else ""
    when = " to ".join(datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S") for t in window) + " UTC"
    if choice.models:
        return TooLittleData(
            f"{door.shown} has no metrics of {sought} from {when}: it has {series.listed(choice.models)}",
            next_step="choose with --model",
        )
    if said := choice.notes.sentences():
        return TooLittleData(
            f"{door.shown} has no metrics of {sought} from {when}: {said[0]}",
            next_step="let it scrape the replicas themselves",
        )
    return TooLittleData(
        f"{door.shown} has no metrics of {sought} from {when}: {what_it_has(door)}",
        next_step="check the scrape configuration, the namespace and the run's window",
    )
