"""The parameters of one replica."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput
from autoscale.sim.engine.state import PARAMS
from autoscale.sim.engine.step_time import stage_s

if TYPE_CHECKING:
    from autoscale.profiles.profile import Profile


COEFFICIENTS = (
    "base_s",
    "per_sequence_s",
    "per_kv_token_s",
    "per_prefill_token_s",
)  # of a step's time, as a run moves them
SHAPE = (
    "compute_share",
    "ridge_tokens",
    "experts_s",
    "expert_share",
    "per_prefill_pair_s",
    "long_reduce_s",
    "long_reduce_tokens",
)  # of it, as the data sheet tells
STEP_TIMES = (
    *COEFFICIENTS,
    "experts_s",
    "per_prefill_pair_s",
    "long_reduce_s",
)  # all that grow with a slower replica


@dataclass(frozen=True)
class EngineParams:
    """One replica in numbers. A step of one stage takes base + per_sequence*B + per_kv_token*KV + per_prefill_token*P.

    B sequences, KV their tokens in the cache, P prompt tokens computed in the step; all of one batch. SHAPE bends
    that line (step_time.stage_s): the share `compute_share` of per_prefill_token_s is hidden behind reading the weights
    until `ridge_tokens` are computed, a token wakes `expert_share` of experts that are read in `experts_s`, a prompt
    token attends to the tokens before it, and the all-reduces of `long_reduce_tokens` or more take `long_reduce_s` more. A token takes the sum over the stages. `request_overhead_s` passes before a
    request reaches the scheduler (and its waiting gauge).
    """

    base_s: float
    per_sequence_s: float
    per_kv_token_s: float
    per_prefill_token_s: float
    num_blocks: int  # the null block included
    compute_share: float = 0.0
    ridge_tokens: float = 0.0
    experts_s: float = 0.0
    expert_share: float = 0.0
    per_prefill_pair_s: float = 0.0
    long_reduce_s: float = 0.0
    long_reduce_tokens: float = 0.0
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    block_size: int = 16
    pipeline_stages: int = 1
    data_parallel: int = 1
    request_overhead_s: float = 0.0
    async_scheduling: bool = False
    request_timeout_s: float = math.inf  # the client gives up this long after the due time
    max_model_len: int = 0  # tokens of a prompt and its answer; 0: no limit
    prefix_hit_fraction: float = 0.0  # of every prompt, at least; requests may bring more as prefix_tokens

    def __post_init__(self) -> None:
        for name in (*COEFFICIENTS, *SHAPE):
            value, most = getattr(self, name), 1.0 if name.endswith("_share") else math.inf
            if not (math.isfinite(value) and 0 <= value <= most):
                raise BadInput(
                    f"engine parameter {name}",
                    value=value,
                    expected="a share of 0 to 1" if most == 1 else "a finite number >= 0",
                )
        if self.base_s + self.per_sequence_s <= 0:
            raise BadInput(
                "a step takes no time", value=self.base_s, expected="base_s or per_sequence_s above 0"
            )
        for name, least in (
            ("num_blocks", 2),
            ("max_num_seqs", 1),
            ("block_size", 1),
            ("pipeline_stages", 1),
            ("data_parallel", 1),
            ("max_model_len", 0),
        ):
            if getattr(self, name) < least:
                raise BadInput(
                    f"engine parameter {name}", value=getattr(self, name), expected=f"at least {least}"
                )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise BadInput(
                "max_num_batched_tokens",
                value=self.max_num_batched_tokens,
                expected=f"at least max_num_seqs ({self.max_num_seqs}), as vLLM demands",
            )
        if not self.request_overhead_s >= 0:
            raise BadInput("request_overhead_s", value=self.request_overhead_s, expected="seconds >= 0")
        if not 0 <= self.prefix_hit_fraction < 1:
            raise BadInput(
                "prefix_hit_fraction", value=self.prefix_hit_fraction, expected="a fraction in [0, 1)"
            )
        if not self.request_timeout_s > 0:
            raise BadInput("request_timeout_s", value=self.request_timeout_s, expected="seconds above 0")

    @classmethod
    def from_profile(cls, profile: Profile) -> EngineParams:
        """The profile's engine, with the prior's step time and KV capacity where the profile gives none."""
        from autoscale.profiles import prior

        step, engine = prior.step_time(profile), profile.engine
        return cls(
            **step.model_dump(),
            num_blocks=prior.kv_tokens(profile) // engine.block_size + 1,
            max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            block_size=engine.block_size,
            pipeline_stages=profile.replica.pipeline_parallel,
            data_parallel=profile.replica.data_parallel,
            request_overhead_s=engine.request_overhead_s,
            async_scheduling=bool(engine.async_scheduling),
            prefix_hit_fraction=engine.prefix_hit_fraction,
        )

    @property
    def max_batches(self) -> int:
        """Batches that one engine keeps in flight (vLLM's max_concurrent_batches with pipeline parallelism)."""
        if self.pipeline_stages == 1:
            return 1
        return self.pipeline_stages + self.async_scheduling

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache of one engine holds."""
        return (self.num_blocks - 1) * self.block_size

    def step_s(self, sequences: float, kv_tokens: float, prefill_tokens: float = 0.0) -> float:
        """Seconds of one pass through all stages, with everything spread evenly over as many batches as there are stages
        (one for a single sequence): no time is lost while a stage waits for another. The prompt tokens are those of one
        prompt, computed from its start."""
        batches = min(max(sequences, 1.0), float(self.pipeline_stages))
        each, prefill = sequences / batches, prefill_tokens / batches
        pairs = prefill * (prefill_tokens + 1) / 2
        return self.pipeline_stages * stage_s(self, each, each + prefill, prefill, pairs, kv_tokens / batches)


def packed(params: EngineParams, routing: int, wait_for_ready: bool) -> NDArray[Any]:
    """The record that the kernels read, as an array of one."""
    record = np.zeros(1, PARAMS)
    for field in fields(params):
        name = _PACKED.get(field.name, field.name)
        if name in (PARAMS.names or ()):
            record[0][name] = getattr(params, field.name)
    record[0]["max_batches"] = params.max_batches
    record[0]["routing"], record[0]["wait_for_ready"] = routing, wait_for_ready
    return record


_PACKED = {"pipeline_stages": "stages", "max_num_batched_tokens": "token_budget"}
