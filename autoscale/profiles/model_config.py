"""A model by its config.json, as Hugging Face's hub holds it: the fields of a profile's `model` that the file tells.

Sizes in bytes, parameters as numbers. What a file does not tell (parameters of an architecture that is not counted here,
bytes of 4-bit weights, a KV cache whose layers differ) is left out, and the profile has to state it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from analysis.errors import BadInput
from analysis.files import read_json

COUNTED = ("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe")  # model_type
BYTES = {"bf16": 2, "fp8": 1}  # of one value
KvDtype = Literal["bf16", "fp8"]
Size = Annotated[int, Field(ge=1, le=10**9)]


class _Config(BaseModel):
    """The keys of a config.json that say how large a model is; the others are passed over."""

    model_type: str = ""
    num_hidden_layers: Size
    hidden_size: Size
    num_attention_heads: Size
    num_key_value_heads: Size | None = None  # None: as many as attention heads
    head_dim: Size | None = None
    intermediate_size: Size | None = None
    vocab_size: Size | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    kv_lora_rank: Size | None = None  # MLA
    qk_rope_head_dim: Size | None = None
    qk_nope_head_dim: Size | None = None
    v_head_dim: Size | None = None
    num_local_experts: Size | None = None
    num_experts: Size | None = None
    n_routed_experts: Size | None = None
    num_experts_per_tok: Size | None = None
    moe_intermediate_size: Size | None = None
    shared_expert_intermediate_size: Size | None = None
    decoder_sparse_step: int | None = None
    mlp_only_layers: list[int] | None = None
    layer_types: list[str] | None = None
    sliding_window: int | None = None
    use_sliding_window: bool = True
    quantization_config: dict[str, Any] | None = None

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def width(self) -> int:
        """Values of one head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def experts(self) -> int:
        return self.num_experts or self.num_local_experts or self.n_routed_experts or 0

    @property
    def attention_width(self) -> int:
        """Heads x values of one; of a latent the mean of queries and values, as they are multiplied."""
        if self.kv_lora_rank and self.qk_nope_head_dim and self.v_head_dim:
            queries = self.qk_nope_head_dim + (self.qk_rope_head_dim or 0)
            return self.num_attention_heads * (queries + self.v_head_dim) // 2
        return self.num_attention_heads * self.width


def read_model_config(path: Path, kv_dtype: KvDtype = "bf16") -> dict[str, Any]:
    """The fields of `Model` that a config.json tells, as many as it does. Raises BadInput naming the key that is wrong."""
    content = read_json(path, "model config")
    text = content.get("text_config")
    inner = text if isinstance(text, dict) else content
    try:
        config = _Config.model_validate(inner)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(
            f"the model config {path}, key {'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
            expected="a config.json as on Hugging Face's hub",
        ) from None
    told: dict[str, Any] = {"layers": config.num_hidden_layers, "hidden": config.hidden_size}
    if config.vocab_size and not config.tie_word_embeddings:
        told["embedding_rows"] = config.vocab_size
    if config.attention_width != config.hidden_size:
        told["attention_width"] = config.attention_width
    if config.experts and config.num_experts_per_tok:
        told["expert_share"] = config.num_experts_per_tok / config.experts
    told |= _cache(config, kv_dtype)
    if inner is content:  # beside a text_config there are other towers, whose parameters are not counted
        told |= _weights(config)
    return told


def _cache(config: _Config, kv_dtype: KvDtype) -> dict[str, Any]:
    if config.kv_lora_rank is not None:
        values, heads = config.kv_lora_rank + (config.qk_rope_head_dim or 0), None
    else:
        values, heads = 2 * config.kv_heads * config.width, config.kv_heads
    told: dict[str, Any] = {"kv_heads": heads}
    windowed = config.sliding_window is not None and config.use_sliding_window
    if not windowed and set(config.layer_types or ()) <= {"full_attention"}:
        told["kv_bytes_per_token"] = config.num_hidden_layers * values * BYTES[kv_dtype]
    return told


def _weights(config: _Config) -> dict[str, Any]:
    method = (config.quantization_config or {}).get("quant_method")
    dtype = "fp8" if method == "fp8" else "bf16"
    told: dict[str, Any] = {"weight_dtype": dtype}
    uneven = config.mlp_only_layers or (config.decoder_sparse_step or 1) != 1
    if config.model_type not in COUNTED or not config.vocab_size or not config.intermediate_size or uneven:
        return told
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    attention = _attention(config)
    expert = 3 * config.hidden_size * (config.moe_intermediate_size or config.intermediate_size)
    shared = 3 * config.hidden_size * (config.shared_expert_intermediate_size or 0)
    router = config.hidden_size * (config.experts + (1 if shared else 0))

    def parameters(experts: int) -> int:
        mlp = (
            experts * expert + shared + router
            if config.experts
            else 3 * config.hidden_size * (config.intermediate_size or 0)
        )
        per_layer = attention + mlp + 2 * config.hidden_size
        return embeddings + config.num_hidden_layers * per_layer + config.hidden_size

    told["params"] = parameters(config.experts)
    if config.experts and config.num_experts_per_tok:
        told["active_params"] = parameters(config.num_experts_per_tok)
    if method in (None, "fp8"):  # embeddings and head are not quantised
        told["weight_bytes"] = 2 * embeddings + BYTES[dtype] * (told["params"] - embeddings)
    return told


def _attention(config: _Config) -> int:
    """Parameters of one layer's attention."""
    queries, keys = config.num_attention_heads * config.width, config.kv_heads * config.width
    matrices = config.hidden_size * (2 * queries + 2 * keys)
    if config.model_type in ("qwen2", "qwen2_moe"):
        matrices += queries + 2 * keys  # biases that its config.json does not name
    elif config.attention_bias:
        matrices += queries + 2 * keys + config.hidden_size
    if config.model_type in ("qwen3", "qwen3_moe"):
        matrices += 2 * config.width  # norms of queries and keys
    return matrices
