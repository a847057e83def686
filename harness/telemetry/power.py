"""Power sources. Each says what it can do here (`probe`), then gives readings; what it cannot read is absent, never 0."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import pyarrow.parquet as pq
import pynvml

from harness.artifacts import tables
from harness.artifacts.journal import read_table
from harness.core.clock import now_ns
from harness.core.records import Boundary
from harness.hardware import nvml

What = Literal["power", "energy"]


@dataclass(frozen=True, slots=True)
class PowerReading:
    """One reading of one device.

    Attributes:
        t_ns: middle of the reading call.
        power_w: None where this reading is of the counter.
        energy_j: cumulative counter; None where this reading is of power.
        source: what was read: `nvml-instant`, `nvml-average`, `nvml-usage`, `nvml-counter`, `replay:…`.
    """

    t_ns: int
    boundary: Boundary
    device_id: str
    power_w: float | None
    energy_j: float | None
    source: str


@dataclass(frozen=True, slots=True)
class DeviceProbe:
    """What a source can read of one device.

    Attributes:
        power: name of the power reading that answers, None if none does.
        energy: name of the counter that answers, None if there is none.
        why_not: what is missing and why, for people; empty when nothing is.
    """

    device_id: str
    boundary: Boundary
    power: str | None
    energy: str | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class PowerProbe:
    """What a source can do on this machine."""

    source: str
    devices: tuple[DeviceProbe, ...] = ()
    why_not: str = ""

    @property
    def has_power(self) -> bool:
        """Every device gives power or energy."""
        return bool(self.devices) and all(device.power or device.energy for device in self.devices)


@dataclass(slots=True)
class PowerTrouble:
    """Calls that used to answer and now fail: message -> how often."""

    seen: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def note(self, message: str) -> None:
        """Count one failure."""
        self.seen[message] += 1


class PowerSource(Protocol):
    """Where power comes from. `sample` may be called from two threads at once, one for each kind of reading."""

    name: str
    trouble: PowerTrouble

    def probe(self) -> PowerProbe:
        """What can be read here. Called once, before the first sample."""
        ...

    def sample(self, what: What) -> tuple[PowerReading, ...]:
        """Readings of all devices now; one that fails is left out and noted in `trouble`."""
        ...

    def close(self) -> None:
        """Let go of the device library."""
        ...


# A counter of exactly 0 and a board that draws 0 W are ways of saying "not measured" (seen on virtual GPUs): both count as no answer.
_INSTANT: Final = "nvml-instant"
_AVERAGE: Final = "nvml-average"
_USAGE: Final = "nvml-usage"
_COUNTER: Final = "nvml-counter"


class NvmlPowerSource:
    """NVIDIA boards by UUID: the energy counter, and power by the first call that answers.

    Power: field 186 (instant), else field 185 (one-second average), else nvmlDeviceGetPowerUsage (average or instant, depending on the
    board). Energy: nvmlDeviceGetTotalEnergyConsumption, mJ since the driver was loaded. Which of them a board has is found by trying.
    """

    name = "nvml"

    def __init__(self, uuids: Sequence[str]) -> None:
        self.trouble = PowerTrouble()
        self._uuids = tuple(uuids)
        self._handles: dict[str, Any] = {}
        self._power: dict[str, str] = {}
        self._energy: list[str] = []
        self._stack = ExitStack()

    def probe(self) -> PowerProbe:
        """Try every call on every board."""
        try:
            self._stack.enter_context(nvml.session())
        except nvml.NvmlUnavailableError as error:
            return PowerProbe(self.name, why_not=str(error))
        return PowerProbe(self.name, tuple(self._probe_board(uuid) for uuid in self._uuids), "" if self._uuids else "no board was chosen")

    def _probe_board(self, uuid: str) -> DeviceProbe:
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            return DeviceProbe(uuid, Boundary.GPU_BOARD, None, None, f"NVML does not know this board: {error}")
        self._handles[uuid] = handle
        missing = []
        for source, read in _POWER_CALLS.items():
            try:
                if read(handle):
                    self._power[uuid] = source
                    break
                missing.append(f"{source}: not measured")
            except pynvml.NVMLError as error:
                missing.append(f"{source}: {error}")
        try:
            if pynvml.nvmlDeviceGetTotalEnergyConsumption(handle):
                self._energy.append(uuid)
            else:
                missing.append(f"{_COUNTER}: stands at 0, so it does not count")
        except pynvml.NVMLError as error:
            missing.append(f"{_COUNTER}: {error}")
        return DeviceProbe(
            uuid, Boundary.GPU_BOARD, self._power.get(uuid), _COUNTER if uuid in self._energy else None, "; ".join(missing)
        )  # fmt: skip

    def sample(self, what: What) -> tuple[PowerReading, ...]:
        """Power of all boards that tell it, or all counters."""
        readings = []
        chosen = [(uuid, source, _POWER_CALLS[source]) for uuid, source in self._power.items()]
        if what == "energy":
            chosen = [(uuid, _COUNTER, _counter_mj) for uuid in self._energy]
        for uuid, source, read in chosen:
            before = now_ns()
            try:
                milli = read(self._handles[uuid])
            except pynvml.NVMLError as error:
                self.trouble.note(f"{source} of {uuid}: {error}")
                continue
            t_ns = (before + now_ns()) // 2
            if not milli:
                self.trouble.note(f"{source} of {uuid}: no value")
                continue
            power_w, energy_j = (milli / 1000, None) if what == "power" else (None, milli / 1000)
            readings.append(PowerReading(t_ns, Boundary.GPU_BOARD, uuid, power_w, energy_j, source))
        return tuple(readings)

    def close(self) -> None:
        """Shut NVML down."""
        self._stack.close()


def _field_mw(field_id: int) -> Callable[[Any], float | None]:
    def read(handle: Any) -> float | None:  # noqa: ANN401 - an NVML handle
        return nvml.field_value(pynvml.nvmlDeviceGetFieldValues(handle, [(field_id, pynvml.NVML_POWER_SCOPE_GPU)])[0])

    return read


def _usage_mw(handle: Any) -> float | None:  # noqa: ANN401 - an NVML handle
    return float(pynvml.nvmlDeviceGetPowerUsage(handle))


def _counter_mj(handle: Any) -> float | None:  # noqa: ANN401 - an NVML handle
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))


_POWER_CALLS: Final[Mapping[str, Callable[[Any], float | None]]] = {
    _INSTANT: _field_mw(pynvml.NVML_FI_DEV_POWER_INSTANT),
    _AVERAGE: _field_mw(pynvml.NVML_FI_DEV_POWER_AVERAGE),
    _USAGE: _usage_mw,
}


class ReplayPowerSource:
    """Plays a recorded power table (power.parquet or its journal) back in real time, from its first reading on.

    Readings keep their values; times are moved to now, and sources say `replay:<original>`: no report can take them for a measurement.
    """

    name = "replay"

    def __init__(self, path: Path) -> None:
        self.trouble = PowerTrouble()
        self._path = path
        self._rows: dict[What, list[dict[str, Any]]] = {"power": [], "energy": []}
        self._next: dict[What, int] = {"power": 0, "energy": 0}
        self._shift_ns = 0

    def probe(self) -> PowerProbe:
        """Read the recording; the clock starts here."""
        try:
            table = read_table([self._path], tables.POWER) if self._path.suffix == ".arrows" else pq.read_table(self._path)
        except OSError as error:
            return PowerProbe(self.name, why_not=f"cannot read {self._path}: {error}")
        rows = sorted(table.to_pylist(), key=lambda row: row["t_ns"])
        if not rows:
            return PowerProbe(self.name, why_not=f"{self._path} has no readings")
        self._rows = {
            "power": [row for row in rows if row["power_w"] is not None],
            "energy": [row for row in rows if row["energy_j"] is not None],
        }
        self._shift_ns = now_ns() - rows[0]["t_ns"]
        devices: dict[tuple[str, str], dict[What, str]] = defaultdict(dict)
        for what, those in self._rows.items():
            for row in those:
                devices[row["device_id"], row["boundary"]].setdefault(what, f"replay:{row['source']}")
        probes = (DeviceProbe(d, Boundary(b), found.get("power"), found.get("energy")) for (d, b), found in devices.items())
        return PowerProbe(self.name, tuple(probes))

    def sample(self, what: What) -> tuple[PowerReading, ...]:
        """Readings that have come due since the last call."""
        rows, start = self._rows[what], self._next[what]
        end = start
        due_ns = now_ns() - self._shift_ns
        while end < len(rows) and rows[end]["t_ns"] <= due_ns:
            end += 1
        self._next[what] = end
        return tuple(
            PowerReading(
                t_ns=row["t_ns"] + self._shift_ns, boundary=Boundary(row["boundary"]), device_id=row["device_id"],
                power_w=row["power_w"] if what == "power" else None, energy_j=row["energy_j"] if what == "energy" else None,
                source=f"replay:{row['source']}",
            )
            for row in rows[start:end]
        )  # fmt: skip

    def close(self) -> None:
        """Nothing is held."""
