"""KEDA's cron trigger: a number of replicas inside a window, nothing outside it.

The window runs from a start to an end that each come again by a schedule of five fields in a time zone. The arithmetic
is that of KEDA's library, with what it does about hours that a clock change skips or repeats, and about dates that never
come. Source: kedacore/keda v2.20.2 pkg/scalers/cron_scaler.go; robfig/cron v3.0.1 parser.go, spec.go.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from autoscale.keda.metadata import Metadata
from autoscale.keda.prometheus_trigger import QueryFailed, TriggerValue, trigger_value
from autoscale.keda.targets import metric_type_of

NEVER = -math.inf  # how the library's zero time compares: before every time
_YEARS_AHEAD = 5
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class _Bounds(NamedTuple):
    low: int
    high: int
    names: Mapping[str, int] = {}


_FIELDS = (
    _Bounds(0, 59),
    _Bounds(0, 23),
    _Bounds(1, 31),
    _Bounds(1, 12, {name: i for i, name in enumerate(_MONTHS, 1)}),
    _Bounds(0, 6, {name: i for i, name in enumerate(_DAYS)}),
)


@dataclass(frozen=True)
class Schedule:
    """When a cron expression fires: the values of each field, and whether the two day fields leave all days open."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool  # one of the day fields is a star: both must match; else either

    def next_s(self, now_s: float, zone: ZoneInfo) -> float:
        """The first time after `now_s` (epoch seconds) at which it fires, NEVER where there is none in five years."""
        clock = _Clock(math.floor(now_s) + 1, zone)
        last_year = clock.local.year + _YEARS_AHEAD
        while clock.local.year <= last_year:
            if self._settled(clock):
                return float(clock.at_s)
        return NEVER

    def _settled(self, clock: _Clock) -> bool:
        """Moves the clock on to the next match; False when a larger field turned over on the way."""
        while clock.local.month not in self.months:
            clock.cut(day=1)
            clock.to_day(months=1)
            if clock.local.month == 1:
                return False
        while not self._on_day(clock.local):
            clock.cut()
            clock.to_day(days=1)
            hour = clock.local.hour  # not midnight where the clocks change at midnight
            clock.at_s += (24 - hour if hour > 12 else -hour) * 3600
            if clock.local.day == 1:
                return False
        while clock.local.hour not in self.hours:
            clock.cut(hour=clock.local.hour)
            clock.at_s += 3600
            if clock.local.hour == 0:
                return False
        while clock.local.minute not in self.minutes:
            clock.floor(60)
            clock.at_s += 60
            if clock.local.minute == 0:
                return False
        while clock.local.second:
            clock.at_s += 1
            if clock.local.second == 0:
                return False
        return True

    def _on_day(self, local: datetime) -> bool:
        day, weekday = local.day in self.days, local.isoweekday() % 7 in self.weekdays
        return (day and weekday) if self.any_day else (day or weekday)


class _Clock:
    """A time that moves forward in a zone; the first move of a search cuts off what is finer than its field."""

    def __init__(self, at_s: int, zone: ZoneInfo) -> None:
        self.at_s, self.zone, self._cut = at_s, zone, False

    @property
    def local(self) -> datetime:
        return datetime.fromtimestamp(self.at_s, self.zone)

    def cut(self, *, day: int | None = None, hour: int = 0) -> None:
        """Back to the begin of the month, day or hour, once per search."""
        if not self._cut:
            self._cut = True
            local = self.local
            self._set(date(local.year, local.month, day or local.day), timedelta(hours=hour))

    def floor(self, period_s: int) -> None:
        """Back to the begin of the minute, once per search."""
        if not self._cut:
            self._cut = True
            self.at_s -= self.at_s % period_s

    def to_day(self, *, months: int = 0, days: int = 0) -> None:
        """The same wall time that many months or days later."""
        local = self.local
        month = local.month - 1 + months
        day = date(local.year + month // 12, month % 12 + 1, local.day) + timedelta(days=days)
        self._set(day, timedelta(hours=local.hour, minutes=local.minute, seconds=local.second))

    def _set(self, day: date, time: timedelta) -> None:
        """A wall time, which a clock change may have skipped or repeated: the offset is that of Go's time.Date."""
        wall = datetime(day.year, day.month, day.day, tzinfo=UTC) + time
        wall_s = int(wall.timestamp())
        self.at_s = wall_s - self._offset_s(wall_s - self._offset_s(wall_s))

    def _offset_s(self, at_s: int) -> int:
        offset = datetime.fromtimestamp(at_s, self.zone).utcoffset()
        return int(offset.total_seconds()) if offset is not None else 0


@lru_cache(maxsize=256)
def parse_schedule(text: str) -> Schedule:
    """The schedule of a cron expression. Raises ValueError with the library's sentence."""
    if text.startswith("@"):
        raise ValueError(f"parser does not accept descriptors: {text}")
    parts = text.split()
    if not parts:
        raise ValueError("empty spec string")
    if len(parts) != len(_FIELDS):
        raise ValueError(f"expected exactly {len(_FIELDS)} fields, found {len(parts)}: [{' '.join(parts)}]")
    read = [_field(part, bounds) for part, bounds in zip(parts, _FIELDS, strict=True)]
    minutes, hours, days, months, weekdays = (values for values, _ in read)
    return Schedule(minutes, hours, days, months, weekdays, read[2][1] or read[4][1])


def _field(text: str, bounds: _Bounds) -> tuple[frozenset[int], bool]:
    """The values of one field, and whether one of its parts is a star."""
    values: set[int] = set()
    star = False
    for part in filter(None, text.split(",")):
        found, all_of_it = _range(part, bounds)
        values |= set(found)
        star = star or all_of_it
    return frozenset(values), star


def _range(part: str, bounds: _Bounds) -> tuple[range, bool]:
    pieces = part.split("/")
    ends = pieces[0].split("-")
    star = ends[0] in ("*", "?")
    if star:
        first, last = bounds.low, bounds.high
    else:
        first = last = _value(ends[0], bounds)
        if len(ends) == 2:
            last = _value(ends[1], bounds)
        elif len(ends) > 2:
            raise ValueError(f"too many hyphens: {part}")
    step = 1
    if len(pieces) == 2:
        step = _whole(pieces[1])
        last = bounds.high if len(ends) == 1 else last
        star = star and step <= 1
    elif len(pieces) > 2:
        raise ValueError(f"too many slashes: {part}")
    if first < bounds.low:
        raise ValueError(f"beginning of range ({first}) below minimum ({bounds.low}): {part}")
    if last > bounds.high:
        raise ValueError(f"end of range ({last}) above maximum ({bounds.high}): {part}")
    if first > last:
        raise ValueError(f"beginning of range ({first}) beyond end of range ({last}): {part}")
    if step == 0:
        raise ValueError(f"step of range should be a positive number: {part}")
    return range(first, last + 1, step), star


def _value(text: str, bounds: _Bounds) -> int:
    return bounds.names[text.lower()] if text.lower() in bounds.names else _whole(text)


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ValueError(f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax')
    if int(text) < 0:
        raise ValueError(f"negative number ({int(text)}) not allowed: {text}")
    return int(text)


@dataclass(frozen=True)
class CronTrigger:
    """One trigger on a window of time; its target is 1, so that its value is a number of replicas."""

    index: int
    name: str
    metric_type: str
    timezone: str
    start: str
    end: str
    desired_replicas: int
    target: str = "1"

    @classmethod
    def from_trigger(
        cls, index: int, name: str, metric_type: str, metadata: Mapping[str, str]
    ) -> CronTrigger:
        """The trigger as KEDA builds its scaler. Raises metadata.Unreadable with KEDA's sentence."""
        kind = metric_type_of(metric_type)
        read = Metadata(metadata)
        start, end, zone = read.text("start"), read.text("end"), read.text("timezone")
        trigger = cls(index, name, kind, zone, start, end, read.whole("desiredReplicas"))
        problem = trigger._problem()
        read.check("error parsing cron metadata: ", *([problem] if problem else []))
        return trigger

    def _problem(self) -> str:
        for which, text in (("start", self.start), ("end", self.end)):
            try:
                parse_schedule(text)
            except ValueError as problem:
                return f"error parsing {which} schedule: {problem}"
        if self.start == self.end:
            return "start and end can not have exactly same time input"
        return "" if self.desired_replicas else "no desiredReplicas specified"

    @property
    def metric_name(self) -> str:
        """The HPA's metric, spelled from the zone and both schedules."""
        named = f"cron-{self.timezone}-{_spelled(self.start)}-{_spelled(self.end)}"
        return f"s{self.index}-{re.sub(r'[/.:%()]', '-', named)}"

    def value(self, now_s: float) -> TriggerValue | QueryFailed:
        """The replicas that the window asks for at `now_s` (epoch seconds); 0 and inactive outside it."""
        zone = _zone(self.timezone)
        if zone is None:
            return QueryFailed(f"unable to load timezone: unknown time zone {self.timezone}")
        start_s = parse_schedule(self.start).next_s(now_s, zone)
        end_s = parse_schedule(self.end).next_s(now_s, zone)
        begun, going_on = now_s > start_s, now_s < end_s
        inside = (begun and going_on) if start_s < end_s else (begun or going_on)
        return trigger_value(float(self.desired_replicas) if inside else 0.0, inside)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return None


def _spelled(schedule: str) -> str:
    for character, name in ((" ", ""), ("*", "x"), ("/", "Sl"), ("?", "Qm"), (",", "Cm")):
        schedule = schedule.replace(character, name)
    return schedule
