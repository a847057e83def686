"""Power by a formula, idle + slope x utilisation. No measurement: its source says `modelled`
wherever it goes.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import psutil
import pynvml

from harness.core.clock import now_ns
from harness.core.records import Boundary
from harness.hardware import nvml
from harness.telemetry.sources.base import DeviceProbe, PowerProbe, PowerReading, ReadFailures, What


class ModelledPowerSource:
    """Power that follows from utilisation.

    Args:
        of: `cpu`: the machine's processors together; `gpu`: each of the boards.
        idle_w: at no load.
        slope_w: further power at full utilisation.
        boundary: what the formula covers.
        source: where its constants come from.
        uuids: of the boards.
        interval_s: between two readings.
        clock: monotonic nanoseconds.
    """

    name = "modelled"

    def __init__(
        self,
        of: Literal["cpu", "gpu"],
        *,
        idle_w: float,
        slope_w: float,
        boundary: Boundary,
        source: str,
        uuids: Sequence[str] = (),
        interval_s: float = 1.0,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self.trouble = ReadFailures()
        self._of = of
        self._idle_w = idle_w
        self._slope_w = slope_w
        self._boundary = boundary
        self._source = source
        self._uuids = tuple(uuids)
        self._interval_s = interval_s
        self._clock = clock
        self._handles: dict[str, Any] = {}
        self._cpu_before: tuple[float, float] | None = None
        self._devices: tuple[str, ...] = ()
        self._stack = ExitStack()

    @property
    def intervals_s(self) -> Mapping[What, float]:
        return {"power": self._interval_s} if self._devices else {}

    def probe(self) -> PowerProbe:
        """Whether the utilisation can be read."""
        origin = (
            f"{self._idle_w:g} W + {self._slope_w:g} W x utilisation of the {self._of}"
            f" ({self._source})"
        )
        if self._of == "gpu":
            try:
                self._stack.enter_context(nvml.session())
            except nvml.NvmlUnavailableError as error:
                return PowerProbe(self.name, why_not=str(error), origin=origin)
            for uuid in self._uuids:
                handle = nvml.ask(pynvml.nvmlDeviceGetHandleByUUID, uuid)
                if (
                    handle is not None
                    and nvml.ask(pynvml.nvmlDeviceGetUtilizationRates, handle) is not None
                ):
                    self._handles[uuid] = handle
            self._devices = tuple(self._handles)
        else:
            self._cpu_before = _cpu_s()
            self._devices = ("modelled-cpu",)
        why_not = "" if self._devices else "no board tells its utilisation"
        probes = tuple(
            DeviceProbe(device, self._boundary, "modelled", None) for device in self._devices
        )
        return PowerProbe(
            self.name,
            probes,
            why_not,
            origin,
            nvml.double(self._handles.values()) if self._handles else None,
        )

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        """The formula at the present utilisation."""
        readings = []
        for device in self._devices:
            ratio = self._cpu_ratio() if self._of == "cpu" else self._gpu_ratio(device)
            if ratio is not None:
                watts = self._idle_w + self._slope_w * ratio
                readings.append(
                    PowerReading(self._clock(), self._boundary, device, watts, None, "modelled")
                )
        return tuple(readings)

    def _cpu_ratio(self) -> float | None:
        before, self._cpu_before = self._cpu_before, _cpu_s()
        if before is None or self._cpu_before[1] <= before[1]:
            return None
        return min(
            1.0, max(0.0, (self._cpu_before[0] - before[0]) / (self._cpu_before[1] - before[1]))
        )

    def _gpu_ratio(self, uuid: str) -> float | None:
        rates = nvml.ask(pynvml.nvmlDeviceGetUtilizationRates, self._handles[uuid])
        if rates is None:
            self.trouble.note(f"modelled power of {uuid}: the board tells no utilisation")
        return None if rates is None else rates.gpu / 100

    def close(self) -> None:
        """Shut NVML down."""
        self._stack.close()


def _cpu_s() -> tuple[float, float]:
    """(busy, total) seconds of all cores since boot."""
    times = psutil.cpu_times()
    total = sum(
        getattr(times, name)
        for name in ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    )
    return total - times.idle - times.iowait, total
