"""Systematic error of energy: sensors' gain error, or the meter calibration that replaces it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.core.errors import ArtifactError
from harness.core.records import Boundary
from harness.reduce.read.run import mapping, number

CALIBRATION_SCHEMA: Final = 1

BOARD_GAIN_RATIO: Final = 0.05
"""Gain error of one GPU's power sensor, a bound taken as a 95% interval (Part-time Power
Measurements, arXiv 2312.02741). Common to all runs on that GPU, independent between GPUs.
"""

BOARD_GAIN_SOURCE: Final = "default of ±5% per GPU (arXiv 2312.02741)"

_GPU: Final = (Boundary.GPU_BOARD, Boundary.MODULE)


@dataclass(frozen=True, slots=True)
class Gain:
    """Correction of a device's readings.

    Attributes:
        factor: true / reported energy.
        error_ratio: 95% bound of the remaining error, relative; None if unknown (a BMC's accuracy
            is not published).
        source: where the two come from.
        calibrated: against a meter.
    """

    factor: float = 1.0
    error_ratio: float | None = None
    source: str = "unknown: this source was never calibrated here"
    calibrated: bool = False


@dataclass(frozen=True, slots=True)
class MeterCalibration:
    """Gains by device id (a GPU's UUID)."""

    gains: Mapping[str, Gain]

    def of(self, boundary: str, device_id: str) -> Gain:
        """The device's calibrated gain, else the default of its boundary."""
        found = self.gains.get(device_id)
        if found is not None:
            return found
        return Gain(1.0, BOARD_GAIN_RATIO, BOARD_GAIN_SOURCE) if boundary in _GPU else Gain()


NO_CALIBRATION: Final = MeterCalibration({})

_HOW: Final = "make it with `harness energy calibrate --meter READINGS.csv RUN`"


def parse_calibration(raw: object, where: str) -> MeterCalibration:
    """Read a meter calibration from its JSON.

    Raises:
        ArtifactError: `raw` is not a valid calibration.
    """
    top = mapping(raw)
    version = top.get("schema_version")
    devices = mapping(top.get("devices"))
    gains = {}
    for device_id, item in devices.items():
        its = mapping(item)
        factor, error = number(its.get("gain")), number(its.get("error_ratio"))
        if factor is None or error is None or not 0.2 < factor < 5 or not 0 <= error < 1:
            raise ArtifactError(
                f"{where} has no usable gain of {device_id}",
                cause="gain must be between 0.2 and 5, error_ratio between 0 and 1",
                next_step=_HOW,
            )
        source = f"{its.get('meter') or 'a meter'}, {its.get('made_at') or 'undated'}"
        gains[str(device_id)] = Gain(factor, error, f"calibrated against {source}", calibrated=True)
    if version != CALIBRATION_SCHEMA or not gains:
        raise ArtifactError(
            f"{where} is not a meter calibration of schema_version {CALIBRATION_SCHEMA}",
            next_step=_HOW,
        )
    return MeterCalibration(gains)


def read_calibration(path: Path) -> tuple[MeterCalibration, Mapping[str, Any]]:
    """A meter calibration file, parsed and as JSON.

    Raises:
        ArtifactError: it cannot be read or is invalid.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the meter calibration {path} cannot be read: {error}") from error
    return parse_calibration(raw, path.name), mapping(raw)


def combined_ratio(joules: Mapping[str, float], ratios: Mapping[str, float | None]) -> float | None:
    """Relative error of a sum of parts with independent errors; None if one error is unknown."""
    total = sum(joules.values())
    known = [ratios[device] for device in joules]
    if total <= 0 or any(ratio is None for ratio in known):
        return None
    squared = sum((joules[device] * (ratios[device] or 0.0)) ** 2 for device in joules)
    return float(np.sqrt(squared) / total)


def ratio_of(value: float | None, low: float | None, high: float | None) -> float | None:
    """Relative half-width of an interval."""
    if value is None or low is None or high is None or value == 0:
        return None
    return abs(high - low) / 2 / abs(value)
