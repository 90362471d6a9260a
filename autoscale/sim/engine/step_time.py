"""How long one stage of an engine takes for one batch: the only place that knows the shape; kernels compile it.

All stages of a pipeline take the same time: the embedding of the first and the sampling of the last are not told apart.
"""

from __future__ import annotations

from typing import Any

from autoscale.sim.engine.state import compilable


def stage_s(p: Any, sequences: float, kv_tokens: float, prefill_tokens: float) -> float:
    """Seconds of one stage for a batch of `sequences` that attend to `kv_tokens`, `prefill_tokens` of prompts among them."""
    return float(
        p.base_s
        + p.per_sequence_s * sequences
        + p.per_kv_token_s * kv_tokens
        + p.per_prefill_token_s * prefill_tokens
    )


def growth_s(p: Any, sequences: float) -> float:
    """By how many seconds each pass of a batch that only decodes takes longer than the one before."""
    return float(p.per_kv_token_s * sequences)


compilable(stage_s, growth_s)
