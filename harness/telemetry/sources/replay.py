"""A recorded run's readings, played back. No report can take them for a measurement: every source
says `replay:…`.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.artifacts import tables
from harness.artifacts.journal import read_table
from harness.core.clock import now_ns
from harness.core.errors import ArtifactError
from harness.core.records import Boundary
from harness.telemetry.sources.base import DeviceProbe, PowerProbe, PowerReading, ReadFailures, What


class ReplayPowerSource:
    """Plays a recorded power table (power.parquet or its journal) back in real time, from its first
    reading on.

    Readings keep their values; times are moved to now, and sources say `replay:<original>`.

    Args:
        path: the table.
        interval_s: between two looks for readings that have come due.
        clock: monotonic nanoseconds.
    """

    name = "replay"

    def __init__(
        self, path: Path, *, interval_s: float = 0.1, clock: Callable[[], int] = now_ns
    ) -> None:
        self.trouble = ReadFailures()
        self._path = path
        self._interval_s = interval_s
        self._clock = clock
        self._rows: dict[What, list[dict[str, Any]]] = {"power": [], "energy": []}
        self._next: dict[What, int] = {"power": 0, "energy": 0}
        self._shift_ns = 0

    @property
    def intervals_s(self) -> Mapping[What, float]:
        """One loop for each kind of reading that the recording has."""
        return {what: self._interval_s for what, rows in self._rows.items() if rows}

    def probe(self) -> PowerProbe:
        """Read the recording; the clock starts here."""
        double = f"readings of a recorded run ({self._path})"
        try:
            table = (
                read_table([self._path], tables.POWER)
                if self._path.suffix == ".arrows"
                else pq.read_table(self._path)
            )
        except (OSError, pa.ArrowInvalid, ArtifactError) as error:
            return PowerProbe(
                self.name,
                why_not=f"cannot read {self._path}: {error}",
                origin=str(self._path),
                double=double,
            )
        missing = sorted(set(tables.POWER.names) - set(table.column_names))
        if missing or not table.num_rows:
            why_not = (
                f"{self._path} has no column {', '.join(missing)}"
                if missing
                else f"{self._path} has no readings"
            )
            return PowerProbe(self.name, why_not=why_not, origin=str(self._path), double=double)
        rows = sorted(table.to_pylist(), key=lambda row: row["t_ns"])
        self._rows = {
            "power": [row for row in rows if row["power_w"] is not None],
            "energy": [row for row in rows if row["energy_j"] is not None],
        }
        self._shift_ns = self._clock() - rows[0]["t_ns"]
        devices: dict[tuple[str, str], dict[What, str]] = defaultdict(dict)
        for what, those in self._rows.items():
            for row in those:
                devices[row["device_id"], row["boundary"]].setdefault(
                    what, f"replay:{row['source']}"
                )
        probes = (
            DeviceProbe(d, Boundary(b), found.get("power"), found.get("energy"))
            for (d, b), found in devices.items()
        )
        return PowerProbe(self.name, tuple(probes), origin=str(self._path), double=double)

    def sample(self, what: What) -> tuple[PowerReading, ...]:
        """Readings that have come due since the last call."""
        rows, start = self._rows[what], self._next[what]
        end = start
        due_ns = self._clock() - self._shift_ns
        while end < len(rows) and rows[end]["t_ns"] <= due_ns:
            end += 1
        self._next[what] = end
        return tuple(
            PowerReading(
                t_ns=row["t_ns"] + self._shift_ns,
                boundary=Boundary(row["boundary"]),
                device_id=row["device_id"],
                power_w=row["power_w"] if what == "power" else None,
                energy_j=row["energy_j"] if what == "energy" else None,
                source=f"replay:{row['source']}",
            )
            for row in rows[start:end]
        )

    def close(self) -> None:
        pass
