"""Power by a formula, idle + slope x utilization. Not a measurement: the source of every reading is
`modelled`.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import psutil
import pynvml

from harness.core.records import Boundary
from harness.hardware import nvml
from harness.telemetry.sources.base import DeviceProbe, PolledSource, PowerProbe, PowerReading, What


@dataclass(eq=False)
class ModelledPowerSource(PolledSource):
    """Power computed from utilization.

    Attributes:
        of: `cpu`: all processors together; `gpu`: each GPU.
        slope_w: additional power at full utilization.
        source: where the constants come from.
        uuids: of the GPUs.
    """

    name = "modelled"
    of: Literal["cpu", "gpu"]
    _: KW_ONLY
    idle_w: float
    slope_w: float
    boundary: Boundary
    source: str
    uuids: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._handles: dict[str, Any] = {}
        self._cpu_before: tuple[float, float] | None = None
        self._devices: tuple[str, ...] = ()
        self._stack = ExitStack()

    def probe(self) -> PowerProbe:
        origin = (
            f"{self.idle_w:g} W + {self.slope_w:g} W x utilization of the {self.of} ({self.source})"
        )
        if self.of == "gpu":
            try:
                self._stack.enter_context(nvml.session())
            except nvml.NvmlUnavailableError as error:
                return self._missing(error, origin)
            for uuid in self.uuids:
                handle = nvml.ask(pynvml.nvmlDeviceGetHandleByUUID, uuid)
                if handle and nvml.ask(pynvml.nvmlDeviceGetUtilizationRates, handle):
                    self._handles[uuid] = handle
            self._devices = tuple(self._handles)
        else:
            self._cpu_before = _cpu_s()
            self._devices = ("modelled-cpu",)
        self._usable = bool(self._devices)
        why_not = "" if self._devices else "no GPU reports its utilization"
        probes = tuple(
            DeviceProbe(device, self.boundary, "modelled", None) for device in self._devices
        )
        double = nvml.double(self._handles.values()) if self._handles else None
        return PowerProbe(self.name, probes, why_not, origin, double)

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        readings = []
        for device in self._devices:
            ratio = self._cpu_ratio() if self.of == "cpu" else self._gpu_ratio(device)
            if ratio is not None:
                watts = self.idle_w + self.slope_w * ratio
                readings.append(
                    PowerReading(self.clock(), self.boundary, device, watts, None, "modelled")
                )
        return tuple(readings)

    def _cpu_ratio(self) -> float | None:
        before, self._cpu_before = self._cpu_before, _cpu_s()
        if before is None or self._cpu_before[1] <= before[1]:
            return None
        ratio = (self._cpu_before[0] - before[0]) / (self._cpu_before[1] - before[1])
        return min(1.0, max(0.0, ratio))

    def _gpu_ratio(self, uuid: str) -> float | None:
        rates = nvml.ask(pynvml.nvmlDeviceGetUtilizationRates, self._handles[uuid])
        if rates is None:
            self.trouble.note(f"{uuid} reports no utilization")
        return None if rates is None else rates.gpu / 100

    def close(self) -> None:
        self._stack.close()


def _cpu_s() -> tuple[float, float]:
    """(busy, total) seconds of all cores since boot."""
    times = psutil.cpu_times()
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    total = sum(getattr(times, name) for name in names)
    return total - times.idle - times.iowait, total
