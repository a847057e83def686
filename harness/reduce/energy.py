"""Joules of a window per power boundary: from the energy counter, else from the integral of power; absent with a reason, never 0."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.core.records import Boundary, Concern, Severity
from harness.reduce.counters import at
from harness.reduce.stats import Floats

ABSENT_BELOW_S: Final = 5.0
"""Windows shorter than this have no energy: counter and integrated power were seen 4 to 26 % apart below it, and to agree at 5 s."""
PRELIMINARY_BELOW_S: Final = 30.0
"""Energy of a window shorter than this is preliminary."""
GAP_S: Final = 3.0
"""A longer silence of a power source voids its integral (the rule of InferenceX's power validity check)."""
DISAGREEMENT: Final = 0.05
"""Counter and integral of power further apart than this are a concern."""

Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy at one boundary over time.

    Attributes:
        boundary: what it covers.
        joules: in the window; None when absent.
        reason: why it is absent.
        method: `counter`, `integral`, or `counter and integral` where devices differ; None when absent.
        devices: how many are summed.
        t: times at which the cumulative energy below is known.
        cumulative_j: energy since the first of them, summed over devices; empty when absent.
        concerns: what is wrong with it.
    """

    boundary: str
    joules: float | None
    reason: str | None
    method: str | None
    devices: int
    t: Floats
    cumulative_j: Floats
    concerns: tuple[Concern, ...] = ()

    def per_bin(self, edges: Floats) -> Floats:
        """Joules in each stretch between edges; NaN outside the readings."""
        if len(self.t) == 0:
            return np.full(len(edges) - 1, np.nan)
        return np.diff(np.interp(edges, self.t, self.cumulative_j, left=np.nan, right=np.nan))


@dataclass(frozen=True, slots=True)
class _Device:
    joules: float | None
    reason: str | None
    method: str | None
    t: Floats
    cumulative_j: Floats
    disagreement: float | None
    gap_s: float | None


def energies(power: Columns | None, start: float, end: float, gpu_uuids: Collection[str]) -> list[Energy]:
    """Energy of [start, end) (nanoseconds) at each boundary that was read; an empty list when nothing was.

    Args:
        power: columns of the power table.
        start: of the window.
        end: of the window.
        gpu_uuids: boards of the deployment: all of them must be there at a boundary of GPUs, and others are left out.
    """
    if power is None:
        return []
    return [_boundary(power, boundary, start, end, gpu_uuids) for boundary in sorted(set(power["boundary"]))]


def _boundary(power: Columns, boundary: str, start: float, end: float, gpu_uuids: Collection[str]) -> Energy:
    rows = power["boundary"] == boundary
    found = sorted(set(power["device_id"][rows]))
    concerns: list[Concern] = []
    none = np.zeros(0)

    def absent(reason: str) -> Energy:
        return Energy(boundary, None, reason, None, len(found), none, none, tuple(concerns))

    if boundary == Boundary.GPU_BOARD and gpu_uuids:
        missing = sorted(set(gpu_uuids) - set(found))
        foreign = sorted(set(found) - set(gpu_uuids))
        found = [device for device in found if device in gpu_uuids]
        if foreign:
            text = f"Power of {len(foreign)} GPU(s) outside the deployment was read and is left out."
            concerns.append(Concern("gpu_set", Severity.NOTE, text, len(foreign), 0))
        if missing:
            text = f"Power of {len(missing)} of {len(gpu_uuids)} GPUs is missing, so the deployment's energy is not known."
            concerns.append(Concern("gpu_set", Severity.DEGRADED, text, len(missing), 0))
            return absent(f"no power of {', '.join(missing)}")
    length_s = (end - start) * 1e-9
    if length_s < ABSENT_BELOW_S:
        return absent(f"the window is {length_s:.1f} s; energy needs at least {ABSENT_BELOW_S:.0f} s")
    if length_s < PRELIMINARY_BELOW_S:
        text = f"Energy is taken over {length_s:.0f} s; at least {PRELIMINARY_BELOW_S:.0f} s are wanted."
        concerns.append(Concern("energy_window_short", Severity.PRELIMINARY, text, length_s, PRELIMINARY_BELOW_S))
    devices = [_device(power, rows & (power["device_id"] == device), start, end) for device in found]
    for name, device in zip(found, devices, strict=True):
        if device.gap_s is not None and device.gap_s > GAP_S:
            text = f"Power of {name} was silent for {device.gap_s:.1f} s within the window."
            concerns.append(Concern("power_gap", Severity.DEGRADED, text, device.gap_s, GAP_S))
        if device.disagreement is not None and device.disagreement > DISAGREEMENT:
            text = f"Energy counter and integral of power of {name} are {device.disagreement:.1%} apart."
            concerns.append(Concern("energy_disagrees", Severity.DEGRADED, text, device.disagreement, DISAGREEMENT))
        if device.joules is None:
            return absent(f"{name}: {device.reason}")
    t = np.unique(np.concatenate([device.t for device in devices]))
    summed = np.zeros(len(t))
    for device in devices:
        summed += np.interp(t, device.t, device.cumulative_j, left=np.nan, right=np.nan)
    known = ~np.isnan(summed)
    methods = sorted({str(device.method) for device in devices})
    joules = sum(device.joules for device in devices if device.joules is not None)
    return Energy(boundary, joules, None, " and ".join(methods), len(devices), t[known], summed[known], tuple(concerns))


def _device(power: Columns, rows: npt.NDArray[np.bool_], start: float, end: float) -> _Device:
    t, watts, joules = power["t_ns"][rows], power["power_w"][rows], power["energy_j"][rows]
    source = power["source"][rows]
    counter = ~np.isnan(joules)
    counter_t, counter_j = t[counter], joules[counter]
    # Instant readings where there are any: an average over a trailing second smears the window's edges.
    instant = ~np.isnan(watts) & np.array(["average" not in str(s) for s in source], dtype=bool)
    readings = instant if np.any(instant) else ~np.isnan(watts)
    power_t, power_w = t[readings], watts[readings]

    from_counter: float | None = None
    counter_resets = len(counter_j) > 1 and bool(np.any(np.diff(counter_j) < 0))
    if not counter_resets:  # a counter that fell lost an unknown amount: the driver was loaded again
        low, high = at(counter_t, counter_j, start), at(counter_t, counter_j, end)
        if low is not None and high is not None:
            from_counter = high - low
    integral: float | None = None
    gap_s: float | None = None
    running = np.zeros(0)
    if len(power_t) > 1 and power_t[0] <= start and power_t[-1] >= end:
        inside = np.concatenate([[start], power_t[(power_t > start) & (power_t < end)], [end]])
        near = power_t[(power_t >= inside[0] - GAP_S * 1e9) & (power_t <= inside[-1] + GAP_S * 1e9)]
        gap_s = float(np.max(np.diff(near))) * 1e-9 if len(near) > 1 else (end - start) * 1e-9
        running = np.concatenate([np.zeros(1), np.cumsum(np.diff(power_t) * 1e-9 * (power_w[1:] + power_w[:-1]) / 2)])
        values = np.interp(inside, power_t, power_w)
        integral = float(np.sum(np.diff(inside) * 1e-9 * (values[1:] + values[:-1]) / 2))
    trusted = integral if gap_s is not None and gap_s <= GAP_S else None
    if from_counter is not None:
        apart = abs(from_counter - trusted) / trusted if trusted else None
        return _Device(from_counter, None, "counter", counter_t, counter_j - counter_j[0], apart, gap_s)
    if trusted is not None:
        return _Device(trusted, None, "integral", power_t, running, None, gap_s)
    if gap_s is not None:
        reason = f"power was silent for {gap_s:.1f} s and there is no energy counter"
    else:
        reason = "readings do not cover the window"
    return _Device(None, reason, None, np.zeros(0), np.zeros(0), None, gap_s)
