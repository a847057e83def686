"""Exact percentiles with right-censoring, and 95% confidence intervals that account for
autocorrelation within a run. docs/explanation/statistics.md has the rules, sources and
measured coverage.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.artifacts.run_summary import Distribution
from harness.reduce.statistics.student_t import t_quantile

Floats = npt.NDArray[np.float64]

QUANTILES: Final[Mapping[str, float]] = {
    "p50": 0.5,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p999": 0.999,
}
"""Percentiles in the summary."""

BATCHES: Final = 32
"""Batches per batch-means interval; more than about thirty gain little (Schmeiser 1982, Oper. Res.
30:556-568).
"""
MAX_CORRELATION: Final = 0.5
"""Above this lag-1 correlation of batch means, the run is too short for an interval."""
MIN_TAIL: Final = 3.0
"""Minimum effective samples beyond a quantile (on its rarer side): 300 in total for p99, 3,000 for
p99.9. With fewer, even the largest observed value would not bound it.
"""
_CENTRAL: Final = (0.5, 0.75, 0.9)
# A tail's correlation is also taken from these quantiles: it is estimated better there.


def percentile(
    ordered: Floats, q: float, censored: int = 0, cumulative: Floats | None = None
) -> float | None:
    """The q-quantile (0 to 1) by linear interpolation between order statistics; None if it falls
    among the censored values.

    Args:
        ordered: observed values, ascending.
        q: 0 to 1.
        censored: number of further values, known only to exceed every observed one.
        cumulative: running count, if a value represents several equal ones.
    """
    n = len(ordered) if cumulative is None or not len(cumulative) else int(cumulative[-1])
    if n == 0:
        return None
    position = (n + censored - 1) * q
    below = int(position)
    above = below if position == below else below + 1
    if above >= n:
        return None
    if cumulative is not None:
        ordered = ordered[np.searchsorted(cumulative, (below, above), side="right")]
        low, high = float(ordered[0]), float(ordered[1])
    else:
        low, high = float(ordered[below]), float(ordered[above])
    return low + (high - low) * (position - below)


def distribution(
    values: Floats,
    censored: int = 0,
    weights: Floats | None = None,
    *,
    series: Floats | None = None,
) -> Distribution:
    """Mean, percentiles and extremes.

    Args:
        values: observed values; NaN (not defined for that request) is ignored.
        censored: number of further values that were never observed.
        weights: whole numbers: how many equal values each one represents; default 1.
        series: the same values in time order, censored ones as infinity; required for intervals.
    """
    there = ~np.isnan(values)
    cumulative = None
    if weights is None or np.all(weights == 1):
        ordered = np.sort(values[there])
        n = len(ordered)
        mean = float(np.mean(ordered)) if n else None
    else:
        there &= weights > 0
        observed, counts = values[there], weights[there]
        order = np.argsort(observed)
        ordered = observed[order]
        cumulative = np.cumsum(counts[order])
        n = int(cumulative[-1]) if len(cumulative) else 0
        mean = float(np.sum(ordered * counts[order]) / n) if n else None
    if mean is not None:  # rounding must not push it past the extremes
        mean = min(max(mean, float(ordered[0])), float(ordered[-1]))
    whole = n > 0 and censored == 0
    intervals: dict[str, tuple[float, float] | None] = {}
    if series is not None:
        series = series[~np.isnan(series)]
        intervals["mean"] = mean_interval(series) if whole else None
        intervals |= quantile_intervals(series, ordered)
    return Distribution(
        mean=mean if whole else None,
        max=float(ordered[-1]) if whole else None,
        min=float(ordered[0]) if n else None,
        n=n,
        censored=censored,
        ci=intervals,
        **{name: percentile(ordered, q, censored, cumulative) for name, q in QUANTILES.items()},
    )


@dataclass(frozen=True, slots=True)
class MeanError:
    """Uncertainty of the mean of a correlated series.

    Attributes:
        variance: of the mean.
        df: degrees of freedom of that estimate.
        correlation: lag-1 autocorrelation of the batch means, corrected for bias.
    """

    variance: float
    df: float
    correlation: float

    @property
    def half_width(self) -> float:
        """Of the 95% interval."""
        return t_quantile(0.95, round(self.df, 3)) * math.sqrt(self.variance)


def lag_one(values: Floats) -> tuple[float, float]:
    """Lag-1 autocorrelation, corrected for its bias -(1 + 4r) / n (Marriott & Pope 1954, Biometrika
    41:390-402), and the sum of squared deviations; 0 and 0 where nothing varies.
    """
    apart = values - np.mean(values)
    squares = float(np.dot(apart, apart))
    if not squares > 0:
        return 0.0, 0.0
    raw = float(np.dot(apart[1:], apart[:-1])) / squares
    return raw + (1 + 4 * raw) / len(values), squares


def mean_error(means: Floats) -> MeanError | None:
    """Error of the mean of consecutive equal batches, from their means; None if nothing varies.

    The correlation of the batch means is fitted as an autoregression of order one, as in Skart
    (Tafazzoli, Wilson, Lada & Steiger 2011, INFORMS J. Comput. 23:297-314): the variance of the
    mean is s^2 / k * (1 + r) / (1 - r). That factor is corrected for its bias 1 + 2 / (k (1 - r)).
    The scatter of both estimates enters the degrees of freedom (delta method and Satterthwaite):
    2 / df = 2 / (k - 1) + 4 / (k (1 - r^2)).
    """
    k = len(means)
    r, squares = lag_one(means)
    if k < 3 or not squares > 0:
        return None
    r = min(max(r, -0.5), 0.8)
    variance = squares / (k - 1) / k * (1 + r) / (1 - r) / (1 + 2 / (k * (1 - r)))
    return MeanError(variance, 2 / (2 / (k - 1) + 4 / (k * (1 - r * r))), r)


def ratio_interval(top: Floats, bottom: Floats) -> tuple[float, float] | None:
    """95% interval of sum(top) / sum(bottom) over `BATCHES` consecutive batches; None if there are
    too few effective batches.

    It is the `mean_error` of the residuals top - ratio * bottom. A run that is too short, or has a
    trend, shows as correlated batches (above `MAX_CORRELATION`).
    """
    whole = float(np.sum(bottom))
    if not whole > 0 or np.any(np.isnan(top + bottom)):
        return None
    ratio = float(np.sum(top)) / whole
    residuals = top - ratio * bottom
    if float(np.max(np.abs(residuals))) <= 1e-12 * float(np.max(np.abs(top))):
        return None  # only the last digits vary: a synthetic series
    error = mean_error(residuals)
    if error is None or error.correlation > MAX_CORRELATION:
        return None
    half = error.half_width / (whole / BATCHES)
    return ratio - half, ratio + half


def mean_interval(series: Floats) -> tuple[float, float] | None:
    """95% interval of the mean of a series in time order; None if it is too short for its
    correlation.
    """
    size = len(series) // BATCHES
    if size < 1:
        return None
    ends = np.linspace(0, len(series), BATCHES + 1).astype(np.int64)
    return ratio_interval(np.add.reduceat(series, ends[:-1]), np.diff(ends).astype(np.float64))


def _of_clusters(error: MeanError | None, q: float) -> MeanError | None:
    """The error of a share q, with fewer degrees of freedom if few values lie beyond q: counts of
    rare events are not normal.

    A sample variance of k values scatters by 2 / (k - 1) + excess kurtosis / k. Rare values come in
    clusters. A count of clusters of exponential size has three times the excess kurtosis of a
    binomial count with as many effective values.
    """
    if error is None:
        return None
    effective = q * (1 - q) / error.variance / BATCHES
    excess = 3 * max(0.0, 1 - 6 * q * (1 - q)) / (effective * q * (1 - q))
    return MeanError(error.variance, 2 / (2 / error.df + excess / BATCHES), error.correlation)


def quantile_intervals(
    series: Floats, ordered: Floats | None = None
) -> dict[str, tuple[float, float] | None]:
    """95% intervals of `QUANTILES`; each is None with too few effective samples (`MIN_TAIL`).

    Whether values lie below a quantile is a series of zeros and ones, whose share has an error by
    batch means. The order statistics at q minus and plus that error bound the quantile (Woodruff
    1952, J. Amer. Statist. Assoc. 47:635-646; for correlated series Heidelberger & Lewis 1984,
    Oper. Res. 32:185-209). It needs no density estimate and includes censored values.

    Args:
        series: in time order; infinite values are right-censored.
        ordered: the finite values, ascending, if already sorted.
    """
    n = len(series)
    size = n // BATCHES
    if size < 2:
        return dict.fromkeys(QUANTILES)
    if ordered is None:
        ordered = np.sort(series[np.isfinite(series)])

    @cache
    def error_at(q: float) -> MeanError | None:
        at = percentile(ordered, q, n - len(ordered))
        if at is None:
            return None
        below = (series[n - size * BATCHES :] <= at).reshape(BATCHES, size)
        return _of_clusters(mean_error(np.count_nonzero(below, axis=1) / size), q)

    def effective(q: float) -> float:
        error = error_at(q)
        if error is None or error.correlation > MAX_CORRELATION:
            return 0.0
        return q * (1 - q) / error.variance

    def interval(q: float) -> tuple[float, float] | None:
        samples = min(effective(level) for level in (*_CENTRAL, q) if level <= q)
        error = error_at(q)
        if error is None or samples * min(q, 1 - q) < MIN_TAIL:
            return None
        low = math.floor((n - 1) * (q - error.half_width))
        high = math.ceil((n - 1) * (q + error.half_width))
        if low < 0 or high >= len(ordered):
            return None
        return float(ordered[low]), float(ordered[high])

    return {name: interval(q) for name, q in QUANTILES.items()}
