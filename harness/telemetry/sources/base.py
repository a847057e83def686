"""What all power sources have in common. A value that cannot be read is absent, never 0."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol

from harness.core.clock import now_ns
from harness.core.records import Boundary

What = Literal["power", "energy"]


@dataclass(frozen=True, slots=True)
class PowerReading:
    """One reading of one device: power, or a cumulative energy counter.

    Attributes:
        t_ns: middle of the reading call, or of the interval in which the source took the value.
        source: `nvml-instant`, `nvml-average`, `nvml-usage`, `nvml-counter`, `dcgm`, `rapl`, …,
            `replay:<original>`.
    """

    t_ns: int
    boundary: Boundary
    device_id: str
    power_w: float | None
    energy_j: float | None
    source: str

    def row(self) -> dict[str, object]:
        return {**asdict(self), "boundary": self.boundary.value}


@dataclass(frozen=True, slots=True)
class DeviceProbe:
    """What a source can read of one device.

    Attributes:
        power: name of the power reading; None if there is none.
        energy: name of the counter; None if there is none.
        why_not: what is missing and why; may be empty.
        name: a readable name besides the id.
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
        why_not: why nothing can be read, or a caveat if something can.
        origin: library, program, file or address that is read.
        double: why this is simulated hardware; None without such evidence.
    """

    source: str
    devices: tuple[DeviceProbe, ...] = ()
    why_not: str = ""
    origin: str | None = None
    double: str | None = None


@dataclass(slots=True)
class ReadFailures:
    """Failures of readings that worked at the probe: message -> count. Thread-safe."""

    seen: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, message: str) -> None:
        """Count one failure. The text is constant per kind of failure, so that it is reported
        once.
        """
        with self._lock:
            self.seen[message] += 1

    def messages(self) -> list[str]:
        with self._lock:
            return list(self.seen)


class PowerSource(Protocol):
    """A source of power. `sample` may be called from two threads at once, one per kind of
    reading.
    """

    name: str
    trouble: ReadFailures

    @property
    def intervals_s(self) -> Mapping[What, float]:
        """How often to call `sample`, per kind of reading; only `power` if one call reads both.
        Valid after `probe`.
        """
        ...

    def probe(self) -> PowerProbe:
        """What can be read here. Called once, before the first sample; missing hardware does not
        raise.
        """
        ...

    def sample(self, what: What, /) -> tuple[PowerReading, ...]:
        """Readings of all devices now; failing ones are left out and noted in `trouble`, not
        raised.
        """
        ...

    def close(self) -> None:
        """Release resources and, if possible, unblock a pending `sample`."""
        ...


@dataclass(eq=False, kw_only=True)
class PolledSource:
    """Common part of sources with one loop.

    Attributes:
        interval_s: between two readings.
        clock: monotonic nanoseconds.
    """

    name = ""  # kind of source
    interval_s: float = 1.0
    clock: Callable[[], int] = now_ns
    trouble: ReadFailures = field(default_factory=ReadFailures, init=False)
    _usable: bool = field(default=False, init=False)

    @property
    def intervals_s(self) -> Mapping[What, float]:
        return {"power": self.interval_s} if self._usable else {}

    def close(self) -> None:
        """Nothing to release."""

    def _missing(self, why_not: object, origin: str, double: str | None = None) -> PowerProbe:
        return PowerProbe(self.name, (), str(why_not), origin, double)
