"""What the numbers of a trace's clock mean: the unit, how it is known, and when a rate can only come from a wrong one. Pure.

The unit is what the user says; else that of Unix time, which tells itself by its size; else the format's own. A wrong
unit is a rate wrong by a thousand, so what is read is said (loadgen.plan.traces.Trace.sentence), and refused when absurd:
nobody records 20 requests within 60 ms, or 1,000 requests over a year. `time_unit` then says that it is so, or not.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_S = 86_400.0
WEEKDAYS = (0, 1, 2, 3, 4)  # of the week, Monday 0
_MOMENT = re.compile(r"([A-Z][a-z]{2})(?: ([01][0-9]|2[0-3]):([0-5][0-9]))?")

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}  # in s
WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
UNIX_S = (1e9, 4.2e9)  # 2001 to 2103
# Faster than this on average is absurd: whatever the trace's length; when it is shorter than a second; when it is
# shorter than a minute and its stamps have fractions of the unit, which a clock that counts units has not.
FAST_RPS, FAST_SECOND_RPS, FAST_FRACTION_RPS = 1000.0, 10.0, 100.0
FEW = 3  # requests from which a rate can be told
SLOW_RPS, SLOW_FEW, SLOW_S = (
    1e-3,
    20,
    86_400.0,
)  # slower than this, with so many requests over so long, is absurd


def unit_of(given: str | None, own: str, first: float) -> tuple[str, str]:
    """(unit, how it is known: given | Unix time | format), `own` being the format's and `first` the first stamp.

    Raises BadInput for a unit that there is not.
    """
    if given is not None:
        if given not in UNITS:
            raise BadInput("time_unit of a trace", value=given, expected=" | ".join(UNITS))
        return given, "given"
    for unit, seconds in UNITS.items():
        if UNIX_S[0] <= first * seconds < UNIX_S[1]:
            return unit, "Unix time"
    return own, "format"


def check_rate(path: str, format: str, unit: str, requests: int, span_s: float, fractions: bool) -> None:
    """Raises BadInput with the arithmetic when the unit, which nobody gave, makes the rate absurd.

    `span_s` is between the first and the last stamp of the file; `fractions`: stamps are not whole units.
    """
    if span_s <= 0 or requests < FEW:
        return
    rate = requests / span_s
    fast = rate > FAST_RPS or (span_s < 1 and rate > FAST_SECOND_RPS)
    fast = fast or (fractions and span_s < 60 and rate > FAST_FRACTION_RPS)
    slow = rate < SLOW_RPS and requests >= SLOW_FEW and span_s > SLOW_S
    order = list(UNITS)
    other = order.index(unit) + (-1 if fast else 1)
    if not (fast or slow) or not 0 <= other < len(order):
        return
    instead_s = span_s / UNITS[unit] * UNITS[order[other]]
    raise BadInput(
        f"{path}: {requests:,} requests within {duration(span_s)} are {rate:.3g}/s; in {WORDS[order[other]]} they "
        f"would be {requests / instead_s:.3g}/s over {duration(instead_s)}",
        expected=f"timestamps in {unit}, the unit of format {format}",
        next_step=f"say which it is: time_unit: {order[other]} (or {unit}) under trace in a load file, or "
        f"--trace-time-unit {order[other]}",
    )


def duration(seconds: float) -> str:
    """A time in the unit that reads best: 60.4 ms, 12 s, 58.3 min, 5 h, 14 days."""
    for most, unit, name in ((1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.3g} {name}"
    days = seconds / 86_400
    return f"{days:,.3g} days" if days < 1000 else f"{days / 365.25:,.0f} years"


def since_monday_s(moment: str) -> float:
    """Seconds since Monday 00:00 of `Tue 08:30`, or of a day's midnight, `Tue`. Raises ValueError for anything else."""
    found = _MOMENT.fullmatch(moment)
    if found is None or found[1] not in DAYS:
        raise ValueError("not a moment of the week such as 'Tue 08:30' (UTC)")
    return DAY_S * DAYS.index(found[1]) + 3600.0 * int(found[2] or 0) + 60.0 * int(found[3] or 0)


def moment_of(unix_s: float) -> str:
    """The moment of the week of a unix time, to the minute."""
    at = datetime.fromtimestamp(unix_s, UTC)
    return f"{DAYS[at.weekday()]} {at:%H:%M}"


YEARS = (1970, 2200)  # of dates: nanoseconds since 1970 fit 64 bits until 2262
_DATES = re.compile(r"(?:\d{4}-\d\d?-\d\d?(?:[ T]\d\d(?::\d\d(?::\d\d(?:\.\d{0,18})?)?)?)?\n)*", re.ASCII)


_ZONED = re.compile(r"([-\d]+[ T][\d:.]+)([+-])([01]\d|2[0-3])(?::?([0-5]\d))?", re.ASCII)


def date_seconds(text: NDArray[np.str_]) -> NDArray[np.float64]:
    """Unix seconds of dates; those without a zone are UTC. Raises ValueError for what is none, and years out of YEARS."""
    years = text.astype("U4").astype(np.int64)
    if (years < YEARS[0]).any() or (years > YEARS[1]).any():
        raise ValueError("not a year of ours")
    told = [_without_zone(stamp) for stamp in text.tolist()]
    local = [stamp for stamp, _ in told]
    if not _DATES.fullmatch("\n".join([*local, ""])):
        raise ValueError("not times")  # numpy would leave a time zone out, with a warning
    stamps = np.array(local).astype("datetime64[ns]")
    if np.isnat(stamps).any():
        raise ValueError("not a time")
    return stamps.astype(np.int64) / 1e9 - np.array([ahead_s for _, ahead_s in told])


def _without_zone(stamp: str) -> tuple[str, float]:
    """The stamp without its zone, and the seconds by which its clock is ahead of UTC; 2024 stamps end in +00:00."""
    zoned = _ZONED.fullmatch(stamp)
    if zoned is None:
        return stamp.rstrip("Z"), 0.0
    local, sign, hours, minutes = zoned.groups("0")
    return local, float(f"{sign}1") * (3600 * int(hours) + 60 * int(minutes))
