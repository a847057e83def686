"""From a profile to the server that serves it, and why that one."""

import os
from dataclasses import dataclass

from harness.core.errors import PreflightError
from harness.core.records import Gpu, ModelFacts
from harness.profile.schema import Profile
from harness.profile.serving import AttachServer, AutoServer, TorchServer, VllmServer
from harness.server import embedded, vllm
from harness.server.attach import AttachServerRunner
from harness.server.base import ModelServer, Needs
from harness.server.environment import VLLM_PYTHON_VARIABLE, find_python, inspect


@dataclass(frozen=True, slots=True)
class Choice:
    """Which server, and why; both are printed and recorded.

    Attributes:
        server: ready to `preflight` and `start`.
        kind: `vllm`, `torch` or `attach`.
        reason: one sentence.
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
    needs: Needs | None = None,
) -> Choice:
    """Resolve the profile's server.

    Args:
        profile: the whole profile.
        facts: of its model.
        gpus: boards of the deployment (`server.gpus` resolved); empty on CPU.
        nvidia_present: this machine has an NVIDIA device, whether or not it can be used.
        needs: what the workload asks for.

    Raises:
        PreflightError: `auto`, and there is a GPU that cannot be used. Falling back to the CPU
            would measure something else than was meant.
    """
    wants = needs or Needs()
    server = profile.server
    if isinstance(server, AutoServer):
        server, reason = _resolve(server, gpus, nvidia_present)
    else:
        reason = "the profile says so"
    if isinstance(server, VllmServer):
        return Choice(
            vllm.VllmServerRunner(profile, server, facts, gpus, nvidia_present, wants),
            "vllm",
            reason,
        )
    if isinstance(server, TorchServer):
        return Choice(
            embedded.TorchServerRunner(profile, server, facts, gpus, nvidia_present, wants),
            "torch",
            reason,
        )
    assert isinstance(server, AttachServer)
    return Choice(AttachServerRunner(profile, server, facts, gpus, wants), "attach", reason)


def kv_capacity(
    server: VllmServer | TorchServer | AttachServer | AutoServer, facts: ModelFacts
) -> tuple[float | None, str]:
    """Tokens that the KV cache of all replicas holds, and how that was found, without starting a
    server; None with the reason.

    Args:
        server: the profile's.
        facts: of its model, the size of a token's keys and values known.

    Raises:
        PreflightError: the boards that the profile names cannot be used.
    """
    match server:
        case VllmServer():
            return vllm.kv_capacity(server, facts)
        case TorchServer():
            return embedded.kv_capacity(server)
        case _:
            return None, "the server sizes its cache itself"


def _resolve(
    server: AutoServer, gpus: tuple[Gpu, ...], nvidia_present: bool
) -> tuple[VllmServer | TorchServer, str]:
    settings = server.model_dump(exclude={"kind"})
    if not nvidia_present and not gpus:
        return (
            TorchServer(kind="torch", device="cpu", **settings),
            "auto: there is no GPU, so the embedded engine serves on the CPU",
        )
    if not gpus:
        raise PreflightError(
            "this machine has an NVIDIA device, and none can be used",
            cause="the driver does not answer, or CUDA_VISIBLE_DEVICES hides the GPUs",
            next_step=(
                "check `nvidia-smi`, in a container `--gpus all`; or say server: {kind: torch,"
                " device: cpu} to measure the CPU"
            ),
        )
    environment = inspect(find_python(os.environ.get(VLLM_PYTHON_VARIABLE)))
    if environment.vllm_version is None:
        raise PreflightError(
            f"there is a GPU ({gpus[0].name or gpus[0].uuid}), and vLLM is not installed for"
            f" {environment.python}",
            next_step=(
                "install it (`pip install vllm`, best in an environment of its own: server: {kind:"
                " vllm, python: PATH}), or say server: {kind: torch} for the embedded engine"
            ),
        )
    return (
        VllmServer(kind="vllm", device="cuda", **settings),
        f"auto: a GPU is visible and vLLM {environment.vllm_version} is installed",
    )
