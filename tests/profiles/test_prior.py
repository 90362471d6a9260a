"""The prior of step time and KV capacity against numbers that others measured and published."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from autoscale.profiles import prior, profile
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


def test_two_stages_take_as_long_per_token_and_serve_twice_the_batches():
    """405B: a stage reads 811.7e9 / 2 over 8 x 3.35e12 bytes/s in 15.1 ms and runs 63 x 70 us: 19.6 ms, twice 39.1 ms."""
    p = EngineParams.from_profile(profile.load("llama-3.1-405b-2x8h100"))
    assert p.base_s == pytest.approx(811.7e9 / 16 / 3.35e12 + 63 * 70e-6)
    assert p.step_s(1, 0) == pytest.approx(0.039, rel=0.01)
    assert p.step_s(2, 0) == p.step_s(1, 0)  # the second sequence rides in the other micro-batch


def test_a_mixture_of_experts_reads_more_weights_as_the_batch_grows():
    """37 of 671 GB at one token, nearly all at 64: the line must lie between, and reach most of it at 64."""
    base, slope = prior._weights_read(1.0, 37 / 671)
    assert 0 < base < 0.25
    assert 0.8 < base + 64 * slope < 1.3


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
            loads = np.array([published.load_of(params, row) for row in group.itertuples()])
            tpot = loads @ [p.base_s, p.per_sequence_s, p.per_kv_token_s, p.per_prefill_token_s]
            errors[name] += list(np.abs(tpot / group["tpot_s"] - 1))
    assert len(errors["prior"]) == 90
    assert np.median(errors["prior"]) <= 0.12
    assert np.median(errors["calibrated"]) <= 0.05
