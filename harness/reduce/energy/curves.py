"""Cumulative energy of one device over time, from its counter or its power readings, with the
resolution of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.reduce.statistics.intervals import Floats
from harness.reduce.statistics.student_t import t_quantile

NS: Final = 1e-9

GAP_S: Final = 3.0
"""A longer gap in a GPU's readings voids its energy (rule of InferenceX's power validity check)."""

LAG_S: Final[Mapping[str, tuple[float, float]]] = {"average": (0.5, 0.0), "usage": (0.25, 0.25)}
"""Sensor lag by a word in the source's name: (lag, uncertainty), in seconds.

NVML's field 185 averages the second before, so it stands for that second's middle.
nvmlDeviceGetPowerUsage does so on Ampere and later except GA100, and is instant on older GPUs (NVML
API reference): somewhere between the two.
"""

INSTANT_LAG_S: Final = (0.0, 0.1)
"""Instant power updates about every 100 ms on A100 and H100 (Part-time Power Measurements, arXiv
2312.02741).
"""

COUNTER_STEP_S: Final = 0.1
"""Update interval of NVML's energy counter (ML.ENERGY's profiling notes): the age of a reading."""

RAPL_STEP_S: Final = 0.001
"""Update interval of RAPL's counters (Intel Software Developer's Manual, vol. 3B)."""

ROUGH: Final = 0.1
"""Mean relative distance of readings from the middle of their neighbors, above which they do not
resolve the load.
"""

_SUBSETS: Final = (5, 7, 8)
"""Numbers of interleaved sets of readings: several, in case the load is in step with one."""
_MIN_PER_SUBSET: Final = 5
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Curve:
    """Energy since the first reading, interpolated between readings.

    Attributes:
        t: times of the readings, nanoseconds, strictly ascending.
        joules: cumulative at each.
        watts: power at each reading, taken as linear in between, so that energy is quadratic. None
            for a counter, whose energy is taken as linear in between unless it has a shape.
        broken: steps (index of their first reading) of unknown energy: a gap, or a reset that no
            power reading bridges.
        bridged: steps with a reset whose energy was taken from power.
        resets: how often the counter fell.
        shape: integral of power of the same device, which distributes a counter's energy within
            its steps.
    """

    t: Floats
    joules: Floats
    watts: Floats | None
    broken: frozenset[int]
    bridged: frozenset[int] = frozenset()
    resets: int = 0
    shape: "Curve | None" = None

    def covers(self, start: float, end: float) -> bool:
        """Whether readings bracket the interval."""
        return len(self.t) > 1 and self.t[0] <= start and self.t[-1] >= end

    def touches(self, steps: frozenset[int], start: float, end: float) -> bool:
        """Whether the interval overlaps any of these steps."""
        first = int(np.searchsorted(self.t, start, side="right")) - 1
        last = int(np.searchsorted(self.t, end, side="left")) - 1
        return any(first <= step <= last for step in steps)

    def at(self, moments: Floats) -> Floats:
        """Cumulative joules at times; NaN outside the readings."""
        if len(self.t) < 2:
            return np.full(len(moments), np.nan)
        linear = np.interp(moments, self.t, self.joules, left=np.nan, right=np.nan)
        if self.watts is None and self.shape is None:
            return np.asarray(linear)
        step = np.clip(np.searchsorted(self.t, moments, side="right") - 1, 0, len(self.t) - 2)
        if self.watts is None:
            return self._shaped(linear, moments, step)
        length_s = (self.t[step + 1] - self.t[step]) * NS
        into_s = (moments - self.t[step]) * NS
        slope = (self.watts[step + 1] - self.watts[step]) / length_s
        exact = self.joules[step] + into_s * (self.watts[step] + slope * into_s / 2)
        return np.where(np.isnan(linear), np.nan, exact)

    def _shaped(self, linear: Floats, moments: Floats, step: npt.NDArray[np.int64]) -> Floats:
        """Energy within steps follows power, if its readings cover the step without a gap."""
        assert self.shape is not None
        begin, end = self.t[step], self.t[step + 1]
        before, here, after = self.shape.at(begin), self.shape.at(moments), self.shape.at(end)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (here - before) / (after - before)
        usable = np.isfinite(share) & (after > before)
        if self.shape.broken:
            usable &= np.array(
                [
                    not self.shape.touches(self.shape.broken, a, b)
                    for a, b in zip(begin, end, strict=True)
                ],
                dtype=bool,
            )
        shaped = self.joules[step] + share * (self.joules[step + 1] - self.joules[step])
        return np.where(usable & ~np.isnan(linear), shaped, linear)

    def between(self, start: float, end: float) -> float | None:
        """Energy of the interval (J); None if readings do not bracket it or a step is unknown.
        Adjacent intervals add up.
        """
        if not self.covers(start, end) or self.touches(self.broken, start, end):
            return None
        low, high = self.at(np.array([start, end]))
        return float(high - low)

    def longest_step_s(self, start: float, end: float) -> float | None:
        """Longest gap that overlaps the interval; None if readings do not bracket it."""
        if not self.covers(start, end):
            return None
        first = int(np.searchsorted(self.t, start, side="right")) - 1
        last = int(np.searchsorted(self.t, end, side="left"))
        return float(np.max(np.diff(self.t[max(first, 0) : last + 1]))) * NS


def clean(t: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Finite readings in order of time; the last one if several have the same time."""
    good = np.isfinite(values) & np.isfinite(t)
    t, values = t[good], values[good]
    order = np.argsort(t, kind="stable")
    t, values = t[order], values[order]
    last = np.diff(t, append=np.inf) > 0
    return t[last], values[last]


def from_power(t: Floats, watts: Floats, gap_s: float = GAP_S) -> Curve:
    """Integral of power by the trapezoid rule. Gaps longer than `gap_s` are broken steps."""
    t, watts = clean(t, watts)
    steps_s = np.diff(t) * NS
    joules = _cumulative(steps_s * (watts[1:] + watts[:-1]) / 2, len(t))
    return Curve(t, joules, watts, frozenset(np.flatnonzero(steps_s > gap_s).tolist()))


def _cumulative(steps: Floats, readings: int) -> Floats:
    return np.concatenate([np.zeros(min(readings, 1)), np.cumsum(steps)])


def from_counter(t: Floats, counter: Floats, power: Curve | None, gap_s: float = GAP_S) -> Curve:
    """Differences of a cumulative counter (J). A fall is a reset: energy of that step, if it is not
    longer than `gap_s`, comes from `power` of the same device.
    """
    t, counter = clean(t, counter)
    steps = np.diff(counter)
    broken, bridged = [], []
    resets = np.flatnonzero(steps < 0).tolist()
    for step in resets:
        bridge = power.between(float(t[step]), float(t[step + 1])) if power is not None else None
        if bridge is None or (t[step + 1] - t[step]) * NS > gap_s:
            broken.append(step)
            steps[step] = 0.0
        else:
            steps[step] = bridge
            bridged.append(step)
    joules = _cumulative(steps, len(t))
    shape = power if power is not None and resolves(power) else None
    return Curve(t, joules, None, frozenset(broken), frozenset(bridged), len(resets), shape)


def resolves(power: Curve) -> bool:
    """Whether power readings are smooth enough to distribute energy within a second.

    Decided once for the whole run, so that all its windows are treated alike.
    """
    if power.watts is None or len(power.watts) < 3 or float(np.mean(power.watts)) <= 0:
        return False
    apart = np.abs(power.watts[1:-1] - (power.watts[2:] + power.watts[:-2]) / 2)
    return float(np.mean(apart) / np.mean(power.watts)) <= ROUGH


def integral_error(
    curve: Curve, start: float, end: float, lag_error_s: float = 0.0
) -> float | None:
    """Half-width, in joules at 95%, of the sampling error of an integral of power.

    Each of several interleaved sets of readings gives an integral; their spread is the sampling
    error. It is small if the readings resolve the load. Readings in step with the load would hide
    the error, so they are taken at jittered times. None for too few readings.
    """
    if curve.watts is None or not curve.covers(start, end):
        return None
    first = max(int(np.searchsorted(curve.t, start, side="right")) - 1, 0)
    last = int(np.searchsorted(curve.t, end, side="left")) + 1
    t, watts = curve.t[first:last], curve.watts[first:last]
    sampling = [
        _spread(t, watts, start, end, sets) for sets in _SUBSETS if len(t) >= sets * _MIN_PER_SUBSET
    ]
    if not sampling:
        sets = len(t) // _MIN_PER_SUBSET
        if sets < 2:
            return None
        sampling = [_spread(t, watts, start, end, sets)]
    # A lag of d shifts the window: the error is d x the difference between power at its two edges.
    at_start, at_end = np.interp([start, end], t, watts)
    joules = float(np.trapezoid(watts, t)) * NS
    return float(
        np.hypot(max(sampling), lag_error_s * abs(at_end - at_start)) + _ROUNDING * abs(joules)
    )


def _spread(t: Floats, watts: Floats, start: float, end: float, sets: int) -> float:
    found = []
    for k in range(sets):
        own_t, own_w = t[k::sets], watts[k::sets]
        inside = np.concatenate([[start], own_t[(own_t > start) & (own_t < end)], [end]])
        values = np.interp(inside, own_t, own_w)  # flat beyond the set's first and last reading
        found.append(float(np.sum(np.diff(inside) * NS * (values[1:] + values[:-1]) / 2)))
    return float(t_quantile(0.95, sets - 1) * np.std(found, ddof=1) / np.sqrt(sets))


def counter_error(curve: Curve, start: float, end: float, step_s: float = COUNTER_STEP_S) -> float:
    """Half-width, in joules at 95%, of a counter's difference: its update interval and the
    interpolation at both edges.
    """
    power = np.diff(curve.joules) / (np.diff(curve.t) * NS)
    mean_w = (curve.at(np.array([end]))[0] - curve.at(np.array([start]))[0]) / ((end - start) * NS)
    squared = 2 * (1.96 * step_s / np.sqrt(12) * mean_w) ** 2
    for edge in (start, end):
        step = min(max(int(np.searchsorted(curve.t, edge, side="right")) - 1, 0), len(power) - 1)
        into_s = (edge - curve.t[step]) * NS
        left_s = (curve.t[step + 1] - edge) * NS
        # The change of power between steps bounds its change within one.
        around = power[max(step - 1, 0) : step + 2]
        squared += (min(into_s, left_s) * float(np.ptp(around))) ** 2
    return float(np.sqrt(squared))
