"""A moment of the week as people write it: `Tue 08:30`, UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_S = 86_400.0
_MOMENT = re.compile(r"([A-Z][a-z]{2})(?: ([01]\d|2[0-3]):([0-5]\d))?")


def since_monday_s(moment: str) -> float:
    """Seconds since Monday 00:00 of `Tue 08:30`, or of a day's midnight, `Tue`. Raises ValueError for anything else."""
    found = _MOMENT.fullmatch(moment)
    if found is None or found[1] not in DAYS:
        raise ValueError(f"not a moment of the week such as 'Tue 08:30' (UTC): {moment[:40]!r}")
    return DAY_S * DAYS.index(found[1]) + 3600.0 * int(found[2] or 0) + 60.0 * int(found[3] or 0)


def moment_of(unix_s: float) -> str:
    """The moment of the week of a unix time, to the minute."""
    at = datetime.fromtimestamp(unix_s, UTC)
    return f"{DAYS[at.weekday()]} {at:%H:%M}"
