"""The embedded engine as a child process: `python -m harness.server.engine`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.core.records import Gpu
from harness.profile.serving import TorchServer
from harness.server.base import Problem, Settings
from harness.server.environment import Environment
from harness.server.local import LocalRunner, cuda_problems, options, visible

MODULE: Final = "harness.server.engine"
_NEEDED: Final = ("torch", "transformers", "uvicorn", "starlette")


@dataclass(frozen=True, slots=True)
class TorchServerRunner(LocalRunner):
    """Starts the embedded engine, one replica per GPU. The model must be on this machine. Tools
    need no setting.
    """

    server: TorchServer
    kind: str = "torch"

    @property
    def gpus_per_replica(self) -> int:
        return 1 if self.device == "cuda" else 0

    @property
    def threads(self) -> int:
        """Torch threads on CPU: 1 on two cores or fewer (faster than 2 with the client running
        next to it), else the cores minus two, split over the replicas.
        """
        if self.server.threads is not None:
            return self.server.threads
        cores = len(os.sched_getaffinity(0))
        return 1 if cores <= 2 else max(1, (cores - 2) // self.replicas)

    @property
    def _context_tok(self) -> int | None:
        return self.profile.model.max_context_tok or self.facts.max_context_tok

    def setting_problems(self) -> list[Problem]:
        problems = []
        if self.server.api_key_env is not None or self.server.api_key_file is not None:
            problems.append(
                Problem(
                    "no_key_support",
                    "the embedded engine does not check API keys: anyone who can reach its port"
                    " can use it",
                    "remove server.api_key_env and server.api_key_file, and keep server.host on"
                    " 127.0.0.1",
                )
            )
        if self.facts.path is None:
            problems.append(
                Problem(
                    "model_not_local",
                    "the embedded engine loads only models on this machine;"
                    f" {self.profile.model_id} is not",
                    "set model.id to a folder or a built-in model, or use server.kind: vllm",
                )
            )
        return problems

    def package_problems(self, environment: Environment) -> list[Problem]:
        missing = [name for name in _NEEDED if name not in environment.modules]
        if missing:
            return [
                Problem(
                    "engine_missing",
                    f"the embedded engine needs {', '.join(missing)}, which {environment.python}"
                    " does not have",
                    "run `make venv`, or install colossus-harness[torch] there",
                )
            ]
        if self.device == "cuda":
            return cuda_problems(environment, self.gpus, self.replicas)
        return []

    def argv(self, python: str, port: int) -> tuple[str, ...]:
        server, model = self.server, self.profile.model
        named = options(
            {
                "--model": self.facts.path,
                "--served-name": self.served_name,
                "--host": server.host,
                "--port": port,
                "--device": self.device,
                "--dtype": model.dtype,
                "--load-format": model.load_format,
                "--max-context": self._context_tok,
                "--threads": self.threads if self.device == "cpu" else None,
                "--seed": self.profile.seed,
                "--page-size": server.page_tok,
                "--kv-cache-tokens": server.kv_cache_tok,
                "--max-batch-tokens": server.max_batch_tok,
            }
        )
        return (python, "-m", MODULE, *named)

    def env(self, gpus: tuple[Gpu, ...]) -> dict[str, str]:
        # Another environment than ours need not have the harness installed.
        here = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        made = os.environ | {
            "PYTHONPATH": path,
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
        return made | self.server.env

    def settings(self) -> Settings:
        return {
            "device": self.device,
            "replicas": self.replicas,
            "max_model_len": self._context_tok,
            "dtype": self.profile.model.dtype,
            "load_format": self.profile.model.load_format,
            "threads": self.threads if self.device == "cpu" else None,
            "kv_cache_tok": self.server.kv_cache_tok,
            "page_tok": self.server.page_tok,
            "max_batch_tok": self.server.max_batch_tok,
        }

    def software(self, environment: Environment) -> dict[str, str]:
        return {
            name: version
            for name, version in environment.versions.items()
            if not name.startswith("vllm")
        }
