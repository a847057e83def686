"""`builtin:tiny`: a Llama of a few million random parameters and its own tokenizer, built from this
repository alone.

It is a real model with meaningless output: transformers and vLLM load it, it takes long prompts,
streams readable text and runs on two cores. It is built with numpy, without torch.

No output can end by itself, so lengths are exact on APIs that cannot force one. This is a property
of the weights. One dimension of the residual stream is the same positive constant for every token
(all embeddings set it, no layer writes to it), so it stays positive after the last norm. The output
rows of banned tokens read only this dimension, with a large negative weight. Their logits are
hundreds below all others, out of reach at any sensible temperature. Banned are special tokens and
bytes that are not printable ASCII, so that each token yields text at once.
"""

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness.models.cache import write_json
from harness.plan import corpus

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VERSION: Final = 2
"""Incremented whenever the same inputs would give different files."""

# a multiple of 64, a little below where the corpus runs out of pairs that occur twice
VOCAB_SIZE: Final = 1728
HIDDEN: Final = 256
LAYERS: Final = 4
HEADS: Final = 4
KV_HEADS: Final = 1
HEAD_SIZE: Final = 64  # vLLM's CPU attention requires 32, 64, 80, 96, 112, 128, …
INTERMEDIATE: Final = 768
MAX_CONTEXT_TOK: Final = 32768
SEED: Final = 20261121
END_OF_TEXT: Final = "<|endoftext|>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"

CONSTANT_DIMENSION: Final = 0
BANNED_WEIGHT: Final = -200.0
"""Output weight of banned tokens on the constant dimension, which is about 1-2 after the last norm.
Other logits are within ±3.
"""


def chat_template() -> str:
    """The chat template of both built-in models: it renders tools, tool calls and tool results."""
    return files("harness.models").joinpath("chat_template.jinja").read_text(encoding="utf-8")


def write_tokenizer_config(folder: Path, tokens: dict[str, Any], max_context_tok: int) -> None:
    """With a class that transformers 4 and 5 both have, since a server may run on either."""
    fixed = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    path = folder / "tokenizer_config.json"
    write_json(path, {**tokens, **fixed, "model_max_length": max_context_tok})


def name() -> str:
    """Folder name of this version of the model."""
    text = "\n".join(corpus.paragraphs())
    parts = (str(VERSION), str(SEED), str(VOCAB_SIZE), chat_template(), text)
    return f"tiny-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


def build(folder: Path) -> None:
    """Write config, tokenizer, chat template and weights into `folder`: the same bytes every
    time.
    """
    tokenizer = _train_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": TURN_START, "eos_token": TURN_END, "pad_token": END_OF_TEXT}
    write_tokenizer_config(folder, special, MAX_CONTEXT_TOK)
    write_json(folder / "special_tokens_map.json", special)
    (folder / "chat_template.jinja").write_text(chat_template(), encoding="utf-8")
    token_ids = {f"{key}_id": tokenizer.token_to_id(token) for key, token in special.items()}
    write_json(folder / "generation_config.json", token_ids)
    write_json(
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
            f"the corpus yields {tokenizer.get_vocab_size()} tokens instead of {VOCAB_SIZE}: lower"
            f" VOCAB_SIZE in {__name__}"
        )
    return tokenizer


def _banned_ids(tokenizer: "Tokenizer") -> list[int]:
    """Ids that must not be produced: special tokens, and text that is not printable ASCII."""
    texts = [tokenizer.decode([i]) for i in range(VOCAB_SIZE)]
    return [i for i, t in enumerate(texts) if not (t and t.isascii() and t.isprintable())]


def _write_weights(path: Path, banned: list[int]) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(SEED)

    def uniform(*shape: int, std: float = 0.05) -> np.ndarray[Any, np.dtype[np.float32]]:
        drawn = rng.random(shape, dtype=np.float32) * 2 - 1
        return (drawn * np.float32(std * 3**0.5)).astype(np.float32)

    def residual_writer(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        weight = uniform(*shape, std=0.02)
        weight[CONSTANT_DIMENSION, :] = 0
        return weight

    embedding = uniform(VOCAB_SIZE, HIDDEN, std=0.7)
    embedding[:, CONSTANT_DIMENSION] = 1
    norm = np.ones(HIDDEN, dtype=np.float32)
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": norm}
    for layer in range(LAYERS):
        parts = {
            "input_layernorm": norm,
            "self_attn.q_proj": uniform(HEADS * HEAD_SIZE, HIDDEN),
            "self_attn.k_proj": uniform(KV_HEADS * HEAD_SIZE, HIDDEN),
            "self_attn.v_proj": uniform(KV_HEADS * HEAD_SIZE, HIDDEN),
            "self_attn.o_proj": residual_writer(HIDDEN, HEADS * HEAD_SIZE),
            "post_attention_layernorm": norm,
            "mlp.gate_proj": uniform(INTERMEDIATE, HIDDEN),
            "mlp.up_proj": uniform(INTERMEDIATE, HIDDEN),
            "mlp.down_proj": residual_writer(HIDDEN, INTERMEDIATE),
        }
        tensors |= {f"model.layers.{layer}.{name}.weight": part for name, part in parts.items()}
    head = uniform(VOCAB_SIZE, HIDDEN)
    head[:, CONSTANT_DIMENSION] = 0
    head[banned, :] = 0
    head[banned, CONSTANT_DIMENSION] = BANNED_WEIGHT
    tensors["lm_head.weight"] = head
    save_file(tensors, str(path), metadata={"format": "pt"})
