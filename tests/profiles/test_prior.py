"""The prior of step time and KV capacity against numbers that others measured and published."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from autoscale.profiles import prior, profile
from autoscale.sim.engine import step_time as shape
from autoscale.sim.engine.params import COEFFICIENTS
from autoscale.sim.engine.replicas import EngineParams

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def published():
    spec = importlib.util.spec_from_file_location("published_rows", ROOT / "benchmarks" / "published.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def served(ranks=1, **changes):
    """Llama 3.1 8B on H100 with other values."""
    replica = {"chips_per_node": ranks, "tensor_parallel": ranks}
    return profile.overlay(profile.load("llama-3.1-8b-1xh100"), {"replica": replica, **changes})


@pytest.mark.parametrize(
    ("weight_bytes", "kv_bytes", "kv_heads", "ranks", "reported"),
    [
        # KV bytes: layers x KV heads x 128 x 2 (K, V) x 2 bytes
        pytest.param(13.48e9, 32 * 32 * 512, 32, 1, 119_408, id="Llama 2 7B"),
        pytest.param(141.1e9, 80 * 8 * 512, 8, 4, 486_800, id="Llama 3.1 70B, TP4"),
        pytest.param(24.50e9, 40 * 8 * 512, 8, 1, 308_016, id="Mistral Nemo 12B"),
        pytest.param(24.50e9, 40 * 8 * 512, 8, 2, 768_144, id="Mistral Nemo 12B, TP2"),
        pytest.param(15.23e9, 28 * 4 * 512, 4, 1, 1_045_888, id="Qwen 2.5 7B"),
        pytest.param(68.78e9, 60 * 8 * 512, 8, 2, 332_688, id="Yi 34B, TP2"),
    ],
)
def test_kv_capacity_is_within_two_percent_of_what_vllm_reports(
    weight_bytes, kv_bytes, kv_heads, ranks, reported
):
    model = {"weight_bytes": weight_bytes, "kv_bytes_per_token": kv_bytes, "kv_heads": kv_heads}
    assert prior.kv_tokens(served(ranks, model=model)) == pytest.approx(reported, rel=0.02)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("llama-3.1-405b-2x8h100", 667e3, 760e3),
        ("deepseek-r1-2x8h100", 644e3, 825e3),
        ("llama-3.1-70b-v6e8", 260e3, 275e3),
        ("llama-3.1-8b-1xh100", 440e3, 460e3),
        ("llama-3.1-8b-1xl4", 28e3, 30e3),
    ],
)
def test_shipped_profiles_hold_as_many_tokens_as_expected(name, low, high):
    assert low <= prior.kv_tokens(profile.load(name)) <= high


def test_more_ranks_than_kv_heads_replicate_heads():
    """8 KV heads on 16 ranks: every rank holds one head, as on 8 ranks."""
    assert prior.kv_bytes_per_chip(served(16)) == prior.kv_bytes_per_chip(served(8)) == 131072 / 8


def test_a_latent_is_held_whole_by_every_tensor_rank():
    assert prior.kv_bytes_per_chip(served(8, model={"kv_heads": None})) == 131072


def test_a_profile_that_gives_numbers_is_believed():
    step = {"base_s": 0.01, "per_sequence_s": 1e-4, "per_kv_token_s": 0, "per_prefill_token_s": 1e-5}
    given = served(engine={"kv_tokens": 12345, "step": step})
    assert prior.kv_tokens(given) == 12345
    assert prior.step_time(given).base_s == 0.01


PLAIN = prior.Constants(
    weight_bandwidth=0.5,
    cache_bandwidth=0.25,
    bf16_compute=0.5,
    fp8_compute=0.5,
    link_bandwidth=0.5,
    batch_link_bandwidth=0.25,
    step_s=1e-3,
    sequence_s=0.0,
    layer_s=1e-5,
    latent_layer_s=2e-5,
    quantized_layer_s=3e-5,
    hop_s=1e-6,
    long_reduce_s=4e-6,
    activation_passes=0.0,
)
ROUND = {  # a model and a chip of round numbers: 1e10 parameters, 1e12 bytes/s, 1e14 FLOP/s
    "model": {
        "params": 1e10, "layers": 10, "hidden": 1000, "embedding_rows": None, "weight_bytes": 2e10,
        "kv_bytes_per_token": 1e5, "kv_heads": 8,
    },
    "accelerator": {"bandwidth_bytes_s": 1e12, "flops_s": {"bf16": 1e14}, "link_bytes_s": 1e10},
}  # fmt: skip


def stage_s(step, decoding=0, prefill=0, context=0, kv_tokens=0):
    """One stage of a step: `decoding` sequences and one prompt of which `prefill` tokens come after `context`."""
    pairs = sum(context + k + 1 for k in range(prefill))
    sequences = decoding + (prefill > 0)
    return shape.stage_s(step, sequences, decoding + prefill, prefill, pairs, kv_tokens)


def test_below_the_ridge_a_step_reads_its_weights_and_above_it_computes():
    """Read: 2e10 bytes at 0.5e12/s, 40 ms. Compute: 2 x 1e10 FLOP at 0.5e14/s, 0.4 ms a token. Ridge: 100 tokens.

    Beside them 1 ms and 10 layers of 10 us.
    """
    step = prior.step_time(served(**ROUND), PLAIN)
    assert step.ridge_tokens == pytest.approx(100)
    assert stage_s(step, decoding=1) == stage_s(step, decoding=100) == pytest.approx(0.0411)
    assert stage_s(step, decoding=250) == pytest.approx(0.0011 + 250 * 4e-4)


def test_a_prompt_rides_along_with_decoding_until_the_ridge_and_pays_for_its_attention():
    """40 decode; 60 prompt tokens fit below the ridge, 360 come to 400 tokens: 0.16 s. Attention: 4 x 10 layers x 1000 FLOP
    a pair at 0.6e14/s; 360 tokens after 640 make 360 x 640 + 360 x 361 / 2 = 295,380 pairs, 0.2 ms.
    """
    step = prior.step_time(served(**ROUND), PLAIN)
    pair_s = 4e4 / 0.6e14
    assert stage_s(step, 40, 60) == pytest.approx(0.0411 + 60 * 61 / 2 * pair_s)
    assert stage_s(step, 40, 360, context=640) == pytest.approx(0.0011 + 0.16 + 295_380 * pair_s)


def test_ranks_share_the_weights_and_reduce_what_each_token_computed():
    """4 ranks: 10 ms to read, 2 hops more for each of 2 all-reduces in 10 layers: 40 us. Of a token each rank sends and
    receives 2 x 10 layers x 2000 bytes x 2 x 3/4, at 0.5e10/s of a prompt: 12 us, at 0.25e10/s of a batch that decodes:
    24 us; it computes for 0.1 ms.
    """
    step = prior.step_time(served(4, **ROUND), PLAIN)
    assert step.base_s == pytest.approx(0.010 + 0.0011 + 40e-6)
    assert step.per_sequence_s == pytest.approx(24e-6)
    assert step.per_prefill_token_s == pytest.approx(112e-6)
    assert step.compute_share == pytest.approx(100 / 112)
    assert step.ridge_tokens == pytest.approx(100)


@pytest.mark.parametrize(("ranks", "tokens"), [(4, 262.144), (8, 131.072)])
def test_a_long_message_takes_another_round_among_more_than_two_ranks(ranks, tokens):
    """Messages of 2000 bytes a token: 512 KiB are 262 tokens, 256 KiB half of it; 20 all-reduces of 4 us more: 80 us."""
    step = prior.step_time(served(ranks, **ROUND), PLAIN)
    assert step.long_reduce_tokens == pytest.approx(tokens)
    short, long = (stage_s(step, decoding=int(tokens) + k) for k in (0, 1))
    assert long - short == pytest.approx(
        80e-6 + step.per_sequence_s + step.compute_share * step.per_prefill_token_s
    )
    assert prior.step_time(served(2, **ROUND), PLAIN).long_reduce_s == 0


def test_products_in_fp8_turn_their_inputs_into_it_first():
    """10 layers of 30 us."""
    plain, quantized = (
        prior.step_time(served(model=ROUND["model"] | {"weight_dtype": dtype}), PLAIN)
        for dtype in ("bf16", "fp8")
    )
    assert quantized.base_s - plain.base_s == pytest.approx(3e-4)


def test_an_embedding_is_looked_up_not_read():
    """1e6 rows of 2000 bytes are 2e9 of the 2e10 bytes: 36 ms in place of 40."""
    model = ROUND["model"] | {"embedding_rows": 1_000_000}
    step = prior.step_time(served(**ROUND | {"model": model}), PLAIN)
    assert stage_s(step, 1) == pytest.approx(0.036 + 0.0011)


def test_tokens_wake_more_and_more_experts_until_all_are_read():
    """2 of 8 experts: active 4e9 of 1e10 parameters make 8e9 in experts and 2e9 beside them, 32 and 8 of the 40 ms.

    One token wakes a quarter of them, 16 ms with the rest (as 4e9 parameters of 1e10 must); 4 wake 1 - 0.75^4; 50 all.
    A token computes for 0.16 ms: the ridge lies at 250 tokens.
    """
    model = ROUND["model"] | {"active_params": 4e9, "expert_share": 0.25}
    step = prior.step_time(served(**ROUND | {"model": model}), PLAIN)
    assert stage_s(step, 1) == pytest.approx(0.0011 + 0.4 * 0.040)
    assert stage_s(step, 4) == pytest.approx(0.0011 + 0.008 + 0.032 * (1 - 0.75**4))
    assert stage_s(step, 50) == pytest.approx(0.0411, rel=1e-4)
    assert stage_s(step, 500) == pytest.approx(0.0011 + 500 * 1.6e-4, rel=1e-4)


def test_a_cache_is_read_at_its_own_speed_and_a_latent_costs_every_layer():
    """1e5 bytes at 0.25e12/s are 0.4 us a token; without heads 10 layers of 20 us more."""
    plain = prior.step_time(served(**ROUND), PLAIN)
    latent = prior.step_time(served(**ROUND | {"model": ROUND["model"] | {"kv_heads": None}}), PLAIN)
    assert stage_s(plain, 1, kv_tokens=1000) - stage_s(plain, 1) == pytest.approx(4e-4)
    assert latent.base_s - plain.base_s == pytest.approx(2e-4)


def test_two_stages_take_as_long_per_token_and_serve_twice_the_batches():
    """405B: a stage reads (811.7e9 - 4.2e9) / 2 over 8 x 3.35e12 bytes/s, 15.1 ms at best, and runs 63 layers."""
    p = EngineParams.from_profile(profile.load("llama-3.1-405b-2x8h100"))
    read_s, c = (811.7e9 - 128256 * 16384 * 2) / 16 / 3.35e12, prior.FITTED
    assert p.base_s == pytest.approx(
        read_s / c.weight_bandwidth + c.step_s + 63 * (c.layer_s + 2 * 3 * c.hop_s)
    )
    assert p.step_s(1, 0) == pytest.approx(2 * (p.base_s + p.per_sequence_s))
    assert p.step_s(2, 0) == p.step_s(1, 0)  # the second sequence rides in the other micro-batch


@pytest.mark.parametrize(
    ("clients", "tpot_s"),
    [pytest.param(64, 0.02535, id="64 clients"), pytest.param(128, 0.03512, id="128 clients")],
)
def test_70b_on_v6e_8_is_within_ten_percent_of_the_published_tpot(published, clients, tpot_s):
    params = EngineParams.from_profile(profile.load("llama-3.1-70b-v6e8"))
    assert published.closed_loop(params, clients, 1000, 1000)[0] == pytest.approx(tpot_s, rel=0.10)


def test_published_tpot_rows_from_the_prior_and_calibrated(published, shared_dir):
    """Mean steps instead of simulated loops (benchmarks/published.py), to be quick: a few percent apart."""
    errors = {"prior": [], "calibrated": []}
    for (model, system, ranks), group in published.rows(shared_dir).groupby(
        ["model_path", "system", "tp_size"]
    ):
        params = EngineParams.from_profile(published.described(model, system, int(ranks)))
        for name, p in (("prior", params), ("calibrated", published.fitted(params, group))):
            for row in group.itertuples():
                loads, fixed_s = published.load_of(p, row)
                tpot_s = loads @ [getattr(p, c) for c in COEFFICIENTS] + fixed_s
                errors[name].append(abs(tpot_s / row.tpot_s - 1))
    assert len(errors["prior"]) == 90
    assert np.median(errors["prior"]) <= 0.06
    assert np.median(errors["calibrated"]) <= 0.04
