"""What vLLM and the embedded engine share at start-up: checks, GPUs, ports and the plan."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HarnessError, PreflightError
from harness.core.records import Gpu, ModelFacts
from harness.profile.schema import Profile
from harness.profile.serving import TorchServer, VllmServer
from harness.server.base import (
    NO_NEEDS,
    Needs,
    Problem,
    RunContext,
    RunningServer,
    Settings,
    problem_of,
    raise_problems,
    read_api_key,
    resolve_device,
)
from harness.server.environment import Environment, cuda, find_python, inspect
from harness.server.process import ReplicaPlan, check_port_free, free_ports
from harness.server.replicas import ServicePlan, serve


@dataclass(frozen=True, slots=True)
class LocalRunner(ABC):
    """Starts replicas of one kind of server on this machine.

    Attributes:
        server: the profile's server, typed.
        gpus: GPUs of the deployment; empty on CPU.
        nvidia_present: this machine has an NVIDIA device, whether or not it can be used.
    """

    profile: Profile
    server: VllmServer | TorchServer
    facts: ModelFacts
    gpus: tuple[Gpu, ...] = ()
    nvidia_present: bool = False
    needs: Needs = NO_NEEDS
    kind: str = ""

    @property
    @abstractmethod
    def gpus_per_replica(self) -> int:
        pass

    @abstractmethod
    def argv(self, python: str, port: int) -> tuple[str, ...]:
        """Command line of one replica. It contains no secret: the key goes through the
        environment.
        """

    @abstractmethod
    def env(self, gpus: tuple[Gpu, ...]) -> dict[str, str]: ...

    @abstractmethod
    def settings(self) -> Settings: ...

    @abstractmethod
    def setting_problems(self) -> list[Problem]: ...

    @abstractmethod
    def package_problems(self, environment: Environment) -> list[Problem]: ...

    @abstractmethod
    def software(self, environment: Environment) -> dict[str, str]: ...

    @property
    def device(self) -> str:
        return resolve_device(self.server.device, nvidia_present=self.nvidia_present)

    @property
    def replicas(self) -> int:
        """From the profile, else as many as fit on the GPUs; one on CPU."""
        if self.server.replicas != "auto":
            return self.server.replicas
        return max(1, len(self.gpus) // self.gpus_per_replica) if self.gpus_per_replica else 1

    @property
    def served_name(self) -> str:
        return self.profile.model.served_name or self.profile.model_id

    def environment(self) -> Environment:
        return inspect(find_python(self.server.python))

    def preflight(self) -> tuple[Problem, ...]:
        problems = [
            *self.setting_problems(),
            *_model_problems(self.profile, self.facts),
            *self._port_problems(),
        ]
        try:
            environment = self.environment()
        except PreflightError as error:
            return (problem_of("python", error), *problems)
        return (*problems, *self.package_problems(environment))

    def arithmetic_problems(self) -> tuple[Problem, ...]:
        """Problems that follow from the profile, the model's facts and the number of GPUs. Nothing
        is asked or started; without a GPU here their number is unknown.
        """
        problems = _model_problems(self.profile, self.facts)
        if self.device == "cuda" and self.gpus:
            problems += _gpu_problems(self.gpus, self.replicas * self.gpus_per_replica)
        return tuple(problems)

    def plan(self) -> ServicePlan:
        """All replicas with their commands, GPUs and ports.

        Raises:
            PreflightError: the interpreter or the key is missing.
            ServerError: no free port.
        """
        environment = self.environment()
        server, each = self.server, self.gpus_per_replica
        api_key = read_api_key(server)
        key = {} if api_key is None else {"VLLM_API_KEY": api_key}
        replicas = []
        for position, port in enumerate(self._ports() or free_ports(server.host, self.replicas)):
            gpus = self.gpus[position * each : (position + 1) * each]
            argv, env = self.argv(environment.python, port), self.env(gpus) | key
            replicas.append(ReplicaPlan(f"replica-{position}", argv, env, server.host, port, gpus))
        return ServicePlan(
            self.kind,
            tuple(replicas),
            self.served_name,
            self.profile.api,
            api_key,
            server.ready_timeout_s,
            server.stop_timeout_s,
            self.software(environment),
            self.settings(),
        )

    def start(self, context: RunContext) -> AbstractContextManager[RunningServer]:
        raise_problems(self.preflight())
        return serve(self.plan(), context)

    def _ports(self) -> tuple[int, ...]:
        port = self.server.port
        return () if port is None else tuple(range(port, port + self.replicas))

    def _port_problems(self) -> list[Problem]:
        problems = []
        for port in self._ports():
            try:
                check_port_free(self.server.host, port)
            except HarnessError as error:
                problems.append(problem_of("port_taken", error))
        return problems


def options(values: Mapping[str, object]) -> list[str]:
    """Command-line options. True is an option without a value; None and False leave it out."""
    found: list[str] = []
    for name, value in values.items():
        if value is True:
            found.append(name)
        elif value is not None and value is not False:
            found += [name, str(value)]
    return found


def visible(gpus: tuple[Gpu, ...], *, by_index: bool) -> dict[str, str]:
    """The variables that expose exactly these GPUs to a process.

    `by_index` names whole GPUs by NVML's index: vLLM before 0.32 parses each entry as an integer
    and fails on a UUID (vllm-project/vllm #20939, #41848). CUDA_DEVICE_ORDER makes CUDA count as
    NVML does. A MIG slice has no index, so its UUID stays.
    """
    names = [
        str(gpu.index) if by_index and gpu.uuid.startswith("GPU-") else gpu.uuid for gpu in gpus
    ]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def cuda_problems(environment: Environment, gpus: tuple[Gpu, ...], needed: int) -> list[Problem]:
    """Whether there are enough GPUs and torch in that environment can use them."""
    if not gpus:
        return [
            Problem(
                "no_gpu",
                "the server needs a GPU and none is visible",
                "check `nvidia-smi`, server.gpus, or `--gpus all`; or set server.device: cpu",
            )
        ]
    if problems := _gpu_problems(gpus, needed):
        return problems
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
            "install a torch that matches the driver, or set server.device: cpu",
            cause=(
                "torch is a build without CUDA"
                if found.build is None
                else f"torch was built for CUDA {found.build}; the driver may be too old"
            ),
        )
    ]


def _gpu_problems(gpus: tuple[Gpu, ...], needed: int) -> list[Problem]:
    if needed <= len(gpus):
        return []
    return [
        Problem(
            "too_few_gpus",
            f"the server needs {needed} GPUs (replicas x tensor_parallel_size x"
            f" data_parallel_size) and there are {len(gpus)}",
            "lower one of the three, or add GPUs to server.gpus",
        )
    ]


def _model_problems(profile: Profile, facts: ModelFacts) -> list[Problem]:
    problems = []
    if facts.path is not None and not (Path(facts.path) / "config.json").is_file():
        problems.append(
            Problem(
                "config_missing",
                f"model.id: {facts.path} has no config.json",
                "name a folder that contains a model",
            )
        )
    asked, limit = profile.model.max_context_tok, facts.max_context_tok
    if asked is not None and limit is not None and asked > limit:
        problems.append(
            Problem(
                "context_over_model",
                f"model.max_context_tok is {asked:,} tokens; the model's maximum is {limit:,}",
                "lower it",
            )
        )
    return problems
