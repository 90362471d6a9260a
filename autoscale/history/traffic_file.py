"""Traffic that was learned, as a load file: the curve of the rate, how bursty it is below that, and the lengths."""

from __future__ import annotations

import numpy as np
import yaml
from numpy.typing import NDArray

from autoscale.history.arrivals import CameIn

COARSE_S = 300.0  # bins of the curve where shorter ones tell chance only
AROUND = 15  # bins of the mean that a bin is held against
WORTH = 0.2  # share of the differences between bins that is no chance, from which on they are kept

Floats = NDArray[np.float64]


def curve(came: CameIn, cv: float) -> list[tuple[float, float]]:
    """[seconds, requests/s] between which the rate is a straight line; the first lies at 0 s.

    Requests come by chance, so a bin differs from its neighbours even where the rate does not. What of the differences is
    more than chance (c^2 times the count) is kept, the rest is left to the burstiness, which would else count twice.
    """
    rate = came.rate_rps
    kept = _smoothed(rate, came.step_s, cv)
    if kept is None:
        bins = max(round(COARSE_S / came.step_s), 1)
        rate = np.array([part.mean() for part in np.array_split(rate, max(len(rate) // bins, 1))])
        width_s = came.step_s * len(came.counts) / len(rate)
        kept = _smoothed(rate, width_s, cv)
        kept = _moving(rate) if kept is None else kept
    else:
        width_s = came.step_s
    times_s = (np.arange(len(kept)) + 0.5) * width_s
    points = [(0.0, kept[0]), *zip(times_s, kept, strict=True), (len(kept) * width_s, kept[-1])]
    return [(round(float(time_s), 1), round(max(float(value), 0.0), 4)) for time_s, value in points]


def _smoothed(rate: Floats, width_s: float, cv: float) -> Floats | None:
    """The rate with differences as large as they would be without chance; None where less than WORTH of them is no chance."""
    mean = _moving(rate)
    apart = rate - mean
    chance = cv**2 * np.maximum(mean, 1e-9) / width_s * (1 - 1 / AROUND)
    share = 1 - float(chance.sum() / max(float((apart**2).sum()), 1e-12))
    # of the variance a share is the rate's: times its root, so that what is offered varies as much, peaks included
    return mean + np.sqrt(share) * apart if share >= WORTH else None


def _moving(rate: Floats) -> Floats:
    """The mean of the bins around each."""
    most = min(AROUND, len(rate) // 2 * 2 - 1)
    if most < 3:
        return rate
    padded = np.pad(rate, most // 2, mode="reflect")
    return np.convolve(padded, np.ones(most) / most, mode="valid")


def traffic_yaml(
    points: list[tuple[float, float]], arrivals: str, lengths: tuple[str, str], begins: str, said: list[str]
) -> str:
    """The load file, with what it was learned from as comments; `lengths` of prompts and answers, `begins` as in one."""
    lines = [f"# {line}" for line in said]
    prompt, output = lengths
    head = {"arrivals": arrivals, "prompt_tokens": prompt, "output_tokens": output, "begins": begins}
    lines.append(yaml.safe_dump(head, sort_keys=False, width=10_000).strip())
    lines += ["load:", "  - curve:", "      points:"]
    lines += [f"        - [{time_s:g}, {rate:g}]" for time_s, rate in points]
    return "\n".join(lines) + "\n"
