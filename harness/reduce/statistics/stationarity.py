"""Whether a series has settled: MSER-5 finds its warm-up, tests of a trend and of a shift find that
it never did. Pure numbers.

docs/statistics.md has the rule in words, its sources and how often it is right.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.artifacts.run_summary import Signal, Steady
from harness.reduce.statistics.intervals import Floats, t_within

SLICES: Final = 60
"""Slices that a stage is cut into; each is a batch of `PER_SLICE` observations."""
PER_SLICE: Final = 5
"""Observations a slice: the batch of MSER-5 (White, Cobb & Spratt 2000, Proc. Winter Simulation
Conf.).
"""
MIN_SLICES: Final = 20
"""Fewer slices are not tested: they would have to be shorter than a second."""
MIN_SLICE_S: Final = 1.0
"""Shortest slice."""
MOST: Final = 0.5
"""Share of the slices between the end of a warm-up and MSER's minimum that must lie within the
band.
"""
BAND: Final = 2.5
"""Standard deviations of a slice within which it belongs to the steady part."""
CUT_P: Final = 1e-3
"""What MSER would cut off must differ from the rest with a p-value below this, else nothing is cut:
in noise its minimum is anywhere.
"""
SHIFT_P: Final = 1e-4
"""A level that changes within what is kept is drift when its two sides differ with a p-value below
this, which allows for the choice of the split.
"""
WARMUP_SHARE: Final = 0.01
"""A beginning whose mean is off by less than this share of the signal's mean is left in."""
TREND_P: Final = 0.01
"""Two-sided error of the trend test, for each of up to four signals."""
PLAIN: Final = 10.0
"""A line that rises by more than this many standard deviations of what it leaves is no noise,
however correlated the remains are.
"""
DRIFT_SHARE: Final = 0.05
"""A change over the window below this share of the signal's mean is no drift, however significant.
"""
DRIFT_RATIO: Final = 0.02
"""The same for a ratio, in its own unit: a prefix hit ratio of 0.96 that becomes 0.94 is 1.5 times
the computed input.
"""


@dataclass(frozen=True, slots=True)
class Trend:
    """A monotone trend by Mann and Kendall.

    Attributes:
        slope: Sen's: the median change from one slice to the next.
        z: Kendall's S over its standard deviation with autocorrelation; 0 where nothing varies.
        p_value: two-sided.
    """

    slope: float
    z: float
    p_value: float


@dataclass(frozen=True, slots=True)
class SignalTest:
    """What became of one signal.

    Attributes:
        warmup_slices: to be left out at the beginning; 0 without a warm-up, and when it drifts.
        drift: it goes on changing, by more than is tolerated.
        change: over the tested stretch, as a share of the mean (for ratios: in their own unit);
            None when its mean is 0.
        p_value: of the trend.
    """

    warmup_slices: int
    drift: bool
    change: float | None
    p_value: float


@dataclass(frozen=True, slots=True)
class SteadyState:
    """What the test found.

    Attributes:
        slice_s: length of a slice.
        slices: how many there are in the tested stretch.
        warmup_slices: of the slowest signal that settles.
        signals: by name.
    """

    slice_s: float
    slices: int
    warmup_slices: int
    signals: Mapping[str, SignalTest]

    @property
    def steady(self) -> bool:
        """No signal drifts."""
        return not any(test.drift for test in self.signals.values())

    def summarized(self) -> Steady:
        """As in a summary."""
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

    Of 0 to `most`, it makes the variance of the mean of the rest, taken as independent, least.
    """
    n = len(means)
    kept = n - np.arange(most + 1)
    centred = means - np.mean(means)
    total = np.cumsum(centred[::-1])[::-1][: len(kept)]
    squares = np.cumsum((centred * centred)[::-1])[::-1][: len(kept)]
    return int(np.argmin(np.maximum(squares - total * total / kept, 0.0) / (kept * kept)))


def _back(means: Floats, cut: int) -> int:
    """The end of the warm-up that MSER has found: the first of two slices within the band of the
    rest, if most from there on are too.

    MSER's minimum often lies past it, where noise happens to make the rest look a little better.
    """
    rest = means[cut:]
    inside = np.abs(means[:cut] - np.mean(rest)) <= BAND * np.std(rest, ddof=1)
    for earlier in range(cut - 1):
        if inside[earlier] and inside[earlier + 1] and np.mean(inside[earlier:]) >= MOST:
            return earlier
    return cut


def _correlation(values: Floats) -> float:
    """Lag-1 autocorrelation, corrected for its bias (Marriott & Pope 1954), not below 0 and not
    above 0.95.
    """
    apart = values - np.mean(values)
    squares = float(np.dot(apart, apart))
    if not squares > 0:
        return 0.0
    raw = float(np.dot(apart[1:], apart[:-1])) / squares
    return min(max(raw + (1 + 4 * raw) / len(values), 0.0), 0.95)


def _p_apart(means: Floats, cut: int, *, pooled: bool = False) -> float:
    """Two-sided p-value of the difference between the first `cut` batches and the rest, by
    Student's t with an effective sample size.

    Args:
        means: of all batches.
        cut: how many are held against the others.
        pooled: their scatter and its correlation are those of both parts; else of the rest, since a
            warm-up scatters in its own way.
    """
    first, rest = means[:cut], means[cut:]
    gap = abs(float(np.mean(first) - np.mean(rest)))
    left = (
        np.concatenate([first - np.mean(first), rest - np.mean(rest)])
        if pooled
        else rest - np.mean(rest)
    )
    unknown = 2 if pooled else 1
    spread = math.sqrt(float(np.dot(left, left)) / (len(left) - unknown))
    if spread <= 1e-12 * float(np.max(np.abs(means))):
        return 0.0 if gap > 0 else 1.0
    r = _correlation(left)
    inflation = (1 + r) / (1 - r)
    t = gap / (spread * math.sqrt(inflation * (1 / len(first) + 1 / len(rest))))
    return 1 - t_within(t, max(1.0, len(left) / inflation - unknown))


def _ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values have the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count + 1) / 2)[place], dtype=np.float64)


def trend(values: Floats) -> Trend:
    """Mann's and Kendall's test with the variance of a series that is correlated.

    The correlation is that of the ranks of what Sen's slope leaves (Hamed & Rao 1998, J. Hydrol.
    204:182-196); the effective sample size follows from it as that of an autoregression of order
    one (Yue & Wang 2004, Water Resour. Manage. 18:201-218) and gives the degrees of freedom of a
    Student's t in place of the normal law, since the correlation itself is an estimate.
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
    plain = abs(slope) * n > PLAIN * float(np.std(left)) or float(np.ptp(left)) <= 1e-12 * float(
        np.max(np.abs(values))
    )
    r = 0.0 if plain else _correlation(_ranks(left))
    lags = np.arange(1, n)
    inflation = 1 + 2 * float(np.sum((1 - lags / n) * r**lags))
    z = (s - math.copysign(min(1.0, abs(s)), s)) / math.sqrt(variance * inflation)
    return Trend(slope, z, 1 - t_within(abs(z), max(1.0, n / inflation - 2)))


def examine(means: Floats, *, ratio: bool = False) -> SignalTest:
    """Warm-up and drift of one signal.

    Args:
        means: of consecutive equal slices, at least `MIN_SLICES`.
        ratio: its changes are judged in its own unit rather than as a share of its mean.
    """
    n = len(means)
    scale = 1.0 if ratio else abs(float(np.mean(means)))
    limit = DRIFT_RATIO if ratio else DRIFT_SHARE
    if float(np.ptp(means)) <= 1e-12 * float(np.max(np.abs(means))):
        return SignalTest(0, False, 0.0 if scale else None, 1.0)

    cut = _back(means, mser(means, n // 2))
    if cut and (
        _p_apart(means, cut) > CUT_P
        or abs(float(np.mean(means[:cut]) - np.mean(means[cut:]))) < WARMUP_SHARE * scale
    ):
        cut = 0
    found = trend(means[cut:])
    change = found.slope * (n - cut)
    drifts = found.p_value < TREND_P and abs(change) > limit * scale
    rest = means[cut:]
    # A shift within what is kept: the split where departures from the mean, summed up, are largest
    # (CUSUM).
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
    """Test each signal; the warm-up is that of the slowest.

    Args:
        signals: name -> means of the same consecutive slices, at least `MIN_SLICES`.
        slice_s: length of a slice.
        ratios: names of those whose changes are judged in their own unit.
    """
    tests = {name: examine(means, ratio=name in ratios) for name, means in signals.items()}
    slices = max((len(means) for means in signals.values()), default=0)
    return SteadyState(
        slice_s, slices, max((test.warmup_slices for test in tests.values()), default=0), tests
    )
