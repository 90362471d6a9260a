"""A week of minimum replicas: by hour, the same on every day, or one row for weekdays and one for weekends. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from autoscale.schedule import DAY_MINUTES, EVERY_DAY, WEEKEND, Days, Window, minimum_changes
from loadgen.plan.time_units import WEEKDAYS

DAY_S, HOUR_S, WEEK_DAYS, HOURS = 86_400.0, 3600.0, 7, 24


@dataclass(frozen=True)
class Week:
    """Rows of 24 minima, one per kind of day; a minimum rises `lead_minutes` before its hour, so that replicas are ready."""

    rows: tuple[tuple[int, ...], ...]
    lead_minutes: int = 0

    @property
    def kinds(self) -> tuple[Days, ...]:
        """The days that each row is of."""
        return (EVERY_DAY,) if len(self.rows) == 1 else (WEEKDAYS, WEEKEND)

    def row_of(self, day: int) -> tuple[int, ...]:
        """The row of a day counted from a Monday."""
        return self.rows[0 if len(self.rows) == 1 or day % WEEK_DAYS in WEEKDAYS else 1]

    def at_most(self, most: int) -> Week:
        """The week with no minimum above that."""
        return replace(self, rows=tuple(tuple(min(least, most) for least in row) for row in self.rows))

    def at_hour(self, hour: int) -> int:
        """The minimum in an hour counted from a Monday's midnight."""
        return self.row_of(hour // HOURS)[hour % HOURS]

    def changes(self, begins_s: float, duration_s: float) -> tuple[tuple[float, int], ...]:
        """(s, minimum) from the begin of traffic that begins so long after a Monday's midnight; the first is at 0 s."""
        least, windows = self.windows()
        return minimum_changes(windows, least, begins_s, duration_s)

    def windows(self) -> tuple[int, tuple[Window, ...]]:
        """The least minimum, and the windows in which it is higher."""
        least = min(min(row) for row in self.rows)
        found = [
            w
            for row, days in zip(self.rows, self.kinds, strict=True)
            for w in self._windows(row, days, least)
        ]
        return least, tuple(found)

    def _windows(self, row: Sequence[int], days: Days, least: int) -> Iterator[Window]:
        for replicas, hours in groupby(range(HOURS), row.__getitem__):
            if replicas > least:
                inside = list(hours)
                before = row[inside[0] - 1] if inside[0] else 0
                lead = self.lead_minutes if replicas > before and inside[0] else 0
                yield Window(days, 60 * inside[0] - lead, min(60 * (inside[-1] + 1), DAY_MINUTES), replicas)

    def in_words(self) -> str:
        """ "min 3 weekdays 7:45 to 20:00, else 1"."""
        least, windows = self.windows()
        return (
            ", ".join(["min " + ", ".join(map(str, windows)), f"else {least}"]) if windows else f"min {least}"
        )


def joined_hours(needs: Sequence[int], most: int) -> tuple[int, ...]:
    """The cheapest row over 24 needs that changes at most so many times a day and never asks for less than is needed."""
    best = _cheapest(needs, most)
    for turn in range(1, HOURS):  # a day is a ring: try every hour as its begin
        turned = _cheapest([*needs[turn:], *needs[:turn]], most)
        back = (*turned[HOURS - turn :], *turned[: HOURS - turn])
        best = min(best, back, key=sum)
    return best


def _cheapest(needs: Sequence[int], parts: int) -> tuple[int, ...]:
    rows: list[tuple[int, ...]] = [()] + [(max(needs[:end]),) * end for end in range(1, len(needs) + 1)]
    for _ in range(parts - 1):
        rows = [
            min(
                [rows[end], *(rows[cut] + (max(needs[cut:end]),) * (end - cut) for cut in range(1, end))],
                key=sum,
            )
            for end in range(len(needs) + 1)
        ]
    return rows[-1]
