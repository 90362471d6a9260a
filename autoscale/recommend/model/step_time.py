"""The step time of a replica from what a client saw, without a replay: a linear regression.

A sequence that decodes from first to last token sits in (output_tokens - 1) engine steps. The sum of their durations is

    last - first = (n - 1) * (base + per_sequence * B + per_kv_token * KV) + per_prefill_token * P

where B and KV are the mean number of decoding sequences and of resident KV tokens over that time, and P the prompt tokens
that others prefilled meanwhile: all three follow from the rows of requests.parquet alone, when they came from one replica.
Two of the coefficients often move together (B and KV do whenever lengths do not vary); the prior then decides how the sum
is split, and `confounded` says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from analysis.errors import TooLittleData
from autoscale.sim.engine.params import COEFFICIENTS

# Against the data: one prior row per coefficient, this large beside the mean row of a stage
PRIOR_WEIGHT = 0.02
CONFOUNDED = 0.98  # absolute correlation of two columns above which a run cannot tell them apart
MIN_REQUESTS = 30


@dataclass(frozen=True)
class Exposure:
    """What every completed request was exposed to while it decoded; arrays of one length n.

    duration_s (first to last token), steps (output tokens - 1), sequences (mean B), kv_tokens (mean KV),
    prefill_tokens (P), stage, middle_s (half way between the two tokens, since the run's start).
    """

    duration_s: NDArray[np.float64]
    steps: NDArray[np.float64]
    sequences: NDArray[np.float64]
    kv_tokens: NDArray[np.float64]
    prefill_tokens: NDArray[np.float64]
    stage: NDArray[np.int64]
    middle_s: NDArray[np.float64]

    def design(self) -> NDArray[np.float64]:
        """Columns of the regression per step, shape (n, 4), in the order of COEFFICIENTS."""
        ones = np.ones_like(self.steps)
        return np.column_stack([ones, self.sequences, self.kv_tokens, self.prefill_tokens / self.steps])


def exposure(requests: pd.DataFrame) -> Exposure:
    """The exposure of the completed, streamed requests of one replica.

    Costs O(n * overlap): each request is compared with those that overlap it in time only.
    Raises TooLittleData with fewer than 30 usable requests.
    """
    rows = requests[(requests["status"] == "ok") & requests["output_tokens"].notna()]
    rows = rows[(rows["output_tokens"] >= 2) & (rows["last_token_s"] > rows["first_token_s"])]
    if len(rows) < MIN_REQUESTS:
        raise TooLittleData(
            "completed streamed requests with a token count",
            value=len(rows),
            expected=f"at least {MIN_REQUESTS}",
            next_step="lengthen the stages or raise the rate",
        )
    rows = rows.sort_values("first_token_s", ignore_index=True)
    first = rows["first_token_s"].to_numpy(float)
    last = rows["last_token_s"].to_numpy(float)
    known = rows["prompt_tokens"]
    if known.isna().any():
        known = known.fillna(rows["prompt_tokens_asked"])
    prompt = known.to_numpy(float)
    output = rows["output_tokens"].to_numpy(float)
    longest = float((last - first).max())
    begin = np.searchsorted(first, first - longest)  # nothing earlier can still be decoding
    end = np.searchsorted(first, last)
    sequences, kv_tokens, prefill = (np.zeros(len(rows)) for _ in range(3))
    for i in range(len(rows)):
        near = slice(begin[i], end[i])
        start = np.maximum(first[near], first[i])
        stop = np.minimum(last[near], last[i])
        overlap = np.clip(stop - start, 0.0, None)
        growth = output[near] / (last[near] - first[near])
        middle = prompt[near] + growth * ((start + stop) / 2 - first[near])
        span = last[i] - first[i]
        sequences[i] = overlap.sum() / span
        kv_tokens[i] = (overlap * middle).sum() / span
        prefill[i] = prompt[i + 1 : end[i]].sum()
    stage = rows["stage"].fillna(0).to_numpy(int)
    return Exposure(last - first, output - 1, sequences, kv_tokens, prefill, stage, (first + last) / 2)


def fit(seen: Exposure, prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """Non-negative coefficients (shape (4,), order of COEFFICIENTS), relative errors minimised, stages weighing alike.

    The prior's common scale is fitted first, so that only its proportions act, weakly.
    """
    tpot = seen.duration_s / seen.steps
    columns = seen.design() / tpot[:, None]
    _, where, counts = np.unique(seen.stage, return_inverse=True, return_counts=True)
    weight = 1 / np.sqrt(counts[where])
    scale = 1 / max(float(np.average(columns @ prior, weights=weight**2)), 1e-12)
    expected = np.maximum(prior * scale, 1e-12)
    scaled = columns * expected  # coefficients become multiples of the scaled prior: all of order one
    rows = np.vstack([scaled * weight[:, None], np.sqrt(PRIOR_WEIGHT) * np.eye(len(prior))])
    target = np.concatenate([weight, np.full(len(prior), np.sqrt(PRIOR_WEIGHT))])
    return np.asarray(lsq_linear(rows, target, bounds=(0, np.inf)).x * expected)


def confounded(seen: Exposure) -> list[tuple[str, str]]:
    """Pairs of coefficients whose columns move together in this run (or do not move at all beside the base)."""
    columns = seen.design()[:, 1:]
    with np.errstate(invalid="ignore"):
        correlation = np.atleast_2d(np.corrcoef(columns, rowvar=False))
    spread = columns.std(axis=0) / np.maximum(columns.mean(axis=0), 1e-12)
    names = COEFFICIENTS[1:]
    pairs = [("base_s", name) for name, s in zip(names, spread, strict=True) if s < 0.1]
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            if abs(correlation[i, j]) > CONFOUNDED:
                pairs.append((names[i], names[j]))
    return pairs
