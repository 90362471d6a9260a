"""How long a user of a closed loop waits after a failure. Pure.

Without a wait, ten users send six thousand requests a second to a server that refuses them. Exponential with jitter (AWS
Architecture Blog, "Exponential Backoff and Jitter"): users that failed together do not come back together.
"""

from __future__ import annotations

import math

FIRST_S = 0.5  # after the first failure, on average three quarters of it
LONGEST_S = 30.0
LONGEST_ASKED_S = 300.0  # that a server's Retry-After may ask


def pause_s(failures: int, asked_s: float, chance: float) -> float:
    """Seconds after a failure that follows `failures` others: half to all of FIRST_S * 2^failures, LONGEST_S at most.

    `asked_s` is what the server asks for (Retry-After; NaN = nothing): at least that, and a share of FIRST_S more.
    `chance` is uniform in [0, 1).
    """
    if not math.isnan(asked_s):
        return min(asked_s, LONGEST_ASKED_S) + FIRST_S * chance
    return min(FIRST_S * 2.0 ** min(failures, 30), LONGEST_S) * (0.5 + 0.5 * chance)
