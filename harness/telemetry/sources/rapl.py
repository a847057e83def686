"""RAPL: energy counters of processor packages and memory, by the kernel's powercap files (Intel and
AMD).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.core.clock import NS_PER_S, now_ns
from harness.core.records import Boundary
from harness.telemetry.sources.base import DeviceProbe, PowerProbe, PowerReading, ReadFailures, What

ROOT: Final = Path("/sys/class/powercap")
MOST_W: Final = 2000.0
"""More than any package draws: a counter that fell is taken for wrapped around where that keeps the
power below this, else for reset.
"""

_UJ_PER_J: Final = 1e6


@dataclass(slots=True)
class _Zone:
    """One counter."""

    device_id: str
    boundary: Boundary
    path: Path
    range_uj: int | None
    last_uj: int | None = None
    last_ns: int = 0
    total_uj: int = 0  # without the jumps of wrapping around


class RaplPowerSource:
    """Packages and their memory. The zones within a package (`core`, `uncore`) are part of it, and
    `psys` covers neither node nor package: they are left out, as is the second way to the same
    packages (`intel-rapl-mmio`).

    The counters wrap around at `max_energy_range_uj` (some 65 to 262 kJ); readings go on counting.
    Reading them is for root, since they betray what a processor computes (CVE-2020-8694).

    Args:
        root: where powercap's files are.
        interval_s: between two readings.
        clock: monotonic nanoseconds.
    """

    name = "rapl"

    def __init__(
        self, root: Path = ROOT, *, interval_s: float = 1.0, clock: Callable[[], int] = now_ns
    ) -> None:
        self.trouble = ReadFailures()
        self._root = root
        self._interval_s = interval_s
        self._clock = clock
        self._zones: list[_Zone] = []

    @property
    def intervals_s(self) -> Mapping[What, float]:
        return {"energy": self._interval_s} if self._zones else {}

    def probe(self) -> PowerProbe:
        double = (
            None
            if self._root == ROOT
            else f"RAPL is read from {self._root}, which is not where the kernel has it"
        )
        devices = []
        for device_id, boundary, folder in _zones(self._root):
            try:
                (folder / "energy_uj").read_text(encoding="ascii")
            except PermissionError:
                why_not = (
                    "only root may read it; run as root, or `chmod a+r` its energy_uj until the"
                    " next boot"
                )
                devices.append(DeviceProbe(device_id, boundary, None, None, why_not))
                continue
            except OSError as error:
                devices.append(
                    DeviceProbe(
                        device_id,
                        boundary,
                        None,
                        None,
                        f"cannot be read: {error.strerror or error}",
                    )
                )
                continue
            devices.append(DeviceProbe(device_id, boundary, None, "rapl"))
            self._zones.append(
                _Zone(
                    device_id,
                    boundary,
                    folder / "energy_uj",
                    _number(folder / "max_energy_range_uj"),
                )
            )
        why_not = (
            ""
            if devices
            else (
                f"no intel-rapl zone in {self._root}: another processor, a virtual machine, or the"
                " module is not loaded"
            )
        )
        return PowerProbe(self.name, tuple(devices), why_not, str(self._root), double)

    def sample(self, what: What) -> tuple[PowerReading, ...]:
        """All counters, as if they did not wrap around."""
        return (
            tuple(reading for zone in self._zones if (reading := self._read(zone)) is not None)
            if what == "energy"
            else ()
        )

    def _read(self, zone: _Zone) -> PowerReading | None:
        before = self._clock()
        try:
            value_uj = int(zone.path.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            self.trouble.note(
                f"rapl {zone.device_id}: {getattr(error, 'strerror', None) or 'no number'}"
            )
            return None
        t_ns = (before + self._clock()) // 2
        if zone.last_uj is None:
            zone.total_uj = value_uj
        else:
            zone.total_uj += self._step_uj(zone, value_uj, (t_ns - zone.last_ns) / NS_PER_S)
        zone.last_uj, zone.last_ns = value_uj, t_ns
        return PowerReading(
            t_ns, zone.boundary, zone.device_id, None, zone.total_uj / _UJ_PER_J, "rapl"
        )

    def _step_uj(self, zone: _Zone, value_uj: int, took_s: float) -> int:
        """What was added since the last reading; for a reset, the fall, which every reader of the
        table sees.
        """
        assert zone.last_uj is not None
        step = value_uj - zone.last_uj
        if step >= 0:
            return step
        if zone.range_uj is not None and (step + zone.range_uj) / _UJ_PER_J <= MOST_W * max(
            took_s, 0.001
        ):
            return step + zone.range_uj
        self.trouble.note(f"rapl {zone.device_id}: the counter was reset")
        return value_uj - zone.total_uj

    def close(self) -> None:
        pass


def _zones(root: Path) -> Iterator[tuple[str, Boundary, Path]]:
    """(name, boundary, folder) of each package and its memory: `package-0`, `package-0/dram`."""
    for package in sorted(root.glob("intel-rapl:*"), key=lambda path: path.name):
        name = _text(package / "name")
        if package.name.count(":") != 1 or name is None or not name.startswith("package"):
            continue
        yield name, Boundary.CPU_PACKAGE, package
        inside = {*package.glob(f"{package.name}:*"), *root.glob(f"{package.name}:*")}
        for zone in sorted(
            {path.name: path for path in inside}.values(), key=lambda path: path.name
        ):
            if _text(zone / "name") == "dram":
                yield f"{name}/dram", Boundary.DRAM, zone


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdigit() else None
