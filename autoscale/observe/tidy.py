"""From collected rows to the run directory: counters that never fall, gaps named, engine facts kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import run
from autoscale.observe.vllm_metrics import COUNTERS

if TYPE_CHECKING:
    import pandas as pd

GAP_INTERVALS = 3.0  # a silence longer than this many usual intervals is a gap
MIN_GAP_S = 2.5


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
) -> dict[str, Any]:
    """Write metrics.parquet, events and engine facts; returns the summary.

    The summary: source, rows, pods, window_s, interval_s (median between scrapes), gaps and counter_resets (lists),
    other_models left out, clock_offset_s (source minus client), engine facts.
    """
    frame, resets = without_resets(frame)
    interval_s = usual_interval_s(frame, step_s)
    holes = gaps(frame, window, interval_s)
    run.write_table(run_dir, "metrics", frame)
    left_out = sorted(other_models)
    note(run_dir, [*_gap_events(holes), *_reset_events(resets), *_left_out_events(left_out, window[0])])
    if facts:
        run.update(run_dir, engine={**(run.read_header(run_dir).get("engine") or {}), **facts})
    return {
        "source": source if isinstance(source, str) else list(source),
        "rows": len(frame),
        "pods": sorted(frame["pod"].unique().tolist()),
        "window_s": list(window),
        "interval_s": interval_s,
        "gaps": holes,
        "counter_resets": resets,
        "other_models": left_out,
        "clock_offset_s": offset_s,
        "engine": facts,
    }


Event = tuple[float, str, str, dict[str, Any]]  # time_s, kind, message, facts


def note(run_dir: Path | str, events: Iterable[Event]) -> None:
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


def without_resets(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The rows with counters continued over restarts, as increase() would count them, and where they fell."""
    frame = frame.sort_values(["time_s", "pod", "engine"], kind="stable", ignore_index=True)
    resets: list[dict[str, Any]] = []
    for (pod, _), rows in frame.groupby(["pod", "engine"], sort=True):
        for column in COUNTERS:
            values = rows[column].dropna()
            before = values.shift()
            fell = values < before
            if not fell.any():
                continue
            frame.loc[values.index, column] = values + before.where(fell, 0.0).cumsum()
            resets += [
                {"time_s": float(t), "pod": str(pod), "column": column}
                for t in rows["time_s"].loc[values.index[fell]]
            ]
    return frame, resets


def usual_interval_s(frame: pd.DataFrame, default_s: float) -> float:
    """Median seconds between scrapes of one pod; `default_s` when no pod was scraped twice."""
    scrapes = frame[["pod", "time_s"]].drop_duplicates().sort_values(["pod", "time_s"])
    between = scrapes.groupby("pod")["time_s"].diff().dropna()
    return float(between.median()) if len(between) else default_s


def gaps(frame: pd.DataFrame, window: tuple[float, float], interval_s: float) -> list[dict[str, Any]]:
    """Silences per pod inside the window: a late start, holes, an early end."""
    limit_s = max(GAP_INTERVALS * interval_s, MIN_GAP_S)
    found = []
    for pod, rows in frame.groupby("pod", sort=True):
        times = [window[0], *sorted(rows["time_s"].unique().tolist()), window[1]]
        for before, after in pairwise(times):
            if after - before > limit_s:
                found.append({"pod": str(pod), "start_s": round(before, 3), "end_s": round(after, 3)})
    return found
