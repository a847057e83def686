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


@dataclass(frozen=True, slots=True)
class WithoutLoad:
    """One idle period.

    Attributes:
        when: `before_server` or `ready`.
        start: nanoseconds from the run's start, as `end`.
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
    """Idle periods of the run, by `when`."""
    found = {}
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
