"""Replays a recorded run's readings. Their sources are `replay:…`, so no report takes them for a
measurement.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.artifacts import tables
from harness.artifacts.journal import read_table
from harness.core.errors import ArtifactError
from harness.core.records import Boundary
from harness.telemetry.sources.base import DeviceProbe, PolledSource, PowerProbe, PowerReading, What


@dataclass(eq=False)
class ReplayPowerSource(PolledSource):
    """Replays a power table (power.parquet or its journal) in real time from its first reading.

    Values are unchanged; times are shifted to now.
    """

    name = "replay"
    path: Path
    _: KW_ONLY
    interval_s: float = 0.1

    def __post_init__(self) -> None:
        self._rows: dict[What, list[dict[str, Any]]] = {"power": [], "energy": []}
        self._next: dict[What, int] = {"power": 0, "energy": 0}
        self._shift_ns = 0

    @property
    def intervals_s(self) -> Mapping[What, float]:
        return {what: self.interval_s for what, rows in self._rows.items() if rows}

    def probe(self) -> PowerProbe:
        """Read the recording; the replay starts here."""
        origin, double = str(self.path), f"readings of a recorded run ({self.path})"
        try:
            table = (
                read_table([self.path], tables.POWER)
                if self.path.suffix == ".arrows"
                else pq.read_table(self.path)
            )
        except (OSError, pa.ArrowInvalid, ArtifactError) as error:
            return self._missing(f"cannot read {self.path}: {error}", origin, double)
        missing = sorted(set(tables.POWER.names) - set(table.column_names))
        if missing or not table.num_rows:
            lacks = f"column {', '.join(missing)}" if missing else "readings"
            return self._missing(f"{self.path} has no {lacks}", origin, double)
        rows = sorted(table.to_pylist(), key=lambda row: row["t_ns"])
        self._rows = {
            "power": [row for row in rows if row["power_w"] is not None],
            "energy": [row for row in rows if row["energy_j"] is not None],
        }
        self._shift_ns = self.clock() - rows[0]["t_ns"]
        devices: dict[tuple[str, str], dict[What, str]] = defaultdict(dict)
        for what, those in self._rows.items():
            for row in those:
                found = devices[row["device_id"], row["boundary"]]
                found.setdefault(what, f"replay:{row['source']}")
        probes = (
            DeviceProbe(d, Boundary(b), found.get("power"), found.get("energy"))
            for (d, b), found in devices.items()
        )
        return PowerProbe(self.name, tuple(probes), "", origin, double)

    def sample(self, what: What) -> tuple[PowerReading, ...]:
        """Readings that became due since the last call."""
        rows, start = self._rows[what], self._next[what]
        due_ns = self.clock() - self._shift_ns
        end = self._next[what] = bisect_right(rows, due_ns, start, key=lambda row: row["t_ns"])
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
