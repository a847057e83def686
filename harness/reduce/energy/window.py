"""Everything about the joules of one window, and the figures that follow from them, each with its
errors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.artifacts.run_summary import Carbon, Figure, GpuState, Rung
from harness.core.errors import ArtifactError
from harness.core.metrics import METRICS
from harness.core.records import Basis, Boundary, Concern, Purpose, Severity
from harness.profile.recorded import RecordedEnergy
from harness.reduce.energy.boundaries import ladder
from harness.reduce.energy.devices import GPU_BOUNDARIES, Energy, energies
from harness.reduce.energy.gpu_state import board_concerns, boards, why_invalid
from harness.reduce.energy.idle import BEFORE_SERVER, READY, WithoutLoad, above, idles
from harness.reduce.energy.sensor_gain import (
    NO_CALIBRATION,
    MeterCalibration,
    parse_calibration,
    ratio_of,
)
from harness.reduce.over_time.flow import Flow, SumOf
from harness.reduce.read.run import Run
from harness.reduce.statistics.intervals import Floats, ratio_interval

NS: Final = 1e-9
J_PER_KWH: Final = 3.6e6
IDLE_TOLERANCE: Final = 1.05
"""Power under load may be below that without load by this factor: a machine in use drifts."""

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
"""Boundaries that lie within others, whose power is part of theirs."""
WITHIN_TOLERANCE: Final = 1.1
"""What lies within may seem to draw more than the whole by this factor: both sensors have a gain
error of some percent.
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
"""Figures that every measured boundary gives."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """The joules of one window.

    Attributes:
        start: nanoseconds from the run's start.
        end: likewise.
        energies: one a boundary.
        boards: what the boards did beside.
        idle: stretches without load, by `when`.
        rungs: the ladder.
        concerns: reasons to doubt them, those of `energies` not among them.
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
        """The boundary that figures without a suffix are taken at."""
        return plain_of(self.energies)


def plain_of(found: Sequence[Energy]) -> Energy | None:
    """The energy that figures without a suffix are taken from: that of the boards, else of the
    modules, else the first there is.
    """
    at = {energy.boundary: energy for energy in found}
    return next(
        (at[boundary] for boundary in GPU_BOUNDARIES if boundary in at), found[0] if found else None
    )


def window_energy(run: Run, start: float, end: float, gpu_uuids: Sequence[str]) -> WindowEnergy:
    """Joules of [start, end) (nanoseconds from the run's start) at every boundary, with what they
    rest on.

    Args:
        run: the directory in memory.
        start: of the window.
        end: of the window.
        gpu_uuids: boards of the deployment on this machine.
    """
    gpus = run.manifest.hardware.gpus
    concerns: list[Concern] = []
    calibration = meter_calibration(run, concerns)
    state = boards(run.boards, start, end, gpus)
    limits = {}
    for gpu in gpus:
        known = [w for w in (gpu.power_limit_w, gpu.power_limit_default_w) if w is not None]
        if known and gpu.uuid:
            limits[gpu.uuid] = max(known)
    why = why_invalid(state)
    found = energies(
        run.power,
        start,
        end,
        gpu_uuids,
        calibration=calibration,
        limits_w=limits,
        invalid=None if why is None else f"throttled: {why}",
    )
    smoke = run.profile.purpose == Purpose.SMOKE
    if run.power is not None or run.boards is not None:
        concerns += board_concerns(state, gpu_uuids, smoke=smoke)
    plain = plain_of(found)
    if plain is not None and plain.joules is None and why is None:
        text = f"There is no energy at {plain.boundary}: {plain.reason}."
        concerns.append(
            Concern("energy_absent", Severity.NOTE if smoke else Severity.DEGRADED, text)
        )
    rungs = ladder(found, gpus, run.profile.energy, (end - start) * NS)
    without = idles(run, list(gpu_uuids), calibration)
    concerns += _below_idle(found, without)
    concerns += _parts_above_whole(found)
    return WindowEnergy(start, end, tuple(found), state, without, rungs, tuple(concerns))


def _below_idle(found: Sequence[Energy], without: Mapping[str, WithoutLoad]) -> list[Concern]:
    """Boundaries that drew less under load than without: one of the two readings is of something
    else.
    """
    out = []
    for energy in found:
        for idle in without.values():
            at = idle.at(energy.boundary)
            if (
                at is not None
                and at.watts is not None
                and energy.watts is not None
                and energy.watts < at.watts / IDLE_TOLERANCE
            ):
                text = (
                    f"{energy.boundary} drew {energy.watts:.0f} W under load and {at.watts:.0f} W"
                    f" without ({idle.when})."
                )
                out.append(
                    Concern("power_below_idle", Severity.DEGRADED, text, energy.watts, at.watts)
                )
    return out


def _parts_above_whole(found: Sequence[Energy]) -> list[Concern]:
    """Meters that show less than what is known to be behind them: a unit was mistaken, or they
    cover something else.
    """
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
                f"{outer} drew {whole:.4g} W, and {inner} within it {part:.4g} W: a unit was"
                " mistaken, or the meter covers something else."
            )
            out.append(Concern("power_part_above_whole", Severity.DEGRADED, text, part, whole))
    return out


def meter_calibration(run: Run, concerns: list[Concern]) -> MeterCalibration:
    """The run's meter calibration; one that cannot be read is a concern, and the defaults hold."""
    if not run.meter_calibration:
        return NO_CALIBRATION
    try:
        return parse_calibration(run.meter_calibration, "meter-calibration.json")
    except ArtifactError as error:
        concerns.append(
            Concern(
                "meter_calibration_unreadable",
                Severity.DEGRADED,
                f"{error.what}: the default gain error holds.",
            )
        )
        return NO_CALIBRATION


@dataclass(frozen=True, slots=True)
class Work:
    """What was done in the window that its joules are held against.

    Attributes:
        output: output tokens.
        input: whole prompts.
        computed: computed input, None where nobody splits it per request.
        computed_tok_s: computed input tokens per second, from wherever it is known; None where it
            is not.
        answers: requests answered in full, at the moment they were done.
    """

    output: Flow
    input: Flow
    computed: Flow | None
    computed_tok_s: float | None
    answers: Flow


class _Figures:
    def __init__(
        self, found: WindowEnergy, work: Work, window: str, edges: Mapping[int, Floats]
    ) -> None:
        self.found, self.work, self.window, self.edges = found, work, window, edges
        self.start, self.end = found.start, found.end
        self.length_s = (found.end - found.start) * NS
        self.figures: dict[str, Figure] = {}

    def absent(self, key: str, reason: str) -> None:
        self.figures[key] = Figure(
            None, METRICS[key].unit, basis=Basis.ABSENT, window=self.window, note=reason
        )

    def put(
        self,
        key: str,
        suffix: str,
        value: float | None,
        note: str,
        energy: Energy,
        *,
        error_ratio: float | None,
        inverse: bool,
    ) -> None:
        """One figure with its errors.

        Args:
            key: of the metric.
            suffix: `@boundary` for all boundaries but the first.
            value: None: absent, with the note as its reason (left out at further boundaries).
            note: where it comes from.
            energy: that it rests on.
            error_ratio: statistical error, relative, 95 %.
            inverse: the joules are its denominator.
        """
        if value is None or not np.isfinite(value):
            if not suffix:
                self.absent(key, note)
            return
        low = high = systematic_low = systematic_high = None
        if error_ratio is not None:
            low, high = value * (1 - error_ratio), value * (1 + error_ratio)
        systematic = energy.systematic_ratio
        if systematic is not None:
            smaller, larger = (
                (1 / (1 + systematic), 1 / (1 - systematic))
                if inverse
                else (1 - systematic, 1 + systematic)
            )
            systematic_low, systematic_high = value * smaller, value * larger
        self.figures[key + suffix] = Figure(
            float(value),
            METRICS[key].unit,
            low,
            high,
            energy.basis,
            energy.boundary,
            self.window,
            note,
            systematic,
            systematic_low,
            systematic_high,
        )

    def per_bin(self, amount: Callable[[Floats], Floats]) -> dict[int, Floats]:
        return {n: amount(edges) for n, edges in self.edges.items()}


def energy_figures(
    found: WindowEnergy,
    work: Work,
    window: str,
    edges: Mapping[int, Floats],
    settings: RecordedEnergy,
    *,
    nothing_read: bool,
) -> dict[str, Figure]:
    """Figures of a window at every boundary, absent ones with their reason.

    Args:
        found: its joules.
        work: what was done in it.
        window: its stage.
        edges: of the batches that intervals are made of, by their number.
        settings: `energy` of the profile.
        nothing_read: the run has no power table at all.
    """
    out = _Figures(found, work, window, edges)
    for energy in found.energies:
        suffix = "" if energy is found.plain else f"@{energy.boundary}"
        if energy.joules is None or energy.joules <= 0:
            if not suffix:
                for key in ENERGY_KEYS:
                    out.absent(key, energy.reason or "the energy did not rise")
            continue
        _boundary(out, energy, energy.joules, suffix)
        if energy.boundary == Boundary.FACILITY:
            rate = work.output.between(out.start, out.end) / out.length_s
            note = _note(energy)
            interval = _ratio(out, work.output, energy)
            out.put(
                "output_tok_s_per_mw",
                "",
                rate / (energy.joules / out.length_s / 1e6),
                note,
                energy,
                error_ratio=interval,
                inverse=True,
            )
    if not found.energies:
        for key in ENERGY_KEYS:
            out.absent(
                key, "no power was read" if nothing_read else "no power was read in the window"
            )
    if "output_tok_s_per_mw" not in out.figures:
        out.absent("output_tok_s_per_mw", "no meter at the utility's boundary")
    _carbon(out, settings)
    return out.figures


def _note(energy: Energy) -> str:
    return (
        f"{energy.devices} {'device' if energy.devices == 1 else 'devices'}, by {energy.method},"
        f" {energy.source}"
    )


def _ratio(out: _Figures, flow: Flow | SumOf | None, energy: Energy) -> float | None:
    """Statistical error of an amount per joule: by batches, and what the readings leave unknown;
    None with too few batches.
    """
    if flow is None:
        return None
    amounts, joules = out.per_bin(flow.per_bin), out.per_bin(energy.per_bin)
    interval = ratio_interval(amounts, joules)
    if interval is None:
        return None
    half = ratio_of((interval[0] + interval[1]) / 2, *interval)
    return None if half is None else float(np.hypot(half, energy.error_ratio or 0.0))


def _boundary(out: _Figures, energy: Energy, joules: float, suffix: str) -> None:
    work, start, end = out.work, out.start, out.end
    note = _note(energy)
    watts = ratio_interval(
        out.per_bin(energy.per_bin), out.per_bin(lambda edges: np.diff(edges) * NS)
    )
    spread = ratio_of(joules / out.length_s, *watts) if watts is not None else None
    out.put(
        "power_w",
        suffix,
        joules / out.length_s,
        note,
        energy,
        error_ratio=None if spread is None else float(np.hypot(spread, energy.error_ratio or 0.0)),
        inverse=False,
    )
    out.put("energy_j", suffix, joules, note, energy, error_ratio=energy.error_ratio, inverse=False)
    tokens = work.output.between(start, end)
    per_token = _ratio(out, work.output, energy)
    out.put(
        "output_tok_per_j",
        suffix,
        tokens / joules,
        note,
        energy,
        error_ratio=per_token,
        inverse=True,
    )
    if work.computed_tok_s is None:
        out.put(
            "input_computed_tok_per_j",
            suffix,
            None,
            "computed input is not known",
            energy,
            error_ratio=None,
            inverse=True,
        )
    else:
        computed = work.computed_tok_s * out.length_s / joules
        error = _ratio(out, work.computed, energy)
        out.put(
            "input_computed_tok_per_j",
            suffix,
            computed,
            note,
            energy,
            error_ratio=error,
            inverse=True,
        )
    total = SumOf((work.output, work.input))
    error = _ratio(out, total, energy)
    out.put(
        "total_tok_per_j",
        suffix,
        total.between(start, end) / joules,
        note,
        energy,
        error_ratio=error,
        inverse=True,
    )
    allocation = f"an allocation; {note}"
    if tokens > 0:
        out.put(
            "j_per_output_tok",
            suffix,
            joules / tokens,
            allocation,
            energy,
            error_ratio=per_token,
            inverse=False,
        )
    else:
        out.put(
            "j_per_output_tok",
            suffix,
            None,
            "no output tokens in the window",
            energy,
            error_ratio=None,
            inverse=False,
        )
    answered = work.answers.between(start, end)
    if answered > 0:
        error = _ratio(out, work.answers, energy)
        out.put(
            "j_per_request",
            suffix,
            joules / answered,
            allocation,
            energy,
            error_ratio=error,
            inverse=False,
        )
    else:
        out.put(
            "j_per_request",
            suffix,
            None,
            "no answer in the window",
            energy,
            error_ratio=None,
            inverse=False,
        )
    _idle(out, energy, suffix)


def _idle(out: _Figures, energy: Energy, suffix: str) -> None:
    for key, when in (("idle_power_w", BEFORE_SERVER), ("ready_power_w", READY)):
        stretch = out.found.idle.get(when)
        at = None if stretch is None else stretch.at(energy.boundary)
        if stretch is None or at is None or at.watts is None:
            reason = (
                "the run measured no such stretch"
                if stretch is None
                else (at.reason if at is not None else None) or "it was not read then"
            )
            out.put(key, suffix, None, reason, energy, error_ratio=None, inverse=False)
        else:
            note = (
                f"{at.length_s:.0f} s"
                f" {'before the server started' if when == BEFORE_SERVER else 'with the model loaded and no load'}"  # noqa: E501
            )
            out.put(key, suffix, at.watts, note, at, error_ratio=at.error_ratio, inverse=False)
    before = out.found.idle.get(BEFORE_SERVER)
    active = above(energy, None if before is None else before.at(energy.boundary))
    if active is None:
        out.put(
            "active_power_w",
            suffix,
            None,
            "idle before the server was not measured",
            energy,
            error_ratio=None,
            inverse=False,
        )
        return
    note = "power_w less idle_power_w; the boards' gain error is common to both"
    error = (
        abs(active.error_w / active.watts) if active.error_w is not None and active.watts else None
    )
    out.put("active_power_w", suffix, active.watts, note, energy, error_ratio=error, inverse=False)


def carbon(rungs: Sequence[Rung], settings: RecordedEnergy) -> Carbon | None:
    """CO2 of the window at the highest rung that is known, by the profile's grid factor; None
    without a factor or a rung.
    """
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


def _carbon(out: _Figures, settings: RecordedEnergy) -> None:
    found = carbon(out.found.rungs, settings)
    tokens = out.work.output.between(out.start, out.end)
    if found is None or tokens <= 0:
        stated = settings.grid_kgco2_per_kwh is not None
        reason = "the profile states no factor of its grid (energy.grid_kgco2_per_kwh)"
        out.absent(
            "kgco2_per_mtok",
            reason if not stated else "no output tokens or no energy in the window",
        )
        return
    note = (
        f"{found.kgco2_per_kwh:g} kg/kWh ({found.source}) at {found.rung}, which is"
        f" {found.rung_basis}"
    )
    value = found.kgco2 / tokens * 1e6
    metric = METRICS["kgco2_per_mtok"]
    systematic = next(
        (rung.systematic_ratio for rung in out.found.rungs if rung.rung == found.rung), None
    )
    low, high = (
        (None, None) if systematic is None else (value * (1 - systematic), value * (1 + systematic))
    )
    out.figures["kgco2_per_mtok"] = Figure(
        value,
        metric.unit,
        None,
        None,
        Basis.MODELLED,
        found.rung,
        out.window,
        note,
        systematic,
        low,
        high,
    )
