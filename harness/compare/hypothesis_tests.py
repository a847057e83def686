"""Welch's t-test, Holm's correction, Grubbs' outlier test, and the power of tests."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.reduce.statistics.student_t import t_beyond, t_quantile

Floats = npt.NDArray[np.float64]

ALPHA: Final = 0.05
"""Two-sided error rate of one comparison, before correction for multiple comparisons."""
GRUBBS_ALPHA: Final = 0.01
"""False-positive rate of the outlier test for normal values."""
POWER: Final = 0.9
"""Power at which an effect counts as detectable."""

_TINY: Final = 1e-300
_POINTS: Final = 21
"""Nodes of Simpson's rule over the distribution of the standard deviation: the power is exact to
1e-3.
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of two means, in the unit of the values. Without any difference between repeats,
    there is no interval, p-value or df.

    Attributes:
        half_width: of the 95% interval, statistical plus systematic term.
        p_value: two-sided, of a difference beyond the systematic term.
        error: standard error of the difference.
        df: Welch-Satterthwaite degrees of freedom.
    """

    difference: float
    half_width: float | None
    p_value: float | None
    error: float = 0.0
    df: float | None = None
    systematic: float = 0.0

    @property
    def statistical(self) -> float | None:
        """Half-width from the spread of the repeats alone."""
        return None if self.half_width is None else self.half_width - self.systematic


def variance(values: Sequence[float]) -> float:
    """Sample variance (n - 1); exactly 0 where all values are equal."""
    if len(set(values)) == 1:
        return 0.0
    middle = fmean(values)
    return math.fsum((x - middle) ** 2 for x in values) / (len(values) - 1)


def welch(a: Sequence[float], b: Sequence[float], *, systematic: float = 0.0) -> Difference:
    """The difference b - a of at least two values each, with Welch's t-interval. `systematic`
    bounds an error that repeats do not reduce: it widens the interval, and the test asks whether
    the difference exceeds it.
    """
    share_a, share_b = variance(a) / len(a), variance(b) / len(b)
    difference = fmean(b) - fmean(a)
    total = share_a + share_b
    if total <= 0:
        return Difference(difference, None, None, systematic=systematic)
    # Shares are scaled so that tiny variances do not underflow when squared.
    fraction = share_a / total
    df = max(1.0, 1 / (fraction**2 / (len(a) - 1) + (1 - fraction) ** 2 / (len(b) - 1)))
    error = math.sqrt(total)
    beyond = max(0.0, abs(difference) - systematic)
    half_width = t_quantile(1 - ALPHA, df) * error + systematic
    return Difference(
        difference, half_width, 2 * t_beyond(beyond / error, df), error, df, systematic
    )


def holm(p_values: Mapping[str, float], alpha: float = ALPHA) -> frozenset[str]:
    """Names that stay significant after correction for all of them (Holm 1979, Scand. J. Statist.
    6:65-70).
    """
    standing: set[str] = set()
    for position, (name, p_value) in enumerate(
        sorted(p_values.items(), key=lambda item: (item[1], item[0]))
    ):
        if p_value > alpha / (len(p_values) - position):
            break
        standing.add(name)
    return frozenset(standing)


@dataclass(frozen=True, slots=True)
class Design:
    """A planned one-sided t-test: an effect counts as found if its estimate exceeds a margin and
    the noise.

    The noise is estimated from the same repeats, so the threshold is itself random. It is stored as
    points with weights that add up to 1.

    Attributes:
        error: true standard error of the estimate.
        least: the threshold at each point.
    """

    error: float
    least: Floats
    weights: Floats

    def detection(self, effect: float) -> float:
        """Probability of finding a true effect of this size."""
        if self.error <= 0:
            return float(np.sum(self.weights * (effect > self.least)))
        return float(np.sum(self.weights * _normal((effect - self.least) / self.error)))

    def detectable(self, power: float = POWER) -> float:
        """Minimum detectable effect: the smallest one that is found with probability `power`."""
        if self.error <= 0:
            return float(np.max(self.least))
        low, high = 0.0, float(np.sum(self.weights * self.least)) + self.error
        while self.detection(high) < power:
            high *= 2
        while high - low > 1e-4 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self.detection(middle) < power else (low, middle)
        return high


def one_sample(
    deviation: float, n: int, alpha: float, *, margin: float = 0.0, systematic: float = 0.0
) -> Design:
    """Mean of `n` values compared with a number. `deviation` is the true standard deviation of a
    value, `alpha` the one-sided error, `margin` the least estimate that counts. The estimate also
    has to exceed `systematic` on top of the noise.
    """
    error = deviation / math.sqrt(n)
    u, weights = _chi_points(n - 1)
    return Design(
        error,
        np.maximum(margin, systematic + t_quantile(1 - 2 * alpha, n - 1) * error * u),
        weights,
    )


def two_samples(
    deviation: float,
    n_a: int,
    n_b: int,
    alpha: float,
    *,
    margin: float = 0.0,
    systematic: float = 0.0,
) -> Design:
    """Welch's test of two sides with equal true spread (`one_sample` explains the arguments). Its
    degrees of freedom follow the spreads that each side happens to show.
    """
    (u_a, w_a), (u_b, w_b) = _chi_points(n_a - 1), _chi_points(n_b - 1)
    share_a, share_b = np.meshgrid(u_a**2 / n_a, u_b**2 / n_b, indexing="ij")
    total = np.maximum(share_a + share_b, 1e-12)
    df = np.maximum(
        1.0, total**2 / np.maximum(share_a**2 / (n_a - 1) + share_b**2 / (n_b - 1), 1e-24)
    )
    known = np.geomspace(max(1, min(n_a, n_b) - 1), n_a + n_b - 2, 12)
    quantiles = np.array([t_quantile(1 - 2 * alpha, float(one)) for one in known])
    critical = np.interp(-1 / df, -1 / known, quantiles)  # smooth in 1/df
    least = np.maximum(margin, systematic + critical * deviation * np.sqrt(total))
    return Design(
        deviation * math.sqrt(1 / n_a + 1 / n_b), least.ravel(), np.outer(w_a, w_b).ravel()
    )


def _normal(x: Floats) -> Floats:
    """Normal distribution function, to 1.5e-7 (Abramowitz & Stegun 7.1.26)."""
    t = 1 / (1 + 0.3275911 / math.sqrt(2) * np.abs(x))
    series = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    tail = 0.5 * series * np.exp(-x * x / 2)
    return np.where(x > 0, 1 - tail, tail)


@lru_cache(maxsize=256)
def _chi_points(df: int) -> tuple[Floats, Floats]:
    """Points and weights of sqrt(chi-squared / df): a sample's standard deviation over the true
    one.
    """
    # Nearly all of the mass lies within six of its own standard deviations of the truth.
    spread = 6 / math.sqrt(2 * df)
    u = np.linspace(max(0.0, 1 - spread), 1 + spread, _POINTS)
    log = (
        df / 2 * math.log(df / 2)
        - math.lgamma(df / 2)
        + (df - 1) * np.log(np.maximum(u, _TINY))
        - df * u * u / 2
    )
    density = np.exp(np.where((u > 0) | (df == 1), log, -np.inf))
    simpson = np.where(np.arange(_POINTS) % 2, 4.0, 2.0)
    simpson[[0, -1]] = 1.0
    weights = simpson * density
    return u, weights / np.sum(weights)


def outlier(values: Sequence[float]) -> int | None:
    """Position of an outlier by Grubbs' two-sided test at 1% (1969, Technometrics 11:1-21), else
    None.

    Outliers are shown, not removed. Fewer than four values never have one.
    """
    n = len(values)
    deviation = math.sqrt(variance(values)) if n >= 4 else 0.0
    if deviation <= 0:
        return None
    middle = fmean(values)
    position = max(range(n), key=lambda i: abs(values[i] - middle))
    t = t_quantile(1 - GRUBBS_ALPHA / n, n - 2)
    critical = (n - 1) / math.sqrt(n) * math.sqrt(t * t / (n - 2 + t * t))
    return position if abs(values[position] - middle) / deviation > critical else None
