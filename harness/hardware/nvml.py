"""NVML by the official nvidia-ml-py: one way in, errors with their reason, and None where a board
does not tell.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import pynvml

T = TypeVar("T")

_REASONS: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "the NVML library (libnvidia-ml.so.1) is not there; in a container: was it started with"
        " --gpus?"
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "driver and NVML library are of different versions; a reboot after a driver update helps"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission to talk to the NVIDIA driver",
}


class NvmlUnavailableError(Exception):
    """NVML cannot be used here; the text says why."""


def explain(error: pynvml.NVMLError) -> str:
    """An NVML error in words."""
    return _REASONS.get(error.value) or f"NVML says: {error}"


@contextmanager
def session() -> Iterator[None]:
    """NVML initialised for the time of the block. Sessions may nest.

    Raises:
        NvmlUnavailableError: no library, no driver, or they do not fit together.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlUnavailableError(explain(error)) from error
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def ask(call: Callable[..., T], *args: Any) -> T | None:  # noqa: ANN401 - NVML's own argument types
    """The answer of an NVML call, or None when this board or driver does not give one."""
    try:
        return call(*args)
    except pynvml.NVMLError:
        return None


def text(value: str | bytes | None) -> str | None:
    """Strings of NVML, which older bindings give as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


DOUBLE_MARKS: Final = ("TEST DOUBLE", "-double")
"""What this project's double of the library says in the names of its boards and in its driver
version: no real one has either.
"""


def is_simulated(name: str | None, driver: str | None) -> str | None:
    """Why a board of this name and driver is no real one, or None."""
    if name is not None and DOUBLE_MARKS[0] in name:
        return f"a board is called {name!r}: a test double of the NVML library"
    if driver is not None and driver.endswith(DOUBLE_MARKS[1]):
        return f"the driver's version is {driver!r}: a test double of the NVML library"
    return None


def double(handles: Iterable[Any]) -> str | None:
    """Why what NVML shows in this session is no real hardware, or None."""
    driver = text(ask(pynvml.nvmlSystemGetDriverVersion))
    names = [text(ask(pynvml.nvmlDeviceGetName, handle)) for handle in handles]
    return next(
        (why for name in (None, *names) if (why := is_simulated(name, driver)) is not None), None
    )


def board_uuid(uuid: str) -> str | None:
    """The UUID of the board that holds a MIG instance; a board's own as it is; None when NVML does
    not know it.
    """
    if not uuid.upper().startswith("MIG-"):
        return uuid
    if uuid[4:].upper().startswith("GPU-"):  # drivers before 470: MIG-GPU-<uuid>/<gi>/<ci>
        return uuid[4:].split("/", 1)[0]
    instance = ask(pynvml.nvmlDeviceGetHandleByUUID, uuid)
    handle = (
        None
        if instance is None
        else ask(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, instance)
    )
    return None if handle is None else text(ask(pynvml.nvmlDeviceGetUUID, handle))


def field_value(field: Any) -> float | None:  # noqa: ANN401 - a ctypes structure of pynvml
    """The number in one answer of nvmlDeviceGetFieldValues, or None when the driver has none for
    that field.
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
