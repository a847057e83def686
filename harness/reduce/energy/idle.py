"""Power without load: before the server starts, and with the model loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.artifacts.run_summary import IdlePower, IdleStretch
from harness.reduce.energy.devices import Energy, energies
from harness.reduce.energy.sensor_gain import MeterCalibration
from harness.reduce.read.expected_gpus import expected_gpus
from harness.reduce.read.run import Run, number

BEFORE_SERVER: Final = "before_server"
READY: Final = "ready"
NS: Final = 1e-9


@dataclass(frozen=True, slots=True)
class WithoutLoad:
    """One idle period.

    Attributes:
        when: `before_server` or `ready`.
        start: nanoseconds from the start of the run in which it was measured, as `end`.
        energies: at each boundary that was read.
    """

    when: str
    start: float
    end: float
    energies: tuple[Energy, ...]

    def at(self, boundary: str) -> Energy | None:
        return next((energy for energy in self.energies if energy.boundary == boundary), None)

    def summarized(self) -> IdleStretch:
        return IdleStretch(
            start_s=self.start * 1e-9,
            end_s=self.end * 1e-9,
            boundaries={
                energy.boundary: IdlePower(
                    watts=energy.watts,
                    reason=energy.reason,
                    error_ratio=energy.error_ratio,
                    systematic_ratio=energy.systematic_ratio,
                    method=energy.method,
                )
                for energy in self.energies
            },
        )


def idles(run: Run, calibration: MeterCalibration) -> Mapping[str, WithoutLoad]:
    """Idle periods by `when`: of the run, or of the one for which its server was started."""
    found = _kept(run)
    for event in run.events:
        if event["event"] != "idle":
            continue
        start_ns, end_ns = number(event.get("start_ns")), number(event.get("end_ns"))
        if start_ns is None or end_ns is None or end_ns <= start_ns:
            continue
        when = str(event.get("when"))
        start, end = run.at(event["start_ns"]), run.at(event["end_ns"])
        found[when] = WithoutLoad(
            when,
            start,
            end,
            tuple(energies(run.power, start, end, expected_gpus(run), calibration=calibration)),
        )
    return found


def _kept(run: Run) -> dict[str, WithoutLoad]:
    """Idle periods of an earlier run: their power, without readings."""
    kept = run.manifest.idle
    if kept is None:
        return {}
    stretches = {BEFORE_SERVER: kept.before_server, READY: kept.ready}
    return {
        when: WithoutLoad(
            when,
            one.start_s / NS,
            one.end_s / NS,
            tuple(_energy(name, one, power) for name, power in one.boundaries.items()),
        )
        for when, one in stretches.items()
        if one is not None
    }


def _energy(boundary: str, stretch: IdleStretch, power: IdlePower) -> Energy:
    length_s = stretch.end_s - stretch.start_s
    return Energy(
        boundary,
        None if power.watts is None else power.watts * length_s,
        power.reason,
        power.method,
        devices=0,
        length_s=length_s,
        error_ratio=power.error_ratio,
        systematic_ratio=power.systematic_ratio,
    )


@dataclass(frozen=True, slots=True)
class Excess:
    """Power of the window above idle power, at one boundary. Both come from the same sensors, so
    the relative gain error stays the same; statistical errors add in quadrature.
    """

    watts: float
    error_w: float | None
    systematic_ratio: float | None


def above(window: Energy, idle: Energy | None) -> Excess | None:
    """Power above idle; None if either is absent."""
    if idle is None or window.watts is None or idle.watts is None:
        return None
    error = None
    if window.error_ratio is not None and idle.error_ratio is not None:
        error = float(np.hypot(window.error_ratio * window.watts, idle.error_ratio * idle.watts))
    return Excess(window.watts - idle.watts, error, window.systematic_ratio)
