"""Energy of one window, and the metrics computed from it, each with its errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from harness.artifacts.run_summary import Carbon, GpuState, Rung
from harness.core.errors import ArtifactError
from harness.core.records import Basis, Boundary, Concern, Gpu, Purpose, Severity
from harness.profile.recorded import RecordedEnergy
from harness.reduce.energy.boundaries import ladder
from harness.reduce.energy.devices import GPU_BOUNDARIES, Energy, energies, per_joule
from harness.reduce.energy.gpu_state import board_concerns, boards, why_invalid
from harness.reduce.energy.idle import BEFORE_SERVER, READY, WithoutLoad, above, idles
from harness.reduce.energy.sensor_gain import (
    NO_CALIBRATION,
    MeterCalibration,
    parse_calibration,
    ratio_of,
)
from harness.reduce.over_time.flow import Flow, SumOf
from harness.reduce.read.expected_gpus import expected_gpus
from harness.reduce.read.run import Run, gpu_uuids
from harness.reduce.windows.figure_set import NS, FigureSet

J_PER_KWH: Final = 3.6e6
IDLE_TOLERANCE: Final = 1.05
"""Maximum ratio of idle power to power under load: a machine in use drifts."""

WITHIN: Final = (
    (Boundary.GPU_BOARD, Boundary.MODULE),
    (Boundary.GPU_BOARD, Boundary.NODE),
    (Boundary.MODULE, Boundary.NODE),
    (Boundary.CPU_PACKAGE, Boundary.NODE),
    (Boundary.NODE, Boundary.RACK),
    (Boundary.RACK, Boundary.FACILITY),
    (Boundary.NODE, Boundary.FACILITY),
    (Boundary.GPU_BOARD, Boundary.RACK),
    (Boundary.GPU_BOARD, Boundary.FACILITY),
)
"""(inner, outer): boundaries whose power is part of another's."""
WITHIN_TOLERANCE: Final = 1.1
"""Maximum ratio of an inner boundary's measured power to the outer one's: both sensors have gain
errors of a few percent.
"""

ENERGY_KEYS: Final = (
    "power_w",
    "energy_j",
    "output_tok_per_j",
    "input_computed_tok_per_j",
    "total_tok_per_j",
    "j_per_output_tok",
    "j_per_request",
    "idle_power_w",
    "ready_power_w",
    "active_power_w",
)
"""Metrics of every measured boundary."""


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Energy of one window.

    Attributes:
        start: nanoseconds from the run's start, as `end`.
        energies: one per boundary.
        idle: idle periods, by `when`.
        concerns: without those of `energies`.
    """

    start: float
    end: float
    energies: tuple[Energy, ...]
    boards: GpuState
    idle: Mapping[str, WithoutLoad]
    rungs: tuple[Rung, ...]
    concerns: tuple[Concern, ...]

    @property
    def plain(self) -> Energy | None:
        return plain_of(self.energies)


def plain_of(found: Sequence[Energy]) -> Energy | None:
    """The energy for metrics without a suffix: that of the GPUs, else modules, else the first."""
    at = {energy.boundary: energy for energy in found}
    return next(
        (at[boundary] for boundary in GPU_BOUNDARIES if boundary in at), found[0] if found else None
    )


def window_energy(run: Run, start: float, end: float) -> WindowEnergy:
    """Energy of [start, end) (nanoseconds from the run's start) at every boundary."""
    gpus = run.manifest.hardware.gpus
    concerns: list[Concern] = []
    calibration = meter_calibration(run, concerns)
    state = boards(run.boards, start, end, gpus)
    why = why_invalid(state)
    found = energies(
        run.power,
        start,
        end,
        expected_gpus(run),
        calibration=calibration,
        limits_w=_limits_w(gpus),
        invalid=None if why is None else f"throttled: {why}",
    )
    smoke = run.profile.purpose == Purpose.SMOKE
    if run.power is not None or run.boards is not None:
        concerns += board_concerns(state, gpu_uuids(run), smoke=smoke)
    plain = plain_of(found)
    if plain is not None and plain.joules is None and why is None:
        text = f"Energy at {plain.boundary} is not available: {plain.reason}."
        concerns.append(
            Concern("energy_absent", Severity.NOTE if smoke else Severity.DEGRADED, text)
        )
    rungs = ladder(found, gpus, run.profile.energy, (end - start) * NS)
    without = idles(run, calibration)
    concerns += _below_idle(found, without)
    concerns += _parts_above_whole(found)
    return WindowEnergy(start, end, tuple(found), state, without, rungs, tuple(concerns))


def _limits_w(gpus: Sequence[Gpu]) -> dict[str, float]:
    """Highest power of each GPU: its limit or its default limit."""
    limits = {gpu.uuid: (gpu.power_limit_w, gpu.power_limit_default_w) for gpu in gpus if gpu.uuid}
    known = {uuid: [w for w in pair if w is not None] for uuid, pair in limits.items()}
    return {uuid: max(found) for uuid, found in known.items() if found}


def _below_idle(found: Sequence[Energy], without: Mapping[str, WithoutLoad]) -> list[Concern]:
    """Boundaries that drew less under load than idle: one of the readings is of something else."""
    out = []
    for energy in found:
        for idle in without.values():
            at, load_w = idle.at(energy.boundary), energy.watts
            idle_w = None if at is None else at.watts
            if idle_w is not None and load_w is not None and load_w < idle_w / IDLE_TOLERANCE:
                text = (
                    f"{energy.boundary} drew {load_w:.0f} W under load but {idle_w:.0f} W idle"
                    f" ({idle.when})."
                )
                out.append(Concern("power_below_idle", Severity.DEGRADED, text, load_w, idle_w))
    return out


def _parts_above_whole(found: Sequence[Energy]) -> list[Concern]:
    """Outer boundaries that report less power than an inner one."""
    measured = {
        energy.boundary: energy.watts
        for energy in found
        if energy.basis is Basis.MEASURED and energy.watts is not None
    }
    out = []
    for inner, outer in WITHIN:
        part, whole = measured.get(inner), measured.get(outer)
        if part is not None and whole is not None and part > WITHIN_TOLERANCE * whole:
            text = (
                f"{outer} drew {whole:.4g} W, but {inner} inside it {part:.4g} W: check the units"
                " and what the meter covers."
            )
            out.append(Concern("power_part_above_whole", Severity.DEGRADED, text, part, whole))
    return out


def meter_calibration(run: Run, concerns: list[Concern]) -> MeterCalibration:
    """The run's meter calibration; an unreadable one is a concern, and the defaults apply."""
    if not run.meter_calibration:
        return NO_CALIBRATION
    try:
        return parse_calibration(run.meter_calibration, "meter-calibration.json")
    except ArtifactError as error:
        text = f"{error.what}; the default gain error applies."
        concerns.append(Concern("meter_calibration_unreadable", Severity.DEGRADED, text))
        return NO_CALIBRATION


@dataclass(frozen=True, slots=True)
class Work:
    """Work over time that energy is divided by.

    Attributes:
        input: prompt tokens, cached ones included.
        computed: computed input tokens, None if unknown per request.
        computed_tok_s: computed input tokens per second from any source, None if unknown.
        answers: completed requests, at their completion.
    """

    output: Flow
    input: Flow
    computed: Flow | None
    computed_tok_s: float | None
    answers: Flow


def put_energy(
    out: FigureSet,
    found: WindowEnergy,
    work: Work,
    settings: RecordedEnergy,
    *,
    nothing_read: bool,
) -> None:
    """Add a window's energy metrics at every boundary to `out`, absent ones with their reason.

    `settings` is the profile's `energy`; `nothing_read`: the run has no power table at all.
    """
    for energy in found.energies:
        suffix = "" if energy is found.plain else f"@{energy.boundary}"
        if energy.joules is None or energy.joules <= 0:
            if not suffix:
                for key in ENERGY_KEYS:
                    out.absent(key, energy.reason or "energy did not increase")
            continue
        at = _At(out, energy, energy.joules, suffix)
        _boundary(at, work)
        _idle(at, found.idle)
        if energy.boundary == Boundary.FACILITY:
            rate = work.output.between(out.start, out.end) / out.length_s
            _At(out, energy, energy.joules, "").put(
                "output_tok_s_per_mw",
                rate / (energy.joules / out.length_s / 1e6),
                at.per_joule_error(work.output),
                inverse=True,
            )
    if not found.energies:
        for key in ENERGY_KEYS:
            out.absent(key, "no power was read" + ("" if nothing_read else " in the window"))
    if "output_tok_s_per_mw" not in out.figures:
        out.absent("output_tok_s_per_mw", "no meter at the facility boundary")
    _carbon(out, found.rungs, work, settings)


@dataclass(frozen=True, slots=True)
class _At:
    """Adds metrics of one boundary to `out`, with their errors.

    Attributes:
        joules: of `energy`, > 0.
        suffix: `@boundary`, empty at the first one.
    """

    out: FigureSet
    energy: Energy
    joules: float
    suffix: str

    @property
    def note(self) -> str:
        devices = "device" if self.energy.devices == 1 else "devices"
        return f"{self.energy.devices} {devices}, by {self.energy.method}, {self.energy.source}"

    def absent(self, key: str, reason: str) -> None:
        self.out.put(key, None, note=reason, suffix=self.suffix)

    def put(
        self,
        key: str,
        value: float,
        error_ratio: float | None,
        note: str | None = None,
        *,
        energy: Energy | None = None,
        inverse: bool = False,
    ) -> None:
        """Add one metric. `error_ratio`: statistical, 95%; `note` and `energy`: if not those of the
        window; `inverse`: energy is the denominator.
        """
        energy = energy or self.energy
        interval = systematic = None
        if error_ratio is not None:
            interval = value * (1 - error_ratio), value * (1 + error_ratio)
        ratio = energy.systematic_ratio
        if ratio is not None:
            ends = (1 / (1 + ratio), 1 / (1 - ratio)) if inverse else (1 - ratio, 1 + ratio)
            systematic = ratio, value * ends[0], value * ends[1]
        self.out.put(
            key,
            value,
            interval,
            basis=energy.basis,
            boundary=energy.boundary,
            note=note or self.note,
            suffix=self.suffix,
            systematic=systematic,
        )

    def put_per_joule(self, key: str, amount: float, flow: Flow | SumOf | None) -> None:
        """Add an amount per joule; `flow` is the amount over time, if known."""
        value = per_joule(amount, self.joules)
        assert value is not None
        self.put(key, value, None if flow is None else self.per_joule_error(flow), inverse=True)

    def put_joules_per(self, key: str, flow: Flow, nothing: str) -> None:
        """Add joules per unit of an amount; `nothing` is the reason if the amount is 0."""
        amount = flow.between(self.out.start, self.out.end)
        if amount > 0:
            error = self.per_joule_error(flow)
            self.put(key, self.joules / amount, error, f"an allocation; {self.note}")
        else:
            self.absent(key, nothing)

    def per_joule_error(self, flow: Flow | SumOf) -> float | None:
        """Statistical error of an amount per joule, from batches and readings; None for too few
        batches.
        """
        interval = self.out.interval(flow.per_bin, self.energy.per_bin)
        if interval is None:
            return None
        return self._with_readings(ratio_of((interval[0] + interval[1]) / 2, *interval))

    def power_error(self) -> float | None:
        """Statistical error of the mean power."""
        interval = self.out.interval(self.energy.per_bin, lambda edges: np.diff(edges) * NS)
        if interval is None:
            return None
        return self._with_readings(ratio_of(self.joules / self.out.length_s, *interval))

    def _with_readings(self, error: float | None) -> float | None:
        return None if error is None else float(np.hypot(error, self.energy.error_ratio or 0.0))


def _boundary(at: _At, work: Work) -> None:
    start, end, length_s = at.out.start, at.out.end, at.out.length_s
    at.put("power_w", at.joules / length_s, at.power_error())
    at.put("energy_j", at.joules, at.energy.error_ratio)
    at.put_per_joule("output_tok_per_j", work.output.between(start, end), work.output)
    if work.computed_tok_s is None:
        at.absent("input_computed_tok_per_j", "computed input is unknown")
    else:
        computed_tok = work.computed_tok_s * length_s
        at.put_per_joule("input_computed_tok_per_j", computed_tok, work.computed)
    total = SumOf((work.output, work.input))
    at.put_per_joule("total_tok_per_j", total.between(start, end), total)
    at.put_joules_per("j_per_output_tok", work.output, "no output tokens in the window")
    at.put_joules_per("j_per_request", work.answers, "no request completed in the window")


def _idle(at: _At, stretches: Mapping[str, WithoutLoad]) -> None:
    for key, when, words in (
        ("idle_power_w", BEFORE_SERVER, "before the server started"),
        ("ready_power_w", READY, "with the model loaded and no load"),
    ):
        stretch = stretches.get(when)
        idle = None if stretch is None else stretch.at(at.energy.boundary)
        if stretch is None:
            at.absent(key, "the run has no such idle period")
        elif idle is None or idle.watts is None:
            at.absent(key, (idle and idle.reason) or "power was not read then")
        else:
            # one of an earlier run has no readings here; its source is that of this run
            read = idle if idle.parts else replace(idle, basis=at.energy.basis)
            at.put(key, idle.watts, idle.error_ratio, f"{idle.length_s:.0f} s {words}", energy=read)
    before = stretches.get(BEFORE_SERVER)
    active = above(at.energy, None if before is None else before.at(at.energy.boundary))
    if active is None:
        at.absent("active_power_w", "idle power before the server start was not measured")
        return
    error = (
        abs(active.error_w / active.watts) if active.error_w is not None and active.watts else None
    )
    note = "power_w - idle_power_w; the sensors' gain error is common to both"
    at.put("active_power_w", active.watts, error, note)


def carbon(rungs: Sequence[Rung], settings: RecordedEnergy) -> Carbon | None:
    """CO2 of the window at the outermost known boundary, if the profile has a grid factor."""
    factor = settings.grid_kgco2_per_kwh
    known = [rung for rung in rungs if rung.joules is not None]
    if factor is None or not known:
        return None
    top = known[-1]
    return Carbon(
        kgco2=(top.joules or 0.0) / J_PER_KWH * factor,
        kgco2_per_kwh=factor,
        source=settings.grid_source,
        rung=top.rung,
        rung_basis=top.basis,
    )


def _carbon(out: FigureSet, rungs: Sequence[Rung], work: Work, settings: RecordedEnergy) -> None:
    found = carbon(rungs, settings)
    tokens = work.output.between(out.start, out.end)
    if found is None or tokens <= 0:
        stated = settings.grid_kgco2_per_kwh is not None
        reason = "the profile has no grid factor (energy.grid_kgco2_per_kwh)"
        out.absent(
            "kgco2_per_mtok",
            reason if not stated else "no output tokens or no energy in the window",
        )
        return
    value = found.kgco2 / tokens * 1e6
    ratio = next((rung.systematic_ratio for rung in rungs if rung.rung == found.rung), None)
    boundary, basis = found.rung, found.rung_basis
    out.put(
        "kgco2_per_mtok",
        value,
        basis=Basis.MODELLED,
        boundary=boundary,
        note=f"{found.kgco2_per_kwh:g} kg/kWh ({found.source}) at {boundary}, which is {basis}",
        systematic=None if ratio is None else (ratio, value * (1 - ratio), value * (1 + ratio)),
    )
