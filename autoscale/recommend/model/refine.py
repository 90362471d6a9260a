"""The engine whose replay comes nearest to what was measured, each stage's own speed left open.

A server wanders: a stage that ran 3 % slower than the next moves its TPOT by 3 %, but near saturation its TTFT by half.
So errors count by generalised least squares: what a slower step would do to all figures of a stage together is expected,
what it would not do is not. Far from the solution that is too strict to see the way, so the first rounds take all
uncertainties several times as large. Coefficients are moved as they add to a step, not by factors: a cost that starts too
small must be able to grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from autoscale.recommend.effort import DOUBTING, REFINING
from autoscale.recommend.model.coefficients import FACTORS, scaled
from autoscale.recommend.model.replaying import (
    LOOKED_AT,
    Source,
    logarithms,
    quickest_ttft_s,
    replayed,
    ttft_per_token_s,
)
from autoscale.sim.engine.replicas import EngineParams

LOWEST, HIGHEST = np.array(REFINING.lowest), np.array(REFINING.highest)  # of FACTORS, in their units
LEAST_NOISE = np.array(DOUBTING.least_noise)  # of LOOKED_AT


def refined(
    starts: Sequence[EngineParams], sources: Sequence[Source], measured: Sequence[pd.DataFrame]
) -> EngineParams:
    """The best engine that is reached from the starts; `measured[i]` are the figures of source i (stage_figures)."""
    best: tuple[float, EngineParams] | None = None
    problem = _Problem(sources, measured)
    for number, start in enumerate(starts):
        misfit, engine = _from(start, problem)
        if best is None or misfit < best[0]:
            best = misfit, engine
        if number + 1 >= REFINING.tried_always and best[0] < REFINING.good_enough:
            break
    assert best is not None
    found = best[1]
    off = problem.whitening(found, 1.0)(found)
    noise = float(np.sqrt(np.mean(np.minimum(off**2, REFINING.outlier**2))))
    rounds = REFINING.last_rounds * (min(max(noise, REFINING.quietest), 1 / REFINING.quietest),)
    return _from(problem.best_split(found, rounds[0]), problem, rounds)[1]


def _from(
    start: EngineParams, problem: _Problem, rounds: Sequence[float] = REFINING.rounds
) -> tuple[float, EngineParams]:
    """Mean squared error in expected variances, and the engine, that are reached from one start.

    A replay jumps as its engine changes, so derivatives are taken between engines as far apart as the solution is unsure,
    both ways, and a step is shortened until it helps.
    """
    values = np.array([getattr(start, name) for name in FACTORS])
    units = _units(start, problem)
    highest = np.append(HIGHEST[:-1], max(min(HIGHEST[-1], problem.most_overhead_s / units[-1]), 0.02))
    first = x = np.clip(values / units, np.minimum(REFINING.least_start, highest / 2), highest - 0.01)
    prior = np.vstack(
        [REFINING.start_weight * np.eye(len(x)), REFINING.split_weight * np.array([0, 1, -1, 0, 0])]
    )
    apart = np.full(len(x), REFINING.farthest)

    def at(x: NDArray[np.float64]) -> EngineParams:
        changes: dict[str, Any] = dict(zip(FACTORS, map(float, units * x), strict=True))
        return replace(start, **changes)

    def errors(x: NDArray[np.float64], whiten: _Whitening) -> NDArray[np.float64]:
        return np.concatenate(
            [whiten(at(x)), REFINING.start_weight * (x - first), [REFINING.split_weight * (x[1] - x[2])]]
        )

    misfit = np.inf
    for loose in rounds:
        whiten = problem.whitening(at(x), loose)
        now = errors(x, whiten)
        moved = []
        for e in np.diag(apart):
            above, below = np.minimum(x + e, highest), np.maximum(x - e, LOWEST)
            moved.append((whiten(at(above)) - whiten(at(below))) / (above - below).sum())
        slopes = np.vstack([np.column_stack(moved), prior])
        longest = REFINING.longest * np.maximum(x, 1.0)
        weight = np.sqrt(np.minimum(1, REFINING.robust / np.maximum(np.abs(now), 1e-9)))[:, None]
        step = lsq_linear(
            slopes * weight,
            -now * weight[:, 0],
            bounds=(np.maximum(LOWEST - x, -longest) - 1e-9, np.minimum(highest - x, longest)),
        ).x
        curvature = (slopes * weight).T @ (slopes * weight)
        apart = np.clip(
            np.sqrt(np.diag(np.linalg.inv(curvature))), REFINING.nearest, REFINING.farthest
        ) * np.maximum(x, 1.0)
        misfit = _cost(now)
        for share in REFINING.shorter:
            nearer = np.clip(x + share * step, LOWEST, highest)
            if (cost := _cost(errors(nearer, whiten))) < misfit:
                x, misfit = nearer, cost
                break
    return misfit, at(x)


def _units(start: EngineParams, problem: _Problem) -> NDArray[np.float64]:
    """In what each coefficient is moved: the base, shares of it for what the fullest stage adds, and what it starts at."""
    base_s, (full, cache) = start.base_s, problem.fullest(start)
    added_s = REFINING.share * base_s
    return np.array(
        [
            base_s,
            added_s / full,
            added_s / cache,
            max(start.per_prefill_token_s, 1e-7),
            max(start.request_overhead_s, 0.1 * base_s),
        ]
    )


def _cost(errors: NDArray[np.float64]) -> float:
    """Mean of the squares, beyond REFINING.robust of the absolute values (Huber)."""
    size = np.abs(errors)
    return float(
        np.mean(np.where(size < REFINING.robust, size**2, 2 * REFINING.robust * size - REFINING.robust**2))
    )


_Whitening = Callable[[EngineParams], NDArray[np.float64]]


class _Problem:
    """Measured figures of some runs, and how far an engine's replay is from them."""

    def __init__(self, sources: Sequence[Source], measured: Sequence[pd.DataFrame]) -> None:
        self._sources = sources
        self._tables = measured
        self._measured = [logarithms(table[list(LOOKED_AT)].to_numpy(float)) for table in measured]
        self._wander = [
            np.where(table["waiting"].to_numpy(float) >= 1, REFINING.full_wander, DOUBTING.start_wander)
            for table in measured
        ]
        self.most_overhead_s = min(quickest_ttft_s(source.rows) for source in sources)
        self._slopes = [ttft_per_token_s(source.rows) for source in sources]

    def whitening(self, engine: EngineParams, loose: float) -> _Whitening:
        """Errors of an engine in expected standard deviations, given what speed does to the figures near `engine`."""
        faster, slower = (self._replay(scaled(engine, 1 + sign * REFINING.speed)) for sign in (-1, 1))
        inverse = []
        for (quick, _), (slow, _), wander in zip(faster, slower, self._wander, strict=True):
            speed = wander[:, None] * np.clip(np.nan_to_num((slow - quick) / (2 * REFINING.speed)), -30, 30)
            covariance = speed[:, :, None] * speed[:, None, :] + np.diag(LEAST_NOISE**2)
            inverse.append(np.linalg.inv(np.linalg.cholesky(covariance)) / loose)

        def errors(engine: EngineParams) -> NDArray[np.float64]:
            parts: list[NDArray[np.float64]] = []
            for (logs, slope), target, whiten, (wanted, error) in zip(
                self._replay(engine), self._measured, inverse, self._slopes, strict=True
            ):
                off = np.clip(np.nan_to_num(logs - target), -REFINING.largest_error, REFINING.largest_error)
                parts.append((whiten @ off[:, :, None]).ravel())
                if wanted > 0:
                    spread = loose * np.hypot(DOUBTING.slope_noise, error / wanted)
                    parts.append(np.array([np.log(max(slope, 1e-9) / wanted) / spread]))
            return np.concatenate(parts)

        return errors

    def fullest(self, engine: EngineParams) -> tuple[float, float]:
        """Sequences and KV tokens in the fullest stage, as far as gauges say; else all that the engine has room for."""
        busy = [table.dropna(subset=["running", "kv_usage"]) for table in self._tables]
        rows = [table.sort_values("running").iloc[-1] for table in busy if len(table)]
        sequences = max((float(row["running"]) for row in rows), default=0.0) / engine.data_parallel
        tokens = max((float(row["kv_usage"]) for row in rows), default=0.0) * engine.kv_tokens
        return sequences or float(engine.max_num_seqs), tokens or float(engine.kv_tokens)

    def best_split(self, engine: EngineParams, loose: float) -> EngineParams:
        """The engine, or one that shares out what sequences and their KV tokens cost in the fullest stage differently.

        Along that valley the errors hardly change, less than a replay jumps: it is looked at as a whole.
        """
        sequences, tokens = self.fullest(engine)
        cost_s = engine.per_sequence_s * sequences + engine.per_kv_token_s * tokens
        if cost_s <= 0:
            return engine
        whiten = self.whitening(engine, loose)

        def misfit(one: EngineParams) -> float:
            apart = one.per_sequence_s * sequences - one.per_kv_token_s * tokens
            return _cost(
                np.append(whiten(one), REFINING.split_weight * apart / (REFINING.share * one.base_s))
            )

        shared = [
            replace(engine, per_sequence_s=(1 - k) * cost_s / sequences, per_kv_token_s=k * cost_s / tokens)
            for k in REFINING.splits
        ]
        return min([engine, *shared], key=misfit)

    def _replay(self, engine: EngineParams) -> list[tuple[NDArray[np.float64], float]]:
        """Per run the logarithms of LOOKED_AT, shape (stages, 4), and how TTFT grows with the prompt, in s per token."""
        models = [replayed(engine, source) for source in self._sources]
        return [(model.logs, model.ttft_slope[0]) for model in models]
