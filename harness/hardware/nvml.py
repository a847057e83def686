"""NVML through the official nvidia-ml-py: sessions, error reasons, and None for unreported
values.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import pynvml

T = TypeVar("T")

_REASONS: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "the NVML library (libnvidia-ml.so.1) was not found; start containers with --gpus"
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "driver and NVML library have different versions; reboot after a driver update"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission to access the NVIDIA driver",
}


class NvmlUnavailableError(Exception):
    """NVML cannot be used here; the text is the reason."""


@contextmanager
def session() -> Iterator[None]:
    """NVML, initialized within the block. Sessions may nest. Raises NvmlUnavailableError without a
    library or driver, or if their versions differ.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        reason = _REASONS.get(error.value) or f"NVML error: {error}"
        raise NvmlUnavailableError(reason) from error
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def ask(call: Callable[..., T], *args: Any) -> T | None:  # noqa: ANN401 - NVML's own argument types
    """The result of an NVML call, or None if this GPU or driver does not provide it, or returns
    text that is not UTF-8.
    """
    try:
        return call(*args)
    except (pynvml.NVMLError, UnicodeDecodeError):
        return None


def text(value: str | bytes | None) -> str | None:
    """An NVML string, which older bindings return as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


DOUBLE_MARKS: Final = ("TEST DOUBLE", "-double")
"""Parts of the GPU names and of the driver version in this project's double of the library; real
ones have neither.
"""


def is_simulated(name: str | None, driver: str | None) -> str | None:
    """Reason why a GPU of this name and driver is simulated, or None."""
    if name is not None and DOUBLE_MARKS[0] in name:
        return f"a GPU is named {name!r}: a test double of the NVML library"
    if driver is not None and driver.endswith(DOUBLE_MARKS[1]):
        return f"the driver version is {driver!r}: a test double of the NVML library"
    return None


def double(handles: Iterable[Any]) -> str | None:
    """Reason why the hardware in this session is simulated, or None."""
    driver = text(ask(pynvml.nvmlSystemGetDriverVersion))
    names = (None, *(text(ask(pynvml.nvmlDeviceGetName, handle)) for handle in handles))
    return next((why for name in names if (why := is_simulated(name, driver))), None)


def board_uuid(uuid: str) -> str | None:
    """UUID of the GPU that contains a MIG instance; a GPU's own UUID unchanged; None if unknown to
    NVML.
    """
    if not uuid.upper().startswith("MIG-"):
        return uuid
    if uuid[4:].upper().startswith("GPU-"):  # drivers before 470: MIG-GPU-<uuid>/<gi>/<ci>
        return uuid[4:].split("/", 1)[0]
    instance = ask(pynvml.nvmlDeviceGetHandleByUUID, uuid)
    if instance is None:
        return None
    handle = ask(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, instance)
    return None if handle is None else text(ask(pynvml.nvmlDeviceGetUUID, handle))


def field_value(field: Any) -> float | None:  # noqa: ANN401 - a ctypes structure of pynvml
    """The number in a result of nvmlDeviceGetFieldValues, or None if the driver has none for that
    field.
    """
    if field.nvmlReturn != pynvml.NVML_SUCCESS:
        return None
    member = _MEMBERS.get(field.valueType)
    return None if member is None else float(getattr(field.value, member))


_MEMBERS: Final = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
}
