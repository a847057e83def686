"""Size of one token in the KV cache, against published configurations."""

import json

import pytest

from harness.models.facts import resolve

LLAMA_31_8B = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("config", "size_bytes"),
    [
        (LLAMA_31_8B, 128 * 1024),  # 2 x 32 layers x 8 heads x 128 x 2 bytes
        (
            {
                **LLAMA_31_8B,
                "num_hidden_layers": 80,
                "num_attention_heads": 64,
                "hidden_size": 8192,
            },
            320 * 1024,
        ),  # Llama 3.1 70B
        ({**LLAMA_31_8B, "dtype": "float32"}, 256 * 1024),
        (
            {
                "num_hidden_layers": 61,
                "kv_lora_rank": 512,
                "qk_rope_head_dim": 64,
                "dtype": "bfloat16",
            },
            61 * 576 * 2,
        ),  # DeepSeek-V3
        ({**LLAMA_31_8B, "layer_types": ["full_attention", "sliding_attention"]}, None),
        ({**LLAMA_31_8B, "dtype": "mystery"}, None),
        ({"dtype": "bfloat16"}, None),
    ],
)
def test_a_tokens_share_of_the_cache(tmp_path, config, size_bytes):
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], **config})
    )
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"},
            }
        )
    )
    assert resolve(str(tmp_path), load_format="dummy").kv_bytes_per_tok == size_bytes
