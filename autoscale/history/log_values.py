"""Objects, numbers and times as access logs write them."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

from analysis.files import json_value
from analysis.numbers import told_number
from loadgen.plan.lengths import MOST
from loadgen.plan.time_units import YEARS

EARLIEST_S, TOO_LATE_S = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (YEARS[0], YEARS[1] + 1))
_NGINX = re.compile(r"\[?([0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:[0-9]{2}:[0-9]{2}:[0-9]{2})(?: ([+-][0-9]{4}))?\]?")
_WHOLE = re.compile(r"-?[0-9]+(?:\.0)?")  # 1.234 may be thousands
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
    if isinstance(value, bool) or not math.isfinite(number := told_number(value)):
        raise ValueError(f"not a number: {str(value)[:40]!r}")
    return number


def token_count(value: Any) -> float:
    """A whole number of tokens, NaN where none is told. Raises ValueError."""
    number = finite_number(value, math.nan)
    if math.isnan(number):
        return number
    if number % 1 or (isinstance(value, str) and not _WHOLE.fullmatch(value.strip())):
        raise ValueError(f"not a whole number of tokens: {str(value)[:40]!r}")
    if not 0 <= number <= MOST:
        raise ValueError(f"not a count of tokens from 0 to {MOST:,}: {str(value)[:40]!r}")
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
    try:
        return _moment(text)
    except (ValueError, OverflowError):
        raise ValueError(f"not a time: {text[:40]!r}") from None


def _moment(text: str) -> float:
    if nginx := _NGINX.fullmatch(text):
        when = datetime.strptime(f"{nginx[1]} {nginx[2] or '+0000'}", "%d/%b/%Y:%H:%M:%S %z")
    else:
        when = datetime.fromisoformat(text.replace("Z", "+00:00").replace(" UTC", "+00:00"))
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def flat_object(line: str) -> dict[str, Any] | None:
    """An object with the names of inner fields joined by dots."""
    try:
        value = json_value(line)
    except (ValueError, json.JSONDecodeError):
        return None
    if not isinstance(value, dict):
        return None
    flat: dict[str, Any] = {}
    below = [("", value)]
    while below:
        prefix, some = below.pop()
        for name, one in some.items():
            if isinstance(one, dict):
                below.append((f"{prefix}{name}.", one))
            else:
                flat[prefix + name] = one
    return flat
