"""When requests came while nothing was scraped: as at the same time of other days.

A short silence is spread evenly by `arrivals`. One of an hour and more is a piece of the day's curve, and a flat one would be
learned as part of it, so it gets the course of other days:

    course     of the same weekday's other weeks, else of the other days of its kind (weekdays, weekends), else of all days:
               the mean over those that tell the whole silence
    level      what the counters grew by meanwhile; where a replica ended or restarted in it that is not all, and no less
               than on the other days is taken
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from autoscale.history.arrivals import CameIn
from loadgen.plan.time_units import DAY_S, WEEKDAYS, duration

LONG_S = 3600.0
WEEK_DAYS, MONDAY = 7, 3  # 1970 began three days after a Monday

Floats = NDArray[np.float64]
Alike = Callable[[int, int], bool]  # whether a day, counted from a Monday, stands in for another
LIKE: tuple[tuple[str, Alike], ...] = (
    ("the same weekday's other weeks", lambda day, other: (day - other) % WEEK_DAYS == 0),
    (
        "the other days of its kind, weekdays or weekends",
        lambda day, other: (day % WEEK_DAYS in WEEKDAYS) == (other % WEEK_DAYS in WEEKDAYS),
    ),
    ("the other days", lambda _day, _other: True),
)


def with_stand_ins(came: CameIn, begins: float) -> tuple[CameIn, list[str]]:
    """What came with the long silences as on other days, and a sentence for each; `begins` is the window's first bin in unix s.

    The bins divide a day.
    """
    counts, said = came.counts.copy(), []
    for first, end in _silences(came):
        inside = slice(first, end)
        told, lost = float(came.counts[inside].sum()), bool(came.lost[inside].any())
        course, like = _course(came, begins, first, end)
        if course is not None and course.sum() > 0:
            level = max(told, float(course.sum())) if lost else told
            counts[inside] = course * level / course.sum()
        said.append(
            _sentence(came.step_s * np.array([first, end]) + begins, counts[inside].sum(), like, lost)
        )
    return replace(came, counts=counts), said


def _silences(came: CameIn) -> Iterator[tuple[int, int]]:
    """First bin and the one after the last of every long silence."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], came.gap.astype(np.int8), [0]])))
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if (end - first) * came.step_s >= LONG_S:
            yield first, end


def _course(came: CameIn, begins: float, first: int, end: int) -> tuple[Floats | None, str]:
    """Requests per bin of a silence on the nearest kind of other days that tells all of it, and which these are."""
    bins = round(DAY_S / came.step_s)
    days = (np.arange(len(came.counts)) + round(begins / came.step_s)) // bins + MONDAY
    for words, alike in LIKE:
        parts = []
        for day in np.unique(days[first:end]).tolist():
            at = np.flatnonzero(days[first:end] == day) + first
            others = [other for other in np.unique(days).tolist() if other != day and alike(day, other)]
            moved = [at + (other - day) * bins for other in others]
            told = [
                came.counts[there]
                for there in moved
                if there[0] >= 0 and there[-1] < len(came.counts) and not came.gap[there].any()
            ]
            if not told:
                break
            parts.append(np.mean(told, axis=0))
        else:
            return np.concatenate(parts), words
    return None, ""


def _sentence(span: Floats, requests: float, like: str, lost: bool) -> str:
    first, last = (datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M") for t in span.tolist())
    silent = f"nothing was scraped from {first} to {last} UTC ({duration(float(span[1] - span[0]))})"
    if not like:
        return f"{silent}, and no other day tells the whole of that time: its {requests:,.0f} requests are spread evenly"
    if lost:
        return f"{silent}, and replicas ended or restarted meanwhile: {requests:,.0f} requests are taken to have come, as on {like}"
    return (
        f"{silent}: by the counters {requests:,.0f} requests came, taken to have come when they do on {like}"
    )
