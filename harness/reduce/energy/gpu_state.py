"""What the boards did beside drawing power: throttling, limits, neighbours and errors, over a
window and as stretches of the whole run.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.artifacts.run_summary import Board, GpuState, Stretch
from harness.core.records import Concern, Gpu, Severity

NS: Final = 1e-9
HOLD_S: Final = 3.0
"""A reading holds until the next one, at most this long."""

LIMIT_TOLERANCE: Final = 0.01
"""A power limit this much below the default is one that somebody set."""

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
"""NVML's clocks event reasons (nvml.h, nvmlClocksEventReason…). Idle (0x1) is no throttling."""

INVALIDATING: Final = (
    "hw_slowdown",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake",
)
"""A board that was slowed down by these did not run as its owner set it up: its speed and energy
are no result.
"""

REASON_WORDS: Final[Mapping[str, str]] = {
    "hw_slowdown": "hardware slowdown",
    "sw_thermal_slowdown": "thermal slowdown by software",
    "hw_thermal_slowdown": "thermal slowdown by hardware",
    "hw_power_brake": "power brake",
    "sw_power_cap": "software power cap",
    "app_clocks": "application clocks",
    "sync_boost": "sync boost",
    "display_clocks": "display clocks",
}

Columns = Mapping[str, npt.NDArray[Any]]


def slowed(board: Board) -> tuple[str, ...]:
    """Reasons of the window that make it invalid."""
    return tuple(reason for reason in INVALIDATING if board.throttled_share.get(reason, 0.0) > 0)


def limit_label(state: GpuState) -> str | None:
    """`500 of 700 W` where a limit below the default was in force: a treatment, to be named next to
    every figure.
    """
    limits = sorted(
        {
            (b.power_limit_w, b.power_limit_default_w)
            for b in state.devices
            if _limited(b) and b.power_limit_w and b.power_limit_default_w
        }
    )
    return ", ".join(f"{limit:g} of {default:g} W" for limit, default in limits) or None


def why_invalid(state: GpuState) -> str | None:
    """In words, or None."""
    parts = []
    for board in state.devices:
        reasons = ", ".join(
            f"{REASON_WORDS[reason]} in {board.throttled_share[reason]:.1%} of the window"
            for reason in slowed(board)
        )
        if reasons:
            parts.append(f"{board.device_id}: {reasons}")
    return "; ".join(parts) or None


def _limited(board: Board) -> bool:
    """Whether its power limit was set below its default."""
    return (
        board.power_limit_w is not None
        and board.power_limit_default_w is not None
        and board.power_limit_w < board.power_limit_default_w * (1 - LIMIT_TOLERANCE)
    )


def boards(table: Columns | None, start: float, end: float, gpus: Sequence[Gpu]) -> GpuState:
    """The boards' state in [start, end) (nanoseconds from the run's start).

    Args:
        table: BOARDS' columns; None when nobody watched.
        start: of the window.
        end: of the window.
        gpus: `hardware.gpus` of the manifest: the boards of the deployment, with their limits.
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


def _held(t: npt.NDArray[np.float64], start: float, end: float) -> npt.NDArray[np.float64]:
    """How much of [start, end) each reading stands for, in nanoseconds."""
    until = np.minimum(np.append(t[1:], np.inf), t + HOLD_S / NS)
    held: npt.NDArray[np.float64] = np.maximum(np.minimum(until, end) - np.maximum(t, start), 0.0)
    return held


def _board(table: Columns, device: str, start: float, end: float, gpu: Gpu | None) -> Board:
    rows = table["device_id"] == device
    t = table["t_ns"][rows]
    held = _held(t, start, end)
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
        return (
            float(np.sum(values[good] * held[good]) / np.sum(held[good])) if np.any(good) else None
        )

    mask = column("throttle_reasons")
    told = inside & ~np.isnan(mask)
    bits = np.where(np.isnan(mask), 0, mask).astype(np.int64)
    watched = float(np.sum(held[told]))
    shares = (
        {
            reason: float(np.sum(held[told & ((bits & bit) != 0)])) / watched
            for reason, bit in REASONS.items()
            if np.any(told)
        }
        if watched > 0
        else {}
    )
    errors = column("ecc_uncorrected")
    errors = errors[~np.isnan(errors)]
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
        ecc_uncorrected=_counted(errors),
        xids=tuple(int(xid) for xid in xids[~np.isnan(xids)]),
        foreign_processes=int(foreign) if foreign is not None else None,
    )


def _counted(errors: npt.NDArray[np.float64]) -> int | None:
    """What a counter that starts at 0 with its driver counted from its first reading on; None
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
    bits = np.where(np.isnan(mask), 0, mask).astype(np.int64)
    until = np.minimum(np.append(t[1:], np.inf), t + HOLD_S / NS)
    found = []
    for reason, bit in REASONS.items():
        if not np.any(bits & bit):
            continue
        begin: float | None = None
        last = 0.0
        for on, at, to in zip((bits & bit) != 0, t, until, strict=True):
            if begin is not None and (not on or at > last):
                found.append(_stretch(device, reason, begin, last))
                begin = None
            if on:
                begin = float(at) if begin is None else begin
                last = float(to)
        if begin is not None:
            found.append(_stretch(device, reason, begin, last))
    return sorted(found, key=lambda stretch: (stretch.start_s, stretch.reason))


def _stretch(device: str, reason: str, begin: float, last: float) -> Stretch:
    return Stretch(
        device_id=device,
        reason=reason,
        start_s=begin * NS,
        end_s=last * NS,
        invalid=reason in INVALIDATING,
    )


def board_concerns(found: GpuState, gpu_uuids: Collection[str], *, smoke: bool) -> list[Concern]:
    """Reasons to doubt the run that the boards' state gives."""
    out = []
    why = why_invalid(found)
    if why is not None:
        text = (
            f"The boards were slowed down ({why}): neither speed nor energy is what this hardware"
            " gives."
        )
        worst = max(
            board.throttled_share[reason] for board in found.devices for reason in slowed(board)
        )
        out.append(
            Concern("throttled", Severity.DEGRADED if smoke else Severity.INVALID, text, worst, 0.0)
        )
    doubt = Severity.NOTE if smoke else Severity.DEGRADED
    unwatched = sorted(
        set(gpu_uuids) - {board.device_id for board in found.devices if board.watched_share > 0.5}
    )
    if gpu_uuids and unwatched:
        text = (
            f"Nobody knows whether {len(unwatched)} of {len(gpu_uuids)} GPUs were slowed down:"
            " their clock reasons were not read."
        )
        out.append(Concern("throttling_not_watched", doubt, text, len(unwatched), 0))
    for board in found.devices:
        capped = board.throttled_share.get("sw_power_cap", 0.0)
        if _limited(board):
            text = (
                f"{board.device_id} ran at a power limit of {board.power_limit_w:g} W; its default"
                f" is {board.power_limit_default_w:g} W."
            )
            out.append(
                Concern(
                    "power_limit",
                    Severity.NOTE,
                    text,
                    board.power_limit_w,
                    board.power_limit_default_w,
                )
            )
        elif capped > 0:
            text = (
                f"{board.device_id} was at its default power limit in {capped:.0%} of the window,"
                " which is normal under load."
            )
            out.append(Concern("power_capped", Severity.NOTE, text, capped))
        if board.foreign_processes:
            text = (
                f"{board.foreign_processes} process(es) on {board.device_id} were not the run's;"
                " their work is part of its power."
            )
            out.append(Concern("foreign_processes", doubt, text, board.foreign_processes, 0))
        if board.ecc_uncorrected:
            text = (
                f"{board.device_id} had {board.ecc_uncorrected} uncorrected memory error(s) during"
                " the run."
            )
            out.append(Concern("ecc_errors", Severity.DEGRADED, text, board.ecc_uncorrected, 0))
        if board.xids:
            text = (
                f"{board.device_id} reported XID {', '.join(map(str, board.xids))} during the run."
            )
            out.append(Concern("xid", Severity.DEGRADED, text, len(board.xids), 0))
    return out
