"""The embedded engine as a child process: `python -m harness.server.engine`."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.core.errors import PreflightError
from harness.core.records import Gpu, ModelFacts
from harness.profile.schema import Profile
from harness.profile.serving import TorchServer
from harness.server.base import (
    NO_NEEDS,
    Needs,
    Problem,
    RunContext,
    RunningServer,
    raise_problems,
    resolve_device,
)
from harness.server.environment import find_python, inspect
from harness.server.process import ReplicaPlan
from harness.server.replicas import ServicePlan, serve
from harness.server.vllm import (
    cuda_problems,
    model_problems,
    port_problems,
    ports_of,
    problem_of,
    visible,
)

MODULE: Final = "harness.server.engine"
_NEEDED: Final = ("torch", "transformers", "uvicorn", "starlette")


def kv_capacity(server: TorchServer) -> tuple[float | None, str]:
    """Tokens that the KV cache holds, and how that was found; None with the reason."""
    if server.kv_cache_tok is None:
        return None, "the server sizes its cache itself"
    return float(server.kv_cache_tok), "server.kv_cache_tok"


@dataclass(frozen=True, slots=True)
class TorchServerRunner:
    """Starts the embedded engine.

    Attributes:
        profile: with `server` of kind torch.
        server: the same server, typed.
        facts: of the model, which has to be on this machine.
        gpus: the boards of the deployment; none on CPU. Each replica takes one.
        nvidia_present: this machine has an NVIDIA device, whether or not it can be used.
        needs: what the workload asks for; the engine serves tools without being told.
    """

    profile: Profile
    server: TorchServer
    facts: ModelFacts
    gpus: tuple[Gpu, ...] = ()
    nvidia_present: bool = False
    needs: Needs = NO_NEEDS
    kind: str = "torch"

    @property
    def device(self) -> str:
        """`cuda` or `cpu`: `auto` resolved."""
        return resolve_device(self.server.device, nvidia_present=self.nvidia_present)

    @property
    def replicas(self) -> int:
        """One a board, one on CPU, unless the profile says."""
        if self.server.replicas != "auto":
            return self.server.replicas
        return max(1, len(self.gpus)) if self.device == "cuda" else 1

    @property
    def served_name(self) -> str:
        """The model's name in requests."""
        return self.profile.model.served_name or self.profile.model.id

    @property
    def threads(self) -> int:
        """Torch threads on CPU: 1 on two cores or fewer (faster than 2 with the client beside it),
        else the cores less two.
        """
        if self.server.threads is not None:
            return self.server.threads
        cores = len(os.sched_getaffinity(0))
        return 1 if cores <= 2 else max(1, (cores - 2) // self.replicas)

    def preflight(self) -> tuple[Problem, ...]:
        """Interpreter, packages, boards, ports and model folder."""
        problems = [
            *model_problems(self.profile, self.facts),
            *port_problems(self.server, self.replicas),
        ]
        if self.server.api_key_env is not None or self.server.api_key_file is not None:
            problems.append(
                Problem(
                    "no_key_support",
                    "the embedded engine takes no API key: whoever reaches its port is served",
                    "remove server.api_key_env and server.api_key_file, and keep server.host on"
                    " 127.0.0.1",
                )
            )
        if self.facts.path is None:
            problems.append(
                Problem(
                    "model_not_local",
                    "the embedded engine loads models from this machine only, and"
                    f" {self.profile.model.id} is not on it",
                    "give a folder or a built-in model as model.id, or use server.kind: vllm",
                )
            )
        try:
            environment = inspect(find_python(self.server.python))
        except PreflightError as error:
            return (problem_of("python", error), *problems)
        missing = [name for name in _NEEDED if name not in environment.modules]
        if missing:
            problems.append(
                Problem(
                    "engine_missing",
                    f"{environment.python} lacks {', '.join(missing)}, which the embedded engine"
                    " needs",
                    "`make venv`, or install colossus-harness[torch] there",
                )
            )
        elif self.device == "cuda":
            problems += cuda_problems(environment, self.gpus, self.replicas)
        return tuple(problems)

    def argv(self, python: str, port: int) -> tuple[str, ...]:
        server, model = self.server, self.profile.model
        arguments = [
            python,
            "-m",
            MODULE,
            "--model",
            str(self.facts.path),
            "--served-name",
            self.served_name,
        ]
        arguments += [
            "--host",
            server.host,
            "--port",
            str(port),
            "--device",
            self.device,
            "--dtype",
            model.dtype,
            "--load-format",
            model.load_format,
        ]
        if (context := model.max_context_tok or self.facts.max_context_tok) is not None:
            arguments += ["--max-context", str(context)]
        if self.device == "cpu":
            arguments += ["--threads", str(self.threads)]
        arguments += ["--seed", str(self.profile.seed)]
        if server.page_tok is not None:
            arguments += ["--page-size", str(server.page_tok)]
        if server.kv_cache_tok is not None:
            arguments += ["--kv-cache-tokens", str(server.kv_cache_tok)]
        if server.max_batch_tok is not None:
            arguments += ["--max-batch-tokens", str(server.max_batch_tok)]
        return tuple(arguments)

    def env(self, gpus: tuple[Gpu, ...]) -> dict[str, str]:
        made = dict(os.environ)
        # Another environment than ours need not have the harness installed.
        here = str(Path(__file__).parents[2])
        made["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [made.get("PYTHONPATH")])])
        made |= {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        made |= (
            visible(gpus, by_index=False)
            if self.device == "cuda"
            else {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(self.threads)}
        )
        made |= self.server.env
        return made

    def plan(self) -> ServicePlan:
        """All replicas with their commands, boards and ports.

        Raises:
            PreflightError: the interpreter is missing.
            ServerError: no free port.
        """
        environment = inspect(find_python(self.server.python))
        made = []
        for position, port in enumerate(ports_of(self.server, self.replicas)):
            gpus = self.gpus[position : position + 1] if self.device == "cuda" else ()
            argv, env = self.argv(environment.python, port), self.env(gpus)
            made.append(ReplicaPlan(f"replica-{position}", argv, env, self.server.host, port, gpus))
        settings: dict[str, str | int | float | bool | None] = {
            "device": self.device,
            "replicas": self.replicas,
            "max_model_len": self.profile.model.max_context_tok or self.facts.max_context_tok,
            "dtype": self.profile.model.dtype,
            "load_format": self.profile.model.load_format,
            "threads": self.threads if self.device == "cpu" else None,
            "kv_cache_tok": self.server.kv_cache_tok,
            "page_tok": self.server.page_tok,
            "max_batch_tok": self.server.max_batch_tok,
        }
        server = self.server
        return ServicePlan(
            "torch",
            tuple(made),
            self.served_name,
            self.profile.traffic.api,
            None,
            server.ready_timeout_s,
            server.stop_timeout_s,
            {
                name: version
                for name, version in environment.versions.items()
                if not name.startswith("vllm")
            },
            settings,
        )

    def start(self, context: RunContext) -> AbstractContextManager[RunningServer]:
        """Start all replicas; see `ModelServer.start`."""
        raise_problems(self.preflight())
        return serve(self.plan(), context)
