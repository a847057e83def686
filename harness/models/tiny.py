"""`builtin:tiny`: a Llama of a few million random parameters with a tokenizer of its own, made from
nothing but this repository.

It serves as a real model for everything but the sense of its answers: it loads in transformers and
in vLLM, takes long prompts, streams readable text, and is small enough for two cores. Made with
numpy alone, so that making it does not import torch.

No output of it can end by itself, which makes lengths exact on APIs that cannot force one. That is
a property of the weights: one dimension of the residual stream is the same positive constant for
every token (all embeddings hold it, no layer writes to it), so it stays positive after the last
norm, and the output rows of the tokens that must not appear read nothing but this dimension, with a
large negative weight. Their logits are below every other by hundreds, and sampling cannot reach
them at any sensible temperature. The same is done to the other special tokens and to bytes that are
no printable ASCII, so that each token yields text at once.
"""

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.plan import corpus

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VERSION: Final = 2
"""Raised whenever the same inputs would give different files."""

VOCAB_SIZE: Final = (
    1728  # a multiple of 64, a little below where the corpus runs out of pairs that occur twice
)
HIDDEN: Final = 256
LAYERS: Final = 4
HEADS: Final = 4
KV_HEADS: Final = 1
HEAD_SIZE: Final = 64  # vLLM's CPU attention wants 32, 64, 80, 96, 112, 128, …
INTERMEDIATE: Final = 768
MAX_CONTEXT_TOK: Final = 32768
SEED: Final = 20261121
END_OF_TEXT: Final = "<|endoftext|>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"

CONSTANT_DIMENSION: Final = 0
BANNED_WEIGHT: Final = -200.0
"""Output weight of banned tokens on the constant dimension. The constant is about 1-2 after the
last norm, other logits are within ±3.
"""


def chat_template() -> str:
    """The chat template that both built-in models carry: it renders tools, tool calls and tool
    results.
    """
    return files("harness.models").joinpath("chat_template.jinja").read_text(encoding="utf-8")


def name() -> str:
    """Folder name of this version of the model."""
    parts = (
        str(VERSION),
        str(SEED),
        str(VOCAB_SIZE),
        chat_template(),
        "\n".join(corpus.paragraphs()),
    )
    return f"tiny-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


def build(folder: Path) -> None:
    """Write config, tokenizer, chat template and weights into `folder`; the same bytes every
    time.
    """
    tokenizer = _train_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in (END_OF_TEXT, TURN_START, TURN_END)}
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": TURN_START,
            "eos_token": TURN_END,
            "pad_token": END_OF_TEXT,
            "model_max_length": MAX_CONTEXT_TOK,
            "clean_up_tokenization_spaces": False,
        },
    )
    _write_json(
        folder / "special_tokens_map.json",
        {"bos_token": TURN_START, "eos_token": TURN_END, "pad_token": END_OF_TEXT},
    )
    (folder / "chat_template.jinja").write_text(chat_template(), encoding="utf-8")
    token_ids = {
        "bos_token_id": ids[TURN_START],
        "eos_token_id": ids[TURN_END],
        "pad_token_id": ids[END_OF_TEXT],
    }
    _write_json(folder / "generation_config.json", token_ids)
    _write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "float32",
            "vocab_size": VOCAB_SIZE,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_SIZE,
            "hidden_act": "silu",
            "max_position_embeddings": MAX_CONTEXT_TOK,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": False,
            "use_cache": True,
            **token_ids,
            "harness_eos_reachable": False,
        },
    )
    _write_weights(folder / "model.safetensors", _banned_ids(tokenizer))


def _train_tokenizer() -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=2,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.paragraphs(), trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(
            f"the corpus yields {tokenizer.get_vocab_size()} tokens and not {VOCAB_SIZE}: lower"
            f" VOCAB_SIZE in {__name__}"
        )
    return tokenizer


def _banned_ids(tokenizer: "Tokenizer") -> list[int]:
    """Ids that must not be produced: special tokens, and tokens whose text is no printable
    ASCII.
    """
    return [
        i
        for i in range(VOCAB_SIZE)
        if not (text := tokenizer.decode([i])) or not (text.isascii() and text.isprintable())
    ]


def _write_weights(path: Path, banned: list[int]) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(SEED)

    def uniform(*shape: int, std: float) -> np.ndarray[Any, np.dtype[np.float32]]:
        return ((rng.random(shape, dtype=np.float32) * 2 - 1) * np.float32(std * 3**0.5)).astype(
            np.float32
        )

    def residual_writer(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        weight = uniform(*shape, std=0.02)
        weight[CONSTANT_DIMENSION, :] = 0
        return weight

    embedding = uniform(VOCAB_SIZE, HIDDEN, std=0.7)
    embedding[:, CONSTANT_DIMENSION] = 1
    tensors = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": np.ones(HIDDEN, dtype=np.float32),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        tensors |= {
            f"{at}.input_layernorm.weight": np.ones(HIDDEN, dtype=np.float32),
            f"{at}.self_attn.q_proj.weight": uniform(HEADS * HEAD_SIZE, HIDDEN, std=0.05),
            f"{at}.self_attn.k_proj.weight": uniform(KV_HEADS * HEAD_SIZE, HIDDEN, std=0.05),
            f"{at}.self_attn.v_proj.weight": uniform(KV_HEADS * HEAD_SIZE, HIDDEN, std=0.05),
            f"{at}.self_attn.o_proj.weight": residual_writer(HIDDEN, HEADS * HEAD_SIZE),
            f"{at}.post_attention_layernorm.weight": np.ones(HIDDEN, dtype=np.float32),
            f"{at}.mlp.gate_proj.weight": uniform(INTERMEDIATE, HIDDEN, std=0.05),
            f"{at}.mlp.up_proj.weight": uniform(INTERMEDIATE, HIDDEN, std=0.05),
            f"{at}.mlp.down_proj.weight": residual_writer(HIDDEN, INTERMEDIATE),
        }
    head = uniform(VOCAB_SIZE, HIDDEN, std=0.05)
    head[:, CONSTANT_DIMENSION] = 0
    head[banned, :] = 0
    head[banned, CONSTANT_DIMENSION] = BANNED_WEIGHT
    tensors["lm_head.weight"] = head
    save_file(tensors, str(path), metadata={"format": "pt"})


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
