"""State of the GPUs: throttling, power limits, foreign processes and errors, over a window and as
periods of the whole run.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.artifacts.run_summary import Board, GpuState, Stretch
from harness.core.records import Concern, Gpu, Severity

NS: Final = 1e-9
HOLD_S: Final = 3.0
"""A reading applies until the next one, at most this long."""

LIMIT_TOLERANCE: Final = 0.01
"""A power limit further below the default than this was set on purpose."""

REASONS: Final[Mapping[str, int]] = {
    "hw_slowdown": 0x8,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake": 0x80,
    "sw_power_cap": 0x4,
    "app_clocks": 0x2,
    "sync_boost": 0x10,
    "display_clocks": 0x100,
}
"""NVML's clocks event reasons (nvml.h, nvmlClocksEventReason…). Idle (0x1) is not throttling."""

INVALIDATING: Final = (
    "hw_slowdown",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake",
)
"""Throttling for these reasons invalidates speed and energy: the GPU did not run as configured."""

REASON_WORDS: Final[Mapping[str, str]] = {
    "hw_slowdown": "hardware slowdown",
    "sw_thermal_slowdown": "software thermal slowdown",
    "hw_thermal_slowdown": "hardware thermal slowdown",
    "hw_power_brake": "power brake",
    "sw_power_cap": "software power cap",
    "app_clocks": "application clocks",
    "sync_boost": "sync boost",
    "display_clocks": "display clocks",
}

Columns = Mapping[str, npt.NDArray[Any]]


def slowed(gpu: Board) -> tuple[str, ...]:
    """Throttle reasons that invalidate the window."""
    return tuple(reason for reason in INVALIDATING if gpu.throttled_share.get(reason, 0.0) > 0)


def limit_label(state: GpuState) -> str | None:
    """`500 of 700 W` if a limit below the default applied: reports show it next to every value."""
    limits = sorted(
        {
            (b.power_limit_w, b.power_limit_default_w)
            for b in state.devices
            if _limited(b) and b.power_limit_w and b.power_limit_default_w
        }
    )
    return ", ".join(f"{limit:g} of {default:g} W" for limit, default in limits) or None


def why_invalid(state: GpuState) -> str | None:
    """Invalidating throttling of the window in words, or None."""
    parts = []
    for gpu in state.devices:
        reasons = ", ".join(
            f"{REASON_WORDS[reason]} in {gpu.throttled_share[reason]:.1%} of the window"
            for reason in slowed(gpu)
        )
        if reasons:
            parts.append(f"{gpu.device_id}: {reasons}")
    return "; ".join(parts) or None


def _limited(gpu: Board) -> bool:
    limit, default = gpu.power_limit_w, gpu.power_limit_default_w
    return limit is not None and default is not None and limit < default * (1 - LIMIT_TOLERANCE)


def boards(table: Columns | None, start: float, end: float, gpus: Sequence[Gpu]) -> GpuState:
    """State of the deployment's `gpus` in [start, end) (nanoseconds from the run's start), from
    columns of `tables.BOARDS`.
    """
    if table is None:
        return GpuState()
    known = {gpu.uuid: gpu for gpu in gpus if gpu.uuid}
    found = [device for device in sorted(set(table["device_id"])) if not known or device in known]
    stretches = [stretch for device in found for stretch in _stretches(table, device)]
    return GpuState(
        devices=tuple(_board(table, device, start, end, known.get(device)) for device in found),
        stretches=tuple(stretches),
    )


def _until(t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Until when each reading applies."""
    until: npt.NDArray[np.float64] = np.minimum(np.append(t[1:], np.inf), t + HOLD_S / NS)
    return until


def _board(table: Columns, device: str, start: float, end: float, gpu: Gpu | None) -> Board:
    rows = table["device_id"] == device
    t = table["t_ns"][rows]
    # Nanoseconds of the window that each reading covers.
    held = np.maximum(np.minimum(_until(t), end) - np.maximum(t, start), 0.0)
    inside = held > 0

    def column(name: str) -> npt.NDArray[np.float64]:
        return np.asarray(table[name][rows], dtype=np.float64)

    def extreme(name: str, of: Any) -> float | None:  # noqa: ANN401 - numpy's min or max
        values = column(name)[inside]
        values = values[~np.isnan(values)]
        return float(of(values)) if len(values) else None

    def mean(name: str) -> float | None:
        values = column(name)
        good = inside & ~np.isnan(values)
        return float(np.average(values[good], weights=held[good])) if np.any(good) else None

    mask = column("throttle_reasons")
    known = inside & ~np.isnan(mask)
    bits = np.nan_to_num(mask).astype(np.int64)
    watched = float(np.sum(held[known]))
    shares = {
        reason: float(np.sum(held[known & ((bits & bit) != 0)])) / watched
        for reason, bit in REASONS.items()
        if watched > 0
    }
    errors = column("ecc_uncorrected")
    xids = column("xid")
    limit = extreme("power_limit_w", np.min)
    foreign = extreme("foreign_processes", np.max)
    return Board(
        device_id=device,
        throttled_share=shares,
        watched_share=watched / (end - start) if end > start else 0.0,
        sm_clock_mhz=mean("sm_clock_mhz"),
        temperature_max_c=extreme("temperature_c", np.max),
        memory_temperature_max_c=extreme("memory_temperature_c", np.max),
        power_limit_w=limit if limit is not None or gpu is None else gpu.power_limit_w,
        power_limit_default_w=None if gpu is None else gpu.power_limit_default_w,
        utilization_ratio=mean("utilization_ratio"),
        ecc_uncorrected=_counted(errors[~np.isnan(errors)]),
        xids=tuple(int(xid) for xid in xids[~np.isnan(xids)]),
        foreign_processes=int(foreign) if foreign is not None else None,
    )


def _counted(errors: npt.NDArray[np.float64]) -> int | None:
    """Increase since the first reading of a counter that restarts at 0 with its driver; None
    without readings.
    """
    if not len(errors):
        return None
    steps = np.diff(errors)
    return int(np.sum(np.where(steps < 0, errors[1:], steps)))


def _stretches(table: Columns, device: str) -> list[Stretch]:
    rows = table["device_id"] == device
    t = table["t_ns"][rows]
    mask = np.asarray(table["throttle_reasons"][rows], dtype=np.float64)
    bits = np.nan_to_num(mask).astype(np.int64)
    until = _until(t)
    found = []
    for reason, bit in REASONS.items():
        on = (bits & bit) != 0
        # Readings of one period follow each other without a gap.
        joined = on[1:] & on[:-1] & (t[1:] <= until[:-1])
        starts = t[on & ~np.append(False, joined)[: len(t)]]
        ends = until[on & ~np.append(joined, False)[: len(t)]]
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            found.append(
                Stretch(
                    device_id=device,
                    reason=reason,
                    start_s=start * NS,
                    end_s=end * NS,
                    invalid=reason in INVALIDATING,
                )
            )
    return sorted(found, key=lambda stretch: (stretch.start_s, stretch.reason))


def board_concerns(found: GpuState, gpu_uuids: Collection[str], *, smoke: bool) -> list[Concern]:
    """Concerns about the state of the GPUs."""
    out = []
    why = why_invalid(found)
    if why is not None:
        text = f"GPUs were throttled ({why}), so speed and energy are not representative."
        worst = max(gpu.throttled_share[reason] for gpu in found.devices for reason in slowed(gpu))
        out.append(
            Concern("throttled", Severity.DEGRADED if smoke else Severity.INVALID, text, worst, 0.0)
        )
    doubt = Severity.NOTE if smoke else Severity.DEGRADED
    watched = {gpu.device_id for gpu in found.devices if gpu.watched_share > 0.5}
    unwatched = len(set(gpu_uuids) - watched)
    if unwatched:
        text = (
            f"Throttling is unknown for {unwatched} of {len(gpu_uuids)} GPUs: throttle reasons"
            " could not be read."
        )
        out.append(Concern("throttling_not_watched", doubt, text, unwatched, 0))
    for gpu in found.devices:
        name = gpu.device_id
        capped = gpu.throttled_share.get("sw_power_cap", 0.0)
        if _limited(gpu):
            limit, default = gpu.power_limit_w, gpu.power_limit_default_w
            text = f"{name} ran at a power limit of {limit:g} W; its default is {default:g} W."
            out.append(Concern("power_limit", Severity.NOTE, text, limit, default))
        elif capped > 0:
            text = (
                f"{name} was at its default power limit in {capped:.0%} of the window, which is"
                " normal under load."
            )
            out.append(Concern("power_capped", Severity.NOTE, text, capped))
        if gpu.foreign_processes:
            text = (
                f"{gpu.foreign_processes} process(es) on {name} do not belong to the run; the GPU's"
                " power includes them."
            )
            out.append(Concern("foreign_processes", doubt, text, gpu.foreign_processes, 0))
        if gpu.ecc_uncorrected:
            text = f"{name} had {gpu.ecc_uncorrected} uncorrected memory error(s) during the run."
            out.append(Concern("ecc_errors", Severity.DEGRADED, text, gpu.ecc_uncorrected, 0))
        if gpu.xids:
            text = f"{name} reported XID {', '.join(map(str, gpu.xids))} during the run."
            out.append(Concern("xid", Severity.DEGRADED, text, len(gpu.xids), 0))
    return out
