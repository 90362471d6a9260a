"""A distribution of token counts from a histogram's buckets.

A family that reproduces the share of every bucket and the mean is taken for the distribution: fixed, uniform, normal,
lognormal. Where none does, the quantiles themselves are: between the bounds the logarithm of the length is a monotone
function of the normal quantile (Fritsch and Carlson's interpolation), below the first and above the last bound with requests
on both sides the line goes on; how steep it is above is what gives the histogram's own mean, since that is known exactly.
What lies inside a bucket is not known: buckets of 500 and 1,000 tokens leave a quantile between them to the interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.optimize import least_squares
from scipy.special import ndtr, ndtri

from loadgen.plan.lengths import Lengths

KNOTS = 201  # of a distribution: a step is half a per cent of the requests
OUTERMOST = 0.25 / (
    KNOTS - 1
)  # the probability whose quantile stands for the end: the middle of the outer half of a step
REPRODUCED = 0.004, 0.01  # share of a bucket and mean, of a family that is taken
STEEPEST = 4.0  # times the slope below, of what lies above the last bound
HALVINGS = 50

Floats = NDArray[np.float64]


def lengths_in_buckets(
    bounds: Sequence[float], counts: Sequence[float], mean: float, most: float
) -> Lengths | None:
    """The distribution of `counts` requests per bucket, the first up to `bounds[0]`, the last above `bounds[-1]`.

    `mean` is the histogram's sum over its count, `most` tokens are possible at all. None when no request was counted.
    """
    counted = np.asarray(counts, np.float64)
    total = float(counted.sum())
    if total <= 0:
        return None
    share = np.cumsum(counted)[:-1] / total
    edges = np.asarray(bounds, np.float64)
    ends = _ends(edges, counted, most)
    inner = (share > 0) & (share < 1) & np.concatenate([[True], np.diff(share) > 0])
    if inner.sum() < 2:
        return (
            _in_a_bucket(mean, ends)
            if not inner.any()
            else _through(edges[inner][0], share[inner][0], mean, ends)
        )
    good = [one for one in _families(edges, share, mean, ends) if _reproduces(one, edges, share, mean)]
    if good:
        return min(good, key=lambda one: _unlikely(one, edges, counted / total))
    return _interpolated(np.log(edges[inner]), ndtri(share[inner]), mean, ends)


def _ends(edges: Floats, counted: Floats, most: float) -> tuple[float, float]:
    """Between which lengths all requests lie."""
    some = np.flatnonzero(counted > 0)
    low = 1.0 if some[0] == 0 else float(edges[some[0] - 1])
    high = most if some[-1] >= len(edges) else float(edges[some[-1]])
    return low, max(high, low)


def _in_a_bucket(mean: float, ends: tuple[float, float]) -> Lengths:
    """All requests in one bucket: evenly around the mean, as wide as half of what the bucket lets it be."""
    half = min(mean - ends[0], ends[1] - mean) / 2
    if half < 1:
        return Lengths("fixed", float(max(round(mean), 1)))
    return Lengths("uniform", float(math.ceil(mean - half)), float(math.floor(mean + half)))


def _through(edge: float, share: float, mean: float, ends: tuple[float, float]) -> Lengths:
    """The lognormal with this share below one bound and with the mean, as near as there is one."""
    sigmas = np.linspace(0.05, 3.0, 119)
    logs = math.log(edge) - sigmas * float(ndtri(share))
    sigma = int(np.argmin(np.abs(logs + sigmas**2 / 2 - math.log(mean))))
    return Lengths(
        "lognormal", round(max(math.exp(logs[sigma]), 1.0), 1), round(float(sigmas[sigma]), 3), ends[1]
    )


def _families(edges: Floats, share: Floats, mean: float, ends: tuple[float, float]) -> Iterator[Lengths]:
    """The best of each family."""
    middle = float(np.interp(0.5, share, edges))
    spread = max(float(np.interp(0.84, share, edges) - np.interp(0.16, share, edges)) / 2, 1.0)

    def of(kind: str, x: Floats) -> Lengths:
        low = min(max(float(x[0]), 1.0), ends[1])
        if kind == "uniform":
            return Lengths(kind, low, max(low, float(x[1])))
        return Lengths(
            kind, low, min(max(float(x[1]), 1e-3), 5.0 if kind == "lognormal" else ends[1]), ends[1]
        )

    starts = {
        "lognormal": (middle, min(max(spread / middle, 0.1), 2.0)),
        "normal": (middle, spread),
        "uniform": (float(np.interp(0.02, share, edges)), float(np.interp(0.98, share, edges))),
    }
    for kind, start in starts.items():

        def off(x: Floats, kind: str = kind, start: tuple[float, float] = start) -> Floats:
            family = of(kind, np.asarray(start) * np.exp(np.clip(x, -4, 4)))
            return np.append(_below(family, edges) - share, 0.3 * (family.mean() / mean - 1))

        found = of(kind, np.asarray(start) * np.exp(np.clip(least_squares(off, np.zeros(2)).x, -4, 4)))
        digits = (0, 0) if kind == "uniform" else (1, 3)
        yield replace(found, a=round(found.a, digits[0]), b=round(found.b, digits[1]))


def _reproduces(family: Lengths, edges: Floats, share: Floats, mean: float) -> bool:
    off = np.abs(_below(family, edges) - share).max()
    return bool(off <= REPRODUCED[0]) and abs(family.mean() / mean - 1) <= REPRODUCED[1]


def _unlikely(family: Lengths, edges: Floats, observed: Floats) -> float:
    """The relative entropy of what was observed per bucket to the family; inf where it rules out what was."""
    expected = np.diff(np.concatenate([[0.0], _below(family, edges), [1.0]]))
    some = observed > 0
    with np.errstate(divide="ignore"):
        return float(np.sum(observed[some] * np.log(observed[some] / expected[some])))


def _below(family: Lengths, edges: Floats) -> Floats:
    """The share of draws, which are whole numbers, up to each edge."""
    at = np.floor(edges) + 0.5
    if family.kind == "uniform":
        share = (at - (family.a - 0.5)) / (family.b - family.a + 1)
    else:
        scores = (at - family.a if family.kind == "normal" else np.log(at / family.a)) / max(family.b, 1e-9)
        share = np.where(at >= family.limit, 1.0, ndtr(scores))
    return np.clip(share, 0.0, 1.0)


def _interpolated(x: Floats, z: Floats, mean: float, ends: tuple[float, float]) -> Lengths:
    """The quantiles through logarithms `x` at normal quantiles `z`, with the mean."""
    with np.errstate(divide="ignore"):
        at = ndtri(np.clip(np.linspace(0.0, 1.0, KNOTS), OUTERMOST, 1 - OUTERMOST))
    inside = PchipInterpolator(z, x)(np.clip(at, z[0], z[-1]))
    below = (x[1] - x[0]) / (z[1] - z[0])
    least, most = 0.0, STEEPEST * float((x[-1] - x[-2]) / (z[-1] - z[-2]))

    def knots(steep: float) -> Floats:
        above = np.where(at > z[-1], x[-1] + steep * (at - z[-1]), inside)
        return np.clip(
            np.exp(np.minimum(np.where(at < z[0], x[0] + below * (at - z[0]), above), 40.0)), *ends
        )

    for _ in range(HALVINGS):
        middle = (least + most) / 2
        tokens = knots(middle)
        if float((tokens[1:] + tokens[:-1]).mean() / 2) < mean:
            least = middle
        else:
            most = middle
    tokens = np.maximum.accumulate(np.maximum(np.round(knots((least + most) / 2), 1), 1.0))
    return Lengths("quantiles", knots=tuple(tokens.tolist()))
