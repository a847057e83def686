"""What each power source can do on this machine: resolution, update interval, cost of a reading."""

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

from harness.core.clock import NS_PER_S, now_ns
from harness.core.records import Boundary
from harness.telemetry.sources.base import (
    PowerProbe,
    PowerReading,
    PowerSource,
    What,
    probed,
    sampled,
)
from harness.telemetry.sources.select import SourceContext, Spec, make_source

OBSERVED_S: Final = 1.5
"""How long each source is watched."""
# ten times faster than the fastest sensor seen, which updates about every 20 ms
_PAUSE_S: Final = 0.002
_MOST_CALLS: Final = 1000
_LEAST_CHANGES: Final = 3

NEEDS: Final[Mapping[str, str]] = {
    "redfish": (
        "needs a management controller's address: `telemetry.power: [{kind: redfish, url: …}]`"
    ),
    "promql": (
        "needs a Prometheus that scrapes a meter: `{kind: promql, url: …, query: …, boundary:"
        " rack}`"
    ),
    "csv": "needs a meter's log: `{kind: csv, path: …, boundary: facility}`",
    "modelled": (
        "a formula, not a measurement: "
        "`{kind: modelled, of: cpu, idle_w: …, slope_w: …, boundary: node, source: …}`"
    ),
    "replay": "replays a recorded run, for demonstrations: `{kind: replay, path: …}`",
}
"""Sources that cannot be detected: the required profile entry."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """One kind of reading of one device. None is unknown.

    Attributes:
        reading: name of the reading in the power table.
        power_w: present power: mean of the readings, or the counter's increase over time.
        resolution: smallest step between two values, in W or J.
        renewed_s: mean time between two different values.
        call_s: median time per reading.
    """

    boundary: Boundary
    device_id: str
    device_name: str | None
    what: What
    reading: str
    power_w: float | None = None
    resolution: float | None = None
    renewed_s: float | None = None
    call_s: float | None = None


@dataclass(frozen=True, slots=True)
class ProbedSource:
    """One source; the other attributes are those of `PowerProbe`.

    Attributes:
        channels: what it can measure here; may be empty.
        why_not: what it cannot measure, and why.
        unread: why no present reading was had; empty if there was one.
    """

    kind: str
    channels: tuple[Sensor, ...]
    why_not: tuple[str, ...]
    origin: str | None = None
    double: str | None = None
    unread: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def survey(
    specs: Sequence[Spec], around: SourceContext, *, observe_s: float = OBSERVED_S
) -> tuple[ProbedSource, ...]:
    """Probe sources (entries of `telemetry.power`) and watch the working ones, all at once.
    `observe_s` 0: probe only.
    """
    sources = [make_source(spec, around) for spec in specs]
    if not sources:
        return ()
    with ThreadPoolExecutor(len(sources)) as pool:
        return tuple(pool.map(lambda source: _one(source, observe_s), sources))


def _one(source: PowerSource, observe_s: float) -> ProbedSource:
    try:
        probe = probed(source)
        seen: dict[tuple[Boundary, str, What], list[PowerReading]] = defaultdict(list)
        call_s: dict[What, float] = {}
        for what in source.intervals_s if probe.devices and observe_s > 0 else ():
            _watch(source, what, observe_s, seen, call_s)
        return ProbedSource(
            source.name,
            tuple(_channels(probe, seen, call_s)),
            _reasons(probe, source),
            probe.origin,
            probe.double,
            "" if seen else probe.unread,
        )
    finally:
        with suppress(Exception):  # what it measures is known; only its resources are not released
            source.close()


def _watch(
    source: PowerSource,
    what: What,
    observe_s: float,
    seen: dict[tuple[Boundary, str, What], list[PowerReading]],
    call_s: dict[What, float],
) -> None:
    took: list[float] = []
    end_ns = now_ns() + int(observe_s * NS_PER_S)
    while now_ns() < end_ns and len(took) < _MOST_CALLS:
        before = now_ns()
        readings = sampled(source, what)
        took.append((now_ns() - before) / NS_PER_S / max(1, len(readings)))
        for reading in readings:
            kind: What = "power" if reading.power_w is not None else "energy"
            seen[reading.boundary, reading.device_id, kind].append(reading)
        time.sleep(_PAUSE_S)
    call_s[what] = statistics.median(took)


def _channels(
    probe: PowerProbe,
    seen: Mapping[tuple[Boundary, str, What], Sequence[PowerReading]],
    call_s: Mapping[What, float],
) -> list[Sensor]:
    found = []
    kinds: tuple[What, ...] = ("power", "energy")
    # A source that reads both kinds at once has one loop, and one cost for both.
    both_s = next(iter(call_s.values()), None)
    for device in probe.devices:
        for what in kinds:
            reading = device.power if what == "power" else device.energy
            if reading is None:
                continue
            readings = seen.get((device.boundary, device.device_id, what), ())
            values = [
                float(r.power_w if r.power_w is not None else r.energy_j or 0.0) for r in readings
            ]
            changes = [i for i, (a, b) in enumerate(pairwise(values), 1) if b != a]
            steps = [abs(values[i] - values[i - 1]) for i in changes]
            span_s = (readings[-1].t_ns - readings[0].t_ns) / NS_PER_S if len(readings) > 1 else 0.0
            mean_w: float | None = None
            if what == "power" and values:
                mean_w = statistics.fmean(values)
            elif len(changes) > 1 and values[changes[-1]] > values[changes[0]]:
                # From one update to another: the counter is constant in between.
                first, last = changes[0], changes[-1]
                took_s = (readings[last].t_ns - readings[first].t_ns) / NS_PER_S
                mean_w = (values[last] - values[first]) / took_s
            found.append(
                Sensor(
                    device.boundary,
                    device.device_id,
                    device.name,
                    what,
                    reading,
                    mean_w,
                    min(steps) if steps else None,
                    span_s / len(steps) if len(steps) >= _LEAST_CHANGES else None,
                    call_s.get(what, both_s),
                )
            )
    return found


def _reasons(probe: PowerProbe, source: PowerSource) -> tuple[str, ...]:
    devices = (f"{d.name or d.device_id}: {d.why_not}" for d in probe.devices if d.why_not)
    reasons = [probe.why_not, *devices, *source.trouble.messages()]
    return tuple(dict.fromkeys(filter(None, reasons)))
