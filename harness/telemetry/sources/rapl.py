"""RAPL: energy counters of processor packages and memory, from the kernel's powercap files (Intel
and AMD).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.core.clock import NS_PER_S
from harness.core.records import Boundary
from harness.telemetry.sources.base import DeviceProbe, PolledSource, PowerProbe, PowerReading, What

ROOT: Final = Path("/sys/class/powercap")
MOST_W: Final = 2000.0
"""More than any package draws. A decrease counts as a wraparound if that keeps power below this,
else as a reset.
"""

_UJ_PER_J: Final = 1e6


@dataclass(slots=True)
class _Zone:
    device_id: str
    boundary: Boundary
    path: Path
    range_uj: int | None
    last_uj: int | None = None
    last_ns: int = 0
    total_uj: int = 0  # without wraparounds


@dataclass(eq=False)
class RaplPowerSource(PolledSource):
    """Packages and their memory, under `root`.

    Left out are zones within a package (`core`, `uncore`), `psys`, which covers neither node nor
    package, and `intel-rapl-mmio`, a second path to the same packages.

    Counters wrap around at `max_energy_range_uj` (about 65 to 262 kJ); readings keep counting. Only
    root may read them, since they leak what a processor computes (CVE-2020-8694).
    """

    name = "rapl"
    root: Path = ROOT

    def __post_init__(self) -> None:
        self._zones: list[_Zone] = []

    @property
    def intervals_s(self) -> Mapping[What, float]:
        return {"energy": self.interval_s} if self._zones else {}

    def probe(self) -> PowerProbe:
        double = None if self.root == ROOT else f"RAPL is read from {self.root} instead of {ROOT}"
        devices = []
        for device_id, boundary, folder in _zones(self.root):
            try:
                (folder / "energy_uj").read_text(encoding="ascii")
            except PermissionError:
                why_not = (
                    "only root may read it; run as root, or `chmod a+r` its energy_uj until the"
                    " next boot"
                )
            except OSError as error:
                why_not = f"cannot be read: {error.strerror or error}"
            else:
                devices.append(DeviceProbe(device_id, boundary, None, "rapl"))
                range_uj = _number(folder / "max_energy_range_uj")
                self._zones.append(_Zone(device_id, boundary, folder / "energy_uj", range_uj))
                continue
            devices.append(DeviceProbe(device_id, boundary, None, None, why_not))
        why_not = (
            f"no intel-rapl zone in {self.root}: unsupported processor, virtual machine, or the"
            " module is not loaded"
        )
        why_not = "" if devices else why_not
        return PowerProbe(self.name, tuple(devices), why_not, str(self.root), double)

    def sample(self, what: What) -> tuple[PowerReading, ...]:
        """All counters, with wraparounds removed."""
        zones = self._zones if what == "energy" else ()
        return tuple(reading for zone in zones if (reading := self._read(zone)) is not None)

    def _read(self, zone: _Zone) -> PowerReading | None:
        before = self.clock()
        try:
            value_uj = int(zone.path.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "not a number"
            self.trouble.note(f"rapl {zone.device_id}: {why}")
            return None
        t_ns = (before + self.clock()) // 2
        if zone.last_uj is None:
            zone.total_uj = value_uj
        else:
            zone.total_uj += self._step_uj(zone, value_uj, (t_ns - zone.last_ns) / NS_PER_S)
        zone.last_uj, zone.last_ns = value_uj, t_ns
        energy_j = zone.total_uj / _UJ_PER_J
        return PowerReading(t_ns, zone.boundary, zone.device_id, None, energy_j, "rapl")

    def _step_uj(self, zone: _Zone, value_uj: int, took_s: float) -> int:
        """Increase since the last reading; for a reset the decrease, which readers of the table
        detect.
        """
        assert zone.last_uj is not None
        step = value_uj - zone.last_uj
        if step >= 0:
            return step
        most_uj = MOST_W * max(took_s, 0.001) * _UJ_PER_J
        if zone.range_uj is not None and step + zone.range_uj <= most_uj:
            return step + zone.range_uj
        self.trouble.note(f"rapl {zone.device_id}: the counter was reset")
        return value_uj - zone.total_uj


def _zones(root: Path) -> Iterator[tuple[str, Boundary, Path]]:
    """(name, boundary, folder) of each package and its memory: `package-0`, `package-0/dram`."""
    for package in sorted(root.glob("intel-rapl:*"), key=lambda path: path.name):
        name = _text(package / "name")
        if package.name.count(":") != 1 or name is None or not name.startswith("package"):
            continue
        yield name, Boundary.CPU_PACKAGE, package
        inside = {*package.glob(f"{package.name}:*"), *root.glob(f"{package.name}:*")}
        for _, zone in sorted({path.name: path for path in inside}.items()):
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
