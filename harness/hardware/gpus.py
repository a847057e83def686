"""The GPUs of a deployment, resolved to UUIDs once: the same for the server, power readings and
every per-GPU metric.

NVML ignores CUDA_VISIBLE_DEVICES, so it is applied here: a run must not count another job's GPU.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pynvml

from harness.core.errors import PreflightError
from harness.core.records import Gpu
from harness.hardware.nvml import NvmlUnavailableError, ask, board_uuid, is_simulated, session, text

Selection = Literal["all", "none"] | Sequence[str | int]

# CUDA stops at -1; Slurm and the container runtime write the words.
_NONE_FROM_HERE: Final = ("-1", "nodevfiles", "none", "void")
_NVIDIA_PCI_VENDOR: Final = "0x10de"
# PCI base class 03h: display controllers, including 3D controllers (data-center GPUs)
_PCI_DISPLAY_CLASS: Final = "0x03"


@dataclass(frozen=True, slots=True)
class NvidiaPresence:
    """Whether there is an NVIDIA device, and whether it can be used.

    Attributes:
        present: a driver shows at least one device.
        usable: NVML reports at least one.
        why: what is wrong or was not found; None when usable.
    """

    present: bool
    usable: bool
    why: str | None
    count: int = 0
    driver_version: str | None = None


def nvidia_device_present(root: Path = Path("/")) -> NvidiaPresence:
    """Look for NVIDIA devices: NVML first, then the kernel's traces under `root` (/dev, the
    driver's /proc, the PCI bus).
    """
    why = "NVML reports no device"
    try:
        with session():
            if count := pynvml.nvmlDeviceGetCount():
                driver = text(ask(pynvml.nvmlSystemGetDriverVersion))
                return NvidiaPresence(True, True, None, count, driver)
    except NvmlUnavailableError as error:
        why = str(error)
    except pynvml.NVMLError as error:
        why = f"NVML error: {error}"
    traces = [str(path) for path in sorted((root / "dev").glob("nvidia[0-9]*"))]
    traces += [str(path) for path in sorted((root / "proc/driver/nvidia/gpus").glob("*"))]
    if traces:
        why = f"{', '.join(traces[:3])} exists, but {why}"
    elif _nvidia_on_pci(root):
        why = "an NVIDIA GPU is on the PCI bus, but no NVIDIA driver is loaded"
    else:
        why = f"no NVIDIA device: {why}, and there is no /dev/nvidia0"
    return NvidiaPresence(present=bool(traces), usable=False, why=why)


def _nvidia_on_pci(root: Path) -> bool:
    for vendor in (root / "sys/bus/pci/devices").glob("*/vendor"):
        with suppress(OSError):
            kind = vendor.with_name("class").read_text()
            if vendor.read_text().strip() == _NVIDIA_PCI_VENDOR and kind.startswith(
                _PCI_DISPLAY_CLASS
            ):
                return True
    return False


def list_gpus() -> tuple[Gpu, ...]:
    """All GPUs that NVML reports, in its order (that of nvidia-smi). Raises
    NvmlUnavailableError.
    """
    with session():
        driver = text(ask(pynvml.nvmlSystemGetDriverVersion))
        indices = range(ask(pynvml.nvmlDeviceGetCount) or 0)
        return tuple(filter(None, (_describe(i, driver) for i in indices)))


def _describe(index: int, driver: str | None) -> Gpu | None:
    handle = ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    uuid = None if handle is None else text(ask(pynvml.nvmlDeviceGetUUID, handle))
    if uuid is None:
        return None  # fallen off the bus, or no permission
    memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    limit_mw = ask(pynvml.nvmlDeviceGetPowerManagementLimit, handle)
    default_mw = ask(pynvml.nvmlDeviceGetPowerManagementDefaultLimit, handle)
    return Gpu(
        uuid=uuid,
        index=index,
        name=text(ask(pynvml.nvmlDeviceGetName, handle)),
        memory_bytes=None if memory is None else int(memory.total),
        power_limit_w=None if limit_mw is None else limit_mw / 1000,
        power_limit_default_w=None if default_mw is None else default_mw / 1000,
        sm_clock_max_mhz=ask(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM),
        driver_version=driver,
    )


def simulated_by(gpus: Iterable[Gpu]) -> str | None:
    """Reason why one of these GPUs is simulated, or None."""
    return next((why for gpu in gpus if (why := is_simulated(gpu.name, gpu.driver_version))), None)


def resolve_gpus(selection: Selection, env: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """The GPUs that a profile names, within those that the environment leaves visible.

    Args:
        selection: `all` (every visible GPU; none on a machine without), `none`, or indices (as in
            nvidia-smi) and UUIDs or unambiguous prefixes of them. A MIG instance selects its GPU.
        env: for CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER.

    Returns:
        Each GPU once, in the order named; `all` without CUDA_VISIBLE_DEVICES: in NVML's order.

    Raises:
        PreflightError: a device cannot be used, or a named one is missing, hidden or ambiguous.
    """
    if selection == "none":
        return ()
    gpus: tuple[Gpu, ...] = ()
    with suppress(NvmlUnavailableError):
        gpus = list_gpus()
    if not gpus:
        presence = nvidia_device_present()
        if presence.present:
            raise PreflightError(
                "an NVIDIA device is present, but it cannot be used",
                cause=presence.why,
                next_step="fix `nvidia-smi` (driver, container flags, permissions), or set"
                " server.gpus: none and device: cpu",
            )
        if selection == "all":
            return ()
        raise PreflightError(
            f"server.gpus names {_names(selection)}, but there is no NVIDIA device here",
            cause=presence.why,
            next_step="set server.gpus: all or none, or run on a machine with these GPUs",
        )
    visible = _visible(gpus, env)
    if selection == "all":
        return visible
    chosen = []
    for item in selection:
        gpu = _find(str(item).strip(), gpus)
        if gpu not in visible:
            raise PreflightError(
                f"GPU {item} ({gpu.uuid}) is hidden by"
                f" CUDA_VISIBLE_DEVICES={env.get('CUDA_VISIBLE_DEVICES')}",
                cause="another job may use it; server.gpus takes indices as in nvidia-smi",
                next_step="change CUDA_VISIBLE_DEVICES, or choose from:"
                f" {_names(gpu.index for gpu in visible) or 'none'}",
            )
        chosen.append(gpu)
    return tuple(dict.fromkeys(chosen))


def _visible(gpus: tuple[Gpu, ...], env: Mapping[str, str]) -> tuple[Gpu, ...]:
    wish = env.get("CUDA_VISIBLE_DEVICES")
    if wish is None:
        return gpus
    visible = []
    for token in map(str.strip, wish.split(",")):
        if not token or token.lower() in _NONE_FROM_HERE:
            break
        if (
            token.isdigit()
            and len({gpu.name for gpu in gpus}) > 1
            and env.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"
        ):
            raise PreflightError(
                f"CUDA_VISIBLE_DEVICES={wish} is ambiguous",
                cause="this machine has different GPUs, and CUDA's default order is fastest first",
                next_step="export CUDA_DEVICE_ORDER=PCI_BUS_ID, or use UUIDs (nvidia-smi -L)",
            )
        visible.append(_find(token, gpus, where=f"CUDA_VISIBLE_DEVICES={wish}"))
    return tuple(dict.fromkeys(visible))


def _find(token: str, gpus: tuple[Gpu, ...], where: str = "server.gpus") -> Gpu:
    if token.isdigit():
        matches = [gpu for gpu in gpus if gpu.index == int(token)]
    elif token.upper().startswith("MIG-"):
        with session():
            parent = board_uuid(token)
        matches = [gpu for gpu in gpus if parent and gpu.uuid.lower() == parent.lower()]
    else:
        prefix = token.lower() if token.lower().startswith("gpu-") else f"gpu-{token.lower()}"
        matches = [gpu for gpu in gpus if gpu.uuid.lower().startswith(prefix)]
    if len(matches) == 1:
        return matches[0]
    which = "matches several GPUs" if matches else "is not a GPU of this machine"
    known = (f"{gpu.index} = {gpu.uuid} {gpu.name or ''}".rstrip() for gpu in gpus)
    raise PreflightError(
        f"{where} names {token!r}, which {which}",
        cause=f"available: {'; '.join(known)}",
        next_step="use an index or UUID from that list",
    )


def _names(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))
