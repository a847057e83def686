"""Calibrate a GPU's power sensor against a reference meter.

docs/explanation/energy.md: where to place it.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.core.errors import ArtifactError, ProfileError
from harness.core.records import Basis
from harness.reduce.energy.attribution import SLICE_S
from harness.reduce.energy.curves import from_power
from harness.reduce.energy.devices import GPU_BOUNDARIES, energies
from harness.reduce.energy.sensor_gain import (
    CALIBRATION_SCHEMA,
    MeterCalibration,
    parse_calibration,
    read_calibration,
)
from harness.reduce.read.expected_gpus import ExpectedGpus
from harness.reduce.read.run import Run, gpu_uuids, load_run, mapping
from harness.reduce.statistics.intervals import Floats

NS: Final = 1e-9
MIN_SLICES: Final = 6
"""Minimum number of slices of `SLICE_S`: half a minute of both readings."""
MAX_SHIFT_S: Final = 1.0
"""Maximum offset between the clocks of meter and run."""
_SHIFTS_S: Final = 6.0
_GRID_S: Final = 0.5
_MOVES: Final = 0.05
"""Standard deviation / mean of the power, below which a clock offset cannot be detected."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Calibration of one sensor.

    Attributes:
        gain: meter / sensor over all slices.
        error_ratio: 95% bound of the remaining error: the meter's accuracy and the scatter of the
            ratio between slices, in quadrature.
        low_w: lowest mean power of a slice, by the sensor; `high_w`: highest.
        document: content of the calibration file.
    """

    device_id: str
    gain: float
    error_ratio: float
    slices: int
    low_w: float
    high_w: float
    document: Mapping[str, Any]

    @property
    def calibration(self) -> MeterCalibration:
        return parse_calibration(self.document, "the calibration")

    def sentence(self) -> str:
        return (
            f"{self.device_id}: gain {self.gain:.4f} (meter / sensor) ±{self.error_ratio:.1%}"
            f" ({self.slices} slices between {self.low_w:.0f} and {self.high_w:.0f} W)"
        )


def calibrate(
    run_dir: Path,
    meter: Path,
    *,
    accuracy: float,
    device: str | None = None,
    name: str | None = None,
    into: Path | None = None,
) -> Calibrated:
    """Compare a GPU's power sensor with a meter's readings of the same time.

    Args:
        run_dir: a run during which the meter was read, best with stages of different power and an
            idle period.
        meter: CSV with a header: `time` (ISO 8601 with time zone, or Unix seconds), `power_w`, and
            `device_id` if it has several devices.
        accuracy: of the meter, relative, 95%, from its data sheet.
        device: UUID of the GPU or its first characters; required if the run had several.
        name: of the meter, for the file.
        into: a calibration file whose other GPUs are kept, if it exists.

    Raises:
        ProfileError: accuracy out of range, or ambiguous or unknown GPU.
        ArtifactError: the run or the readings are unusable.
    """
    if not 0 <= accuracy < 0.5:
        raise ProfileError(
            f"meter accuracy {accuracy:g} must be >= 0 and < 0.5",
            next_step="give a ratio: 0.005 for 0.5%",
        )
    run = load_run(run_dir, wanted=lambda _: False)
    if run.power is None:
        raise ArtifactError(
            f"{run_dir} has no power readings",
            next_step="calibrate with a run that recorded GPU power",
        )
    device_id, boundary = _device(run, device)
    unix_s, watts = read_meter(meter, device_id)
    anchor_unix_s, anchor = _anchor(run)
    t = (unix_s - anchor_unix_s) / NS + anchor
    rows = (run.power["boundary"] == boundary) & (run.power["device_id"] == device_id)
    only = {key: values[rows] for key, values in run.power.items()}
    start = max(float(np.min(only["t_ns"])), float(t[0]))
    end = min(float(np.max(only["t_ns"])), float(t[-1]))
    if (end - start) * NS < MIN_SLICES * SLICE_S:
        raise ArtifactError(
            f"meter and sensor overlap for {max(0.0, (end - start) * NS):.0f} s;"
            f" {MIN_SLICES * SLICE_S:.0f} s are needed",
            cause="the readings are from another time or in another time zone",
            next_step=(
                "write times with their zone, such as 2026-08-01T12:00:00+00:00, or as Unix seconds"
            ),
        )
    sensor = energies(only, start, end, ExpectedGpus())[0]
    if sensor.joules is None or sensor.basis is not Basis.MEASURED:
        raise ArtifactError(f"the run's energy is not available: {sensor.reason or sensor.basis}")
    edges = np.linspace(start, end, int((end - start) * NS / SLICE_S) + 1)
    curve = from_power(t, watts, gap_s=SLICE_S)
    if curve.between(start, end) is None:
        raise ArtifactError(
            f"the meter's readings have a gap of more than {SLICE_S:g} s",
            next_step="read the meter at least once per second",
        )
    _check_clocks(curve.at, sensor.per_bin, start, end)
    by_meter, by_sensor = np.diff(curve.at(edges)), sensor.per_bin(edges)
    ratios = by_meter / by_sensor
    gain = float(np.sum(by_meter) / np.sum(by_sensor))
    spread = 1.96 * float(np.std(ratios, ddof=1)) / gain
    error = math.hypot(accuracy, spread)
    slice_w = by_sensor / (np.diff(edges) * NS)
    low_w, high_w = float(np.min(slice_w)), float(np.max(slice_w))
    kept = (
        mapping(read_calibration(into)[1].get("devices"))
        if into is not None and into.exists()
        else {}
    )
    made_at = datetime.fromtimestamp(anchor_unix_s + (start - anchor) * NS, tz=UTC)
    document = {
        "schema_version": CALIBRATION_SCHEMA,
        "devices": {
            **kept,
            device_id: {
                "gain": gain,
                "error_ratio": error,
                "meter": name or meter.name,
                "meter_accuracy": accuracy,
                "made_at": made_at.isoformat(timespec="seconds"),
                "run_id": run.run_id,
                "slices": len(ratios),
                "power_w": [low_w, high_w],
                "ratio": [float(np.min(ratios)), float(np.max(ratios))],
            },
        },
    }
    return Calibrated(device_id, gain, error, len(ratios), low_w, high_w, document)


def read_meter(path: Path, device_id: str) -> tuple[Floats, Floats]:
    """Unix seconds and watts of a meter's CSV.

    Raises:
        ArtifactError: the file cannot be read, lacks a column or has an invalid line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [str(column).strip().lower() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            missing = {"time", "power_w"} - set(columns)
            if missing:
                raise ArtifactError(
                    f"{path} has no column {', '.join(sorted(missing))}",
                    cause=f"its header is: {', '.join(columns) or 'empty'}",
                    next_step="name the columns time and power_w (and device_id for several GPUs)",
                )
            rows = [
                (_moment(row["time"]), _watts(row["power_w"]), number)
                for number, row in enumerate(reader, 2)
                if not row.get("device_id") or str(row["device_id"]).strip() == device_id
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    for moment, watts, number in rows:
        if moment is None or watts is None:
            raise ArtifactError(
                f"{path}, line {number}: invalid {'time' if moment is None else 'power_w'}",
                next_step=(
                    "write times as ISO 8601 with time zone or as Unix seconds, and power in watts"
                ),
            )
    if len(rows) < 2:
        raise ArtifactError(f"{path} has no readings of {device_id}")
    rows.sort(key=lambda row: row[0] or 0.0)
    table = np.array(rows, dtype=np.float64)
    return table[:, 0], table[:, 1]


def _moment(text: str | None) -> float | None:
    text = (text or "").strip()
    try:
        value = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        # Without a zone the time is ambiguous.
        return moment.timestamp() if moment.tzinfo is not None else None
    return value if math.isfinite(value) and value > 1e8 else None


def _watts(text: str | None) -> float | None:
    try:
        value = float((text or "").strip())
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _device(run: Run, prefix: str | None) -> tuple[str, str]:
    assert run.power is not None
    for boundary in GPU_BOUNDARIES:
        there = sorted(set(run.power["device_id"][run.power["boundary"] == boundary]))
        mine = [device for device in there if device in gpu_uuids(run)] or there
        if prefix is not None:
            mine = [device for device in there if device.lower().startswith(prefix.lower())]
        if len(mine) == 1:
            return mine[0], str(boundary)
        if mine:
            raise ProfileError(
                f"{prefix or 'the run'} matches several GPUs: {', '.join(mine)}",
                cause="one GPU is calibrated at a time: gains differ between GPUs",
                next_step="choose one with --device UUID",
            )
    raise ProfileError(
        f"the run recorded no power of {prefix or 'a GPU'}",
        next_step="choose a GPU of the run with --device UUID",
    )


def _anchor(run: Run) -> tuple[float, float]:
    """One time in Unix seconds and in the run's nanoseconds."""
    for anchor in run.manifest.clock_anchors:
        if anchor.unix_ns is not None and anchor.monotonic_ns is not None:
            return anchor.unix_ns * NS, run.at(anchor.monotonic_ns)
    raise ArtifactError(
        "the run's manifest has no clock anchor, so its times cannot be matched to the meter's"
    )


def _check_clocks(meter_at: Any, sensor_per_bin: Any, start: float, end: float) -> None:  # noqa: ANN401 - functions of moments
    """Refuse readings that fit much better when shifted in time."""
    margin = _SHIFTS_S / NS
    edges = np.arange(start + margin, end - margin, _GRID_S / NS)
    if len(edges) < 20:
        return
    sensor = sensor_per_bin(edges)
    if not np.all(np.isfinite(sensor)) or np.std(sensor) < _MOVES * np.mean(sensor):
        return
    fits: Sequence[tuple[float, float]] = [
        (float(np.corrcoef(sensor, np.diff(meter_at(edges + shift / NS)))[0, 1]), float(shift))
        for shift in np.arange(-_SHIFTS_S, _SHIFTS_S + _GRID_S / 2, _GRID_S)
    ]
    best, shift = max(fits)
    unmoved = next(fit for fit, by in fits if by == 0)
    if abs(shift) > MAX_SHIFT_S and best > unmoved + 0.02:
        raise ArtifactError(
            f"the meter's clock is about {shift:+.1f} s off the run's",
            cause="its readings match the sensor's much better when shifted by that",
            next_step="set the meter's clock (NTP), or correct its times",
        )
