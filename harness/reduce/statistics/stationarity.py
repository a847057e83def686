"""Steady-state test: MSER-5 finds a series' warm-up; tests for a trend and a shift find drift.
docs/explanation/statistics.md has the rule, sources and measured error rates.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.artifacts.run_summary import Signal, Steady
from harness.reduce.statistics.intervals import Floats, lag_one
from harness.reduce.statistics.student_t import t_beyond

SLICES: Final = 60
"""Slices per stage; each is a batch of `PER_SLICE` observations."""
PER_SLICE: Final = 5
"""Observations per slice: the batch of MSER-5 (White, Cobb & Spratt 2000, Proc. Winter Simulation
Conf.).
"""
MIN_SLICES: Final = 20
"""Minimum number of slices for a test."""
MIN_SLICE_S: Final = 1.0
MOST: Final = 0.5
"""Share of slices between the end of a warm-up and MSER's minimum that must lie within the band."""
BAND: Final = 2.5
"""Half-width of the steady band, in standard deviations of a slice."""
CUT_P: Final = 1e-3
"""A warm-up is cut only if it differs from the rest with a p-value below this: in noise, MSER's
minimum is anywhere.
"""
SHIFT_P: Final = 1e-4
"""A level shift is drift if its two sides differ with a p-value below this, which allows for the
choice of the split.
"""
WARMUP_SHARE: Final = 0.01
"""A warm-up whose mean is off by less than this share of the signal's mean is not cut."""
TREND_P: Final = 0.01
"""Two-sided error of the trend test, for each of up to four signals."""
PLAIN: Final = 10.0
"""A rise of more than this many standard deviations of the residuals is not noise, however
correlated they are.
"""
DRIFT_SHARE: Final = 0.05
"""A smaller change over the window, as a share of the signal's mean, is not drift, however
significant.
"""
DRIFT_RATIO: Final = 0.02
"""The same for a ratio, in its own unit: when a prefix hit ratio falls from 0.96 to 0.94, the
computed input grows by half.
"""


@dataclass(frozen=True, slots=True)
class Trend:
    """A monotone trend (Mann-Kendall test).

    Attributes:
        slope: Sen's: the median change from one slice to the next.
        z: Kendall's S over its standard deviation with autocorrelation; 0 if nothing varies.
        p_value: two-sided.
    """

    slope: float
    z: float
    p_value: float


@dataclass(frozen=True, slots=True)
class SignalTest:
    """Test result of one signal.

    Attributes:
        warmup_slices: to exclude at the beginning; 0 without a warm-up or with drift.
        drift: it keeps changing by more than the tolerance.
        change: over the tested period, as a share of the mean (for ratios: in their own unit);
            None if the mean is 0.
        p_value: of the trend.
    """

    warmup_slices: int
    drift: bool
    change: float | None
    p_value: float


@dataclass(frozen=True, slots=True)
class SteadyState:
    """Result of the steady-state test.

    Attributes:
        slices: number of slices in the tested period.
        warmup_slices: of the slowest signal that settles.
    """

    slice_s: float
    slices: int
    warmup_slices: int
    signals: Mapping[str, SignalTest]

    @property
    def steady(self) -> bool:
        return not any(test.drift for test in self.signals.values())

    def summarized(self) -> Steady:
        return Steady(
            steady=self.steady,
            slice_s=self.slice_s,
            slices=self.slices,
            warmup_s=self.warmup_slices * self.slice_s,
            signals={
                name: Signal(
                    warmup_s=test.warmup_slices * self.slice_s,
                    drift=test.drift,
                    change=test.change,
                    p_value=test.p_value,
                )
                for name, test in self.signals.items()
            },
        )


def mser(means: Floats, most: int) -> int:
    """MSER's number of batches to cut from the front (White 1997, Simulation 69:323-334).

    From 0 to `most`, it minimizes the variance of the mean of the rest, taken as independent.
    """
    kept = len(means) - np.arange(most + 1)
    apart = means - np.mean(means)
    total = np.cumsum(apart[::-1])[::-1][: len(kept)]
    squares = np.cumsum((apart * apart)[::-1])[::-1][: len(kept)]
    return int(np.argmin(np.maximum(squares - total * total / kept, 0.0) / (kept * kept)))


def _back(means: Floats, cut: int) -> int:
    """The end of the warm-up: the first of two slices within the band of the rest, if most slices
    from there to MSER's minimum are too.

    MSER's minimum often lies later, where noise makes the rest look slightly better.
    """
    rest = means[cut:]
    inside = np.abs(means[:cut] - np.mean(rest)) <= BAND * np.std(rest, ddof=1)
    for earlier in range(cut - 1):
        if inside[earlier] and inside[earlier + 1] and np.mean(inside[earlier:]) >= MOST:
            return earlier
    return cut


def _correlation(values: Floats) -> float:
    return min(max(lag_one(values)[0], 0.0), 0.95)


def _p_apart(means: Floats, cut: int, *, pooled: bool = False) -> float:
    """Two-sided p-value of the first `cut` batch means against the rest, by Student's t with an
    effective sample size.

    Scatter and correlation are those of the rest (a warm-up has its own), or of both if `pooled`.
    """
    first, rest = means[:cut], means[cut:]
    gap = abs(float(np.mean(first) - np.mean(rest)))
    left = rest - np.mean(rest)
    unknown = 1
    if pooled:
        left, unknown = np.concatenate([first - np.mean(first), left]), 2
    spread = math.sqrt(float(np.dot(left, left)) / (len(left) - unknown))
    if spread <= 1e-12 * float(np.max(np.abs(means))):
        return 0.0 if gap > 0 else 1.0
    r = _correlation(left)
    inflation = (1 + r) / (1 - r)
    t = gap / (spread * math.sqrt(inflation * (1 / len(first) + 1 / len(rest))))
    return 2 * t_beyond(t, max(1.0, len(left) / inflation - unknown))


def _ranks(values: Floats) -> Floats:
    """Ranks from 0; ties get their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count + 1) / 2)[place], dtype=np.float64)


def _flat(values: Floats, of: Floats) -> bool:
    return float(np.ptp(values)) <= 1e-12 * float(np.max(np.abs(of)))


def trend(values: Floats) -> Trend:
    """Mann-Kendall test with the variance of an autocorrelated series.

    The correlation is that of the ranks of the residuals of Sen's slope (Hamed & Rao 1998, J.
    Hydrol. 204:182-196). The effective sample size is that of an autoregression of order one (Yue &
    Wang 2004, Water Resour. Manage. 18:201-218). It gives the degrees of freedom of a Student's t
    instead of the normal distribution, since the correlation is an estimate.
    """
    n = len(values)
    first, second = np.triu_indices(n, 1)
    steps = values[second] - values[first]
    slope = float(np.median(steps / (second - first)))
    s = float(np.sum(np.sign(steps)))
    _, ties = np.unique(values, return_counts=True)
    variance = (n * (n - 1) * (2 * n + 5) - float(np.sum(ties * (ties - 1) * (2 * ties + 5)))) / 18
    if variance <= 0:
        return Trend(0.0, 0.0, 1.0)
    left = values - slope * np.arange(n)
    plain = abs(slope) * n > PLAIN * float(np.std(left)) or _flat(left, values)
    r = 0.0 if plain else _correlation(_ranks(left))
    lags = np.arange(1, n)
    inflation = 1 + 2 * float(np.sum((1 - lags / n) * r**lags))
    z = (s - math.copysign(min(1.0, abs(s)), s)) / math.sqrt(variance * inflation)
    return Trend(slope, z, 2 * t_beyond(abs(z), max(1.0, n / inflation - 2)))


def examine(means: Floats, *, ratio: bool = False) -> SignalTest:
    """Warm-up and drift of one signal.

    Args:
        means: of consecutive equal slices, at least `MIN_SLICES`.
        ratio: evaluate changes in its own unit rather than as a share of its mean.
    """
    n = len(means)
    scale = 1.0 if ratio else abs(float(np.mean(means)))
    limit = DRIFT_RATIO if ratio else DRIFT_SHARE
    if _flat(means, means):
        return SignalTest(0, False, 0.0 if scale else None, 1.0)

    cut = _back(means, mser(means, n // 2))
    if cut and (
        _p_apart(means, cut) > CUT_P
        or abs(float(np.mean(means[:cut]) - np.mean(means[cut:]))) < WARMUP_SHARE * scale
    ):
        cut = 0
    rest = means[cut:]
    found = trend(rest)
    change = found.slope * len(rest)
    drifts = found.p_value < TREND_P and abs(change) > limit * scale
    # A shift: the split with the largest cumulative sum of deviations from the mean (CUSUM).
    split = 1 + int(np.argmax(np.abs(np.cumsum(rest - np.mean(rest))[:-1])))
    shift = float(np.mean(rest[split:]) - np.mean(rest[:split]))
    if abs(shift) > limit * scale and _p_apart(rest, split, pooled=True) < SHIFT_P:
        drifts, change = True, max(change, shift, key=abs)
    return SignalTest(
        0 if drifts else cut, drifts, change / scale if scale else None, found.p_value
    )


def examine_all(
    signals: Mapping[str, Floats], slice_s: float, ratios: Collection[str] = ()
) -> SteadyState:
    """`examine` each signal (name -> means of the same slices); the slowest sets the warm-up."""
    tests = {name: examine(means, ratio=name in ratios) for name, means in signals.items()}
    slices = max(map(len, signals.values()), default=0)
    warmup = max((test.warmup_slices for test in tests.values()), default=0)
    return SteadyState(slice_s, slices, warmup, tests)
