"""How well runs fix the engine model: engines that explain them about as well as the fitted one.

The figures of a replay are nearly linear in the logarithms of the coefficients. Their derivatives come from moving every
coefficient; what the fit leaves unexplained is taken apart into a speed of each stage (the server wandered, or had
company; stages that stand out count less) and the rest; generalised least squares with a normal prior around the fit
then gives the covariance of the coefficients. Where the runs say nothing the prior's spread stands. Few stages make the
tails longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autoscale.recommend.effort import DOUBTING
from autoscale.recommend.model.coefficients import FACTORS, capacity_ratios, drawn
from autoscale.recommend.model.replaying import (
    LOOKED_AT,
    Replayed,
    Source,
    logarithms,
    replayed,
    ttft_per_token_s,
)
from autoscale.sim.engine.replicas import EngineParams

SUMMED = [1, 2]  # of FACTORS: per_sequence_s and per_kv_token_s, of which a run mostly fixes the sum
MEDIAN_SQUARE = 0.455  # of a normal variable of variance 1
LEAST_NOISE = np.array(DOUBTING.least_noise)  # of LOOKED_AT


@dataclass(frozen=True)
class Explained:
    """What the runs say about an engine: the covariance of its factors' logarithms, from so many stages."""

    covariance: NDArray[np.floating[Any]]
    stages: int

    @property
    def of_a_step(self) -> NDArray[np.float64]:
        """The covariance of COEFFICIENTS alone."""
        return np.asarray(self.covariance[:-1, :-1], float)

    def factors(self, seed: int) -> NDArray[np.float64]:
        """Multiples of the engine's FACTORS that explain the runs about as well as 1 does; shape (draws, 5).

        Log-normal, but for the costs of a sequence and of its tokens: a run mostly fixes their sum, so that they are
        normal, above zero, and one can take all of it.
        """
        rng, draws = np.random.default_rng(seed), DOUBTING.draws
        freedom = max(self.stages - 2, 3)
        kept = np.empty((0, len(FACTORS)))
        while len(kept) < draws:
            tails = np.sqrt(freedom / rng.chisquare(freedom, 4 * draws))
            moves = (
                rng.multivariate_normal(np.zeros(len(FACTORS)), self.covariance, 4 * draws) * tails[:, None]
            )
            some = np.exp(np.clip(moves, -DOUBTING.farthest, DOUBTING.farthest))
            some[:, SUMMED] = 1 + moves[:, SUMMED]
            kept = np.concatenate([kept, some[(some > 0).all(axis=1)]])
        return kept[:draws]


def explained(engine: EngineParams, sources: Sequence[Source], measured: Sequence[pd.DataFrame]) -> Explained:
    """How well the runs fix an engine that was fitted to them."""
    stages = [
        s for source, table in zip(sources, measured, strict=True) for s in _stages(engine, source, table)
    ]
    wander2, noise2 = _noise(stages, DOUBTING.start_wander**2)
    precision = np.diag(np.array(DOUBTING.prior_spread) ** -2)
    for stage in stages:
        precision = precision + stage.curvature(wander2, noise2)
    own = sum(stage.fixed_noise is None for stage in stages)
    return Explained(np.linalg.inv(precision), own)


def anchored(
    engine: EngineParams, factors: NDArray[np.float64], known: Sequence[Saturation], seed: int
) -> tuple[EngineParams, NDArray[np.float64]]:
    """Engine and draws that also give the saturated throughputs that were measured.

    The draws are weighted by how well they do so and drawn again; the engine moves as their mean does. Unchanged when
    nothing was measured, or when no draw comes near: then the replay error has to say that the model is wrong.
    """
    if not known:
        return engine, factors
    logs = np.zeros(len(factors))
    for one in known:
        modelled = np.log(one.modelled_rps * capacity_ratios(engine, factors, *one.shape) / one.measured_rps)
        logs -= 0.5 * modelled**2 / (one.error**2 + DOUBTING.model_error**2)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    if 1 / float((weights**2).sum()) < DOUBTING.fewest_draws or logs.max() < -4.5:
        return engine, factors
    centre = (weights @ factors) / factors.mean(axis=0)
    picked = np.random.default_rng(seed).choice(len(factors), len(factors), p=weights)
    return drawn(engine, centre), factors[picked] / centre


@dataclass(frozen=True)
class Saturation:
    """Saturated throughput as a run measured it (with its relative standard error) in some spans of time, and as the engine
    gives it there."""

    measured_rps: float
    error: float
    modelled_rps: float
    shape: tuple[float, float]
    run: int
    spans_s: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Stage:
    """A stage of a run under an engine: log errors of LOOKED_AT, one per figure, their derivatives by FACTORS, shape (4, 5),
    and what a slower step does to them, one per figure. Only what is known. `figures` says which of LOOKED_AT those are."""

    errors: NDArray[np.float64]
    moved: NDArray[np.float64]
    figures: NDArray[np.int64]
    # Of a figure that is not one of a stage: the slope of TTFT with the prompt
    fixed_noise: float | None = None

    @property
    def speed(self) -> NDArray[np.float64]:
        return np.asarray(self.moved[:, :4].sum(axis=1))

    @property
    def wander(self) -> float:
        """The stage's own speed: least squares of its errors on what a slower step does to them."""
        return float(self.speed @ self.errors / max(float(self.speed @ self.speed), 1e-9))

    def curvature(self, wander2: float, noise2: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the stage adds to the precision of the logarithms, shape (5, 5)."""
        if self.fixed_noise is not None:
            covariance, weight = np.array([[self.fixed_noise**2]]), 1.0
        else:
            covariance = wander2 * np.outer(self.speed, self.speed) + np.diag(noise2[self.figures])
            weight = (DOUBTING.outliers + 1) / (DOUBTING.outliers + self.wander**2 / wander2)
        return np.asarray(weight * self.moved.T @ np.linalg.solve(covariance, self.moved))


def _noise(stages: Sequence[_Stage], wander2: float) -> tuple[float, NDArray[np.float64]]:
    """Variances of the stages' speeds (stages that stand out counting less) and of what is left of each figure."""
    own = [s for s in stages if s.fixed_noise is None and len(s.errors)]
    few = len(own) / max(len(own) - 2, 1)
    wander = np.array([s.wander for s in own])
    weight = (DOUBTING.outliers + 1) / (DOUBTING.outliers + wander**2 / wander2)
    found = max(float(np.sum(weight * wander**2) / max(len(own), 1)) * few, DOUBTING.least_wander**2)
    left = np.full((len(own), len(LOOKED_AT)), np.nan)
    for row, stage in zip(left, own, strict=True):
        row[stage.figures] = stage.errors - stage.wander * stage.speed
    known = np.isfinite(left)
    square = np.where(known, left, 0.0) ** 2
    noise2 = np.median(np.where(known, square, 0.0), axis=0) / MEDIAN_SQUARE
    return found, np.maximum(noise2 * few, LEAST_NOISE**2)


def _stages(engine: EngineParams, source: Source, measured: pd.DataFrame) -> list[_Stage]:
    """What one run says about an engine: its stages, and how TTFT grows with the prompt."""

    def logs(model: Replayed) -> tuple[NDArray[np.float64], float]:
        return model.logs, float(logarithms(np.array(model.ttft_slope[:1]))[0])

    def seen(factors: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        return logs(replayed(drawn(engine, factors), source))

    ones = np.ones(len(FACTORS))
    model = replayed(engine, source)
    figures, (modelled, slope) = model.figures, logs(model)
    errors = np.clip(
        modelled - logarithms(measured[list(LOOKED_AT)].to_numpy(float)),
        -DOUBTING.largest_error,
        DOUBTING.largest_error,
    )
    moved = np.empty((*errors.shape, len(FACTORS)))
    slope_moved = np.empty((1, len(FACTORS)))
    for which, far in DOUBTING.moves:
        ends = [seen(np.exp(sign * far * np.isin(np.arange(len(ones)), which))) for sign in (1, -1)]
        moved[:, :, which] = ((ends[0][0] - ends[1][0]) / (2 * far))[:, :, None]
        slope_moved[0, which] = (ends[0][1] - ends[1][1]) / (2 * far)
    # A sequence and its tokens act in proportion to what each adds to a step: the two part only where B and KV do
    batch = engine.per_sequence_s * figures["running"].to_numpy(float)
    cache = (
        engine.per_kv_token_s * figures["kv_usage"].to_numpy(float) * engine.kv_tokens * engine.data_parallel
    )
    with np.errstate(invalid="ignore"):
        share = np.nan_to_num(batch / (batch + cache), nan=0.5)
    moved[:, :, 1] *= share[:, None]
    moved[:, :, 2] *= 1 - share[:, None]
    slope_moved[0, 1] *= share.mean()
    slope_moved[0, 2] *= 1 - share.mean()
    stages = []
    for k in range(len(errors)):
        known = np.flatnonzero(np.isfinite(errors[k]) & np.isfinite(moved[k]).all(axis=1))
        if len(known):
            stages.append(_Stage(errors[k][known], moved[k][known], known))
    wanted, noise = ttft_per_token_s(source.rows)
    if wanted > 0 and np.isfinite(slope) and np.isfinite(slope_moved).all():
        off = np.clip(np.array([slope - np.log(wanted)]), -DOUBTING.largest_error, DOUBTING.largest_error)
        stages.append(
            _Stage(off, slope_moved, np.zeros(1, int), float(np.hypot(noise / wanted, DOUBTING.slope_noise)))
        )
    return stages
