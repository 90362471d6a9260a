"""What is expected of a served system before it is measured: step time and KV capacity, from data sheets.

A step reads the weights and the KV cache once, pays for every layer's launches and collectives, and computes prompts at a
fraction of the chip's peak. The constants were found on published vLLM and SGLang runs (3-10 % mean error of TPOT there);
expect 5-15 % on systems that were not among them.
"""

from __future__ import annotations

from autoscale.profiles.profile import Profile, StepTime

LAYER_S = 70e-6  # launches and collectives per layer: 5.6 ms of a 70B model's step
EXPERT_LAYER_S = 15e-6  # more of it when tokens are sent to experts
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
    weights_s = model.weight_bytes / stages / ranks / chip.bandwidth_bytes_s
    read_s, read_per_sequence_s = _weights_read(
        weights_s, (model.active_params or model.params) / model.params
    )
    layer_s = LAYER_S if model.active_params is None else LAYER_S + EXPERT_LAYER_S
    return StepTime(
        base_s=read_s + layer_s * layers,
        per_sequence_s=read_per_sequence_s + SEQUENCE_S / stages,
        per_kv_token_s=kv_bytes_per_chip(profile) / chip.bandwidth_bytes_s,
        per_prefill_token_s=2 * active / ranks / flops_s / PREFILL_EFFICIENCY[model.weight_dtype]
        + ring_bytes / RING_BYTES_S,
    )


def _weights_read(all_s: float, active: float) -> tuple[float, float]:
    """(base, per sequence) of the time to read the weights, `all_s` for all of them.

    A token wakes the share `active` of a mixture of experts; B tokens wake 1 - (1 - active)^B of it. The line comes
    nearest to that curve, in relative error, over batches of 4 to 64; beyond, it tells too much.
    """
    if active >= 1:
        return all_s, 0.0
    batches = [4 * 16 ** (k / 8) for k in range(9)]
    woken = [1 - (1 - active) ** batch for batch in batches]
    weights = [1 / share**2 for share in woken]
    total = sum(weights)
    x = sum(w * b for w, b in zip(weights, batches, strict=True)) / total
    y = sum(w * s for w, s in zip(weights, woken, strict=True)) / total
    slope = sum(w * (b - x) * (s - y) for w, b, s in zip(weights, batches, woken, strict=True)) / sum(
        w * (b - x) ** 2 for w, b in zip(weights, batches, strict=True)
    )
    return all_s * (y - slope * x), all_s * slope


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
