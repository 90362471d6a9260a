"""The five coefficients that a fit moves, and an engine with them multiplied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoscale.sim.engine.params import COEFFICIENTS, SHAPE, STEP_TIMES
from autoscale.sim.engine.replicas import EngineParams

FACTORS = (*COEFFICIENTS, "request_overhead_s")


def drawn(engine: EngineParams, factors: NDArray[np.float64]) -> EngineParams:
    """The engine with its FACTORS multiplied."""
    changes: dict[str, Any] = {
        n: float(getattr(engine, n) * f) for n, f in zip(FACTORS, factors, strict=True)
    }
    return replace(engine, **changes)


def straight(engine: EngineParams) -> EngineParams:
    """The engine whose step time is a line in sequences, KV tokens and prompt tokens."""
    bends: dict[str, Any] = dict.fromkeys(SHAPE, 0.0)
    return replace(engine, **bends)


def scaled(engine: EngineParams, factor: float) -> EngineParams:
    """The engine with all its step times multiplied."""
    return replace(engine, **{name: getattr(engine, name) * factor for name in STEP_TIMES})


def full_batch_shares(
    engine: EngineParams, prompt_tokens: float, output_tokens: float
) -> NDArray[np.float64]:
    """What each of COEFFICIENTS adds to a token's time in a full batch of these mean lengths; the shares add up to 1."""
    seats, kv_tokens = _full(engine, prompt_tokens, output_tokens)
    prefill = seats * prompt_tokens * (1 - engine.prefix_hit_fraction) / max(output_tokens, 1.0)
    parts = np.array([getattr(engine, n) for n in COEFFICIENTS]) * np.array([1.0, seats, kv_tokens, prefill])
    return np.asarray(parts / parts.sum())


def _full(engine: EngineParams, prompt_tokens: float, output_tokens: float) -> tuple[float, float]:
    """Sequences and KV tokens of a full batch: it ends where max_num_seqs or the KV cache does."""
    held = prompt_tokens + output_tokens / 2 + engine.block_size / 2
    seats = max(min(float(engine.max_num_seqs), engine.kv_tokens / held), 1.0)
    return seats, seats * (prompt_tokens + output_tokens / 2)


def saturated_rps(engine: EngineParams, prompt_tokens: float, output_tokens: float) -> float:
    """Requests/s of one replica with a full batch of requests of these mean lengths.

    A request stays for its output tokens' steps and for the prompts of all that share the batch with it. Preemptions are
    left out: good for ratios of engines, a few per cent high as a rate.
    """
    seats, kv_tokens = _full(engine, prompt_tokens, output_tokens)
    stay_s = output_tokens * engine.step_s(seats, kv_tokens)
    computed = prompt_tokens * (1 - engine.prefix_hit_fraction)
    return engine.data_parallel * seats / (stay_s + seats * computed * engine.per_prefill_token_s)


def capacity_ratios(
    engine: EngineParams, factors: NDArray[np.float64], prompt_tokens: float, output_tokens: float
) -> NDArray[np.float64]:
    """Saturated throughput of every drawn engine over that of the fitted one, at these mean lengths."""
    fitted = saturated_rps(engine, prompt_tokens, output_tokens)
    return np.array([saturated_rps(drawn(engine, f), prompt_tokens, output_tokens) / fitted for f in factors])
