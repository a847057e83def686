"""A meter's log: a file of times and watts that grows during the run."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from harness.core.clock import NS_PER_S, take_anchor
from harness.core.records import Boundary
from harness.telemetry.sources.base import (
    DeviceProbe,
    PolledSource,
    PowerProbe,
    PowerReading,
    What,
    watts_of,
    watts_per,
)

_SEPARATORS: Final = ",;\t"
_UNIT: Final = re.compile(r"[\[(]\s*([A-Za-z]+)\s*[\])]|[ _]([kKmM]?[wW]h?)(?=$|[ _])")
_NOT_POWER: Final = frozenset(("wh", "kwh", "mwh", "j", "kj", "mj", "a", "va", "kva"))
_SLASHED: Final = re.compile(r"(\d{4})[/.](\d{1,2})[/.](\d{1,2})(?=[ T])")
_DAY_FIRST: Final = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?=[ T])")
_NUMBER: Final = re.compile(r"\d+([.,]\d+)?([eE]\+?\d+)?")
# From 1973 to 2286, seconds, milliseconds, microseconds and nanoseconds since 1970 do not overlap.
_OLDEST_S: Final = 10**8
_NEWEST_S: Final = 10**10
_UNITS_PER_S: Final = (1, 10**3, 10**6, NS_PER_S)
_FARTHEST_ZONE_S: Final = 14.5 * 3600
_CLOCK_TOLERANCE_S: Final = 60.0
"""A newest line that is older or younger than this has another clock, or is of an old log."""


@dataclass(eq=False)
class CsvPowerSource(PolledSource):
    """Follows the file from its end at the start; lines with an earlier time are skipped.

    Attributes:
        time_column: seconds, milliseconds, microseconds or nanoseconds since 1970, or ISO 8601.
        power_column: watts, or a number with its unit; the unit may be in the header's brackets.
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
        self._separator = ","
        self._unit_w = 1.0
        self._first_seen: dict[str, str] = {}

    def probe(self) -> PowerProbe:
        origin = str(self.path)
        try:
            with self.path.open("rb") as file:
                first = file.readline()
                self._at = file.tell()
            if why_not := self._read_heading(first):
                return self._missing(f"{origin} {why_not}", origin)
            readings = self._new(keep_old=True)
        except OSError as error:
            return PowerProbe(
                self.name, why_not=f"cannot read {origin}: {error.strerror or error}", origin=origin
            )
        if not readings and self.trouble.messages():
            return self._missing("; ".join(self.trouble.messages()), origin)
        self._usable = True
        devices = {reading.device_id for reading in readings} or {self.path.stem}
        probes = (DeviceProbe(device, self.boundary, "csv", None) for device in sorted(devices))
        unread = (
            self._clock_problem(max(r.t_ns for r in readings)) if readings else "no reading yet"
        )
        return PowerProbe(self.name, tuple(probes), origin=origin, unread=unread)

    def _read_heading(self, first: bytes) -> str | None:
        """Columns, separator and unit; the reason if they cannot be used."""
        if first.startswith((b"\xff\xfe", b"\xfe\xff")):
            return "is UTF-16 text: write it as UTF-8"
        text = first.decode("utf-8-sig", errors="replace").strip("\r\n")
        self._separator = max(_SEPARATORS, key=text.count)
        self._heading = self._cells(text) or []
        missing = [name for name in self._columns if name is not None and name not in self._heading]
        if missing or not first.endswith(b"\n"):
            what = f"no column {', '.join(missing)}" if missing else "no complete line"
            return f"has {what}; its header: {', '.join(self._heading) or 'none'}"
        found = _UNIT.search(self.power_column)
        unit = (found[1] or found[2]) if found else ""
        if unit.lower() in _NOT_POWER:
            return f"has power column {self.power_column!r} in {unit}, which is not a unit of power"
        if unit == "mw":
            return f"has power column {self.power_column!r}: mW or MW? rename the column"
        self._unit_w = watts_per(unit) or 1.0
        return None

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        try:
            return tuple(self._new(keep_old=False))
        except OSError as error:
            self.trouble.note(f"csv {self.path}: {error.strerror or error}")
            return ()

    def _new(self, *, keep_old: bool) -> list[PowerReading]:
        readings = []
        newest_ns: int | None = None
        for line in self._lines():
            row = self._cells(line)
            if row == self._heading:
                continue  # the meter was started again
            found = self._reading(row, line)
            if found is None:
                continue
            newest_ns = max(found.t_ns, newest_ns or found.t_ns)
            if found.power_w is not None and (keep_old or found.t_ns >= self._since_ns):
                readings.append(found)
        if newest_ns is not None and not keep_old and (why := self._clock_problem(newest_ns)):
            self._bad("clock", why)
        return readings

    def _lines(self) -> Iterator[str]:
        """Complete new lines; an incomplete one is read next time."""
        with self.path.open("rb") as file:
            if file.seek(0, 2) < self._at:
                self.trouble.note(
                    f"csv {self.path}: the file was truncated; reading continues at its end"
                )
                self._at = file.tell()
            file.seek(self._at)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        for raw in whole.split(b"\n"):
            line = raw.rstrip(b"\r").decode("utf-8", errors="replace")
            if line and not line.isspace():
                yield line

    def _cells(self, line: str) -> list[str] | None:
        """None: not CSV. Each line is parsed by itself: an open quote ends with its line."""
        try:
            cells = next(csv.reader([line], delimiter=self._separator, skipinitialspace=True), [])
        except csv.Error:
            return None
        return [cell.strip() for cell in cells]

    def _reading(self, row: Sequence[str] | None, line: str) -> PowerReading | None:
        """None: the line cannot be read, which is counted."""
        if row is None or len(row) < len(self._heading):
            self._bad("line", f"a line that is not a row of its header: {line[:60]!r}")
            return None
        cells = dict(zip(self._heading, row, strict=False))
        try:
            unix_ns = _unix_ns(cells[self.time_column])
        except (ValueError, OverflowError):
            cell = cells[self.time_column][:40]
            self._bad("time", f"{cell!r} is not a number of seconds since 1970 or a date and time")
            return None
        try:
            watts = watts_of(cells[self.power_column], self._unit_w)
        except ValueError as error:
            self._bad("power", str(error))
            return None
        t_ns = self._anchor.monotonic_ns + unix_ns - self._anchor.unix_ns
        t_ns -= round(self.clock_offset_s * NS_PER_S)
        device = (self.device_column and cells.get(self.device_column)) or self.path.stem
        return PowerReading(t_ns, self.boundary, device, watts, None, "csv")

    def _bad(self, kind: str, what: str) -> None:
        """Count a line that cannot be read. The first of its kind is quoted."""
        self.trouble.note(self._first_seen.setdefault(kind, f"csv {self.path}: {what}"))

    def _clock_problem(self, newest_ns: int) -> str:
        """Empty if the newest line is of now."""
        behind_s = (self.clock() - newest_ns) / NS_PER_S
        if abs(behind_s) <= _CLOCK_TOLERANCE_S:
            return ""
        lag = f"{abs(behind_s) / 3600:.1f} h" if abs(behind_s) >= 1800 else f"{abs(behind_s):.0f} s"
        offset_s = round(self.clock_offset_s - behind_s)
        local = f"set clock_offset_s: {offset_s} if the meter writes local time, or "
        return (
            f"the newest line is {lag} {'behind' if behind_s > 0 else 'ahead of'} this machine's"
            f" clock: {local if abs(behind_s) < _FARTHEST_ZONE_S else ''}name the file that the"
            " meter writes now"
        )


def _unix_ns(text: str) -> int:
    """A time since 1970 in nanoseconds. Without a zone it is UTC."""
    if _NUMBER.fullmatch(text):
        value = int(text) if text.isdigit() else float(text.replace(",", "."))
        for per_s in _UNITS_PER_S:
            if _OLDEST_S <= value / per_s < _NEWEST_S:
                return round(value * (NS_PER_S // per_s))
        raise ValueError(text)
    date = _DAY_FIRST.sub(r"\3-\2-\1", _SLASHED.sub(r"\1-\2-\3", text))
    date = re.sub(r"(?<=-)(\d)(?=[- T])", r"0\1", date)
    date = re.sub(r"\s*(UTC|GMT)$", "+00:00", date)
    moment = datetime.fromisoformat(date)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * NS_PER_S)
