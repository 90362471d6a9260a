"""A schedule of minimum replicas as recommendation.json holds it, and how it was judged. Hours are UTC."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoscale.signal_target import SignalTarget
from loadgen.plan.time_units import WEEKDAYS

Days = tuple[int, ...]  # of the week, Monday 0
WEEKEND, EVERY_DAY = (5, 6), (0, 1, 2, 3, 4, 5, 6)
NAMES = {WEEKDAYS: "weekdays", WEEKEND: "weekends", EVERY_DAY: "every day"}
DAY_MINUTES = 1440


@dataclass(frozen=True)
class Window:
    """At least so many replicas from a minute of the day until another, at most 1440, on some days of the week."""

    days: Days
    from_minute: int
    to_minute: int
    replicas: int

    def __str__(self) -> str:
        """ "3 on weekdays 7:45 to 20:00"."""
        whole = self.from_minute == self.to_minute % DAY_MINUTES
        when = "all day" if whole else f"{_clock(self.from_minute)} to {_clock(self.to_minute)}"
        return f"{self.replicas} {'' if self.days == EVERY_DAY else 'on '}{NAMES[self.days]} {when}"


def minimum_at(windows: Iterable[Window], otherwise: int, minute_of_week: int) -> int:
    """The minimum at a minute counted from Monday 00:00."""
    day, minute = divmod(minute_of_week, DAY_MINUTES)
    inside = (w.replicas for w in windows if day % 7 in w.days and w.from_minute <= minute < w.to_minute)
    return max(otherwise, *inside, 0)


def minimum_changes(
    windows: Sequence[Window], otherwise: int, begins_s: float, duration_s: float
) -> tuple[tuple[float, int], ...]:
    """(s, minimum) from the begin of traffic that begins so long after a Monday's midnight; the first is at 0 s."""

    def at(minute: int) -> int:
        return minimum_at(windows, otherwise, minute % (7 * DAY_MINUTES))

    first, last = int(begins_s // 60), int((begins_s + duration_s) // 60)
    edges = {edge for window in windows for edge in (window.from_minute, window.to_minute)}
    days = range(first // DAY_MINUTES, last // DAY_MINUTES + 1)
    minutes = sorted({day * DAY_MINUTES + edge for day in days for edge in edges})
    changes = [(60.0 * m - begins_s, at(m)) for m in minutes if m > first and at(m) != at(m - 1)]
    return (0.0, at(first)), *((at_s, least) for at_s, least in changes if at_s < duration_s)


def _clock(minute: int) -> str:
    return f"{minute // 60}:{minute % 60:02}"


@dataclass(frozen=True)
class Scheduled:
    """The minimum replicas by hour, with how it was judged on days that it was not learned from.

    windows                each with its minimum; `otherwise` holds at all other times
    targets                the reactive setting beside it, as tables call it; its metrics, behavior and maximum
    recommended            whether it is cheaper on the judged days and keeps what is promised there
    learned_s, judged_s    from and to of the parts of the traffic, in s from its begin
    accelerator_hours      on the judged days, beside those of the recommended setting without a schedule
    holds, plain_holds     whether the promise was kept there, with the schedule and without
    hours                  hours of the judged days; `broken` of them were over the SLO, `broken_plain` without a schedule
    too_many               hours in which the minimum held more than the setting without a schedule ever asked for
    """

    windows: tuple[Window, ...] = ()
    otherwise: int = 1
    targets: str = ""
    metrics: tuple[SignalTarget, ...] = ()
    behavior: Mapping[str, Any] | None = None
    max_replicas: int | None = None
    recommended: bool = False
    sentence: str = ""
    learned_s: tuple[float, float] = (math.nan, math.nan)
    judged_s: tuple[float, float] = (math.nan, math.nan)
    accelerator_hours: float = math.nan
    plain_accelerator_hours: float = math.nan
    holds: bool = False
    plain_holds: bool = False
    hours: float = math.nan
    broken: float = math.nan
    broken_plain: float = math.nan
    too_many: float = math.nan
