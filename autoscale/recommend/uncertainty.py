"""How well a run fixes the engine model: engines that explain it about as well as the fitted one.

Around the fit the replay's figures are nearly linear in the logarithms of the coefficients. What the fit leaves
unexplained is taken apart into a speed of each stage (the server wandered, or had company) and the rest; coefficients
are then normal around the fit with the covariance of that linear model (generalised least squares), and a prior of
PRIOR_SPREAD around it stands in where the run says nothing. Few stages make the tails longer: Student's t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autoscale.recommend.replaying import Source, replayed, ttft_per_token_s
from autoscale.recommend.step_time import COEFFICIENTS
from autoscale.sim.engine import EngineParams

FACTORS = (*COEFFICIENTS, "request_overhead_s")
LOOKED_AT = ("tpot_p50_s", "running", "kv_usage", "ttft_p50_s")
PRIOR_SPREAD = np.array(
    [0.5, 0.5, 0.5, 0.5, 1.0]
)  # of the factors' logarithms: 0.5 = a factor of 2.7 both ways
STEP = 0.08  # of a logarithm: how far each factor is moved to see what it does
LEAST_NOISE = np.array([0.01, 0.02, 0.02, 0.03])  # of LOOKED_AT: requests are few, batches are whole numbers
LEAST_WANDER = 0.01
SLOPE_NOISE = 0.1  # of how TTFT grows with the prompt, beside the error of the measured slope
MODEL_ERROR = 0.02  # of the engine model's throughput, beside the error of what was measured
FEWEST_DRAWS = 20  # effective ones that must agree with the measured throughput
FARTHEST = 1.5  # logarithm of a factor beyond which the linear model says nothing


def factor_draws(
    engine: EngineParams,
    sources: Sequence[Source],
    measured: Sequence[pd.DataFrame],
    draws: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Multiples of the engine's FACTORS that explain the runs about as well as 1 does; shape (draws, 5)."""
    precision = np.diag(PRIOR_SPREAD**-2)
    stages: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []  # errors and sensitivities of each
    for source, table in zip(sources, measured, strict=True):
        errors, moved, slope_moved = _sensitivities(engine, source, table)
        stages += [(errors[k], moved[k]) for k in range(len(errors))]
        slope, noise = ttft_per_token_s(source.rows)
        if slope > 0 and np.isfinite(slope_moved).all():
            precision += np.outer(slope_moved, slope_moved) / ((noise / slope) ** 2 + SLOPE_NOISE**2)
    speed = np.array([[m[:, :4].sum(axis=1)] for _, m in stages])[
        :, 0
    ]  # what a slower stage does to its figures
    wander = np.array([_ratio(e, g) for (e, _), g in zip(stages, speed, strict=True)])
    left = np.array([e - w * g for (e, _), w, g in zip(stages, wander, speed, strict=True)])
    few = len(stages) / max(len(stages) - 2, 1)
    with np.errstate(invalid="ignore"):
        noise2 = np.maximum(np.nan_to_num(_mean_square(left)) * few, LEAST_NOISE**2)
    wander2 = max(float(np.mean(wander**2)) * few, LEAST_WANDER**2)
    for (errors, moved), g in zip(stages, speed, strict=True):
        known = np.isfinite(errors) & np.isfinite(moved).all(axis=1)
        j = moved[known]
        covariance = wander2 * np.outer(g[known], g[known]) + np.diag(noise2[known])
        precision += j.T @ np.linalg.solve(covariance, j)
    rng = np.random.default_rng(seed)
    freedom = max(len(stages) - 2, 3)
    tails = np.sqrt(freedom / rng.chisquare(freedom, draws))
    logs = rng.multivariate_normal(np.zeros(len(FACTORS)), np.linalg.inv(precision), draws) * tails[:, None]
    return np.asarray(np.exp(np.clip(logs, -FARTHEST, FARTHEST)))


def drawn(engine: EngineParams, factors: NDArray[np.float64]) -> EngineParams:
    """The engine with its FACTORS multiplied."""
    changes: dict[str, Any] = {
        n: float(getattr(engine, n) * f) for n, f in zip(FACTORS, factors, strict=True)
    }
    return replace(engine, **changes)


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

    The draws are weighted by how well they do so and drawn again; the engine moves to their mean. Unchanged when
    nothing was measured, or when no draw comes near: then the replay error has to say that the model is wrong.
    """
    logs = np.zeros(len(factors))
    for one in known:
        modelled = np.log(one.modelled_rps * capacity_ratios(engine, factors, *one.shape) / one.measured_rps)
        logs -= 0.5 * modelled**2 / (one.error**2 + MODEL_ERROR**2)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    if 1 / float((weights**2).sum()) < FEWEST_DRAWS or logs.max() < -4.5:
        return engine, factors
    centre = np.exp(weights @ np.log(factors))
    picked = np.random.default_rng(seed).choice(len(factors), len(factors), p=weights)
    return drawn(engine, centre), factors[picked] / centre


@dataclass(frozen=True)
class Saturation:
    """Saturated throughput as a run measured it (with its relative standard error) and as the engine gives it there."""

    measured_rps: float
    error: float
    modelled_rps: float
    shape: tuple[float, float]


def _sensitivities(
    engine: EngineParams, source: Source, measured: pd.DataFrame
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Per stage the log errors (stages, 4) and their derivatives by the log factors (stages, 4, 5); of the slope (5,)."""
    columns = list(LOOKED_AT)

    def seen(factors: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        model = replayed(drawn(engine, factors), source)
        return _log(model.figures[columns].to_numpy(float)), float(
            _log(np.array([ttft_per_token_s(model.requests)[0]]))[0]
        )

    ones = np.ones(len(FACTORS))
    errors = seen(ones)[0] - _log(measured[columns].to_numpy(float))
    moved = np.empty((*errors.shape, len(FACTORS)))
    slope = np.empty(len(FACTORS))
    for k in range(len(FACTORS)):
        (up, slope_up), (down, slope_down) = (
            seen(ones * np.exp(sign * STEP * (np.arange(5) == k))) for sign in (1, -1)
        )
        moved[:, :, k] = (up - down) / (2 * STEP)
        slope[k] = (slope_up - slope_down) / (2 * STEP)
    return errors, moved, slope


def _log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.where(values > 0, values, np.nan))


def _ratio(errors: NDArray[np.float64], speed: NDArray[np.float64]) -> float:
    """The stage's own speed: least squares of its errors on what a slower step does to them; 0 when nothing is known."""
    known = np.isfinite(errors) & np.isfinite(speed)
    square = float(speed[known] @ speed[known])
    return float(speed[known] @ errors[known]) / square if square > 0 else 0.0


def _mean_square(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(values)
    return np.asarray(np.where(known, values, 0.0) ** 2).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
