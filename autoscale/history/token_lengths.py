"""A distribution of token counts from a histogram's buckets.

A family that reproduces the share of every bucket and the mean is taken for the distribution: fixed, uniform, normal,
lognormal, the last also cut off at a length (what a server refuses as too long is not in its histogram), which the mean
tells. Where none does, the quantiles themselves are: between the bounds the logarithm of the length is a monotone
function of the normal quantile (Fritsch and Carlson's interpolation), below the first and above the last bound with requests
on both sides the line goes on; how steep it is above is what gives the histogram's own mean, since that is known exactly.
What lies inside a bucket is not known: buckets of 500 and 1,000 tokens leave a quantile between them to the interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.optimize import least_squares
from scipy.special import log_ndtr, ndtr, ndtri

from loadgen.plan.lengths import Lengths

KNOTS = 201  # of a distribution: a step is half a per cent of the requests
OUTERMOST = 0.25 / (
    KNOTS - 1
)  # the probability whose quantile stands for the end: the middle of the outer half of a step
REPRODUCED = 0.004, 0.01  # share of a bucket beside chance, and mean, of a family that is taken
CHANCE = 2.0  # standard deviations of a share
CONVINCES = 3.0  # logarithm of the likelihood by which a length at which it is cut off must explain more
EXACT = 0.002  # of a mean, from which the length is found at which a distribution is cut off
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
    share = np.minimum(np.cumsum(counted)[:-1] / total, 1.0)
    edges = np.asarray(bounds, np.float64)
    ends = _ends(edges, counted, most)
    inner = (share > 0) & (share < 1) & np.concatenate([[True], np.diff(share) > 0])
    if inner.sum() < 2:
        return (
            _in_a_bucket(mean, ends)
            if not inner.any()
            else _through(edges[inner][0], share[inner][0], mean, ends)
        )
    allowed = REPRODUCED[0] + CHANCE * np.sqrt(share * (1 - share) / total)

    def reproduces(below: Floats, its_mean: float) -> bool:
        return bool((np.abs(below - share) <= allowed).all()) and abs(its_mean / mean - 1) <= REPRODUCED[1]

    def surprise(below: Floats) -> float:
        return total * _unlikely(below, counted / total)

    good = [one for one in _families(edges, share, mean, ends) if reproduces(_below(one, edges), one.mean())]
    likely, whole = min(
        ((surprise(_below(one, edges)), k) for k, one in enumerate(good)), default=(math.inf, 0)
    )
    cut = _cut_off(edges, share, mean, ends)
    if reproduces(cut.below(edges), cut.mean()) and surprise(cut.below(edges)) < likely - CONVINCES:
        return cut.lengths()
    if good:
        return good[whole]
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


@dataclass(frozen=True)
class _CutOff:
    """A lognormal of which nothing is longer than `limit`."""

    median: float
    sigma: float
    limit: float

    def score(self, tokens: Floats | float) -> Floats:
        return np.asarray(np.log(np.asarray(tokens) / self.median) / self.sigma, np.float64)

    def below(self, edges: Floats) -> Floats:
        """The share up to each edge."""
        at = np.minimum(np.floor(edges) + 0.5, self.limit)
        return np.asarray(np.exp(log_ndtr(self.score(at)) - log_ndtr(self.score(self.limit))), np.float64)

    def mean(self) -> float:
        """Tokens."""
        end = self.score(self.limit)
        whole = self.median * math.exp(self.sigma**2 / 2)
        return whole * float(np.exp(log_ndtr(end - self.sigma) - log_ndtr(end)))

    def lengths(self) -> Lengths:
        """Its quantiles."""
        at = np.clip(np.linspace(0.0, 1.0, KNOTS), OUTERMOST, 1 - OUTERMOST)
        tokens = self.median * np.exp(self.sigma * ndtri(at * ndtr(self.score(self.limit))))
        return Lengths("quantiles", knots=tuple(np.maximum(np.round(tokens, 1), 1.0).tolist()))


def _cut_off(edges: Floats, share: Floats, mean: float, ends: tuple[float, float]) -> _CutOff:
    """The lognormal that comes nearest, cut off in the last bucket that has requests."""
    low = max(float(edges[max(int(np.searchsorted(edges, ends[1])) - 1, 0)]), 1.0)
    middle = max(float(np.interp(0.5, share, edges)), 1.0)

    def of(x: Floats) -> _CutOff:
        part = 1 / (1 + math.exp(-float(np.clip(x[2], -20, 20))))
        median, sigma = middle * math.exp(np.clip(x[0], -4, 4)), math.exp(np.clip(x[1], -3, 1.5))
        return _CutOff(median, sigma, low + part * (ends[1] - low))

    def off(x: Floats) -> Floats:
        one = of(x)
        return np.append((one.below(edges) - share) / REPRODUCED[0], (one.mean() / mean - 1) / EXACT)

    return of(least_squares(off, np.zeros(3)).x)


def _unlikely(below: Floats, observed: Floats) -> float:
    """The relative entropy of what was observed per bucket to shares below each edge; inf where they rule out what was."""
    expected = np.diff(np.concatenate([[0.0], below, [1.0]]))
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
