"""A DCGM exporter's power and energy, whichever names its version uses.

Names before DCGM 4.6 and since (NVIDIA/DCGM, dcgmlib/dcgm_fields.h: 155, 157 and 1130 were renamed,
156 and 1133 were not), and those of exporters that keep the names of version 1
(NVIDIA/dcgm-exporter, etc/1.x-compatibility-metrics.csv).
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from harness.core.clock import NS_PER_S, now_ns
from harness.core.network import Network
from harness.core.records import Boundary
from harness.hardware.nvml import is_simulated
from harness.telemetry.scrape import MetricsClient
from harness.telemetry.sources.base import DeviceProbe, PowerProbe, PowerReading, ReadFailures, What

URL: Final = "http://127.0.0.1:9400/metrics"
"""Where an exporter listens unless told otherwise."""
SLOW_S: Final = 3.0
"""New values that come further apart than this leave gaps that void an integral; the exporter's
default is 30 s.
"""

_PREFIXES: Final = ("DCGM_", "dcgm_")
_PREFIXES_B: Final = tuple(prefix.encode() for prefix in _PREFIXES)
_BLANK: Final = 9e15  # DCGM_INT64_BLANK and DCGM_FP64_BLANK: "no value"
_SAMPLE: Final = re.compile(
    r"^((?:DCGM|dcgm)_\w+)\{(.*)\}\s+(\S+)(?:\s+-?\d+)?\s*$"
)  # a timestamp may follow the value
_LABEL: Final = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class _Field:
    names: tuple[str, ...]
    boundary: Boundary
    what: What
    entity: Literal["gpu", "cpu"]
    scale: float = 1.0


# Of one boundary and device the first that has a value is taken: instant before averaged.
_FIELDS: Final = (
    _Field(
        ("DCGM_FI_DEV_BOARD_POWER_RAW_WATTS", "DCGM_FI_DEV_POWER_USAGE_INSTANT"),
        Boundary.GPU_BOARD,
        "power",
        "gpu",
    ),
    _Field(
        ("DCGM_FI_DEV_BOARD_POWER_WATTS", "DCGM_FI_DEV_POWER_USAGE", "dcgm_power_usage"),
        Boundary.GPU_BOARD,
        "power",
        "gpu",
    ),
    _Field(
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "dcgm_total_energy_consumption"),
        Boundary.GPU_BOARD,
        "energy",
        "gpu",
        1e-3,
    ),
    _Field(("DCGM_FI_DEV_MODULE_POWER_UTIL_CURRENT",), Boundary.MODULE, "power", "cpu"),
    _Field(
        (
            "DCGM_FI_DEV_CPU_POWER_WATTS",
            "DCGM_FI_DEV_CPU_POWER_UTIL_CURRENT",
            "DCGM_FI_DEV_CPU_POWER_CURRENT",
        ),
        Boundary.CPU_PACKAGE,
        "power",
        "cpu",
    ),
)
_WANTED: Final = frozenset(name for field in _FIELDS for name in field.names)


@dataclass(frozen=True, slots=True)
class _Values:
    """What one body says: (boundary, device) -> value; names and marks of what was seen."""

    power_w: dict[tuple[Boundary, str], float]
    energy_j: dict[tuple[Boundary, str], float]
    names: dict[str, str]
    double: str | None


class DcgmPowerSource:
    """Boards (and Grace processors) of a DCGM exporter.

    The exporter repeats its values until it collects anew. A body like the one before is no new
    reading, and the time of a new one is taken to be the middle between the two looks: it is known
    no better. MIG instances repeat their board's power: one of them is kept.

    Args:
        url: of the exporter's metrics.
        uuids: boards to record; empty: all.
        interval_s: between two looks.
        timeout_s: limit of one request.
        network: certificates to trust.
        clock: monotonic nanoseconds.
    """

    name = "dcgm"

    def __init__(
        self,
        url: str,
        uuids: Sequence[str] = (),
        *,
        interval_s: float = 0.5,
        timeout_s: float = 5.0,
        network: Network | None = None,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self.trouble = ReadFailures()
        self._url = url
        self._uuids = frozenset(uuids)
        self._interval_s = interval_s
        self._client = MetricsClient("dcgm", url, timeout_s, network)
        self._clock = clock
        self._digest = b""
        self._looked_ns: int | None = None
        self._new_ns: int | None = None
        self._closed = False

    @property
    def intervals_s(self) -> Mapping[What, float]:
        """One loop reads both."""
        return {"power": self._interval_s}

    def probe(self) -> PowerProbe:
        scrape = self._client.fetch()
        if scrape.body is None:
            why_not = (
                f"{self._url}: {scrape.error}; is dcgm-exporter running there? (`dcgm-exporter -c"
                " 1000`)"
            )
            return PowerProbe(self.name, why_not=why_not, origin=self._url)
        self._digest, self._looked_ns = _digest(scrape.body), self._clock()
        values = self._parse(scrape.body)
        keys = sorted({*values.power_w, *values.energy_j})
        devices = tuple(
            DeviceProbe(
                device,
                boundary,
                "dcgm" if (boundary, device) in values.power_w else None,
                "dcgm" if (boundary, device) in values.energy_j else None,
                name=values.names.get(device),
            )
            for boundary, device in keys
        )
        why_not = (
            ""
            if devices
            else "the exporter shows neither power nor energy"
            + (" of these boards" if self._uuids else "")
        )
        return PowerProbe(self.name, devices, why_not, self._url, values.double)

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        """Power and energy, when they are new."""
        before = self._clock()
        scrape = self._client.fetch()
        looked_ns = (before + self._clock()) // 2
        if scrape.body is None:
            if not self._closed:
                self.trouble.note(f"dcgm exporter {self._url}: {scrape.error}")
            return ()
        last_look_ns, self._looked_ns = self._looked_ns, looked_ns
        digest = _digest(scrape.body)
        if digest == self._digest:
            return ()
        self._digest = digest
        if last_look_ns is None:
            return ()  # when these were collected is not known at all
        self._tell_slowness(looked_ns)
        t_ns = (last_look_ns + looked_ns) // 2
        values = self._parse(scrape.body)
        readings = [
            PowerReading(t_ns, boundary, device, watts, None, "dcgm")
            for (boundary, device), watts in values.power_w.items()
        ]
        readings += [
            PowerReading(t_ns, boundary, device, None, joules, "dcgm")
            for (boundary, device), joules in values.energy_j.items()
        ]
        return tuple(readings)

    def _tell_slowness(self, now: int) -> None:
        if self._new_ns is not None and (now - self._new_ns) / NS_PER_S > SLOW_S:
            text = (
                f"dcgm exporter {self._url}: new values come more than {SLOW_S:g} s apart; start it"
                " with `-c 1000` (its default is 30 s)"
            )
            self.trouble.note(text)
        self._new_ns = now

    def _parse(self, body: bytes) -> _Values:
        seen: dict[tuple[str, str], float] = {}
        names: dict[str, str] = {}
        double: str | None = None
        for name, labels, value in _samples(body.decode(errors="replace")):
            field = next(field for field in _FIELDS if name in field.names)
            device = (
                labels.get("UUID") or labels.get("uuid")
                if field.entity == "gpu"
                else labels.get("cpu") or labels.get("gpu")
            )
            if device is None:
                continue
            if field.entity == "gpu":
                if self._uuids and device not in self._uuids:
                    continue
                double = double or is_simulated(
                    labels.get("modelName"), labels.get("DCGM_FI_DRIVER_VERSION")
                )
                names.setdefault(device, labels.get("modelName", ""))
            # The series without an instance comes first where there is one; the others repeat the
            # board's value.
            if "GPU_I_ID" not in labels or (name, device) not in seen:
                seen[name, device] = value
        power: dict[tuple[Boundary, str], float] = {}
        energy: dict[tuple[Boundary, str], float] = {}
        for field in _FIELDS:
            for name in field.names:
                for (other, device), value in seen.items():
                    # 0 W and a counter at 0 are ways of saying "not measured".
                    if other == name and value > 0:
                        (power if field.what == "power" else energy).setdefault(
                            (field.boundary, device), value * field.scale
                        )
        return _Values(power, energy, names, double)

    def close(self) -> None:
        """Close the connection, a request that is under way included."""
        self._closed = True
        self._client.abort()
        self._client.close()


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(
        b"\n".join(line for line in body.splitlines() if line.startswith(_PREFIXES_B))
    ).digest()


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for line in text.splitlines():
        match = _SAMPLE.match(line) if line.startswith(_PREFIXES) else None
        if match is None or match[1] not in _WANTED:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        if math.isfinite(value) and value < _BLANK:
            yield match[1], dict(_LABEL.findall(match[2])), value
