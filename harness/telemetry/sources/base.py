"""What every source of power has in common. What cannot be read is absent, never 0."""

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from harness.core.records import Boundary

What = Literal["power", "energy"]


@dataclass(frozen=True, slots=True)
class PowerReading:
    """One reading of one device.

    Attributes:
        t_ns: middle of the reading call, or of the stretch in which the source took the value.
        power_w: None where this reading is of the counter.
        energy_j: cumulative counter; None where this reading is of power.
        source: what was read: `nvml-instant`, `nvml-average`, `nvml-usage`, `nvml-counter`, `dcgm`,
            `rapl`, …, `replay:<original>`.
    """

    t_ns: int
    boundary: Boundary
    device_id: str
    power_w: float | None
    energy_j: float | None
    source: str

    def row(self) -> dict[str, object]:
        return {
            "t_ns": self.t_ns,
            "boundary": self.boundary.value,
            "device_id": self.device_id,
            "power_w": self.power_w,
            "energy_j": self.energy_j,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class DeviceProbe:
    """What a source can read of one device.

    Attributes:
        power: name of the power reading that answers, None if none does.
        energy: name of the counter that answers, None if there is none.
        why_not: what is missing and why, for people; empty when nothing is.
        name: what people call the device; None where it has no other name.
    """

    device_id: str
    boundary: Boundary
    power: str | None
    energy: str | None
    why_not: str = ""
    name: str | None = None


@dataclass(frozen=True, slots=True)
class PowerProbe:
    """What a source can do on this machine.

    Attributes:
        source: kind of the source (`nvml`, `dcgm`, …).
        devices: what answers; empty when nothing does.
        why_not: why nothing answers, or what a reader should know although something does.
        origin: library, program, file or address that is read.
        double: why this is no real hardware; None where nothing says so.
    """

    source: str
    devices: tuple[DeviceProbe, ...] = ()
    why_not: str = ""
    origin: str | None = None
    double: str | None = None


@dataclass(slots=True)
class ReadFailures:
    """Calls that used to answer and now fail: message -> how often. Safe between threads."""

    seen: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, message: str) -> None:
        """Count one failure. Messages of one kind have one text, so that a run is told once."""
        with self._lock:
            self.seen[message] += 1

    def messages(self) -> list[str]:
        """What was noted so far."""
        with self._lock:
            return list(self.seen)


class PowerSource(Protocol):
    """Where power comes from. `sample` may be called from two threads at once, one for each kind of
    reading.
    """

    name: str
    trouble: ReadFailures

    @property
    def intervals_s(self) -> Mapping[What, float]:
        """How often to call `sample`, for each kind of reading; a source that reads both at once
        has `power` alone. Known after `probe`.
        """
        ...

    def probe(self) -> PowerProbe:
        """What can be read here. Called once, before the first sample; never raises for what is not
        there.
        """
        ...

    def sample(self, what: What, /) -> tuple[PowerReading, ...]:
        """Readings of all devices now; one that fails is left out and noted in `trouble`. Never
        raises for what a device does.
        """
        ...

    def close(self) -> None:
        """Let go of what is held; ends a `sample` that waits, where that can be done."""
        ...
