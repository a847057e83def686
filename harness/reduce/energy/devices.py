"""Energy of a window per power boundary: from the energy counter, else from the integral of power;
absent with a reason, never 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from harness.reduce.read.expected_gpus import ExpectedGpus
from harness.reduce.read.run import Columns
from harness.reduce.statistics.intervals import Floats

ABSENT_BELOW_S: Final = 5.0
"""Minimum window for energy: counter and integrated power differed by 4 to 26% below it, and agreed
at 5 s.
"""
PRELIMINARY_BELOW_S: Final = 30.0
"""Energy of a window shorter than this is preliminary."""
DISAGREEMENT: Final = 0.05
"""Maximum relative difference between counter and integral of power."""
UNRESOLVED: Final = 0.10
"""Maximum sampling error of an integral; above it, the load changes faster than the sensor."""
OVER_LIMIT: Final = 1.05
"""Maximum mean power of a GPU over its highest power limit; more is a wrong unit or device."""
MOST_W: Final[Mapping[str, float]] = {
    Boundary.GPU_BOARD: 1e4,
    Boundary.MODULE: 1e4,
    Boundary.CPU_PACKAGE: 3e3,
    Boundary.DRAM: 3e3,
    Boundary.NODE: 2e5,
    Boundary.RACK: 3e6,
}
"""Implausible mean power of one device: several times the highest ratings of 2026 (superchip
modules below 3 kW, nodes of eight GPUs below 20 kW, racks below 0.7 MW). Catches mW read as W.
"""
LEAST_W: Final = 1.0
"""Implausibly low mean power of a serving GPU: kW read as W, or a GPU that is off."""
SLOW_INTERVALS: Final = 3.0
"""Node meters may read slowly: a gap exceeds this many of their intervals and `GAP_S`."""
MIN_READINGS: Final = 10
"""Minimum number of power readings in a window: fewer give no sampling error."""

GPU_BOUNDARIES: Final = (Boundary.GPU_BOARD, Boundary.MODULE)
"""Boundaries of GPUs, in order of preference."""

_FAMILIES: Final = ("nvml", "dcgm", "rapl", "redfish", "ipmi", "promql", "csv")
"""Measured sources, most trusted first; then any other, replayed ones, and `modelled` last."""


@dataclass(frozen=True, slots=True)
class Device:
    """Energy of one device (`harness.artifacts.run_summary.DeviceEnergy`).

    Attributes:
        gap_limit_s: longest allowed gap of its power readings.
        implausible_w: its mean power by the readings, if implausible.
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
    """Energy at one boundary over a window (`harness.artifacts.run_summary.BoundaryEnergy`).

    Attributes:
        devices: how many are summed; `parts`: each of them.
        basis: measured, or modeled for a modeled or replayed source.
        length_s: of the window.
        others: joules by other sources at the same boundary: source -> joules.
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
        """Joules in each interval between edges; NaN outside the readings."""
        curves = [(part.curve, part.gain.factor) for part in self.parts if part.curve is not None]
        out = np.full(len(edges) - 1, 0.0 if curves and self.joules is not None else np.nan)
        for curve, factor in curves:
            out += np.diff(curve.at(edges)) * factor
        return out

    def summarized(self) -> BoundaryEnergy:
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
    gpus: ExpectedGpus,
    *,
    calibration: MeterCalibration = NO_CALIBRATION,
    limits_w: Mapping[str, float] | None = None,
    invalid: str | None = None,
) -> list[Energy]:
    """Energy of [start, end) (nanoseconds) at each boundary in the power table.

    All `gpus` of the deployment must be there at a GPU boundary; others are left out. `limits_w`:
    highest power limit of each GPU. `invalid`: why GPU energy is invalid (throttling), if it is.
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
            _Reader(power, start, end, gpus, calibration, limits_w or {}, name) for name in families
        ]
        found = [reader.boundary(str(boundary)) for reader in readers]
        chosen = next((one for one in found if one.joules is not None), found[0])
        others = {
            one.source: one.joules for one in found if one is not chosen and one.joules is not None
        }
        out.append(_finished(chosen, others, invalid if boundary in GPU_BOUNDARIES else None))
    return out


def per_joule(amount: float, joules: float | None) -> float | None:
    """An amount, such as output tokens, per joule; None if energy is unknown or not positive."""
    return amount / joules if joules is not None and joules > 0 else None


def family(source: str) -> str:
    """`nvml-instant` -> `nvml`; `replay:nvml-instant` -> `replay:nvml`."""
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
                    f"{energy.boundary}: {name} reports {other_j:.0f} J, {energy.source}"
                    f" {energy.joules:.0f} J ({apart:.1%} difference)."
                )
                concerns.append(
                    Concern("energy_sources_disagree", Severity.DEGRADED, text, apart, DISAGREEMENT)
                )
    energy = replace(energy, others=others, concerns=tuple(concerns))
    if invalid is None or energy.joules is None:
        return energy
    return replace(energy, joules=None, reason=invalid, method=None)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Energy from one family of sources."""

    power: Columns
    start: float
    end: float
    gpus: ExpectedGpus
    calibration: MeterCalibration
    limits_w: Mapping[str, float]
    name: str

    @property
    def length_s(self) -> float:
        return (self.end - self.start) * 1e-9

    @property
    def replayed(self) -> bool:
        return self.name.startswith("replay")

    def boundary(self, boundary: str) -> Energy:
        rows = self._rows(boundary)
        found = sorted(set(self.power["device_id"][rows]))
        concerns: list[Concern] = []
        if self.replayed:
            text = (
                f"Power at {boundary} is a replayed recording ({self.name}), not a measurement of"
                " this run."
            )
            concerns.append(Concern("power_replayed", Severity.DEGRADED, text))
        reason = None
        if boundary in GPU_BOUNDARIES:
            found, reason = self._of_deployment(found, concerns)
        if reason is None and self.length_s < ABSENT_BELOW_S:
            reason = (
                f"the window is {self.length_s:.1f} s; energy needs at least {ABSENT_BELOW_S:.0f} s"
            )
        if reason is not None:
            return self._energy(boundary, len(found), (), concerns, reason)
        if self.length_s < PRELIMINARY_BELOW_S:
            limit_s = PRELIMINARY_BELOW_S
            text = f"Energy covers {self.length_s:.0f} s; at least {limit_s:.0f} s are required."
            severity = Severity.PRELIMINARY
            concerns.append(Concern("energy_window_short", severity, text, self.length_s, limit_s))
        parts = tuple(
            self._device(boundary, device, rows & (self.power["device_id"] == device))
            for device in found
        )
        for part in parts:
            concerns += self._concerns(boundary, part)
        absent = next((part for part in parts if part.joules is None), None)
        reason = None if absent is None else f"{absent.device_id}: {absent.reason}"
        return self._energy(boundary, len(parts), parts, concerns, reason)

    def _rows(self, boundary: str) -> npt.NDArray[np.bool_]:
        at_boundary = self.power["boundary"] == boundary
        of_family = [
            self.power["source"] == source
            for source in set(self.power["source"][at_boundary])
            if family(str(source)) == self.name
        ]
        rows: npt.NDArray[np.bool_] = at_boundary & np.logical_or.reduce(of_family)
        return rows

    def _of_deployment(
        self, found: list[str], concerns: list[Concern]
    ) -> tuple[list[str], str | None]:
        """The deployment's GPUs among those found, and why their sum is not its energy, if so."""
        mine = self.gpus.mine(found)
        foreign = len(found) - len(mine)
        if foreign:
            text = f"Power of {foreign} GPU(s) outside the deployment is excluded."
            concerns.append(Concern("gpu_set", Severity.NOTE, text, foreign, 0))
        reason = self.gpus.why_not(mine)
        if reason is None:
            return mine, None
        expected = self.gpus.count or len(self.gpus.uuids)
        wrong = abs(expected - len(mine))
        text = (
            f"Power of {wrong} of {expected} GPUs is missing, so the deployment's energy is"
            " unknown."
            if len(mine) < expected
            else f"Power of {len(mine)} GPUs was read, but the deployment has {expected}; which"
            " ones belong to it is unknown."
        )
        concerns.append(Concern("gpu_set", Severity.DEGRADED, text, wrong, 0))
        return mine, reason

    def _energy(
        self,
        boundary: str,
        devices: int,
        parts: tuple[Device, ...],
        concerns: list[Concern],
        reason: str | None,
    ) -> Energy:
        """Sum over devices; absent if there is a reason."""
        basis = Basis.MODELLED if self.replayed or self.name == "modelled" else Basis.MEASURED
        energy = Energy(boundary, None, reason, None, devices, basis, self.name, self.length_s)
        energy = replace(energy, parts=parts, concerns=tuple(concerns))
        if reason is not None:
            return energy
        joules = {part.device_id: part.joules for part in parts if part.joules is not None}
        total = sum(joules.values())
        known = [part.error_j for part in parts if part.error_j is not None]
        error = float(np.sqrt(np.sum(np.square(known)))) if len(known) == len(parts) else None
        return replace(
            energy,
            joules=total,
            method=" and ".join(sorted({str(part.method) for part in parts})),
            error_ratio=error / total if error is not None and total > 0 else None,
            systematic_ratio=combined_ratio(
                joules, {part.device_id: part.gain.error_ratio for part in parts}
            ),
        )

    def _concerns(self, boundary: str, part: Device) -> list[Concern]:
        out = []
        if part.gap_s is not None and part.gap_s > part.gap_limit_s:
            text = f"No power readings of {part.device_id} for {part.gap_s:.1f} s in the window."
            out.append(Concern("power_gap", Severity.DEGRADED, text, part.gap_s, part.gap_limit_s))
        if part.disagreement is not None and part.disagreement > DISAGREEMENT:
            text = (
                f"Energy counter and integral of power of {part.device_id} differ by"
                f" {part.disagreement:.1%}."
            )
            severity = Severity.DEGRADED if part.joules is None else Severity.NOTE
            if severity is Severity.NOTE:
                text += " That is within the power readings' resolution; the counter is used."
            out.append(Concern("energy_disagrees", severity, text, part.disagreement, DISAGREEMENT))
        if part.implausible_w is not None:
            text = f"Power of {part.device_id} is implausible: {part.reason}."
            most = self.limits_w.get(part.device_id) or MOST_W.get(boundary, LEAST_W)
            out.append(
                Concern("power_implausible", Severity.DEGRADED, text, part.implausible_w, most)
            )
        if part.resets:
            text = (
                f"The energy counter of {part.device_id} was reset {part.resets} time(s): its"
                " driver was reloaded."
            )
            out.append(Concern("energy_counter_reset", Severity.DEGRADED, text, part.resets, 0))
        return out

    def _device(self, boundary: str, device_id: str, rows: npt.NDArray[np.bool_]) -> Device:
        gpu = boundary in GPU_BOUNDARIES
        gain = self.calibration.of(boundary, device_id)
        t, joules = self.power["t_ns"][rows], self.power["energy_j"][rows]
        t_power, w_power, lag_error_s = _power_readings(
            t, self.power["power_w"][rows], self.power["source"][rows], positive=gpu
        )
        limit_s = _gap_limit(t_power, gpu)
        power = from_power(t_power, w_power, limit_s)
        is_counter = ~np.isnan(joules)
        counter = from_counter(t[is_counter], joules[is_counter], power)
        step_s = RAPL_STEP_S if self.name == "rapl" else COUNTER_STEP_S
        read = _Readings(self.start, self.end, power, counter, limit_s, lag_error_s, gpu, step_s)
        found = self._implausible(boundary, device_id, read) or read.energy()
        return Device(
            device_id,
            None if found.joules is None else found.joules * gain.factor,
            found.reason,
            found.method,
            gain,
            read.counter_j,
            read.integral_j,
            read.apart,
            read.gap_s,
            None if found.error_j is None else found.error_j * gain.factor,
            counter.resets,
            limit_s,
            found.implausible_w,
            found.curve,
        )

    def _implausible(self, boundary: str, device_id: str, read: "_Readings") -> "_Found | None":
        """Implausible energy of a device, with the reason; None if it is plausible."""
        best = read.counter_j if read.counter_j is not None else read.integral_j
        if best is None:
            return None
        if best < 0:
            return _Found(reason="the readings give a negative energy")
        mean_w = best / self.length_s
        # A module's CPU is not within its GPU's limit.
        stated = self.limits_w.get(device_id) if boundary == Boundary.GPU_BOARD else None
        most = MOST_W.get(boundary)
        if stated is not None and mean_w > OVER_LIMIT * stated:
            why = f"the GPU's power limit is {stated:.0f} W"
        elif most is not None and mean_w > most:
            why = f"no device at this boundary draws more than {most:.0f} W"
        elif boundary in GPU_BOUNDARIES and mean_w < LEAST_W:
            why = f"a serving GPU draws more than {LEAST_W:g} W"
        else:
            return None
        check = "check the unit (mW/W/kW) and the device mapping"
        reason = f"{mean_w:.4g} W on average, but {why}; {check}"
        return _Found(reason=reason, implausible_w=mean_w)


@dataclass(frozen=True, slots=True)
class _Found:
    """Energy by the readings, without gain, or the reason why there is none."""

    joules: float | None = None
    reason: str | None = None
    method: str | None = None
    error_j: float | None = None
    curve: Curve | None = None
    implausible_w: float | None = None


class _Readings:
    """One device's readings around a window.

    Attributes:
        counter_j: by its counter; None without one over the window.
        integral_j: by the integral of its power.
        apart: |counter - integral| / integral; None without both.
        gap_s: longest gap of its power readings.
    """

    def __init__(
        self,
        start: float,
        end: float,
        power: Curve,
        counter: Curve,
        limit_s: float,
        lag_error_s: float,
        gpu: bool,
        step_s: float,
    ) -> None:
        self._start, self._end, self._limit_s, self._step_s = start, end, limit_s, step_s
        self._power, self._counter = power, counter
        self.counter_j = counter.between(start, end)
        if self.counter_j is not None and not _edges_close(
            counter, start, end, _gap_limit(counter.t, gpu)
        ):
            self.counter_j = None
        self.integral_j = power.between(start, end)
        self.gap_s = power.longest_step_s(start, end)
        self._inside = int(np.sum((power.t >= start) & (power.t < end)))
        self._few = self._inside < MIN_READINGS
        self._error_j = (
            integral_error(power, start, end, lag_error_s) if self.integral_j is not None else None
        )
        self.apart: float | None = None
        if self.counter_j is not None and (self.integral_j or 0.0) > 0 and not self._few:
            assert self.integral_j is not None
            self.apart = abs(self.counter_j - self.integral_j) / self.integral_j

    @property
    def _unresolved(self) -> float:
        """Relative sampling error of the integral."""
        if self._error_j is None or not self.integral_j:
            return 0.0
        return self._error_j / self.integral_j

    def energy(self) -> _Found:
        """From the counter, else from the integral of power."""
        if self.counter_j is not None:
            return self._by_counter(self.counter_j)
        if self.integral_j is None or self._few:
            return _Found(reason=self._why_nothing())
        if self._unresolved > UNRESOLVED:
            reason = (
                "power changes faster than it was read: the integral is uncertain by"
                f" ±{self._unresolved:.0%}, and there is no counter"
            )
            return _Found(reason=reason)
        return _Found(self.integral_j, None, "integral", self._error_j, self._power)

    def _by_counter(self, joules: float) -> _Found:
        start, end, counter = self._start, self._end, self._counter
        if self.apart is not None and self.apart > DISAGREEMENT and self.apart > self._unresolved:
            reason = (
                f"its counter reports {joules:.0f} J, the integral of its power"
                f" {self.integral_j:.0f} J ({self.apart:.1%} difference)"
            )
            return _Found(reason=reason)
        bridged = counter.touches(counter.bridged, start, end)
        method = "counter bridged by integral" if bridged else "counter"
        error_j = counter_error(counter, start, end, self._step_s)
        return _Found(joules, None, method, error_j, counter)

    def _why_nothing(self) -> str:
        if self._counter.resets and self._counter.covers(self._start, self._end):
            return "its counter was reset in the window, and no power reading bridges the reset"
        if self.gap_s is not None and self.gap_s > self._limit_s:
            return f"no power readings for {self.gap_s:.1f} s, and there is no energy counter"
        if self.integral_j is not None:
            return (
                f"{self._inside} power readings in the window; at least {MIN_READINGS} are needed"
            )
        if self.gap_s is not None:
            return "power readings are interrupted in the window"
        return "readings do not cover the window"


def _power_readings(
    t: Floats, watts: Floats, source: npt.NDArray[Any], *, positive: bool
) -> tuple[Floats, Floats, float]:
    """Readings of one kind, corrected for sensor lag: times, watts, uncertainty of the lag (s).

    Instant ones if there are any, since an average over a trailing second blurs the window's edges.
    """
    # A GPU that draws 0 W was not measured.
    there = np.isfinite(watts) & (watts > 0 if positive else watts >= 0)
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
    """Whether the readings around both edges are close enough for interpolation."""
    for edge in (start, end):
        after = min(int(np.searchsorted(curve.t, edge, side="left")), len(curve.t) - 1)
        before = max(after - 1, 0) if curve.t[after] > edge else after
        if (curve.t[after] - curve.t[before]) * 1e-9 > limit_s:
            return False
    return True
