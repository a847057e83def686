"""`energy` of a summary: the joules of the headline's window, with all that they rest on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from harness.artifacts.typed_json import Number
from harness.core.records import Basis


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEnergy:
    """Energy of one device.

    Attributes:
        joules: truth as far as it is known: readings x gain; None when absent.
        reason: why it is absent.
        method: `counter`, `counter bridged by integral` (over a reset) or `integral`; None when
            absent.
        counter_j: as read, without gain; None where there is no counter over the window.
        integral_j: likewise by power.
        disagreement: |counter - integral| / integral.
        longest_gap_s: longest silence of its power readings that touches the window.
        error_j: half-width at 95 % of what readings leave unknown.
        counter_resets: in the whole run.
        gain: what its readings are multiplied with.
        systematic_ratio: how far that is known; None where nobody knows it.
        systematic_source: where the two come from.
        calibrated: against a meter.
    """

    device_id: str
    joules: Number | None = None
    reason: str | None = None
    method: str | None = None
    counter_j: Number | None = None
    integral_j: Number | None = None
    disagreement: Number | None = None
    longest_gap_s: Number | None = None
    error_j: Number | None = None
    counter_resets: int = 0
    gain: Number = 1.0
    systematic_ratio: Number | None = None
    systematic_source: str | None = None
    calibrated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryEnergy:
    """Energy at one boundary.

    Attributes:
        joules: None when absent.
        watts: mean over the window.
        reason: why it is absent.
        source: family of the readings: nvml, dcgm, rapl, ipmi, redfish, promql, csv, modelled,
            replay:….
        method: `counter`, `integral`, or both where devices differ; None when absent.
        error_ratio: statistical error of the joules, 95 %, relative.
        systematic_ratio: gain errors, independent between devices; None where they are not known.
        other_sources: joules that other sources at the same boundary give.
    """

    boundary: str
    joules: Number | None = None
    watts: Number | None = None
    reason: str | None = None
    basis: Basis = Basis.ABSENT
    source: str = ""
    method: str | None = None
    window_s: Number | None = None
    error_ratio: Number | None = None
    systematic_ratio: Number | None = None
    devices: tuple[DeviceEnergy, ...] = ()
    other_sources: Mapping[str, Number] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdlePower:
    """Power of one boundary over a stretch without load; `watts` is None where it is absent for
    `reason`.
    """

    watts: Number | None = None
    reason: str | None = None
    error_ratio: Number | None = None
    systematic_ratio: Number | None = None
    method: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleStretch:
    """A stretch without load, in seconds from the run's start, with its power by boundary."""

    start_s: Number
    end_s: Number
    boundaries: Mapping[str, IdlePower] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AboveIdle:
    """Power of the window at one boundary, and what of it is above that without load.

    Attributes:
        active_w: above that before the server was started.
        above_ready_w: above that with the model loaded.
    """

    total_w: Number | None = None
    active_w: Number | None = None
    active_error_w: Number | None = None
    above_ready_w: Number | None = None
    above_ready_error_w: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Power without load: before the server starts, and with the model loaded. A stretch that the
    run did not have has no key in JSON.
    """

    before_server: IdleStretch | None = None
    ready: IdleStretch | None = None
    above: Mapping[str, AboveIdle] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One boundary of the deployment over the window, from board to facility.

    Attributes:
        rung: `board`, `node`, `critical_it` or `facility`.
        boundary: that was read (`gpu_board`, `module`, `node`, `rack`, `facility`), or the rung's
            own name where it is modelled.
        watts: None when absent.
        low_w: with every assumed factor at the end of its range that makes it smallest; None where
            nothing was assumed.
        high_w: at the other end.
        joules: of the window.
        basis: measured, modelled or absent. A rung above a modelled one is modelled.
        factor: what it was modelled with: watts to add for each GPU (node), or the factor on the
            rung below; None where it was measured.
        factor_is: in words, with its unit.
        factor_stated: by the profile; else a default of the harness.
        source: of the factor, else of the readings.
        devices: how many were summed.
        systematic_ratio: of the measured energy that it rests on.
        note: why it is absent, or what a reader must know.
    """

    rung: str
    boundary: str
    watts: Number | None = None
    low_w: Number | None = None
    high_w: Number | None = None
    joules: Number | None = None
    basis: Basis = Basis.ABSENT
    factor: Number | None = None
    factor_low: Number | None = None
    factor_high: Number | None = None
    factor_is: str | None = None
    factor_stated: bool | None = None
    source: str | None = None
    devices: int | None = None
    systematic_ratio: Number | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """One term of the attribution in `unit`, with the half-width of its 95 % interval; None where
    the fit is refused.
    """

    value: Number | None = None
    error: Number | None = None
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Joules by time, computed input, output and output x context, or why there is no such split.

    Attributes:
        reason: why it is refused; None when it stands.
        coefficients: by term; empty when refused before fitting.
        slices: rows of the fit.
        stages: their names.
        condition_number: of the scaled columns.
        residual_ratio: root mean square of the rows' residuals over their mean joules.
        held_out: stage -> relative error of its joules, predicted from the others.
        systematic_ratio: gain error of the joules, which all coefficients share.
        components_j: joules of the headline's window by term, with `unexplained`.
    """

    reason: str | None = None
    coefficients: Mapping[str, Coefficient] = field(default_factory=dict)
    slices: int = 0
    stages: tuple[str, ...] = ()
    condition_number: Number | None = None
    condition_limit: Number | None = None
    residual_ratio: Number | None = None
    held_out: Mapping[str, Number] = field(default_factory=dict)
    held_out_limit: Number | None = None
    systematic_ratio: Number | None = None
    components_j: Mapping[str, Number] = field(default_factory=dict)


def _class_for_name(field_name: str) -> str:
    return "class" if field_name == "name" else field_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassEnergy:
    """One class's part of the window.

    Attributes:
        name: the class (`class` in JSON); `idle` for seconds in which nothing was in flight.
        joules: allocated.
        share: of the window's joules.
        output_tok: in the window.
        answered: requests answered in it.
    """

    __pydantic_config__: ClassVar = {"alias_generator": _class_for_name}

    name: str
    joules: Number
    share: Number
    output_tok: Number
    answered: int
    output_tok_per_j: Number | None = None
    j_per_output_tok: Number | None = None
    j_per_request: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """All classes of the window; their joules add up to its joules.

    Attributes:
        rule: `service_time` or `fitted`.
        rule_text: in words.
        boundary: whose joules.
        classes: by name; `idle` last where there is any.
    """

    rule: str
    rule_text: str | None = None
    boundary: str
    classes: tuple[ClassEnergy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One board over the window; None is what it did not tell.

    Attributes:
        throttled_share: reason -> share of the watched time of the window.
        watched_share: share of the window in which it was watched.
        power_limit_w: lowest limit in force.
        ecc_uncorrected: errors that came up during the run.
        xids: critical errors of the run, in order.
        foreign_processes: most at once, of processes that are not the run's.
    """

    device_id: str
    throttled_share: Mapping[str, Number] = field(default_factory=dict)
    watched_share: Number = 0.0
    sm_clock_mhz: Number | None = None
    temperature_max_c: Number | None = None
    memory_temperature_max_c: Number | None = None
    power_limit_w: Number | None = None
    power_limit_default_w: Number | None = None
    utilization_ratio: Number | None = None
    ecc_uncorrected: int | None = None
    xids: tuple[int, ...] = ()
    foreign_processes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A stretch of time in which a board gave a reason for lower clocks, in seconds from the run's
    start.

    Attributes:
        invalid: such a reason makes a window invalid.
    """

    device_id: str
    reason: str
    start_s: Number
    end_s: Number
    invalid: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """All boards of the deployment: over the window, and their stretches of the whole run."""

    devices: tuple[Board, ...] = ()
    stretches: tuple[Stretch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Carbon:
    """CO2 of the window at the highest rung that is known, by the profile's grid factor."""

    kgco2: Number
    kgco2_per_kwh: Number
    source: str | None = None
    rung: str
    rung_basis: Basis
    basis: Basis = Basis.MODELLED


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnergy:
    """Energy of the headline's window.

    Attributes:
        window: name of the stage; None without a measured window.
        ladder: from board to facility.
        classes: joules by class; None where there are none.
        boards: throttling, limits and errors.
        carbon: None without the grid's factor.
    """

    window: str | None = None
    boundaries: Mapping[str, BoundaryEnergy] = field(default_factory=dict)
    idle: Idle = field(default_factory=Idle)
    ladder: tuple[Rung, ...] = ()
    attribution: Attribution = field(default_factory=Attribution)
    classes: Allocation | None = None
    boards: GpuState = field(default_factory=GpuState)
    carbon: Carbon | None = None
