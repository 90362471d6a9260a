"""What is expected of a served system before it is measured: step time and KV capacity, from data sheets.

A step reads the weights and the KV cache once, pays for every layer's launches and collectives, and computes prompts at a
fraction of the chip's peak. The constants were found on published vLLM and SGLang runs; expect 5-15 % on systems that
were not among them.
"""

from __future__ import annotations

from autoscale.profiles.profile import Profile, StepTime

LAYER_S = 70e-6  # launches and collectives per layer: 5.6 ms of a 70B model's step
SEQUENCE_S = 50e-6  # sampling and bookkeeping per sequence
PREFILL_EFFICIENCY = {"bf16": 0.72, "fp8": 0.55}  # of the peak FLOP/s
RING_BYTES_S = 350e9  # all-reduce throughput between the chips of one tensor-parallel group
ACTIVATION_BYTES = 2


def step_time(profile: Profile) -> StepTime:
    """Step time of one pipeline stage in s; the profile's own when it has one."""
    if profile.engine.step is not None:
        return profile.engine.step
    model, chip, replica = profile.model, profile.accelerator, profile.replica
    stages, ranks = replica.pipeline_parallel, replica.tensor_parallel
    layers = model.layers / stages
    active = (model.active_params or model.params) / stages
    flops_s = chip.flops_s.get(model.weight_dtype, chip.flops_s["bf16"])
    ring_bytes = 2 * layers * model.hidden * ACTIVATION_BYTES * 2 * (ranks - 1) / ranks
    return StepTime(
        base_s=model.weight_bytes / stages / ranks / chip.bandwidth_bytes_s + LAYER_S * layers,
        per_sequence_s=SEQUENCE_S / stages,
        per_kv_token_s=kv_bytes_per_chip(profile) / chip.bandwidth_bytes_s,
        per_prefill_token_s=2 * active / ranks / flops_s / PREFILL_EFFICIENCY[model.weight_dtype]
        + ring_bytes / RING_BYTES_S,
    )


def kv_tokens(profile: Profile) -> int:
    """Tokens that the KV cache of one engine holds; the profile's own number when it has one.

    (visible * utilisation - weights per chip - overhead) / KV bytes per token and chip, in GiB of 2^30 bytes. Within 2 %
    of six capacities that vLLM reported on H100.
    """
    if profile.engine.kv_tokens is not None:
        return profile.engine.kv_tokens
    chip, engine = profile.accelerator, profile.engine
    usable_gib = chip.visible_gib * engine.memory_utilization
    if chip.usable_cap_gib is not None:
        usable_gib = min(usable_gib, chip.usable_cap_gib)
    ranks = profile.replica.tensor_parallel * profile.replica.pipeline_parallel
    weights_gib = profile.model.weight_bytes / ranks / 2**30
    free_gib = usable_gib - weights_gib - engine.memory_overhead_gib
    return int(free_gib * 2**30 / kv_bytes_per_chip(profile))


def kv_bytes_per_chip(profile: Profile) -> float:
    """KV bytes of one token on one chip: pipeline stages split layers, tensor ranks split heads but not a latent."""
    model, replica = profile.model, profile.replica
    split = min(replica.tensor_parallel, model.kv_heads) if model.kv_heads else 1
    return model.kv_bytes_per_token / replica.pipeline_parallel / split
