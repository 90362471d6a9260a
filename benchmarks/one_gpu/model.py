"""A model directory without weights: `python model.py DIR SIZE`, run by the Python that has vLLM (and so tokenizers).

SIZE is tiny (12 million parameters, for processors), small (160 million, a step takes one core 30 ms) or 8b (the shapes of Llama 3.1 8B). Every word is a token; vLLM makes
the weights up (--load-format dummy).
"""

import json
import sys
from pathlib import Path

SIZES = {
    "tiny": {
        "vocab_size": 2048,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "head_dim": 64,
        "max_position_embeddings": 2048,
        "dtype": "float32",
    },
    "small": {
        "vocab_size": 2048,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 64,
        "max_position_embeddings": 2048,
        "dtype": "float32",
    },
    "8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "dtype": "bfloat16",
    },
}


def write(folder: Path, size: str) -> None:
    """The three files that vLLM reads, into a new or existing folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers  # of vLLM's environment

    folder.mkdir(parents=True, exist_ok=True)
    shape = SIZES[size]
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, int(shape["vocab_size"]))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape["max_position_embeddings"],
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    for name, content in (
        ("tokenizer_config.json", special | described),
        ("config.json", config | shape),
        ("generation_config.json", {"bos_token_id": 1, "eos_token_id": 2}),
    ):
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2])
