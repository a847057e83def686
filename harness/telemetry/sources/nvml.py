"""NVIDIA boards by NVML: the energy counter, and power by the first call that answers."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pynvml

from harness.core.clock import now_ns
from harness.core.records import Boundary
from harness.hardware import nvml
from harness.telemetry.sources.base import DeviceProbe, PowerProbe, PowerReading, ReadFailures, What

# A counter of exactly 0 and a board that draws 0 W are ways of saying "not measured" (seen on
# virtual GPUs): both count as no answer.
INSTANT: Final = "nvml-instant"
AVERAGE: Final = "nvml-average"
USAGE: Final = "nvml-usage"
COUNTER: Final = "nvml-counter"

_GONE: Final = (pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
_LIBRARY: Final = re.compile(r"\S*libnvidia-ml\.so\S*")

Read = Callable[[Any], float | None]


@dataclass(frozen=True, slots=True)
class _Channel:
    """One reading of one board that was found to answer."""

    uuid: str
    boundary: Boundary
    source: str
    read: Read


class NvmlPowerSource:
    """NVIDIA boards by UUID.

    Power: field 186 (instant), else field 185 (one-second average), else nvmlDeviceGetPowerUsage
    (average or instant, depending on the board). Energy: nvmlDeviceGetTotalEnergyConsumption, mJ
    since the driver was loaded. Which of them a board has is found by trying. The same fields at
    module scope are read beside it where they answer (Grace superchips: processor and GPU
    together), as a boundary of their own. MIG instances stand for their board, once: the board's
    power covers all of them.

    Args:
        uuids: of the boards; those of MIG instances are folded.
        power_interval_s: between two readings of power.
        energy_interval_s: between two readings of the counter, which is slow to read (2.4 ms was
            seen).
        clock: monotonic nanoseconds.
    """

    name = "nvml"

    def __init__(
        self,
        uuids: Sequence[str],
        *,
        power_interval_s: float = 0.1,
        energy_interval_s: float = 1.0,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self.trouble = ReadFailures()
        self._uuids = tuple(uuids)
        self._wanted_s: Mapping[What, float] = {
            "power": power_interval_s,
            "energy": energy_interval_s,
        }
        self._clock = clock
        self._handles: dict[str, Any] = {}
        self._channels: dict[What, list[_Channel]] = {"power": [], "energy": []}
        self._stack = ExitStack()

    @property
    def intervals_s(self) -> Mapping[What, float]:
        """Two loops: power, and the counter, which must not hold it up."""
        return {what: self._wanted_s[what] for what, channels in self._channels.items() if channels}

    def probe(self) -> PowerProbe:
        """Try every call on every board."""
        try:
            self._stack.enter_context(nvml.session())
        except nvml.NvmlUnavailableError as error:
            return PowerProbe(self.name, why_not=str(error), origin=library_path())
        uuids = tuple(dict.fromkeys(nvml.board_uuid(uuid) or uuid for uuid in self._uuids))
        devices = tuple(device for uuid in uuids for device in self._probe_board(uuid))
        why_not = "" if uuids else "the deployment has no board on this machine"
        return PowerProbe(
            self.name, devices, why_not, library_path(), nvml.double(self._handles.values())
        )

    def _probe_board(self, uuid: str) -> list[DeviceProbe]:
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            return [
                DeviceProbe(
                    uuid, Boundary.GPU_BOARD, None, None, f"NVML does not know this board: {error}"
                )
            ]
        self._handles[uuid] = handle
        name = nvml.text(nvml.ask(pynvml.nvmlDeviceGetName, handle))
        mig = nvml.ask(pynvml.nvmlDeviceGetMigMode, handle)
        power, missing = self._first_answer(uuid, Boundary.GPU_BOARD, _POWER_CALLS)
        energy: str | None = None
        try:
            if pynvml.nvmlDeviceGetTotalEnergyConsumption(handle):
                energy = COUNTER
                self._channels["energy"].append(
                    _Channel(uuid, Boundary.GPU_BOARD, COUNTER, _counter_mj)
                )
            else:
                missing.append(f"{COUNTER}: stands at 0, so it does not count")
        except pynvml.NVMLError as error:
            missing.append(f"{COUNTER}: {error}")
        if mig is not None and mig[0]:
            missing.append(
                "the board is divided (MIG): its power is that of all instances together, and there"
                " is none of one"
            )
        board = DeviceProbe(uuid, Boundary.GPU_BOARD, power, energy, "; ".join(missing), name)
        module_power, _ = self._first_answer(uuid, Boundary.MODULE, _MODULE_CALLS)
        if module_power is None:
            return [board]
        module = DeviceProbe(
            uuid,
            Boundary.MODULE,
            module_power,
            None,
            "the energy counter covers the GPU alone",
            name,
        )
        # Superchips whose GPU scope does not answer have the module's power only.
        return [board, module] if power or energy else [module]

    def _first_answer(
        self, uuid: str, boundary: Boundary, calls: Mapping[str, Read]
    ) -> tuple[str | None, list[str]]:
        missing: list[str] = []
        for source, read in calls.items():
            try:
                if read(self._handles[uuid]):
                    self._channels["power"].append(_Channel(uuid, boundary, source, read))
                    return source, missing
                missing.append(f"{source}: not measured")
            except pynvml.NVMLError as error:
                missing.append(f"{source}: {error}")
        return None, missing

    def sample(self, what: What) -> tuple[PowerReading, ...]:
        """Power of all boards that tell it, or all counters."""
        readings = []
        for channel in self._channels[what]:
            before = self._clock()
            try:
                milli = channel.read(self._handles[channel.uuid])
            except pynvml.NVMLError as error:
                self.trouble.note(f"{channel.source} of {channel.uuid}: {error}")
                if error.value in _GONE:
                    self._start_again()
                continue
            t_ns = (before + self._clock()) // 2
            if not milli:
                self.trouble.note(f"{channel.source} of {channel.uuid}: no value")
                continue
            power_w, energy_j = (milli / 1000, None) if what == "power" else (None, milli / 1000)
            readings.append(
                PowerReading(
                    t_ns, channel.boundary, channel.uuid, power_w, energy_j, channel.source
                )
            )
        return tuple(readings)

    def _start_again(self) -> None:
        """The driver was reloaded under the library: initialise anew, so that readings come back;
        the counter starts at 0 then.
        """
        try:
            pynvml.nvmlInit()
            for uuid in self._handles:
                self._handles[uuid] = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            self.trouble.note(f"NVML does not come back: {error}")

    def close(self) -> None:
        """Shut NVML down."""
        self._stack.close()


def library_path() -> str | None:
    """The NVML library that this process has loaded, or None."""
    try:
        found = _LIBRARY.search(
            Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        )
    except OSError:
        return None
    return None if found is None else found[0]


def _field_mw(field_id: int, scope: int) -> Read:
    def read(handle: Any) -> float | None:  # noqa: ANN401 - an NVML handle
        return nvml.field_value(pynvml.nvmlDeviceGetFieldValues(handle, [(field_id, scope)])[0])

    return read


def _usage_mw(handle: Any) -> float | None:  # noqa: ANN401 - an NVML handle
    return float(pynvml.nvmlDeviceGetPowerUsage(handle))


def _counter_mj(handle: Any) -> float | None:  # noqa: ANN401 - an NVML handle
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))


_POWER_CALLS: Final[Mapping[str, Read]] = {
    INSTANT: _field_mw(pynvml.NVML_FI_DEV_POWER_INSTANT, pynvml.NVML_POWER_SCOPE_GPU),
    AVERAGE: _field_mw(pynvml.NVML_FI_DEV_POWER_AVERAGE, pynvml.NVML_POWER_SCOPE_GPU),
    USAGE: _usage_mw,
}
_MODULE_CALLS: Final[Mapping[str, Read]] = {
    INSTANT: _field_mw(pynvml.NVML_FI_DEV_POWER_INSTANT, pynvml.NVML_POWER_SCOPE_MODULE),
    AVERAGE: _field_mw(pynvml.NVML_FI_DEV_POWER_AVERAGE, pynvml.NVML_POWER_SCOPE_MODULE),
}
