"""How bursty arrivals are below the scrape interval: the coefficient of variation of the gaps between requests.

Counts of windows next to each other are compared, so that the day's curve drops out. A count of a window is a sum over
scrapes, of which those at its ends belong to it by a share; evenly spread they vary less than the requests themselves. Each
hour's windows begin elsewhere between two scrapes, so that all shares occur. For
windows of w seconds, scrapes every d seconds, and gaps of coefficient of variation c (a renewal process):

    Var(N1 - N2) / 2  =  rate (c^2 (w - d/2 - m) + m) + (1 - c^4) / 4        m = d/5 (1 - 1/replicas)

The first term is the index of dispersion, less what the scrapes smooth away: of one replica each outer end keeps a third of
its scrape's variance, as does the common end of both windows. Several replicas are scraped at their own moments, which
smooths what they have in common, c^2 - 1, by m more than what chance alone sends to each. The last term is what is left of
the first gap when a window begins (Cox, Renewal Theory, section 4.5, for gamma gaps). The estimate is the mean over hours without those that stand far out, so that
a jump of the rate spoils an hour and not the answer; the interval is of that mean, by Student's t for so many hours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from autoscale.history.arrivals import CameIn

SCRAPES = 4  # of a window: shorter ones are mostly ends, longer ones see the day's curve
BLOCK_S = 3600.0
LEAST_BLOCKS = 4
EXACT_S = 15.0  # what stands for the scrape interval where each request's own time is known, and nothing is smoothed
LEAST_COUNT = 3.0  # requests in a window, below which c^2 cannot be told from the second term
FAR_OUT = 5.0  # standard deviations above the middle


@dataclass(frozen=True)
class Burstiness:
    """cv of the gaps between requests, its 95 % interval, and over how many hours; 1 is a Poisson process."""

    cv: float
    low: float
    high: float
    hours: int

    @property
    def told(self) -> bool:
        """Whether anything is known: an interval from 0 on holds every process."""
        return self.low > 0


def burstiness(came: CameIn) -> Burstiness | None:
    """The burstiness of what came in, in bins a few times shorter than a scrape. None where too few hours say something."""
    counts = np.where(came.gap, np.nan, came.counts)
    interval_s = came.interval_s or EXACT_S
    bins = max(round(SCRAPES * interval_s / came.step_s), 1)  # of a window
    shifts = max(round(interval_s / came.step_s), 1)
    per_block = max(round(BLOCK_S / came.step_s), 4 * bins)
    found = []
    for block, first in enumerate(range(0, len(counts) - per_block + 1, per_block)):
        some = counts[first + block % shifts : first + per_block]
        windows = some[: len(some) // (2 * bins) * 2 * bins].reshape(-1, 2, bins).sum(axis=2)
        replicas = max(1.0, float(came.replicas[first : first + per_block].mean()))  # 1 where not known
        squared = _cv_squared(windows, bins * came.step_s, came.interval_s, replicas)
        if squared is not None:
            found.append(squared)
    if len(found) < LEAST_BLOCKS:
        return None
    low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
    kept = [x for x in found if x <= middle + FAR_OUT * (high - low) / 1.349]
    mean = float(np.mean(kept))
    half = float(stdtrit(len(kept) - 1, 0.975) * np.std(kept, ddof=1)) / math.sqrt(len(kept))
    cv, least, most = (math.sqrt(max(x, 0.0)) for x in (mean, mean - half, mean + half))
    return Burstiness(cv, least, most, len(kept))


def _cv_squared(
    pairs: NDArray[np.float64], window_s: float, interval_s: float, replicas: float
) -> float | None:
    """c^2 of one hour's pairs of windows, None where they have too few requests or too many gaps."""
    known = pairs[~np.isnan(pairs).any(axis=1)]
    if len(known) < len(pairs) / 2 or known.mean() < LEAST_COUNT:
        return None
    half_square = float(np.mean((known[:, 0] - known[:, 1]) ** 2)) / 2
    rate, more_s = float(known.mean()) / window_s, interval_s / 5 * (1 - 1 / replicas)
    load = rate * (window_s - interval_s / 2 - more_s)
    # c^2 load + (1 - c^4) / 4 = what is left, the smaller root
    inside = load * load + 0.25 - (half_square - rate * more_s)
    return 2 * (load - math.sqrt(inside)) if inside > 0 else 2 * load
