"""From collected rows to the run directory: counters that never fall, gaps named, engine facts kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis import run
from analysis.errors import LONGEST_NAME, printable
from analysis.redact import redacted
from autoscale.observe.metric_names import COUNTERS
from autoscale.observe.series import Notes

if TYPE_CHECKING:
    import pandas as pd

GAP_INTERVALS = 3.0  # a silence longer than this many usual intervals is a gap
MIN_GAP_S = 2.5
SOON = 3  # samples
RESTARTED = (
    0.5  # of a counter's value: a restarted server has not served half as much again by its first scrape
)


def finish(
    run_dir: Path | str,
    frame: pd.DataFrame,
    window: tuple[float, float],
    facts: dict[str, object],
    other_models: Iterable[str],
    *,
    source: str | Sequence[str],
    step_s: float,
    offset_s: float = 0.0,
    raw: bool = True,
    notes: Notes | None = None,
) -> dict[str, Any]:
    """Write metrics.parquet, events and engine facts; returns the summary.

    The summary: source, rows, pods, window_s, interval_s (median between scrapes), raw_samples (rows are scrapes, not
    values at every step), gaps and counter_resets (lists), notes (what was chosen and left out, a sentence each),
    other_models left out, clock_offset_s (source minus client), engine facts.
    """
    notes = notes or Notes()
    frame, resets = without_resets(frame, notes)
    interval_s = usual_interval_s(frame, step_s)
    holes = gaps(frame, window, interval_s)
    run.write_table(run_dir, "metrics", frame)
    left_out = sorted(printable(model, LONGEST_NAME) for model in other_models)
    noticed = [
        (max(at_s, 0.0), kind, said, {"times": n} if n else {})
        for (kind, _), (at_s, said, n) in notes.found.items()
    ]
    noted(
        run_dir,
        [*_gap_events(holes), *_reset_events(resets), *_left_out_events(left_out, window[0]), *noticed],
    )
    header = run.read_header(run_dir)
    told = {"engine": {**(header.get("engine") or {}), **facts}} if facts else {}
    run.update(run_dir, metrics={"clock_offset_s": offset_s}, **told)
    summary = {
        "source": source if isinstance(source, str) else list(source),
        "rows": len(frame),
        "pods": sorted(frame["pod"].unique().tolist()),
        "window_s": list(window),
        "interval_s": interval_s,
        "raw_samples": raw,
        "gaps": holes,
        "counter_resets": resets,
        "notes": notes.sentences(),
        "other_models": left_out,
        "clock_offset_s": offset_s,
        "engine": facts,
    }
    return dict(redacted(summary))


Event = tuple[float, str, str, dict[str, Any]]  # time_s, kind, message, facts


def noted(run_dir: Path | str, events: Iterable[Event]) -> None:
    """Append events that are not there yet: collecting twice says everything once."""
    known = {
        (event.get("time_s"), event.get("kind"), event.get("message")) for event in run.read(run_dir).events
    }
    for time_s, kind, message, facts in events:
        if (round(time_s, 6), kind, message) not in known:
            run.append_event(run_dir, time_s, kind, message, **facts)


def _gap_events(gaps: list[dict[str, Any]]) -> Iterator[Event]:
    for gap in gaps:
        message = f"pod {gap['pod']}: no metrics for {gap['end_s'] - gap['start_s']:.1f} s"
        yield gap["start_s"], "metrics_gap", message, gap


def _reset_events(resets: list[dict[str, Any]]) -> Iterator[Event]:
    for reset in resets:
        message = f"pod {reset['pod']}: {reset['column']} fell, the server restarted"
        yield reset["time_s"], "counter_reset", message, {"pod": reset["pod"], "column": reset["column"]}


def _left_out_events(models: list[str], time_s: float) -> Iterator[Event]:
    if models:
        yield time_s, "models_left_out", f"metrics of other models left out: {', '.join(models)}", {}


def without_resets(frame: pd.DataFrame, notes: Notes) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The rows with counters continued over restarts, as increase() would count them, and where they fell."""
    frame = frame.sort_values(["time_s", "pod", "engine"], kind="stable", ignore_index=True)
    resets: list[dict[str, Any]] = []
    engines = frame.groupby(["pod", "engine"], sort=True).ngroup().to_numpy()
    by_engine = np.argsort(engines, kind="stable")  # of one engine's rows the earlier first
    for column in (name for name in COUNTERS if name in frame):
        at = by_engine[frame[column].notna().to_numpy()[by_engine]]
        values, owners = frame[column].to_numpy(dtype=np.float64)[at], engines[at]
        fell = (np.diff(values) < 0) & (np.diff(owners) == 0)
        for owner in np.unique(owners[1:][fell]):
            begin, end = np.searchsorted(owners, [owner, owner + 1])
            rows = at[begin:end]
            continued, restarts, back = _continued(values[begin:end])
            frame.loc[rows, column] = continued
            pod, at_s = str(frame["pod"].iloc[rows[0]]), frame["time_s"].to_numpy()[rows]
            resets += [{"time_s": float(at_s[i]), "pod": pod, "column": column} for i in restarts]
            if back:
                said = f"{pod}: {column} ran back without a restart: what it told twice is left out"
                notes.add("counter_ran_back", f"{pod} {column}", said, float(at_s[back[0]]), len(back))
    return frame, sorted(resets, key=lambda reset: reset["pod"])


def _continued(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[int], list[int]]:
    """A counter that never falls, where it restarted, and where it ran back.

    A restart takes it to less than RESTARTED of what it was. Where it falls less far, an old value was told again: it is
    left out (NaN). When it is not back within SOON samples, as after one of several processes is gone, it goes on from
    there and the fall counts as nothing.
    """
    continued = values.copy()
    restarts: list[int] = []
    back: list[int] = []
    base = highest = 0.0
    for i, value in enumerate(values):
        if value < highest * RESTARTED:
            restarts.append(i)
            base, highest = base + highest, value
        elif value < highest:
            back.append(i)
            later = values[i + 1 : i + 1 + SOON]
            if not len(later) or (later >= highest).any():
                continued[i] = np.nan
                continue
            base, highest = base + highest - value, value
        highest = max(highest, value)
        continued[i] = base + value
    return continued, restarts, back


def usual_interval_s(frame: pd.DataFrame, default_s: float) -> float:
    """Median seconds between scrapes of one pod; `default_s` when no pod was scraped twice."""
    pods, times_s = frame.groupby("pod").ngroup().to_numpy(), frame["time_s"].to_numpy(dtype=np.float64)
    order = np.lexsort((times_s, pods))
    between = np.diff(times_s[order])[np.diff(pods[order]) == 0]
    known = between[between > 0]
    return float(np.median(known)) if len(known) else default_s


def silence_s(interval_s: float) -> float:
    """Seconds without a scrape that are a gap, where `interval_s` lie between scrapes as a rule."""
    return max(GAP_INTERVALS * interval_s, MIN_GAP_S)


def gaps(frame: pd.DataFrame, window: tuple[float, float], interval_s: float) -> list[dict[str, Any]]:
    """Silences per pod inside the window: a late start, holes, an early end."""
    limit_s = silence_s(interval_s)
    found = []
    for pod, rows in frame.groupby("pod", sort=True):
        times = [window[0], *sorted(rows["time_s"].unique().tolist()), window[1]]
        for before, after in pairwise(times):
            if after - before > limit_s:
                found.append({"pod": str(pod), "start_s": round(before, 3), "end_s": round(after, 3)})
    return found
