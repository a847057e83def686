"""NVIDIA GPUs through NVML: the energy counter, and power by the first call that works."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Final

import pynvml

from harness.core.clock import now_ns
from harness.core.records import Boundary
from harness.hardware import nvml
from harness.telemetry.sources.base import DeviceProbe, PowerProbe, PowerReading, ReadFailures, What

# A counter of exactly 0 and a GPU that draws 0 W mean "not measured" (seen on virtual GPUs): both
# count as no value.
INSTANT: Final = "nvml-instant"
AVERAGE: Final = "nvml-average"
USAGE: Final = "nvml-usage"
COUNTER: Final = "nvml-counter"

_GONE: Final = (pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
_LIBRARY: Final = re.compile(r"\S*libnvidia-ml\.so\S*")

Read = Callable[[Any], float | None]


@dataclass(frozen=True, slots=True)
class _Channel:
    """One working reading of one GPU."""

    uuid: str
    boundary: Boundary
    source: str
    read: Read


@dataclass(eq=False)
class NvmlPowerSource:
    """NVIDIA GPUs by UUID. Which calls a GPU supports is found by trying.

    - Power: field 186 (instant), else field 185 (one-second average), else nvmlDeviceGetPowerUsage
      (average or instant, depending on the GPU).
    - Energy: nvmlDeviceGetTotalEnergyConsumption, mJ since the driver was loaded.
    - The same fields at module scope, if they work (Grace superchips: processor and GPU together),
      as a separate boundary.

    A MIG instance selects its GPU, once: the GPU's power covers all instances.

    Attributes:
        energy_interval_s: between two readings of the counter, which is slow (2.4 ms was seen).
        clock: monotonic nanoseconds.
    """

    name = "nvml"
    uuids: Sequence[str]
    _: KW_ONLY
    power_interval_s: float = 0.1
    energy_interval_s: float = 1.0
    clock: Callable[[], int] = now_ns
    trouble: ReadFailures = field(default_factory=ReadFailures, init=False)

    def __post_init__(self) -> None:
        self._handles: dict[str, Any] = {}
        self._channels: dict[What, list[_Channel]] = {"power": [], "energy": []}
        self._stack = ExitStack()

    @property
    def intervals_s(self) -> Mapping[What, float]:
        """Two loops: the slow counter must not delay power."""
        all_s: dict[What, float] = {
            "power": self.power_interval_s,
            "energy": self.energy_interval_s,
        }
        return {what: interval_s for what, interval_s in all_s.items() if self._channels[what]}

    def probe(self) -> PowerProbe:
        try:
            self._stack.enter_context(nvml.session())
        except nvml.NvmlUnavailableError as error:
            return PowerProbe(self.name, why_not=str(error), origin=library_path())
        uuids = tuple(dict.fromkeys(nvml.board_uuid(uuid) or uuid for uuid in self.uuids))
        devices = tuple(device for uuid in uuids for device in self._probe_board(uuid))
        why_not = "" if uuids else "the deployment has no GPU on this machine"
        double = nvml.double(self._handles.values())
        return PowerProbe(self.name, devices, why_not, library_path(), double)

    def _probe_board(self, uuid: str) -> list[DeviceProbe]:
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            why_not = f"NVML cannot find this GPU: {error}"
            return [DeviceProbe(uuid, Boundary.GPU_BOARD, None, None, why_not)]
        self._handles[uuid] = handle
        name = nvml.text(nvml.ask(pynvml.nvmlDeviceGetName, handle))
        mig = nvml.ask(pynvml.nvmlDeviceGetMigMode, handle)
        power, missing = self._first_answer(uuid, Boundary.GPU_BOARD, _POWER_CALLS)
        energy: str | None = None
        try:
            if pynvml.nvmlDeviceGetTotalEnergyConsumption(handle):
                energy = COUNTER
                channel = _Channel(uuid, Boundary.GPU_BOARD, COUNTER, _counter_mj)
                self._channels["energy"].append(channel)
            else:
                missing.append(f"{COUNTER}: is 0, so it does not count")
        except pynvml.NVMLError as error:
            missing.append(f"{COUNTER}: {error}")
        if mig is not None and mig[0]:
            missing.append("MIG is enabled: power is that of all instances together")
        board = DeviceProbe(uuid, Boundary.GPU_BOARD, power, energy, "; ".join(missing), name)
        module_power, _ = self._first_answer(uuid, Boundary.MODULE, _MODULE_CALLS)
        if module_power is None:
            return [board]
        why_not = "the energy counter covers the GPU alone"
        module = DeviceProbe(uuid, Boundary.MODULE, module_power, None, why_not, name)
        # Superchips without GPU scope have the module's power only.
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
        readings = []
        for channel in self._channels[what]:
            before = self.clock()
            try:
                milli = channel.read(self._handles[channel.uuid])
            except pynvml.NVMLError as error:
                self.trouble.note(f"{channel.source} of {channel.uuid}: {error}")
                if error.value in _GONE:
                    self._start_again()
                continue
            t_ns = (before + self.clock()) // 2
            if not milli:
                self.trouble.note(f"{channel.source} of {channel.uuid}: no value")
                continue
            power_w, energy_j = (milli / 1000, None) if what == "power" else (None, milli / 1000)
            where = channel.boundary, channel.uuid
            readings.append(PowerReading(t_ns, *where, power_w, energy_j, channel.source))
        return tuple(readings)

    def _start_again(self) -> None:
        """Reinitialize after the driver was reloaded; the counter then starts at 0."""
        try:
            pynvml.nvmlInit()
            for uuid in self._handles:
                self._handles[uuid] = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            self.trouble.note(f"NVML cannot be reinitialized: {error}")

    def close(self) -> None:
        self._stack.close()


def library_path() -> str | None:
    """The NVML library that this process has loaded, or None."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return found[0] if (found := _LIBRARY.search(maps)) else None


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
