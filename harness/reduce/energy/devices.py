"""Joules of a window per power boundary: from the energy counter, else from the integral of power;
absent with a reason, never 0.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.artifacts.run_summary import BoundaryEnergy, DeviceEnergy
from harness.core.records import Basis, Boundary, Concern, Severity
from harness.reduce.energy.curves import (
    COUNTER_STEP_S,
    GAP_S,
    INSTANT_LAG_S,
    LAG_S,
    RAPL_STEP_S,
    Curve,
    counter_error,
    from_counter,
    from_power,
    integral_error,
)
from harness.reduce.energy.sensor_gain import NO_CALIBRATION, Gain, MeterCalibration, combined_ratio
from harness.reduce.statistics.intervals import Floats

ABSENT_BELOW_S: Final = 5.0
"""Windows shorter than this have no energy: counter and integrated power were seen 4 to 26 % apart
below it, and to agree at 5 s.
"""
PRELIMINARY_BELOW_S: Final = 30.0
"""Energy of a window shorter than this is preliminary."""
DISAGREEMENT: Final = 0.05
"""Counter and integral of power further apart than this cannot both be right."""
UNRESOLVED: Final = 0.10
"""An integral that its readings determine no better than this is absent: the load moves faster than
the sensor.
"""
OVER_LIMIT: Final = 1.05
"""Mean power beyond this multiple of a board's highest limit is no power of that board: a unit or a
device was mistaken.
"""
MOST_W: Final[Mapping[str, float]] = {
    Boundary.GPU_BOARD: 1e4,
    Boundary.MODULE: 1e4,
    Boundary.CPU_PACKAGE: 3e3,
    Boundary.DRAM: 3e3,
    Boundary.NODE: 2e5,
    Boundary.RACK: 3e6,
}
"""Mean power of one device that nothing at its boundary takes, several times what the largest of
2026 are rated at (superchip modules below 3 kW, nodes of eight boards below 20 kW, racks below 0.7
MW): milliwatts that were read as watts are beyond it.
"""
LEAST_W: Final = 1.0
"""Mean power below which no board serves anything: kilowatts that were read as watts, or a board
that is switched off.
"""
SLOW_INTERVALS: Final = 3.0
"""Node meters may read once in many seconds: a gap of theirs is longer than this many of their own
intervals, and than `GAP_S`.
"""
MIN_READINGS: Final = 10
"""Fewest readings of power within a window: fewer say nothing of what they leave unknown."""

Columns = Mapping[str, npt.NDArray[Any]]

GPU_BOUNDARIES: Final = (Boundary.GPU_BOARD, Boundary.MODULE)
"""Boundaries of boards, the first that was read first."""

_FAMILIES: Final = ("nvml", "dcgm", "rapl", "redfish", "ipmi", "promql", "csv")
"""Measured sources, the more trusted ones first; any other is behind them, replayed ones behind
those, `modelled` last.
"""


@dataclass(frozen=True, slots=True)
class Device:
    """Energy of one device.

    Attributes:
        joules: truth as far as it is known: readings x gain; None when absent.
        reason: why it is absent.
        method: `counter`, `counter bridged by integral` (over a reset) or `integral`; None when
            absent.
        gain: what its readings are multiplied with, and how far that is known.
        counter_j: as read, without gain; None where there is no counter over the window.
        integral_j: likewise by power.
        disagreement: |counter - integral| / integral.
        gap_s: longest silence of its power readings that touches the window.
        gap_limit_s: longest that is allowed.
        implausible_w: mean power that its readings give and that it cannot have; None where there
            is nothing wrong with it.
        error_j: half-width at 95 % of what readings leave unknown.
        resets: of its counter, in the whole run.
    """

    device_id: str
    joules: float | None
    reason: str | None
    method: str | None
    gain: Gain
    counter_j: float | None = None
    integral_j: float | None = None
    disagreement: float | None = None
    gap_s: float | None = None
    error_j: float | None = None
    resets: int = 0
    gap_limit_s: float = GAP_S
    implausible_w: float | None = None
    curve: Curve | None = field(default=None, compare=False, repr=False)

    def summarized(self) -> DeviceEnergy:
        """As in a summary."""
        return DeviceEnergy(
            device_id=self.device_id,
            joules=self.joules,
            reason=self.reason,
            method=self.method,
            counter_j=self.counter_j,
            integral_j=self.integral_j,
            disagreement=self.disagreement,
            longest_gap_s=self.gap_s,
            error_j=self.error_j,
            counter_resets=self.resets,
            gain=self.gain.factor,
            systematic_ratio=self.gain.error_ratio,
            systematic_source=self.gain.source,
            calibrated=self.gain.calibrated,
        )


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy at one boundary over a window.

    Attributes:
        boundary: what it covers.
        joules: in the window; None when absent.
        reason: why it is absent.
        method: `counter`, `integral`, or both where devices differ; None when absent.
        devices: how many are summed.
        basis: measured, or modelled where the source says so or plays a recording back; absent.
        source: family of the readings: nvml, dcgm, rapl, ipmi, redfish, promql, csv, modelled,
            replay:….
        length_s: of the window.
        error_ratio: statistical error of the joules, 95 %, relative: what the readings leave
            unknown.
        systematic_ratio: gain errors, independent between devices; None where they are not known.
        parts: per device.
        others: joules that other sources at the same boundary give: source -> joules.
        concerns: what is wrong with it.
    """

    boundary: str
    joules: float | None
    reason: str | None
    method: str | None
    devices: int
    basis: Basis = Basis.MEASURED
    source: str = ""
    length_s: float = 0.0
    error_ratio: float | None = None
    systematic_ratio: float | None = None
    parts: tuple[Device, ...] = ()
    others: Mapping[str, float] = field(default_factory=dict)
    concerns: tuple[Concern, ...] = ()

    @property
    def watts(self) -> float | None:
        """Mean over the window."""
        return (
            self.joules / self.length_s if self.joules is not None and self.length_s > 0 else None
        )

    def per_bin(self, edges: Floats) -> Floats:
        """Joules in each stretch between edges; NaN outside the readings."""
        curves = [(part.curve, part.gain.factor) for part in self.parts if part.curve is not None]
        if not curves or self.joules is None:
            return np.full(len(edges) - 1, np.nan)
        out = np.zeros(len(edges) - 1)
        for curve, factor in curves:
            out += np.diff(curve.at(edges)) * factor
        return out

    def summarized(self) -> BoundaryEnergy:
        """As in a summary."""
        return BoundaryEnergy(
            boundary=self.boundary,
            joules=self.joules,
            watts=self.watts,
            reason=self.reason,
            basis=Basis.ABSENT if self.joules is None else self.basis,
            source=self.source,
            method=self.method,
            window_s=self.length_s,
            error_ratio=self.error_ratio,
            systematic_ratio=self.systematic_ratio,
            devices=tuple(part.summarized() for part in self.parts),
            other_sources=self.others,
        )


def energies(
    power: Columns | None,
    start: float,
    end: float,
    gpu_uuids: Collection[str],
    *,
    calibration: MeterCalibration = NO_CALIBRATION,
    limits_w: Mapping[str, float] | None = None,
    invalid: str | None = None,
) -> list[Energy]:
    """Energy of [start, end) (nanoseconds) at each boundary that was read; an empty list when
    nothing was.

    Args:
        power: columns of the power table.
        start: of the window.
        end: of the window.
        gpu_uuids: boards of the deployment: all of them must be there at a boundary of GPUs, and
            others are left out.
        calibration: gains of devices.
        limits_w: highest power of each board.
        invalid: why the boards' energy means nothing (throttling); None where it does.
    """
    if power is None:
        return []
    out = []
    for boundary in sorted(set(power["boundary"])):
        at_boundary = power["boundary"] == boundary
        families = sorted(
            {family(str(source)) for source in set(power["source"][at_boundary])}, key=_rank
        )
        readers = [
            _Reader(power, start, end, gpu_uuids, calibration, limits_w or {}, name)
            for name in families
        ]
        found = [reader.boundary(str(boundary)) for reader in readers]
        chosen = next((one for one in found if one.joules is not None), found[0])
        others = {
            one.source: one.joules for one in found if one is not chosen and one.joules is not None
        }
        out.append(_finished(chosen, others, invalid if boundary in GPU_BOUNDARIES else None))
    return out


def family(source: str) -> str:
    """`nvml-instant` -> `nvml`; a replayed one keeps its mark."""
    return source.split("-", 1)[0]


def _rank(name: str) -> tuple[int, str]:
    if name == "modelled":
        return len(_FAMILIES) + 2, name
    if name.startswith("replay"):
        return len(_FAMILIES) + 1, name
    return (_FAMILIES.index(name) if name in _FAMILIES else len(_FAMILIES)), name


def _finished(energy: Energy, others: Mapping[str, float], invalid: str | None) -> Energy:
    concerns = list(energy.concerns)
    if energy.joules is not None and energy.basis is Basis.MEASURED:
        for name, other_j in others.items():
            apart = abs(other_j - energy.joules) / energy.joules if energy.joules > 0 else 0.0
            if name != "modelled" and not name.startswith("replay") and apart > DISAGREEMENT:
                text = (
                    f"{energy.boundary}: {name} gives {other_j:.0f} J, {energy.source}"
                    f" {energy.joules:.0f} J ({apart:.1%} apart)."
                )
                concerns.append(
                    Concern("energy_sources_disagree", Severity.DEGRADED, text, apart, DISAGREEMENT)
                )
    joules, reason = energy.joules, energy.reason
    if invalid is not None and joules is not None:
        joules, reason = None, invalid
    return Energy(
        energy.boundary,
        joules,
        reason,
        energy.method if joules is not None else None,
        energy.devices,
        energy.basis,
        energy.source,
        energy.length_s,
        energy.error_ratio,
        energy.systematic_ratio,
        energy.parts,
        others,
        tuple(concerns),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Energies from one family of sources, by its name."""

    power: Columns
    start: float
    end: float
    gpu_uuids: Collection[str]
    calibration: MeterCalibration
    limits_w: Mapping[str, float]
    name: str

    @property
    def length_s(self) -> float:
        return (self.end - self.start) * 1e-9

    def boundary(self, boundary: str) -> Energy:
        name = self.name
        at_boundary = self.power["boundary"] == boundary
        of_family = [
            source
            for source in set(self.power["source"][at_boundary])
            if family(str(source)) == name
        ]
        rows = at_boundary & np.logical_or.reduce(
            [self.power["source"] == source for source in of_family]
        )
        found = sorted(set(self.power["device_id"][rows]))
        concerns: list[Concern] = []
        basis = (
            Basis.MODELLED if name == "modelled" or name.startswith("replay") else Basis.MEASURED
        )
        if name.startswith("replay"):
            text = (
                f"The power at {boundary} is a recording that was played back ({name}): it says"
                " nothing about this run."
            )
            concerns.append(Concern("power_replayed", Severity.DEGRADED, text))
        parts: tuple[Device, ...] = ()

        def absent(reason: str) -> Energy:
            return Energy(
                boundary,
                None,
                reason,
                None,
                len(found),
                basis,
                name,
                self.length_s,
                parts=parts,
                concerns=tuple(concerns),
            )

        if boundary in GPU_BOUNDARIES and self.gpu_uuids:
            missing = sorted(set(self.gpu_uuids) - set(found))
            foreign = sorted(set(found) - set(self.gpu_uuids))
            found = [device for device in found if device in self.gpu_uuids]
            if foreign:
                text = (
                    f"Power of {len(foreign)} GPU(s) outside the deployment was read and is left"
                    " out."
                )
                concerns.append(Concern("gpu_set", Severity.NOTE, text, len(foreign), 0))
            if missing:
                text = (
                    f"Power of {len(missing)} of {len(self.gpu_uuids)} GPUs is missing, so the"
                    " deployment's energy is not known."
                )
                concerns.append(Concern("gpu_set", Severity.DEGRADED, text, len(missing), 0))
                return absent(f"no power of {', '.join(missing)}")
        if self.length_s < ABSENT_BELOW_S:
            return absent(
                f"the window is {self.length_s:.1f} s; energy needs at least {ABSENT_BELOW_S:.0f} s"
            )
        if self.length_s < PRELIMINARY_BELOW_S:
            text = (
                f"Energy is taken over {self.length_s:.0f} s; at least {PRELIMINARY_BELOW_S:.0f} s"
                " are wanted."
            )
            concerns.append(
                Concern(
                    "energy_window_short",
                    Severity.PRELIMINARY,
                    text,
                    self.length_s,
                    PRELIMINARY_BELOW_S,
                )
            )
        parts = tuple(
            self.device(boundary, device, rows & (self.power["device_id"] == device))
            for device in found
        )
        for part in parts:
            concerns += self._concerns(boundary, part)
        for part in parts:
            if part.joules is None:
                return absent(f"{part.device_id}: {part.reason}")
        joules = {part.device_id: part.joules for part in parts if part.joules is not None}
        total = sum(joules.values())
        errors = [part.error_j for part in parts]
        known = [error for error in errors if error is not None]
        error = float(np.sqrt(np.sum(np.square(known)))) if len(known) == len(errors) else None
        return Energy(
            boundary,
            total,
            None,
            " and ".join(sorted({str(part.method) for part in parts})),
            len(parts),
            basis,
            name,
            self.length_s,
            error / total if error is not None and total > 0 else None,
            combined_ratio(joules, {part.device_id: part.gain.error_ratio for part in parts}),
            parts,
            {},
            tuple(concerns),
        )

    def _concerns(self, boundary: str, part: Device) -> list[Concern]:
        out = []
        if part.gap_s is not None and part.gap_s > part.gap_limit_s:
            text = f"Power of {part.device_id} was silent for {part.gap_s:.1f} s within the window."
            out.append(Concern("power_gap", Severity.DEGRADED, text, part.gap_s, part.gap_limit_s))
        if part.disagreement is not None and part.disagreement > DISAGREEMENT:
            text = (
                f"Energy counter and integral of power of {part.device_id} are"
                f" {part.disagreement:.1%} apart."
            )
            severity = Severity.DEGRADED if part.joules is None else Severity.NOTE
            if severity is Severity.NOTE:
                text += (
                    " The power readings cannot resolve the load better than that, so the counter"
                    " stands."
                )
            out.append(Concern("energy_disagrees", severity, text, part.disagreement, DISAGREEMENT))
        if part.implausible_w is not None:
            text = f"Power of {part.device_id} cannot be right: {part.reason}."
            most = self.limits_w.get(part.device_id) or MOST_W.get(boundary, LEAST_W)
            out.append(
                Concern("power_implausible", Severity.DEGRADED, text, part.implausible_w, most)
            )
        if part.resets:
            text = (
                f"The energy counter of {part.device_id} started again {part.resets} time(s): its"
                " driver was loaded anew."
            )
            out.append(Concern("energy_counter_reset", Severity.DEGRADED, text, part.resets, 0))
        return out

    def device(self, boundary: str, device_id: str, rows: npt.NDArray[np.bool_]) -> Device:
        gpu = boundary in GPU_BOUNDARIES
        gain = self.calibration.of(boundary, device_id)
        t, watts, joules = (
            self.power["t_ns"][rows],
            self.power["power_w"][rows],
            self.power["energy_j"][rows],
        )
        t_power, w_power, lag_error_s = _power_readings(
            t, watts, self.power["source"][rows], positive=gpu
        )
        limit = _gap_limit(t_power, gpu)
        power = from_power(t_power, w_power, limit)
        is_counter = ~np.isnan(joules)
        counter = from_counter(t[is_counter], joules[is_counter], power)
        counter_limit = _gap_limit(counter.t, gpu)

        counter_j = counter.between(self.start, self.end)
        if counter_j is not None and not _edges_close(counter, self.start, self.end, counter_limit):
            counter_j = None
        integral_j = power.between(self.start, self.end)
        gap_s = power.longest_step_s(self.start, self.end)
        inside = int(np.sum((power.t >= self.start) & (power.t < self.end)))
        few = inside < MIN_READINGS
        error = (
            integral_error(power, self.start, self.end, lag_error_s)
            if integral_j is not None
            else None
        )
        apart = None
        if counter_j is not None and integral_j is not None and integral_j > 0 and not few:
            apart = abs(counter_j - integral_j) / integral_j
        unresolved = error / integral_j if error is not None and integral_j else 0.0

        def result(
            value: float | None,
            reason: str | None,
            method: str | None = None,
            error_j: float | None = None,
            curve: Curve | None = None,
            implausible_w: float | None = None,
        ) -> Device:
            scaled = None if value is None else value * gain.factor
            scaled_error = None if error_j is None else error_j * gain.factor
            return Device(
                device_id,
                scaled,
                reason,
                method,
                gain,
                counter_j,
                integral_j,
                apart,
                gap_s,
                scaled_error,
                counter.resets,
                limit,
                implausible_w,
                curve,
            )

        best = counter_j if counter_j is not None else integral_j
        if best is not None and best < 0:
            return result(None, "the readings give less than 0 J")
        if best is not None:
            mean_w = best / self.length_s
            why = self._implausible(boundary, device_id, mean_w)
            if why is not None:
                return result(
                    None,
                    f"{mean_w:.4g} W on average, and {why}: a unit or a device was mistaken",
                    implausible_w=mean_w,
                )
        if counter_j is not None:
            if apart is not None and apart > DISAGREEMENT and apart > unresolved:
                reason = (
                    f"its counter says {counter_j:.0f} J and the integral of its power"
                    f" {integral_j:.0f} J, {apart:.1%} apart"
                )
                return result(None, reason)
            method = (
                "counter bridged by integral"
                if counter.touches(counter.bridged, self.start, self.end)
                else "counter"
            )
            step_s = RAPL_STEP_S if self.name == "rapl" else COUNTER_STEP_S
            return result(
                counter_j,
                None,
                method,
                counter_error(counter, self.start, self.end, step_s),
                counter,
            )
        if integral_j is not None and not few:
            if unresolved > UNRESOLVED:
                reason = (
                    "power changes faster than it was read: its integral is known to"
                    f" ±{unresolved:.0%} only, and there is no counter"
                )
                return result(None, reason)
            return result(integral_j, None, "integral", error, power)
        if counter.resets and counter.covers(self.start, self.end):
            reason = "its counter started again within the window and no power reading bridges that"
        elif gap_s is not None and gap_s > limit:
            reason = f"power was silent for {gap_s:.1f} s and there is no energy counter"
        elif integral_j is not None and few:
            reason = f"{inside} readings of power in the window; at least {MIN_READINGS} are needed"
        elif gap_s is not None:
            reason = "power readings are broken within the window"
        else:
            reason = "readings do not cover the window"
        return result(None, reason)

    def _implausible(self, boundary: str, device_id: str, mean_w: float) -> str | None:
        """Why a device cannot have had this mean power; None where it can."""
        stated = (
            self.limits_w.get(device_id) if boundary == Boundary.GPU_BOARD else None
        )  # a module's CPU is not within the limit
        most = MOST_W.get(boundary)
        if stated is not None and mean_w > OVER_LIMIT * stated:
            return f"the board's limit is {stated:.0f} W"
        if most is not None and mean_w > most:
            return f"nothing at this boundary takes more than {most:.0f} W"
        if boundary in GPU_BOUNDARIES and mean_w < LEAST_W:
            return f"a board that serves takes more than {LEAST_W:g} W"
        return None


def _power_readings(
    t: Floats, watts: Floats, source: npt.NDArray[Any], *, positive: bool
) -> tuple[Floats, Floats, float]:
    """Readings of one kind, moved to the moments that they stand for, and how far those are known
    in seconds.

    Instant ones where there are any, since an average over a trailing second smears the window's
    edges.
    """
    there = np.isfinite(watts) & (
        watts > 0 if positive else watts >= 0
    )  # a board that draws 0 W is one that was not measured
    by_lag: dict[tuple[float, float], npt.NDArray[np.bool_]] = {}
    for name in set(source):
        lag = next((lag for word, lag in LAG_S.items() if word in str(name)), INSTANT_LAG_S)
        rows = there & (source == name)
        if np.any(rows):
            by_lag[lag] = by_lag.get(lag, np.zeros(len(t), dtype=bool)) | rows
    if not by_lag:
        return np.zeros(0), np.zeros(0), 0.0
    lag_s, error_s = min(by_lag)
    rows = by_lag[lag_s, error_s]
    return t[rows] - lag_s * 1e9, watts[rows], error_s


def _gap_limit(t: Floats, gpu: bool) -> float:
    if gpu or len(t) < 3:
        return GAP_S
    return max(GAP_S, SLOW_INTERVALS * float(np.median(np.diff(t))) * 1e-9)


def _edges_close(curve: Curve, start: float, end: float, limit_s: float) -> bool:
    """Whether the readings about both edges are near enough to interpolate between them."""
    for edge in (start, end):
        after = int(np.searchsorted(curve.t, edge, side="left"))
        before = max(after - 1, 0) if curve.t[min(after, len(curve.t) - 1)] > edge else after
        if (curve.t[min(after, len(curve.t) - 1)] - curve.t[before]) * 1e-9 > limit_s:
            return False
    return True
