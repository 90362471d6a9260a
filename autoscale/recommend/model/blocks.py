"""A run in blocks of time: how long a token took in each, against what the engine says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from autoscale.recommend.effort import SPEEDS
from autoscale.recommend.model import step_time
from autoscale.recommend.model.coefficients import full_batch_shares
from autoscale.recommend.model.replaying import Source, replayed
from autoscale.recommend.model.uncertainty import Saturation
from autoscale.sim.engine.params import COEFFICIENTS
from autoscale.sim.engine.replicas import EngineParams

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Blocks:
    """A run in blocks of time: their middles in s, ratios (logarithms), errors of them, and shares, shape (blocks, 4)."""

    run: int
    length_s: float
    at_s: Array
    ratio: Array
    error: Array
    shares: Array


@dataclass(frozen=True)
class SeenFull:
    """A saturated throughput: the (logarithmic) ratio of its step to the engine's, its error, the engine's shares of a full
    batch of its requests, and which blocks it is the mean of."""

    ratio: float
    error: float
    shares: Array
    blocks: Array


def blocks_of(engine: EngineParams, source: Source, run: int) -> Blocks | None:
    """The run's blocks; None when too few requests tell anything."""
    seen = step_time.exposure(source.rows)
    model = step_time.exposure(replayed(engine, Source(source.rows, None, source.windows)).requests)
    coefficients = engine.pipeline_stages * np.array([getattr(engine, name) for name in COEFFICIENTS])
    ends = np.array([seen.middle_s.min(), seen.middle_s.max()])
    length_s = max(
        float(np.ptp(ends)) / SPEEDS.blocks,
        SPEEDS.lives * float(np.median(seen.duration_s)),
        SPEEDS.shortest_s,
    )
    edges = ends[0] + length_s * np.arange(int(np.ptp(ends) / length_s) + 2)
    measured, modelled = (_ratios(one, coefficients) for one in (seen, model))
    rows = []
    for start_s, end_s in pairwise(edges):
        of, like = ((one.middle_s >= start_s) & (one.middle_s < end_s) for one in (seen, model))
        if of.sum() >= SPEEDS.fewest and like.sum() >= SPEEDS.fewest:
            ratios = measured[of]
            error = 1.4826 * float(np.median(np.abs(ratios - np.median(ratios)))) * 1.25 / np.sqrt(of.sum())
            parts = (seen.design()[of] * coefficients).mean(axis=0)
            rows.append(
                (
                    (start_s + end_s) / 2,
                    float(np.median(ratios)) - float(np.median(modelled[like])),
                    float(np.hypot(error, SPEEDS.least_error)),
                    parts / parts.sum(),
                )
            )
    if len(rows) < SPEEDS.fewest_blocks:
        return None
    return Blocks(run, length_s, *(np.array(column) for column in zip(*rows, strict=True)))


def seen_full(
    engine: EngineParams, runs: Sequence[Blocks], saturations: Sequence[Saturation]
) -> list[SeenFull]:
    found = []
    for one in saturations:
        inside = np.concatenate(
            [
                (b.run == one.run)
                & np.any([(b.at_s >= start) & (b.at_s <= end) for start, end in one.spans_s], axis=0)
                for b in runs
            ]
        )
        if inside.any():
            found.append(
                SeenFull(
                    math.log(one.modelled_rps / one.measured_rps),
                    math.hypot(one.error, SPEEDS.least_error),
                    full_batch_shares(engine, *one.shape),
                    inside / inside.sum(),
                )
            )
    return found


def _ratios(seen: step_time.Exposure, coefficients: Array) -> Array:
    """Logarithm of the measured time per token over the expected one."""
    return np.asarray(np.log(seen.duration_s / seen.steps / (seen.design() @ coefficients)))
