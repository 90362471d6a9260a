"""How well runs fix the engine model: engines that explain them about as well as the fitted one.

The figures of a replay are nearly linear in the logarithms of the coefficients. Their derivatives come from moving every
coefficient; what the fit leaves unexplained is taken apart into a speed of each stage (the server wandered, or had
company; stages that stand out count less) and the rest; generalised least squares with a normal prior around the fit
then gives the covariance of the coefficients. Where the runs say nothing the prior's spread stands. Few stages make the
tails longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autoscale.recommend.model.replaying import Replayed, Source, replayed, ttft_per_token_s
from autoscale.recommend.model.step_time import COEFFICIENTS
from autoscale.sim.engine.replicas import EngineParams

FACTORS = (*COEFFICIENTS, "request_overhead_s")
LOOKED_AT = ("tpot_p50_s", "running", "kv_usage", "ttft_p50_s")
# of the factors' logarithms: 1.0 = a factor of 2.7 both ways
PRIOR_SPREAD = np.array([0.3, 1.0, 1.0, 0.8, 1.0])
# What is moved to see what it does, and how far (a logarithm): less, and the replay's own jumps look like effects. The
# costs of a sequence and of its KV tokens are moved as one: that pair differs by B and KV alone, see _stages.
MOVES = (((0,), 0.08), ((1, 2), 0.4), ((3,), 0.3), ((4,), 0.4))
SUMMED = [1, 2]  # of FACTORS: per_sequence_s and per_kv_token_s
LEAST_NOISE = np.array([0.02, 0.03, 0.03, 0.05])  # of LOOKED_AT: requests are few, a replay jumps, too
LEAST_WANDER = 0.01
START_WANDER = 0.03  # what makes a stage stand out before the wander is known
LARGEST_ERROR = 1.5  # logarithm: a queue's wait may be off by any factor
OUTLIERS = 4.0  # degrees of freedom of the stages' speeds: a stage at three times the wander counts a third
SLOPE_NOISE = 0.1  # of how TTFT grows with the prompt, beside the error of the measured slope
MODEL_ERROR = 0.02  # of the engine model's throughput, beside the error of what was measured
FEWEST_DRAWS = 20  # effective ones that must agree with the measured throughput
FARTHEST = 1.5  # logarithm of a factor beyond which the linear model says nothing


@dataclass(frozen=True)
class Explained:
    """What the runs say about an engine: the covariance of its factors' logarithms, from so many stages."""

    covariance: NDArray[np.floating[Any]]
    stages: int

    def factors(self, draws: int = 1000, seed: int = 0) -> NDArray[np.float64]:
        """Multiples of the engine's FACTORS that explain the runs about as well as 1 does; shape (draws, 5).

        Log-normal, but for the costs of a sequence and of its tokens: a run mostly fixes their sum, so that they are
        normal, above zero, and one can take all of it.
        """
        rng = np.random.default_rng(seed)
        freedom = max(self.stages - 2, 3)
        kept = np.empty((0, len(FACTORS)))
        while len(kept) < draws:
            tails = np.sqrt(freedom / rng.chisquare(freedom, 4 * draws))
            moves = (
                rng.multivariate_normal(np.zeros(len(FACTORS)), self.covariance, 4 * draws) * tails[:, None]
            )
            some = np.exp(np.clip(moves, -FARTHEST, FARTHEST))
            some[:, SUMMED] = 1 + moves[:, SUMMED]
            kept = np.concatenate([kept, some[(some > 0).all(axis=1)]])
        return kept[:draws]


def explained(engine: EngineParams, sources: Sequence[Source], measured: Sequence[pd.DataFrame]) -> Explained:
    """How well the runs fix an engine that was fitted to them."""
    stages = [
        s for source, table in zip(sources, measured, strict=True) for s in _stages(engine, source, table)
    ]
    wander2, noise2 = _noise(stages, START_WANDER**2)
    precision = np.diag(PRIOR_SPREAD**-2)
    for stage in stages:
        precision = precision + stage.curvature(wander2, noise2)
    own = sum(stage.fixed_noise is None for stage in stages)
    return Explained(np.linalg.inv(precision), own)


def drawn(engine: EngineParams, factors: NDArray[np.float64]) -> EngineParams:
    """The engine with its FACTORS multiplied."""
    changes: dict[str, Any] = {
        n: float(getattr(engine, n) * f) for n, f in zip(FACTORS, factors, strict=True)
    }
    return replace(engine, **changes)


def scaled(engine: EngineParams, factor: float) -> EngineParams:
    """The engine with all its step times multiplied."""
    names = ("base_s", "per_sequence_s", "per_kv_token_s", "per_prefill_token_s")
    return replace(engine, **{name: getattr(engine, name) * factor for name in names})


def saturated_rps(engine: EngineParams, prompt_tokens: float, output_tokens: float) -> float:
    """Requests/s of one replica with a full batch of requests of these mean lengths.

    Seats end where max_num_seqs or the KV cache does; a request stays for its output tokens' steps and for the prompts
    of all that share the batch with it. Preemptions are left out: good for ratios of engines, a few per cent high as a rate.
    """
    held = prompt_tokens + output_tokens / 2 + engine.block_size / 2
    seats = max(min(float(engine.max_num_seqs), engine.kv_tokens / held), 1.0)
    kv_tokens = seats * (prompt_tokens + output_tokens / 2)
    stay_s = output_tokens * engine.step_s(seats, kv_tokens)
    computed = prompt_tokens * (1 - engine.prefix_hit_fraction)
    return engine.data_parallel * seats / (stay_s + seats * computed * engine.per_prefill_token_s)


def capacity_ratios(
    engine: EngineParams, factors: NDArray[np.float64], prompt_tokens: float, output_tokens: float
) -> NDArray[np.float64]:
    """Saturated throughput of every drawn engine over that of the fitted one, at these mean lengths."""
    fitted = saturated_rps(engine, prompt_tokens, output_tokens)
    return np.array([saturated_rps(drawn(engine, f), prompt_tokens, output_tokens) / fitted for f in factors])


def anchored(
    engine: EngineParams, factors: NDArray[np.float64], known: Sequence[Saturation], seed: int = 0
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
        logs -= 0.5 * modelled**2 / (one.error**2 + MODEL_ERROR**2)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    if 1 / float((weights**2).sum()) < FEWEST_DRAWS or logs.max() < -4.5:
        return engine, factors
    centre = (weights @ factors) / factors.mean(axis=0)
    picked = np.random.default_rng(seed).choice(len(factors), len(factors), p=weights)
    return drawn(engine, centre), factors[picked] / centre


@dataclass(frozen=True)
class Saturation:
    """Saturated throughput as a run measured it (with its relative standard error) and as the engine gives it there."""

    measured_rps: float
    error: float
    modelled_rps: float
    shape: tuple[float, float]


@dataclass(frozen=True)
class _Stage:
    """A stage of a run under an engine: log errors of LOOKED_AT, shape (4,), their derivatives by FACTORS, shape (4, 5),
    and what a slower step does to them, shape (4,). Only what is known. `figures` says which of LOOKED_AT those are."""

    errors: NDArray[np.float64]
    moved: NDArray[np.float64]
    figures: NDArray[np.int64]
    fixed_noise: float | None = (
        None  # of a figure that is not one of a stage: the slope of TTFT with the prompt
    )

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
            weight = (OUTLIERS + 1) / (OUTLIERS + self.wander**2 / wander2)
        return np.asarray(weight * self.moved.T @ np.linalg.solve(covariance, self.moved))


def _noise(stages: Sequence[_Stage], wander2: float) -> tuple[float, NDArray[np.float64]]:
    """Variances of the stages' speeds (stages that stand out counting less) and of what is left of each figure."""
    own = [s for s in stages if s.fixed_noise is None and len(s.errors)]
    few = len(own) / max(len(own) - 2, 1)
    wander = np.array([s.wander for s in own])
    weight = (OUTLIERS + 1) / (OUTLIERS + wander**2 / wander2)
    found = max(float(np.sum(weight * wander**2) / max(len(own), 1)) * few, LEAST_WANDER**2)
    left = np.full((len(own), len(LOOKED_AT)), np.nan)
    for row, stage in zip(left, own, strict=True):
        row[stage.figures] = stage.errors - stage.wander * stage.speed
    known = np.isfinite(left)
    square = np.where(known, left, 0.0) ** 2
    noise2 = (
        np.median(np.where(known, square, 0.0), axis=0) / 0.455
    )  # of a normal variable: its median square
    return found, np.maximum(noise2 * few, LEAST_NOISE**2)


def _stages(engine: EngineParams, source: Source, measured: pd.DataFrame) -> list[_Stage]:
    """What one run says about an engine: its stages, and how TTFT grows with the prompt."""
    columns = list(LOOKED_AT)

    def logs(model: Replayed) -> tuple[NDArray[np.float64], float]:
        slope = np.array([ttft_per_token_s(model.requests)[0]])
        return _log(model.figures[columns].to_numpy(float)), float(_log(slope)[0])

    def seen(factors: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        return logs(replayed(drawn(engine, factors), source))

    ones = np.ones(len(FACTORS))
    model = replayed(engine, source)
    figures, (modelled, slope) = model.figures, logs(model)
    errors = np.clip(modelled - _log(measured[columns].to_numpy(float)), -LARGEST_ERROR, LARGEST_ERROR)
    moved = np.empty((*errors.shape, len(FACTORS)))
    slope_moved = np.empty((1, len(FACTORS)))
    for which, far in MOVES:
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
        off = np.clip(np.array([slope - np.log(wanted)]), -LARGEST_ERROR, LARGEST_ERROR)
        stages.append(
            _Stage(off, slope_moved, np.zeros(1, int), float(np.hypot(noise / wanted, SLOPE_NOISE)))
        )
    return stages


def _log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.where(values > 0, values, np.nan))
