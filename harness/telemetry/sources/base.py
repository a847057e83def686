"""What all power sources have in common. A value that cannot be read is absent, never 0."""

import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Literal, Protocol

from harness.core.clock import now_ns
from harness.core.records import Boundary

What = Literal["power", "energy"]

_NO_VALUE: Final = frozenset(
    ("", "-", "--", "n/a", "na", "nan", "none", "null", "not supported", "unknown error")
)
_QUANTITY: Final = re.compile(r"([+-]?[0-9][0-9.,]*(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)")
_WATTS: Final = {"": 1.0, "w": 1.0, "watt": 1.0, "watts": 1.0, "kw": 1e3, "kilowatts": 1e3}
_CASED_WATTS: Final = {"mW": 1e-3, "MW": 1e6}


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
        unread: why no present reading was had although there is a device; empty if there was one.
    """

    source: str
    devices: tuple[DeviceProbe, ...] = ()
    why_not: str = ""
    origin: str | None = None
    double: str | None = None
    unread: str = ""


def watts_of(value: object, unit_w: float = 1.0) -> float | None:
    """A meter's power in watts: a number, or text such as `300`, `412.33 W`, `0,41 kW`. None if it
    states that there is no value, as `[N/A]` does. `unit_w`: watts per unit of a bare number.

    Raises:
        ValueError: it is neither.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, unit_w)
    text = value.strip() if isinstance(value, str) else ""
    if isinstance(value, str) and text.strip("[]()").strip().lower() in _NO_VALUE:
        return None
    match = _QUANTITY.fullmatch(text)
    factor = unit_w if match is None or not match[2] else watts_per(match[2])
    if match is None or factor is None:
        raise ValueError(f"{str(value)[:40]!r} is not a power in watts")
    return _finite(_decimal(match[1]), factor)


def watts_per(unit: str) -> float | None:
    """Watts per unit; None: not a unit of power. Of `mW` and `MW` the case matters."""
    return _CASED_WATTS.get(unit) or _WATTS.get(unit.lower())


def _finite(value: float, factor: float) -> float | None:
    try:
        watts = float(value) * factor
    except OverflowError:
        return None
    return watts if math.isfinite(watts) else None


def _decimal(digits: str) -> float:
    """A number with a decimal point or comma; the other separates thousands.

    Raises:
        ValueError: not a number, or the comma is ambiguous.
    """
    if "." in digits:
        if digits.rfind(",") < digits.find("."):
            return float(digits.replace(",", ""))
        if digits.count(",") == 1:  # 1.234,5
            return float(digits.replace(".", "").replace(",", "."))
        raise ValueError(f"{digits!r} is not a number")
    if digits.count(",") > 1:
        return float(digits.replace(",", ""))
    if digits.count(",") == 1 and len(digits.partition(",")[2]) == len("000"):
        raise ValueError(f"{digits!r}: the comma may separate thousands or decimals")
    return float(digits.replace(",", "."))


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

    def failed(self, what: str, error: Exception) -> None:
        """Count an exception that a source should have handled itself."""
        self.note(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:160]}")

    def messages(self) -> list[str]:
        with self._lock:
            return list(self.seen)


def probed(source: "PowerSource") -> PowerProbe:
    """What a source can do; a defect in it must not end the other sources."""
    try:
        return source.probe()
    except Exception as error:  # noqa: BLE001 - reported as the reason
        reason = f"the probe failed: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        return PowerProbe(source.name, why_not=reason)


def sampled(source: "PowerSource", what: What) -> tuple[PowerReading, ...]:
    """Readings of a source; a defect in it is counted, and must not end later readings."""
    try:
        return source.sample(what)
    except Exception as error:  # noqa: BLE001 - reported as a failed reading
        source.trouble.failed(source.name, error)
        return ()


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
