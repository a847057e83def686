"""The set of boards of a deployment: resolved to UUIDs once, the same for the server, the power
readings and every per-GPU figure.

NVML itself ignores CUDA_VISIBLE_DEVICES (design: a run must not count a neighbour's board), so it
is applied here.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pynvml

from harness.core.errors import PreflightError
from harness.core.records import Gpu
from harness.hardware.nvml import NvmlUnavailableError, ask, board_uuid, is_simulated, session, text

Selection = Literal["all", "none"] | Sequence[str | int]

_NONE_FROM_HERE: Final = (
    "-1",
    "nodevfiles",
    "none",
    "void",
)  # CUDA stops at -1; Slurm and the container runtime write the words
_NVIDIA_PCI_VENDOR: Final = "0x10de"
# PCI base class 03h: display controllers, 3D controllers (data-centre boards) among them
_PCI_DISPLAY_CLASS: Final = "0x03"


@dataclass(frozen=True, slots=True)
class NvidiaPresence:
    """Whether there is an NVIDIA device, and whether it can be used.

    Attributes:
        present: a driver shows at least one device.
        usable: NVML answers for at least one.
        why: what is wrong, or what was looked for in vain; None when usable.
        count: boards that NVML sees.
        driver_version: None when NVML does not answer.
    """

    present: bool
    usable: bool
    why: str | None
    count: int = 0
    driver_version: str | None = None


def nvidia_device_present(root: Path = Path("/")) -> NvidiaPresence:
    """Look for NVIDIA devices: NVML first, then what the kernel shows (device files, the driver's
    /proc, the PCI bus).

    Args:
        root: where /dev, /proc and /sys are (tests).
    """
    try:
        with session():
            count = pynvml.nvmlDeviceGetCount()
            driver = text(ask(pynvml.nvmlSystemGetDriverVersion))
            why = None
    except NvmlUnavailableError as error:
        count, driver, why = 0, None, str(error)
    except pynvml.NVMLError as error:
        count, driver, why = 0, None, f"NVML says: {error}"
    if count:
        return NvidiaPresence(
            present=True, usable=True, why=None, count=count, driver_version=driver
        )
    traces = [str(path) for path in sorted((root / "dev").glob("nvidia[0-9]*"))]
    traces += [str(path) for path in sorted((root / "proc/driver/nvidia/gpus").glob("*"))]
    if traces:
        return NvidiaPresence(
            present=True,
            usable=False,
            why=f"{', '.join(traces[:3])} is there, but {why or 'NVML sees no device'}",
        )
    if _nvidia_on_pci(root):
        return NvidiaPresence(
            present=False,
            usable=False,
            why="an NVIDIA board is on the PCI bus, but no NVIDIA driver is loaded",
        )
    return NvidiaPresence(
        present=False,
        usable=False,
        why="no NVIDIA device: NVML sees none, and there is no /dev/nvidia0",
    )


def _nvidia_on_pci(root: Path) -> bool:
    for vendor in (root / "sys/bus/pci/devices").glob("*/vendor"):
        try:
            if vendor.read_text().strip() == _NVIDIA_PCI_VENDOR and vendor.with_name(
                "class"
            ).read_text().startswith(_PCI_DISPLAY_CLASS):
                return True
        except OSError:
            continue
    return False


def list_gpus() -> tuple[Gpu, ...]:
    """All boards that NVML sees, in its order (that of nvidia-smi).

    Raises:
        NvmlUnavailableError: NVML cannot be used here.
    """
    with session():
        driver = text(ask(pynvml.nvmlSystemGetDriverVersion))
        return tuple(
            gpu
            for i in range(ask(pynvml.nvmlDeviceGetCount) or 0)
            if (gpu := _describe(i, driver)) is not None
        )


def _describe(index: int, driver: str | None) -> Gpu | None:
    handle = ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    uuid = None if handle is None else text(ask(pynvml.nvmlDeviceGetUUID, handle))
    if uuid is None:
        return None  # fallen off the bus, or not ours to open
    memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return Gpu(
        uuid=uuid,
        index=index,
        name=text(ask(pynvml.nvmlDeviceGetName, handle)),
        memory_bytes=None if memory is None else int(memory.total),
        power_limit_w=_watts(ask(pynvml.nvmlDeviceGetPowerManagementLimit, handle)),
        power_limit_default_w=_watts(ask(pynvml.nvmlDeviceGetPowerManagementDefaultLimit, handle)),
        sm_clock_max_mhz=ask(pynvml.nvmlDeviceGetMaxClockInfo, handle, pynvml.NVML_CLOCK_SM),
        driver_version=driver,
    )


def simulated_by(gpus: Iterable[Gpu]) -> str | None:
    """Why one of these boards is no real hardware, or None."""
    return next(
        (why for gpu in gpus if (why := is_simulated(gpu.name, gpu.driver_version)) is not None),
        None,
    )


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def resolve_gpus(selection: Selection, env: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """The boards that a profile names, within those that the environment leaves visible.

    Args:
        selection: `all` (every visible board; none on a machine without), `none`, or indices (as
            nvidia-smi counts) and UUIDs, of which a part from the start is enough where it is
            unambiguous. MIG instances stand for their board.
        env: for CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER.

    Returns:
        Each board once: in NVML's order for `all` without CUDA_VISIBLE_DEVICES, else in the order
        in which they were named.

    Raises:
        PreflightError: a device is there and cannot be used, or what was named is not there, not
            visible or ambiguous.
    """
    if selection == "none":
        return ()
    try:
        boards = list_gpus()
        why = "NVML sees no device"
    except NvmlUnavailableError as error:
        boards, why = (), str(error)
    if not boards:
        presence = nvidia_device_present()
        if presence.present:
            raise PreflightError(
                "an NVIDIA device is present, but it cannot be used",
                cause=presence.why,
                next_step=(
                    "make `nvidia-smi` work here (driver, container flags, permissions), or set"
                    " server.gpus: none and device: cpu"
                ),
            )
        if selection == "all":
            return ()
        raise PreflightError(
            f"server.gpus names {_names(selection)}, but there is no NVIDIA device here",
            cause=why,
            next_step="set server.gpus: all or none, or run on the machine that has them",
        )
    visible = _visible(boards, env)
    if selection == "all":
        return visible
    chosen = []
    for item in selection:
        board = _find(str(item).strip(), boards)
        if board not in visible:
            raise PreflightError(
                f"GPU {item} ({board.uuid}) is hidden by"
                f" CUDA_VISIBLE_DEVICES={env.get('CUDA_VISIBLE_DEVICES')}",
                cause="another job may hold it; indices in server.gpus are those of nvidia-smi",
                next_step=(
                    f"choose from {_names(gpu.index for gpu in visible) or 'no board at all'}, or"
                    " change CUDA_VISIBLE_DEVICES"
                ),
            )
        chosen.append(board)
    return tuple(dict.fromkeys(chosen))


def _visible(boards: tuple[Gpu, ...], env: Mapping[str, str]) -> tuple[Gpu, ...]:
    wish = env.get("CUDA_VISIBLE_DEVICES")
    if wish is None:
        return boards
    visible = []
    for raw in wish.split(","):
        token = raw.strip()
        if not token or token.lower() in _NONE_FROM_HERE:
            break
        if (
            token.isdigit()
            and len({gpu.name for gpu in boards}) > 1
            and env.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"
        ):
            raise PreflightError(
                f"CUDA_VISIBLE_DEVICES={wish} does not say which boards are meant",
                cause=(
                    "the boards of this machine differ, and CUDA counts the fastest first unless"
                    " told otherwise"
                ),
                next_step=(
                    "export CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the boards by UUID"
                    " (nvidia-smi -L)"
                ),
            )
        visible.append(_find(token, boards, where=f"CUDA_VISIBLE_DEVICES={wish}"))
    return tuple(dict.fromkeys(visible))


def _find(token: str, boards: tuple[Gpu, ...], where: str = "server.gpus") -> Gpu:
    if token.isdigit():
        matches = [gpu for gpu in boards if gpu.index == int(token)]
    elif token.upper().startswith("MIG-"):
        matches = _board_of_mig(token, boards)
    else:
        prefix = token.lower() if token.lower().startswith("gpu-") else f"gpu-{token.lower()}"
        matches = [gpu for gpu in boards if gpu.uuid.lower().startswith(prefix)]
    if len(matches) == 1:
        return matches[0]
    raise PreflightError(
        f"{where} names {token!r}, which"
        f" {'could be any of several boards' if matches else 'is no board of this machine'}",
        cause="there are: "
        + "; ".join(f"{gpu.index} = {gpu.uuid} {gpu.name or ''}".rstrip() for gpu in boards),
        next_step="use an index or a UUID of that list (nvidia-smi -L prints it too)",
    )


def _board_of_mig(token: str, boards: tuple[Gpu, ...]) -> list[Gpu]:
    with session():
        parent = board_uuid(token)
    return [gpu for gpu in boards if parent is not None and gpu.uuid.lower() == parent.lower()]


def _names(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items)
