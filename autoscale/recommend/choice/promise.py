"""What is promised: in how many periods the SLO is kept, and how many of them show it.

A period is a day, or the whole traffic where that is shorter. That `kept` of `of` periods kept the SLO shows a share of
at least the lower Clopper-Pearson bound, one-sided: Clopper and Pearson, Biometrika 26 (1934).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from scipy import stats

from analysis.errors import BadInput
from autoscale.recommend.effort import CHOOSING


@dataclass(frozen=True)
class Promise:
    """The share of periods (0-1) that keep the SLO, and how long a stretch over it may last (s; None: any).

    Raises BadInput for a share that no number of periods shows, and a stretch that is no time.
    """

    days_kept: float = CHOOSING.days_kept
    longest_breach_s: float | None = None

    def __post_init__(self) -> None:
        if not 0.5 <= self.days_kept <= CHOOSING.days_kept_most:
            most = f"{CHOOSING.days_kept_most:.0%}"
            raise BadInput("days kept", value=self.days_kept, expected=f"50% to {most}, for example 95%")
        if self.longest_breach_s is not None and not 0 <= self.longest_breach_s < math.inf:
            raise BadInput(
                "longest breach", value=self.longest_breach_s, expected="a time such as 10m, or 0s for none"
            )

    @property
    def needed(self) -> int:
        """Periods without a failure that show the share."""
        return math.ceil(math.log(1 - CHOOSING.confidence) / math.log(self.days_kept))

    def failures(self, of: int) -> int:
        """Periods of so many that may fail while the others still show the share; 0 where even none would be too few."""
        return _failures(self.days_kept, of)

    def lost(self, of: int) -> int:
        """The periods of so many that the promise itself gives up."""
        return int((1 - self.days_kept) * of + 1e-9)


def lower_share(kept: int, of: int) -> float:
    """The share of periods that is kept at least, with 95 % confidence; NaN without one."""
    if of == 0:
        return math.nan
    return float(stats.beta.ppf(1 - CHOOSING.confidence, kept, of - kept + 1)) if kept else 0.0


@lru_cache(maxsize=4096)
def _failures(share: float, of: int) -> int:
    count = 0
    while lower_share(of - count - 1, of) >= share:
        count += 1
    return count
