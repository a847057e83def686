"""A meter's log: a file of times and watts that grows during the run."""

import csv
import io
import math
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.core.clock import NS_PER_S, take_anchor
from harness.core.records import Boundary
from harness.telemetry.sources.base import DeviceProbe, PolledSource, PowerProbe, PowerReading, What


@dataclass(eq=False)
class CsvPowerSource(PolledSource):
    """Follows the file from its end at the start; lines with an earlier time are skipped.

    Attributes:
        time_column: seconds since 1970, or ISO 8601.
        power_column: watts.
        device_column: None: one device.
        clock_offset_s: how far the meter's clock is ahead.
    """

    name = "csv"
    path: Path
    _: KW_ONLY
    boundary: Boundary
    time_column: str = "time"
    power_column: str = "watts"
    device_column: str | None = None
    clock_offset_s: float = 0.0

    def __post_init__(self) -> None:
        self._columns = (self.time_column, self.power_column, self.device_column)
        self._anchor = take_anchor()
        self._since_ns = self.clock()
        self._at = 0
        self._heading: list[str] = []

    def probe(self) -> PowerProbe:
        origin = str(self.path)
        try:
            with self.path.open("rb") as file:
                first = file.readline()
                self._at = file.tell()
        except OSError as error:
            return PowerProbe(
                self.name, why_not=f"cannot read {origin}: {error.strerror or error}", origin=origin
            )
        heading = next(csv.reader([first.decode("utf-8-sig", errors="replace")]), [])
        self._heading = [name.strip() for name in heading]
        missing = [name for name in self._columns if name is not None and name not in self._heading]
        if missing or not first.endswith(b"\n"):
            why_not = (
                f"{origin} has no column {', '.join(missing)}; its header:"
                f" {', '.join(self._heading) or 'none'}"
            )
            return self._missing(why_not, origin)
        self._usable = True
        devices = {reading.device_id for reading in self._new(keep_old=True)} or {self.path.stem}
        probes = (DeviceProbe(device, self.boundary, "csv", None) for device in sorted(devices))
        return PowerProbe(self.name, tuple(probes), origin=origin)

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        try:
            return tuple(self._new(keep_old=False))
        except OSError as error:
            self.trouble.note(f"csv {self.path}: {error.strerror or error}")
            return ()

    def _new(self, *, keep_old: bool) -> list[PowerReading]:
        with self.path.open("rb") as file:
            if file.seek(0, 2) < self._at:
                self.trouble.note(
                    f"csv {self.path}: the file was truncated; reading continues at its end"
                )
                self._at = file.tell()
            file.seek(self._at)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]  # an incomplete line is read next time
        self._at += len(whole)
        readings = []
        lines = io.StringIO(whole.decode("utf-8", errors="replace"))
        for row in csv.DictReader(lines, fieldnames=self._heading):
            try:
                unix_ns = _unix_ns(row[self.time_column]) - round(self.clock_offset_s * NS_PER_S)
                watts = float(row[self.power_column])
            except (TypeError, ValueError, OverflowError):
                self.trouble.note(f"csv {self.path}: a line without a time and a number")
                continue
            t_ns = self._anchor.monotonic_ns + unix_ns - self._anchor.unix_ns
            if math.isfinite(watts) and (keep_old or t_ns >= self._since_ns):
                device = (self.device_column and row.get(self.device_column)) or self.path.stem
                readings.append(PowerReading(t_ns, self.boundary, device, watts, None, "csv"))
        return readings


def _unix_ns(text: str) -> int:
    try:
        return round(float(text) * NS_PER_S)
    except ValueError:
        moment = datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * NS_PER_S)
