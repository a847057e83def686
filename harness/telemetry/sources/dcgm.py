"""Power and energy from a DCGM exporter, under the metric names of any version.

Names before and since DCGM 4.6 (NVIDIA/DCGM, dcgmlib/dcgm_fields.h: 155, 157 and 1130 were renamed,
156 and 1133 were not), and of exporters that keep the names of version 1 (NVIDIA/dcgm-exporter,
etc/1.x-compatibility-metrics.csv).
"""

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Final, Literal

from harness.core.clock import NS_PER_S
from harness.core.network import Network
from harness.core.records import Boundary
from harness.hardware.nvml import is_simulated
from harness.telemetry.scrape import MetricsClient
from harness.telemetry.sources.base import DeviceProbe, PolledSource, PowerProbe, PowerReading, What

URL: Final = "http://127.0.0.1:9400/metrics"
"""An exporter's default address."""
SLOW_S: Final = 3.0
"""Longer gaps between new values make an integral invalid; the exporter's default is 30 s."""

_PREFIXES: Final = ("DCGM_", "dcgm_")
_PREFIXES_B: Final = tuple(prefix.encode() for prefix in _PREFIXES)
_BLANK: Final = 9e15  # DCGM_INT64_BLANK and DCGM_FP64_BLANK: "no value"
# a timestamp may follow the value
_SAMPLE: Final = re.compile(r"^((?:DCGM|dcgm)_\w+)\{(.*)\}\s+(\S+)(?:\s+-?\d+)?\s*$")
_LABEL: Final = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class _Field:
    names: tuple[str, ...]
    boundary: Boundary
    what: What
    entity: Literal["gpu", "cpu"]
    scale: float = 1.0


# Per boundary and device, the first with a value is used: instant before average.
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
_NEEDED: Final = frozenset(name for field in _FIELDS for name in field.names)


@dataclass(frozen=True, slots=True)
class _Values:
    """Content of one body: (boundary, device) -> value; device names."""

    power_w: dict[tuple[Boundary, str], float]
    energy_j: dict[tuple[Boundary, str], float]
    names: dict[str, str]
    double: str | None


@dataclass(eq=False)
class DcgmPowerSource(PolledSource):
    """GPUs (and Grace processors) of a DCGM exporter.

    The exporter repeats its values until it collects again. An unchanged body is not a new reading,
    and a new one is timed at the middle between the two requests, which is as exact as it is known.
    MIG instances repeat their GPU's power: one of them is kept.

    Attributes:
        uuids: GPUs to record; empty: all.
    """

    name = "dcgm"
    url: str
    uuids: Sequence[str] = ()
    _: KW_ONLY
    interval_s: float = 0.5
    timeout_s: float = 5.0
    network: Network | None = None

    def __post_init__(self) -> None:
        self._client = MetricsClient("dcgm", self.url, self.timeout_s, self.network)
        self._digest = b""
        self._looked_ns: int | None = None
        self._new_ns: int | None = None
        self._closed = False

    def probe(self) -> PowerProbe:
        scrape = self._client.fetch()
        if scrape.body is None:
            why_not = (
                f"{self.url}: {scrape.error}; is dcgm-exporter running there? (`dcgm-exporter -c"
                " 1000`)"
            )
            return self._missing(why_not, self.url)
        self._usable = True
        self._digest, self._looked_ns = _digest(scrape.body), self.clock()
        values = self._parse(scrape.body)
        devices = tuple(
            DeviceProbe(
                key[1],
                key[0],
                "dcgm" if key in values.power_w else None,
                "dcgm" if key in values.energy_j else None,
                name=values.names.get(key[1]),
            )
            for key in sorted({*values.power_w, *values.energy_j})
        )
        which = " for these GPUs" if self.uuids else ""
        why_not = "" if devices else f"the exporter shows neither power nor energy{which}"
        return PowerProbe(self.name, devices, why_not, self.url, values.double)

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        """Power and energy, if new."""
        before = self.clock()
        scrape = self._client.fetch()
        looked_ns = (before + self.clock()) // 2
        if scrape.body is None:
            if not self._closed:
                self.trouble.note(f"dcgm exporter {self.url}: {scrape.error}")
            return ()
        last_look_ns, self._looked_ns = self._looked_ns, looked_ns
        digest = _digest(scrape.body)
        if digest == self._digest:
            return ()
        self._digest = digest
        if last_look_ns is None:
            return ()  # their time is unknown
        if self._new_ns is not None and (looked_ns - self._new_ns) / NS_PER_S > SLOW_S:
            self.trouble.note(
                f"dcgm exporter {self.url}: new values are more than {SLOW_S:g} s apart; start it"
                " with `-c 1000` (its default is 30 s)"
            )
        self._new_ns = looked_ns
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
                if self.uuids and device not in self.uuids:
                    continue
                double = double or is_simulated(
                    labels.get("modelName"), labels.get("DCGM_FI_DRIVER_VERSION")
                )
                names.setdefault(device, labels.get("modelName", ""))
            # A series without an instance comes first if there is one; others repeat its value.
            if "GPU_I_ID" not in labels or (name, device) not in seen:
                seen[name, device] = value
        power: dict[tuple[Boundary, str], float] = {}
        energy: dict[tuple[Boundary, str], float] = {}
        for field in _FIELDS:
            for name in field.names:
                for (other, device), value in seen.items():
                    # 0 W and a counter at 0 mean "not measured".
                    if other == name and value > 0:
                        (power if field.what == "power" else energy).setdefault(
                            (field.boundary, device), value * field.scale
                        )
        return _Values(power, energy, names, double)

    def close(self) -> None:
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
        if match is None or match[1] not in _NEEDED:
            continue
        with suppress(ValueError):
            value = float(match[3])
            if math.isfinite(value) and value < _BLANK:
                yield match[1], dict(_LABEL.findall(match[2])), value
