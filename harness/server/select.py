"""Chooses the server for a profile, with the reason."""

import os
from dataclasses import dataclass

from harness.core.errors import PreflightError
from harness.core.records import Gpu, ModelFacts
from harness.profile.schema import Profile
from harness.profile.serving import AttachServer, AutoServer, TorchServer, VllmServer
from harness.server import vllm
from harness.server.attach import AttachServerRunner
from harness.server.base import NO_NEEDS, ModelServer, Needs
from harness.server.embedded import TorchServerRunner
from harness.server.environment import VLLM_PYTHON_VARIABLE, find_python, inspect


@dataclass(frozen=True, slots=True)
class Choice:
    """A server that is ready to `preflight` and `start`, its kind (`vllm`, `torch` or `attach`),
    and the reason for it: one sentence, printed and recorded.
    """

    server: ModelServer
    kind: str
    reason: str


def choose_server(
    profile: Profile,
    facts: ModelFacts,
    gpus: tuple[Gpu, ...] = (),
    *,
    nvidia_present: bool = False,
    needs: Needs = NO_NEEDS,
) -> Choice:
    """Resolve the profile's server. `gpus` are those of the deployment (empty on CPU);
    `nvidia_present`: this machine has an NVIDIA device, whether or not it can be used.

    Raises:
        PreflightError: `auto`, and there is a GPU that cannot be used. Falling back to the CPU
            would measure something else.
    """
    server = profile.server
    if isinstance(server, AutoServer):
        server, reason = _resolve(server, gpus, nvidia_present)
    else:
        reason = "set in the profile"
    made: ModelServer
    if isinstance(server, VllmServer):
        made = vllm.VllmServerRunner(profile, server, facts, gpus, nvidia_present, needs)
    elif isinstance(server, TorchServer):
        made = TorchServerRunner(profile, server, facts, gpus, nvidia_present, needs)
    else:
        assert isinstance(server, AttachServer)
        made = AttachServerRunner(profile, server, gpus)
    return Choice(made, made.kind, reason)


def kv_capacity(
    server: VllmServer | TorchServer | AttachServer | AutoServer, facts: ModelFacts
) -> tuple[float | None, str]:
    """Tokens that fit in the KV cache of all replicas, and how that was found without starting a
    server; None with the reason.

    Raises:
        PreflightError: the GPUs named in the profile cannot be used.
    """
    if isinstance(server, VllmServer):
        return vllm.kv_capacity(server, facts)
    if isinstance(server, TorchServer) and server.kv_cache_tok is not None:
        return float(server.kv_cache_tok), "server.kv_cache_tok"
    return None, "the server sizes its cache itself"


def _resolve(
    server: AutoServer, gpus: tuple[Gpu, ...], nvidia_present: bool
) -> tuple[VllmServer | TorchServer, str]:
    settings = server.model_dump(exclude={"kind"})
    if not nvidia_present and not gpus:
        return (
            TorchServer(kind="torch", device="cpu", **settings),
            "auto: there is no GPU, so the embedded engine runs on the CPU",
        )
    if not gpus:
        raise PreflightError(
            "this machine has an NVIDIA device that cannot be used",
            cause="the driver does not respond, or CUDA_VISIBLE_DEVICES hides the GPUs",
            next_step=(
                "check `nvidia-smi`, in a container `--gpus all`; or set server: {kind: torch,"
                " device: cpu} to measure the CPU"
            ),
        )
    environment = inspect(find_python(os.environ.get(VLLM_PYTHON_VARIABLE)))
    if environment.vllm_version is None:
        raise PreflightError(
            f"there is a GPU ({gpus[0].name or gpus[0].uuid}), but vLLM is not installed for"
            f" {environment.python}",
            next_step=(
                "install it (`pip install vllm`, best in its own environment with server: {kind:"
                " vllm, python: PATH}), or set server: {kind: torch} for the embedded engine"
            ),
        )
    return (
        VllmServer(kind="vllm", device="cuda", **settings),
        f"auto: a GPU is visible and vLLM {environment.vllm_version} is installed",
    )
