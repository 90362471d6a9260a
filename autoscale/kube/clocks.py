"""How the observer's clock differs from an API server's."""

from __future__ import annotations

import math
from contextlib import suppress
from email.utils import parsedate_to_datetime


class Clocks:
    """The observer's clock minus the server's, narrowed by the Date header of every answer.

    A Date is a whole second, so one answer says: low = asked - (date + 1), high = answered - date. The intersection
    over many answers is far narrower than a second; an empty one means that a clock was set, and it starts anew.
    """

    def __init__(self) -> None:
        self.low_s, self.high_s = -math.inf, math.inf

    def add(self, asked_s: float, answered_s: float, date: str | None) -> None:
        """Take the Date header of one answer in."""
        if not date:
            return
        with suppress(ValueError, TypeError):
            stamp_s = parsedate_to_datetime(date).timestamp()
            low_s, high_s = asked_s - stamp_s - 1.0, answered_s - stamp_s
            if low_s > self.high_s or high_s < self.low_s:
                self.low_s, self.high_s = low_s, high_s
            else:
                self.low_s, self.high_s = max(low_s, self.low_s), min(high_s, self.high_s)

    @property
    def offset_s(self) -> float:
        """The middle of what is possible; NaN before the first answer. 0 is possible: exactly 0."""
        if self.low_s <= 0.0 <= self.high_s:
            return 0.0
        return (self.low_s + self.high_s) / 2 if math.isfinite(self.low_s) else math.nan
