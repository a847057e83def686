"""State of NVIDIA GPUs: clocks, temperature, limits, throttling, errors, and other jobs'
processes.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pynvml

from harness.core.clock import now_ns
from harness.hardware import nvml

RUN_MARK: Final = "HARNESS_RUN_ID"
"""Environment variable that every process of a run inherits."""

_EVENT_WAIT_MS: Final = 0
_MOST_EVENTS: Final = 100  # per reading: a failing GPU must not block the loop


class BoardReader:
    """Rows of `tables.BOARDS`, one per GPU. Values that a GPU does not report are left out.

    Args:
        uuids: of the GPUs; a MIG instance's selects its GPU.
        run_id: processes with it in their environment are the run's own. None: own processes cannot
            be identified (the server was already up), so foreign ones are not counted.
    """

    def __init__(self, uuids: Sequence[str], *, run_id: str | None = None) -> None:
        self._uuids = tuple(uuids)
        self._mark = None if run_id is None else f"{RUN_MARK}={run_id}".encode()
        self._handles: dict[str, Any] = {}
        self._events: Any = None
        self._own: set[int] = set()
        self._stack = ExitStack()

    def open(self) -> bool:
        """Find the GPUs and listen for critical errors; whether there is a GPU to read."""
        try:
            self._stack.enter_context(nvml.session())
        except nvml.NvmlUnavailableError:
            return False
        for uuid in dict.fromkeys(nvml.board_uuid(uuid) or uuid for uuid in self._uuids):
            handle = nvml.ask(pynvml.nvmlDeviceGetHandleByUUID, uuid)
            if handle is not None:
                self._handles[uuid] = handle
        self._events = nvml.ask(pynvml.nvmlEventSetCreate)
        if self._events is not None:
            self._stack.callback(nvml.ask, pynvml.nvmlEventSetFree, self._events)
            for handle in self._handles.values():
                nvml.ask(
                    pynvml.nvmlDeviceRegisterEvents,
                    handle,
                    pynvml.nvmlEventTypeXidCriticalError,
                    self._events,
                )
        return bool(self._handles)

    def read(self) -> list[dict[str, Any]]:
        errors = self._critical_errors()
        return [self._row(uuid, handle, errors.get(uuid)) for uuid, handle in self._handles.items()]

    def _row(self, uuid: str, handle: Any, xid: int | None) -> dict[str, Any]:  # noqa: ANN401 - an NVML handle
        row: dict[str, Any] = {"t_ns": now_ns(), "device_id": uuid}
        if xid is not None:
            row["xid"] = xid
        for column, read in _CALLS.items():
            value = nvml.ask(read, handle)
            if value is not None:
                row[column] = value
        if len(row) == len(("t_ns", "device_id")):
            # lost, or NVML was reinitialized: a new handle may work next time
            self._handles[uuid] = nvml.ask(pynvml.nvmlDeviceGetHandleByUUID, uuid) or handle
        foreign = self._foreign(handle)
        if foreign is not None:
            row["foreign_processes"] = foreign
        return row

    def _critical_errors(self) -> dict[str, int]:
        """UUID -> latest XID since the last call."""
        found: dict[str, int] = {}
        for _ in range(_MOST_EVENTS if self._events is not None else 0):
            event = nvml.ask(pynvml.nvmlEventSetWait_v2, self._events, _EVENT_WAIT_MS)
            if event is None:
                break
            uuid = nvml.text(nvml.ask(pynvml.nvmlDeviceGetUUID, event.device))
            if uuid is not None and event.eventType == pynvml.nvmlEventTypeXidCriticalError:
                found[uuid] = int(event.eventData)
        return found

    def _foreign(self, handle: Any) -> int | None:  # noqa: ANN401 - an NVML handle
        if self._mark is None:
            return None
        compute = nvml.ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
        if compute is None:
            return None
        graphics = nvml.ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or ()
        kinds = [self._is_own(pid) for pid in {int(one.pid) for one in (*compute, *graphics)}]
        own, foreign, unknown = (kinds.count(kind) for kind in (True, False, None))
        # A missing process may have another pid here (a container). If an own one was found, pids
        # do match.
        return foreign + unknown if own or not unknown else None

    def _is_own(self, pid: int) -> bool | None:
        """Whether a process is of this run; None if there is no such pid."""
        proc = Path(f"/proc/{pid}")
        if pid in self._own and proc.exists():
            return True
        try:
            environment = (proc / "environ").read_bytes().split(b"\0")
        except PermissionError:
            return False  # another user's
        except OSError:
            return None
        mine = self._mark in environment or pid == os.getpid()
        if mine:
            self._own.add(pid)
        return mine

    def close(self) -> None:
        self._stack.close()


def _clock(kind: int) -> Callable[[Any], int]:
    return lambda handle: int(pynvml.nvmlDeviceGetClockInfo(handle, kind))


def _reasons(handle: Any) -> int:  # noqa: ANN401 - an NVML handle
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError_FunctionNotFound:  # the name before driver 535
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _memory_temperature_c(handle: Any) -> float | None:  # noqa: ANN401 - an NVML handle
    # 0 means "no sensor".
    found = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_MEMORY_TEMP])
    return nvml.field_value(found[0]) or None


_CALLS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "sm_clock_mhz": _clock(pynvml.NVML_CLOCK_SM),
    "mem_clock_mhz": _clock(pynvml.NVML_CLOCK_MEM),
    "temperature_c": lambda handle: float(
        pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
    ),
    "memory_temperature_c": _memory_temperature_c,
    "power_limit_w": lambda handle: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
    "utilization_ratio": lambda handle: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
    "memory_used_bytes": lambda handle: int(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
    "throttle_reasons": _reasons,
    "ecc_uncorrected": lambda handle: int(
        pynvml.nvmlDeviceGetTotalEccErrors(
            handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        )
    ),
}
