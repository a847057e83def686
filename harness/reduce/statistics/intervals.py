"""Exact percentiles with right-censoring, and 95 % intervals within a run that respect
autocorrelation.

docs/statistics.md has the rules in words, the formulas' sources and how often the intervals cover
the truth.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
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
"""Percentiles of a distribution, by their names in the summary."""

BATCHES: Final = 32
"""Batches of a batch-means interval; more than about thirty gain little (Schmeiser 1982, Oper. Res.
30:556-568).
"""
MAX_CORRELATION: Final = 0.5
"""Batches whose means are more correlated than this from one to the next give no interval: the run
is too short for it.
"""
MIN_TAIL: Final = 3.0
"""Least number of effective samples beyond a quantile (on its rarer side) for an interval: 300 in
all for p99, 3,000 for p99.9. With fewer even the largest value seen would not bound it.
"""
_CENTRAL: Final = (
    0.5,
    0.75,
    0.9,
)  # where the correlation of a tail's indicator is looked for as well: it is estimated better there


def percentile(ordered: Floats, q: float, censored: int = 0) -> float | None:
    """The q-quantile (0 to 1) by linear interpolation between order statistics; None when it
    reaches into the censored share.

    Args:
        ordered: observed values, ascending.
        q: 0 to 1.
        censored: how many further values are only known to be larger than any that counts.
    """
    n = len(ordered)
    if n == 0:
        return None
    position = (n + censored - 1) * q
    below = int(position)
    above = below if position == below else below + 1
    if above >= n:
        return None
    low, high = float(ordered[below]), float(ordered[above])
    return low + (high - low) * (position - below)


def _weighted_percentile(
    ordered: Floats, cumulative: Floats, q: float, total: float
) -> float | None:
    """As `percentile`, of values that each stand for several equal ones; `cumulative` counts them,
    `total` includes censored ones.
    """
    if len(ordered) == 0:
        return None
    position = (total - 1) * q
    below = int(position)
    above = below if position == below else below + 1
    if above >= cumulative[-1]:
        return None
    low = float(ordered[np.searchsorted(cumulative, below, side="right")])
    high = float(ordered[np.searchsorted(cumulative, above, side="right")])
    return low + (high - low) * (position - below)


def distribution(
    values: Floats,
    censored: int = 0,
    weights: Floats | None = None,
    *,
    series: Floats | None = None,
) -> Distribution:
    """Mean, percentiles, extremes of values.

    Args:
        values: observed values; NaN ones are left out (they do not exist for that request).
        censored: further values that never came to be observed.
        weights: whole numbers: how many equal values each one stands for; default 1.
        series: the same values in order of time, with censored ones as infinity, where intervals
            are wanted.
    """
    if weights is not None and np.all(weights == 1):
        weights = None
    there = ~np.isnan(values)
    quantiles: dict[str, float | None]
    if weights is None:
        ordered = np.sort(values[there])
        n = len(ordered)
        quantiles = {name: percentile(ordered, q, censored) for name, q in QUANTILES.items()}
        mean = float(np.mean(ordered)) if n else None
    else:
        there &= weights > 0
        observed, counts = values[there], weights[there]
        order = np.argsort(observed)
        ordered = observed[order]
        cumulative = np.cumsum(counts[order])
        n = int(cumulative[-1]) if len(cumulative) else 0
        quantiles = {
            name: _weighted_percentile(ordered, cumulative, q, n + censored)
            for name, q in QUANTILES.items()
        }
        mean = float(np.sum(ordered * counts[order]) / n) if n else None
    if mean is not None:  # rounding of the sum must not push it past the extremes
        mean = min(max(mean, float(ordered[0])), float(ordered[-1]))
    whole = n > 0 and censored == 0
    intervals: dict[str, tuple[float, float] | None] = {}
    if series is not None:
        series = series[~np.isnan(series)]
        intervals = {
            "mean": mean_interval(series) if whole else None,
            **quantile_intervals(series, ordered),
        }
    return Distribution(
        mean=mean if whole else None,
        max=float(ordered[-1]) if whole else None,
        min=float(ordered[0]) if n else None,
        n=n,
        censored=censored,
        ci=intervals,
        **quantiles,
    )


def batch_edges(start: float, end: float, batches: int) -> Floats:
    """Edges of equal batches of a window."""
    return np.linspace(start, end, batches + 1)


@dataclass(frozen=True, slots=True)
class MeanError:
    """How far the mean of a correlated series may be off.

    Attributes:
        variance: of the mean.
        df: degrees of freedom of that estimate.
        correlation: of one batch's mean with the next one's, corrected for bias.
    """

    variance: float
    df: float
    correlation: float

    @property
    def half_width(self) -> float:
        """Of the 95 % interval."""
        return t_quantile(0.95, round(self.df, 3)) * math.sqrt(self.variance)


def mean_error(means: Floats) -> MeanError | None:
    """Error of the mean of consecutive equal batches, from their means; None when nothing varies.

    Batch means whose correlation is not taken to be zero but fitted as an autoregression of order
    one, as Skart does (Tafazzoli, Wilson, Lada & Steiger 2011, INFORMS J. Comput. 23:297-314): the
    variance of the mean is s^2 / k * (1 + r) / (1 - r). The estimate of r is corrected for its bias
    -(1 + 4r) / k (Marriott & Pope 1954, Biometrika 41:390-402), the factor for its bias 1 + 2 / (k
    (1 - r)), and both estimates' scatter goes into the degrees of freedom (delta method and
    Satterthwaite): 2 / df = 2 / (k - 1) + 4 / (k (1 - r^2)).
    """
    k = len(means)
    apart = means - np.mean(means)
    squares = float(np.dot(apart, apart))
    if k < 3 or not squares > 0:
        return None
    raw = float(np.dot(apart[1:], apart[:-1])) / squares
    r = min(max(raw + (1 + 4 * raw) / k, -0.5), 0.8)
    variance = squares / (k - 1) / k * (1 + r) / (1 - r) / (1 + 2 / (k * (1 - r)))
    return MeanError(variance, 2 / (2 / (k - 1) + 4 / (k * (1 - r * r))), r)


def ratio_interval(top: Floats, bottom: Floats) -> tuple[float, float] | None:
    """95 % interval of sum(top) / sum(bottom) over `BATCHES` consecutive batches, or None when
    there are too few effective ones.

    The batches' residuals top - ratio * bottom go through `mean_error`. Too short a run shows as
    batches that are correlated (above `MAX_CORRELATION`), and so does a trend.
    """
    whole = float(np.sum(bottom))
    if not whole > 0 or np.any(np.isnan(top)) or np.any(np.isnan(bottom)):
        return None
    ratio = float(np.sum(top)) / whole
    residuals = top - ratio * bottom
    if float(np.max(np.abs(residuals))) <= 1e-12 * float(np.max(np.abs(top))):
        # nothing varies but the last digits: a made-up series; no interval follows from it
        return None
    error = mean_error(residuals)
    if error is None or error.correlation > MAX_CORRELATION:
        return None
    half = error.half_width / (whole / BATCHES)
    return ratio - half, ratio + half


def mean_interval(series: Floats) -> tuple[float, float] | None:
    """95 % interval of the mean of a series in order of time, or None when it is too short for its
    correlation.
    """
    size = len(series) // BATCHES
    if size < 1:
        return None
    ends = np.linspace(0, len(series), BATCHES + 1).astype(np.int64)
    return ratio_interval(np.add.reduceat(series, ends[:-1]), np.diff(ends).astype(np.float64))


def _of_clusters(error: MeanError | None, q: float) -> MeanError | None:
    """The error of a share q with fewer degrees of freedom where few values lie beyond q: counts of
    something rare are no normal numbers.

    A sample variance of k values scatters by 2 / (k - 1) + excess kurtosis / k. Excesses come in
    clusters; a count of clusters of exponential size has three times the excess kurtosis of a
    binomial one with as many effective values.
    """
    if error is None:
        return None
    effective = q * (1 - q) / error.variance / BATCHES
    excess = 3 * max(0.0, 1 - 6 * q * (1 - q)) / (effective * q * (1 - q))
    return MeanError(error.variance, 2 / (2 / error.df + excess / BATCHES), error.correlation)


def quantile_intervals(
    series: Floats, ordered: Floats | None = None
) -> dict[str, tuple[float, float] | None]:
    """95 % intervals of `QUANTILES`, each None when there are too few effective samples for it.

    A quantile q is the x at which a share q of all values lies below x. Whether values lie below is
    a series of zeros and ones, whose share has an error by batch means; the order statistics at q
    minus and plus that error bound the quantile (Woodruff 1952, J. Amer. Statist. Assoc.
    47:635-646; for correlated series Heidelberger & Lewis 1984, Oper. Res. 32:185-209). No density
    is estimated, and values that are only known to be large take part. `MIN_TAIL` says how much is
    too few.

    Args:
        series: values in order of time; infinite ones are right-censored.
        ordered: the finite ones, ascending, where they are at hand.
    """
    n = len(series)
    none: dict[str, tuple[float, float] | None] = dict.fromkeys(QUANTILES)
    size = n // BATCHES
    if size < 2:
        return none
    if ordered is None:
        ordered = np.sort(series[np.isfinite(series)])
    errors: dict[float, MeanError | None] = {}

    def error_at(q: float) -> MeanError | None:
        if q not in errors:
            at = percentile(ordered, q, n - len(ordered))
            if at is None:
                errors[q] = None
            else:
                below = (series[n - size * BATCHES :] <= at).reshape(BATCHES, size)
                errors[q] = _of_clusters(mean_error(np.count_nonzero(below, axis=1) / size), q)
        return errors[q]

    def effective(q: float) -> float:
        error = error_at(q)
        return (
            q * (1 - q) / error.variance
            if error is not None and error.correlation <= MAX_CORRELATION
            else 0.0
        )

    def interval(q: float) -> tuple[float, float] | None:
        samples = min(effective(level) for level in (*(c for c in _CENTRAL if c < q), q))
        error = error_at(q)
        if error is None or samples * min(q, 1 - q) < MIN_TAIL:
            return None
        low, high = (
            math.floor((n - 1) * (q - error.half_width)),
            math.ceil((n - 1) * (q + error.half_width)),
        )
        return (
            (float(ordered[low]), float(ordered[high]))
            if low >= 0 and high < len(ordered)
            else None
        )

    return {name: interval(q) for name, q in QUANTILES.items()}
