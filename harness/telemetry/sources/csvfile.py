"""A meter's log in a file that grows while the run goes on: lines of time and watts."""

import csv
import io
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from harness.core.clock import NS_PER_S, now_ns, take_anchor
from harness.core.records import Boundary
from harness.telemetry.sources.base import DeviceProbe, PowerProbe, PowerReading, ReadFailures, What


class CsvPowerSource:
    """Follows the file from its present end; lines of before the run are left out by their time.

    Args:
        path: the file.
        boundary: what the meter covers.
        time_column: seconds since 1970, or ISO 8601.
        power_column: watts.
        device_column: None: one device.
        clock_offset_s: how far the meter's clock is ahead.
        interval_s: between two looks.
        clock: monotonic nanoseconds.
    """

    name = "csv"

    def __init__(
        self,
        path: Path,
        *,
        boundary: Boundary,
        time_column: str = "time",
        power_column: str = "watts",
        device_column: str | None = None,
        clock_offset_s: float = 0.0,
        interval_s: float = 1.0,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self.trouble = ReadFailures()
        self._path = path
        self._boundary = boundary
        self._columns = (time_column, power_column, device_column)
        self._offset_ns = round(clock_offset_s * NS_PER_S)
        self._interval_s = interval_s
        self._clock = clock
        self._anchor = take_anchor()
        self._since_ns = clock()
        self._at = 0
        self._heading: list[str] = []
        self._found = False

    @property
    def intervals_s(self) -> Mapping[What, float]:
        return {"power": self._interval_s} if self._found else {}

    def probe(self) -> PowerProbe:
        origin = str(self._path)
        try:
            with self._path.open("rb") as file:
                first = file.readline()
                self._at = file.tell()
        except OSError as error:
            return PowerProbe(
                self.name, why_not=f"cannot read {origin}: {error.strerror or error}", origin=origin
            )
        self._heading = [
            name.strip()
            for name in next(csv.reader([first.decode("utf-8-sig", errors="replace")]), [])
        ]
        missing = [name for name in self._columns if name is not None and name not in self._heading]
        if missing or not first.endswith(b"\n"):
            why_not = (
                f"{origin} has no column {', '.join(missing)}; its heading:"
                f" {', '.join(self._heading) or 'none'}"
            )
            return PowerProbe(self.name, why_not=why_not, origin=origin)
        self._found = True
        devices = sorted({reading.device_id for reading in self._new(keep_old=True)}) or [
            self._path.stem
        ]
        return PowerProbe(
            self.name,
            tuple(DeviceProbe(device, self._boundary, "csv", None) for device in devices),
            origin=origin,
        )

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        """Lines that were added since the last call."""
        try:
            return tuple(self._new(keep_old=False))
        except OSError as error:
            self.trouble.note(f"csv {self._path}: {error.strerror or error}")
            return ()

    def _new(self, *, keep_old: bool) -> list[PowerReading]:
        with self._path.open("rb") as file:
            if file.seek(0, 2) < self._at:
                self.trouble.note(
                    f"csv {self._path}: the file was cut; reading goes on at its present end"
                )
                self._at = file.tell()
            file.seek(self._at)
            text = file.read()
        whole = text[
            : text.rfind(b"\n") + 1
        ]  # a line that is being written comes with the next look
        self._at += len(whole)
        time_column, power_column, device_column = self._columns
        readings = []
        for row in csv.DictReader(
            io.StringIO(whole.decode("utf-8", errors="replace")), fieldnames=self._heading
        ):
            try:
                t_ns = (
                    self._anchor.monotonic_ns
                    + _unix_ns(row[time_column])
                    - self._offset_ns
                    - self._anchor.unix_ns
                )
                watts = float(row[power_column])
            except (TypeError, ValueError, OverflowError):
                self.trouble.note(f"csv {self._path}: a line without time and number")
                continue
            if math.isfinite(watts) and (keep_old or t_ns >= self._since_ns):
                device = (
                    row.get(device_column) if device_column is not None else None
                ) or self._path.stem
                readings.append(PowerReading(t_ns, self._boundary, device, watts, None, "csv"))
        return readings

    def close(self) -> None:
        pass


def _unix_ns(text: str) -> int:
    try:
        return round(float(text) * NS_PER_S)
    except ValueError:
        moment = datetime.fromisoformat(text.strip())
    return round(
        (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * NS_PER_S
    )
