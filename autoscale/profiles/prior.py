"""What is expected of a served system before it is measured: step time and KV capacity, from data sheets.

docs/method.md, section 2, derives the step time from the constants below, which are the same for all models and chips.
`python -m benchmarks.prior_fit` fits them and prints what they miss on models and chips that were left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoscale.profiles.profile import Profile, StepTime

ACTIVATION_BYTES = 2
ATTENTION_COMPUTE = (
    0.6  # of the BF16 peak, by a prompt's causal attention (FlashAttention-3 paper, figure 5: 0.5 to 0.65)
)

WHOLE_BYTES = {4: 512 * 1024, 8: 256 * 1024}
"""Up to so many ranks read a message below so many bytes whole, of all others at once; two ranks always do.

vLLM, csrc/custom_all_reduce.cuh: the one-stage kernel below 512 KiB up to 4 ranks, below 256 KiB up to 8, two stages from
there on. Where symmetric memory serves the longer ones, the 8-rank limit on Hopper is the same 256 KiB
(vllm/distributed/device_communicators/all_reduce_utils.py, CUSTOM_ALL_REDUCE_MAX_SIZES; 4 ranks: 32 MiB).
"""


@dataclass(frozen=True)
class Constants:
    """What a data sheet does not say; times in s, the others shares of a data sheet's figure."""

    weight_bandwidth: float  # of the memory's, when weights are read
    cache_bandwidth: float  # of the memory's, when the KV cache is read
    bf16_compute: float  # of the peak FLOP/s, by the linear layers
    fp8_compute: float
    link_bandwidth: float  # of a link's, by an all-reduce of long prompts (NCCL)
    batch_link_bandwidth: float  # of a link's, by that of a batch that decodes (vLLM's own kernel)
    step_s: float  # per step, whatever is in it: scheduling, input and output of the batch
    sequence_s: float  # and per sequence
    layer_s: float  # per layer: about ten kernels that start one after the other
    quantized_layer_s: float  # more of it where the inputs of its products are turned into FP8
    latent_layer_s: float  # more of it where the KV cache is a latent (MLA) that must be projected
    hop_s: float  # per all-reduce and doubling of the chips in it
    long_reduce_s: float  # more of it where the message is too long for every rank to read it whole
    activation_passes: float  # per token and layer: how often its hidden state is moved through memory


FITTED = (
    Constants(  # on 190 rows by `python -m benchmarks.prior_fit`, the latent's layer on 15 of DeepSeek-R1
        weight_bandwidth=0.8165,
        cache_bandwidth=0.8528,
        bf16_compute=0.6107,
        fp8_compute=0.6122,
        link_bandwidth=0.8638,
        batch_link_bandwidth=0.3346,
        step_s=355.7e-6,
        sequence_s=3.809e-6,
        layer_s=27.12e-6,
        quantized_layer_s=14.28e-6,
        latent_layer_s=36.68e-6,
        hop_s=4.13e-6,
        long_reduce_s=6.035e-6,
        activation_passes=7.291,
    )
)


def step_time(profile: Profile, constants: Constants = FITTED) -> StepTime:
    """Step time of one pipeline stage in s; the profile's own when it has one."""
    if profile.engine.step is not None:
        return profile.engine.step
    model, chip, replica, c = profile.model, profile.accelerator, profile.replica, constants
    stages, ranks = replica.pipeline_parallel, replica.tensor_parallel
    layers = model.layers / stages
    attention = (model.attention_width or model.hidden) * layers

    read_bytes_s = ranks * chip.bandwidth_bytes_s * c.weight_bandwidth
    looked_up_bytes = (model.embedding_rows or 0) * model.hidden * ACTIVATION_BYTES
    weights_s = (model.weight_bytes - looked_up_bytes) / stages / read_bytes_s
    experts, share = _experts(profile)
    eta = (
        c.fp8_compute
        if model.weight_dtype in chip.flops_s and model.weight_dtype == "fp8"
        else c.bf16_compute
    )
    flops_s = ranks * eta * chip.flops_s.get(model.weight_dtype, chip.flops_s["bf16"])
    compute_s = 2 * (model.active_params or model.params) / stages / flops_s

    moved_bytes = layers * model.hidden * ACTIVATION_BYTES
    reduced_bytes = 2 * moved_bytes * 2 * (ranks - 1) / ranks  # two ring all-reduces per layer
    through_memory_s = c.activation_passes * moved_bytes / (chip.bandwidth_bytes_s * c.weight_bandwidth)
    batch_pass_s = through_memory_s + reduced_bytes / (chip.link_bytes_s * c.batch_link_bandwidth)
    pass_s = through_memory_s + reduced_bytes / (chip.link_bytes_s * c.link_bandwidth)
    layer_s = c.layer_s + 2 * c.hop_s * math.log2(ranks)
    layer_s += 0.0 if model.kv_heads else c.latent_layer_s
    layer_s += c.quantized_layer_s if model.weight_dtype == "fp8" else 0.0
    return StepTime(
        base_s=c.step_s + layers * layer_s + (1 - experts) * weights_s,
        per_sequence_s=c.sequence_s / stages + batch_pass_s,
        per_kv_token_s=kv_bytes_per_chip(profile) / chip.bandwidth_bytes_s / c.cache_bandwidth,
        per_prefill_token_s=compute_s + pass_s,
        compute_share=compute_s / (compute_s + pass_s),
        ridge_tokens=weights_s / compute_s,
        experts_s=experts * weights_s,
        expert_share=share,
        per_prefill_pair_s=4 * attention / ranks / chip.flops_s["bf16"] / ATTENTION_COMPUTE,
        long_reduce_s=2 * layers * c.long_reduce_s if ranks > 2 else 0.0,
        long_reduce_tokens=WHOLE_BYTES[4 if ranks <= 4 else 8] / (model.hidden * ACTIVATION_BYTES),
    )


def _experts(profile: Profile) -> tuple[float, float]:
    """(share of the weights that are experts, share of the experts that one token wakes); (0, 0) of a dense model.

    With E of the parameters in experts of which a token wakes the share s, active = params - (1 - s) E.
    """
    model = profile.model
    if model.active_params is None or model.active_params >= model.params:
        return 0.0, 0.0
    active = model.active_params / model.params
    share = min(model.expert_share or active, active)
    return (1 - active) / (1 - share), share


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
