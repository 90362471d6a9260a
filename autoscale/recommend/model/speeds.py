"""How fast the server usually is, when neighbours come and go and the machine wanders.

Every completed request tells how long a token took it, and how full the batch was meanwhile; the engine that was fitted to
the run tells how long it should have taken. Means of the logarithm of their ratio over blocks of time are explained by

    ratio = shares . moves + slowed + wander + noise

where `shares` says what each coefficient adds to a step in the block, `moves` the (logarithmic) errors of the fitted
coefficients, `slowed` a stretch of time in which something else used the server, and `wander` an autocorrelated
process. All stretches are tried, none among them, each with its probability (a linear Gaussian model, so in closed form),
and so are strengths and memories of the wander. What the step of a full batch usually takes is then a mixture over all of
them: a stretch that cannot be told from a steeper cost of the batch leaves both possible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.linalg import block_diag

from autoscale.recommend.effort import SPEEDS
from autoscale.recommend.model.blocks import Array, Blocks, SeenFull, blocks_of, seen_full
from autoscale.recommend.model.coefficients import full_batch_shares
from autoscale.recommend.model.replaying import Slowed, Source, pace_of
from autoscale.recommend.model.uncertainty import Saturation
from autoscale.sim.engine.params import COEFFICIENTS
from autoscale.sim.engine.replicas import EngineParams


@dataclass(frozen=True, eq=False)
class Slowness:
    """A distribution of a step's time, as the logarithm of its ratio to the engine's: `weight` per `at`, adding up to 1."""

    at: Array
    weight: Array

    def quantile(self, share: float) -> float:
        """The slowness below which lies this share."""
        return float(np.interp(share, np.cumsum(self.weight) - self.weight / 2, self.at))

    @property
    def shift(self) -> float:
        """The slowness by which the engine has to move: the median, where the engine's own is outside the middle 68 %."""
        return 0.0 if self.quantile(0.16) <= 0.0 <= self.quantile(0.84) else self.quantile(0.5)

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """So many values."""
        return np.asarray(rng.choice(self.at, count, p=self.weight))


@dataclass(frozen=True, eq=False)
class UsualSpeed:
    """What is known of the usual time of a step: a mixture of normal distributions of the logarithms of the coefficients'
    ratios to the engine's.

    `weight` per part, adding up to 1, with its `means` (parts, 4) and `covariances` (parts, 4, 4); `full` what each
    coefficient adds to a full batch's step; `slowed` the stretches that were likely enough slowed; `wander` how far the
    server's speed moved meanwhile (standard deviation of its logarithm).
    """

    weight: Array
    means: Array
    covariances: Array
    full: Array
    slowed: tuple[Slowed, ...] = ()
    wander: float = 0.0

    @staticmethod
    def exact() -> UsualSpeed:
        """The engine's own."""
        size = len(COEFFICIENTS)
        return UsualSpeed(np.ones(1), np.zeros((1, size)), np.zeros((1, size, size)), np.full(size, 1 / size))

    def along(self, shares: Array) -> Slowness:
        """Of a step to whose time the coefficients add these shares."""
        mean = self.means @ shares
        spread = np.sqrt(np.einsum("i,kij,j->k", shares, self.covariances, shares))
        low, high = float((mean - 4 * spread).min()), float((mean + 4 * spread).max())
        if high - low < 1e-9:
            return Slowness(np.array([low]), np.ones(1))
        at = np.linspace(max(low, -1.5), min(high, 1.5), 801)
        least = np.maximum(spread, 1e-4)[:, None]
        density = self.weight @ (np.exp(-0.5 * ((at - mean[:, None]) / least) ** 2) / least)
        return Slowness(at, density / density.sum())

    @property
    def whole(self) -> Slowness:
        """Of a full batch's step."""
        return self.along(self.full)

    @property
    def moves(self) -> Array:
        """The mean logarithms of the coefficients' ratios to the engine's."""
        return np.asarray(self.weight @ self.means)

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """So many of the logarithms of the coefficients' ratios, shape (count, 4)."""
        parts = rng.choice(len(self.weight), count, p=self.weight)
        roots = np.linalg.cholesky(self.covariances + 1e-12 * np.eye(len(COEFFICIENTS)))
        normal = rng.standard_normal((count, len(COEFFICIENTS)))
        return np.asarray(self.means[parts] + np.einsum("nij,nj->ni", roots[parts], normal))

    def merged(self) -> list[Slowed]:
        """The stretches in order; those that overlap or touch as one, with their mean factor."""
        found: list[Slowed] = []
        for run in sorted({s.run for s in self.slowed}):
            for (from_s, factor), (to_s, _) in pairwise(pace_of([s for s in self.slowed if s.run == run])):
                last = found[-1] if found else None
                if factor == 1.0:
                    continue
                if last is not None and last.run == run and last.to_s == from_s:
                    share = (last.to_s - last.from_s) / (to_s - last.from_s)
                    mean = math.exp(share * math.log(last.factor) + (1 - share) * math.log(factor))
                    found[-1] = Slowed(run, last.from_s, to_s, mean)
                else:
                    found.append(Slowed(run, from_s, to_s, factor))
        return found

    def or_kept(self, seen_s: float) -> UsualSpeed:
        """The same, or the server kept one speed while it was seen, so that its wander, as strong as before any run, did
        not show. The share of that falls with the time: a server keeps a speed for SPEEDS.keeps_s on average."""
        chance = math.exp(-seen_s / SPEEDS.keeps_s)
        if chance < SPEEDS.negligible:
            return self
        strengths, shares = (np.array(column) for column in zip(*SPEEDS.strengths, strict=True))
        strengths, shares = np.append(0.0, strengths), np.append(1 - chance * shares.sum(), chance * shares)
        return replace(
            self,
            weight=np.outer(shares, self.weight).ravel(),
            means=np.tile(self.means, (len(shares), 1)),
            covariances=np.concatenate([self.covariances + strength**2 for strength in strengths]),
        )

    def against(self, factors: Array) -> UsualSpeed:
        """The same, against an engine whose coefficients were multiplied by these factors."""
        full = self.full * factors
        return replace(
            self,
            means=(1 + self.means) / factors - 1,
            covariances=self.covariances / np.outer(factors, factors),
            full=full / full.sum(),
        )


def usual_speed(
    engine: EngineParams,
    sources: Sequence[Source],
    known: Array | None = None,
    saturations: Sequence[Saturation] = (),
) -> UsualSpeed:
    """The usual speed by all runs together. Stretches that `sources` call slowed already are found anew.

    `known` is the covariance of the logarithms of the engine's COEFFICIENTS, as far as its fit knows them;
    `saturations` are throughputs that say how fast a full batch was in some spans.
    """
    runs = [
        b for number, source in enumerate(sources) if (b := blocks_of(engine, source, number)) is not None
    ]
    if not runs:
        return UsualSpeed.exact()
    shape = pd.concat([source.rows for source in sources])[["prompt_tokens", "output_tokens"]].mean()
    full = full_batch_shares(engine, float(shape.iloc[0]), float(shape.iloc[1]))
    beside = _Known(full, known, seen_full(engine, runs, saturations))
    accepted: list[tuple[int, int, int]] = []  # run, first block, one after the last
    chance, looks = 0.0, []
    while True:
        look = _Look(runs, accepted, beside, chance)
        looks.append(look)
        found = look.best()
        if found is None or len(accepted) == SPEEDS.most_stretches:
            return _mixture(looks).or_kept(sum(float(np.ptp(b.at_s)) + b.length_s for b in runs))
        accepted = [*accepted, found]
        chance += look.prior_of(found)


@dataclass(frozen=True)
class _Known:
    """What is known beside the blocks: shares of the full batch that is asked, covariance of the moves, throughputs."""

    full: Array
    covariance: Array | None
    seen_full: list[SeenFull]


def _mixture(looks: Sequence[_Look]) -> UsualSpeed:
    """Everything that was looked at, each explanation with its probability, but for what is too unlikely to matter.

    A stretch is accepted when it is likely, not certain: what does without it keeps its share. One that is slower by less
    than a neighbour makes it is the server's own wander: either of the two speeds may be the usual one.
    """
    for look, later in pairwise(looks):
        look.log[:, look.tried.index(later.accepted[-1])] = -np.inf  # stands in the later look
    highest = max(float(look.log.max()) for look in looks)
    strengths = [strength for strength, *_ in SPEEDS.wanders()]
    parts: list[tuple[float, Array, Array, float]] = []  # weight, mean, covariance, wander
    for look in looks:
        for which, further in np.argwhere(look.log - highest > math.log(SPEEDS.negligible)):
            solution = look.solution[which, further]
            levels = look.levels(solution[len(COEFFICIENTS) :], int(further))
            weight = math.exp(look.log[which, further] - highest)
            mean, covariance = solution[: len(COEFFICIENTS)], look.covariances[which, further]
            parts += [
                (weight * share, mean + slower, covariance, strengths[which]) for share, slower in levels
            ]
    weights, means, covariances, wanders = (np.array(column) for column in zip(*parts, strict=True))
    weights /= weights.sum()
    wander = math.sqrt(weights @ wanders**2)
    return UsualSpeed(weights, means, covariances, looks[-1].full, looks[-1].slowed(), wander)


class _Look:
    """The model with the stretches accepted so far, and every further one.

    `log` the logarithm of the evidence of each explanation (wanders, stretches), `chance` that of the accepted stretches'
    prior probability among it; `solution` and `covariances` the moves' and stretches' posterior there.
    """

    def __init__(
        self,
        runs: Sequence[Blocks],
        accepted: Sequence[tuple[int, int, int]],
        known: _Known,
        chance: float,
    ) -> None:
        self.runs, self.accepted, self.seen_full, self.full = runs, accepted, known.seen_full, known.full
        self.tried = [None, *self._stretches()]
        shares = np.vstack([*(b.shares for b in runs), *(one.shares for one in self.seen_full)])
        fixed = np.hstack([shares, *(self._inside(*one)[:, None] for one in accepted)])
        ratio = np.concatenate([*(b.ratio for b in runs), *([one.ratio] for one in self.seen_full)])
        stretches = len(accepted) + 1
        mean = np.concatenate([np.zeros(len(COEFFICIENTS)), np.full(stretches, SPEEDS.slowed_mean)])
        others = np.full(stretches, SPEEDS.slowed_spread)
        moves = np.diag(np.square(SPEEDS.coefficients)) if known.covariance is None else known.covariance
        precision = np.linalg.inv(block_diag(moves, np.diag(np.square(others))))
        further = np.array([self._inside(*one) if one else np.zeros(len(ratio)) for one in self.tried])
        self.prior = np.full(len(self.tried), math.log(0.5 / max(len(self.tried) - 1, 1)))
        self.prior[0] = math.log(0.5)
        parts = []
        for wander, memory_s, share in SPEEDS.wanders():
            left = np.linalg.cholesky(self._covariance(wander, memory_s))
            solved = np.linalg.solve(left, np.column_stack([ratio, fixed, further.T]))
            y, base, more = solved[:, 0], solved[:, 1 : 1 + fixed.shape[1]], solved[:, 1 + fixed.shape[1] :]
            constant = chance + math.log(share) - np.log(np.diag(left)).sum()
            parts.append(_solve(y, base, more, mean, precision, constant + self.prior))
        self.log, self.solution, self.covariances = (np.array([part[k] for part in parts]) for k in range(3))
        likely = np.exp(self.log - self.log.max())
        self.weight = likely / likely.sum()

    def best(self) -> tuple[int, int, int] | None:
        """The likeliest further stretch, when that there is one is likely enough."""
        of = self.weight.sum(axis=0)
        if 1 - of[0] < SPEEDS.likely or len(of) < 2:
            return None
        return self.tried[1 + int(of[1:].argmax())]

    def prior_of(self, stretch: tuple[int, int, int]) -> float:
        """Logarithm of the prior probability of a further stretch."""
        return float(self.prior[self.tried.index(stretch)])

    def levels(self, slower: Array, further: int) -> list[tuple[float, float]]:
        """(share of the undisturbed time, how much slower it was (logarithm) than outside all stretches), adding up to 1.

        `slower` is that of the accepted stretches and of the further one; what a neighbour makes is not undisturbed.
        """
        stretches = dict(zip(self.accepted, slower[:-1].tolist(), strict=True))
        if (one := self.tried[further]) is not None:
            stretches[one] = float(slower[-1])
        blocks = sum(len(b.at_s) for b in self.runs)
        level, disturbed = np.zeros(blocks), np.zeros(blocks, bool)
        for stretch, move in stretches.items():
            inside = self._inside(*stretch)[:blocks]
            if move < SPEEDS.neighbour:
                level += move * inside
            else:
                disturbed |= inside > 0
        values, counts = np.unique(level[~disturbed].round(6), return_counts=True)
        if not len(values):
            return [(1.0, 0.0)]
        return [(float(c / counts.sum()), float(v)) for v, c in zip(values, counts, strict=True)]

    def slowed(self) -> tuple[Slowed, ...]:
        """The accepted stretches."""
        moves = np.tensordot(self.weight, self.solution, axes=([0, 1], [0, 1]))[len(COEFFICIENTS) : -1]
        return tuple(self._slowed(*one, move) for one, move in zip(self.accepted, moves, strict=True))

    def _slowed(self, run: int, first: int, end: int, move: float) -> Slowed:
        blocks = self.runs[run]
        half = blocks.length_s / 2
        return Slowed(
            blocks.run,
            float(blocks.at_s[first] - half),
            float(blocks.at_s[end - 1] + half),
            math.exp(move),
        )

    def _stretches(self) -> list[tuple[int, int, int]]:
        """Every stretch of at most SPEEDS.longest_stretch of a run that is not accepted already."""
        taken = set(self.accepted)
        return [
            (number, first, end)
            for number, blocks in enumerate(self.runs)
            for first in range(len(blocks.at_s))
            for end in range(first + 1, len(blocks.at_s) + 1)
            if self._share(number, first, end) <= SPEEDS.longest_stretch and (number, first, end) not in taken
        ]

    def _share(self, run: int, first: int, end: int) -> float:
        """Of a run's blocks, how many lie in this stretch or in one that was accepted."""
        inside = set(range(first, end))
        for number, start, stop in self.accepted:
            inside |= set(range(start, stop)) if number == run else set()
        return len(inside) / len(self.runs[run].at_s)

    def _inside(self, run: int, first: int, end: int) -> Array:
        parts = [np.zeros(len(b.at_s)) for b in self.runs]
        parts[run][first:end] = 1.0
        return np.concatenate([*parts, np.zeros(len(self.seen_full))])

    def _covariance(self, wander: float, memory_s: float) -> Array:
        size = sum(len(b.at_s) for b in self.runs)
        wanders, start = np.zeros((size, size)), 0
        for b in self.runs:
            end = start + len(b.at_s)
            apart = np.abs(b.at_s[:, None] - b.at_s[None, :])
            wanders[start:end, start:end] = wander**2 * np.exp(-apart / max(memory_s, 1e-3))
            start = end
        of = np.vstack([np.eye(size), *(one.blocks for one in self.seen_full)])
        errors = np.concatenate([*(b.error for b in self.runs), *([one.error] for one in self.seen_full)])
        return np.asarray(of @ wanders @ of.T + np.diag(errors**2))


def _solve(
    y: Array, base: Array, more: Array, mean: Array, precision: Array, log: Array
) -> tuple[Array, Array, Array]:
    """For every column of `more` beside `base`: log evidence, the posterior means of all coefficients, and the covariance of
    COEFFICIENTS. `y` and the columns are whitened; priors are normal."""
    count, size = more.shape[1], base.shape[1] + 1
    design = np.empty((count, len(y), size))
    design[:, :, :-1], design[:, :, -1] = base[None], more.T
    inside = design.transpose(0, 2, 1) @ design + precision
    right = design.transpose(0, 2, 1) @ y + precision @ mean
    solution = np.linalg.solve(inside, right[:, :, None])[:, :, 0]
    fit = y @ y + mean @ precision @ mean - (right * solution).sum(axis=1)
    evidence = -0.5 * (fit + np.linalg.slogdet(inside)[1] - np.linalg.slogdet(precision)[1])
    own = np.linalg.inv(inside)[:, : len(COEFFICIENTS), : len(COEFFICIENTS)]
    return log + evidence, np.asarray(solution), np.asarray(own, float)
