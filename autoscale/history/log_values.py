"""Numbers and times as access logs write them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

YEARS = (1970, 2200)  # of times, as of traces
EARLIEST_S, TOO_LATE_S = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (YEARS[0], YEARS[1] + 1))
_NGINX = re.compile(r"\[?(\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2})(?: ([+-]\d{4}))?\]?")
_UNITS = (
    (1e11, 1.0),
    (1e14, 1e-3),
    (1e17, 1e-6),
    (1e20, 1e-9),
)  # a number below the first is so many of the second


def finite_number(value: Any, missing: float) -> float:
    """A finite number. Raises ValueError."""
    if value is None or value == "" or value == "-":
        return missing
    if isinstance(value, bool) or not math.isfinite(number := float(value)):
        raise ValueError(f"not a number: {str(value)[:40]!r}")
    return number


def unix_time(value: Any) -> float:
    """Unix seconds of a time as logs write it. Raises ValueError."""
    if isinstance(value, str) and not re.fullmatch(r"[0-9.]+(?:[eE][+]?[0-9]+)?", value.strip()):
        return _dated(value.strip())
    number = finite_number(value, math.nan)
    for below, unit in _UNITS:
        if 0 < number < below:
            return number * unit
    raise ValueError(f"not a time: {str(value)[:40]!r}")


def _dated(text: str) -> float:
    if nginx := _NGINX.fullmatch(text):
        when = datetime.strptime(f"{nginx[1]} {nginx[2] or '+0000'}", "%d/%b/%Y:%H:%M:%S %z")
    else:
        when = datetime.fromisoformat(text.replace("Z", "+00:00").replace(" UTC", "+00:00"))
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
