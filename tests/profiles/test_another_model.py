"""A profile of another model than its base's: sizes of its own, stated or from a config.json, against published figures."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.errors import BadInput
from autoscale.deploy import objects
from autoscale.profiles import Profile, load, prior

# The keys of each model's config.json on huggingface.co that say how large it is
LLAMA_8B = {  # meta-llama/Llama-3.1-8B-Instruct
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
    "tie_word_embeddings": False, "attention_bias": False, "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA_70B = LLAMA_8B | {  # meta-llama/Llama-3.1-70B-Instruct
    "num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64, "intermediate_size": 28672,
}  # fmt: skip
QWEN_32B = {  # Qwen/Qwen2.5-32B-Instruct
    "model_type": "qwen2", "num_hidden_layers": 64, "hidden_size": 5120, "num_attention_heads": 40,
    "num_key_value_heads": 8, "intermediate_size": 27648, "vocab_size": 152064, "tie_word_embeddings": False,
    "sliding_window": 131072, "use_sliding_window": False, "torch_dtype": "bfloat16",
}  # fmt: skip
MIXTRAL = {  # mistralai/Mixtral-8x7B-Instruct-v0.1
    "model_type": "mixtral", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "tie_word_embeddings": False,
    "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None,
}  # fmt: skip
QWEN_30B_A3B = {  # Qwen/Qwen3-30B-A3B
    "model_type": "qwen3_moe", "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "vocab_size": 151936, "tie_word_embeddings": False, "num_experts": 128, "num_experts_per_tok": 8,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "sliding_window": None, "use_sliding_window": False,
}  # fmt: skip
DEEPSEEK = {  # deepseek-ai/DeepSeek-R1
    "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128,
    "num_key_value_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "vocab_size": 129280,
    "qk_nope_head_dim": 128, "v_head_dim": 128, "n_routed_experts": 256, "num_experts_per_tok": 8,
    "intermediate_size": 18432, "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip


def written(folder: Path, content: dict[str, Any], config: dict[str, Any] | None = None) -> str:
    """A profile file, and beside it the config.json that it names."""
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.yaml").write_text(yaml.safe_dump({"extends": "llama-3.1-8b-1xh100", **content}))
    return str(folder / "mine.yaml")


def configured(folder: Path, config: dict[str, Any], **stated: Any) -> Profile:
    return load(written(folder, {"model": {"id": "a/model", "config": "config.json", **stated}}, config))


@pytest.mark.parametrize(
    ("config", "params", "active", "kv_bytes"),
    [
        # the number of parameters: safetensors metadata on the model's page, where it gives all digits; KV bytes: layers x
        # KV heads x 128 x 2 (K, V) x 2 bytes
        pytest.param(LLAMA_8B, 8_030_261_248, None, 32 * 8 * 512, id="Llama 3.1 8B"),
        pytest.param(LLAMA_70B, 70_553_706_496, None, 80 * 8 * 512, id="Llama 3.1 70B"),
        pytest.param(QWEN_32B, 32_763_876_352, None, 64 * 8 * 512, id="Qwen2.5 32B"),
        pytest.param(MIXTRAL, 46_702_792_704, 12.9e9, 32 * 8 * 512, id="Mixtral 8x7B"),
        pytest.param(QWEN_30B_A3B, 30_532_122_624, 3.3e9, 48 * 4 * 512, id="Qwen3 30B-A3B"),
    ],
)
def test_a_config_gives_the_published_sizes(
    tmp_path: Path, config: dict[str, Any], params: int, active: float | None, kv_bytes: int
) -> None:
    model = configured(tmp_path, config).model
    assert (model.params, model.weight_bytes, model.kv_bytes_per_token) == (params, 2 * params, kv_bytes)
    assert (model.layers, model.hidden) == (config["num_hidden_layers"], config["hidden_size"])
    assert model.kv_heads == config["num_key_value_heads"]
    assert model.active_params == (pytest.approx(active, rel=0.02) if active else None)


def test_the_shipped_profiles_agree_with_the_models_configs(tmp_path: Path) -> None:
    for name, config in (("llama-3.1-8b-1xl4", LLAMA_8B), ("llama-3.1-70b-v6e8", LLAMA_70B)):
        ours, theirs = load(name).model, configured(tmp_path, config).model
        assert ours.weight_bytes == pytest.approx(theirs.weight_bytes, rel=0.002)
        assert (ours.layers, ours.hidden, ours.kv_heads, ours.kv_bytes_per_token) == (
            theirs.layers, theirs.hidden, theirs.kv_heads, theirs.kv_bytes_per_token,
        )  # fmt: skip


def test_a_latent_is_told_by_the_config_and_the_rest_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"say model\.params, model\.weight_bytes.*config\.json does not tell"):
        configured(tmp_path, DEEPSEEK)
    r1 = load("deepseek-r1-2x8h100").model
    model = configured(tmp_path, DEEPSEEK, params=671e9, active_params=37e9, weight_bytes=688.6e9).model
    assert model.model_copy(update={"id": r1.id}) == r1


@pytest.mark.parametrize(
    ("config", "width", "share"),
    [
        pytest.param(LLAMA_70B, None, None, id="64 heads x 128 are the hidden size"),
        pytest.param(
            QWEN_30B_A3B, 32 * 128, 8 / 128, id="32 heads x 128, twice the hidden size; 8 of 128 experts"
        ),
        pytest.param(MIXTRAL, None, 2 / 8, id="2 of 8 experts"),
    ],
)
def test_a_config_tells_the_width_of_attention_and_the_experts_of_a_token(
    tmp_path: Path, config: dict[str, Any], width: int | None, share: float | None
) -> None:
    model = configured(tmp_path, config).model
    assert (model.attention_width, model.expert_share) == (width, share)


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param({"sliding_window": 4096, "use_sliding_window": True}, id="layers that see a window"),
        pytest.param({"layer_types": ["linear_attention", "full_attention"]}, id="layers that differ"),
    ],
)
def test_a_cache_that_is_not_even_is_not_computed(tmp_path: Path, spoilt: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"does not say model\.kv_bytes_per_token:"):
        configured(tmp_path, QWEN_32B | spoilt)


def test_bytes_of_four_bit_weights_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"does not say model\.weight_bytes:"):
        configured(tmp_path, QWEN_32B | {"quantization_config": {"quant_method": "awq", "bits": 4}})


def test_an_fp8_cache_takes_half_the_bytes(tmp_path: Path) -> None:
    assert configured(tmp_path, QWEN_32B, kv_dtype="fp8").model.kv_bytes_per_token == 64 * 8 * 256


def test_another_model_by_name_alone_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Qwen2.5-32B with the 8B's 15 GiB of weights would be 4 times too small everywhere."""
    path = written(tmp_path, {"model": {"id": "Qwen/Qwen2.5-32B-Instruct"}})
    with pytest.raises(BadInput, match=r"model\.params, model\.layers, model\.hidden.*model\.config") as told:
        load(path)
    assert "\n" not in str(told.value)


def test_a_base_of_experts_or_fp8_wants_these_stated_too(tmp_path: Path) -> None:
    sizes = {"id": "a/b", "params": 8e9, "layers": 32, "hidden": 4096, "weight_bytes": 16e9, "kv_heads": 8}
    path = written(
        tmp_path, {"extends": "deepseek-r1-2x8h100", "model": sizes | {"kv_bytes_per_token": 131072}}
    )
    with pytest.raises(BadInput, match=r"does not say model\.active_params, model\.weight_dtype:"):
        load(path)


def test_what_the_base_measured_of_its_model_or_chip_is_not_kept(tmp_path: Path) -> None:
    """The L4's 29,000 tokens of KV cache are those of 8B on 22 GiB."""
    assert load("llama-3.1-8b-1xl4").engine.kv_tokens == 29_000
    ada = {"name": "l40s", "visible_gib": 44.4, "bandwidth_bytes_s": 0.864e12, "flops_s": {"bf16": 362e12}}
    card = load(written(tmp_path, {"extends": "llama-3.1-8b-1xl4", "accelerator": ada}))
    # (44.4 x 0.9 - 14.96 - 1.4) GiB / 128 KiB
    assert prior.kv_tokens(card) == pytest.approx((44.4 * 0.9 - 14.96 - 1.4) * 8192, rel=0.001)


@pytest.mark.parametrize(
    ("sheet", "engine", "lacks"),
    [
        pytest.param(
            {}, {}, "bandwidth_bytes_s, accelerator.flops_s, accelerator.visible_gib", id="a name alone"
        ),
        pytest.param(
            {"visible_gib": 79}, {}, "bandwidth_bytes_s, accelerator.flops_s", id="its memory alone"
        ),
        pytest.param(
            {},
            {"kv_tokens": 9000},
            "bandwidth_bytes_s, accelerator.flops_s",
            id="its cache as it was measured",
        ),
    ],
)
def test_another_accelerator_takes_nothing_of_the_bases_data_sheet(tmp_path, sheet, engine, lacks) -> None:
    other = {"extends": "llama-3.1-8b-1xl4", "accelerator": {"name": "a100-80gb", **sheet}, "engine": engine}
    with pytest.raises(BadInput, match=f"does not say accelerator.{lacks}: "):
        load(written(tmp_path, other))


def test_another_accelerator_stands_on_nodes_of_its_own(tmp_path) -> None:
    sheet = {
        "name": "a100-80gb",
        "visible_gib": 79.3,
        "bandwidth_bytes_s": 2.04e12,
        "flops_s": {"bf16": 312e12},
    }
    other = {"extends": "llama-3.1-8b-1xl4", "accelerator": sheet}
    with pytest.raises(BadInput, match="on which nodes a100-80gb stands"):
        objects(load(written(tmp_path, other)))
    nodes = {
        "machine_type": "a2-ultragpu-1g",
        "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-a100-80gb"},
    }
    assert "nvidia-l4" not in str(objects(load(written(tmp_path, other | {"deploy": nodes}))))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        pytest.param({}, "key num_hidden_layers", id="empty"),
        pytest.param(LLAMA_8B | {"hidden_size": "wide"}, "key hidden_size", id="text for a number"),
        pytest.param(LLAMA_8B | {"num_hidden_layers": 0}, "key num_hidden_layers", id="no layers"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        configured(tmp_path, config)
