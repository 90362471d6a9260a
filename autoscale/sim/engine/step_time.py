"""How long one pipeline stage takes for a batch, compiled: what the engines, and whoever asks for a step's time, call.

The linear layers read their weights or compute, whichever takes longer; attention reads the KV cache; tokens of a mixture
of experts wake more of its weights the more they are; long all-reduces need another round among the ranks. docs/method.md derives the shape, `autoscale/profiles/prior.py` its
numbers. All stages of a pipeline take the same time: the embedding of the first and the sampling of the last are not
told apart.
"""

from __future__ import annotations

from typing import Any

from autoscale.sim.engine.state import compilable


def stage_s(p: Any, sequences: float, tokens: float, prefill: float, pairs: float, kv_tokens: float) -> float:
    """Seconds of one stage of an engine with parameters `p` (EngineParams, or the record made of them).

    `sequences` in the batch, `tokens` computed for them all, `prefill` of them of prompts, `pairs` of a prompt token and one
    that it attends to, `kv_tokens` in the cache of all sequences.
    """
    compute_s = p.compute_share * p.per_prefill_token_s
    step_s = (
        p.base_s
        + p.per_sequence_s * sequences
        + p.per_kv_token_s * kv_tokens
        + (p.per_prefill_token_s - compute_s) * prefill
        + compute_s * max(tokens - p.ridge_tokens, 0.0)
        + p.per_prefill_pair_s * pairs
    )
    if tokens >= p.long_reduce_tokens:
        step_s += p.long_reduce_s
    if p.experts_s > 0:
        step_s += p.experts_s * (1.0 - (1.0 - p.expert_share) ** tokens)
    return float(step_s)


def pairs_of(chunk: int, computed: int) -> float:
    """Pairs of a token of the chunk and one that it attends to (itself too), when `computed` tokens lie behind its end."""
    return float(chunk) * (float(computed) - 0.5 * (float(chunk) - 1.0))


def growth_s(p: Any, sequences: float) -> float:
    """By how many seconds each pass of a batch that only decodes takes longer than the one before."""
    return float(p.per_kv_token_s * sequences)


compilable(stage_s, pairs_of, growth_s)
