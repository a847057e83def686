"""`energy` of a summary: details of the headline window's energy. None is absent or unknown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from harness.artifacts.typed_json import Number
from harness.core.records import Basis


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEnergy:
    """Energy of one device.

    Attributes:
        joules: readings x gain.
        reason: why it is absent.
        method: `counter`, `counter bridged by integral` (over a reset) or `integral`.
        counter_j: as read, without gain, as `integral_j` from power.
        disagreement: |counter - integral| / integral.
        longest_gap_s: between power readings that overlap the window.
        error_j: half-width at 95% of the statistical error.
        counter_resets: in the whole run.
        systematic_ratio: error of the gain; `systematic_source`: source of both.
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
        watts: mean over the window.
        reason: why it is absent.
        source: family of the readings: `nvml`, `dcgm`, `rapl`, `ipmi`, `redfish`, `promql`, `csv`,
            `modelled`, `replay:…`.
        method: of its devices: `counter`, `integral` or both.
        error_ratio: statistical error of the energy, 95%, relative.
        systematic_ratio: gain errors, independent between devices.
        other_sources: joules by other sources at the same boundary.
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
    """Power of one boundary over an idle period; `reason`: why it is absent."""

    watts: Number | None = None
    reason: str | None = None
    error_ratio: Number | None = None
    systematic_ratio: Number | None = None
    method: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleStretch:
    """An idle period, in seconds from the run's start, with its power by boundary."""

    start_s: Number
    end_s: Number
    boundaries: Mapping[str, IdlePower] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AboveIdle:
    """Power of the window at one boundary, in total and above idle power.

    Attributes:
        active_w: above idle power before the server started.
        above_ready_w: above idle power with the model loaded.
    """

    total_w: Number | None = None
    active_w: Number | None = None
    active_error_w: Number | None = None
    above_ready_w: Number | None = None
    above_ready_error_w: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Idle power before the server starts and with the model loaded. Missing idle periods have no
    key in JSON.
    """

    before_server: IdleStretch | None = None
    ready: IdleStretch | None = None
    above: Mapping[str, AboveIdle] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One power boundary (`rung`: `board`, `node`, `critical_it` or `facility`) over the window.

    Attributes:
        boundary: as read (`gpu_board`, `module`, `node`, `rack`, `facility`), or `rung` if modeled.
        low_w: with every assumed factor at its low end, `high_w` at its high end.
        basis: a boundary outside a modeled one is modeled unless it has a meter.
        factor: if modeled: watts added per GPU (node), or a multiple of the boundary inside.
        factor_is: in words, with its unit.
        factor_stated: by the profile; else a default of the harness.
        source: of the factor, else of the readings.
        devices: how many were summed.
        systematic_ratio: of the underlying measured energy.
        note: why it is absent, or a remark.
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
    """One term of the attribution in `unit`; `error` is the half-width of its 95% interval."""

    value: Number | None = None
    error: Number | None = None
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Energy breakdown: `harness.reduce.energy.attribution.Attribution`."""

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
    """Energy allocated to one class.

    Attributes:
        name: the class (`class` in JSON); `idle` for seconds in which nothing was in flight.
        share: of the window's energy.
        output_tok: in the window.
        answered: requests completed in it.
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
    """All classes of the window; their energy adds up to its energy at `boundary`.

    Attributes:
        rule: `service_time` or `fitted`.
        classes: by name; `idle` last if there is any.
    """

    rule: str
    rule_text: str | None = None
    boundary: str
    classes: tuple[ClassEnergy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One GPU over the window; None is what it does not report.

    Attributes:
        throttled_share: reason -> share of the watched time of the window.
        watched_share: share of the window with known throttle reasons.
        power_limit_w: lowest limit in force.
        ecc_uncorrected: new errors during the run.
        xids: critical errors of the run, in order.
        foreign_processes: maximum number of processes that do not belong to the run.
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
    """A period with a throttle reason of a GPU, in seconds from the run's start.

    Attributes:
        invalid: the reason invalidates a window.
    """

    device_id: str
    reason: str
    start_s: Number
    end_s: Number
    invalid: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """All GPUs of the deployment over the window, and throttling periods of the whole run."""

    devices: tuple[Board, ...] = ()
    stretches: tuple[Stretch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Carbon:
    """CO2 of the window at the outermost known boundary, by the profile's grid factor."""

    kgco2: Number
    kgco2_per_kwh: Number
    source: str | None = None
    rung: str
    rung_basis: Basis
    basis: Basis = Basis.MODELLED


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnergy:
    """Energy of the headline window.

    Attributes:
        window: name of the stage; None without a measurement window.
        ladder: power boundaries, innermost first.
        carbon: None without a grid factor.
    """

    window: str | None = None
    boundaries: Mapping[str, BoundaryEnergy] = field(default_factory=dict)
    idle: Idle = field(default_factory=Idle)
    ladder: tuple[Rung, ...] = ()
    attribution: Attribution = field(default_factory=Attribution)
    classes: Allocation | None = None
    boards: GpuState = field(default_factory=GpuState)
    carbon: Carbon | None = None
